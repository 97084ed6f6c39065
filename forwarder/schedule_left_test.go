package forwarder_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
)

// A slot's zone may be unknown where the forwarder runs.
func TestASlotThatCannotBeJudgedHoldsUpNothing(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		found, err := b.outbox.PublishInSlot(ctx, forwarder.Slot{Cron: "0 17 * * *", Subject: "s", Late: time.Hour}, "topic")
		require.NoError(t, err)
		_, err = b.st.DB().ExecContext(ctx, "UPDATE headrace_scheduled SET slot_plan = "+
			`'{"cron": "0 17 * * *", "zone": "Elsewhere/Town", "at": "2020-01-01T17:00:00Z", "late": "1h"}'`)
		require.NoError(t, err)
		require.NoError(t, b.outbox.PublishAfter(ctx, 30*time.Hour, "topic", keyed("behind it")))
		b.elapse(t, 31*time.Hour)
		var to broker
		b.run(t, &to, soon())
		eventually(t, &to, "behind it")
		left := b.scheduled(t)
		require.Len(t, left, 1)
		require.Equal(t, found.ID, left[0].MessageID)
		require.NoError(t, b.outbox.Cancel(ctx, found.ID))
	})
}
