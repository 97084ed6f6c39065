package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
)

// Claim is the right to work a line until it is over or taken: to handle its
// messages one after another. Names are in the form in which they are stored.
type Claim struct {
	Consumer, Line, Key string
	// Owner has it, and must be unique per process start. Epoch grows with each claim
	// of the line, and with each end of one.
	Owner string
	Epoch int64
	// Stalls is how many claims in a row have ended without their owner's word, with
	// the same message at the head: one that ends its process.
	Stalls int
	// Paused: a person has begun to hold the line since.
	Paused bool
	// Gone is how many messages have left the line since the last renewal.
	Gone int64
}

// HeldRef is a message that is handled under a claim.
type HeldRef struct {
	Claim

	// ID is the kept message's.
	ID int64
	// InboxID is what the inbox knows it by, in the form in which it is stored.
	InboxID string
	// Edits is how often the message was edited when it was read, and Status what it had
	// then: whoever knows that is told by FailParked of a release since.
	Edits  int
	Status ParkedStatus
	// Left counts the messages that have left the line and that its gate wasn't told of
	// (Gone). FailParked takes them, at the moment when it tells. Optional.
	Left *atomic.Int64
}

// takeLeft takes what Left has counted, and puts it back if that couldn't be told.
func (r HeldRef) takeLeft() (n int64, putBack func()) {
	if r.Left == nil {
		return 0, func() {}
	}
	n = r.Left.Swap(0)
	return n, func() { r.Left.Add(n) }
}

// ClaimLines gives an owner up to n lines of a consumer that are due, each until ttl
// has passed by the database's clock or EndClaim. What somebody else is claiming at
// this moment is left to them. Lines that turn out to be empty are opened.
func (s *Store) ClaimLines(ctx context.Context, consumer, owner string, ttl time.Duration, n int) (claims []Claim, err error) {
	if owner == "" || owner != Identity(owner) {
		return nil, fmt.Errorf("store: claim lines: an owner's name has 1 to %d bytes of text, not %q", MaxIdentity, owner)
	}
	consumer = Identity(consumer)
	lines, err := s.dueLines(ctx, consumer, n)
	if err != nil || len(lines) == 0 {
		return nil, err
	}
	query, args, err := sqlx.In(s.gateQuery()+" WHERE consumer = ? AND line IN (?) AND due_at <= "+s.dialect.now()+
		" ORDER BY line"+s.dialect.forUpdateSkipLocked(), consumer, lines)
	if err != nil {
		return nil, err
	}
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		claims = nil
		var gates []gateRow
		if err := tx.SelectContext(ctx, &gates, query, args...); err != nil {
			return err
		}
		for _, g := range gates {
			claim, err := s.claimLine(ctx, tx, g, owner, ttl)
			if err != nil {
				return err
			}
			if claim != nil {
				claims = append(claims, *claim)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store: claim lines of %q: %w", consumer, err)
	}
	return claims, nil
}

// dueLines picks lines that are due at random among those that have been so for
// longest, so that instances which look at the same time don't want the same ones.
func (s *Store) dueLines(ctx context.Context, consumer string, n int) (lines []string, err error) {
	if n <= 0 {
		return nil, nil
	}
	query := s.dialect.rebind("SELECT line FROM " + s.names.gates + " WHERE consumer = ? AND due_at <= " + s.dialect.now() +
		" ORDER BY due_at LIMIT ?")
	err = s.withConn(ctx, func(conn *sqlx.Conn) error { return conn.SelectContext(ctx, &lines, query, consumer, 2*n) })
	if err != nil {
		return nil, fmt.Errorf("store: look for lines of %q that are due: %w", consumer, err)
	}
	rand.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	return lines[:min(n, len(lines))], nil
}

// claimLine claims a locked line if there is something to do.
func (s *Store) claimLine(ctx context.Context, tx Tx, g gateRow, owner string, ttl time.Duration) (*Claim, error) {
	head, err := s.headOf(ctx, tx, g.Consumer, g.Line)
	if err != nil {
		return nil, err
	}
	if g.Paused || head == nil || head.Status.forPerson() || head.Status.timed() && head.Due.Int64 > 0 {
		_, err := s.settle(ctx, tx, g)
		return nil, err
	}
	stalls := 0
	if g.ClaimedBy != "" && g.ClaimHead.Valid && g.ClaimHead.Int64 == head.ID {
		stalls = g.Stalls
		if g.ClaimedBy != owner { // its own claim ran out because the database was away
			stalls++
		}
	}
	_, err = tx.ExecContext(ctx, "UPDATE "+s.names.gates+" SET claimed_by = ?, claim_epoch = claim_epoch + 1, due_at = "+
		s.dialect.nowPlus()+", claim_head = ?, stalls = ? WHERE consumer = ? AND line = ?",
		owner, ttl.Microseconds(), head.ID, stalls, g.Consumer, g.Line)
	return &Claim{
		Consumer: g.Consumer, Line: g.Line, Key: g.Key.String, Owner: owner, Epoch: g.ClaimEpoch + 1, Stalls: stalls,
	}, err
}

// RenewClaims extends claims of one owner, adds what has left their lines (Gone) to
// their gates, and returns those that it still has, with Paused as it is now and Gone
// 0. A claim that is over but wasn't taken is extended too.
func (s *Store) RenewClaims(ctx context.Context, owner string, ttl time.Duration, claims []Claim) (kept []Claim, err error) {
	claims = slices.Clone(claims)
	slices.SortFunc(claims, func(a, b Claim) int { // gates are locked in this order
		return cmp.Or(strings.Compare(a.Consumer, b.Consumer), strings.Compare(a.Line, b.Line))
	})
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		kept = nil
		for _, claim := range claims {
			g, err := s.lockClaim(ctx, tx, claim)
			if errors.Is(err, ErrClaimLost) || claim.Owner != owner {
				continue
			}
			if err != nil {
				return err
			}
			_, err = tx.ExecContext(ctx, "UPDATE "+s.names.gates+" SET gone = gone + ?, due_at = "+s.dialect.nowPlus()+
				" WHERE consumer = ? AND line = ?", claim.Gone, ttl.Microseconds(), claim.Consumer, claim.Line)
			if err != nil {
				return err
			}
			claim.Paused, claim.Gone = g.Paused, 0
			kept = append(kept, claim)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store: renew claims of %q: %w", owner, err)
	}
	return kept, nil
}

func (c Claim) line() Line { return Line{c.Consumer, c.Line, c.Key} }

// lockClaim locks the gate of a line that is claimed; the error is ErrClaimLost when
// it isn't any more.
func (s *Store) lockClaim(ctx context.Context, tx Tx, c Claim) (gateRow, error) {
	g, err := s.lockGate(ctx, tx, c.line())
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && (g.ClaimedBy != c.Owner || g.ClaimEpoch != c.Epoch):
		return gateRow{}, c.lost()
	}
	return g, err
}

