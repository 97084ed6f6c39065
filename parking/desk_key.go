package parking

import (
	"context"
	"errors"
	"fmt"

	"github.com/headrace-go/headrace/store"
)

// KeyState is how a key's line stands at a consumer.
type KeyState struct {
	Consumer, Key string
	// Gate is nil when the key isn't held: what comes for it is handled at once.
	Gate *store.Gate
	// Head is the first message of the line, nil when there is none. Its Queue says how
	// many are behind it, to MaxQueue.
	Head *Item
	// Audit has the last changes that people have made to the line, oldest first.
	Audit []store.AuditRow
}

// Key looks at a key's line.
func (d *Desk) Key(ctx context.Context, consumer, key string) (KeyState, error) {
	state := KeyState{Consumer: consumer, Key: key}
	line := store.NamedKeyLine(consumer, key)
	gate, err := d.st.GateOf(ctx, line)
	switch {
	case err == nil:
		state.Gate = &gate
	case !errors.Is(err, store.ErrNotHeld):
		return state, err
	}
	if state.Gate != nil {
		items, err := d.List(ctx, keyFilter(consumer, key, everyOpen[:]), 0, 1)
		if err != nil {
			return state, err
		}
		if len(items) > 0 {
			state.Head = &items[0]
		}
	}
	state.Audit, err = d.st.AuditOf(ctx, store.TargetKey, store.KeyTarget(line), maxAudit)
	return state, err
}

//nolint:gochecknoglobals // a table of constants
var everyOpen = [...]store.ParkedStatus{
	store.StatusWaiting, store.StatusDelayed, store.StatusGap, store.StatusReleased, store.StatusParked, store.StatusReview,
}

func keyFilter(consumer, key string, status []store.ParkedStatus) store.ParkedFilter {
	return store.ParkedFilter{Consumer: consumer, Key: key, Status: status}
}

// PauseKey has nothing of a key handled until ResumeKey or ReleaseKey; what comes for
// it lines up. A message that is in its handler now is the last one. Errors match
// store.ErrUnknownConsumer when nobody of that name remembers messages or runs.
func (d *Desk) PauseKey(ctx context.Context, consumer, key string) (KeyState, error) {
	if err := d.st.CheckConsumer(ctx, consumer); err != nil { // else it would wait for ever for nobody
		return KeyState{}, fmt.Errorf("parking: %w", err)
	}
	line := store.NamedKeyLine(consumer, key)
	err := d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		if _, err := d.st.PauseLine(ctx, tx, line); err != nil {
			return err
		}
		return d.signKey(ctx, tx, line, actionPause)
	})
	if err != nil {
		return KeyState{}, explainKey(line, err)
	}
	return d.Key(ctx, consumer, key)
}

// ResumeKey ends PauseKey: the line goes on with its first message, or is opened when
// it has none. Errors match store.ErrNotHeld, and ErrNotPaused.
func (d *Desk) ResumeKey(ctx context.Context, consumer, key string) (KeyState, error) {
	line := store.NamedKeyLine(consumer, key)
	if err := d.resume(ctx, line); err != nil {
		return KeyState{}, err
	}
	return d.Key(ctx, consumer, key)
}

func (d *Desk) resume(ctx context.Context, line store.Line) error {
	err := d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		gate, err := d.st.ResumeLine(ctx, tx, line)
		if err == nil && !gate.Paused {
			err = ErrNotPaused // and nothing was changed
		}
		if err != nil {
			return err
		}
		return d.signKey(ctx, tx, line, actionResume)
	})
	return explainKey(line, err)
}

// Freed is what ReleaseKey has done.
type Freed struct {
	// Resumed: the key was paused, and isn't any more.
	Resumed bool
	// Released are the messages that are tried again, in their order.
	Released []int64
	// Waiting is how many messages the line has, about.
	Waiting int64
}

// ReleaseKey sets a key free: it ends a pause, and has each of the key's messages that
// waits for a person or for its next try tried again, in their order. It stops at the
// first that must not be (Retry tells which), because nothing behind it would move.
// Errors match store.ErrNotHeld when the key isn't held, and those of Retry.
func (d *Desk) ReleaseKey(ctx context.Context, consumer, key string, o RetryOptions) (Freed, error) {
	var freed Freed
	line := store.NamedKeyLine(consumer, key)
	gate, err := d.st.GateOf(ctx, line)
	if err != nil {
		return freed, explainKey(line, err)
	}
	freed.Waiting = gate.Waiting()
	status := []store.ParkedStatus{store.StatusDelayed, store.StatusGap, store.StatusParked, store.StatusReview}
	marks, err := d.marks(ctx, keyFilter(consumer, key, status), 0)
	if err != nil {
		return freed, err
	}
	for _, mark := range marks {
		_, err := d.retry(ctx, mark, o)
		if errors.Is(err, store.ErrStatus) || errors.Is(err, store.ErrNotParked) {
			continue // somebody was quicker
		}
		if err != nil {
			return freed, err
		}
		freed.Released = append(freed.Released, mark.ID)
	}
	if gate.Paused {
		err := d.resume(ctx, line)
		switch {
		case err == nil:
			freed.Resumed = true
		case !errors.Is(err, ErrNotPaused) && !errors.Is(err, store.ErrNotHeld): // somebody was quicker
			return freed, err
		}
	}
	return freed, nil
}

func (d *Desk) signKey(ctx context.Context, tx store.Tx, line store.Line, action string) error {
	return d.audit(ctx, tx, store.AuditRow{
		Action: action, TargetKind: store.TargetKey, Target: store.KeyTarget(line), Subject: line.Key,
		Details: map[string]any{"consumer": store.Identity(line.Consumer)},
	})
}

func explainKey(line store.Line, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotHeld):
		return fmt.Errorf("parking: %w: %q of %q; what comes for it is handled at once",
			store.ErrNotHeld, store.Identity(line.Key), store.Identity(line.Consumer))
	case errors.Is(err, ErrNotPaused):
		return fmt.Errorf("parking: %w: %q of %q", ErrNotPaused, store.Identity(line.Key), store.Identity(line.Consumer))
	case errors.Is(err, store.ErrLockTimeout):
		return fmt.Errorf("parking: key %q: %w (%w)", store.Identity(line.Key), ErrInHand, err)
	}
	return err
}
