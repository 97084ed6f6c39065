package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

func TestADatabaseSaysItsDialect(t *testing.T) {
	t.Parallel()
	want := map[string]store.Dialect{"postgres": store.Postgres, "mariadb": store.MySQL, "sqlite": store.SQLite}
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := testenv.Open(t, testenv.Database(t, kind))
			got, err := store.DetectDialect(t.Context(), db)
			require.NoError(t, err)
			require.Equal(t, want[kind], got)
		})
	}
}

func TestAClosedDatabaseHasNoDialect(t *testing.T) {
	t.Parallel()
	db := testenv.Open(t, testenv.SQLite(t))
	require.NoError(t, db.Close())
	_, err := store.DetectDialect(t.Context(), db)
	require.ErrorContains(t, err, "ask the database what it is")
}
