package store

import (
	"context"
	"fmt"
)

// savepoint is a part of a unit that can be undone on its own. Hooks that were
// registered inside it go with it.
type savepoint struct {
	unit                      *Unit
	name                      string
	beforeCommit, afterCommit int
}

func (u *Unit) openSavepoint(ctx context.Context) (*savepoint, error) {
	u.mu.Lock()
	u.savepoints++
	sp := &savepoint{
		unit:         u,
		name:         fmt.Sprintf("headrace_%d", u.savepoints),
		beforeCommit: len(u.beforeCommit),
		afterCommit:  len(u.afterCommit),
	}
	u.mu.Unlock()
	return sp, sp.exec(ctx, "SAVEPOINT "+sp.name)
}

func (sp *savepoint) release(ctx context.Context) error {
	return sp.exec(ctx, "RELEASE SAVEPOINT "+sp.name)
}

func (sp *savepoint) rollback(ctx context.Context) error {
	u := sp.unit
	u.mu.Lock()
	u.beforeCommit = u.beforeCommit[:min(sp.beforeCommit, len(u.beforeCommit))]
	u.afterCommit = u.afterCommit[:min(sp.afterCommit, len(u.afterCommit))]
	u.mu.Unlock()
	if err := sp.exec(ctx, "ROLLBACK TO SAVEPOINT "+sp.name); err != nil {
		return err
	}
	return sp.release(ctx)
}

func (sp *savepoint) exec(ctx context.Context, statement string) error {
	u := sp.unit
	if err := u.usable(); err != nil {
		return err
	}
	if _, err := u.session.ExecContext(ctx, statement); err != nil {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.doom(err)
		return fmt.Errorf("store: %s: %w", statement, err)
	}
	return nil
}
