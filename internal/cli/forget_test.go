package cli

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func TestForgetRemovesAnEntityAndSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, _, _, err := st.Park(ctx, tx, store.ParkedRow{
				Origin: store.OriginConsumer, Consumer: "shop.orders",
				Line: store.KeyLine("shop.orders", "anna").Line, Key: "anna",
				InboxID: "1", MessageID: "1", Status: store.StatusParked, Payload: []byte("secret"), Reason: "no such Anna",
			}, nil)
			return err
		}))
		term := terminal{input: "no\n", env: map[string]string{"HEADRACE_DB": url, "HEADRACE_ACTOR": "bert"}}
		require.Equal(t, exitFailed, term.run(t, "forget", "anna"))
		require.Contains(t, term.err.String(), "Everything readable of anna is removed for good.\nType yes to go on:")
		require.Equal(t, exitFailed, term.run(t, "forget"))
		require.Equal(t, exitFailed, term.run(t, "forget", "", "--yes"))

		require.Equal(t, exitProblem, term.run(t, "forget", "anna", "--yes"), "something is left")
		require.Equal(t, `anna: 0 parked messages removed, 0 of them discarded by this; 0 messages for later; `+
			`the contents of 0 calls; the reasons of 1 verdict; names and notes in 0 audited changes.
  left: 1 parked: handle or discard them (headrace parked), or pass --discard-open
`, term.out.String())
		term.input = "yes\n"
		require.Equal(t, exitOK, term.run(t, "forget", "anna", "--discard-open"), term.err.String())
		require.Contains(t, term.out.String(), "anna: 1 parked message removed, 1 of them discarded by this;")
		again := result[forgetJSON](t, exitOK, "forget", "anna", "--yes", "--as", "bert", "--db", url)
		require.Equal(t, "bert", again.Actor)
		require.Zero(t, again.Left)
		require.Len(t, result[auditJSON](t, exitOK, "audit", "ls", "--action", "forget", "--db", url).Changes, 3)
	})
}
