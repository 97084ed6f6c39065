package driverconn_test

import (
	"context"
	"database/sql/driver"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/driverconn"
)

// old is a driver of before contexts, which runs nothing.
type old struct{}

func (old) Prepare(string) (driver.Stmt, error) { return oldStmt{}, nil }
func (old) Close() error                        { return nil }
func (old) Begin() (driver.Tx, error)           { return nil, driver.ErrSkip }

type oldStmt struct{ driver.Stmt }

func (oldStmt) Close() error { return nil }

// preparing runs prepared statements only, and says so as drivers do.
type preparing struct {
	old

	ran    []driver.NamedValue
	closed int
}

func (p *preparing) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return nil, driver.ErrSkip
}

func (p *preparing) PrepareContext(context.Context, string) (driver.Stmt, error) {
	return &preparedStmt{conn: p}, nil
}

type preparedStmt struct {
	driver.Stmt

	conn *preparing
}

func (s *preparedStmt) Close() error { s.conn.closed++; return nil }

func (s *preparedStmt) ExecContext(_ context.Context, args []driver.NamedValue) (driver.Result, error) {
	s.conn.ran = args
	return driver.RowsAffected(1), nil
}

func (s *preparedStmt) QueryContext(_ context.Context, args []driver.NamedValue) (driver.Rows, error) {
	s.conn.ran = args
	return rows{}, nil
}

type rows struct{}

func (rows) Columns() []string         { return nil }
func (rows) Close() error              { return nil }
func (rows) Next([]driver.Value) error { return io.EOF }

func TestWhatADriverRunsOnlyPreparedIsPrepared(t *testing.T) {
	t.Parallel()
	conn := &preparing{}
	arg := func() []driver.NamedValue { return []driver.NamedValue{{Ordinal: 1, Value: int8(7)}} }
	res, err := driverconn.Exec(t.Context(), conn, "UPDATE", arg())
	require.NoError(t, err)
	affected, err := res.RowsAffected()
	require.NoError(t, err)
	require.EqualValues(t, 1, affected)
	require.Equal(t, int64(7), conn.ran[0].Value, "converted as database/sql does")
	require.Equal(t, 1, conn.closed)

	_, free, err := driverconn.Query(t.Context(), conn, "SELECT", arg())
	require.NoError(t, err)
	require.Equal(t, 1, conn.closed, "its rows are still being read")
	require.NoError(t, free())
	require.Equal(t, 2, conn.closed)
}

func TestAnArgumentThatCannotBeConvertedIsRefused(t *testing.T) {
	t.Parallel()
	_, err := driverconn.Exec(t.Context(), &preparing{}, "UPDATE", []driver.NamedValue{{Ordinal: 1, Value: make(chan int)}})
	require.Error(t, err)
}

func TestADriverWithoutContextsIsRefused(t *testing.T) {
	t.Parallel()
	_, err := driverconn.Exec(t.Context(), old{}, "UPDATE", nil)
	require.ErrorContains(t, err, "lacks context support")
	_, _, err = driverconn.Query(t.Context(), old{}, "SELECT", nil)
	require.ErrorContains(t, err, "lacks context support")
	_, err = driverconn.Begin(t.Context(), old{}, driver.TxOptions{})
	require.ErrorContains(t, err, "lacks context support")
}
