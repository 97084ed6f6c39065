package middleware_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// told keeps what Dedupe tells its hooks.
type told []middleware.Verdict

func (v *told) OnVerdict(verdict middleware.Verdict) { *v = append(*v, verdict) }

func (v *told) verdicts() (all []store.Verdict) {
	for _, verdict := range *v {
		all = append(all, verdict.Verdict)
	}
	return all
}

func (b *bundle) story(t *testing.T, id string) store.Story {
	t.Helper()
	stories, err := b.st.Stories(t.Context(), id, "stock.add")
	require.NoError(t, err)
	require.Len(t, stories, 1)
	return stories[0]
}

// expiring is a message whose time to live ends at a time relative to now.
func expiring(id string, in time.Duration) *message.Message {
	msg := message.NewMessage(id, nil)
	msgmeta.SetExpires(msg, time.Now().Add(in))
	msgmeta.SetKey(msg, "sku-17")
	return msg
}

func TestAnExpiredMessageIsNotHandled(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		var hook told
		logger := watermill.NewCaptureLogger()
		d, err := middleware.NewDedupe(b.st, middleware.DedupeConfig{
			Consumer: "stock.add", Logger: logger, Hooks: []any{&hook},
		})
		require.NoError(t, err)
		handler := d.Middleware(b.add)
		deliver := func(msg *message.Message) {
			_, err := handler(msg)
			require.NoError(t, err)
		}
		deliver(expiring("late", -time.Hour))
		require.Zero(t, b.quantity(t))
		deliver(expiring("late", time.Hour)) // a copy is a copy, whatever it says now
		deliver(expiring("in time", time.Hour))
		require.Equal(t, 1, b.quantity(t))
		deliver(expiring("in time", -time.Hour))
		deliver(message.NewMessage("without", nil))
		require.Equal(t, 2, b.quantity(t))
		require.Equal(t, []store.Verdict{
			store.Expired, store.Duplicate, store.Applied, store.Duplicate, store.Applied,
		}, hook.verdicts())

		late := b.story(t, "late")
		require.Equal(t, store.Expired, late.Row.Verdict)
		require.Regexp(t, `^its time to live ended at 20\d\d-\d\d-\d\dT[\d:.]+Z$`, late.Row.Reason)
		require.EqualValues(t, 1, late.Entries)
		require.Equal(t, store.Applied, b.story(t, "in time").Row.Verdict)
		require.Empty(t, b.story(t, "in time").Row.Reason)

		logged := logger.Captured()[watermill.InfoLogLevel]
		require.Len(t, logged, 1)
		require.Equal(t, "late", logged[0].Fields["message_id"])
		require.Equal(t, "stock.add", logged[0].Fields["consumer"])
		require.Equal(t, "sku-17", logged[0].Fields["key"])
		require.Equal(t, store.Expired, logged[0].Fields["verdict"])
	})
}

// A message that expires while it waits for a copy's outcome is not handled: the
// clock is asked when its turn has come.
func TestAMessageThatExpiresWhileItWaitsIsNotHandled(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		d := b.dedupe(t)
		entered, release := make(chan struct{}), make(chan struct{})
		first := d.Middleware(func(*message.Message) ([]*message.Message, error) {
			close(entered)
			<-release
			return nil, errors.New("rolled back")
		})
		ended := make(chan error, 2)
		go func() {
			_, err := first(message.NewMessage("1", nil))
			ended <- err
		}()
		<-entered
		second := expiring("1", 20*time.Millisecond)
		expires, _, err := msgmeta.GetExpires(second)
		require.NoError(t, err)
		go func() {
			_, err := d.Middleware(b.add)(second)
			ended <- err
		}()
		testenv.Eventually(t, 10*time.Second, time.Millisecond, func() (bool, string) {
			return time.Now().After(expires.Add(time.Millisecond)), "it has not expired"
		})
		close(release)
		require.Error(t, <-ended)
		require.NoError(t, <-ended)
		require.Zero(t, b.quantity(t))
		require.Equal(t, store.Expired, b.story(t, "1").Row.Verdict)
	})
}

