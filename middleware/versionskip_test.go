package middleware_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// lines are order lines with a date and a quantity, which messages carry.
type lines struct {
	*bundle

	dedupe *middleware.Dedupe
	told   told
	calls  atomic.Int64
}

func setupLines(t *testing.T, b *bundle) *lines {
	t.Helper()
	_, err := b.db.ExecContext(t.Context(),
		"CREATE TABLE order_lines (id VARCHAR(40) PRIMARY KEY, due VARCHAR(40), quantity INT)")
	require.NoError(t, err)
	l := &lines{bundle: b}
	l.dedupe, err = middleware.NewDedupe(b.st, middleware.DedupeConfig{Consumer: "stock.add", Hooks: []any{&l.told}})
	require.NoError(t, err)
	return l
}

func lineStates() middleware.StatesFunc {
	return middleware.StateOf(keys.OfType("line", keys.FromJSON("id")), middleware.VersionFromJSON("version"),
		middleware.GroupsFromJSON(
			middleware.FieldGroup{Name: "due", Fields: []string{"due"}, Null: middleware.NullIsAbsent},
			middleware.FieldGroup{Name: "quantity", Fields: []string{"quantity"}, Null: middleware.NullIsAbsent},
		))
}

func (l *lines) protected(t *testing.T, cfg middleware.VersionSkipConfig) message.HandlerFunc {
	t.Helper()
	if cfg.States == nil {
		cfg.States = lineStates()
	}
	skip, err := middleware.NewVersionSkip(l.st, cfg)
	require.NoError(t, err)
	return l.dedupe.Middleware(skip.Middleware(l.write))
}

var errUnwritten = errors.New("the handler has failed")

type lineChanged struct {
	ID       string  `json:"id"`
	Version  any     `json:"version"`
	Due      *string `json:"due"`
	Quantity *int    `json:"quantity"`
}

// write writes the groups that are fresh, or all that is there without a guard.
func (l *lines) write(msg *message.Message) ([]*message.Message, error) {
	ctx := msg.Context()
	var change lineChanged
	if err := json.Unmarshal(msg.Payload, &change); err != nil {
		return nil, err
	}
	l.calls.Add(1)
	fresh := middleware.Fresh(ctx)
	has := func(group string) bool { return len(fresh) == 0 || fresh[0].Has(group) }
	return nil, l.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		var n int
		err := tx.GetContext(ctx, &n, "SELECT count(*) FROM order_lines WHERE id = ?", change.ID)
		if err == nil && n == 0 {
			_, err = tx.ExecContext(ctx, "INSERT INTO order_lines (id) VALUES (?)", change.ID)
		}
		if err == nil && change.Due != nil && has("due") {
			_, err = tx.ExecContext(ctx, "UPDATE order_lines SET due = ? WHERE id = ?", *change.Due, change.ID)
		}
		if err == nil && change.Quantity != nil && has("quantity") {
			_, err = tx.ExecContext(ctx, "UPDATE order_lines SET quantity = ? WHERE id = ?", *change.Quantity, change.ID)
		}
		return err
	})
}

func (l *lines) line(t *testing.T, id string) string {
	t.Helper()
	var due *string
	var quantity *int
	rows, err := l.db.QueryContext(t.Context(), "SELECT due, quantity FROM order_lines WHERE id = '"+id+"'")
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	if !rows.Next() {
		require.NoError(t, rows.Err())
		return "none"
	}
	require.NoError(t, rows.Scan(&due, &quantity))
	text := "-"
	if due != nil {
		text = *due
	}
	if quantity != nil {
		text += fmt.Sprintf(" %d", *quantity)
	}
	return text
}

func changed(id string, version any, fields string) *message.Message {
	text, err := json.Marshal(version)
	if err != nil {
		panic(err)
	}
	return message.NewMessage(watermill.NewUUID(), fmt.Appendf(nil, `{"id":%q,"version":%s,%s}`, id, text, fields))
}

func deliver(t *testing.T, h message.HandlerFunc, msgs ...*message.Message) {
	t.Helper()
	for _, msg := range msgs {
		_, err := h(msg)
		require.NoError(t, err, string(msg.Payload))
	}
}

func TestS22_StaleIsSkippedEqualAndNewerAreApplied(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		h := l.protected(t, middleware.VersionSkipConfig{})
		stale := changed("1", 4, `"due":"May"`)
		deliver(t, h, changed("1", 5, `"due":"June"`), stale, changed("2", 1, `"due":"July"`))
		require.Equal(t, "June", l.line(t, "1"))
		require.Equal(t, "July", l.line(t, "2"), "each entity counts for itself")
		require.EqualValues(t, 2, l.calls.Load())
		deliver(t, h, changed("1", 5, `"due":"June 5th"`), changed("1", 6, `"due":"August"`), changed("1", 5, `"due":"June"`))
		require.Equal(t, "August", l.line(t, "1"))
		require.Equal(t, []store.Verdict{
			store.Applied, store.Stale, store.Applied, store.Applied, store.Applied, store.Stale,
		}, l.told.verdicts())

		story := l.story(t, stale.UUID)
		require.Equal(t, store.Stale, story.Row.Verdict)
		require.Equal(t, "line/1 (due): 4 is older than 5", story.Row.Reason)
	})
}

