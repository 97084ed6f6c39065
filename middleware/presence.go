package middleware

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/google/uuid"
	"github.com/jonboulle/clockwork"

	"github.com/headrace-go/headrace/store"
)

// PresenceConfig says for which consumers a process is there.
type PresenceConfig struct {
	// Consumers are those whose messages this process handles: "service.handler", as
	// in DedupeConfig. Others may be added later. Default: none yet.
	Consumers []string
	// Name begins the owner's name in `headrace status`: the host's, for example. At
	// most 64 bytes of visible ASCII. Default: none.
	Name string
	// LeaseTTL is how long a process that died counts as present. It is renewed at a
	// third. Default 30 s, at least 1 s.
	LeaseTTL time.Duration
	// Clock is for tests. Default: the real one.
	Clock clockwork.Clock
	// Logger gets failures. Default: none.
	Logger watermill.LoggerAdapter
}

// Presence tells others on the database that this process handles the messages of
// some consumers, by a lease for each: `headrace consumer` then refuses to change
// what they remember under their hands. All are renewed by one statement. It is
// safe for concurrent use.
type Presence struct {
	store *store.Store
	cfg   PresenceConfig
	owner string
	added chan struct{}

	mu        sync.Mutex
	consumers []string
}

// maxPresenceName leaves room for the random part in the owner's name.
const maxPresenceName = 64

// NewPresence returns a presence that Run shows. Errors are those of the
// configuration.
func NewPresence(st *store.Store, cfg PresenceConfig) (*Presence, error) {
	if st == nil {
		return nil, errors.New("middleware: NewPresence needs a store")
	}
	if cfg.LeaseTTL == 0 {
		cfg.LeaseTTL = 30 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = clockwork.NewRealClock()
	}
	if cfg.Logger == nil {
		cfg.Logger = watermill.NopLogger{}
	}
	if cfg.LeaseTTL < time.Second {
		return nil, fmt.Errorf("middleware: PresenceConfig.LeaseTTL must be at least a second, not %s", cfg.LeaseTTL)
	}
	p := &Presence{store: st, cfg: cfg, owner: uuid.NewString(), added: make(chan struct{}, 1)}
	if cfg.Name != "" {
		if err := store.CheckLeaseName(cfg.Name); err != nil || len(cfg.Name) > maxPresenceName {
			return nil, fmt.Errorf("middleware: PresenceConfig.Name has at most %d visible ASCII characters "+
				"without quotes and backslashes, not %.80q", maxPresenceName, cfg.Name)
		}
		p.owner = cfg.Name + "-" + p.owner
	}
	p.Add(cfg.Consumers...)
	return p, nil
}

// Add names further consumers whose messages this process handles. It doesn't
// wait for the database.
func (p *Presence) Add(consumers ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, consumer := range consumers {
		if !slices.Contains(p.consumers, consumer) {
			p.consumers = append(p.consumers, consumer)
		}
	}
	select {
	case p.added <- struct{}{}:
	default: // it is about to look anyway
	}
}

// Run shows the presence until the context is cancelled, takes it back, and
// returns nil. While the database can't be reached it tries again: messages are
// handled all the same.
func (p *Presence) Run(ctx context.Context) error {
	ticker := p.cfg.Clock.NewTicker(p.cfg.LeaseTTL / 3)
	defer ticker.Stop()
	shown := map[string]bool{}
	failing := false
	for {
		select {
		case <-ctx.Done():
			p.leave(ctx, shown)
			return nil
		case <-p.added:
		case <-ticker.Chan():
		}
		err := p.show(ctx, shown)
		if err != nil && !failing && ctx.Err() == nil { // once for each outage
			p.cfg.Logger.Error("Saying which consumers are handled here failed, trying again", err, nil)
		}
		failing = err != nil
	}
}

// show renews what is shown and takes what is not, or was lost meanwhile.
func (p *Presence) show(ctx context.Context, shown map[string]bool) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.LeaseTTL/3)
	defer cancel()
	if len(shown) > 0 {
		held, err := p.store.RenewLeases(ctx, store.PresencePrefix, p.owner, p.cfg.LeaseTTL)
		if err != nil {
			return fmt.Errorf("middleware: %w", err)
		}
		clear(shown)
		for _, lease := range held {
			shown[lease.Name] = true
		}
	}
	for _, consumer := range p.named() {
		name := store.PresenceLease(consumer, p.owner)
		if shown[name] {
			continue
		}
		if len(shown) == 0 { // the first time, or after a long outage
			if err := p.store.DeleteExpiredLeases(ctx, store.PresencePrefix, forgetPresence); err != nil {
				return fmt.Errorf("middleware: %w", err)
			}
		}
		if _, _, err := p.store.AcquireLease(ctx, name, p.owner, p.cfg.LeaseTTL); err != nil {
			return fmt.Errorf("middleware: %w", err)
		}
		shown[name] = true
		// Asked after the lease was taken, as those who change look for leases after
		// they have taken theirs: one of the two sees the other.
		changing, err := p.store.Changing(ctx, consumer)
		if err != nil {
			return fmt.Errorf("middleware: %w", err)
		}
		if len(changing) > 0 {
			p.cfg.Logger.Error("A consumer was started while what it remembers is being changed", errChanging,
				watermill.LogFields{"consumer": consumer, "changed_by": changing[0].Owner})
		}
	}
	return nil
}

// errChanging says what may come of it.
var errChanging = errors.New("messages may be handled twice: stop this consumer until `headrace consumer` has ended, " +
	"and look whether it was refused")

// forgetPresence is how long a process that died is kept for `headrace status`.
const forgetPresence = 10 * time.Minute

func (p *Presence) named() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.consumers)
}

// leaveTimeout bounds how long an ending process waits to sign off.
const leaveTimeout = 2 * time.Second

func (p *Presence) leave(ctx context.Context, shown map[string]bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	err := p.store.InTx(ctx, func(ctx context.Context, _ store.Tx) error {
		for name := range shown {
			if err := p.store.DeleteLease(ctx, name, p.owner); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		p.cfg.Logger.Error("Signing off failed: this process counts as present until its lease is over", err,
			watermill.LogFields{"lease_ttl": p.cfg.LeaseTTL.String()})
	}
}
