package parking

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/headrace-go/headrace/store"
)

// GroupOptions says how many messages are tried again.
type GroupOptions struct {
	RetryOptions

	// Rate is how many messages a second are released at most. Default 0: no limit.
	Rate float64
	// Limit is how many are released at most. Default 0: all.
	Limit int
	// Follow also waits until each that was released was handled or has failed again. It
	// ends with a *NobodyRunsError when, for Patience (default 15 s), nothing has happened
	// and no process says that it handles the messages that are left.
	Follow   bool
	Patience time.Duration
	// Progress is called after every message, and with Follow after every look at what
	// became of them. Optional.
	Progress func(Progress)
	// Released is called with each that was released, as it was before. Optional.
	Released func(row store.ParkedRow)
	// Refused is called with what was left alone, and why. Optional.
	Refused func(id int64, why error)
}

// Progress is how far a RetryAll is.
type Progress struct {
	// Total were picked; Released are to be tried again; Refused were left alone, because
	// somebody else was quicker, or because they have failed for good.
	Total, Released, Refused int
	// What became of those released, as far as it was looked (GroupOptions.Follow).
	// FailedAgain wait again, for a person or for another try; Open weren't tried yet.
	Done, FailedAgain, Discarded, Expired, Open int
	// Left is how long the rest takes at the rate, at least.
	Left time.Duration
}

// missing refuses the messages that were named and aren't there.
func (r *retrying) missing(ids []int64, marks []store.ParkedMark) {
	there := map[int64]bool{}
	for _, mark := range marks {
		there[mark.ID] = true
	}
	for _, id := range ids {
		if there[id] {
			continue
		}
		there[id] = true // once
		r.p.Total++
		r.refuse(id, explain(id, store.ErrNotParked))
	}
}

func (r *retrying) refuse(id int64, why error) {
	r.p.Refused++
	if r.o.Refused != nil {
		r.o.Refused(id, why)
	}
}

// lookEvery is how often it is looked what has become of messages.
const lookEvery = time.Second

// RetryAll is Retry for every message that a filter picks when it begins: what fails
// again isn't picked again, nor is what somebody else has had tried again since. By
// default it picks those that wait for a person or for their next try, or each that
// ParkedFilter.IDs names. What is refused is left alone; any other error ends it, and
// it can be called again.
//
// Errors match store.ErrFilter, and the context's own when it ends before.
func (d *Desk) RetryAll(ctx context.Context, f store.ParkedFilter, o GroupOptions) (Progress, error) {
	if o.Rate < 0 || o.Limit < 0 || o.Patience < 0 {
		return Progress{}, errors.New("parking: a rate, a limit or a time is not negative")
	}
	if o.Patience == 0 {
		o.Patience = 15 * time.Second
	}
	byName := len(f.IDs) > 0 && len(f.Status) == 0
	switch {
	case byName:
		f.Status = everyStatus[:] // each is to be accounted for
	case len(f.Status) == 0:
		f.Status = []store.ParkedStatus{store.StatusDelayed, store.StatusParked}
	}
	marks, err := d.marks(ctx, f, o.Limit)
	if err != nil {
		return Progress{}, err
	}
	r := &retrying{d: d, o: o, attempts: map[int64]int{}, consumers: map[int64]string{}}
	r.p.Total = len(marks)
	if byName && o.Limit == 0 {
		r.missing(f.IDs, marks)
	}
	r.next, r.look = d.cfg.Clock.Now(), d.cfg.Clock.Now().Add(lookEvery)
	for _, mark := range marks {
		if err := r.release(ctx, mark); err != nil {
			return r.p, err
		}
	}
	for o.Follow {
		if err := r.see(ctx); err != nil || r.p.Open == 0 {
			return r.p, err
		}
		if err := r.stuck(ctx); err != nil {
			return r.p, err
		}
		if err := d.sleep(ctx, lookEvery); err != nil {
			return r.p, err
		}
	}
	return r.p, nil
}

func (d *Desk) marks(ctx context.Context, f store.ParkedFilter, limit int) (marks []store.ParkedMark, err error) {
	const page = 5000
	after := int64(0)
	for {
		size := page
		if limit > 0 {
			size = min(size, limit-len(marks))
		}
		some, err := d.st.MarkParked(ctx, f, after, size)
		marks = append(marks, some...)
		if err != nil || len(some) < size || len(marks) == limit {
			return marks, err
		}
		after = some[len(some)-1].ID
	}
}

// retrying is one RetryAll.
type retrying struct {
	d *Desk
	o GroupOptions
	p Progress
	// next is when the next message may be released, look when it is looked again.
	next, look time.Time
	// attempts are how often those released had been tried, while they aren't final.
	attempts map[int64]int
	// consumers have those of them that a handler gets, while they weren't tried.
	consumers map[int64]string
	// before is what stuck has seen last, since when nothing has happened.
	before Progress
	since  time.Time
}

