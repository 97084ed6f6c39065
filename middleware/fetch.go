package middleware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/ratelimiter"

	"github.com/headrace-go/headrace/internal/collapse"
	"github.com/headrace-go/headrace/internal/limits"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Errors of Fetch. All but ErrFetchInUnit are transient for Parking.
var (
	// ErrFetchInUnit says that Fetch runs in a transaction.
	ErrFetchInUnit = errors.New("Fetch runs in a unit of work, which would be open while it calls: put it outside of Dedupe")
	// ErrFetchLimited says that FetchConfig.Limit let no call through within MaxWait.
	ErrFetchLimited = errors.New("too many calls are waiting")
	// ErrFetchRests says that FetchConfig.Breaker is open.
	ErrFetchRests = errors.New("the source has failed too often, and is left alone for a while")
	// ErrFetchBehind says that the source doesn't know yet what a message speaks of.
	ErrFetchBehind = errors.New("the source is behind the message")
)

// Rate is a number of calls a second, of which Burst may come at once (default 1).
type Rate = limits.Rate

// Breaker opens for Open (default 30 s) after Failures failed calls in a row.
type Breaker = limits.Breaker

// Current is how an entity is, as its source says.
type Current[T any] struct {
	// Version of the state, if the source gives one. VersionSkip needs it.
	Version Version
	// Deleted says that there is no such entity any more.
	Deleted bool
	// Value is shared by all messages that the answer serves: it must not be changed.
	Value T
}

// FetchConfig says what is fetched, and how often.
type FetchConfig[T any] struct {
	// Entity that a message is about. Required.
	Entity keys.EntityFunc
	// Load asks the source for the current state. Required. It is called concurrently, for
	// an entity once at a time. An error that is permanent for parking.Classify says
	// nothing of the source's health.
	Load func(ctx context.Context, entity keys.Entity) (Current[T], error)
	// Notified reads the version that a message speaks of. An answer that has it, or a newer
	// one, will do whenever it was asked for; an older one doesn't, and the message fails
	// with ErrFetchBehind. Default: messages speak of none.
	Notified VersionFunc
	// Compare says which of two TextVersions is newer, as cmp.Compare does. Required for
	// those.
	Compare func(a, b string) (int, error)

	// Timeout bounds a call. Default 30 s. One that ignores its context is left behind.
	Timeout time.Duration
	// Limit bounds this process's calls. Default: no limit.
	Limit Rate
	// MaxWait is how long a call waits for Limit. Default 10 s.
	MaxWait time.Duration
	// Breaker leaves the source alone for a while when calls fail in a row. Default: it
	// never does.
	Breaker Breaker

	// Logger gets each call (debug). Default: none.
	Logger watermill.LoggerAdapter
	// Hooks that implement FetchHook are told of each call.
	Hooks []any
}

func (c FetchConfig[T]) withDefaults() FetchConfig[T] {
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	if c.MaxWait == 0 {
		c.MaxWait = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = watermill.NopLogger{}
	}
	if c.Compare == nil {
		c.Compare = func(string, string) (int, error) {
			return 0, fmt.Errorf("%w: a TextVersion needs FetchConfig.Compare", ErrVersion)
		}
	}
	return c
}

func (c FetchConfig[T]) validate() error {
	switch {
	case c.Entity == nil:
		return errors.New("middleware: FetchConfig.Entity is required: it says what a message is about")
	case c.Load == nil:
		return errors.New("middleware: FetchConfig.Load is required: it asks for the current state")
	case c.Timeout < 0 || c.MaxWait < 0 || !c.Limit.Valid() || c.Breaker.Open < 0:
		return errors.New("middleware: FetchConfig's numbers must be finite, and not negative")
	}
	return nil
}

