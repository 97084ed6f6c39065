package forwarder

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// refused reports whether a row that failed with an error is parked at its first
// failure: the broker has answered, and will answer the same the next time.
func (c Config) refused(err error) bool {
	return !c.KeepPermanent && parking.Classify(err, c.Classify...) == parking.Permanent
}

// park parks a row that has failed where the configuration says so, and reports
// whether it did. One that can't be parked, because the database is away, is tried
// again like any other.
func (p *partition) park(ctx context.Context, f failure) bool {
	cfg := p.f.cfg
	if !f.refused && (cfg.ParkAfter == 0 || p.holds.lines[lineOf(f.row)].own < cfg.ParkAfter) {
		return false
	}
	fields := watermill.LogFields{
		"message_id": f.row.MessageID, "destination": f.row.Destination, "topic": f.row.Topic,
		"key": f.row.Key, "attempts": f.row.Attempts + 1,
	}
	// What was begun is finished, as publishes are.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.CloseTimeout)
	defer cancel()
	step.Reach(ctx, step.RelayBeforePark)
	parked, err := p.f.store.ParkOutbox(bounded, p.lease, f.row, p.why(f))
	if err != nil {
		cfg.Logger.Error("Parking a message of the outbox failed, it is tried again", err, fields)
	}
	if !parked {
		return false
	}
	step.Reach(ctx, step.RelayAfterPark)
	p.holds.park(f.row)
	cfg.Logger.Error("Parked a message of the outbox: its key waits for a person, others go on", f.err, fields)
	return true
}

// why is what people are told about a row that is parked.
func (p *partition) why(f failure) store.ParkedRow {
	class := parking.Classify(f.err, p.f.cfg.Classify...)
	row := store.ParkedRow{
		Class: string(class), Reason: f.err.Error(), Chain: parking.Chain(f.err), Tries: f.row.Attempts + 1,
		History: []store.AttemptRecord{{
			At: p.f.cfg.Clock.Now().UTC(), Attempt: f.row.Attempts + 1, Instance: p.f.cfg.Name, Class: string(class),
			Error: f.err.Error(),
		}},
	}
	row.ErrorType, row.ErrorGroup, row.ErrorTitle = parking.Group(f.row.Service, class, f.err)
	return row
}

// findJudged looks as often as an idle forwarder looks at the outbox for parked rows
// that a person has released or discarded: rescans, which find them too, may be rare.
func (p *partition) findJudged(ctx context.Context, now time.Time) error {
	ids := p.holds.parked()
	if len(ids) == 0 || now.Sub(p.judged) < p.f.cfg.MaxPollInterval {
		return nil
	}
	p.judged = now
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	still, err := p.f.store.StillParked(ctx, p.id, ids)
	if err == nil {
		p.holds.judge(still)
	}
	return err
}
