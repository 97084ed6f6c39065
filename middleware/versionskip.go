package middleware

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/ruling"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// State is what a message says of one entity: how it is as of a version.
type State struct {
	Entity  keys.Entity
	Version Version
	// Groups of fields that the message carries, none for a message that carries no group;
	// nil for all fields.
	Groups []string
	// Deleted says that there is no such entity any more.
	Deleted bool
}

// StatesFunc tells what states a message carries: one, or those of a batch. It is called
// concurrently, and again when a transaction is.
type StatesFunc func(msg *message.Message) ([]State, error)

// StateOf is for messages about one entity. groups is nil where each carries all fields.
func StateOf(entity keys.EntityFunc, version VersionFunc, groups GroupsFunc) StatesFunc {
	return func(msg *message.Message) ([]State, error) {
		e, err := entity(msg)
		if err != nil {
			return nil, err
		}
		v, err := version(msg)
		if err != nil {
			return nil, err
		}
		state := State{Entity: e, Version: v}
		if groups != nil {
			carried, err := groups(msg)
			if err != nil {
				return nil, err
			}
			state.Groups = append([]string{}, carried...)
		}
		return []State{state}, nil
	}
}

// VersionSkipConfig says what states messages carry, and how they are compared.
type VersionSkipConfig struct {
	// States of a message. Required.
	States StatesFunc
	// Consumer is whose versions they are. Default: behind Dedupe its consumer. Required
	// where there is none.
	Consumer string
	// Columns of the user's own tables hold the versions of their rows, and are shared by all
	// consumers: what anybody has written there counts. They are written behind the handler, in
	// its transaction. What has no row keeps its version in Headrace's table, as do entities
	// of other types, groups without a column and what is deleted. While Observe is on they are
	// not looked at. Default: none, and Headrace's table holds all.
	Columns []store.VersionColumns
	// SkipEqual skips what has the version that was taken last, too. Default false: full
	// state of the same version is the same state, and may be applied again.
	SkipEqual bool
	// Compare says which of two TextVersions is newer, as cmp.Compare does. Required for
	// those.
	Compare func(a, b string) (int, error)
	// MaxAhead refuses a TimeVersion that is later than now by this process's clock and
	// more, with ErrVersion: taken, it would make all that comes after it stale. Default 0:
	// not checked.
	MaxAhead time.Duration
	// Observe lets everything through, and only records what it would have skipped. What is
	// applied while observing counts when Observe is turned off later.
	Observe bool

	// Logger gets what is skipped (debug). Default: none.
	Logger watermill.LoggerAdapter
	// Hooks that implement VerdictHook are told of what is skipped where no Dedupe does so.
	Hooks []any
}

// VersionSkip keeps a state from overwriting a newer one: messages about an entity are
// handled one after the other, and one whose version is older than what was taken is
// skipped with the verdict Stale. The comparison, the handler's writes and the version
// are one transaction. A version outlives the inbox, so that a copy that comes after a
// purge is harmless. It belongs inside of Dedupe; without it the messages that a handler
// returns are published by the router, after the commit.
//
// What is deleted leaves a tombstone: only a newer version revives it. It is safe for
// concurrent use, and one serves all handlers whose messages it can read.
type VersionSkip struct {
	store *store.Store
	cfg   VersionSkipConfig
	hooks []VerdictHook
}

