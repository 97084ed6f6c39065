package conformance

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headrace-go/headrace/brokers"
)

// Fact is one thing about a broker that a run finds out.
type Fact struct {
	// Name is "group/what", stable: -run, Harness.Known and the matrix go by it.
	Name string

	// Claim is a sentence that is true where the fact holds.
	Claim string

	// Needs is the capability that promises it. The zero value: every broker must.
	Needs Need

	// Optional facts are promised by nobody: "no" is an answer, not a failure.
	Optional bool

	// Shy: that it held where it isn't declared says nothing, as what it forbids
	// shows too seldom.
	Shy bool

	// Issue says which work brings the fallback for brokers without the
	// capability: their verdict is "open" instead of "no". Ends when ByHeadrace
	// is there.
	Issue string

	// Missing names what the harness lacks for this fact, "" when it has all.
	// Optional.
	Missing func(h Harness) string

	// Breaks: it cuts the broker off or restarts it. It has the harness's Own
	// broker to itself; where there is none, no other fact runs meanwhile.
	Breaks bool

	// Busy facts keep the machine at work: half as many run side by side, and no
	// others meanwhile, which measure time.
	Busy bool

	// Deadline of the fact. Default: four times the harness's Patience, and the
	// broker's ack deadline on top.
	Deadline time.Duration

	// Longer is added to the deadline. Optional.
	Longer func(h Harness) time.Duration

	// Check tries it on the broker itself.
	Check func(t *Trial) Observation

	// ByHeadrace tries it with Headrace in front, where the capability isn't
	// declared. Optional.
	ByHeadrace func(t *Trial) Observation
}

// Need is a capability.
type Need struct {
	Name string // field of brokers.Capabilities
	In   func(c brokers.Capabilities) bool
}

func (n Need) none() bool { return n.In == nil }

// Capabilities that facts need.
//
//nolint:gochecknoglobals // a table of constants
var (
	needsGroups     = Need{"Groups", func(c brokers.Capabilities) bool { return c.Groups }}
	needsKeyOrder   = Need{"KeyOrder", func(c brokers.Capabilities) bool { return c.KeyOrder }}
	needsTotalOrder = Need{"TotalOrder", func(c brokers.Capabilities) bool { return c.TotalOrder }}
	needsLanes      = Need{"Lanes", func(c brokers.Capabilities) bool { return c.Lanes }}
	needsKeyLanes   = Need{"KeyOrder and Lanes", func(c brokers.Capabilities) bool { return c.KeyOrder && c.Lanes }}
	needsDurable    = Need{"Durable", func(c brokers.Capabilities) bool { return c.Durable }}
	needsJoin       = Need{"JoinsTx", func(c brokers.Capabilities) bool { return c.JoinsTx }}
	needsSendDedup  = Need{"SendDedup", func(c brokers.Capabilities) bool { return c.SendDedup > 0 }}
	needsNilPayload = Need{"NilPayload", func(c brokers.Capabilities) bool { return c.NilPayload }}
	needsDeadline   = Need{"AckDeadline", func(c brokers.Capabilities) bool { return c.AckDeadline > 0 }}
	needsTakeover   = Need{"Takeover", func(c brokers.Capabilities) bool { return c.Takeover > 0 }}
	needsNoDeadline = Need{"AckDeadline of 0", func(c brokers.Capabilities) bool { return c.AckDeadline == 0 }}
)

// Observation is what a check saw.
type Observation struct {
	Holds bool
	// Note says what was seen: how many, how long, or what came instead.
	Note string
	// Keys are those whose history shows it. Empty: all.
	Keys []string
}

// Holds is the observation that a fact is true.
func Holds() Observation { return Observation{Holds: true} }

// HoldsWith is Holds with what was measured on the way.
func HoldsWith(format string, args ...any) Observation {
	return Observation{Holds: true, Note: fmt.Sprintf(format, args...)}
}

// Lacks is the observation that a fact isn't true, with the evidence.
func Lacks(format string, args ...any) Observation {
	return Observation{Note: fmt.Sprintf(format, args...)}
}

// Of names the keys whose history shows it.
func (o Observation) Of(keys ...string) Observation {
	o.Keys = keys

	return o
}

// Facts returns all facts, in the order of reports.
func Facts() []Fact {
	return slices.Concat(
		deliveryFacts(), handoverFacts(), processFacts(), networkFacts(), orderFacts(), concurrencyFacts(),
		duplicateFacts(), groupFacts(), contentFacts(), timeFacts(), transactionFacts(), lifecycleFacts(),
		compositionFacts(),
	)
}

// declared: the broker promises it.
func (f Fact) declared(h Harness) bool {
	return !f.Optional && (f.Needs.none() || f.Needs.In(h.Capabilities))
}

// Group is the part of the name before the slash.
func (f Fact) Group() string {
	group, _, _ := strings.Cut(f.Name, "/")

	return group
}

func (f Fact) deadline(h Harness) time.Duration {
	if f.Deadline > 0 {
		return f.Deadline
	}
	const waits = 4 // for so many things that never come, one after the other

	deadline := waits*h.Patience + min(max(h.Capabilities.AckDeadline, h.Capabilities.Takeover), time.Minute)
	if f.Longer != nil {
		deadline += f.Longer(h)
	}

	return deadline
}
