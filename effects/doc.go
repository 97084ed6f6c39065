// Package effects makes calls to the outside world (a payment, a mail) that can't
// be rolled back, and makes them once.
//
// Before a call its intent is committed, and what came of it after. A repeat gets
// the stored response. Where a crash or a timeout leaves open whether a call has
// taken effect, it is made again only if the provider knows idempotency keys and
// still remembers this one, or if it can be asked and says that nothing has happened.
// Otherwise the effect is unknown, and waits for a person: see Settle.
//
// A unit of work can be rolled back and a call can't, so that Do refuses to run in
// one. Call it in a stage in front of Dedupe (Client.Stage). A call that a unit has
// to decide on is made in the stage of a message that the unit sends, to the service
// itself, by the outbox.
package effects
