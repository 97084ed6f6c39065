// Package middleware holds Headrace's middlewares for Watermill routers. Each
// works alone on any router and subscriber, and several compose in one database
// transaction.
//
// # Beside Watermill's own middlewares
//
// Retry, Recoverer, Timeout and CorrelationID may stand on either side of Dedupe:
//
//   - outside (added before it): Retry then runs each attempt in a transaction of
//     its own, which is what most want;
//   - inside: all of Retry's attempts share one transaction. On Postgres a failed
//     statement leaves it aborted, so that later attempts can't succeed.
//
// PoisonQueue belongs outside, and its publisher should be an outbox publisher:
// inside, a poisoned message would count as handled while its copy is lost with
// a crash. Watermill's Deduplicator must not be used beside Dedupe: it marks a
// message as seen before the handler has done its work.
package middleware
