package cli

import (
	"encoding/json"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
)

func TestBacklogCountsWhatAGroupHasNotAcked(t *testing.T) {
	t.Parallel()
	rawURL := "mem:?file=" + url.QueryEscape(filepath.Join(t.TempDir(), "queue.db"))
	b, err := brokers.Open(t.Context(), rawURL, brokers.Config{Openers: all.Openers(), Group: "stock"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	var term terminal
	ask := func(flags ...string) int {
		return term.run(t, append([]string{"backlog", "--broker", rawURL, "--group", "stock", "orders", "invoices"}, flags...)...)
	}
	require.Equal(t, exitOK, ask(), "%s", &term.err)

	require.NoError(t, b.Publisher.Publish("orders", message.NewMessage("one", nil), message.NewMessage("two", nil)))
	require.Equal(t, exitProblem, ask(), "%s", &term.err)
	require.Regexp(t, `(?m)^orders +2$`, term.out.String())
	require.Regexp(t, `(?m)^invoices +0$`, term.out.String())

	require.Equal(t, exitProblem, ask("--json"))
	var result backlogJSON
	require.NoError(t, json.Unmarshal(term.out.Bytes(), &result))
	require.Equal(t, []topicBacklogJSON{{"orders", 2}, {"invoices", 0}}, result.Topics)
}

func TestBacklogSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"no broker given":          {"--group", "stock", "orders"},
		"--group is required":      {"--broker", "mem:", "orders"},
		"name the topics":          {"--broker", "mem:", "--group", "stock"},
		"--db is about Headrace's": {"--broker", "mem:", "--group", "stock", "--db", "sqlite:x", "orders"},
		"can't be reached": {
			"--broker", "kafka://user:hunter2@127.0.0.1:1", "--connect-timeout", "300ms", "--group", "stock", "orders",
		},
	} {
		var term terminal
		require.Equal(t, exitFailed, term.run(t, append([]string{"backlog"}, args...)...))
		require.Contains(t, term.err.String(), want)
		require.NotContains(t, term.err.String(), "hunter2")
	}
}
