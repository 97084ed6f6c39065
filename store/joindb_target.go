package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
)

// target is where a statement of a joining connection runs.
type target interface {
	exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error)
	query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error)
}

// target returns where the unit's statements run: on the driver's connection
// where the unit owns it, through database/sql where it was given a *sql.Tx.
func (u *Unit) target() target {
	if u.conn != nil {
		return unitTarget{unit: u, to: ownTarget{u.conn.Conn}}
	}
	return unitTarget{unit: u, to: foreignTarget{u.session}}
}

// unitTarget passes statements through the unit's guard.
type unitTarget struct {
	unit *Unit
	to   target
}

func (t unitTarget) exec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	err = t.unit.run(ctx, query, func() (err error) {
		res, err = t.to.exec(ctx, query, args)
		return err
	})
	return res, err
}

func (t unitTarget) query(ctx context.Context, query string, args []driver.NamedValue) (rows driver.Rows, err error) {
	err = t.unit.run(ctx, query, func() (err error) {
		rows, err = t.to.query(ctx, query, args)
		return err
	})
	if err != nil {
		return nil, err
	}
	return guardDriverRows(rows, t.unit), nil
}

// ownTarget runs statements on the driver's connection behind a *sql.Conn, with
// the argument checks that database/sql would have made for it.
type ownTarget struct{ conn *sql.Conn }

func (t ownTarget) exec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	err = t.raw(func(conn driver.Conn) error {
		if args, err = checkArgs(conn, args); err != nil {
			return err
		}
		if execer, ok := conn.(driver.ExecerContext); ok {
			res, err = execer.ExecContext(ctx, query, args)
			if !errors.Is(err, driver.ErrSkip) {
				return err
			}
		}
		return prepared(ctx, conn, query, func(stmt driver.StmtExecContext) (err error) {
			res, err = stmt.ExecContext(ctx, args)
			return err
		})
	})
	return res, err
}

func (t ownTarget) query(ctx context.Context, query string, args []driver.NamedValue) (rows driver.Rows, err error) {
	err = t.raw(func(conn driver.Conn) error {
		if args, err = checkArgs(conn, args); err != nil {
			return err
		}
		if queryer, ok := conn.(driver.QueryerContext); ok {
			rows, err = queryer.QueryContext(ctx, query, args)
			if !errors.Is(err, driver.ErrSkip) {
				return err
			}
		}
		stmt, err := prepare(ctx, conn, query)
		if err != nil {
			return err
		}
		queryStmt, ok := stmt.(driver.StmtQueryContext)
		if !ok {
			return errors.Join(errOldDriver, stmt.Close())
		}
		if rows, err = queryStmt.QueryContext(ctx, args); err != nil {
			return errors.Join(err, stmt.Close())
		}
		rows = &stmtRows{Rows: rows, stmt: stmt}
		return nil
	})
	return rows, err
}

func (t ownTarget) raw(f func(driver.Conn) error) error {
	return t.conn.Raw(func(raw any) error {
		conn, ok := raw.(driver.Conn)
		if !ok {
			return errOldDriver
		}
		return f(conn)
	})
}

var errOldDriver = errors.New("store: the SQL driver lacks context support (driver.ExecerContext or StmtExecContext)")

func prepare(ctx context.Context, conn driver.Conn, query string) (driver.Stmt, error) {
	if p, ok := conn.(driver.ConnPrepareContext); ok {
		return p.PrepareContext(ctx, query)
	}
	return conn.Prepare(query)
}

func prepared(ctx context.Context, conn driver.Conn, query string, f func(driver.StmtExecContext) error) error {
	stmt, err := prepare(ctx, conn, query)
	if err != nil {
		return err
	}
	execStmt, ok := stmt.(driver.StmtExecContext)
	if !ok {
		return errors.Join(errOldDriver, stmt.Close())
	}
	return errors.Join(f(execStmt), stmt.Close())
}

// stmtRows closes the statement it came from.
type stmtRows struct {
	driver.Rows
	stmt driver.Stmt
}

func (r *stmtRows) Close() error { return errors.Join(r.Rows.Close(), r.stmt.Close()) }

// checkArgs does for the driver what database/sql does: it asks the connection's
// own checker and falls back to the default conversion.
func checkArgs(conn driver.Conn, args []driver.NamedValue) ([]driver.NamedValue, error) {
	checker, _ := conn.(driver.NamedValueChecker)
	checked := args[:0:0]
	for _, arg := range args {
		err := driver.ErrSkip
		if checker != nil {
			err = checker.CheckNamedValue(&arg)
		}
		switch {
		case errors.Is(err, driver.ErrRemoveArgument):
			continue
		case errors.Is(err, driver.ErrSkip):
			if arg.Value, err = defaultValue(arg.Value); err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		}
		checked = append(checked, arg)
	}
	return checked, nil
}

func defaultValue(v any) (driver.Value, error) {
	return driver.DefaultParameterConverter.ConvertValue(v)
}

// beginOwn begins a transaction outside of any unit. Its waits for locks are
// bounded like a unit's, because a transaction that lost its message's context
// may wait for its own unit.
func (c *joinConn) beginOwn(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	t, err := c.target(ctx, "BEGIN")
	if err != nil {
		return nil, err
	}
	own, ok := t.(ownTarget)
	if !ok {
		return nil, ErrUnitOver
	}
	var tx driver.Tx
	err = own.raw(func(conn driver.Conn) error {
		begin, ok := conn.(driver.ConnBeginTx)
		if !ok {
			return errOldDriver
		}
		tx, err = begin.BeginTx(ctx, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, statement := range c.store.begin.bounds {
		if _, err := own.exec(ctx, statement, nil); err != nil {
			return nil, errors.Join(err, tx.Rollback())
		}
	}
	return tx, nil
}

// foreignTarget runs statements on a *sql.Tx that somebody else began.
type foreignTarget struct{ session session }

func (t foreignTarget) exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return t.session.ExecContext(ctx, query, plainArgs(args)...)
}

func (t foreignTarget) query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := t.session.QueryContext(ctx, query, plainArgs(args)...)
	if err != nil {
		return nil, err
	}
	columns, err := rows.Columns()
	if err != nil {
		return nil, errors.Join(err, rows.Close())
	}
	return &foreignRows{rows: rows, columns: columns}, nil
}

func plainArgs(args []driver.NamedValue) []any {
	plain := make([]any, len(args))
	for i, arg := range args {
		plain[i] = arg.Value
		if arg.Name != "" {
			plain[i] = sql.Named(arg.Name, arg.Value)
		}
	}
	return plain
}

// foreignRows turns *sql.Rows back into the driver's form.
type foreignRows struct {
	rows    *sql.Rows
	columns []string
}

func (r *foreignRows) Columns() []string { return r.columns }

func (r *foreignRows) Close() error { return r.rows.Close() }

func (r *foreignRows) Next(dest []driver.Value) error {
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	values := make([]any, len(dest))
	for i := range values {
		values[i] = new(any)
	}
	if err := r.rows.Scan(values...); err != nil {
		return err
	}
	for i, v := range values {
		dest[i] = *v.(*any) //nolint:forcetypeassert // made above
	}
	return nil
}