// stuck ends the wait for processes that don't run.
func (r *retrying) stuck(ctx context.Context) error {
	now := r.d.cfg.Clock.Now()
	if r.p != r.before || r.since.IsZero() {
		r.before, r.since = r.p, now
	}
	if now.Sub(r.since) < r.o.Patience || len(r.consumers) == 0 || len(r.consumers) < r.p.Open {
		return nil // or the outbox's, whose forwarder isn't known here
	}
	nobody, err := r.d.NotRunning(ctx, slices.Collect(maps.Values(r.consumers))...)
	if err != nil {
		return err
	}
	stopped := map[string]bool{}
	for _, consumer := range nobody {
		stopped[consumer] = true
	}
	for _, consumer := range r.consumers {
		if !stopped[consumer] {
			return nil
		}
	}
	return &NobodyRunsError{Consumers: nobody}
}

func (r *retrying) release(ctx context.Context, mark store.ParkedMark) error {
	if err := r.wait(ctx); err != nil {
		return err
	}
	row, err := r.d.retry(ctx, mark, r.o.RetryOptions)
	switch {
	case err == nil:
		r.p.Released++
		if r.o.Released != nil {
			r.o.Released(row)
		}
		if r.o.Rate > 0 {
			r.next = r.next.Add(time.Duration(float64(time.Second) / r.o.Rate))
		}
		if r.o.Follow {
			r.attempts[mark.ID] = row.Attempts
			r.p.Open++
		}
	case IsRefusal(err):
		r.refuse(mark.ID, err)
	default:
		return fmt.Errorf("parking: %d of %d messages are released: %w", r.p.Released, r.p.Total, err)
	}
	r.say()
	return nil
}

// IsRefusal reports whether an error of a Desk is about the message that it names, so
// that others may do better.
func IsRefusal(err error) bool {
	for _, about := range []error{
		store.ErrStatus, store.ErrNotParked, store.ErrRedacted, ErrNeedsEdit, ErrInReview, ErrNotInReview, ErrInHand,
		ErrNoCall,
	} {
		if errors.Is(err, about) {
			return true
		}
	}
	return false
}

// wait keeps the rate. Time that was lost isn't made up for.
func (r *retrying) wait(ctx context.Context) error {
	clock := r.d.cfg.Clock
	for {
		now := clock.Now()
		if r.o.Follow && !now.Before(r.look) {
			if err := r.see(ctx); err != nil {
				return err
			}
			continue
		}
		if !now.Before(r.next) {
			r.next = now
			return interrupted(ctx)
		}
		until := r.next
		if r.o.Follow && r.look.Before(until) {
			until = r.look
		}
		if err := r.d.sleep(ctx, until.Sub(now)); err != nil {
			return err
		}
	}
}

// see looks what has become of the messages that were released.
func (r *retrying) see(ctx context.Context) error {
	r.look = r.d.cfg.Clock.Now().Add(lookEvery)
	ids := make([]int64, 0, len(r.attempts))
	for id := range r.attempts {
		ids = append(ids, id)
	}
	r.p.FailedAgain, r.p.Open = 0, 0
	clear(r.consumers)
	const atOnce = 500
	for start := 0; start < len(ids); start += atOnce {
		some := ids[start:min(start+atOnce, len(ids))]
		rows, err := r.d.st.ListParked(ctx, store.ParkedFilter{IDs: some, Status: everyStatus[:]}, 0, len(some))
		if err != nil {
			return err
		}
		seen := map[int64]bool{}
		for _, row := range rows {
			seen[row.ID] = true
			r.count(row)
		}
		for _, id := range some {
			if !seen[id] { // it was final, and is forgotten
				delete(r.attempts, id)
			}
		}
	}
	r.say()
	return nil
}

//nolint:gochecknoglobals // a table of constants
var everyStatus = [...]store.ParkedStatus{
	store.StatusWaiting, store.StatusDelayed, store.StatusGap, store.StatusReleased, store.StatusParked, store.StatusReview,
	store.StatusDone, store.StatusDiscarded, store.StatusExpired,
}

func (r *retrying) count(row store.ParkedRow) {
	final := &r.p.Done
	switch row.Status {
	case store.StatusDone:
	case store.StatusDiscarded:
		final = &r.p.Discarded
	case store.StatusExpired:
		final = &r.p.Expired
	case store.StatusDelayed, store.StatusGap, store.StatusParked, store.StatusReview:
		if row.Attempts > r.attempts[row.ID] {
			r.p.FailedAgain++
			return
		}
		r.open(row)
		return
	case store.StatusReleased, store.StatusWaiting:
		r.open(row)
		return
	}
	*final++
	delete(r.attempts, row.ID)
}

func (r *retrying) open(row store.ParkedRow) {
	r.p.Open++
	if row.Origin != store.OriginOutbox {
		r.consumers[row.ID] = row.Consumer
	}
}

func (r *retrying) say() {
	if r.o.Progress == nil {
		return
	}
	if r.o.Rate > 0 {
		r.p.Left = time.Duration(float64(r.p.Total-r.p.Released-r.p.Refused) / r.o.Rate * float64(time.Second))
	}
	r.o.Progress(r.p)
}

func (d *Desk) sleep(ctx context.Context, pause time.Duration) error {
	timer := d.cfg.Clock.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return nil
	case <-ctx.Done():
		return interrupted(ctx)
	}
}

func interrupted(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("parking: stopped: %w", err)
	}
	return nil
}
