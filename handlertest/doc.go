// Package handlertest looks for what breaks a message handler. It delivers the
// handler's messages twice, out of order and to two instances at once, stops its
// process before and after each statement, publish, commit and ack, makes
// statements, publishes and commits fail, loses a commit's answer, stops the
// outbox's relay before it has confirmed a message, and asks after every such run
// whether an invariant still holds. What it reports is the shortest sequence of events that
// breaks it, in words, with Headrace and without:
//
//	func TestReserve(t *testing.T) {
//		handlertest.Run(t, handlertest.Case{
//			Schema:   strings.Split(schema, ";"), // CREATE TABLE …, INSERT INTO …
//			Handler:  func(app handlertest.App) message.NoPublishHandlerFunc { return newShop(app.DB, app.Publisher).Reserve },
//			Messages: []*message.Message{order("o1"), order("o2")},
//			Order:    handlertest.PerKey,
//			Invariant: func(ctx context.Context, s handlertest.State) error {
//				// Each of s.Sent has taken one piece, and is announced once in s.Published.
//			},
//		})
//	}
//
// # How a run goes
//
// Messages are delivered in order, one at a time, each once, but for the faults of
// this run. All sequences without a fault are tried first, then all with one, then
// those with two, and so on up to Case.Runs, those with fewer messages and events
// before others: the first that breaks the invariant is the shortest. Nothing is
// left to chance: between two statements one goroutine decides who goes on, so
// that a sequence can be run again by its code (Case.Replay). Only where an
// instance waits for a lock that the other one holds do both go on by themselves.
//
// A process that stops does nothing any more: its open transactions are undone,
// what it kept in memory is lost (the handler is built anew), and its message is
// delivered again. What had really been published stays published.
//
// A commit fails with its connection: before it took effect, or after, so that
// what it returns is an error though the transaction is in. The outbox's relay
// sends again what it has not confirmed, with the same UUIDs (State.Published,
// State.Deduped).
//
// # What it can't see
//
// Calls to the outside world are made, and made again: count them in a fake that
// Case.Setup clears, and let the invariant look. Faults between two instructions
// that touch neither database nor publisher are tried only at the gates around
// them. Variables of packages are shared by all instances, as they are not in real
// processes.
package handlertest