// NewVersionSkip returns the middleware. Errors are those of the configuration.
func NewVersionSkip(st *store.Store, cfg VersionSkipConfig) (*VersionSkip, error) {
	switch {
	case st == nil:
		return nil, errors.New("middleware: NewVersionSkip needs a store")
	case cfg.States == nil:
		return nil, errors.New("middleware: VersionSkipConfig.States is required: it says what a message is about, " +
			"and how new that is; StateOf makes one")
	case cfg.MaxAhead < 0:
		return nil, errors.New("middleware: VersionSkipConfig.MaxAhead must not be negative")
	}
	if err := checkColumns(cfg.Columns); err != nil {
		return nil, err
	}
	if cfg.Compare == nil {
		cfg.Compare = func(string, string) (int, error) {
			return 0, fmt.Errorf("%w: a TextVersion needs VersionSkipConfig.Compare", ErrVersion)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = watermill.NopLogger{}
	}
	return &VersionSkip{store: st, cfg: cfg, hooks: store.HooksOf[VerdictHook](cfg.Hooks)}, nil
}

// FreshState is a state that is to be applied.
type FreshState struct {
	State

	// Newer are groups of which something newer was taken than this state of all fields:
	// their fields must stay as they are.
	Newer []string
}

// Has reports whether a group's fields are to be written.
func (s FreshState) Has(group string) bool {
	if s.Groups == nil {
		return !slices.Contains(s.Newer, group)
	}
	return slices.Contains(s.Groups, group)
}

type freshKey struct{}

// Fresh returns the states that the context's message has the handler apply, with those of
// their groups that are fresh: while observing all; nil outside of VersionSkip.
func Fresh(ctx context.Context) []FreshState {
	fresh, _ := ctx.Value(freshKey{}).([]FreshState)
	return fresh
}

// Middleware protects what h writes.
func (v *VersionSkip) Middleware(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		began := time.Now()
		g := &guarded{skip: v, msg: msg}
		if err := g.read(); err != nil {
			return nil, err
		}
		if v.cfg.Observe {
			return g.observe(h)
		}
		outer := msg.Context()
		defer func() { msg.SetContext(outer) }()
		var produced []*message.Message
		var skipped, told bool
		err := v.store.InTx(g.about(outer), func(ctx context.Context, tx store.Tx) (err error) {
			produced, skipped, told, err = g.handle(ctx, tx, h)
			return err
		})
		if err == nil && skipped && !told {
			g.tell(began)
		}
		return produced, err
	}
}

// guarded is one delivery of a message.
type guarded struct {
	skip     *VersionSkip
	msg      *message.Message
	consumer string
	id       string
	states   []State
}

func (g *guarded) read() (err error) {
	ctx := g.msg.Context()
	about := store.AboutFromContext(ctx)
	g.consumer, g.id = g.skip.cfg.Consumer, g.msg.UUID
	if g.skip.store.UnitFromContext(ctx) != nil && about.Consumer != "" {
		g.id = about.MessageID
		if g.consumer == "" {
			g.consumer = about.Consumer
		}
	}
	if g.consumer == "" {
		return errors.New("middleware: VersionSkip knows no consumer: put it inside of Dedupe, or set VersionSkipConfig.Consumer")
	}
	if g.states, err = g.skip.cfg.States(g.msg); err != nil {
		return parking.AsPermanent(fmt.Errorf("middleware: VersionSkip: %w", err))
	}
	for _, state := range g.states {
		if err := g.skip.check(state); err != nil {
			return parking.AsPermanent(fmt.Errorf("middleware: VersionSkip: %s: %w", state.Entity, err))
		}
	}
	return nil
}

func (v *VersionSkip) check(state State) error {
	if err := state.Version.check(); err != nil {
		return err
	}
	ahead := time.Until(state.Version.at)
	if state.Version.kind == versionTime && v.cfg.MaxAhead > 0 && ahead > v.cfg.MaxAhead {
		return fmt.Errorf("%w: %s is %s ahead of this process's clock", ErrVersion, state.Version, ahead.Round(time.Second))
	}
	return nil
}

func (g *guarded) about(ctx context.Context) context.Context {
	if g.skip.store.UnitFromContext(ctx) != nil {
		return ctx
	}
	about := store.About{Consumer: g.consumer, MessageID: g.id}
	for _, state := range g.states {
		about.Keys = append(about.Keys, state.Entity.String())
	}
	return store.WithAbout(ctx, about)
}

// handle runs the handler on what is fresh. told says that somebody else tells of what is
// skipped.
func (g *guarded) handle(
	ctx context.Context, tx store.Tx, h message.HandlerFunc,
) (produced []*message.Message, skipped, told bool, err error) {
	judged, err := g.judge(ctx, tx)
	if err != nil {
		return nil, false, false, err
	}
	if len(judged.fresh) == 0 && len(judged.stale) > 0 {
		told, err = g.skipAll(ctx, tx, judged)
		return nil, true, told, err
	}
	if err := g.log(ctx, tx, judged, false); err != nil {
		return nil, false, false, err
	}
	g.msg.SetContext(context.WithValue(ctx, freshKey{}, judged.fresh))
	if produced, err = h(g.msg); err != nil {
		return nil, false, false, err
	}
	// A handler that has returned nil can still commit when its message's context is
	// cancelled.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if err := g.skip.put(ctx, tx, g.consumer, judged); err != nil {
		return nil, false, false, err
	}
	step.Reach(ctx, step.StateWritten)
	return produced, false, false, nil
}

