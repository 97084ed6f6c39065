package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/store"
)

// charge makes a call that gets no answer.
func charge(t *testing.T, st *store.Store, key string, answer error) error {
	t.Helper()
	client, err := effects.New(st, effects.Config{Provider: effects.Provider{Name: "bank"}})
	require.NoError(t, err)
	_, err = effects.Do(effects.With(t.Context(), client), "charge", key, []byte("secret"),
		func(context.Context, string, []byte) (effects.Response, error) {
			return effects.Response{Code: 200}, answer
		})
	return err
}

func TestAPersonSettlesCallsAtTheTerminal(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		var term terminal
		require.Equal(t, exitOK, term.run(t, "effect", "ls", "--db", url), term.err.String())
		require.Contains(t, term.out.String(), "no call waits for anybody")

		silence := errors.New("no answer")
		long := strings.Repeat("ü", 300) // stored and shown as a hash
		for _, key := range []string{"again", "done", "gone\x1b[31m", long} {
			require.ErrorIs(t, charge(t, st, key, silence), effects.ErrUnknown)
		}
		all := result[effectsJSON](t, exitOK, "effect", "ls", "--db", url)
		require.Len(t, all.Effects, 4)
		require.Equal(t, "no answer", all.Effects[0].LastError)
		require.Equal(t, 1, all.Effects[0].Attempts)
		require.Empty(t, all.Next)
		require.Equal(t, exitOK, term.run(t, "effect", "ls", "--db", url))
		require.NotContains(t, term.out.String(), "secret")
		require.NotContains(t, term.out.String(), "\x1b")
		first := result[effectsJSON](t, exitOK, "effect", "ls", "--db", url, "--limit", "3")
		rest := result[effectsJSON](t, exitOK, "effect", "ls", "--db", url, "--after", first.Next)
		require.Equal(t, all.Effects[3:], withAges(rest.Effects, all.Effects[3:]))
		require.Empty(t, result[effectsJSON](t, exitOK, "effect", "ls", "--db", url, "--scope", "mail").Effects)

		receipt := filepath.Join(t.TempDir(), "receipt.json")
		require.NoError(t, os.WriteFile(receipt, []byte(`{"id":7}`), 0o600))
		settle := func(exit int, args ...string) settledJSON {
			t.Helper()
			args = append([]string{"effect", "settle", "charge"}, args...)
			return result[settledJSON](t, exit, append(args, "--as", "anna", "--db", url)...)
		}
		require.True(t, settle(exitOK, "again", "--decision", "again", "--note", "not in their list").Settled)
		require.True(t, settle(exitOK, "done", "--decision", "done", "--as-done", receipt, "--code", "201").Settled)
		require.True(t, settle(exitOK, all.Effects[3].Key, "--decision", "give-up", "--note", "cancelled").Settled)
		repeated := settle(exitProblem, "done", "--decision", "again")
		require.False(t, repeated.Settled)
		require.Contains(t, repeated.Why, "only an unknown effect can be settled")

		require.NoError(t, charge(t, st, "again", nil), "it is made once more")
		done, err := st.Effect(t.Context(), "charge", "done")
		require.NoError(t, err)
		require.Equal(t, store.EffectDone, done.Status)
		require.Equal(t, 201, done.Code)
		require.JSONEq(t, `{"id":7}`, string(done.Response))
		require.ErrorIs(t, charge(t, st, long, nil), effects.ErrRefused)
		require.Len(t, result[effectsJSON](t, exitOK, "effect", "ls", "--db", url).Effects, 1)

		audited := result[auditJSON](t, exitOK, "audit", "ls", "--kind", "effect", "--db", url)
		require.Len(t, audited.Changes, 3)
		require.Equal(t, "not in their list", audited.Changes[2].Note)
		require.Equal(t, "charge/again", audited.Changes[2].Target)
		require.Equal(t, "again", audited.Changes[2].Key)
		require.Equal(t, exitOK, term.run(t, "forget", "again", "--yes", "--as", "bert", "--db", url), term.err.String())
		require.Equal(t, exitOK, term.run(t, "audit", "ls", "--kind", "effect", "--db", url))
		require.NotContains(t, term.out.String(), "again ", "whoever is forgotten has no name in the audit")
	})
}

func TestWrongArgumentsOfASettlementAreNamed(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		require.NoError(t, charge(t, st, "done", nil))
		var term terminal
		for args, says := range map[string]string{
			"effect settle charge never --decision done":             "there is no call charge never",
			"effect settle charge done --decision yes":               "--decision is done, again or give-up",
			"effect settle charge done":                              "--decision is done, again or give-up",
			"effect settle charge done --decision give-up":           "give-up needs --note",
			"effect settle charge done --decision again --code 200":  "they go with --decision done",
			"effect settle charge --decision done":                   "effect settle has other arguments",
			"effect ls --after nothing":                              "--after is SCOPE/KEY",
			"effect ls --limit 0":                                    "--limit must be at least 1",
			"effect settle charge done --decision done --as-done no": "read the payload",
		} {
			require.Equal(t, exitFailed, term.run(t, append(strings.Fields(args), "--db", url)...), args)
			require.Contains(t, term.err.String(), says)
		}
	})
}

// withAges has calls be as old as others.
func withAges(calls, others []effectJSON) []effectJSON {
	for i := range calls {
		calls[i].LastCall = others[i].LastCall
	}
	return calls
}
