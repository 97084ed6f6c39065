package forwarder

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/google/uuid"
	"github.com/jonboulle/clockwork"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Config says how the forwarder works. Its zero value is usable.
type Config struct {
	// Service is whose rows are relayed: those of outboxes with the same
	// OutboxConfig.Service. The forwarders of one service share its rows, and must
	// be given the same destinations; those of different services leave each
	// other's alone. Default "", the rows that name no service.
	Service string
	// Name tells this forwarder's leases from others' in `headrace status`, with
	// a random part added at every start. Default "forwarder".
	Name string
	// BatchSize is how many rows of a partition are read at once. Default 1,000.
	BatchSize int
	// BatchBytes ends a batch once its payloads are larger. Default 4 MiB. The
	// forwarder holds at most one batch per partition, so 16 times that.
	BatchBytes int
	// MaxInFlight bounds the calls of Publish at one time, over all partitions.
	// Default 256.
	MaxInFlight int
	// PollInterval is how often the outbox is looked at when nothing wakes the
	// forwarder; it doubles up to MaxPollInterval while there is nothing to do.
	// Defaults 20 ms and 500 ms.
	PollInterval, MaxPollInterval time.Duration
	// RescanInterval is how often a partition is read from its beginning again,
	// which finds rows whose transaction committed late, after higher ids were
	// already relayed. It grows where reading takes long. Default 1 s.
	RescanInterval time.Duration
	// RetryBackoff and MaxRetryBackoff bound the pause after a publish failed;
	// it doubles with every failure of the key. Defaults 100 ms and 30 s.
	RetryBackoff, MaxRetryBackoff time.Duration
	// KeepPermanent has rows tried for ever that can't be sent however often they are
	// tried: what a broker refuses for good (an error with Permanent() bool, or one
	// that Classify says is parking.Permanent), and what foreign SQL wrote wrongly.
	// Default false: they are parked at their first failure. A parked row stays in the
	// outbox with what the broker said, and its line waits, until a person releases,
	// changes or discards it; everything else goes on.
	KeepPermanent bool
	// ParkAfter parks rows of which so many publishes have failed, whatever with,
	// while the broker took others of the same topic: an outage parks nothing. The
	// forwarder that owns the partition counts, anew after it has changed hands.
	// Default 0: never.
	ParkAfter int
	// Classify knows errors of the application's publishers, before what errors say of
	// themselves (parking.Classify). Default: none.
	Classify []parking.Classifier
	// LeaseTTL is how long a partition stays with a forwarder that no longer
	// renews its lease. Renewed at a third of it. Default 5 s.
	LeaseTTL time.Duration
	// CloseTimeout bounds how long Close waits for publishes in flight. Default
	// 15 s.
	CloseTimeout time.Duration
	// Clock is for tests. Default: the real one.
	Clock clockwork.Clock
	// Logger gets failures and changes of ownership. Default: none.
	Logger watermill.LoggerAdapter
	// Hooks that implement PublishHook are told about every batch.
	Hooks []any
}

func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "forwarder"
	}
	if c.Clock == nil {
		c.Clock = clockwork.NewRealClock()
	}
	if c.Logger == nil {
		c.Logger = watermill.NopLogger{}
	}
	for field, value := range map[*int]int{
		&c.BatchSize: 1000, &c.BatchBytes: 4 << 20, &c.MaxInFlight: 256,
	} {
		if *field == 0 {
			*field = value
		}
	}
	for field, value := range map[*time.Duration]time.Duration{
		&c.PollInterval: 20 * time.Millisecond, &c.MaxPollInterval: 500 * time.Millisecond,
		&c.RescanInterval: time.Second,
		&c.RetryBackoff:   100 * time.Millisecond, &c.MaxRetryBackoff: 30 * time.Second,
		&c.LeaseTTL: 5 * time.Second, &c.CloseTimeout: 15 * time.Second,
	} {
		if *field == 0 {
			*field = value
		}
	}
	return c
}

func (c Config) validate() error {
	if err := checkService(c.Service); err != nil {
		return fmt.Errorf("forwarder: Config.Service: %w", err)
	}
	if err := store.CheckLeaseName(memberLease(c.Service, c.owner())); err != nil {
		return fmt.Errorf("forwarder: Config.Name: %w", err)
	}
	for name, n := range map[string]int{
		"BatchSize": c.BatchSize, "BatchBytes": c.BatchBytes, "MaxInFlight": c.MaxInFlight, "ParkAfter": c.ParkAfter,
	} {
		if n < 0 {
			return fmt.Errorf("forwarder: Config.%s must be positive, not %d", name, n)
		}
	}
	for name, d := range map[string]time.Duration{
		"PollInterval": c.PollInterval, "MaxPollInterval": c.MaxPollInterval, "RescanInterval": c.RescanInterval,
		"RetryBackoff": c.RetryBackoff, "MaxRetryBackoff": c.MaxRetryBackoff, "CloseTimeout": c.CloseTimeout,
	} {
		if d < 0 {
			return fmt.Errorf("forwarder: Config.%s must be positive, not %s", name, d)
		}
	}
	if c.LeaseTTL < 300*time.Millisecond {
		return fmt.Errorf("forwarder: Config.LeaseTTL is %s: renewals need at least 300ms", c.LeaseTTL)
	}
	if c.MaxPollInterval < c.PollInterval || c.MaxRetryBackoff < c.RetryBackoff {
		return errors.New("forwarder: Config.MaxPollInterval and MaxRetryBackoff must not be below PollInterval and RetryBackoff")
	}
	return nil
}

// maxService leaves room for a forwarder's name in the names of leases, where
// letters beyond ASCII take three to nine bytes each.
const maxService = 100

func checkService(service string) error {
	if !utf8.ValidString(service) || strings.ContainsRune(service, 0) || len(leaseService(service)) > maxService {
		return fmt.Errorf("%q must be UTF-8 without NUL, and at most %d bytes as a part of a URL's path, not %d",
			store.Identity(service), maxService, len(leaseService(service)))
	}
	return nil
}

// owner is unique per start, as leases need it.
func (c Config) owner() string { return c.Name + "-" + uuid.NewString() }
