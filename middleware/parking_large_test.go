package middleware_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// deliver hands over a message with a payload.
func (p *parked) deliver(ctx context.Context, id, key string, payload []byte) error {
	msg := message.NewMessage(id, payload)
	msgmeta.SetKey(msg, key)
	msg.SetContext(ctx)
	_, err := p.handler(msg)
	return err
}

// kept counts the messages that are kept, and the lines that are held.
func (p *parked) kept() (messages, lines int) {
	p.t.Helper()
	require.NoError(p.t, p.db.QueryRowContext(p.t.Context(),
		"SELECT (SELECT count(*) FROM headrace_parked), (SELECT count(*) FROM headrace_gates)").Scan(&messages, &lines))
	return messages, lines
}

func failLarge(msg *message.Message) error {
	if strings.HasPrefix(msg.UUID, "large") {
		return errFull
	}
	return nil
}

// maxPacket is how much the server takes at once, 0 where it takes anything of a size
// that a broker carries.
func (b *bundle) maxPacket(t *testing.T) (n int) {
	t.Helper()
	if b.st.Dialect() != store.MySQL {
		return 0
	}
	require.NoError(t, b.db.QueryRowContext(t.Context(), "SELECT @@max_allowed_packet").Scan(&n))
	return n
}

// What the database doesn't take is neither kept nor acked, whether it has failed or
// was to line up, and holds nobody. It says why, and its transaction isn't lost by it.
func TestWhatTheDatabaseDoesNotTakeStaysAtTheBroker(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		most := b.maxPacket(t)
		p := b.parked(t, nil)
		p.fails = failLarge
		large := make([]byte, max(most, 16<<20)+1)
		err := p.deliver(t.Context(), "large", "sku", large)
		if most == 0 {
			require.NoError(t, err)
			require.Equal(t, large, p.row(1).Payload)
			return
		}
		requireRefused := func(err error, messages int) {
			t.Helper()
			require.ErrorIs(t, err, store.ErrContent)
			require.ErrorContains(t, err, "max_allowed_packet")
			require.Less(t, len(err.Error()), 500)
			got, lines := p.kept()
			require.Equal(t, messages, got)
			require.Equal(t, messages, lines)
			require.Empty(t, p.verdict("large"), "the broker has it")
		}
		requireRefused(err, 0)
		require.NoError(t, p.send("2", "sku"))
		require.NoError(t, p.send("3", "other"))
		require.Equal(t, 2, b.quantity(t), "all keys flow, as far as the broker lets them")

		require.NoError(t, p.deliver(t.Context(), "large enough", "sku", large[:most-(64<<10)]))
		require.Len(t, p.row(1).Payload, most-(64<<10))
		runs := len(p.runs)
		requireRefused(p.deliver(t.Context(), "large", "sku", large), 1) // lines up behind it
		require.Len(t, p.runs, runs, "without being handled")
		require.NoError(t, p.send("4", "other"))
		require.Equal(t, 3, b.quantity(t))

		desk := parking.NewDesk(b.st, parking.DeskConfig{Actor: "anna"})
		require.ErrorIs(t, desk.Edit(t.Context(), 1, parking.Edit{Payload: &large}), store.ErrContent)
		require.NoError(t, b.st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			row := store.OutboxRow{MessageID: "m", Destination: "d", Topic: "t", Payload: large}
			require.ErrorIs(t, b.st.InsertOutbox(ctx, tx, []store.OutboxRow{row}), store.ErrContent)
			row.Payload = nil
			return b.st.InsertOutbox(ctx, tx, []store.OutboxRow{row})
		}))
		half := large[:most/2+1] // beside what came it is more than a packet
		require.NoError(t, desk.Edit(t.Context(), 1, parking.Edit{Payload: &half, Retry: true}))
		p.fails = func(*message.Message) error { return nil }
		require.Equal(t, []error{nil}, p.comeBack())
		require.Equal(t, 4, b.quantity(t))
	})
}

// Names that no column has room for are kept by what stands for them, and come back as
// they were.
func TestNamesThatNoColumnHolds(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, nil)
		p.fails = func(*message.Message) error { return errFull }
		id, key := strings.Repeat("é", 50_000), strings.Repeat("k\x00\xff", 50_000)
		message := message.NewMessage(id, []byte("payload"))
		msgmeta.SetKey(message, key)
		message.Metadata.Set(strings.Repeat("n", 10_000), strings.Repeat("v", 1<<20))
		message.SetContext(t.Context())
		_, err := p.handler(message)
		require.NoError(t, err)
		require.NoError(t, p.deliver(t.Context(), "2", key, nil))
		row := p.row(1)
		require.Equal(t, id, row.MessageID)
		require.Equal(t, key, row.Metadata[msgmeta.Key])
		require.Len(t, row.Metadata, 2)
		require.Equal(t, store.StatusWaiting, p.row(2).Status, "of the same key")
	})
}

