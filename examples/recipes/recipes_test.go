package recipes_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/headrace-go/headrace/examples/recipes"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
	"github.com/headrace-go/headrace/store/pgxstore"
)

func TestMain(m *testing.M) {
	testenv.VerifyMain(m,
		// GORM's cache of prepared statements has a goroutine that nothing ends.
		goleak.IgnoreAnyFunction("gorm.io/gorm/internal/lru.NewLRU[...].func1"))
}

var dialects = map[string]store.Dialect{"postgres": store.Postgres, "mariadb": store.MySQL, "sqlite": store.SQLite}

var errBoom = errors.New("boom")

// kitchen is a store and one repository of each recipe on it.
type kitchen struct {
	st      *store.Store
	recipes map[string]recipes.Stock
}

func setup(t *testing.T, kind string, strict bool) kitchen {
	t.Helper()
	db := testenv.Open(t, testenv.Database(t, kind))
	for _, statement := range tables(kind) {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	st, err := store.Open(t.Context(), db, store.Config{Dialect: dialects[kind], Migrate: true, Strict: strict})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	bind := store.JoinDBX(st).Rebind
	list := map[string]recipes.Stock{
		"plain": recipes.Plain{DB: store.JoinDB(st), Bind: bind},
		"sqlx":  recipes.SQLX{DB: store.JoinDBX(st)},
		"sqlc":  recipes.SQLC{DB: store.JoinDB(st), Queries: recipes.New(store.JoinDB(st), bind)},
	}
	if !strict || kind != "sqlite" { // see OpenGORM
		for name, config := range map[string]*gorm.Config{
			"gorm":          nil,
			"gorm-prepared": {PrepareStmt: true, Logger: logger.Discard},
			"gorm-bare":     {SkipDefaultTransaction: true, Logger: logger.Discard},
		} {
			opened, err := recipes.OpenGORM(st, config)
			require.NoError(t, err)
			list[name] = recipes.GORM{DB: opened}
		}
	}
	return kitchen{st, list}
}

// setupPGX is a kitchen on a pgx pool.
func setupPGX(t *testing.T) kitchen {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), testenv.Postgres(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	for _, statement := range tables("postgres") {
		_, err := pool.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	st, err := pgxstore.Open(t.Context(), pool, store.Config{Migrate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	outside := stdlib.OpenDBFromPool(pool)
	t.Cleanup(func() { require.NoError(t, outside.Close()) })
	return kitchen{st, map[string]recipes.Stock{
		"pgx":              recipes.PGX{Pool: pool},
		"plain-on-pgxpool": recipes.Plain{DB: store.JoinDB(st), Bind: store.JoinDBX(st).Rebind},
	}}
}

func tables(kind string) []string {
	id := map[string]string{
		"postgres": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
		"mariadb":  "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY",
		"sqlite":   "INTEGER PRIMARY KEY AUTOINCREMENT",
	}[kind]
	return []string{
		"CREATE TABLE products (name VARCHAR(100) NOT NULL PRIMARY KEY, quantity INT NOT NULL)",
		"CREATE TABLE receipts (id " + id + ", product VARCHAR(100) NOT NULL, quantity INT NOT NULL CHECK (quantity <> 13))",
	}
}

// each runs a test on every recipe and database.
func each(t *testing.T, test func(t *testing.T, st *store.Store, stock recipes.Stock)) {
	t.Helper()
	run := func(t *testing.T, k kitchen) {
		t.Helper()
		for name, stock := range k.recipes {
			t.Run(name, func(t *testing.T) { test(t, k.st, stock) })
		}
	}
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) { run(t, setup(t, kind, false)) })
	}
	if !testing.Short() {
		t.Run("pgxpool", func(t *testing.T) { run(t, setupPGX(t)) })
	}
}

func quantity(t *testing.T, stock recipes.Stock, product string) int {
	t.Helper()
	n, err := stock.Quantity(t.Context(), product)
	require.NoError(t, err)
	return n
}

// name is a product of the subtest's own: recipes share their database.
func name(t *testing.T) string { return t.Name() }

func TestItsWorkIsTheUnits(t *testing.T) {
	each(t, func(t *testing.T, st *store.Store, stock recipes.Stock) {
		product := name(t)
		handle := func(outcome error) error {
			return st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
				if err := stock.Receive(ctx, product, 5); err != nil {
					return err
				}
				n, err := stock.Quantity(ctx, product)
				require.NoError(t, err)
				require.Positive(t, n, "it sees its own work")
				if err := stock.Receive(ctx, product, 2); err != nil {
					return err
				}
				return outcome
			})
		}
		require.ErrorIs(t, handle(errBoom), errBoom)
		require.Zero(t, quantity(t, stock, product), "its own commits were part of what was rolled back")
		require.NoError(t, handle(nil))
		require.Equal(t, 7, quantity(t, stock, product))
		receipts, err := stock.Receipts(t.Context(), product)
		require.NoError(t, err)
		require.Equal(t, []int{5, 2}, receipts)
	})
}

