package store

import (
	"context"
	"fmt"
)

// askFrom is from how many bytes on MySQL and MariaDB are asked how much they take.
const askFrom = 1 << 20

// fits refuses values that the server wouldn't take: MySQL closes the connection then,
// in the middle of the statement, so that the transaction is lost and the error may be
// one of the network.
func (s *Store) fits(ctx context.Context, tx Tx, values ...any) error {
	const around = 4 << 10 // of the statement itself
	size := 0
	for _, value := range values {
		switch v := value.(type) {
		case string:
			size += len(v)
		case []byte:
			size += len(v)
		}
	}
	if s.dialect != MySQL || size < askFrom {
		return nil
	}
	var most int
	if err := tx.GetContext(ctx, &most, "SELECT @@max_allowed_packet"); err != nil {
		return err
	}
	if size+around > most {
		return fmt.Errorf("%w: it has %d bytes, and the server's max_allowed_packet is %d: raise that", ErrContent, size, most)
	}
	return nil
}

// content marks an error that says that a value is too large for a column, a packet or
// a row.
func (s *Store) content(err error) error {
	if err == nil || !s.dialect.tooLarge(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrContent, err)
}

// tooLarge knows the databases' own refusals.
func (d Dialect) tooLarge(err error) bool {
	const (
		sqliteTooBig         = 18
		mysqlPacketTooLarge  = 1153
		mysqlDataTooLong     = 1406
		postgresProgramLimit = "54000"
		postgresTruncation   = "22001"
	)
	switch d {
	case Postgres:
		state := sqlState(err)
		return state == postgresProgramLimit || state == postgresTruncation
	case MySQL:
		number := mysqlNumber(err)
		return number == mysqlPacketTooLarge || number == mysqlDataTooLong
	default:
		return sqliteCode(err) == sqliteTooBig
	}
}
