package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headrace-go/headrace/forwarder"
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
	err = s.app.progress("counting the outbox", func() (err error) {
		if topics, err = st.CountOutbox(ctx); err != nil {
			return err
		}
		if partitions, err = st.CountOutboxPartitions(ctx); err != nil {
			return err
		}
		leases, err = st.Leases(ctx, forwarder.PartitionLease(0)[:len("outbox/")])
		return err
	})
	if err != nil {
		return []finding{failed("outbox", err)}
	}
	outbox := outboxOf(topics)
	return []finding{checkAge(outbox, e.maxAge), checkFailing(outbox), checkOwners(partitions, leases)}
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

// handoverGrace is how long rows may wait without an owner while partitions
// change hands.
const handoverGrace = 15 * time.Second

func checkOwners(partitions []store.PartitionCount, leases []store.Lease) finding {
	const check = "outbox owners"
	owned := map[string]bool{}
	for _, l := range leases {
		if live(l) {
			owned[l.Name] = true
		}
	}
	var orphans []string
	var unsent int64
	var oldest time.Duration
	for _, p := range partitions {
		if !owned[forwarder.PartitionLease(p.Partition)] {
			orphans = append(orphans, strconv.Itoa(p.Partition))
			unsent += p.Unsent
			oldest = max(oldest, p.OldestAge)
		}
	}
	if services := relaying(leases); len(orphans) == 0 && len(services) > 1 {
		return warn(check, fmt.Sprintf("services %s relay one outbox, so each sends the others' messages with its own publishers",
			strings.Join(services, " and ")),
			"right only where all of them publish to the same brokers; "+
				"else give each service tables of its own (store.Config.Prefix)")
	}
	if len(orphans) == 0 {
		return ok(check, fmt.Sprintf("no messages wait in partitions without an owner (%d of %d have one)",
			len(owned), store.OutboxPartitions))
	}
	cause := fmt.Sprintf("no forwarder owns %s (%s) where %s waiting, for up to %s", counted(len(orphans), "partition"),
		strings.Join(orphans, ", "), plural(unsent, "message")+are(unsent), rounded(oldest))
	if oldest < handoverGrace {
		return warn(check, cause, "normal for some seconds while forwarders start or stop; ask again")
	}
	return fail(check, cause, "start a forwarder (forwarder.New, Run), or see its log for why it can't take leases")
}

// relaying returns the services whose forwarders own partitions, as far as the
// forwarders' names tell: package headrace names them service@host.
func relaying(leases []store.Lease) []string {
	services := map[string]bool{}
	for _, l := range leases {
		if service, _, named := strings.Cut(l.Owner, "@"); named && live(l) {
			services[service] = true
		}
	}
	return slices.Sorted(maps.Keys(services))
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