func (c Claim) lost() error { return fmt.Errorf("%w: %q of %q", ErrClaimLost, c.Line, c.Consumer) }

// maxCounted bounds how many messages of a line are counted.
const maxCounted = 1000

// EndClaim gives a claim back. The line is opened when it is empty, and otherwise
// due when its first message is. It is no error when the claim was lost before.
func (s *Store) EndClaim(ctx context.Context, c Claim) (opened bool, err error) {
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		opened = false
		g, err := s.lockClaim(ctx, tx, c)
		if errors.Is(err, ErrClaimLost) {
			return nil
		}
		if err != nil {
			return err
		}
		var left int64
		err = tx.GetContext(ctx, &left, "SELECT count(*) FROM (SELECT 1 AS one FROM "+s.names.parked+
			" WHERE consumer = ? AND line = ? LIMIT ?) AS counted", c.Consumer, c.Line, maxCounted+1)
		if err != nil {
			return err
		}
		if g.Gone += c.Gone; left <= maxCounted {
			g.Gone = g.Kept - left
		}
		opened, err = s.settle(ctx, tx, g)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("store: end the claim of line %q: %w", c.Line, err)
	}
	return opened, nil
}

// ReadLine returns messages of a claimed line behind the one with an id, in order: at
// most limit, and no further one once their payloads exceed maxBytes. It locks
// nothing.
func (s *Store) ReadLine(ctx context.Context, c Claim, afterID int64, limit, maxBytes int) ([]ParkedRow, error) {
	var sizes []struct {
		ID   int64 `db:"id"`
		Size int   `db:"size"`
	}
	query := s.dialect.rebind("SELECT id, coalesce(length(payload), 0) + coalesce(length(edited_payload), 0) AS size FROM " +
		s.names.parked + " WHERE consumer = ? AND line = ? AND id > ? ORDER BY id LIMIT ?")
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &sizes, query, c.Consumer, c.Line, afterID, limit)
	})
	last, total := afterID, 0
	for _, row := range sizes {
		if total > maxBytes {
			break
		}
		last, total = row.ID, total+row.Size
	}
	if err == nil && last == afterID {
		return nil, nil
	}
	var rows []ParkedRow
	if err == nil {
		rows, err = s.readParked(ctx, " WHERE consumer = ? AND line = ? AND id > ? AND id <= ? ORDER BY id",
			c.Consumer, c.Line, afterID, last)
	}
	if err != nil {
		return nil, fmt.Errorf("store: read line %q: %w", c.Line, err)
	}
	return rows, nil
}
