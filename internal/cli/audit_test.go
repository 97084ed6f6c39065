package cli

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func TestAuditListsWhatOperatorsHaveChanged(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		var term terminal
		require.Equal(t, exitOK, term.run(t, "audit", "ls", "--db", url), term.err.String())
		require.Contains(t, term.out.String(), "no such change is recorded")
		for _, row := range []store.AuditRow{
			{Actor: "anna", Action: "rename", TargetKind: store.TargetConsumer, Target: "shop.old", Note: "as\x1b agreed"},
			{Actor: "bert", Action: "pause", TargetKind: "key", Target: "shop.orders", Subject: "sku-7"},
			{
				Actor: "anna", Action: "reset", TargetKind: store.TargetConsumer, Target: "shop.new",
				Details: map[string]any{"state": "finished", "forgotten": 2},
			},
		} {
			require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
				return st.InsertAudit(ctx, tx, row)
			}))
		}
		require.Equal(t, exitOK, term.run(t, "audit", "ls", "--db", url), term.err.String())
		require.Equal(t, `DB

ID  AT  ACTOR  ACTION  TARGET  KEY  DETAILS  NOTE
3  TIME  anna  reset  consumer shop.new  {"forgotten":2,"state":"finished"}
2  TIME  bert  pause  key shop.orders  sku-7
1  TIME  anna  rename  consumer shop.old  as· agreed
`, steady(term.out.String(), url))

		for _, test := range []struct {
			args []string
			want []int64
		}{
			{[]string{"--actor", "anna"}, []int64{3, 1}},
			{[]string{"--kind", "consumer", "--target", "shop.old"}, []int64{1}},
			{[]string{"--action", "pause"}, []int64{2}},
			{[]string{"--key", "sku-7"}, []int64{2}},
			{[]string{"--before", "2"}, []int64{1}},
			{[]string{"--limit", "1"}, []int64{3}},
			{[]string{"--since", "2026-01-01", "--actor", "nobody"}, nil},
			{[]string{"--since", "2999-01-01"}, nil},
		} {
			listed := result[auditJSON](t, exitOK, append([]string{"audit", "ls", "--db", url}, test.args...)...)
			var ids []int64
			for _, change := range listed.Changes {
				ids = append(ids, change.ID)
			}
			require.Equal(t, test.want, ids, "%v", test.args)
		}
		require.EqualValues(t, 3, result[auditJSON](t, exitOK, "audit", "ls", "--db", url, "--limit", "1").Next)
		for _, wrong := range [][]string{{"audit"}, {"audit", "ls", "--limit", "0"}, {"audit", "ls", "--since", "soon"}} {
			require.Equal(t, exitFailed, term.run(t, append(wrong, "--db", url)...), "%v", wrong)
		}
	})
}
