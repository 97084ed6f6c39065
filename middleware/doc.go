// Package middleware holds Headrace's middlewares for Watermill routers. Each
// works alone on any router and subscriber, and several compose in one database
// transaction.
//
// Parking belongs outside of Dedupe: it sees a failure when it has been rolled back.
//
// # Beside Watermill's own middlewares
//
// Outside of Dedupe (added before it) is the right side for all of them. There a
// failure has already been rolled back when they see it.
//
//   - Retry: outside, each attempt is a transaction of its own. Inside, all
//     attempts share one, and what a failed attempt wrote before it failed stays
//     in it: a handler that adds to a number adds twice. On Postgres a statement
//     that failed makes all later attempts within the transaction fail too.
//   - Recoverer: either side. A panic rolls back in any case; without a
//     Recoverer it also ends the process.
//   - Timeout: either side. A handler that returns nil after its time was over is
//     committed, with the messages that it returned.
//   - CorrelationID: either side. Outside it sees none of the returned messages,
//     which go to the outbox, so Dedupe itself passes the id on.
//   - PoisonQueue: outside. What failed is rolled back, its copy goes to the
//     poison queue, and the message is not remembered as handled, so that it can
//     be sent again. Inside, the failure is swallowed before Dedupe sees it: what
//     the handler wrote before it failed is committed and the message counts as
//     handled. Its publisher may be the broker's or an outbox's, which takes what
//     is put aside without a key too, and in strict mode.
//   - IgnoreErrors: outside, where what failed is rolled back and acked. Inside,
//     what the handler wrote before it failed is committed.
//   - Throttle, CircuitBreaker, DelayOnError, RandomFail: outside. Inside, a
//     waiting Throttle holds a transaction open.
//   - Duplicator: outside, where the second call is a duplicate. Inside, the
//     handler runs twice in one transaction and has its effects twice.
//   - Deduplicator: neither. It marks a message as seen before the handler has
//     done its work, and so loses what fails.
//   - InstantAck: neither. What fails, or is cut off by a crash, doesn't come
//     again. In a subscriber's own transaction (join=true) nothing is handled: the
//     ack ends the transaction before the handler begins.
package middleware
