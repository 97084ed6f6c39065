package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/headrace-go/headrace/store"
)

func (s *session) checkSchema(ctx context.Context, inspector *store.Inspector) finding {
	const check = "schema"
	schema, err := inspector.Schema(ctx)
	switch {
	case err != nil:
		return failed(check, err)
	case schema.Version == 0:
		return fail(check, fmt.Sprintf("there are no tables with the prefix %q", s.cfg.Prefix),
			"run `headrace migrate up`, or check --schema and --prefix")
	case schema.Version < schema.Known:
		return fail(check, fmt.Sprintf("version %d is older than this program needs, %d", schema.Version, schema.Known),
			"run `headrace migrate up`")
	case !schema.Usable():
		return fail(check, fmt.Sprintf("version %d serves programs that know version %d or later, this one knows %d",
			schema.Version, schema.MinProgram, schema.Known), "upgrade the program")
	case schema.Version > schema.Known:
		return ok(check, fmt.Sprintf("version %d is newer than this program, which knows %d, and still serves it",
			schema.Version, schema.Known)).hint("finish the rolling deploy")
	}
	return ok(check, fmt.Sprintf("version %d", schema.Version))
}

// maxSkew is the difference between two clocks from which times in logs and
// metrics mislead. Headrace itself decides by the database's clock alone.
const maxSkew = time.Second

// checkClock takes the answer that came quickest: it pins the moment best.
func (s *session) checkClock(ctx context.Context, inspector *store.Inspector) finding {
	const check, samples = "clock", 3
	var skew, uncertain time.Duration
	for i := range samples {
		before := s.app.Now()
		remote, err := inspector.Clock(ctx)
		if err != nil {
			return failed(check, err)
		}
		took := s.app.Now().Sub(before)
		if i == 0 || took/2 < uncertain {
			skew, uncertain = remote.Sub(before.Add(took/2)), took/2
		}
	}
	if skew.Abs()-uncertain > maxSkew {
		direction := "ahead of"
		if skew < 0 {
			direction = "behind"
		}
		return warn(check, fmt.Sprintf("the database's clock is %s %s this machine's", rounded(skew.Abs()), direction),
			"synchronise both by NTP: times in logs and ages in metrics mislead; "+
				"leases and windows go by the database's clock alone")
	}
	return ok(check, "this machine and the database agree within "+rounded(maxSkew))
}

func (s *session) checkOutbox(ctx context.Context, e examination) []finding {
	st, err := s.store(ctx)
	if err != nil {
		return []finding{failed("outbox", err)}
	}
	defer st.Close() //nolint:errcheck // frees memory only
	var topics []store.OutboxCount
	var partitions []store.PartitionCount
	var leases []store.Lease
	var scheduled []store.ScheduledCount
	var kept []parkedCountJSON
	var unknown int64
	err = s.app.progress("counting the outbox", func() (err error) {
		if topics, err = st.CountOutbox(ctx); err != nil {
			return err
		}
		if partitions, err = st.CountOutboxPartitions(ctx); err != nil {
			return err
		}
		if scheduled, err = st.CountScheduled(ctx); err != nil {
			return err
		}
		leases, err = st.Leases(ctx, "")
		return err
	})
	if err == nil {
		kept, unknown, err = s.countParked(ctx, st)
	}
	if err != nil {
		return []finding{failed("outbox", err)}
	}
	outbox := outboxOf(topics)
	return append([]finding{
		checkAge(outbox, e.maxAge), checkFailing(outbox), checkParked(outbox), checkOwners(partitions, leases),
		checkScheduled(scheduled),
	}, checkKept(kept, unknown)...)
}

// checkScheduled finds services whose messages for later nobody sends.
func checkScheduled(counts []store.ScheduledCount) finding {
	const check = "scheduled"
	var overdue []string
	for _, c := range counts {
		if c.NextIn < -handoverGrace {
			overdue = append(overdue, fmt.Sprintf("messages of service %s for topic %s have been due for %s",
				serviceName(c.Service), cell(c.Topic), rounded(-c.NextIn)))
		}
	}
	if len(overdue) > 0 {
		return fail(check, strings.Join(overdue, "; "), "start a forwarder of the service, or see the logs of those that run; "+
			"a slot also waits for transactions that have asked for it and are still open")
	}
	return ok(check, fmt.Sprintf("no message for later is overdue (%d wait)", scheduledOf(counts).Waiting))
}

func checkAge(outbox outboxJSON, maxAge time.Duration) finding {
	const check = "outbox age"
	if outbox.Unsent == 0 {
		return ok(check, "nothing unsent")
	}
	cause := fmt.Sprintf("%s unsent, the oldest for %s", plural(outbox.Unsent, "message"), rounded(outbox.oldest))
	if outbox.oldest <= maxAge {
		return ok(check, cause)
	}
	return fail(check, fmt.Sprintf("%s; the limit is %s", cause, rounded(maxAge)),
		"see `headrace status` for the topics and their last errors, and that a forwarder runs with their destinations")
}

func checkFailing(outbox outboxJSON) finding {
	const check = "outbox errors"
	if outbox.Failing == 0 {
		return ok(check, "no publish has failed")
	}
	var where []string
	for _, t := range outbox.Topics {
		if t.Failing > 0 {
			where = append(where, fmt.Sprintf("%d to topic %s of destination %s (%s)",
				t.Failing, cell(t.Topic), cell(t.Destination), cell(t.LastError)))
		}
	}
	return warn(check, "publishes have failed: "+strings.Join(where, "; "),
		"they are retried; see to the broker or the destination")
}

// checkParked names what waits for a person, and what it was refused with.
func checkParked(outbox outboxJSON) finding {
	const check = "outbox parked"
	if outbox.Parked == 0 {
		return ok(check, "no message is parked")
	}
	var where []string
	for _, t := range outbox.Topics {
		if t.Parked > 0 {
			where = append(where, fmt.Sprintf("%d to topic %s of destination %s (%s)",
				t.Parked, cell(t.Topic), cell(t.Destination), cell(t.LastError)))
		}
	}
	return warn(check, "messages are parked, and what follows them in their keys waits: "+strings.Join(where, "; "),
		"see `headrace parked ls`, and retry, edit or discard them")
}

func counted(n int, one string) string {
	if n == 1 {
		return one
	}
	return one + "s"
}

func are(n int64) string {
	if n == 1 {
		return " is"
	}
	return " are"
}
