package middleware_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// What somebody still has to do, or to find out, must be there when they come, be it
// after years. What is final goes.
func TestOpenRowsOutliveEveryRetention(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		open := b.keepOfEveryKind(t)
		for _, final := range []string{
			"INSERT INTO headrace_inbox (consumer, message_id, verdict) VALUES ('test.effect', 'final', 'applied')",
			"INSERT INTO headrace_verdict_log (consumer, message_id, verdict) VALUES ('test.effect', 'final', 'duplicate')",
			"INSERT INTO headrace_audit (actor, action, target_kind, target) VALUES ('anna', 'reset', 'consumer', 'x')",
		} {
			_, err := b.db.ExecContext(ctx, final)
			require.NoError(t, err)
		}
		b.makeOld(t)

		_, err := middleware.NewPurge(b.st, middleware.PurgeConfig{Consumers: []string{"test.effect"}, Parked: -1})
		require.Error(t, err)
		var asked []string
		p, err := middleware.NewPurge(b.st, middleware.PurgeConfig{
			Consumers: []string{"test.effect"}, Window: time.Hour, Effects: time.Hour, Parked: time.Hour, Audit: time.Hour,
			BatchSize: 2, Pause: time.Microsecond,
			Backlog: func(_ context.Context, consumer string) (int64, error) {
				asked = append(asked, consumer)
				return 0, nil
			},
		})
		require.NoError(t, err)
		p.PurgeNow(ctx)
		for _, consumer := range asked {
			require.Equal(t, "test.effect", consumer, "a backlog is a consumer's")
		}
		for table, want := range open {
			var left int
			require.NoError(t, b.db.QueryRowContext(ctx, "SELECT count(*) FROM headrace_"+table).Scan(&left))
			require.Equal(t, want, left, table)
		}
	})
}

// keepOfEveryKind leaves a row of every kind that is open, and one of every kind that
// is final, and returns how many are open, by table.
func (b *bundle) keepOfEveryKind(t *testing.T) map[string]int {
	t.Helper()
	ctx := t.Context()
	open := map[string]int{"audit": 0, "verdict_log": 0}
	for i, status := range []store.ParkedStatus{store.StatusDelayed, store.StatusParked, store.StatusReview, store.StatusDone} {
		id := fmt.Sprintf("parked-%d", i)
		row := store.ParkedRow{
			Origin: store.OriginConsumer, Consumer: "test.effect", Line: store.MessageLine("test.effect", id).Line, InboxID: id,
			MessageID: id, Status: status, Payload: []byte("{}"),
		}
		if status == store.StatusDone {
			row.Status = store.StatusParked
		}
		require.NoError(t, b.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
			kept, _, _, err := b.st.Park(ctx, tx, row, nil)
			if err == nil && status == store.StatusDone {
				_, err = b.st.DiscardParked(ctx, tx, kept, "anna", "", nil)
			}
			return err
		}))
	}
	// One that lined up behind another.
	behind := store.ParkedRow{
		Origin: store.OriginConsumer, Consumer: "test.effect", Line: store.MessageLine("test.effect", "parked-0").Line,
		InboxID: "behind", MessageID: "behind",
	}
	require.NoError(t, b.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		_, _, err := b.st.Admit(ctx, store.InboxRow{Consumer: "test.effect", MessageID: "behind", Verdict: store.Applied},
			store.MessageLine("test.effect", "parked-0"))
		if err == nil {
			_, _, err = b.st.LineUp(ctx, tx, behind)
		}
		return err
	}))
	open["parked"], open["gates"], open["inbox"] = 4, 3, 4

	for _, status := range []store.EffectStatus{
		store.EffectCalling, store.EffectRetry, store.EffectUnknown, store.EffectDone, store.EffectRefused,
	} {
		row := store.EffectRow{Scope: "pay", Key: string(status), Provider: "p", Owner: "o", Epoch: 1, RequestHash: []byte("h")}
		_, _, err := b.st.ClaimEffect(ctx, row, time.Minute, nil)
		require.NoError(t, err)
		if row.Status = status; status != store.EffectCalling {
			ok, err := b.st.FinishEffect(ctx, row)
			require.NoError(t, err)
			require.True(t, ok)
		}
	}
	open["effects"] = 3
	return open
}

// makeOld makes every time of the tables ten years earlier.
func (b *bundle) makeOld(t *testing.T) {
	t.Helper()
	earlier := map[store.Dialect]string{
		store.Postgres: "%s - interval '3650 days'", store.MySQL: "%s - INTERVAL 3650 DAY", store.SQLite: "%s - 315360000000000",
	}[b.st.Dialect()]
	for table, columns := range map[string]string{
		"inbox": "processed_at", "verdict_log": "created_at", "audit": "at", "gates": "held_since",
		"parked":  "parked_at updated_at finished_at",
		"effects": "created_at updated_at finished_at claimed_until first_called_at last_called_at",
	} {
		for column := range strings.FieldsSeq(columns) {
			_, err := b.db.ExecContext(t.Context(),
				"UPDATE headrace_"+table+" SET "+column+" = "+fmt.Sprintf(earlier, column)+" WHERE "+column+" IS NOT NULL")
			require.NoError(t, err)
		}
	}
}
