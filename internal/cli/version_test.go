package cli

import (
	"context"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

func TestVersionsOfAnEntityAreShown(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		long := strings.Repeat("ü", 300)
		take := func(consumer, id, group string, version middleware.Version, deleted bool) {
			t.Helper()
			state := middleware.State{Entity: keys.Entity{Type: "order line", ID: id}, Version: version, Deleted: deleted}
			if group != "" {
				state.Groups = []string{group}
			}
			skip, err := middleware.NewVersionSkip(st, middleware.VersionSkipConfig{
				Consumer: consumer,
				States:   func(*message.Message) ([]middleware.State, error) { return []middleware.State{state}, nil },
			})
			require.NoError(t, err)
			_, err = skip.Middleware(message.PassthroughHandler)(message.NewMessage(consumer+group, nil))
			require.NoError(t, err)
		}
		take("shop.lines", "7", "", middleware.IntVersion(4), true)
		take("shop.lines", "7", "dates", middleware.IntVersion(6), false)
		take("mail.lines", "7", "", middleware.TextVersion("rev\x1b[31m"), false)
		take("mail.lines", long, "", middleware.IntVersion(1), false)

		all := result[versionsJSON](t, exitOK, "version", "show", "order line", "7", "--db", url)
		require.Len(t, all.Versions, 3)
		require.Equal(t, "mail.lines", all.Versions[0].Consumer)
		require.Equal(t, "4", all.Versions[1].Version)
		require.Equal(t, "dates", all.Versions[2].Group)
		one := result[versionsJSON](t, exitOK, "version", "show", "order line", "7", "--consumer", "mail.lines", "--db", url)
		require.Equal(t, all.Versions[:1], one.Versions)
		for _, id := range []string{long, store.Identity(long)} {
			require.Len(t, result[versionsJSON](t, exitOK, "version", "show", "order line", id, "--db", url).Versions, 1)
		}

		var term terminal
		require.Equal(t, exitOK, term.run(t, "version", "show", "order line", "7", "--db", url), term.err.String())
		require.NotContains(t, term.out.String(), "\x1b")
		require.Regexp(t, `shop.lines +dates +6 +there`, term.out.String())
		require.Equal(t, exitProblem, term.run(t, "version", "show", "order line", "8", "--db", url))
		require.Contains(t, term.out.String(), "nobody has taken a version of order line/8")
		require.Empty(t, result[versionsJSON](t, exitProblem, "version", "show", "order line", "8", "--db", url).Versions)

		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			return st.PutVersions(ctx, tx, "shop.lines", store.EntityVersion{
				Entity: store.Entity{Type: "order line", ID: "9"}, Version: "none of ours",
			})
		}))
		require.Equal(t, exitFailed, term.run(t, "version", "show", "order line", "9", "--db", url))
		require.Contains(t, term.err.String(), `"none of ours" is stored`)
	})
}

func TestWrongArgumentsOfVersionShowAreNamed(t *testing.T) {
	t.Parallel()
	var term terminal
	require.Equal(t, exitFailed, term.run(t, "version", "show", "order line"))
	require.Contains(t, term.err.String(), "headrace version show TYPE ID")
	require.Equal(t, exitFailed, term.run(t, "version", "show", "", "7"))
	require.Contains(t, term.err.String(), "the entity's type and id are needed")
}
