package middleware_test

import (
	"cmp"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// shelves are a table of the user's own with versions in it.
type shelves struct {
	*lines

	cfg middleware.VersionSkipConfig
}

func setupShelves(t *testing.T, b *bundle, columns map[string]string) *shelves {
	t.Helper()
	_, err := b.db.ExecContext(t.Context(), "CREATE TABLE shelves (id VARCHAR(40) PRIMARY KEY, due VARCHAR(40), quantity INT, "+
		"version BIGINT, due_version INT, revision VARCHAR(40), price NUMERIC(9, 2))")
	require.NoError(t, err)
	l := setupLines(t, b)
	groups := lineStates()
	if columns[""] != "" {
		groups = middleware.StateOf(keys.OfType("line", keys.FromJSON("id")), middleware.VersionFromJSON("version"), nil)
	}
	return &shelves{l, middleware.VersionSkipConfig{
		States: func(msg *message.Message) ([]middleware.State, error) {
			states, err := groups(msg)
			if err == nil && strings.Contains(string(msg.Payload), "gone") {
				states[0].Deleted = true
			}
			return states, err
		},
		Columns: []store.VersionColumns{{Type: "line", Table: "shelves", ID: "id", Columns: columns}},
	}}
}

// handler writes rows, and their version too if it is to.
func (s *shelves) handler(t *testing.T, versions bool) message.HandlerFunc {
	t.Helper()
	skip, err := middleware.NewVersionSkip(s.st, s.cfg)
	require.NoError(t, err)
	return s.dedupe.Middleware(skip.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		var change struct {
			lineChanged

			Gone bool `json:"gone"`
		}
		if err := json.Unmarshal(msg.Payload, &change); err != nil {
			return nil, err
		}
		fresh := middleware.Fresh(msg.Context())[0]
		return nil, s.st.InTx(msg.Context(), func(ctx context.Context, tx store.Tx) error {
			var n int
			err := tx.GetContext(ctx, &n, "SELECT count(*) FROM shelves WHERE id = ?", change.ID)
			switch {
			case err != nil:
			case change.Gone:
				_, err = tx.ExecContext(ctx, "DELETE FROM shelves WHERE id = ?", change.ID)
				return err
			case n == 0:
				_, err = tx.ExecContext(ctx, "INSERT INTO shelves (id) VALUES (?)", change.ID)
			}
			if err == nil && change.Due != nil && fresh.Has("due") {
				_, err = tx.ExecContext(ctx, "UPDATE shelves SET due = ? WHERE id = ?", *change.Due, change.ID)
			}
			if err == nil && change.Quantity != nil && fresh.Has("quantity") {
				_, err = tx.ExecContext(ctx, "UPDATE shelves SET quantity = ? WHERE id = ?", *change.Quantity, change.ID)
			}
			if err == nil && versions {
				_, err = tx.ExecContext(ctx, "UPDATE shelves SET version = ? WHERE id = ?", change.Version, change.ID)
			}
			return err
		})
	}))
}

func (s *shelves) exec(t *testing.T, statement string) {
	t.Helper()
	_, err := s.db.ExecContext(t.Context(), statement)
	require.NoError(t, err)
}

// text is a query's one value; "none" for no row or NULL.
func (s *shelves) text(t *testing.T, query string) string {
	t.Helper()
	rows, err := s.db.QueryContext(t.Context(), query)
	require.NoError(t, err)
	defer func() { require.NoError(t, rows.Close()) }()
	var value *string
	if rows.Next() {
		require.NoError(t, rows.Scan(&value))
	}
	require.NoError(t, rows.Err())
	if value == nil {
		return "none"
	}
	return *value
}

func (s *shelves) due(t *testing.T) string {
	return s.text(t, "SELECT due FROM shelves WHERE id = '1'")
}

var wholeInColumn = map[string]string{"": "version"}

