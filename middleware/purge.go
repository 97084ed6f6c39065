package middleware

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/google/uuid"
	"github.com/jonboulle/clockwork"
	"github.com/robfig/cron/v3"

	"github.com/headrace-go/headrace/store"
)

// PurgeConfig says when and how what Dedupe remembers is forgotten, and what else is
// final and old. Consumers is
// required.
type PurgeConfig struct {
	// Consumers are purged, each by itself: "service.handler", as in DedupeConfig.
	Consumers []string
	// Window is how long messages are remembered; it must be the DedupeConfig's.
	// Default 7 days.
	Window time.Duration
	// Effects is how long finished effects (package effects) are remembered. A call
	// whose effect is forgotten would be made again: it must not be shorter than
	// Window. Default 30 days, or Window. Effects that are open stay.
	Effects time.Duration
	// Parked is how long messages are kept that were parked and are final: handled,
	// discarded or expired. Default 30 days. Those that are open stay.
	Parked time.Duration
	// Audit is how long it is kept what operators have changed. Default 365 days.
	Audit time.Duration
	// Schedule says when a purge begins, as a cron expression with five fields, in
	// Location. Default "0 3 * * *": each night at three.
	Schedule string
	// Location is the schedule's and the quiet hours' time zone. Default UTC.
	Location *time.Location
	// QuietFor is how long after its beginning a purge may still work; what is
	// left waits for the next one. Default 2 h.
	QuietFor time.Duration
	// BatchSize is how many rows one transaction removes. Default 500: small
	// enough to hold its locks for milliseconds.
	BatchSize int
	// Pause between batches leaves the database to the consumers. Default 50 ms.
	Pause time.Duration

	// Backlog says how many messages wait for a consumer, where the broker can
	// tell (brokers.Capabilities.Backlog). Default: not asked.
	Backlog func(ctx context.Context, consumer string) (int64, error)
	// MaxBacklog is how many may wait while a purge works; above it, it waits.
	// Default 1,000.
	MaxBacklog int64

	// LeaseTTL is how long other instances wait before they take over from one
	// that died in mid-purge. Default 1 min.
	LeaseTTL time.Duration
	// Clock is for tests. Default: the real one. What is old enough is always
	// decided by the database's clock.
	Clock clockwork.Clock
	// Logger gets failures. Default: none.
	Logger watermill.LoggerAdapter
	// Hooks that implement PurgeHook are told about every purge.
	Hooks []any
}

func (c PurgeConfig) withDefaults() PurgeConfig {
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	if c.Effects == 0 {
		c.Effects = max(effectsWindow, c.Window)
	}
	if c.Parked == 0 {
		c.Parked = parkedWindow
	}
	if c.Audit == 0 {
		c.Audit = auditWindow
	}
	if c.Schedule == "" {
		c.Schedule = "0 3 * * *"
	}
	if c.Location == nil {
		c.Location = time.UTC
	}
	if c.QuietFor == 0 {
		c.QuietFor = 2 * time.Hour
	}
	if c.BatchSize == 0 {
		c.BatchSize = 500
	}
	if c.Pause == 0 {
		c.Pause = 50 * time.Millisecond
	}
	if c.MaxBacklog == 0 {
		c.MaxBacklog = 1000
	}
	if c.LeaseTTL == 0 {
		c.LeaseTTL = time.Minute
	}
	if c.Clock == nil {
		c.Clock = clockwork.NewRealClock()
	}
	if c.Logger == nil {
		c.Logger = watermill.NopLogger{}
	}
	return c
}

func (c PurgeConfig) validate() (cron.Schedule, error) {
	if len(c.Consumers) == 0 {
		return nil, errors.New("middleware: PurgeConfig.Consumers is empty: name the consumers to purge, as \"service.handler\"")
	}
	if c.Window < 0 || c.Parked < 0 || c.Audit < 0 || c.QuietFor < 0 || c.Pause < 0 ||
		c.LeaseTTL < time.Second || c.BatchSize < 0 || c.MaxBacklog < 0 {
		return nil, errors.New("middleware: PurgeConfig's numbers must not be negative, and LeaseTTL at least a second")
	}
	if c.Effects < c.Window {
		return nil, fmt.Errorf("middleware: PurgeConfig.Effects (%s) must not be shorter than Window (%s)", c.Effects, c.Window)
	}
	schedule, err := cron.ParseStandard(c.Schedule)
	if err != nil {
		return nil, fmt.Errorf("middleware: PurgeConfig.Schedule %q is no cron expression of five fields: %w", c.Schedule, err)
	}
	if schedule.Next(c.Clock.Now().In(c.Location)).IsZero() {
		return nil, fmt.Errorf("middleware: PurgeConfig.Schedule %q never comes", c.Schedule)
	}
	return schedule, nil
}

