package headrace

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Config says what to protect. Service and Publisher are required.
type Config struct {
	// Service is the name under which handlers remember messages and under which
	// what they publish is relayed. Two services on one database must have
	// different ones (two of one name look like two instances of one service, and
	// skip and relay each other's messages). It must stay the same over deploys:
	// what is left in the outbox under another name is sent by nobody (`headrace
	// doctor` says so). All instances of a service publish to the same brokers. At
	// most 100 bytes.
	Service string
	// Publisher is the application's own: what was committed is sent with it. It
	// must be safe for concurrent use.
	Publisher message.Publisher
	// Destinations are further publishers, for applications that publish to more
	// than one broker (see Plugin.PublisherFor). Default: none.
	Destinations map[string]message.Publisher

	// Observe changes nothing for the handlers, and only records what would have
	// been skipped. What is handled while observing counts as handled later.
	Observe bool
	// Strict refuses statements through Plugin.DB and publishes through
	// Plugin.Publisher that happen outside of any message's transaction, unless
	// their context was marked with store.MeantOutside. Default false.
	Strict bool
	// Migrate creates or updates the tables at the start. Default false: New only
	// checks them, and `headrace migrate up` makes them.
	Migrate bool

	// Park puts aside what a handler can't handle (middleware.Parking): it is acked,
	// kept in the database, tried again later, and at last left to a person; later
	// messages of its key wait behind it. Each handler's subscriber must then be
	// wrapped: see Plugin.Subscriber. Default false: what fails is nacked.
	Park bool

	// Key gives each published message's key, which then must have one: messages
	// of one key are sent in order. Only what Watermill's PoisonQueue puts aside
	// may be without. Default: the metadata entry msgmeta.Key, and messages
	// without it have no order.
	Key keys.Func
	// RedeliveryWindow is how late the broker can still deliver a copy
	// (brokers.Capabilities has it), to be checked against how long messages are
	// remembered. Default 0: not known, not checked.
	RedeliveryWindow time.Duration

	// ConnectTimeout is how long New tries to reach a database that doesn't
	// answer. Default 10 s (store.DefaultConnectTimeout).
	ConnectTimeout time.Duration

	// Logger gets what goes wrong, in all parts, and one INFO line at the start: what
	// is protected, relayed and remembered. Default: none.
	Logger watermill.LoggerAdapter
	// Hooks are told what happens, in all parts: store.TxHook,
	// middleware.VerdictHook, middleware.ParkHook, middleware.PurgeHook,
	// forwarder.PublishHook.
	Hooks []any

	// Store, Dedupe, Parking, Reentry, Purge and Forwarder hold the parts' finer
	// settings. A field that exists above too is taken from there when it is set
	// there. The database's dialect is asked for where Store doesn't say it, and
	// Forwarder.Name is the host's name by default. Parking's Identity is Dedupe's, and
	// Reentry is what brings back what was parked.
	Store     store.Config
	Dedupe    middleware.DedupeConfig
	Parking   middleware.ParkingConfig
	Reentry   parking.SubscriberConfig
	Purge     middleware.PurgeConfig
	Forwarder forwarder.Config
}

func (c Config) validate() error {
	switch {
	case c.Service == "" && c.Dedupe.Service == "":
		return errors.New("headrace: Config.Service is required: " +
			"without it two services on one database would swallow each other's messages")
	case c.ConnectTimeout < 0:
		return fmt.Errorf("headrace: Config.ConnectTimeout must be positive, not %s", c.ConnectTimeout)
	case c.Publisher == nil:
		return errors.New("headrace: Config.Publisher is required: the application's own, which really sends")
	case c.Destinations[forwarder.DefaultDestination] != nil:
		return errors.New(`headrace: Config.Destinations has "default", which is Config.Publisher's name`)
	case c.Dedupe.Outbox != nil:
		return errors.New("headrace: Config.Dedupe.Outbox is New's to make; leave it empty")
	case c.Forwarder.Service != "":
		return errors.New("headrace: Config.Forwarder.Service is Config.Service; leave it empty")
	case c.Parking.Consumer != "" || c.Reentry.Consumer != "":
		return errors.New("headrace: Config.Parking.Consumer and Config.Reentry.Consumer would be shared by every handler; " +
			"leave them empty")
	case c.Parking.WithoutDedupe:
		return errors.New("headrace: Config.Parking.WithoutDedupe is wrong here: New puts Dedupe behind Parking")
	case c.Dedupe.Consumer != "":
		return errors.New("headrace: Config.Dedupe.Consumer would be shared by every handler, " +
			"so that one would swallow another's messages; leave it empty")
	}
	return nil
}

// spread copies what is set for all parts into each.
func (c Config) spread() Config {
	set(&c.Dedupe.Service, c.Service)
	c.Service = c.Dedupe.Service
	set(&c.Dedupe.RedeliveryWindow, c.RedeliveryWindow)
	c.Dedupe.Observe = c.Dedupe.Observe || c.Observe
	c.Observe = c.Dedupe.Observe
	c.Store.Strict = c.Store.Strict || c.Strict
	c.Store.Migrate = c.Store.Migrate || c.Migrate
	if c.Key != nil {
		c.Dedupe.Key = c.Key
	}
	c.Parking.Service, c.Parking.Identity, c.Parking.Observe = c.Service, c.Dedupe.Identity, c.Observe
	if c.Parking.Key == nil {
		c.Parking.Key = c.Dedupe.Key
	}
	if c.Purge.Window == 0 {
		c.Purge.Window = c.Dedupe.Window
	}
	if c.Logger != nil {
		for _, logger := range []*watermill.LoggerAdapter{
			&c.Store.Logger, &c.Dedupe.Logger, &c.Parking.Logger, &c.Reentry.Logger, &c.Purge.Logger, &c.Forwarder.Logger,
		} {
			*logger = c.Logger
		}
	}
	c.Forwarder.Service = c.Service
	if c.Forwarder.Name == "" {
		c.Forwarder.Name = hostName()
	}
	for _, hooks := range []*[]any{
		&c.Store.Hooks, &c.Dedupe.Hooks, &c.Parking.Hooks, &c.Purge.Hooks, &c.Forwarder.Hooks,
	} {
		*hooks = append((*hooks)[:len(*hooks):len(*hooks)], c.Hooks...)
	}
	return c
}

// hostName names this process for `headrace status`, or is "" where the host's
// name can't stand in a lease.
func hostName() string {
	name, err := os.Hostname()
	const enough = 64 // the service and a random part are added
	if err != nil || len(name) > enough || store.CheckLeaseName(name) != nil {
		return ""
	}
	return name
}

func set[T comparable](field *T, value T) {
	var none T
	if value != none {
		*field = value
	}
}
