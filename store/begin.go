package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// beginner holds the statements that open a transaction with the configured
// isolation and a bounded wait for locks, in as few round trips as the database
// allows.
//
// They are sent as plain SQL on a *sql.Conn and not by BeginTx, because a
// *sql.Tx can neither say BEGIN IMMEDIATE nor lend its driver connection to
// JoinDB.
type beginner struct {
	statements []string
	// commit must fail where the database would otherwise turn COMMIT of an
	// aborted transaction into a ROLLBACK that looks like success.
	commit string
	// bounds limit the waits for locks in a transaction that the driver began.
	bounds []string
}

func (s *Store) newBeginner(ctx context.Context) (beginner, error) {
	isolation, err := isolationSQL(s.cfg.Isolation)
	if err != nil {
		return beginner{}, err
	}
	switch s.dialect {
	case Postgres:
		begin := "BEGIN ISOLATION LEVEL " + isolation
		set, err := s.postgresLockTimeout(ctx)
		if err != nil {
			return beginner{}, err
		}
		// One message of the simple protocol: pgx and lib/pq both use it for
		// statements without arguments. "SELECT 1" fails in an aborted
		// transaction, and then COMMIT isn't reached.
		b := beginner{statements: []string{begin}, commit: "SELECT 1; COMMIT"}
		if set != "" {
			b.statements[0] += "; " + set
			b.bounds = []string{set}
		}
		return b, nil
	case MySQL:
		return s.mysqlBeginner(ctx, isolation)
	case SQLite:
		return beginner{statements: []string{"BEGIN IMMEDIATE"}, commit: "COMMIT"}, nil
	}
	return beginner{}, s.dialect.validate()
}

// postgresLockTimeout returns the statement that bounds waits for locks, or
// nothing where the connection's own bound is shorter.
func (s *Store) postgresLockTimeout(ctx context.Context) (string, error) {
	var ms int64
	err := s.db.GetContext(ctx, &ms, "SELECT setting::bigint FROM pg_settings WHERE name = 'lock_timeout'")
	if err != nil {
		return "", err
	}
	want := max(s.cfg.LockTimeout.Milliseconds(), 1)
	if ms > 0 && ms <= want {
		return "", nil
	}
	return fmt.Sprintf("SET LOCAL lock_timeout = %d", want), nil
}

func (s *Store) mysqlBeginner(ctx context.Context, isolation string) (beginner, error) {
	var session struct {
		LockWait  int64  `db:"lock_wait"`
		Isolation string `db:"isolation"`
	}
	variable := "@@transaction_isolation"
	query := "SELECT @@innodb_lock_wait_timeout AS lock_wait, " + variable + " AS isolation"
	if err := s.db.GetContext(ctx, &session, query); err != nil {
		// MariaDB before 11.1 knows it only by its older name.
		query = "SELECT @@innodb_lock_wait_timeout AS lock_wait, @@tx_isolation AS isolation"
		if err := s.db.GetContext(ctx, &session, query); err != nil {
			return beginner{}, err
		}
	}
	b := beginner{commit: "COMMIT"}
	want := max(int64(s.cfg.LockTimeout/time.Second), 1)
	if session.LockWait > want {
		b.bounds = []string{fmt.Sprintf("SET SESSION innodb_lock_wait_timeout = %d", want)}
	}
	b.statements = append(b.statements, b.bounds...)
	if session.Isolation != strings.ReplaceAll(isolation, " ", "-") {
		b.statements = append(b.statements, "SET TRANSACTION ISOLATION LEVEL "+isolation)
	}
	b.statements = append(b.statements, "START TRANSACTION")
	return b, nil
}

func (b beginner) run(ctx context.Context, conn *sqlx.Conn) error {
	for _, statement := range b.statements {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
