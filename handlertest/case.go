package handlertest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Order is what the broker promises about the order of messages. Orders that it
// rules out are not tried.
type Order int

const (
	// Unordered lets any message overtake any other, and any two be handled at
	// once (SQS standard).
	Unordered Order = iota
	// PerKey keeps messages of one key in the order in which they were sent, and
	// never has two of them handled at once (Kafka, SQS FIFO).
	PerKey
	// Total keeps all messages in the order in which they were sent, one at a time.
	Total
)

// App is what a handler works with in one process: give it to the constructor
// that the service itself uses.
type App struct {
	// DB and Publisher are Headrace's (Plugin.DB, Plugin.Publisher), or the bare
	// ones in the runs without it.
	DB        *sql.DB
	Publisher message.Publisher
	// BareDB and BarePublisher are never Headrace's, for what a service does
	// beside it on purpose.
	BareDB        *sql.DB
	BarePublisher message.Publisher
}

// Published is a message that has reached the broker.
type Published struct {
	Topic   string
	Message *message.Message
}

// State is what an invariant looks at.
type State struct {
	// DB is the database as everybody sees it: what was committed.
	DB *sql.DB
	// Sent are the messages of this run: the first, the first two, and so on up to
	// all of Case.Messages.
	Sent []*message.Message
	// Published is what has reached the broker, in order. With Headrace that is
	// what the outbox's relay has sent by the end. A relay that stops before it has
	// confirmed what it sent sends it again, with the same UUID: what the next
	// consumer gets of it is Deduped.
	Published []Published
}

// Deduped is Published as a consumer behind Dedupe handles it: what comes to a
// topic with the UUID of an earlier message there is left out.
func (s State) Deduped() []Published {
	type identity struct{ topic, uuid string }
	seen := map[identity]bool{}
	var once []Published
	for _, p := range s.Published {
		if id := (identity{p.Topic, p.Message.UUID}); !seen[id] {
			seen[id] = true
			once = append(once, p)
		}
	}
	return once
}

// Case is a handler and what must hold of it. Handler or Returning, Messages and
// Invariant are required.
type Case struct {
	// DB is a database for tests, which is emptied before each run: tables that
	// have rows when Run starts (and Schema was executed) are left alone, all
	// others lose theirs. It needs 8 connections. Default: a SQLite
	// file of Run's own.
	DB *sql.DB
	// Schema are the statements that make the tables, executed once before anything
	// else; those that begin with INSERT are executed before each run. Empty ones
	// are skipped, so that a file can be split at its semicolons. Default: none, for
	// a DB that has its tables.
	Schema []string
	// Setup puts rows into the tables, before each run. Default: none.
	Setup func(ctx context.Context, db *sql.DB) error

	// Handler builds the handler of one process. It is called again whenever a
	// process starts: what the handler keeps in memory dies with its process.
	Handler func(app App) message.NoPublishHandlerFunc
	// Returning is Handler for handlers that return the messages to be published,
	// to the topic ReturnTopic (default "returned").
	Returning   func(app App) message.HandlerFunc
	ReturnTopic string

	// Messages are what the producer sends, in this order. Two or three that touch
	// the same rows find most faults; each more makes the search larger.
	Messages []*message.Message
	// Order is what the broker promises. Default Unordered.
	Order Order
	// Key gives a message's key for PerKey. Default: the metadata entry msgmeta.Key.
	Key keys.Func

	// Invariant must return nil when every message of State.Sent was handled, and
	// an error that says what is wrong otherwise.
	Invariant func(ctx context.Context, s State) error
	// Always must return nil at any time: it is also asked in the middle of a run,
	// between the statements of handlers. Default: none.
	Always func(ctx context.Context, s State) error

	// MustBreak fails the test when nothing breaks the invariant without Headrace
	// either: such an invariant may be one that can't fail. Leave it out for
	// handlers that are right by themselves.
	MustBreak bool

	// Runs bounds how many sequences of events are tried on each side. All with
	// one fault come first, then all with two; where those are too many, as many
	// of them as Seed chooses. Default 200.
	Runs int
	// Within bounds the search on each side too; a run that has begun is finished.
	// Runs are 5 ms on SQLite, 50 with the race detector or a server. Default 30 s.
	Within time.Duration
	// Seed chooses. Default 1: the same in every run.
	Seed uint64
	// Replay runs one sequence alone: the code that a failure prints. It holds for
	// as long as handler, messages and seed are the same.
	Replay string

	// Store and Dedupe are Headrace's finer settings, as the service has them.
	// Waits for locks end after two seconds here, unless it is set there.
	Store  store.Config
	Dedupe middleware.DedupeConfig
}

const (
	defaultRuns   = 200
	defaultWithin = 30 * time.Second
	// lockTimeout is shorter than the store's: who waits for long here waits in vain.
	// It is longer than patience, for databases that don't say who waits.
	lockTimeout = 2 * time.Second
	// consumer is the name under which the handler remembers messages.
	consumer = "handlertest"
)

func (c Case) withDefaults() Case {
	if c.Runs == 0 {
		c.Runs = defaultRuns
	}
	if c.Within == 0 {
		c.Within = defaultWithin
	}
	if c.Seed == 0 {
		c.Seed = 1
	}
	if c.ReturnTopic == "" {
		c.ReturnTopic = "returned"
	}
	if c.Key == nil {
		c.Key = keys.Default()
	}
	if c.Dedupe.Consumer == "" {
		c.Dedupe.Consumer = consumer
	}
	if c.Store.LockTimeout == 0 {
		c.Store.LockTimeout = lockTimeout
	}
	return c
}

func (c Case) validate() error {
	switch {
	case (c.Handler == nil) == (c.Returning == nil):
		return errors.New("handlertest: Case needs Handler or Returning, one of them")
	case len(c.Messages) == 0:
		return errors.New("handlertest: Case.Messages is empty: two or three that touch the same rows find most faults")
	case c.Invariant == nil:
		return errors.New("handlertest: Case.Invariant is required: it says what is wrong when all messages were handled")
	case c.Runs < 0, c.Within < 0:
		return fmt.Errorf("handlertest: Case.Runs and Case.Within must be positive, not %d and %s", c.Runs, c.Within)
	case c.Order < Unordered || c.Order > Total:
		return fmt.Errorf("handlertest: Case.Order %d is none of Unordered, PerKey and Total", c.Order)
	}
	seen := map[string]bool{}
	for i, msg := range c.Messages {
		switch {
		case msg == nil:
			return fmt.Errorf("handlertest: message %d of Case.Messages is nil", i+1)
		case msg.UUID == "":
			return fmt.Errorf("handlertest: message %d of Case.Messages has no UUID: copies of it can't be told from others", i+1)
		case seen[msg.UUID]:
			return fmt.Errorf("handlertest: message %d of Case.Messages has the UUID of another one, %q: "+
				"leave copies out, they are made here", i+1, msg.UUID)
		}
		seen[msg.UUID] = true
		if c.Order == PerKey {
			if _, err := c.Key(msg); err != nil {
				return fmt.Errorf("handlertest: message %d of Case.Messages: %w; with PerKey each needs a key "+
					"(msgmeta.SetKey, or Case.Key)", i+1, err)
			}
		}
	}
	return nil
}

// tied reports whether the broker keeps two messages apart and in order.
func (c Case) tied(a, b *message.Message) bool {
	switch c.Order {
	case Total:
		return true
	case PerKey:
		keyA, errA := c.Key(a)
		keyB, errB := c.Key(b)
		return errA == nil && errB == nil && keyA == keyB
	case Unordered:
	}
	return false
}