func TestS22_EqualIsSkippedWhereThatIsWanted(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		h := l.protected(t, middleware.VersionSkipConfig{SkipEqual: true})
		deliver(t, h, changed("1", 5, `"due":"June"`), changed("1", 5, `"due":"July"`), changed("1", 5, `"quantity":1`))
		require.Equal(t, "June 1", l.line(t, "1"))
	})
}

func TestS22_ADeleteIsNotRevivedByALateUpdate(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		groups := lineStates()
		states := func(msg *message.Message) ([]middleware.State, error) {
			all, err := groups(msg)
			if err == nil && strings.Contains(string(msg.Payload), "deleted") {
				all[0].Deleted = true
			}
			return all, err
		}
		h := l.protected(t, middleware.VersionSkipConfig{States: states})
		const gone = `"deleted":true`
		deliver(t, h, changed("1", 3, `"due":"June"`), changed("1", 5, gone), changed("1", 4, `"due":"May"`),
			changed("1", 5, `"quantity":4`), changed("1", 5, gone))
		require.Equal(t, []store.Verdict{
			store.Applied, store.Applied, store.Stale, store.Stale, store.Applied,
		}, l.told.verdicts())
		deliver(t, h, changed("1", 6, `"quantity":6`), changed("1", 5, gone), changed("1", 5, `"due":"May"`))
		require.Equal(t, []store.Verdict{store.Applied, store.Stale, store.Applied}, l.told.verdicts()[5:],
			"a newer one revives it, and what was deleted before stays so")
	})
}

func TestS21_EachGroupOfFieldsHasItsOwnVersion(t *testing.T) {
	t.Parallel()
	date, quantity := changed("1", 1, `"due":"June","quantity":null`), changed("1", 2, `"due":null,"quantity":7`)
	for name, order := range map[string][]*message.Message{"in order": {date, quantity}, "reversed": {quantity, date}} {
		t.Run(name, func(t *testing.T) {
			eachDatabase(t, func(t *testing.T, b *bundle) {
				l := setupLines(t, b)
				for _, msg := range order {
					deliver(t, l.protected(t, middleware.VersionSkipConfig{}), msg.Copy())
				}
				require.Equal(t, "June 7", l.line(t, "1"))
			})
		})
	}
}

func TestS21_WithoutGroupsOneChangeIsLost(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		h := l.protected(t, middleware.VersionSkipConfig{States: middleware.StateOf(
			keys.OfType("line", keys.FromJSON("id")), middleware.VersionFromJSON("version"), nil)})
		deliver(t, h, changed("1", 2, `"quantity":7`), changed("1", 1, `"due":"June"`))
		require.Equal(t, "- 7", l.line(t, "1"))
	})
}

func TestAMessageThatCarriesAStaleAndAFreshGroupIsAppliedInPart(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		h := l.protected(t, middleware.VersionSkipConfig{})
		part := changed("1", 4, `"due":"May","quantity":4`)
		deliver(t, h, changed("1", 5, `"due":"June"`), part)
		require.Equal(t, "June 4", l.line(t, "1"))
		story := l.story(t, part.UUID)
		require.Equal(t, store.Applied, story.Row.Verdict)
		require.EqualValues(t, 1, story.Entries, "the group that was skipped is in the log")
	})
}

func TestS14_ALateCopyAfterThePurgeIsStale(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		h := l.protected(t, middleware.VersionSkipConfig{})
		late := changed("1", 1, `"due":"May"`)
		deliver(t, h, late, changed("1", 2, `"due":"June"`))
		_, err := b.db.ExecContext(t.Context(), "DELETE FROM headrace_inbox")
		require.NoError(t, err)
		deliver(t, h, late.Copy())
		require.Equal(t, "June", l.line(t, "1"))
		deliver(t, l.dedupe.Middleware(l.write), changed("1", 1, `"due":"May"`))
		require.Equal(t, "May", l.line(t, "1"), "which the guard has kept off")
	})
}

// While one handler works on an entity, another message about it waits, and is judged by
// what that has left.
func TestMessagesAboutOneEntityAreHandledOneAfterTheOther(t *testing.T) {
	t.Parallel()
	for first, second := range map[int]int{1: 2, 2: 1} {
		t.Run(fmt.Sprintf("%d first", first), func(t *testing.T) {
			eachDatabase(t, func(t *testing.T, b *bundle) {
				l := setupLines(t, b)
				l.dedupe = b.dedupe(t)
				skip, err := middleware.NewVersionSkip(b.st, middleware.VersionSkipConfig{States: lineStates()})
				require.NoError(t, err)
				inside, goOn := make(chan struct{}), make(chan struct{})
				slow := l.dedupe.Middleware(skip.Middleware(func(msg *message.Message) ([]*message.Message, error) {
					close(inside)
					<-goOn
					return l.write(msg)
				}))
				ended := make(chan error, 1)
				go func() {
					_, err := slow(changed("1", first, fmt.Sprintf(`"due":"day %d"`, first)))
					ended <- err
				}()
				<-inside
				other := make(chan error, 1)
				go func() {
					_, err := l.protectedOnce(skip)(changed("1", second, fmt.Sprintf(`"due":"day %d"`, second)))
					other <- err
				}()
				close(goOn)
				require.NoError(t, <-ended)
				require.NoError(t, <-other)
				require.Equal(t, "day 2", l.line(t, "1"))
			})
		})
	}
}

