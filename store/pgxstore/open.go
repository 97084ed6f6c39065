package pgxstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/headrace-go/headrace/store"
)

// Open returns a store whose units of work run on connections of the pool, which
// stays the caller's. cfg.Dialect may be left empty. Errors are those of
// store.Open.
func Open(ctx context.Context, pool *pgxpool.Pool, cfg store.Config) (*store.Store, error) {
	if pool == nil {
		return nil, errors.New("pgxstore: Open needs a pool")
	}
	if cfg.Dialect == "" {
		cfg.Dialect = store.Postgres
	}
	if cfg.Dialect != store.Postgres {
		return nil, fmt.Errorf("pgxstore: Config.Dialect is %q, but pgx speaks to Postgres", cfg.Dialect)
	}
	db := sql.OpenDB(connector{stdlib.GetPoolConnector(pool)})
	// The pool keeps the idle connections, and bounds their number; told of the
	// bound, database/sql can say so in its errors.
	db.SetMaxIdleConns(0)
	db.SetMaxOpenConns(int(pool.Config().MaxConns))
	st, err := store.Open(ctx, db, cfg)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	st.OnClose(db.Close)
	return st, nil
}

type connector struct{ driver.Connector }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	raw, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("pgxstore: take a connection from the pool: %w", err)
	}
	std, ok := raw.(*stdlib.Conn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("pgxstore: the pool gave a %T", raw), raw.Close())
	}
	return &conn{Conn: std}, nil
}
