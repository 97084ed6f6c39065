// Package recipes shows how code that knows nothing of Headrace joins its unit of
// work: one file per library, the same small repository in each, and one test that
// runs them all on every database.
//
// In each of them the only change is the handle that the repository is given:
//
//	database/sql  store.JoinDB(st) in place of the *sql.DB
//	sqlx          store.JoinDBX(st) in place of the *sqlx.DB
//	sqlc          store.JoinDB(st) as its DBTX
//	GORM          store.JoinDB(st) as the dialector's Conn
//	pgx           pgxstore.Tx(ctx) for the pgx.Tx, on a pgxpool
//
// What stays: the message's context must reach the statement, as in
// db.ExecContext(ctx, …) or db.WithContext(ctx). A statement without it runs on a
// connection of its own; store.Config.Strict refuses such statements by name.
package recipes

import "context"

// Stock is what each recipe implements, with its own library and its own
// transactions.
type Stock interface {
	// Receive adds to a product's stock and writes down why, in a transaction.
	Receive(ctx context.Context, product string, quantity int) error
	// Quantity of a product; 0 when it is unknown.
	Quantity(ctx context.Context, product string) (int, error)
	// Receipts lists the quantities that were received, in order.
	Receipts(ctx context.Context, product string) ([]int, error)
}