// Fetch gives handlers of notifications ("customer 7 has changed") the current state:
// however many come, for one entity one call is under way and one more waits. A message is
// handled with an answer that was asked for after it arrived, or that has the version which it
// speaks of; so nothing is missed. It belongs outside of Dedupe: the call is made before the
// transaction. VersionSkip inside of it, with States, keeps an answer that was held up from
// overwriting a newer one.
//
// A message whose state can't be had fails, and comes again. It is safe for concurrent use.
type Fetch[T any] struct {
	cfg     FetchConfig[T]
	group   collapse.Group[keys.Entity, Current[T]]
	limiter ratelimiter.RateLimiter[any]
	breaker circuitbreaker.CircuitBreaker[any]
	hooks   []FetchHook
}

// NewFetch returns the middleware. Errors are those of the configuration.
func NewFetch[T any](cfg FetchConfig[T]) (*Fetch[T], error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	f := &Fetch[T]{
		cfg: cfg, limiter: cfg.Limit.Limiter(), breaker: cfg.Breaker.New(), hooks: store.HooksOf[FetchHook](cfg.Hooks),
	}
	f.group.Call = f.call
	return f, nil
}

// Middleware fetches before h runs.
func (f *Fetch[T]) Middleware(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		outer := msg.Context()
		switch {
		case store.CurrentUnit(outer) != nil:
			return nil, fmt.Errorf("middleware: %w", ErrFetchInUnit)
		case msgmeta.GetMalformed(msg) != "": // there is nothing to ask for, and others refuse it
			return h(msg)
		}
		got, err := f.fetch(outer, msg)
		if err != nil {
			return nil, err
		}
		defer msg.SetContext(outer)
		msg.SetContext(context.WithValue(outer, fetchedKey[T]{f}, got))
		return h(msg)
	}
}

type fetched[T any] struct {
	entity keys.Entity
	state  Current[T]
}

type fetchedKey[T any] struct{ by *Fetch[T] }

// From returns what was fetched for the context's message.
func (f *Fetch[T]) From(ctx context.Context) (Current[T], bool) {
	got, ok := ctx.Value(fetchedKey[T]{f}).(fetched[T])
	return got.state, ok
}

// States is for VersionSkip inside of Fetch: the state is that which was fetched.
func (f *Fetch[T]) States() StatesFunc {
	return func(msg *message.Message) ([]State, error) {
		got, ok := msg.Context().Value(fetchedKey[T]{f}).(fetched[T])
		if !ok {
			return nil, errors.New("nothing was fetched for the message: VersionSkip with Fetch.States belongs inside of Fetch")
		}
		return []State{{Entity: got.entity, Version: got.state.Version, Deleted: got.state.Deleted}}, nil
	}
}

func (f *Fetch[T]) fetch(ctx context.Context, msg *message.Message) (got fetched[T], err error) {
	if got.entity, err = f.cfg.Entity(msg); err != nil {
		return got, parking.AsPermanent(fmt.Errorf("middleware: Fetch: %w", err))
	}
	var notified Version
	if f.cfg.Notified != nil {
		if notified, err = f.cfg.Notified(msg); err == nil {
			err = notified.check()
		}
		if err != nil {
			return got, parking.AsPermanent(fmt.Errorf("middleware: Fetch: %s: %w", store.Entity(got.entity), err))
		}
	}
	var enough func(Current[T]) bool
	if f.cfg.Notified != nil {
		enough = func(state Current[T]) bool { return f.behind(state, notified) == nil }
	}
	if got.state, err = f.group.Do(ctx, got.entity, enough); err == nil && enough != nil {
		err = f.behind(got.state, notified)
	}
	if err != nil {
		return got, fmt.Errorf("middleware: fetch %s: %w", shortened(got.entity.String()), err)
	}
	return got, nil
}

// behind says why an answer isn't what a message speaks of. An entity that is gone may
// have no version any more.
func (f *Fetch[T]) behind(state Current[T], notified Version) error {
	if state.Deleted && state.Version == (Version{}) {
		return nil
	}
	order, err := state.Version.compare(notified, f.cfg.Compare)
	switch {
	case err != nil:
		return parking.AsPermanent(err)
	case order < 0:
		return parking.AsTransient(fmt.Errorf("%w: it has %s, and the message speaks of %s",
			ErrFetchBehind, state.Version, notified))
	}
	return nil
}
