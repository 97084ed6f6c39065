package parking

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// What people do, as the audit says it.
const (
	actionRetry   = "retry"
	actionEdit    = "edit"
	actionDiscard = "discard"
	actionNote    = "note"
	actionAccept  = "accept"
	actionReject  = "reject"
	actionPause   = "pause"
	actionResume  = "resume"
)

// RetryOptions says how a message is tried again.
type RetryOptions struct {
	// Force tries again what has failed for good and wasn't edited since.
	Force bool
}

// Retry has a message tried again when it is its turn in its line; its delayed tries
// begin anew. It returns once that is said, not once it is done (RetryAll can wait).
//
// Errors match ErrNeedsEdit, ErrInReview, ErrInHand, store.ErrNotParked and
// store.ErrStatus: it is released or final already, or waits behind others.
func (d *Desk) Retry(ctx context.Context, id int64, o RetryOptions) error {
	_, err := d.retry(ctx, store.ParkedMark{ID: id}, o)
	return err
}

// retry releases the message of a mark, and refuses when somebody else has done so
// since it was made.
func (d *Desk) retry(ctx context.Context, mark store.ParkedMark, o RetryOptions) (row store.ParkedRow, err error) {
	err = d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) (err error) {
		row, err = d.release(ctx, tx, mark, o)
		return err
	})
	return row, explain(mark.ID, err)
}

func (d *Desk) release(ctx context.Context, tx store.Tx, mark store.ParkedMark, o RetryOptions) (store.ParkedRow, error) {
	row, err := d.st.ReleaseParked(ctx, tx, mark.ID, store.Release{By: d.cfg.Actor, Check: func(row store.ParkedRow) error {
		if !mark.UpdatedAt.IsZero() && !row.UpdatedAt.Equal(mark.UpdatedAt) {
			last, ok, err := d.st.LastAudit(ctx, tx, store.TargetParked, target(row.ID), actionRetry)
			if err != nil {
				return err
			}
			if ok && !last.At.Before(mark.UpdatedAt) {
				return &RetriedError{ID: row.ID, By: last.Actor}
			}
		}
		return d.mayRetry(ctx, tx, row, o)
	}})
	if err != nil {
		return row, err
	}
	return row, d.sign(ctx, tx, row, actionRetry, "", map[string]any{
		"before": row.Status, "after": store.StatusReleased, "class": row.Class, "attempts": row.Attempts, "edits": row.Edits,
		"forced": o.Force,
	})
}

func (d *Desk) mayRetry(ctx context.Context, tx store.Tx, row store.ParkedRow, o RetryOptions) error {
	switch {
	case row.Status == store.StatusReview:
		return ErrInReview
	case errors.Is(row.Problem, store.ErrRedacted):
		return row.Problem
	case Class(row.Class) != Permanent || o.Force:
		return nil
	case row.Edits == 0:
		return ErrNeedsEdit
	}
	// The last edit may have been tried, and failed as well.
	edit, ok, err := d.st.LastAudit(ctx, tx, store.TargetParked, target(row.ID), actionEdit)
	if err != nil {
		return err
	}
	tried, known := edit.Details["attempts"].(float64)
	if !ok || !known || int(tried) < row.Attempts {
		return ErrNeedsEdit
	}
	return nil
}

// Edit is what changes in a message before it is tried again. What came is kept.
type Edit struct {
	// Payload replaces the payload. Default: it stays.
	Payload *[]byte
	// Set and Unset change single metadata entries.
	Set   map[string]string
	Unset []string
	// Retry also has the message tried again, in the same transaction.
	Retry bool
}