// At REPEATABLE READ, in a broker's own transaction, MySQL's look at the gates waits for
// whoever is about to hold the line, and holds up whoever is about to hold one beside
// it. Both waits are bounded, by store.Config.LockTimeout where the store began the
// transaction and else by the session's own limit, and who has waited in vain is
// nacked: nothing of it is written, and it takes its place when it is delivered again.
// On Postgres nobody waits.
func TestInABrokersRepeatableReadTheWaitForALineIsBounded(t *testing.T) {
	t.Parallel()
	for _, kind := range testenv.Databases(t) {
		for _, begun := range []string{"by the store", "by somebody else"} {
			if kind == "sqlite" { // one writer
				continue
			}
			t.Run(kind+"/"+begun, func(t *testing.T) {
				t.Parallel()
				newRepeatable(t, kind, begun == "by the store").play()
			})
		}
	}
}

// repeatable is a handler whose messages come in transactions at REPEATABLE READ.
type repeatable struct {
	*parked

	// waits: the database locks what it reads.
	waits bool
	begin func() (ctx context.Context, commit func() error, rollback func())
}

func newRepeatable(t *testing.T, kind string, ours bool) *repeatable {
	t.Helper()
	address := testenv.Database(t, kind)
	b := setupOn(t, kind, address, true)
	db := b.db
	if kind == "mariadb" && !ours {
		db = testenv.Open(t, address+"?innodb_lock_wait_timeout=1")
	}
	st, err := store.Open(t.Context(), db, store.Config{
		Dialect: b.st.Dialect(), LockTimeout: time.Second, Isolation: sql.LevelRepeatableRead, WarnTxLonger: -1,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	r := &repeatable{parked: (&bundle{st, db, b.outbox}).parked(t, nil), waits: kind == "mariadb"}
	r.fails = failLarge
	r.begin = func() (context.Context, func() error, func()) {
		if ours {
			unit, err := st.Begin(t.Context())
			require.NoError(t, err)
			return unit.Context(t.Context()), func() error { return unit.Commit(t.Context()) },
				func() { unit.Rollback(t.Context(), errFull) }
		}
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
		require.NoError(t, err)
		return st.Join(t.Context(), tx), tx.Commit, func() { _ = tx.Rollback() }
	}
	return r
}

// joined hands over a message in a broker's transaction, which ends as the broker would
// end it.
func (r *repeatable) joined(id, key string, beforeCommit func()) error {
	ctx, commit, rollback := r.begin()
	if err := r.deliver(ctx, id, key, nil); err != nil {
		rollback()
		return err
	}
	beforeCommit()
	return commit()
}

func (r *repeatable) play() {
	t := r.t
	holding, hold := make(chan struct{}), make(chan struct{})
	parked := make(chan error, 1)
	go func() {
		parked <- r.st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, _, _, err := r.st.Park(ctx, tx, store.ParkedRow{
				Origin: store.OriginConsumer, Consumer: shelf, Line: store.KeyLine(shelf, "sku").Line, Key: "sku",
				InboxID: "1", MessageID: "1", Status: store.StatusParked,
			}, nil)
			close(holding)
			<-hold
			return err
		})
	}()
	<-holding
	nothing := func() {}
	err := r.joined("2", "sku", nothing)
	if r.waits {
		require.ErrorIs(t, err, store.ErrLockTimeout)
		require.Empty(t, r.runs, "it may have to wait behind the other")
	} else {
		require.NoError(t, err, "nothing is parked yet")
	}
	require.NoError(t, r.joined("3", "other", nothing))
	close(hold)
	require.NoError(t, <-parked)
	require.NoError(t, r.joined("2", "sku", nothing))
	require.NoError(t, r.joined("4", "sku", nothing))
	require.NotContains(t, r.runs, "4")
	waiting, err := r.st.ListParked(t.Context(), store.ParkedFilter{Status: []store.ParkedStatus{store.StatusWaiting}}, 0, 10)
	require.NoError(t, err)
	if r.waits {
		require.NotContains(t, r.runs, "2")
		require.Len(t, waiting, 2)
	} else {
		require.Len(t, waiting, 1)
	}

	// A message of another key fails while a handler's transaction is open.
	kept, _ := r.kept()
	require.NoError(t, r.joined("5", "free", func() {
		err := r.deliver(t.Context(), "large", "freer", nil)
		if !r.waits {
			require.NoError(t, err)
			return
		}
		require.ErrorIs(t, err, store.ErrLockTimeout)
		still, _ := r.kept()
		require.Equal(t, kept, still)
		require.Empty(t, r.verdict("large"))
	}))
	require.NoError(t, r.deliver(t.Context(), "large", "freer", nil))
	now, _ := r.kept()
	require.Equal(t, kept+1, now)
}
