package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// VersionColumns says where the rows of a table of the user's own hold their versions.
// Names are written into statements as they are.
type VersionColumns struct {
	// Type of the entities that are rows of the table. Required.
	Type string
	// Table, with its schema where it needs one. Required.
	Table string
	// ID is the column that holds the entity's id; no two rows may have one. Required.
	ID string
	// Columns are integers or text, by the group of fields whose version they hold; that
	// of "" is the version of all. NULL, and an empty text, is no version. At least one is
	// required; groups that have none are kept in Headrace's table.
	Columns map[string]string
}

// RowVersion is what a column of a user's row holds.
type RowVersion struct {
	Entity Entity // as it was asked for
	Group  string
	// Value is an int64 or a string that is not empty.
	Value any
}

// name is what needs no thought about where a statement's text ends: plain names, or
// quoted ones without a quote in them.
var name = regexp.MustCompile("^(\\w+|\"[^\"\\\\]+\"|`[^`\\\\]+`)(\\.(\\w+|\"[^\"\\\\]+\"|`[^`\\\\]+`))*$")

// Validate returns what is wrong with it.
func (c VersionColumns) Validate() error {
	switch {
	case c.Type == "":
		return errors.New("store: VersionColumns.Type is required: it says which entities are rows of the table")
	case len(c.Columns) == 0:
		return fmt.Errorf("store: VersionColumns of %q needs Columns: the column of each group of fields, or of \"\" for all",
			c.Type)
	}
	for _, given := range append([]string{c.Table, c.ID}, slices.Collect(maps.Values(c.Columns))...) {
		if !name.MatchString(given) {
			return fmt.Errorf("store: VersionColumns of %q: %q is no name of a table or column", c.Type, given)
		}
	}
	return nil
}

// groups are in one order, which is that of the statements' columns.
func (c VersionColumns) groups() []string { return slices.Sorted(maps.Keys(c.Columns)) }

// ErrVersionColumn says that a column holds neither integers of 64 bits nor text, or that
// no row can have an entity's id.
var ErrVersionColumn = errors.New("version can't be read from its column")

// RowVersions locks the rows of entities until the unit of work ends, in the order of
// their ids, and returns what versions they hold. Entities of another type, and those
// without a row, have none. Each is a statement of its own.
// Errors match ErrVersionColumn, or are the database's.
func (s *Store) RowVersions(ctx context.Context, tx Tx, c VersionColumns, entities ...Entity) (all []RowVersion, err error) {
	groups := c.groups()
	columns := make([]string, len(groups))
	for i, group := range groups {
		columns[i] = c.Columns[group]
	}
	query := "SELECT " + strings.Join(columns, ", ") + " FROM " + c.Table + " WHERE " + c.ID + " = ?" + s.dialect.forUpdate()
	for _, entity := range c.rowsOf(entities) {
		if !utf8.ValidString(entity.ID) || strings.ContainsRune(entity.ID, 0) {
			return nil, fmt.Errorf("store: row of %s: %w: its id is no text", c.Table, ErrVersionColumn)
		}
		values, err := rowOf(ctx, tx, len(columns), query, entity.ID)
		if err != nil {
			return nil, fmt.Errorf("store: read versions of %s: %w", c.Table, err)
		}
		for i, value := range values {
			if value, err = columnValue(value); err != nil {
				return nil, fmt.Errorf("store: column %s of %s: %w", columns[i], c.Table, err)
			}
			if value != nil {
				all = append(all, RowVersion{Entity: entity, Group: groups[i], Value: value})
			}
		}
	}
	return all, nil
}

// rowsOf are the entities that are rows of the table, each once, in the order in which
// they are locked.
func (c VersionColumns) rowsOf(entities []Entity) []Entity {
	rows := slices.DeleteFunc(slices.Clone(entities), func(e Entity) bool { return e.Type != c.Type })
	slices.SortFunc(rows, Entity.compare)
	return slices.Compact(rows)
}

// rowOf returns the first row's values; none when there is no row.
func rowOf(ctx context.Context, tx Tx, columns int, query string, args ...any) (values []any, err error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	if rows.Next() {
		values = make([]any, columns)
		into := make([]any, columns)
		for i := range values {
			into[i] = &values[i]
		}
		err = rows.Scan(into...)
	}
	return values, errors.Join(err, rows.Err(), rows.Close())
}

// columnValue is an int64, a string or nil, whatever the driver makes of it.
func columnValue(value any) (any, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil //nolint:nilnil // NULL
	case []byte:
		return columnValue(string(v))
	case string:
		if v == "" {
			return nil, nil //nolint:nilnil // as NULL
		}
		return v, nil
	}
	switch v := reflect.ValueOf(value); {
	case v.CanInt():
		return v.Int(), nil
	case v.CanUint() && v.Uint() <= math.MaxInt64:
		return int64(v.Uint()), nil //nolint:gosec // as compared
	}
	return nil, fmt.Errorf("%w: there is %T in it", ErrVersionColumn, value)
}

// SetRowVersions writes versions, of one entity, into its row, and reports whether there
// is one. Groups without a column are left out.
func (s *Store) SetRowVersions(ctx context.Context, tx Tx, c VersionColumns, rows ...RowVersion) (there bool, err error) {
	var set []string
	var args []any
	for _, row := range rows {
		if column, ok := c.Columns[row.Group]; ok {
			set, args = append(set, column+" = ?"), append(args, row.Value)
		}
	}
	if len(set) == 0 {
		return false, nil
	}
	where := " WHERE " + c.ID + " = ?"
	id := rows[0].Entity.ID
	result, err := tx.ExecContext(ctx, "UPDATE "+c.Table+" SET "+strings.Join(set, ", ")+where, append(args, id)...)
	if err == nil {
		var changed int64
		if changed, err = result.RowsAffected(); changed > 0 && err == nil {
			return true, nil
		}
	}
	if err == nil { // MySQL may not count a row that has the version already
		var n int
		err = tx.GetContext(ctx, &n, "SELECT count(*) FROM "+c.Table+where, id)
		there = n > 0
	}
	if err != nil {
		return false, fmt.Errorf("store: write versions to %s: %w", c.Table, err)
	}
	return there, nil
}