// Edit changes what is handled of a message: what it is now, edited before or not,
// with these changes. A run that is at work is made to begin again with it.
//
// Errors match ErrNoChange, ErrKeyStays, ErrInHand, store.ErrNotParked, and
// store.ErrStatus when the message is final. A message whose content can't be opened
// can't be edited.
func (d *Desk) Edit(ctx context.Context, id int64, e Edit) error {
	if e.Payload == nil && len(e.Set) == 0 && len(e.Unset) == 0 {
		return explain(id, ErrNoChange)
	}
	if _, set := e.Set[msgmeta.Key]; set || slices.Contains(e.Unset, msgmeta.Key) {
		return explain(id, ErrKeyStays)
	}
	err := d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		var before []byte
		edited := map[string]string{}
		change := store.Edit{Payload: e.Payload, Metadata: edited, Check: func(row store.ParkedRow) error {
			if row.Problem != nil {
				return row.Problem
			}
			var metadata map[string]string
			before, metadata = row.Handled()
			maps.Copy(edited, metadata) // known only now that the message is locked
			maps.Copy(edited, e.Set)
			for _, name := range e.Unset {
				delete(edited, name)
			}
			return nil
		}}
		row, err := d.st.EditParked(ctx, tx, id, change)
		if err != nil {
			return err
		}
		details := map[string]any{"status": row.Status, "attempts": row.Attempts, "edits": row.Edits + 1}
		if e.Payload != nil {
			details["payload_before"], details["payload_after"] = fingerprint(before), fingerprint(*e.Payload)
		}
		if len(e.Set) > 0 {
			details["metadata_set"] = slices.Sorted(maps.Keys(e.Set))
		}
		if len(e.Unset) > 0 {
			details["metadata_removed"] = e.Unset
		}
		if err := d.sign(ctx, tx, row, actionEdit, "", details); err != nil || !e.Retry {
			return err
		}
		_, err = d.release(ctx, tx, store.ParkedMark{ID: id}, RetryOptions{})
		return err
	})
	return explain(id, err)
}

// fingerprint tells contents apart without showing them.
func fingerprint(content []byte) map[string]any {
	sum := sha256.Sum256(content)
	return map[string]any{"sha256": hex.EncodeToString(sum[:]), "bytes": len(content)}
}

// Discard has a message never handled; what is behind it in its line goes on. The
// reason is required.
//
// Errors match ErrNoReason, ErrInHand, store.ErrNotParked, and store.ErrStatus when it
// is final already.
func (d *Desk) Discard(ctx context.Context, id int64, reason string) error {
	return d.discard(ctx, id, actionDiscard, reason)
}

func (d *Desk) discard(ctx context.Context, id int64, action, reason string) error {
	if strings.TrimSpace(reason) == "" {
		return explain(id, ErrNoReason)
	}
	err := d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		row, err := d.st.DiscardParked(ctx, tx, id, d.cfg.Actor, reason, func(row store.ParkedRow) error {
			if action == actionReject && row.Status != store.StatusReview {
				return ErrNotInReview
			}
			return nil
		})
		if err != nil {
			return err
		}
		return d.sign(ctx, tx, row, action, reason, map[string]any{
			"before": row.Status, "after": store.StatusDiscarded, "class": row.Class, "attempts": row.Attempts,
		})
	})
	return explain(id, err)
}

// Note adds a line to a message's notes, with who says it and when. Errors match
// ErrNoChange, store.ErrNotParked, and store.ErrContent when the notes are full.
func (d *Desk) Note(ctx context.Context, id int64, text string) error {
	text = strings.Join(strings.Fields(text), " ")
	if text == "" {
		return explain(id, ErrNoChange)
	}
	err := d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		now, err := d.st.Now(ctx)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s: %s", now.UTC().Format(time.RFC3339), d.cfg.Actor, text)
		if err := d.st.NoteParked(ctx, tx, id, line); err != nil {
			return err
		}
		rows, err := d.st.ListParked(ctx, store.ParkedFilter{IDs: []int64{id}, Status: everyStatus[:]}, 0, 1)
		if err != nil || len(rows) == 0 {
			return err
		}
		return d.sign(ctx, tx, rows[0], actionNote, text, nil)
	})
	return explain(id, err)
}

func target(id int64) string { return strconv.FormatInt(id, 10) }

// sign records a change of a message.
func (d *Desk) sign(
	ctx context.Context, tx store.Tx, row store.ParkedRow, action, note string, details map[string]any,
) error {
	return d.audit(ctx, tx, store.AuditRow{
		Action: action, TargetKind: store.TargetParked, Target: target(row.ID), Subject: row.Key, Details: details, Note: note,
	})
}

func (d *Desk) audit(ctx context.Context, tx store.Tx, row store.AuditRow) error {
	row.Actor = d.cfg.Actor
	switch {
	case row.Note == "":
		row.Note = d.cfg.Note
	case d.cfg.Note != "":
		row.Note += " (" + d.cfg.Note + ")"
	}
	return d.st.InsertAudit(ctx, tx, row)
}
