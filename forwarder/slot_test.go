package forwarder_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
)

func berlin(t *testing.T) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	return zone
}

func TestSlotsAcrossDaylightSaving(t *testing.T) {
	t.Parallel()
	lordHowe, err := time.LoadLocation("Australia/Lord_Howe") // which moves its clocks by half an hour
	require.NoError(t, err)
	for name, c := range map[string]struct {
		cron  string
		zone  *time.Location
		after string
		want  []string
	}{
		"usual days": {"0 17 * * *", berlin(t), "2026-06-01T16:59:59+02:00", []string{
			"2026-06-01T17:00:00+02:00", "2026-06-02T17:00:00+02:00",
		}},
		"its own time is over": {"0 17 * * *", berlin(t), "2026-06-01T17:00:00+02:00", []string{"2026-06-02T17:00:00+02:00"}},
		"another offset a day later": {"0 17 * * *", berlin(t), "2026-03-28T12:00:00+01:00", []string{
			"2026-03-28T17:00:00+01:00", "2026-03-29T17:00:00+02:00",
		}},
		"left out by the change": {"30 2 * * *", berlin(t), "2026-03-28T12:00:00+01:00", []string{
			"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00",
		}},
		"left out, and the one behind": {"*/30 * * * *", berlin(t), "2026-03-29T01:00:00+01:00", []string{
			"2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00",
		}},
		"comes twice": {"30 2 * * *", berlin(t), "2026-10-24T12:00:00+02:00", []string{
			"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00",
		}},
		"asked for the second time": {"30 2 * * *", berlin(t), "2026-10-25T02:10:00+01:00", []string{
			"2026-10-26T02:30:00+01:00",
		}},
		"half an hour left out": {"15 2 * * *", lordHowe, "2026-10-03T12:00:00+10:30", []string{
			"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00",
		}},
		"without changes": {"30 2 * * *", time.UTC, "2026-03-28T12:00:00Z", []string{
			"2026-03-29T02:30:00Z", "2026-03-30T02:30:00Z",
		}},
		"no zone": {"0 0 29 2 *", nil, "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at, err := time.Parse(time.RFC3339, c.after)
			require.NoError(t, err)
			for _, want := range c.want {
				at, err = forwarder.SlotAfter(forwarder.Slot{Cron: c.cron, Zone: c.zone, Subject: "s"}, at)
				require.NoError(t, err)
				require.Equal(t, want, at.Format(time.RFC3339))
			}
		})
	}
}
