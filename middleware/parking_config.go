package middleware

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Full is what happens to a message whose line has become longer, or older, than it
// may.
type Full int

// The policies of full lines.
const (
	// ParkOn keeps the message all the same; hooks and the log tell. Default.
	ParkOn Full = iota
	// Block nacks it: the broker keeps it, and on most brokers with it what is behind
	// it, also of other keys.
	Block
)

// Immediate is how often and how soon a handler is run again before its message is
// put aside. The broker waits meanwhile.
type Immediate struct {
	// Tries counts the runs after the first. Default 2; -1 for none.
	Tries int
	// First is the pause before the first of them; each further one is Factor times as
	// long. Default 5 ms and 3: where the broker keeps everything in order, everything
	// waits meanwhile.
	First  time.Duration
	Factor float64
	// Jitter is by which part a pause varies, up and down. Default 0.5; -1 for none.
	Jitter float64
}

// ParkingConfig says when a message is put aside, and how often it is tried. Service
// is required, as in DedupeConfig; Service, Consumer, Identity, Key and Observe must
// be Dedupe's.
type ParkingConfig struct {
	Service, Consumer string
	Identity          func(msg *message.Message) (string, error)
	// Key names what a message must stay in order with: while one is put aside, later
	// ones of its key line up behind it. Without one (keys.ErrNoKey) nothing else
	// waits. Default: the metadata entry msgmeta.Key.
	Key keys.Func
	// WithoutDedupe says that there is no Dedupe behind Parking. A handler's effects and
	// the message's end are two transactions then: what comes back may be handled twice.
	// Each message costs a query more.
	WithoutDedupe bool
	// Observe only logs what would have been put aside.
	Observe bool

	// Classify is asked what kind of failure an error is before what errors commonly
	// say (parking.Classify). Default: nothing of one's own.
	Classify []parking.Classifier
	// Immediate tries come first, for failures that may pass by themselves.
	Immediate Immediate
	// Delays are the pauses before the tries after that, from the database, a fifth
	// longer or shorter: they are the same however many instances there are, and over
	// deploys. The key waits. After the last the message is parked for a person. An
	// empty, non-nil list parks at once. Default 1 s, 5 s, 30 s, 2 min, 10 min.
	Delays []time.Duration
	// LineMax and LineMaxAge bound the messages that wait behind one that was put
	// aside, and for how long. Default 10,000 and 24 h. WhenFull says what happens
	// then.
	LineMax    int64
	LineMaxAge time.Duration
	WhenFull   Full
	// OnConflict is run in the transaction that puts a conflict into review, to put the
	// user's own action back, for example. Default: nothing.
	OnConflict func(ctx context.Context, tx store.Tx, msg *message.Message, err error) error

	// Valve tells whether the store is there: while it isn't nothing is counted as a
	// failure, and messages wait in their handlers. Default: one with defaults.
	Valve *parking.Valve
	// Logger gets what is put aside (error), what lines up (debug), and what goes wrong.
	// Default: none.
	Logger watermill.LoggerAdapter
	// Hooks that implement ParkHook are told what is put aside.
	Hooks []any
}

// ParkHook is told what was put aside, after it was committed. It must not block.
type ParkHook interface {
	OnPark(event ParkEvent)
}

// ParkEvent is one message that has failed and is kept.
type ParkEvent struct {
	// Consumer, MessageID and Key say which; the id is by what the inbox knows it.
	Consumer, MessageID, Key string
	// Status is store.StatusDelayed, store.StatusGap, store.StatusParked or store.StatusReview.
	Status store.ParkedStatus
	Class  parking.Class
	// DueIn is when a delayed one is tried again.
	DueIn time.Duration
	// Attempts counts the runs of its handler, Again says that it was kept before.
	Attempts int
	Again    bool
	Err      error
}

// defaultDelays go through a short outage by themselves, and end with what a person
// has to look at.
func defaultDelays() []time.Duration {
	return []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}
}

func (c ParkingConfig) withDefaults(st *store.Store) ParkingConfig {
	const (
		tries, factor, jitter = 2, 3, 0.5
		first                 = 5 * time.Millisecond
		lineMax               = 10_000
		lineMaxAge            = 24 * time.Hour
	)
	c.Immediate.Tries = orDefault(c.Immediate.Tries, tries)
	c.Immediate.First = orDefault(c.Immediate.First, first)
	c.Immediate.Factor = orDefault(c.Immediate.Factor, factor)
	c.Immediate.Jitter = max(orDefault(c.Immediate.Jitter, jitter), 0)
	c.LineMax, c.LineMaxAge = orDefault(c.LineMax, lineMax), orDefault(c.LineMaxAge, lineMaxAge)
	if c.Delays == nil {
		c.Delays = defaultDelays()
	}
	if c.Identity == nil {
		c.Identity = func(msg *message.Message) (string, error) { return msg.UUID, nil }
	}
	if c.Key == nil {
		c.Key = keys.Default()
	}
	if c.Valve == nil {
		c.Valve = parking.NewValve(st, parking.ValveConfig{})
	}
	if c.Logger == nil {
		c.Logger = watermill.NopLogger{}
	}
	return c
}

func orDefault[T comparable](value, otherwise T) T {
	var none T
	if value == none {
		return otherwise
	}
	return value
}

func (c ParkingConfig) validate() error {
	if c.Service == "" && c.Consumer == "" {
		return errors.New("middleware: ParkingConfig.Service is required, and must be DedupeConfig's")
	}
	if strings.Contains(c.Service, ".") {
		return fmt.Errorf("middleware: ParkingConfig.Service %q has a dot, which parts service and handler in a consumer's name",
			c.Service)
	}
	i := c.Immediate
	if i.Tries < -1 || i.First < 0 || i.Factor < 1 || i.Jitter > 1 || c.LineMax < 0 || c.LineMaxAge < 0 {
		return errors.New("middleware: ParkingConfig's numbers and durations must not be negative, Immediate.Factor at least 1 " +
			"and Immediate.Jitter at most 1")
	}
	for _, d := range c.Delays {
		if d < 0 {
			return fmt.Errorf("middleware: ParkingConfig.Delays must not be negative, not %s", d)
		}
	}
	return nil
}