func TestItsOwnRollbackUndoesOnlyItsPart(t *testing.T) {
	each(t, func(t *testing.T, st *store.Store, stock recipes.Stock) {
		product := name(t)
		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
			require.NoError(t, stock.Receive(ctx, product, 5))
			require.Error(t, stock.Receive(ctx, product, 13), "the table refuses it, after the stock was raised")
			return stock.Receive(ctx, product, 1)
		}))
		require.Equal(t, 6, quantity(t, stock, product))
	})
}

func TestOutsideOfAnyUnitItIsTheDatabaseAsEver(t *testing.T) {
	each(t, func(t *testing.T, _ *store.Store, stock recipes.Stock) {
		product := name(t)
		require.NoError(t, stock.Receive(t.Context(), product, 3))
		require.Error(t, stock.Receive(t.Context(), product, 13))
		require.Equal(t, 3, quantity(t, stock, product))
	})
}

func TestItFindsOutThatItsUnitIsOver(t *testing.T) {
	each(t, func(t *testing.T, st *store.Store, stock recipes.Stock) {
		product := name(t)
		var leaked context.Context
		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
			leaked = ctx
			return stock.Receive(ctx, product, 1)
		}))
		err := stock.Receive(leaked, product, 1)
		require.ErrorIs(t, err, store.ErrUnitOver)
		require.Equal(t, 1, quantity(t, stock, product))
	})
}

func TestACancelledHandlerLeavesNothing(t *testing.T) {
	each(t, func(t *testing.T, st *store.Store, stock recipes.Stock) {
		product := name(t)
		cut, cancel := context.WithCancel(t.Context())
		err := st.InTx(cut, func(ctx context.Context, _ store.Tx) error {
			require.NoError(t, stock.Receive(ctx, product, 1))
			cancel()
			return stock.Receive(ctx, product, 1)
		})
		require.Error(t, err)
		require.Zero(t, quantity(t, stock, product))
	})
}

func TestManyHandlersAtOnce(t *testing.T) {
	each(t, func(t *testing.T, st *store.Store, stock recipes.Stock) {
		var all sync.WaitGroup
		for i := range 6 {
			all.Go(func() {
				product := fmt.Sprintf("%s-%d", name(t), i)
				err := st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
					for n := range 5 {
						if err := stock.Receive(ctx, product, n); err != nil {
							return err
						}
					}
					if i%2 == 1 {
						return errBoom
					}
					return nil
				})
				if (err == nil) != (i%2 == 0) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for i := range 6 {
			want := map[bool]int{true: 10}[i%2 == 0]
			require.Equal(t, want, quantity(t, stock, fmt.Sprintf("%s-%d", name(t), i)))
		}
	})
}

// Strict mode refuses what was forgotten, and nothing else.
func TestStrictModeLetsItsWorkPass(t *testing.T) {
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			k := setup(t, kind, true)
			for recipe, stock := range k.recipes {
				t.Run(recipe, func(t *testing.T) {
					product := name(t)
					require.NoError(t, k.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
						return stock.Receive(ctx, product, 1)
					}))
					require.ErrorIs(t, stock.Receive(t.Context(), product, 1), store.ErrOutside)
					n, err := stock.Quantity(store.MeantOutside(t.Context()), product)
					require.NoError(t, err)
					require.Equal(t, 1, n)
				})
			}
		})
	}
}

// GORM's nested Transaction, its Begin, and its SavePoint.
func TestGORMNestsTransactions(t *testing.T) {
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			k := setup(t, kind, false)
			db := k.recipes["gorm"].(recipes.GORM).DB
			require.NoError(t, k.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
				create := func(tx *gorm.DB, name string) error {
					return tx.Create(&recipes.Product{Name: name, Quantity: 1}).Error
				}
				require.NoError(t, db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
					require.NoError(t, create(tx, "outer"))
					require.ErrorIs(t, tx.Transaction(func(tx *gorm.DB) error {
						require.NoError(t, create(tx, "inner"))
						return errBoom
					}), errBoom)
					return nil
				}))
				tx := db.WithContext(ctx).Begin()
				require.NoError(t, create(tx, "kept"))
				require.NoError(t, tx.SavePoint("mine").Error)
				require.NoError(t, create(tx, "undone"))
				require.NoError(t, tx.RollbackTo("mine").Error)
				return tx.Commit().Error
			}))
			var names []string
			require.NoError(t, db.WithContext(t.Context()).Model(&recipes.Product{}).Order("name").Pluck("name", &names).Error)
			require.Equal(t, []string{"kept", "outer"}, names)
		})
	}
}
