// Package brokers opens any broker by URL: one publisher, subscribers per
// consumer group, and a statement of what the broker can do.
//
//	b, err := brokers.Open(ctx, os.Getenv("BROKER"), brokers.Config{
//		Openers: all.Openers(),
//		Group:   "stock",
//	})
//
// The core knows no client library. Each broker is a subpackage with an Opener;
// brokers/all lists them all, and a program that wants one only names that one.
package brokers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/redact"
)

// DefaultConnectTimeout is how long Open tries to reach a broker when neither
// the configuration nor the URL says otherwise.
const DefaultConnectTimeout = 10 * time.Second

// Options that every broker's URL may carry, handled here.
const (
	optionGroup          = "group"
	optionConnectTimeout = "connect_timeout"
)

// Config says how to open a broker.
type Config struct {
	// Openers maps a URL's scheme to what opens it. Required: all.Openers()
	// for every broker, or a map of the ones that the program wants.
	Openers map[string]Opener

	// Group is the consumer group of Broker.Subscriber. It may stand in the URL
	// instead (?group=); saying two different things is an error. A program
	// that only publishes needs none.
	Group string

	// ConnectTimeout is how long Open keeps trying to reach the broker. Default
	// DefaultConnectTimeout; the URL's connect_timeout wins.
	ConnectTimeout time.Duration

	// Logger receives what happens outside of any call. Secrets of the URL are
	// replaced in all it is given. Default: nothing is logged.
	Logger watermill.LoggerAdapter

	// Join begins the transactions in which a SQL broker reads a message, the
	// handler works, and the ack is recorded. Used by brokers whose URL says
	// join=true, and required there:
	//
	//	Join: brokers.JoinUnits(st.Begin) // st is a *store.Store
	//
	// The broker's tables and the store's must be in one database.
	Join Joiner
}

// Opener opens one kind of broker. It reads the URL's options through
// NewOptions, makes sure that the broker answers (Connect), and returns errors
// as they are: Open adds the broker's name and removes secrets. cfg comes with
// its defaults filled in.
type Opener func(ctx context.Context, u *url.URL, cfg Config) (*Backend, error)

// Backend is what an Opener returns: the parts from which Open makes a Broker.
type Backend struct {
	// Publisher sends. It is only given messages that passed the shared checks
	// (a UUID, a body within Capabilities.MaxBody) and Check, at least one per
	// call. It is closed once, by Broker.Close.
	Publisher message.Publisher

	// Subscribe returns a subscriber of a consumer group, never "". It is
	// called for every SubscriberFor, so closing one leaves the others alone.
	Subscribe func(group string) (message.Subscriber, error)

	// Check refuses messages and topics that this broker can't carry, for
	// reasons beyond the shared ones. All messages of a call are checked before
	// the first is sent. Optional.
	Check func(topic string, msg *message.Message) error

	// DeleteTopic removes a topic and all that belongs to it; one that doesn't
	// exist is no error. Optional.
	DeleteTopic func(ctx context.Context, topic string) error

	// Close releases what publisher and subscribers share, after both are
	// closed. Optional.
	Close func() error

	Capabilities Capabilities
}

// Open opens the broker that a URL names. The context bounds the opening only.
//
// Errors match ErrBadURL, ErrUnknownScheme, ErrBadOption or ErrUnreachable (and
// then *UnreachableError), name the broker without user, password or options,
// and hold no secret of the URL.
func Open(ctx context.Context, rawURL string, cfg Config) (*Broker, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}

	name, secrets := redact.Describe(u), redact.New(u)
	opener, ok := cfg.Openers[u.Scheme]
	if !ok || opener == nil {
		return nil, fmt.Errorf("brokers: %w %q; known are %s", ErrUnknownScheme, u.Scheme,
			listOr(slices.Sorted(maps.Keys(cfg.Openers)), "none, set Config.Openers to all.Openers()"))
	}

	cfg, err = withURLOptions(u, cfg)
	if err != nil {
		return nil, fmt.Errorf("brokers: %s: %w", name, secrets.Err(err))
	}
	cfg.Logger = secrets.Logger(cfg.Logger)

	backend, err := opener(ctx, u, cfg)
	if unreachable := (*UnreachableError)(nil); errors.As(err, &unreachable) {
		return nil, fmt.Errorf("brokers: %w", secrets.Err(err)) // names the broker itself
	}
	if err != nil {
		return nil, fmt.Errorf("brokers: %s: %w", name, secrets.Err(err))
	}

	return newBroker(name, backend, cfg.Group, secrets)
}

// withURLOptions fills in the defaults and takes the options that mean the same
// on every broker from the URL.
func withURLOptions(u *url.URL, cfg Config) (Config, error) {
	if cfg.Logger == nil {
		cfg.Logger = watermill.NopLogger{}
	}
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = DefaultConnectTimeout
	}

	options := NewOptions(u)
	cfg.ConnectTimeout = options.Duration(optionConnectTimeout, cfg.ConnectTimeout)
	group := options.String(optionGroup, "")
	if err := options.invalid(); err != nil {
		return cfg, err
	}

	if group != "" && cfg.Group != "" && group != cfg.Group {
		return cfg, fmt.Errorf("%w: the URL says group=%s and the configuration says group %q; keep one",
			ErrBadOption, printable(group), cfg.Group)
	}
	if group != "" {
		cfg.Group = group
	}

	return cfg, nil
}

func parseURL(raw string) (*url.URL, error) {
	u, err := redact.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("brokers: %w: %w", ErrBadURL, err)
	}
	if u.Scheme == "" {
		return nil, fmt.Errorf("brokers: %w: it has no scheme, such as mem: or kafka://…", ErrBadURL)
	}

	return u, nil
}

func listOr(names []string, none string) string {
	if len(names) == 0 {
		return none
	}

	return strings.Join(names, ", ")
}
