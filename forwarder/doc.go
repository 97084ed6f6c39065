// Package forwarder sends messages that were written in a database transaction.
//
// The Outbox writes messages beside the domain's rows, so that both are
// committed or neither is. The Forwarder relays what was committed to any
// message.Publisher: many keys at once, each key in order, with no database
// transaction open while it publishes. Several forwarders share the outbox's
// partitions by leases.
//
// A crash between a publish and its confirmation makes the forwarder publish
// again: brokers and consumers see such a message twice, with the same UUID.
// Dedupe on the receiving side (package middleware) makes that harmless.
package forwarder
