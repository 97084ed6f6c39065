package store

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// MySQLError has the name and field of go-sql-driver's.
type MySQLError struct{ Number uint16 }

func (e *MySQLError) Error() string { return fmt.Sprintf("error %d", e.Number) }

// What InnoDB does after an error: row_mysql_handle_errors in its row0mysql.cc.
func TestMySQLErrorsThatRollTheTransactionBack(t *testing.T) {
	for number, want := range map[uint16]struct{ ends, retried bool }{
		1213: {ends: true, retried: true},
		1205: {ends: true, retried: true},
		1020: {ends: true, retried: true},
		1206: {ends: true},
		1062: {},
		1146: {},
	} {
		err := fmt.Errorf("wrapped: %w", &MySQLError{number})
		require.Equal(t, want.ends, MySQL.ends(err), number)
		require.Equal(t, want.retried, MySQL.contention(err), number)
	}
}