func TestVersionsInTheUsersOwnColumnCount(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		s := setupShelves(t, b, wholeInColumn)
		h := s.handler(t, false)
		s.exec(t, "INSERT INTO shelves (id, due, version) VALUES ('1', 'June', 5), ('2', 'never', NULL)")
		deliver(t, h, changed("1", 4, `"due":"May"`))
		require.Equal(t, "June", s.due(t), "it was there before anything came")
		deliver(t, h, changed("1", 6, `"due":"July"`), changed("1", 5, `"due":"June"`), changed("2", 1, `"due":"May"`),
			changed("3", 2, `"due":"May"`), changed("3", 1, `"due":"April"`))
		require.Equal(t, "July", s.due(t))
		require.Equal(t, "6", s.text(t, "SELECT version FROM shelves WHERE id = '1'"))
		require.Equal(t, "1", s.text(t, "SELECT version FROM shelves WHERE id = '2'"))
		require.Equal(t, "2", s.text(t, "SELECT version FROM shelves WHERE id = '3'"), "the handler has made it")
		s.exec(t, "UPDATE shelves SET version = 9 WHERE id = '1'")
		deliver(t, h, changed("1", 8, `"due":"August"`))
		require.Equal(t, "July", s.due(t), "what others write counts")
		require.Equal(t, "0", s.text(t, "SELECT count(*) FROM headrace_versions"))
		deliver(t, s.handler(t, true), changed("1", 10, `"due":"August"`))
		require.Equal(t, "0", s.text(t, "SELECT count(*) FROM headrace_versions"), "the handler may write it itself")
	})
}

func TestATombstoneIsKeptWhereThereIsNoRow(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		s := setupShelves(t, b, wholeInColumn)
		h := s.handler(t, false)
		deliver(t, h, changed("1", 3, `"due":"June"`), changed("1", 5, `"gone":true`), changed("1", 4, `"due":"May"`),
			changed("1", 5, `"due":"May"`))
		require.Equal(t, "none", s.due(t))
		deliver(t, h, changed("1", 6, `"due":"July"`), changed("1", 5, `"gone":true`), changed("1", 5, `"due":"May"`))
		require.Equal(t, "July", s.due(t), "a newer one revives it")
		s.exec(t, "DELETE FROM shelves")
		deliver(t, h, changed("1", 5, `"due":"May"`))
		require.Equal(t, "none", s.due(t), "what the row had is known still")
	})
}

func TestGroupsMayHaveColumns(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		s := setupShelves(t, b, map[string]string{"due": "due_version"})
		s.exec(t, "INSERT INTO shelves (id, due, due_version) VALUES ('1', 'June', 5)")
		deliver(t, s.handler(t, false), changed("1", 4, `"due":"May","quantity":4`), changed("1", 3, `"quantity":3`))
		require.Equal(t, "June", s.due(t))
		require.Equal(t, "4", s.text(t, "SELECT quantity FROM shelves WHERE id = '1'"))
		require.Equal(t, []string{"quantity=i4"}, versionsOf(t, b, "stock.add", "1"))
		deliver(t, s.handler(t, false), changed("1", 6, `"due":"July"`))
		require.Equal(t, "6", s.text(t, "SELECT due_version FROM shelves WHERE id = '1'"))
	})
}

func versionsOf(t *testing.T, b *bundle, consumer, line string) (all []string) {
	t.Helper()
	rows, err := b.st.VersionsOf(t.Context(), consumer, store.Entity{Type: "line", ID: line})
	require.NoError(t, err)
	for _, row := range rows {
		all = append(all, row.Group+"="+row.Version)
	}
	return all
}

func TestColumnsMayHoldText(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		s := setupShelves(t, b, map[string]string{"": "revision"})
		revision := func(msg *message.Message) (middleware.Version, error) {
			var change struct{ Version string }
			err := json.Unmarshal(msg.Payload, &change)
			return middleware.TextVersion(change.Version), err
		}
		s.cfg.States = middleware.StateOf(keys.OfType("line", keys.FromJSON("id")), revision, nil)
		s.cfg.Compare = func(a, b string) (int, error) {
			x, err := strconv.Atoi(strings.TrimPrefix(a, "rev-"))
			if err != nil {
				return 0, err
			}
			y, err := strconv.Atoi(strings.TrimPrefix(b, "rev-"))
			return cmp.Compare(x, y), err
		}
		s.exec(t, "INSERT INTO shelves (id, due, revision) VALUES ('1', 'June', '')")
		h := s.handler(t, false)
		deliver(t, h, changed("1", "rev-9", `"due":"July"`), changed("1", "rev-10", `"due":"August"`),
			changed("1", "rev-9", `"due":"June"`))
		require.Equal(t, "August", s.due(t))
		require.Equal(t, "rev-10", s.text(t, "SELECT revision FROM shelves WHERE id = '1'"))
	})
}

