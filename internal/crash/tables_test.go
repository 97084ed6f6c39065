package crash_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/store"
)

// productCount is the number of keys.
const productCount = 8

// openTables makes the user's tables and Headrace's.
func openTables(t *testing.T, rawURL string) (*store.Store, *sqlx.DB) {
	t.Helper()
	ctx := t.Context()
	database, err := dburl.Parse(rawURL)
	require.NoError(t, err)
	db, err := database.ForService().Connect(ctx, connectTimeout)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	db.SetMaxOpenConns(4)
	st, err := store.Open(ctx, db, store.Config{Dialect: store.Dialect(database.Dialect), Migrate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })

	sequence := map[string]string{
		"postgres": "BIGSERIAL PRIMARY KEY",
		"mysql":    "BIGINT AUTO_INCREMENT PRIMARY KEY",
		"sqlite":   "INTEGER PRIMARY KEY AUTOINCREMENT",
	}[database.Dialect]
	for _, statement := range []string{
		"CREATE TABLE products (id VARCHAR(40) PRIMARY KEY, quantity BIGINT NOT NULL)",
		"CREATE TABLE recommendations (product VARCHAR(40) PRIMARY KEY, quantity BIGINT NOT NULL)",
		fmt.Sprintf("CREATE TABLE effects (seq %s, stage VARCHAR(20) NOT NULL, change_id VARCHAR(40) NOT NULL, "+
			"product VARCHAR(40) NOT NULL, quantity BIGINT NOT NULL)", sequence),
	} {
		_, err := db.ExecContext(ctx, statement)
		require.NoError(t, err)
	}
	handle := store.JoinDBX(st) // outside of any unit it is the database itself, with the right placeholders
	for n := range productCount {
		for _, table := range []string{"products", "recommendations"} {
			_, err := handle.ExecContext(ctx, handle.Rebind("INSERT INTO "+table+" VALUES (?, 0)"), productName(n))
			require.NoError(t, err)
		}
	}
	return st, handle
}

func productName(n int) string { return "p" + strconv.Itoa(n) }
