package brokers

import (
	"context"
	"time"
)

// Capabilities says what an open broker can do. Each field states what the
// conformance suite checks; a zero value promises nothing.
type Capabilities struct {
	// Name of the kind of broker: "mem", "kafka", "sqs-fifo".
	Name string

	// Groups: several consumer groups on one topic each hear all messages,
	// from the oldest that the broker still has. Without it a second group on
	// one queue is refused.
	Groups bool

	// KeyOrder: messages of one key (msgmeta.Key) are delivered in the order in
	// which they were published, never two at once within a group. A nacked one
	// comes again before its successors.
	KeyOrder bool

	// TotalOrder: as KeyOrder, over all messages of a topic, with or without key.
	TotalOrder bool

	// Lanes: messages of several keys are in flight at once within one
	// subscription, and a message that is nacked again and again doesn't hold up
	// other keys.
	Lanes bool

	// Durable: messages survive the death of every process that uses the broker.
	Durable bool

	// JoinsTx: a handler's writes and its ack are one transaction (join=true).
	JoinsTx bool

	// NilPayload: a nil payload comes back as nil. Without it, it comes back
	// empty.
	NilPayload bool

	// MaxBody is the greatest payload in bytes that Publish takes, 0 when there
	// is no limit. Metadata may count against the broker's own limit as well;
	// such a message is refused on publish too.
	MaxBody int

	// AckDeadline is how long a live consumer may hold a message before it is
	// given to somebody else; 0 when it may hold it for ever.
	AckDeadline time.Duration

	// Takeover is how long a consumer process may be frozen, or cut off with its
	// connections open, before what it has in hand is given to another one; 0
	// when that may take for ever. A process that dies is noticed at least as soon.
	Takeover time.Duration

	// RedeliveryWindow is how long after its first delivery another copy of a
	// message may still come; 0 when unknown or unbounded.
	RedeliveryWindow time.Duration

	// SendDedup is how long a second Publish of one message under the same send id
	// (msgmeta.SendID) is dropped, whatever became of the first; 0 when it isn't.
	SendDedup time.Duration

	// Backlog counts the messages of a topic that a group has not acked yet. It
	// is nil when the broker can't tell.
	Backlog func(ctx context.Context, topic, group string) (int64, error)

	// Topic returns the same with the limits of one topic: its own MaxBody and
	// RedeliveryWindow. Publish goes by the broker's. It is nil when topics have
	// no limits of their own.
	Topic func(ctx context.Context, topic string) (Capabilities, error)
}
