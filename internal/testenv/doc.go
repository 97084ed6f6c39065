// Package testenv gives tests the real services that they run against: fresh
// schemas and databases, broker addresses, topic names of their own, and the two
// things every test package needs, a goroutine leak check and a bounded wait.
//
// The services come from scripts/brokers. Where one is missing the test fails
// and says how to bring it up; it is never skipped, because a skipped test looks
// like a passed one.
package testenv