func TestAColumnThatCantBeComparedOverwritesNothing(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		s := setupShelves(t, b, map[string]string{"": "revision"})
		s.exec(t, "INSERT INTO shelves (id, due, revision, price) VALUES ('1', 'June', 'first', 1.5)")
		h := s.handler(t, false)
		_, err := h(changed("1", 7, `"due":"July"`))
		require.ErrorIs(t, err, middleware.ErrVersion)
		require.ErrorContains(t, err, `"7" and "first" are of different kinds`)
		require.Equal(t, parking.Permanent, parking.Classify(err))
		s.cfg.Columns[0].Columns = map[string]string{"": "price"}
		_, err = s.handler(t, false)(changed("1", 7, `"due":"July"`))
		require.Error(t, err)
		require.Equal(t, parking.Permanent, parking.Classify(err))
		for _, id := range []string{"\xff", "a\x00"} {
			s.cfg.States = func(*message.Message) ([]middleware.State, error) {
				return []middleware.State{{Entity: keys.Entity{Type: "line", ID: id}, Version: middleware.IntVersion(7)}}, nil
			}
			_, err = s.handler(t, false)(changed("1", 7, `"due":"July"`))
			require.ErrorIs(t, err, store.ErrVersionColumn)
			require.Equal(t, parking.Permanent, parking.Classify(err))
		}
		require.Equal(t, "June", s.due(t))
	})
}

func TestObservingLooksAtNoColumn(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		s := setupShelves(t, b, wholeInColumn)
		s.cfg.Observe = true
		deliver(t, s.handler(t, true), changed("1", 5, `"due":"June"`), changed("1", 4, `"due":"May"`))
		require.Equal(t, "May", s.due(t))
		require.Equal(t, "4", s.text(t, "SELECT version FROM shelves WHERE id = '1'"))
		s.cfg.Observe = false
		deliver(t, s.handler(t, true), changed("1", 4, `"due":"April"`))
		require.Equal(t, "May", s.due(t), "what was observed counts")
	})
}

func TestColumnsThatCantBeAreRefused(t *testing.T) {
	t.Parallel()
	good := store.VersionColumns{Type: "line", Table: "shop.\"order lines\"", ID: "`id`", Columns: map[string]string{"": "v"}}
	require.NoError(t, good.Validate())
	for want, change := range map[string]func(c *store.VersionColumns){
		"Type is required":                func(c *store.VersionColumns) { c.Type = "" },
		"needs Columns":                   func(c *store.VersionColumns) { c.Columns = nil },
		`"" is no name`:                   func(c *store.VersionColumns) { c.Table = "" },
		`"id = 1 OR id" is no name`:       func(c *store.VersionColumns) { c.ID = "id = 1 OR id" },
		`"version; --" is no name`:        func(c *store.VersionColumns) { c.Columns = map[string]string{"": "version; --"} },
		`"\"a\"b\"" is no name`:           func(c *store.VersionColumns) { c.Table = `"a"b"` },
		`"lines\n" is no name of a table`: func(c *store.VersionColumns) { c.Table = "lines\n" },
	} {
		bad := good
		change(&bad)
		require.ErrorContains(t, bad.Validate(), want)
	}
}

func TestATypeOfEntitiesIsInOneTable(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		line := store.VersionColumns{Type: "line", Table: "shelves", ID: "id", Columns: wholeInColumn}
		_, err := middleware.NewVersionSkip(b.st, middleware.VersionSkipConfig{
			States: lineStates(), Columns: []store.VersionColumns{line, line},
		})
		require.ErrorContains(t, err, `Columns has "line" twice`)
	})
}

func TestIDsMayBeIntegers(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		s := setupShelves(t, b, wholeInColumn)
		s.exec(t, "CREATE TABLE numbered (id BIGINT PRIMARY KEY, version SMALLINT)")
		s.exec(t, "INSERT INTO numbered (id, version) VALUES (7, 5)")
		s.cfg.Columns[0].Table = "numbered"
		skip, err := middleware.NewVersionSkip(s.st, s.cfg)
		require.NoError(t, err)
		h := s.dedupe.Middleware(skip.Middleware(func(*message.Message) ([]*message.Message, error) { return nil, nil }))
		deliver(t, h, changed("7", 4, `"due":"May"`), changed("7", 6, `"due":"July"`))
		require.Equal(t, "6", s.text(t, "SELECT version FROM numbered WHERE id = 7"))
		require.Equal(t, "0", s.text(t, "SELECT count(*) FROM headrace_versions"))
	})
}
