package scenario

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// openWriter is a transaction that has written to the outbox and stays open
// until it is told to commit.
type openWriter struct {
	commit chan struct{}
	done   chan error
}

func (w *world) writeAndWait(st *store.Store, topic, id string) openWriter {
	w.t.Helper()
	written := make(chan struct{})
	writer := openWriter{commit: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		writer.done <- st.InTx(w.t.Context(), func(ctx context.Context, _ store.Tx) error {
			if err := w.publishInto(ctx, st, topic, id); err != nil {
				return err
			}
			close(written)
			<-writer.commit
			return nil
		})
	}()
	receive(w.t, written, "the row of "+id)
	return writer
}

func (w *world) publishInto(ctx context.Context, st *store.Store, topic, id string) error {
	outbox, err := forwarder.NewOutbox(st, forwarder.OutboxConfig{})
	if err != nil {
		return err
	}
	msg := message.NewMessage(id, []byte(id))
	msgmeta.SetKey(msg, "one key, so one partition")
	if id == elsewhere {
		msgmeta.SetKey(msg, "a key of another partition")
	}
	return outbox.Publish(ctx, topic, msg)
}

func (o openWriter) end(t *testing.T) {
	t.Helper()
	close(o.commit)
	require.NoError(t, receive(t, o.done, "the commit"))
}

// elsewhere is written to another partition, so that the relay has no reason to
// look at the late rows' one again.
const elsewhere = "elsewhere"

// Ids are given when rows are inserted and seen when they are committed. The
// unprotected side has a relay that only reads above the highest id it has read:
// it never goes back to the beginning, and nothing above makes it look behind.
func TestS03_LateCommit(t *testing.T) {
	onAndOff(t, on(t, []string{mem, kafka}, []string{postgres, mariadb}), lateCommit)
}

func lateCommit(t *testing.T, p pair, protected bool) (damage []string) {
	w := open(t, p)
	w.createOrders()
	topic, acked := w.topic("orders"), newTally()
	cfg := forwarder.Config{}
	if !protected {
		cfg.RescanInterval = time.Hour
	}
	w.forward(cfg)
	w.fulfil(topic, acked)

	// A transaction whose snapshot is older than everything, on a store of its
	// own that runs at REPEATABLE READ, and which has written too.
	repeatable := w.another(func(cfg *store.Config) { cfg.Isolation = sql.LevelRepeatableRead })
	oldest := w.writeAndWait(repeatable, topic, "oldest")

	first := w.writeAndWait(w.st, topic, "first")
	require.NoError(t, w.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		return w.publishInto(ctx, w.st, topic, "second")
	}))
	acked.wait(t, "second", 1)
	require.Zero(t, w.count("SELECT count(*) FROM shipments WHERE id IN ('oldest', 'first')"), "not committed yet")

	first.end(t)
	if protected {
		acked.wait(t, "first", 1) // while the oldest writer is still at work
	}
	oldest.end(t)
	require.NoError(t, w.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		return w.publishInto(ctx, w.st, topic, elsewhere)
	}))
	acked.wait(t, elsewhere, 1)
	if protected {
		w.sent()
		acked.wait(t, "oldest", 1)
	}
	for _, id := range []string{"oldest", "first", "second", elsewhere} {
		if n := w.count("SELECT count(*) FROM shipments WHERE id = ?", id); n != 1 {
			damage = append(damage, fmt.Sprintf("%s came %d times", id, n))
		}
	}
	return damage
}
