package mem

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// groupSize bounds how many writes share a transaction.
const groupSize = 128

// fileWriter is the only writer of a process, because SQLite's connections wait
// for each other by sleeping and trying again. Writes that are asked for while
// another is under way share the next transaction, and its fsync.
type fileWriter struct {
	durable *sql.DB // commits survive a power cut, as the option sync says
	quick   *sql.DB // commits survive the death of the process: claims, acks

	jobs   chan *fileJob
	closed chan struct{}
	ended  chan struct{}
}

type fileJob struct {
	ctx     context.Context //nolint:containedctx // the caller's, who waits for the job
	name    string
	durable bool
	do      func(tx fileTx) error
	done    chan error
}

func newFileWriter(durable, quick *sql.DB) *fileWriter {
	w := &fileWriter{
		durable: durable, quick: quick,
		jobs: make(chan *fileJob), closed: make(chan struct{}), ended: make(chan struct{}),
	}
	go w.run()

	return w
}

var errQueueClosed = errors.New("the queue is closed")

// do runs fn in a transaction that holds the file's write lock from its
// beginning. fn may be called again when another's failure rolled it back.
func (w *fileWriter) do(ctx context.Context, name string, durable bool, fn func(tx fileTx) error) error {
	job := &fileJob{ctx: ctx, name: name, durable: durable, do: fn, done: make(chan error, 1)}
	select {
	case w.jobs <- job:
	case <-w.closed:
		return fmt.Errorf("%s: %w", name, errQueueClosed)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", name, ctx.Err())
	}

	if err := <-job.done; err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}

	return nil
}

func (w *fileWriter) run() {
	defer close(w.ended)

	// Not a caller's context: the others' work must not end with it.
	ctx := context.Background()
	for {
		select {
		case <-w.closed:
			return
		case job := <-w.jobs:
			w.runGroup(ctx, w.group(job))
		}
	}
}

// group adds the writes that are waiting now.
func (w *fileWriter) group(first *fileJob) []*fileJob {
	jobs := []*fileJob{first}
	for len(jobs) < groupSize {
		select {
		case job := <-w.jobs:
			jobs = append(jobs, job)
		default:
			return jobs
		}
	}

	return jobs
}

// runGroup does all jobs in one transaction, or each in its own when one fails.
func (w *fileWriter) runGroup(ctx context.Context, jobs []*fileJob) {
	if len(jobs) > 1 {
		if err := w.transact(ctx, jobs); err == nil {
			for _, job := range jobs {
				job.done <- nil
			}

			return
		}
	}
	for _, job := range jobs {
		job.done <- w.transact(ctx, []*fileJob{job})
	}
}

func (w *fileWriter) transact(ctx context.Context, jobs []*fileJob) error {
	db := w.quick
	for _, job := range jobs {
		if err := job.ctx.Err(); err != nil {
			return err //nolint:wrapcheck // do names the job
		}
		if job.durable {
			db = w.durable
		}
	}

	tx, err := begin(ctx, db)
	if err != nil {
		return err
	}
	for _, job := range jobs {
		if err := job.do(fileTx{ctx, tx}); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}

	return nil
}

// Waits for another process's write transaction, between two looks at its lock.
// SQLite's own soon wait 100 ms each: against a process that writes all the time
// they hardly ever find it free.
const (
	lockWaitFirst   = 200 * time.Microsecond
	lockWaitLongest = 4 * time.Millisecond
)

// begin takes the file's write lock.
func begin(ctx context.Context, db *sql.DB) (*sql.Tx, error) {
	deadline := time.Now().Add(busyTimeout)
	for wait := lockWaitFirst; ; wait = min(2*wait, lockWaitLongest) {
		tx, err := db.BeginTx(ctx, nil)
		if err == nil {
			return tx, nil
		}
		if !busy(err) || time.Now().After(deadline) {
			return nil, fmt.Errorf("begin: %w", err)
		}

		timer := time.NewTimer(wait/2 + rand.N(wait))
		<-timer.C
	}
}

// close ends the writer after what it is doing.
func (w *fileWriter) close() error {
	close(w.closed)
	<-w.ended

	return errors.Join(w.durable.Close(), w.quick.Close())
}

// fileTx is the transaction of a group of writes.
type fileTx struct {
	ctx context.Context //nolint:containedctx // of the transaction
	tx  *sql.Tx
}

// exec returns how many rows the statement changed. SQLite counts rows matched,
// in every configuration.
func (t fileTx) exec(statement string, args ...any) (changed int64, err error) {
	result, err := t.tx.ExecContext(t.ctx, statement, args...)
	if err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	changed, err = result.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("count what was written: %w", err)
	}

	return changed, nil
}

// scan runs a query of one row.
func (t fileTx) scan(query string, args ...any) rowScanner {
	return wrappedRow{t.tx.QueryRowContext(t.ctx, query, args...)}
}

type rowScanner interface{ Scan(into ...any) error }

type wrappedRow struct{ row *sql.Row }

func (r wrappedRow) Scan(into ...any) error {
	if err := r.row.Scan(into...); err != nil {
		return fmt.Errorf("read: %w", err)
	}

	return nil
}