func TestATimeToLiveThatCannotBeReadIsAnError(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		deliver := func(cfg middleware.DedupeConfig, value string) error {
			cfg.Consumer = "stock.add"
			d, err := middleware.NewDedupe(b.st, cfg)
			require.NoError(t, err)
			msg := message.NewMessage("1", nil)
			msg.Metadata.Set(msgmeta.Expires, value)
			_, err = d.Middleware(b.add)(msg)
			return err
		}
		for _, value := range []string{"", "tomorrow", "-1", "0000", "2026-13-01T00:00:00Z"} {
			require.ErrorIs(t, deliver(middleware.DedupeConfig{}, value), msgmeta.ErrMalformed, value)
		}
		unreadable := errors.New("no such header")
		cfg := middleware.DedupeConfig{TTL: func(*message.Message) (time.Time, bool, error) {
			return time.Time{}, false, unreadable
		}}
		require.ErrorIs(t, deliver(cfg, ""), unreadable)
		require.Zero(t, b.quantity(t))

		require.NoError(t, deliver(middleware.DedupeConfig{Observe: true}, "tomorrow"), "observing refuses nothing")
		require.Equal(t, 1, b.quantity(t))
		require.NoError(t, deliver(middleware.DedupeConfig{}, "9999-12-31T23:59:59Z"))
	})
}

func TestWhileObservingWhatHasExpiredIsHandledAndLogged(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		var hook told
		d, err := middleware.NewDedupe(b.st, middleware.DedupeConfig{
			Consumer: "stock.add", Observe: true, Hooks: []any{&hook},
		})
		require.NoError(t, err)
		for id, in := range map[string]time.Duration{"late": -time.Hour, "in time": time.Hour} {
			_, err = d.Middleware(b.add)(expiring(id, in))
			require.NoError(t, err)
		}
		require.Equal(t, 2, b.quantity(t))
		require.ElementsMatch(t, []store.Verdict{store.Expired, store.Applied}, hook.verdicts())
		late := b.story(t, "late")
		require.Equal(t, store.Applied, late.Row.Verdict, "it was handled")
		require.Equal(t, store.Expired, late.Log[0].Verdict)
		require.True(t, late.Log[0].Observed)
		require.Zero(t, b.story(t, "in time").Entries)
	})
}

func TestAProducersSecondPayloadIsAVerdict(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		var hook told
		handle := func(cfg middleware.DedupeConfig, payload string) error {
			cfg.Consumer, cfg.Fingerprint, cfg.Hooks = "stock.add", true, []any{&hook}
			d, err := middleware.NewDedupe(b.st, cfg)
			require.NoError(t, err)
			_, err = d.Middleware(b.add)(message.NewMessage("1", []byte(payload)))
			return err
		}
		require.NoError(t, handle(middleware.DedupeConfig{}, "one"))
		for range 3 { // the broker delivers again and again
			require.ErrorIs(t, handle(middleware.DedupeConfig{}, "two"), middleware.ErrFingerprint)
		}
		require.ErrorIs(t, handle(middleware.DedupeConfig{}, "three"), middleware.ErrFingerprint)
		require.Equal(t, []store.Verdict{
			store.Applied, store.Conflict, store.Conflict, store.Conflict, store.Conflict,
		}, hook.verdicts())
		require.Equal(t, 1, b.quantity(t))
		story := b.story(t, "1")
		require.Equal(t, store.Applied, story.Row.Verdict, "the first one's verdict stands")
		require.EqualValues(t, 2, story.Entries, "an entry for each payload, not for each delivery")
		for _, entry := range story.Log {
			require.Equal(t, store.Conflict, entry.Verdict)
			require.Contains(t, entry.Reason, "used before for another payload")
			require.NotContains(t, entry.Reason, "two")
		}

		require.NoError(t, handle(middleware.DedupeConfig{Observe: true}, "two"), "observing refuses nothing")
		require.True(t, b.story(t, "1").Log[2].Observed)
		require.Equal(t, 2, b.quantity(t))
	})
}

// In the subscriber's transaction the refusal lasts when the message is acked all
// the same, and is undone with the transaction otherwise.
func TestASecondPayloadInASubscribersTransaction(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		d, err := middleware.NewDedupe(b.st, middleware.DedupeConfig{Consumer: "stock.add", Fingerprint: true})
		require.NoError(t, err)
		first := message.NewMessage("1", []byte("one"))
		_, err = d.Middleware(b.add)(first)
		require.NoError(t, err)
		msg, unit := b.joined(t)
		msg.Payload = []byte("two")
		_, err = d.Middleware(b.add)(msg)
		require.ErrorIs(t, err, middleware.ErrFingerprint)
		require.NoError(t, unit.Commit(t.Context()))
		require.EqualValues(t, 1, b.story(t, "1").Entries)
		require.Equal(t, 1, b.quantity(t))
	})
}
