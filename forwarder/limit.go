package forwarder

import "github.com/headrace-go/headrace/store"

// readLimit is how many rows one reading asks for. The servers send all that was
// asked for, also what is no longer wanted once there are bytes enough: of a
// thousand rows of a megabyte, five would be used and a gigabyte thrown away, each
// time.
type readLimit struct {
	// rows is what to ask for next, most the configured limit.
	rows, most int
	// bytes ends a batch.
	bytes int
}

// learn takes in what a reading has brought: after one that was cut short for its
// bytes no more is asked for than it had, and twice as much after one that was not.
func (l *readLimit) learn(rows []store.OutboxRow, err error) {
	size := 0
	for _, row := range rows {
		size += len(row.Payload)
	}
	switch {
	case err != nil: // perhaps it took too long
		l.rows = max(l.rows/8, 1)
	case size > l.bytes:
		l.rows = len(rows)
	case len(rows) == l.rows:
		l.rows = min(2*l.rows, l.most)
	}
}
