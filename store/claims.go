package store

// Claim is the right to work a line until it is over or taken: to handle its
// messages one after another. Names are in the form in which they are stored.
type Claim struct {
	Consumer, Line, Key string
	// Owner has it, and must be unique per process start. Epoch grows with each claim
	// of the line, and with each end of one.
	Owner string
	Epoch int64
	// Stalls is how many claims in a row have ended without their owner's word, with
	// the same message at the head: one that ends its process.
	Stalls int
	// Paused: a person has begun to hold the line since.
	Paused bool
	// Gone is how many messages have left the line since the last renewal.
	Gone int64
}

// HeldRef is a message that is handled under a claim.
type HeldRef struct {
	Claim

	// ID is the kept message's.
	ID int64
	// InboxID is what the inbox knows it by, in the form in which it is stored.
	InboxID string
}