const (
	effectsWindow = 30 * 24 * time.Hour
	parkedWindow  = 30 * 24 * time.Hour
	auditWindow   = 365 * 24 * time.Hour
)

// Purge forgets old messages at quiet hours, in small batches, in one instance at
// a time. What is open is never forgotten: messages without a final verdict, or that
// are parked, and calls whose outcome isn't known. It is safe for
// concurrent use.
type Purge struct {
	store    *store.Store
	cfg      PurgeConfig
	schedule cron.Schedule
	owner    string
	hooks    []PurgeHook
}

// NewPurge returns a purge that Run starts. Errors are those of the
// configuration.
func NewPurge(st *store.Store, cfg PurgeConfig) (*Purge, error) {
	if st == nil {
		return nil, errors.New("middleware: NewPurge needs a store")
	}
	cfg = cfg.withDefaults()
	schedule, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	return &Purge{
		store: st, cfg: cfg, schedule: schedule,
		owner: "purge-" + uuid.NewString(), hooks: store.HooksOf[PurgeHook](cfg.Hooks),
	}, nil
}

// Run purges on schedule until the context is cancelled, and returns nil then.
func (p *Purge) Run(ctx context.Context) error {
	for {
		now := p.cfg.Clock.Now().In(p.cfg.Location)
		timer := p.cfg.Clock.NewTimer(p.schedule.Next(now).Sub(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.Chan():
			p.PurgeNow(ctx)
		}
	}
}

// PurgeNow purges every consumer once, within QuietFor from now. Failures are
// logged and told to the hooks; the next purge goes on where this one stopped.
func (p *Purge) PurgeNow(ctx context.Context) {
	quietUntil := p.cfg.Clock.Now().Add(p.cfg.QuietFor)
	for _, consumer := range p.cfg.Consumers {
		began := p.cfg.Clock.Now()
		stats := PurgeStats{Consumer: consumer}
		stats.Interrupted, stats.Err = p.purge(ctx, consumer, quietUntil, &stats,
			func() (int64, error) { return p.store.PurgeInbox(ctx, consumer, p.cfg.Window, p.cfg.BatchSize) },
			func() (int64, error) { return p.store.PurgeVerdictLog(ctx, consumer, p.cfg.Window, p.cfg.BatchSize) },
		)
		stats.Took = p.cfg.Clock.Since(began)
		if stats.Err != nil && ctx.Err() == nil {
			p.cfg.Logger.Error("Purge failed, the next one goes on", stats.Err, watermill.LogFields{"consumer": consumer})
		}
		for _, hook := range p.hooks {
			hook.OnPurge(stats)
		}
	}
	// They belong to no consumer, and the hooks hear of consumers.
	stats := PurgeStats{}
	interrupted, err := p.purge(ctx, allConsumers, quietUntil, &stats,
		func() (int64, error) { return p.store.PurgeEffects(ctx, p.cfg.Effects, p.cfg.BatchSize) },
		func() (int64, error) { return p.store.PurgeParked(ctx, p.cfg.Parked, p.cfg.BatchSize) },
		func() (int64, error) { return p.store.PurgeAudit(ctx, p.cfg.Audit, p.cfg.BatchSize) },
	)
	switch {
	case err != nil && ctx.Err() == nil:
		p.cfg.Logger.Error("Purge of effects, parked messages and the audit failed, the next one goes on", err, nil)
	case stats.Purged > 0:
		p.cfg.Logger.Info("Effects, parked messages and entries of the audit were forgotten", watermill.LogFields{
			"rows": stats.Purged, "batches": stats.Batches, "interrupted": interrupted,
		})
	}
}

// allConsumers is what the purge of what belongs to no single consumer is called
// where others have their consumers' names, which have a dot.
const allConsumers = "effects"

// Why a purge ends before it is done.
const (
	otherInstance = "another instance is purging"
	quietOver     = "quiet hours are over"
	leaseLost     = "another instance has taken over"
)

func (p *Purge) purge(
	ctx context.Context, consumer string, quietUntil time.Time, stats *PurgeStats, batches ...func() (int64, error),
) (interrupted string, err error) {
	lease, ok, err := p.store.AcquireLease(ctx, purgeLease(consumer), p.owner, p.cfg.LeaseTTL)
	if err != nil || !ok {
		return otherInstance, err
	}
	defer func() {
		err = errors.Join(err, p.store.ReleaseLease(context.WithoutCancel(ctx), lease))
	}()
	for _, batch := range batches {
		if interrupted, err := p.batches(ctx, consumer, lease, quietUntil, stats, batch); interrupted != "" || err != nil {
			return interrupted, err
		}
	}
	return "", nil
}

// purgeLease is the name of the lease on a consumer's purge. Handlers may be
// called anything; the names of leases may not.
func purgeLease(consumer string) string {
	name := "purge/" + store.Identity(consumer)
	if store.CheckLeaseName(name) == nil {
		return name
	}
	sum := sha256.Sum256([]byte(consumer))
	return "purge/sha256:" + hex.EncodeToString(sum[:])
}

func (p *Purge) batches(
	ctx context.Context, consumer string, lease store.Lease, quietUntil time.Time, stats *PurgeStats,
	batch func() (int64, error),
) (interrupted string, err error) {
	renew := p.cfg.Clock.Now().Add(p.cfg.LeaseTTL / 3)
	for failures := 0; ; {
		if !p.cfg.Clock.Now().Before(quietUntil) {
			return quietOver, nil
		}
		var done bool
		interrupted, done, err = p.round(ctx, consumer, lease, &renew, stats, batch)
		switch {
		case done || interrupted != "":
			return interrupted, nil
		case err == nil:
			failures = 0
		case failures == purgeTries-1:
			return "", err
		default: // the next night is a day away
			failures++
			p.cfg.Logger.Info("Purging failed, trying again", watermill.LogFields{"consumer": consumer, "cause": err.Error()})
		}
		select {
		case <-ctx.Done():
			return "", errors.Join(err, fmt.Errorf("middleware: purge: %w", ctx.Err()))
		case <-p.cfg.Clock.After(p.cfg.Pause << failures):
		}
	}
}

// purgeTries is how often in a row a purge may fail before it is left to the next
// night: longer than a busy writer or a failover takes.
const purgeTries = 8

// round removes a batch, unless many messages wait.
func (p *Purge) round(
	ctx context.Context, consumer string, lease store.Lease, renew *time.Time, stats *PurgeStats,
	batch func() (int64, error),
) (interrupted string, done bool, err error) {
	if now := p.cfg.Clock.Now(); !now.Before(*renew) {
		held, err := p.store.RenewLeases(ctx, lease.Name, p.owner, p.cfg.LeaseTTL)
		if err != nil {
			return "", false, err
		}
		if len(held) == 0 {
			return leaseLost, false, nil
		}
		*renew = now.Add(p.cfg.LeaseTTL / 3)
	}
	deep, err := p.deepBacklog(ctx, consumer)
	if err != nil || deep {
		return "", false, err
	}
	n, err := batch()
	if err != nil || n == 0 {
		return "", err == nil, err
	}
	stats.Purged += n
	stats.Batches++
	return "", false, nil
}

func (p *Purge) deepBacklog(ctx context.Context, consumer string) (bool, error) {
	if p.cfg.Backlog == nil {
		return false, nil
	}
	consumers := []string{consumer}
	if consumer == allConsumers {
		consumers = p.cfg.Consumers
	}
	for _, consumer := range consumers {
		n, err := p.cfg.Backlog(ctx, consumer)
		if err != nil {
			return false, fmt.Errorf("middleware: ask for the backlog of %q: %w", consumer, err)
		}
		if n > p.cfg.MaxBacklog {
			return true, nil
		}
	}
	return false, nil
}
