package pgxstore

import (
	"bytes"
	"context"
	"database/sql/driver"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/headrace-go/headrace/store"
)

// Join returns a context whose InTx, Tx, JoinDB and outbox publishes use a
// transaction that the caller began and will end. See store.Store.Join for what
// that means for hooks.
func Join(ctx context.Context, st *store.Store, tx pgx.Tx) context.Context {
	return st.JoinSession(ctx, session{tx})
}

// session runs the store's statements on a pgx.Tx.
type session struct{ tx pgx.Tx }

func (s session) Exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	tag, err := s.tx.Exec(ctx, query, plain(args)...)
	if err != nil {
		return nil, err
	}
	return driver.RowsAffected(tag.RowsAffected()), nil
}

func (s session) Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := s.tx.Query(ctx, query, append([]any{binaryResults}, plain(args)...)...)
	if err != nil {
		return nil, err
	}
	return &driverRows{rows: rows, types: s.tx.Conn().TypeMap()}, nil
}

func plain(args []driver.NamedValue) []any {
	values := make([]any, len(args))
	for i, arg := range args {
		values[i] = arg.Value
	}
	return values
}

// binaryResults are the types that have a value of their own in database/sql, the
// same as in pgx's stdlib. All others come as text.
var binaryResults = pgx.QueryResultFormatsByOID{ //nolint:gochecknoglobals // a constant
	pgtype.BoolOID:        pgx.BinaryFormatCode,
	pgtype.ByteaOID:       pgx.BinaryFormatCode,
	pgtype.DateOID:        pgx.BinaryFormatCode,
	pgtype.Float4OID:      pgx.BinaryFormatCode,
	pgtype.Float8OID:      pgx.BinaryFormatCode,
	pgtype.Int2OID:        pgx.BinaryFormatCode,
	pgtype.Int4OID:        pgx.BinaryFormatCode,
	pgtype.Int8OID:        pgx.BinaryFormatCode,
	pgtype.TimestampOID:   pgx.BinaryFormatCode,
	pgtype.TimestamptzOID: pgx.BinaryFormatCode,
}

// driverRows gives pgx.Rows the form of a SQL driver's.
type driverRows struct {
	rows  pgx.Rows
	types *pgtype.Map
}

func (r *driverRows) Columns() []string {
	fields := r.rows.FieldDescriptions()
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	return names
}

func (r *driverRows) Close() error {
	r.rows.Close()
	return r.rows.Err()
}

func (r *driverRows) Next(dest []driver.Value) error {
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	fields := r.rows.FieldDescriptions()
	for i, raw := range r.rows.RawValues() {
		var err error
		if dest[i], err = r.value(fields[i], raw); err != nil {
			return fmt.Errorf("column %s: %w", fields[i].Name, err)
		}
	}
	return nil
}

func (r *driverRows) value(field pgconn.FieldDescription, raw []byte) (driver.Value, error) {
	if raw == nil {
		return nil, nil //nolint:nilnil // NULL
	}
	if field.DataTypeOID == pgtype.JSONOID || field.DataTypeOID == pgtype.JSONBOID {
		return bytes.Clone(raw), nil
	}
	known, ok := r.types.TypeForOID(field.DataTypeOID)
	if !ok || field.Format == pgx.TextFormatCode && binaryResults[field.DataTypeOID] == pgx.TextFormatCode {
		return string(raw), nil
	}
	return known.Codec.DecodeDatabaseSQLValue(r.types, field.DataTypeOID, field.Format, raw)
}
