// Package crash_test kills real processes at every step that a message passes,
// and asks the user's own tables afterwards: was anything lost, was anything
// done twice?
//
// The processes are this test binary, started again with its configuration in an
// environment variable (child_test.go). What they run is the stock service of
// service_test.go: a consumer that keeps stock and sends a follow-up message
// through the outbox, a forwarder, and a second consumer of the follow-up. The
// test (run_test.go) keeps sending, kills, starts again, waits until all is
// drained, and compares (checker_test.go) what it sent with what the tables
// hold. Other tests stop a service in its own process, or take the database and
// the broker away from under it (outage_test.go). A service that calls a bank
// (payments_test.go) is killed at each point of a call (effects_test.go), and a relay
// (relaying_test.go) at each point of parking what its broker refuses
// (outgoing_test.go).
//
// The tests read Headrace's own tables only to learn that all is drained, and which
// calls wait for a person.
package crash_test
