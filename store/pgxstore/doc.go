// Package pgxstore runs units of work on a pgxpool.Pool and gives handlers the
// native pgx.Tx. It is the only package of the core that imports pgx; whoever
// uses database/sql with any driver needs only package store.
//
// A unit's BEGIN travels with its first statement, in one round trip. For Dedupe
// that statement is the insert into the inbox.
package pgxstore
