package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Errors of changes to what a consumer remembers, to be matched with errors.Is.
// Nothing was changed then, or what a change that went on for several batches has
// done so far; run again it goes on.
var (
	// ErrConsumerLive says that a process handles the consumer's messages: changed
	// under its hands, they would be swallowed or repeated.
	ErrConsumerLive = errors.New("consumer is running")
	// ErrConsumerChanging says that somebody else changes it, or that a rename was
	// begun and not finished.
	ErrConsumerChanging = errors.New("consumer is being changed")
	// ErrConsumerTaken says that messages are remembered under the new name already.
	ErrConsumerTaken = errors.New("consumer exists")
	// ErrOpenMessages says that messages are kept whose verdict is open.
	ErrOpenMessages = errors.New("consumer has open messages")
	// ErrForgotten says that a replay's beginning is older than what is remembered.
	ErrForgotten = errors.New("beginning is older than what is remembered")
	// ErrBadRange says what is wrong with a replay's times.
	ErrBadRange = errors.New("not a range of the past")
)

// ConsumerChange says who changes what a consumer remembers, and how.
type ConsumerChange struct {
	// Actor is who does it, for the audit. Required.
	Actor string
	// Note is for the audit. Optional.
	Note string
	// BatchSize is how many rows one transaction changes. Default 500, at most
	// 10,000.
	BatchSize int
	// Progress is told after each batch how many rows were changed. Optional.
	Progress func(changed int64)
}

// operationTTL is how long a change that was killed keeps others away.
const operationTTL = 15 * time.Second

// operation is a change while it goes on.
type operation struct {
	store  *Store
	change ConsumerChange
	owner  string
	// consumers are those that it is about.
	consumers []string
	changed   int64
}

// operate runs f while nobody else changes the consumers.
func (s *Store) operate(ctx context.Context, change ConsumerChange, consumers []string, f func(*operation) error) error {
	if plainText(change.Actor, maxActor) == "" {
		return ErrNoActor
	}
	if change.BatchSize <= 0 {
		change.BatchSize = 500
	}
	change.BatchSize = min(change.BatchSize, maxPurge)
	op := &operation{store: s, change: change, owner: uuid.NewString(), consumers: consumers}
	defer op.end(ctx)
	if err := op.alone(ctx); err != nil {
		return err
	}
	return f(op)
}

// alone takes or renews the leases that keep other changes away, and looks who is
// running, in this order: who starts takes its lease before it looks for these.
func (op *operation) alone(ctx context.Context) error {
	for _, consumer := range op.consumers {
		_, ok, err := op.store.AcquireLease(ctx, operationLease(consumer), op.owner, operationTTL)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%w: %q, by somebody else, or by one that was killed less than %s ago: try again then",
				ErrConsumerChanging, consumer, operationTTL)
		}
		present, err := op.store.Present(ctx, consumer)
		if err != nil {
			return err
		}
		if len(present) > 0 {
			return fmt.Errorf("%w: %q is handled by %q (%d in all); stop it and try again; a process that was killed "+
				"counts for %s more", ErrConsumerLive, consumer, present[0].Owner, len(present),
				present[0].ExpiresIn.Round(time.Second))
		}
	}
	return nil
}

func (op *operation) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), operationTTL/3)
	defer cancel()
	for _, consumer := range op.consumers {
		if err := op.store.DeleteLease(ctx, operationLease(consumer), op.owner); err != nil {
			op.store.cfg.Logger.Error("A consumer counts as being changed until the lease is over", err, nil)
			return
		}
	}
}

// batches runs f, a transaction each, until it changes nothing more.
func (op *operation) batches(ctx context.Context, f func(ctx context.Context, tx Tx) (int64, error)) error {
	for {
		if err := op.alone(ctx); err != nil {
			return err
		}
		n, err := op.batch(ctx, f)
		if err != nil || n == 0 {
			return err
		}
		op.changed += n
		if op.change.Progress != nil {
			op.change.Progress(op.changed)
		}
	}
}

func (op *operation) batch(ctx context.Context, f func(ctx context.Context, tx Tx) (int64, error)) (n int64, err error) {
	err = op.store.InTx(ctx, func(ctx context.Context, tx Tx) (err error) {
		n, err = f(ctx, tx)
		return err
	})
	return n, err
}

// audit records a step of the change.
func (op *operation) audit(ctx context.Context, tx Tx, action string, details map[string]any) error {
	return op.store.InsertAudit(ctx, tx, AuditRow{
		Actor: op.change.Actor, Action: action, TargetKind: TargetConsumer, Target: op.consumers[0],
		Details: details, Note: op.change.Note,
	})
}

// known refuses names under which nothing was ever remembered.
func (s *Store) known(ctx context.Context, consumer string) error {
	names, err := s.Consumers(ctx)
	if err == nil && !slices.Contains(names, consumer) {
		err = fmt.Errorf("%w %q", ErrUnknownConsumer, consumer)
	}
	return err
}
