package handlertest

import (
	"fmt"
	"strings"

	"github.com/headrace-go/headrace/store"
)

// story tells a run in words.
type story struct{ lines []string }

func (s *story) say(line string) { s.lines = append(s.lines, line) }

func (s *story) delivered(d *delivery, before int, meanwhile bool) {
	line := fmt.Sprintf("m%d is delivered", d.message+1)
	if before > 0 {
		line += " again"
	}
	if meanwhile {
		line += " to " + d.process.name
	}
	s.say(line)
	d.line = len(s.lines)
}

// add goes on with what becomes of a delivery.
func (s *story) add(d *delivery, what string) {
	if d.line == len(s.lines) {
		s.lines[d.line-1] += "; " + what
		return
	}
	s.say(fmt.Sprintf("%s goes on with m%d; %s", d.process.name, d.message+1, what))
	d.line = len(s.lines)
}

// waits is added once, however often the lock is asked for.
func (s *story) waits(d *delivery) {
	const what = "; it waits for a lock"
	if d.line == len(s.lines) && !strings.HasSuffix(s.lines[d.line-1], what) {
		s.lines[d.line-1] += what
	}
}

// resent tells of a relay that stops. It is the last that befalls a run, and has
// no delivery's line.
func (s *story) resent(rows []store.OutboxRow) {
	which := "the message"
	if len(rows) > 1 {
		which = fmt.Sprintf("the last %d messages", len(rows))
	}
	s.say(fmt.Sprintf("the relay sends a message to %q and stops before it has confirmed that; "+
		"the next one sends %s again, with the same UUID", rows[len(rows)-1].Topic, which))
}

func numbered(lines []string) string {
	var b strings.Builder
	for i, line := range lines {
		fmt.Fprintf(&b, "  %d. %s\n", i+1, line)
	}
	return b.String()
}

// longest is how much of a statement is shown.
const longest = 70

// words names what is done, with the statement's number where it is one.
func (o op) words(number int) string {
	switch o.kind {
	case statement:
		text := o.text
		if len(text) > longest {
			text = strings.ToValidUTF8(text[:longest], "") + "…"
		}
		return fmt.Sprintf("statement %d (%s)", number, text)
	case commit:
		return "the commit" + o.text
	case publish:
		return fmt.Sprintf("the publish to %q", o.text)
	case ack:
		return "the handler"
	case taken:
	}
	return "the start"
}

// where is how far a delivery at a gate has come.
func (d *delivery) where() string {
	switch {
	case d.op.kind == taken:
		return "when it has got the message"
	case d.op.kind == ack && d.state == atGate:
		return "when the handler is done"
	case d.done.kind == taken:
		return "before " + d.op.words(d.statements+1)
	}
	return "after " + d.done.words(d.statements)
}

// whereBefore is where the delivery is that will go on with what it asked for.
func (d *delivery) whereBefore() string {
	if d.before.kind == taken {
		return "before " + d.op.words(d.statements)
	}
	return "after " + d.before.words(d.beforeCount)
}