func (l *lines) protectedOnce(skip *middleware.VersionSkip) message.HandlerFunc {
	return l.dedupe.Middleware(skip.Middleware(l.write))
}

func TestAVersionIsTakenWithTheHandlersCommitOnly(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		skip, err := middleware.NewVersionSkip(b.st, middleware.VersionSkipConfig{States: lineStates()})
		require.NoError(t, err)
		broken := l.dedupe.Middleware(skip.Middleware(func(msg *message.Message) ([]*message.Message, error) {
			_, _ = l.write(msg)
			return nil, errUnwritten
		}))
		msg := changed("1", 5, `"due":"June"`)
		_, err = broken(msg)
		require.ErrorIs(t, err, errUnwritten)
		deliver(t, l.protectedOnce(skip), changed("1", 4, `"due":"May"`))
		require.Equal(t, "May", l.line(t, "1"), "5 has not happened")
	})
}

func TestABatchIsJudgedByItsEntities(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		var batch []middleware.State
		var fresh []string
		skip, err := middleware.NewVersionSkip(b.st, middleware.VersionSkipConfig{
			States: func(*message.Message) ([]middleware.State, error) { return batch, nil },
		})
		require.NoError(t, err)
		h := l.dedupe.Middleware(skip.Middleware(func(msg *message.Message) ([]*message.Message, error) {
			fresh = nil
			for _, state := range middleware.Fresh(msg.Context()) {
				fresh = append(fresh, fmt.Sprintf("%s=%s", state.Entity.ID, state.Version))
			}
			return nil, nil
		}))
		state := func(id string, version int64) middleware.State {
			return middleware.State{Entity: keys.Entity{Type: "line", ID: id}, Version: middleware.IntVersion(version)}
		}
		batch = []middleware.State{state("c", 3), state("a", 3), state("b", 3), state("a", 2), state("a", 4)}
		mixed := message.NewMessage("mixed", nil)
		deliver(t, h, mixed)
		require.Equal(t, []string{"c=3", "a=3", "b=3", "a=4"}, fresh)
		require.EqualValues(t, 1, l.story(t, "mixed").Entries)
		batch = []middleware.State{state("b", 2), state("c", 1)}
		deliver(t, h, message.NewMessage("old", nil))
		require.Equal(t, store.Stale, l.story(t, "old").Row.Verdict)
		require.Equal(t, "line/b: 2 is older than 3; line/c: 1 is older than 3", l.story(t, "old").Row.Reason)
		batch = nil
		deliver(t, h, message.NewMessage("nothing", nil))
		require.Empty(t, fresh)
	})
}

func TestVersionSkipWorksWithoutDedupe(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		var hook told
		skip, err := middleware.NewVersionSkip(b.st, middleware.VersionSkipConfig{
			States: lineStates(), Consumer: "stock.add", Hooks: []any{&hook},
		})
		require.NoError(t, err)
		h := skip.Middleware(l.write)
		late := changed("1", 1, `"due":"May"`)
		deliver(t, h, changed("1", 2, `"due":"June"`), late)
		require.Equal(t, "June", l.line(t, "1"))
		require.Equal(t, []store.Verdict{store.Stale}, hook.verdicts())
		nobody, err := middleware.NewVersionSkip(b.st, middleware.VersionSkipConfig{States: lineStates()})
		require.NoError(t, err)
		_, err = nobody.Middleware(l.write)(late)
		require.ErrorContains(t, err, "VersionSkip knows no consumer: put it inside of Dedupe")
	})
}

func TestVersionSkipObserves(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		late := changed("1", 1, `"due":"May"`)
		observing, err := middleware.NewVersionSkip(b.st, middleware.VersionSkipConfig{States: lineStates(), Observe: true})
		require.NoError(t, err)
		deliver(t, l.dedupe.Middleware(observing.Middleware(func(msg *message.Message) ([]*message.Message, error) {
			require.True(t, middleware.Fresh(msg.Context())[0].Has("due"), "all is fresh")
			return l.write(msg)
		})), changed("1", 2, `"due":"June"`), late)
		require.Equal(t, "May", l.line(t, "1"))
		require.EqualValues(t, 1, l.story(t, late.UUID).Entries)
		deliver(t, l.protected(t, middleware.VersionSkipConfig{}), changed("1", 1, `"due":"April"`))
		require.Equal(t, "May", l.line(t, "1"), "what was observed counts")
	})
}
