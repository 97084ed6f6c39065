package pgxstore_test

import (
	"context"
	"database/sql"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
	"github.com/headrace-go/headrace/store/pgxstore"
	"github.com/headrace-go/headrace/store/storetest"
)

// The store keeps its promises on a pgx pool, where BEGIN travels with the first
// statement.
func TestStore(t *testing.T) {
	if testing.Short() {
		return // pgx speaks to Postgres only, and -short has no services
	}
	var pools sync.Map // *sql.DB, which the suite knows, to its *pgxpool.Pool
	storetest.Run(t, storetest.Harness{
		Dialect: store.Postgres,
		OwnPool: true,
		Fresh: func(t testing.TB) func(testing.TB) *sql.DB {
			address := testenv.Postgres(t)
			return func(t testing.TB) *sql.DB {
				pool, err := pgxpool.New(context.Background(), address)
				require.NoError(t, err)
				t.Cleanup(pool.Close)
				db := stdlib.OpenDBFromPool(pool)
				t.Cleanup(func() { require.NoError(t, db.Close()) })
				pools.Store(db, pool)
				return db
			}
		},
		Store: func(ctx context.Context, db *sql.DB, cfg store.Config) (*store.Store, error) {
			pool, _ := pools.Load(db)
			return pgxstore.Open(ctx, pool.(*pgxpool.Pool), cfg)
		},
	})
}
