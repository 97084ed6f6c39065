package headrace_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

func TestAnUnreachableDatabaseIsTriedForATimeThatTheErrorNames(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"postgres", "mysql"} {
		u, err := dburl.Parse(driver + "://me:hunter22@127.0.0.1:1/shop") // tcpmux, which nothing serves
		require.NoError(t, err)
		db, err := u.Open()
		require.NoError(t, err)
		_, err = headrace.New(t.Context(), db, headrace.Config{
			Service: "shop", Publisher: setup(t).bus, ConnectTimeout: time.Second,
		})
		require.NoError(t, db.Close())
		var unreachable *store.UnreachableError
		require.ErrorAs(t, err, &unreachable)
		require.ErrorIs(t, err, store.ErrUnreachable)
		require.Greater(t, unreachable.Attempts, 1, "it may be starting")
		require.GreaterOrEqual(t, unreachable.Tried, time.Second)
		require.Regexp(t, `^headrace: service "shop": store: the database (127.0.0.1:1/shop )?can't be reached: `+
			`tried for [\d.]+m?s \(\d+ attempts\): `+
			`.*127.0.0.1:1.* connection refused; check the address and that it runs, or allow a longer connect timeout$`,
			err.Error())
		require.NotContains(t, err.Error(), "hunter22")
	}
}

func TestADatabaseThatRefusesIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		return // there are no servers
	}
	for name, address := range map[string]string{"postgres": testenv.Postgres(t), "mariadb": testenv.MariaDB(t)} {
		u, err := url.Parse(address)
		require.NoError(t, err)
		u.User, u.Path = url.UserPassword("nobody", "hunter22"), "/none"
		parsed, err := dburl.Parse(u.String())
		require.NoError(t, err)
		db, err := parsed.Open()
		require.NoError(t, err)
		_, err = headrace.New(t.Context(), db, headrace.Config{Service: "shop", Publisher: setup(t).bus})
		require.NoError(t, db.Close())
		var unreachable *store.UnreachableError
		require.ErrorAs(t, err, &unreachable, name)
		require.True(t, unreachable.Refused)
		require.Equal(t, 1, unreachable.Attempts)
		require.ErrorContains(t, err, "check user, password, database and options")
		require.ErrorContains(t, err, u.Host, "which server")
		require.ErrorContains(t, err, "none", "which database")
		require.NotContains(t, err.Error(), "hunter22")
	}
}