// judge compares the states with what was taken, behind the entities' locks.
func (g *guarded) judge(ctx context.Context, tx store.Tx) (*judgement, error) {
	entities := make([]store.Entity, len(g.states))
	for i, state := range g.states {
		entities[i] = store.Entity(state.Entity)
	}
	if err := g.skip.store.LockEntities(ctx, tx, entities...); err != nil {
		return nil, err
	}
	step.Reach(ctx, step.StateLocked)
	rows, err := g.skip.store.Versions(ctx, tx, g.consumer, entities...)
	if err != nil {
		return nil, err
	}
	inRows, err := g.skip.rowVersions(ctx, tx, entities)
	if err != nil {
		return nil, err
	}
	step.Reach(ctx, step.StateRead)
	j, err := newJudgement(g.skip.cfg, rows, inRows)
	if err == nil {
		err = j.judgeAll(g.states)
	}
	if err != nil {
		return nil, parking.AsPermanent(fmt.Errorf("middleware: VersionSkip: %w", err))
	}
	return j, nil
}

func (g *guarded) skipAll(ctx context.Context, tx store.Tx, j *judgement) (told bool, err error) {
	if ruling.Give(ctx, ruling.Ruling{Verdict: string(store.Stale), Reason: strings.Join(j.stale, "; ")}) {
		return true, nil
	}
	return false, g.log(ctx, tx, j, false)
}

// log notes what is skipped of a message.
func (g *guarded) log(ctx context.Context, tx store.Tx, j *judgement, observed bool) error {
	if len(j.stale) == 0 {
		return nil
	}
	return g.skip.store.LogVerdict(ctx, tx, store.VerdictLogRow{
		Consumer: g.consumer, MessageID: g.id, Verdict: store.Stale, Reason: strings.Join(j.stale, "; "), Observed: observed,
	})
}

func (g *guarded) tell(began time.Time) {
	g.skip.cfg.Logger.Debug("Skipped a message whose state is older than what was taken", watermill.LogFields{
		"consumer": g.consumer, "message_id": g.id, "verdict": store.Stale,
	})
	for _, hook := range g.skip.hooks {
		hook.OnVerdict(Verdict{
			Consumer: g.consumer, MessageID: g.id, Topic: message.SubscribeTopicFromCtx(g.msg.Context()),
			Verdict: store.Stale, Observed: g.skip.cfg.Observe, Took: time.Since(began),
		})
	}
}

// observe runs the handler as if VersionSkip weren't there. A failure to record is logged
// and changes nothing, unless it is the transaction's.
func (g *guarded) observe(h message.HandlerFunc) ([]*message.Message, error) {
	began := time.Now()
	produced, err := g.handleAll(h)
	if err != nil {
		return produced, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(g.msg.Context()), writeTimeout)
	defer cancel()
	stale := false
	err = g.skip.store.InTx(g.about(ctx), func(ctx context.Context, tx store.Tx) error {
		j, err := g.judge(ctx, tx)
		if err != nil {
			return err
		}
		stale = len(j.fresh) == 0 && len(j.stale) > 0
		return errors.Join(g.log(ctx, tx, j, true), g.skip.store.PutVersions(ctx, tx, g.consumer, j.taken()...))
	})
	switch {
	case err != nil && g.skip.store.UnitFromContext(ctx) != nil:
		return nil, err
	case err != nil:
		g.skip.cfg.Logger.Error("What VersionSkip would have done can't be recorded", err, watermill.LogFields{
			"consumer": g.consumer, "message_id": g.id,
		})
	case stale:
		g.tell(began)
	}
	return produced, nil
}

// handleAll runs the handler with all as fresh.
func (g *guarded) handleAll(h message.HandlerFunc) ([]*message.Message, error) {
	all := make([]FreshState, len(g.states))
	for i, state := range g.states {
		all[i] = FreshState{State: state}
	}
	outer := g.msg.Context()
	defer g.msg.SetContext(outer)
	g.msg.SetContext(context.WithValue(outer, freshKey{}, all))
	return h(g.msg)
}
