// Package driverconn runs a statement on a SQL driver's connection, with what
// database/sql does around it: arguments are checked and converted, and the
// statement is prepared where the driver runs no other.
package driverconn

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
)

var errOldDriver = errors.New(
	"headrace: the SQL driver lacks context support (driver.ExecerContext and QueryerContext, " +
		"or StmtExecContext and StmtQueryContext): take a newer version of it")

// Raw runs f on the driver's connection behind conn.
func Raw(conn *sql.Conn, f func(driver.Conn) error) error {
	return conn.Raw(func(raw any) error {
		dc, ok := raw.(driver.Conn)
		if !ok {
			return errOldDriver
		}
		return f(dc)
	})
}

// Exec runs a statement. The arguments are unconverted, and are converted in
// place.
func Exec(ctx context.Context, conn driver.Conn, query string, args []driver.NamedValue) (driver.Result, error) {
	args, err := checkArgs(conn, args)
	if err != nil {
		return nil, err
	}
	if execer, ok := conn.(driver.ExecerContext); ok {
		res, err := execer.ExecContext(ctx, query, args)
		if !errors.Is(err, driver.ErrSkip) {
			return res, err
		}
	}
	stmt, err := prepare(ctx, conn, query)
	if err != nil {
		return nil, err
	}
	exec, ok := stmt.(driver.StmtExecContext)
	if !ok {
		return nil, errors.Join(errOldDriver, stmt.Close())
	}
	res, err := exec.ExecContext(ctx, args)
	return res, errors.Join(err, stmt.Close())
}

// Query runs a query. free, unless it is nil, must be called when the rows are
// closed. Arguments are as for Exec.
func Query(ctx context.Context, conn driver.Conn, query string, args []driver.NamedValue) (
	rows driver.Rows, free func() error, err error,
) {
	if args, err = checkArgs(conn, args); err != nil {
		return nil, nil, err
	}
	if queryer, ok := conn.(driver.QueryerContext); ok {
		rows, err = queryer.QueryContext(ctx, query, args)
		if !errors.Is(err, driver.ErrSkip) {
			return rows, nil, err
		}
	}
	stmt, err := prepare(ctx, conn, query)
	if err != nil {
		return nil, nil, err
	}
	queryer, ok := stmt.(driver.StmtQueryContext)
	if !ok {
		return nil, nil, errors.Join(errOldDriver, stmt.Close())
	}
	if rows, err = queryer.QueryContext(ctx, args); err != nil {
		return nil, nil, errors.Join(err, stmt.Close())
	}
	return rows, stmt.Close, nil
}

// Begin begins a transaction.
func Begin(ctx context.Context, conn driver.Conn, opts driver.TxOptions) (driver.Tx, error) {
	beginner, ok := conn.(driver.ConnBeginTx)
	if !ok {
		return nil, errOldDriver
	}
	return beginner.BeginTx(ctx, opts)
}

func prepare(ctx context.Context, conn driver.Conn, query string) (driver.Stmt, error) {
	if p, ok := conn.(driver.ConnPrepareContext); ok {
		return p.PrepareContext(ctx, query)
	}
	return conn.Prepare(query)
}

// checkArgs does for the driver what database/sql does: it asks the connection's
// own checker and falls back to the default conversion. It works in args, which
// belong to one statement.
func checkArgs(conn driver.Conn, args []driver.NamedValue) ([]driver.NamedValue, error) {
	checker, _ := conn.(driver.NamedValueChecker)
	checked := args[:0]
	for i := range args {
		arg, err := &args[i], driver.ErrSkip
		if checker != nil {
			err = checker.CheckNamedValue(arg)
		}
		switch {
		case errors.Is(err, driver.ErrRemoveArgument):
			continue
		case errors.Is(err, driver.ErrSkip):
			if arg.Value, err = driver.DefaultParameterConverter.ConvertValue(arg.Value); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		}
		arg.Ordinal = len(checked) + 1
		checked = append(checked, *arg)
	}
	return checked, nil
}
