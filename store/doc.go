// Package store is the only place in Headrace that speaks SQL. It holds the
// tables (one file each), their migrations, and the unit of work: the one
// transaction that a message's verdict, the handler's own writes and the
// messages it sends have in common.
//
// The package imports no SQL driver. Users open a *sql.DB with the driver that
// they already use (pgx or lib/pq, go-sql-driver/mysql, modernc.org/sqlite) and
// hand it to Open.
//
// # Joining
//
// InTx opens a transaction or joins the one in the context. Code that runs
// inside it reaches the transaction in one of these ways:
//
//   - TxFromContext: a small interface, with "?" placeholders on every database;
//   - SQLTx and SQLXTx: a *sql.Tx or *sqlx.Tx, for sqlc and the like;
//   - JoinDB and JoinDBX: a *sql.DB or *sqlx.DB whose statements join the
//     transaction in their context, so that existing code needs no change;
//   - store/pgxstore: a native pgx.Tx.
//
// Every one of them passes the same guard, so that a deadlock which the database
// answered by rolling back can't be followed by statements outside of any
// transaction, and so that the unit's length and statements are counted.
package store
