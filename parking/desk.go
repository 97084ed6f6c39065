package parking

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jonboulle/clockwork"

	"github.com/headrace-go/headrace/store"
)

// DeskConfig says who works at a Desk.
type DeskConfig struct {
	// Actor signs every change. Required for changes, not for looking.
	Actor string
	// Note is put into the audit beside each change. Optional.
	Note string
	// Clock is for tests. Default: the real one.
	Clock clockwork.Clock
}

// Desk is where people look at the messages that are kept, and decide what becomes of
// them. Each change is one transaction together with its row in the audit, and only
// messages in it are changed: payloads and errors never get into the audit. A Desk is
// cheap and safe for concurrent use.
type Desk struct {
	st  *store.Store
	cfg DeskConfig
}

// NewDesk returns the desk of one person.
func NewDesk(st *store.Store, cfg DeskConfig) *Desk {
	if cfg.Clock == nil {
		cfg.Clock = clockwork.NewRealClock()
	}
	return &Desk{st: st, cfg: cfg}
}

// MaxQueue is how far the messages around one in its line are counted.
const MaxQueue = 1000

// Item is a kept message in a list. Its content, error chain and history are left out.
type Item struct {
	store.ParkedRow
	store.Queue
}

// List lists kept messages in the order in which they were kept: at most limit,
// behind the one with the id after. Queue counts to MaxQueue. Errors match
// store.ErrFilter.
func (d *Desk) List(ctx context.Context, f store.ParkedFilter, after int64, limit int) ([]Item, error) {
	rows, err := d.st.ListParked(ctx, f, after, limit)
	if err != nil {
		return nil, err
	}
	return d.items(ctx, rows)
}

func (d *Desk) items(ctx context.Context, rows []store.ParkedRow) ([]Item, error) {
	queues, err := d.st.QueuesOf(ctx, rows, MaxQueue)
	if err != nil {
		return nil, err
	}
	items := make([]Item, len(rows))
	for i, row := range rows {
		items[i] = Item{row, queues[i]}
	}
	return items, nil
}

// Groups counts kept messages by how they have failed, the largest groups first.
// Errors match store.ErrFilter.
func (d *Desk) Groups(ctx context.Context, f store.ParkedFilter, limit int) ([]store.ParkedGroup, error) {
	return d.st.GroupParked(ctx, f, limit)
}

// Whole is all there is to know of a kept message.
type Whole struct {
	Item

	// Gate is its line's, nil when the message has none (any more).
	Gate *store.Gate
	// Audit has the last changes that people have made to it, oldest first.
	Audit []store.AuditRow
}

// maxAudit is how many changes of one thing are shown.
const maxAudit = 100

// Get returns one message with its content. Errors match store.ErrNotParked.
func (d *Desk) Get(ctx context.Context, id int64) (Whole, error) {
	row, err := d.st.ParkedByID(ctx, id)
	if err != nil {
		return Whole{}, explain(id, err)
	}
	whole := Whole{Item: Item{ParkedRow: row}}
	queues, err := d.st.QueuesOf(ctx, []store.ParkedRow{row}, MaxQueue)
	if err != nil {
		return Whole{}, err
	}
	whole.Queue = queues[0]
	if row.Line != "" {
		gate, err := d.st.GateOf(ctx, lineOf(row))
		switch {
		case err == nil:
			whole.Gate = &gate
		case !errors.Is(err, store.ErrNotHeld): // opened meanwhile
			return Whole{}, err
		}
	}
	whole.Audit, err = d.st.AuditOf(ctx, store.TargetParked, strconv.FormatInt(id, 10), maxAudit)
	return whole, err
}

func lineOf(row store.ParkedRow) store.Line {
	return store.Line{Consumer: row.Consumer, Line: row.Line, Key: row.Key}
}

// Errors of a Desk. Each says what it is about and what can be done.
var (
	// ErrNeedsEdit is of a message that has failed for good: trying it again as it is
	// can't help.
	ErrNeedsEdit = errors.New("it has failed for good: edit it first, or force it")
	// ErrInReview is of a message that wants a decision, not another try.
	ErrInReview = errors.New("it is in review: accept or reject it")
	// ErrNotInReview is of a decision about a message that doesn't want one.
	ErrNotInReview = errors.New("it is not in review")
	// ErrInHand is of a message that is handled right now, or changed by somebody else.
	ErrInHand = errors.New("it is being handled, or changed by somebody else, right now: try again in a moment")
	// ErrNoReason is of a message that is to be discarded without a word.
	ErrNoReason = errors.New("a discarded message needs a reason, which its story tells later")
	// ErrNoChange is of an edit that changes nothing.
	ErrNoChange = errors.New("there is nothing to change")
	// ErrKeyStays is of an edit of the key.
	ErrKeyStays = errors.New("a kept message's key can't be edited: it stands in that key's line")
	// ErrNotPaused is of the end of a pause that isn't.
	ErrNotPaused = errors.New("the key isn't paused")
)

// RetriedError says that somebody else has had a message tried again meanwhile. It
// matches store.ErrStatus.
type RetriedError struct {
	ID int64
	By string
}

func (e *RetriedError) Error() string {
	return fmt.Sprintf("parked message %d was retried by %s meanwhile", e.ID, e.By)
}

// Is matches store.ErrStatus.
func (*RetriedError) Is(target error) bool { return target == store.ErrStatus }

// explain says what an error means for a message.
func explain(id int64, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrLockTimeout):
		return fmt.Errorf("parking: message %d: %w (%w)", id, ErrInHand, err)
	case errors.Is(err, store.ErrNotParked):
		return fmt.Errorf("parking: %w: %d; it was never parked, was handled in its turn, or is final and forgotten",
			store.ErrNotParked, id)
	}
	for _, own := range []error{ErrNeedsEdit, ErrInReview, ErrNotInReview, ErrNoReason, ErrNoChange, ErrKeyStays, ErrNoCall} {
		if errors.Is(err, own) {
			return fmt.Errorf("parking: message %d: %w", id, own)
		}
	}
	if already := (*store.StatusError)(nil); errors.As(err, &already) {
		return fmt.Errorf("parking: %w", already)
	}
	return err
}

// Actor is who works at the desk.
func (d *Desk) Actor() string { return d.cfg.Actor }
