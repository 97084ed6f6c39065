package scenario

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
)

// logbook keeps the log and shows it when the test fails.
type logbook struct {
	book   *book
	fields watermill.LogFields
}

type book struct {
	mu    sync.Mutex
	lines []string
}

// How much of the log a failure shows, and of a line.
const (
	shownLines = 60
	shownBytes = 600
)

func newLogbook(t *testing.T) *logbook {
	t.Helper()
	l := &logbook{book: &book{}}
	t.Cleanup(func() {
		if lines := l.lines(); t.Failed() && len(lines) > 0 {
			t.Logf("log:\n%s", strings.Join(lines[max(0, len(lines)-shownLines):], "\n"))
		}
	})
	return l
}

func (l *logbook) lines() []string {
	l.book.mu.Lock()
	defer l.book.mu.Unlock()
	return slices.Clone(l.book.lines)
}

func (l *logbook) write(level, msg string, err error, fields watermill.LogFields) {
	all := l.fields.Add(fields)
	line := fmt.Sprintf("%s %s %s", time.Now().Format("15:04:05.000"), level, msg)
	if err != nil {
		line += fmt.Sprintf(" err=%q", err.Error())
	}
	var pairs strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&pairs, " %s=%v", name, all[name])
	}
	line += pairs.String()
	if len(line) > shownBytes {
		line = line[:shownBytes] + "…" // a recovered panic brings its whole stack
	}
	l.book.mu.Lock()
	defer l.book.mu.Unlock()
	l.book.lines = append(l.book.lines, line)
}

func (l *logbook) Error(msg string, err error, fields watermill.LogFields) {
	l.write("ERROR", msg, err, fields)
}

func (l *logbook) Info(msg string, fields watermill.LogFields) { l.write("info", msg, nil, fields) }

func (l *logbook) Debug(msg string, fields watermill.LogFields) { l.write("debug", msg, nil, fields) }

func (l *logbook) Trace(string, watermill.LogFields) {}

func (l *logbook) With(fields watermill.LogFields) watermill.LoggerAdapter {
	return &logbook{book: l.book, fields: l.fields.Add(fields)}
}
