package forwarder

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/store"
)

// ErrNotScheduled says that a message isn't waiting to be sent: it was sent or
// cancelled already, or never scheduled.
var ErrNotScheduled = errors.New("no message of this id waits to be sent")

// PublishAt is Publish for later: the messages enter the outbox at a time, by the
// database's clock, or at once where it is past. Those of one key are sent in the
// order of their times.
func (o *Outbox) PublishAt(ctx context.Context, at time.Time, topic string, msgs ...*message.Message) error {
	if at.IsZero() {
		return fmt.Errorf("forwarder: publish to topic %q at the zero time: use Publish to send it now", topic)
	}
	return o.schedule(ctx, topic, msgs, func(row *store.ScheduledRow) { row.DueAt = at })
}

// PublishAfter is PublishAt for a while from now.
func (o *Outbox) PublishAfter(ctx context.Context, delay time.Duration, topic string, msgs ...*message.Message) error {
	return o.schedule(ctx, topic, msgs, func(row *store.ScheduledRow) { row.DueIn = max(delay, 0) })
}

func (o *Outbox) schedule(
	ctx context.Context, topic string, msgs []*message.Message, when func(*store.ScheduledRow),
) error {
	if len(msgs) == 0 {
		return nil
	}
	messages, err := o.rows(topic, msgs)
	if err != nil {
		return err
	}
	rows := make([]store.ScheduledRow, len(messages))
	for i, row := range messages {
		rows[i].OutboxRow, rows[i].Sequenced = row, o.cfg.Sequences
		when(&rows[i])
	}
	return o.inUnit(ctx, "schedule a message for topic "+topic, func(ctx context.Context, tx store.Tx) error {
		return o.store.InsertScheduled(ctx, tx, rows)
	})
}

// SlotMessage is the message of a slot.
type SlotMessage struct {
	// ID is the message's UUID, for Cancel.
	ID string
	// At is the slot's time.
	At time.Time
}

// PublishInSlot asks for the one message that a topic gets about the slot's
// subject when the slot comes next. The message only says which subject and slot it
// is for (msgmeta.GetSlot, and as JSON): whoever handles it reads what still stands
// then. What the unit of work in the context does is visible to that handler, or
// belongs to the slot after: while the unit is open, the slot's message is not
// sent, and others that ask for it wait.
//
// Errors match ErrNeverFires when the slot never comes.
func (o *Outbox) PublishInSlot(ctx context.Context, slot Slot, topic string) (SlotMessage, error) {
	times, err := slot.check()
	if err != nil {
		return SlotMessage{}, fmt.Errorf("forwarder: publish to topic %q in a slot: %w", topic, err)
	}
	var found SlotMessage
	err = o.inUnit(ctx, "publish to topic "+topic+" in a slot", func(ctx context.Context, tx store.Tx) error {
		found, err = o.takeSlot(ctx, tx, slot, times, topic)
		return err
	})
	return found, err
}

// takeSlot finds the first slot whose message is not sent.
func (o *Outbox) takeSlot(ctx context.Context, tx store.Tx, slot Slot, times slotTimes, topic string) (SlotMessage, error) {
	at, err := o.store.Now(ctx)
	// A message that is sent while this waits for it is one slot further at most;
	// clocks that are set back are a few.
	const furthest = 10
	for range furthest {
		if err == nil {
			at, err = times.next(at)
		}
		if err != nil {
			return SlotMessage{}, err
		}
		row, err := o.slotRow(slot, topic, at)
		if err != nil {
			return SlotMessage{}, err
		}
		state, err := o.store.TouchSlot(ctx, tx, row)
		if err != nil {
			return SlotMessage{}, err
		}
		if state == store.ScheduledWaiting {
			return SlotMessage{ID: row.MessageID, At: at}, nil
		}
	}
	return SlotMessage{}, fmt.Errorf("the slots up to %s are sent already: was the database's clock set back?", at)
}

func (o *Outbox) slotRow(slot Slot, topic string, at time.Time) (store.ScheduledRow, error) {
	plan := slotPlan{Cron: slot.Cron, Zone: slot.zone().String(), Name: slot.Name, At: at}
	if slot.Late > 0 {
		plan.Late = slot.Late.String()
	}
	row := slotRow(store.ScheduledRow{
		OutboxRow: store.OutboxRow{Service: o.cfg.Service, Destination: o.cfg.Destination, Topic: topic},
		Subject:   slot.Subject,
	}, plan)
	msg := message.NewMessage(row.MessageID, row.Payload)
	msg.Metadata = row.Metadata
	written, err := o.rows(topic, []*message.Message{msg})
	if err != nil {
		return row, err
	}
	row.OutboxRow, row.Sequenced = written[0], o.cfg.Sequences
	return row, nil
}

// Cancel takes back a message that PublishAt or PublishAfter has scheduled, by its
// UUID, or that of a slot, by SlotMessage.ID, in the unit of work in the context.
// Of a slot it does so for all who asked; one who asks again has it back. Errors
// match ErrNotScheduled.
func (o *Outbox) Cancel(ctx context.Context, id string) error {
	return o.inUnit(ctx, fmt.Sprintf("cancel message %q", store.Identity(id)), func(ctx context.Context, tx store.Tx) error {
		n, err := o.store.CancelScheduled(ctx, tx, o.cfg.Service, id)
		if err == nil && n == 0 {
			err = ErrNotScheduled
		}
		return err
	})
}

// inUnit runs f in the context's unit of work, or in one of its own where that is
// allowed.
func (o *Outbox) inUnit(ctx context.Context, what string, f func(ctx context.Context, tx store.Tx) error) error {
	if o.store.UnitFromContext(ctx) == nil {
		if err := o.store.AllowOutside(ctx, what); err != nil {
			return err
		}
	}
	if err := o.store.InTx(ctx, f); err != nil {
		return fmt.Errorf("forwarder: %s: %w", what, err)
	}
	return nil
}
