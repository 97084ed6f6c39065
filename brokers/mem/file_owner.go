package mem

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"

	"modernc.org/sqlite"
)

// ownership is the mark of a live process on a queue file: a shared lock on a
// second file beside it, which the system drops when the process dies. Who can
// lock that file exclusively is alone, and every claim in the queue is a dead
// process's: a program that was killed and starts again needs not wait for its
// own claims to expire.
type ownership struct {
	db   *sql.DB
	conn *sql.Conn
}

// own takes the shared lock, and calls alone before it when no other live
// process uses the file.
func own(ctx context.Context, path string, alone func() error) (_ *ownership, err error) {
	o := &ownership{db: sql.OpenDB(sqliteConnector{
		dsn: "file:" + (&url.URL{Path: path + "-owners"}).EscapedPath() + "?_pragma=busy_timeout(0)",
	})}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()

	// The lock outlives the opening, whose context must not end it.
	if o.conn, err = o.db.Conn(context.WithoutCancel(ctx)); err != nil {
		return nil, fmt.Errorf("open the owners' file: %w", err)
	}
	exec := func(statement string) error {
		if _, err := o.conn.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("lock the owners' file: %w", err)
		}

		return nil
	}

	switch err := exec("BEGIN EXCLUSIVE"); {
	case err == nil:
		// A process that opens the file meanwhile waits for this one below.
		if err := errors.Join(alone(), exec("COMMIT")); err != nil {
			return nil, err
		}
	case !busy(err):
		return nil, err
	}

	// The table gives the file a page, without which there is nothing to lock.
	for _, statement := range []string{
		"PRAGMA busy_timeout = 10000",
		"BEGIN",
		"SELECT COUNT(*) FROM sqlite_schema",
	} {
		if err := exec(statement); err != nil {
			return nil, err
		}
	}

	return o, nil
}

func (o *ownership) close() error {
	if o == nil {
		return nil
	}
	var err error
	if o.conn != nil {
		err = o.conn.Close()
	}

	return errors.Join(err, o.db.Close())
}

// sqliteConnector opens a DSN through the driver's type, so that no driver name
// has to be agreed on with the program that imports this package.
type sqliteConnector struct{ dsn string }

func (c sqliteConnector) Connect(context.Context) (driver.Conn, error) {
	conn, err := c.Driver().Open(c.dsn)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}

	return conn, nil
}

func (sqliteConnector) Driver() driver.Driver { return &sqlite.Driver{} }
