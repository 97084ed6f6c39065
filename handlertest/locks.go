package handlertest

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/headrace-go/headrace/store"
)

// identify asks the database for the number of a connection, where it can say
// later whether that one waits for a lock.
func (e *environment) identify(ctx context.Context, c *conn) error {
	query := map[store.Dialect]string{
		store.Postgres: "SELECT pg_backend_pid()",
		store.MySQL:    "SELECT connection_id()",
	}[e.c.Store.Dialect]
	if query == "" {
		return nil
	}
	if err := c.real.QueryRowContext(ctx, query).Scan(&c.id); err != nil {
		return fmt.Errorf("handlertest: ask a connection for its number: %w", err)
	}
	return nil
}

// lookInterval is how often the database is asked meanwhile whether an instance
// waits for a lock. InnoDB answers from a copy, and makes a new one only when
// nobody has read it for 100 ms.
func (e *environment) lookInterval() time.Duration {
	if e.c.Store.Dialect == store.MySQL {
		return 110 * time.Millisecond
	}
	return 5 * time.Millisecond
}

// locked reports whether a process is known to wait for a lock. A database that
// doesn't tell (MySQL asks for the privilege PROCESS) leaves it to patience.
func (e *environment) locked(ctx context.Context, p *process) bool {
	p.mu.Lock()
	ids := make([]string, 0, len(p.conns))
	for c := range p.conns {
		if c.id != 0 {
			ids = append(ids, strconv.FormatInt(c.id, 10))
		}
	}
	p.mu.Unlock()
	if len(ids) == 0 {
		return false
	}
	query := "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND pid IN (%s))"
	if e.c.Store.Dialect == store.MySQL {
		query = "SELECT EXISTS (SELECT 1 FROM information_schema.innodb_trx " +
			"WHERE trx_state = 'LOCK WAIT' AND trx_mysql_thread_id IN (%s))"
	}
	var waits bool
	err := e.db.QueryRowContext(ctx, fmt.Sprintf(query, strings.Join(ids, ", "))).Scan(&waits)
	return err == nil && waits
}
