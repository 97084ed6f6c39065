package handlertest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// fault is something that happens beside the ordinary course: messages in order,
// one at a time, each once.
type fault string

const (
	// again: a message that was handled comes again.
	again fault = "again"
	// early: a message comes before one that was sent earlier.
	early fault = "early"
	// crash: the process stops.
	crash fault = "crash"
	// fails: the statement, publish or commit is not done and returns an error.
	fails fault = "fails"
	// unanswered: the commit is done and returns an error: its connection is lost.
	unanswered fault = "unanswered"
	// meanwhile: another instance gets a message, the same one or another, while
	// this one is at work.
	meanwhile fault = "meanwhile"
	// resume: the instance that was interrupted goes on before the other is done.
	resume fault = "resume"
	// resent: the outbox's relay stops between publishing and confirming a message,
	// and whoever relays then begins again at the first that was not confirmed.
	resent fault = "resent"
)

// cost orders sequences by how many events they have; between equals the
// simpler story comes first.
func (f fault) cost() int {
	switch f {
	case again, early, resent:
		return 10
	case crash:
		return 20
	case fails, unanswered:
		return 21
	case meanwhile:
		return 22
	case resume:
		return 11
	}
	return 0
}

// choice is a fault at a point of a run where there is something to choose.
// Points are numbered from 0, in the order in which the run reaches them.
type choice struct {
	at      int
	fault   fault
	message int // for again, early and meanwhile: its index
}

// plan is a sequence of events: how many messages are sent, and where the
// ordinary course is left. A run is determined by its plan, up to what the
// database and the handler decide.
type plan struct {
	sent    int
	choices []choice
}

const costOfMessage = 10

func (p plan) cost() int {
	sum := costOfMessage * p.sent
	for _, c := range p.choices {
		sum += c.fault.cost()
	}
	return sum
}

func (p plan) with(c choice) plan {
	return plan{p.sent, append(p.choices[:len(p.choices):len(p.choices)], c)}
}

// last is the point of the last choice, or -1.
func (p plan) last() int {
	if len(p.choices) == 0 {
		return -1
	}
	return p.choices[len(p.choices)-1].at
}

func byCost(plans []plan) {
	slices.SortStableFunc(plans, func(a, b plan) int { return cmp.Compare(a.cost(), b.cost()) })
}

// String is the code for Case.Replay, without the side: "2 4=crash 9=again:1".
func (p plan) String() string {
	var b strings.Builder
	b.WriteString(strconv.Itoa(p.sent))
	for _, c := range p.choices {
		fmt.Fprintf(&b, " %d=%s", c.at, c.fault)
		if c.ofMessage() {
			fmt.Fprintf(&b, ":%d", c.message+1)
		}
	}
	return b.String()
}

func (c choice) ofMessage() bool { return c.fault == again || c.fault == early || c.fault == meanwhile }

var errCode = errors.New(`handlertest: Case.Replay is no code that a failure has printed, such as "with 2 4=crash 9=again:1"`)

func parsePlan(code string, messages int) (plan, error) {
	words := strings.Fields(code)
	if len(words) == 0 {
		return plan{}, errCode
	}
	sent, err := strconv.Atoi(words[0])
	if err != nil || sent < 1 || sent > messages {
		return plan{}, fmt.Errorf("%w: it begins with how many of the %d messages are sent, not %q", errCode, messages, words[0])
	}
	p := plan{sent: sent}
	for _, word := range words[1:] {
		at, what, _ := strings.Cut(word, "=")
		name, number, _ := strings.Cut(what, ":")
		c := choice{fault: fault(name)}
		if c.at, err = strconv.Atoi(at); err != nil || c.fault.cost() == 0 || c.at <= p.last() {
			return plan{}, fmt.Errorf("%w: %q", errCode, word)
		}
		if c.ofMessage() {
			if c.message, err = strconv.Atoi(number); err != nil || c.message < 1 || c.message > sent {
				return plan{}, fmt.Errorf("%w: %q", errCode, word)
			}
			c.message--
		}
		p.choices = append(p.choices, c)
	}
	return p, nil
}
