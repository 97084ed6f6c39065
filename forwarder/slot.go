package forwarder

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/robfig/cron/v3"

	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// ErrNeverFires says that a slot's times never come.
var ErrNeverFires = errors.New("the slot never comes")

// Slot is a regular time of sending, at which there is one message about a
// subject, however many actions asked for it: an e-mail to a supplier at five
// o'clock, say. Cron and Subject are required.
type Slot struct {
	// Cron says when, by the clocks of Zone: minute, hour, day of the month, month
	// and day of the week. A time that a change of the clocks leaves out is when
	// the clocks are moved, one that comes twice is the first of the two.
	Cron string
	// Zone is the time zone. Default UTC.
	Zone *time.Location
	// Subject is what the message is about: actions of different subjects have a
	// message each. It is the message's key, unless the outbox has a Key.
	Subject string
	// Name tells kinds of message apart that share topic, subject and time.
	// Default "".
	Name string
	// Late says what becomes of a message that could not be sent in time, because
	// no forwarder ran: it is sent all the same when it is late by at most so
	// much, and left to the next slot when it is later, where it has that slot's
	// message id: Cancel by the former one is ErrNotScheduled then. Default 0: sent
	// however late it is.
	Late time.Duration
}

func (s Slot) zone() *time.Location {
	if s.Zone == nil {
		return time.UTC
	}
	return s.Zone
}

func (s Slot) check() (slotTimes, error) {
	if s.Subject == "" {
		return slotTimes{}, errors.New("Slot.Subject is required: who has one subject has one message")
	}
	if s.Late < 0 {
		return slotTimes{}, fmt.Errorf("Slot.Late must not be negative, as %s is", s.Late)
	}
	// It is stored by its name, and read on other machines.
	const thisMachines = "Local"
	if _, err := time.LoadLocation(s.zone().String()); err != nil || s.zone().String() == thisMachines {
		return slotTimes{}, fmt.Errorf("Slot.Zone %q must be one that time.LoadLocation knows by name, such as Europe/Berlin",
			s.zone())
	}
	times, err := parseSlot(s.Cron, s.zone())
	if err != nil {
		return slotTimes{}, fmt.Errorf("Slot.Cron: %w", err)
	}
	return times, nil
}

// slotTimes are when a slot is.
type slotTimes struct {
	cron cron.Schedule
	zone *time.Location
}

func parseSlot(expression string, zone *time.Location) (slotTimes, error) {
	if strings.Contains(expression, "=") {
		return slotTimes{}, fmt.Errorf("cron expression %q names a time zone: use Slot.Zone", expression)
	}
	parser := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
	parsed, err := parser.Parse(expression)
	if err != nil {
		return slotTimes{}, fmt.Errorf("%q is no cron expression of five fields: %w", expression, err)
	}
	return slotTimes{parsed, zone}, nil
}

// next is the first time of the slot after t.
func (s slotTimes) next(t time.Time) (time.Time, error) {
	// The schedule is walked by what clocks on the wall show, as if there were no
	// changes: cron's own walk leaves out what a change of the clocks leaves out.
	wall := asIfUTC(t.In(s.zone))
	for {
		wall = s.cron.Next(wall)
		if wall.IsZero() {
			return time.Time{}, ErrNeverFires
		}
		if next := onTheClock(wall, s.zone); next.After(t) {
			return next, nil
		}
	}
}

func asIfUTC(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// onTheClock is when the clocks of a zone show wall for the first time, or when
// they were moved past it.
func onTheClock(wall time.Time, zone *time.Location) time.Time {
	t := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, zone)
	start, end := t.ZoneBounds()
	switch shown := asIfUTC(t); {
	case shown.After(wall): // it was left out, and this is behind the change
		return start
	case shown.Before(wall): // and this before it
		return end
	}
	if start.IsZero() {
		return t
	}
	// Shown by the offset before the last change too? Then that was the first time.
	_, before := start.Add(-1).Zone()
	if first := wall.Add(-time.Duration(before) * time.Second); first.Before(start) {
		return first.In(zone)
	}
	return t
}

// slotPlan is what a slot's message must know when it is too late for its slot.
type slotPlan struct {
	Cron string    `json:"cron"`
	Zone string    `json:"zone"`
	Name string    `json:"name,omitempty"`
	At   time.Time `json:"at"`
	Late string    `json:"late,omitempty"`
}

func (p slotPlan) String() string {
	text, _ := json.Marshal(p) //nolint:errchkjson // strings and a time in the range of years that JSON takes
	return string(text)
}

// postpone returns the row that takes the place of one that is too late for its
// slot, or nil for one that may still be sent.
func postpone(row store.ScheduledRow, now time.Time) (*store.ScheduledRow, error) {
	var plan slotPlan
	if err := json.Unmarshal([]byte(row.Plan), &plan); err != nil {
		return nil, fmt.Errorf("plan of scheduled message %d: %w", row.ID, err)
	}
	if plan.Late == "" {
		return nil, nil //nolint:nilnil // as said
	}
	late, err := time.ParseDuration(plan.Late)
	if err != nil {
		return nil, fmt.Errorf("plan of scheduled message %d: %w", row.ID, err)
	}
	if now.Sub(plan.At) <= late {
		return nil, nil //nolint:nilnil // as said
	}
	zone, err := time.LoadLocation(plan.Zone)
	if err != nil {
		return nil, fmt.Errorf("plan of scheduled message %d: %w", row.ID, err)
	}
	times, err := parseSlot(plan.Cron, zone)
	if err != nil {
		return nil, fmt.Errorf("plan of scheduled message %d: %w", row.ID, err)
	}
	if plan.At, err = times.next(now); err != nil {
		return nil, nil //nolint:nilnil,nilerr // no later one comes: it is sent now
	}
	later := slotRow(row, plan)
	return &later, nil
}

// slotRow gives a row what depends on the slot's time: who has the same service,
// destination, topic, name, subject and time has the same message.
func slotRow(row store.ScheduledRow, plan slotPlan) store.ScheduledRow {
	at := plan.At.UTC().Format(time.RFC3339)
	identity, _ := json.Marshal([]string{ //nolint:errchkjson // strings
		row.Service, row.Destination, row.Topic, plan.Name, row.Subject, at,
	})
	payload, _ := json.Marshal(map[string]string{"subject": row.Subject, "slot": at}) //nolint:errchkjson // strings
	row.ID, row.Slot, row.Plan, row.DueAt = 0, store.Identity(string(identity)), plan.String(), plan.At
	row.MessageID = uuid.NewSHA1(slotIDs, identity).String()
	row.Payload = payload
	msg := message.Message{Metadata: maps.Clone(row.Metadata)}
	if msg.Metadata == nil {
		msg.Metadata = message.Metadata{}
		msgmeta.SetKey(&msg, row.Subject)
	}
	msgmeta.SetSlot(&msg, row.Subject, plan.At)
	row.Metadata = msg.Metadata
	return row
}

// slotIDs is the space of the UUIDs of slots' messages.
var slotIDs = uuid.MustParse("5d0e5a4e-6c1c-4f0e-9a53-1c7be1f0a5d2") //nolint:gochecknoglobals // a constant
