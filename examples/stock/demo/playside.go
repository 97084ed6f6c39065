package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/examples/stock/internal/connect"
	"github.com/headrace-go/headrace/examples/stock/internal/warehouse"
)

// playSide sends the plan's messages to one side, lets its consumer die in the
// middle and start again, and counts what is in the tables in the end.
func playSide(ctx context.Context, opts options, p *plan, run string, s side) (o *outcome, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, opts.timeout,
		fmt.Errorf("not done after %s (see -timeout)", opts.timeout))
	defer cancel()
	where, err := newPlace(ctx, opts, run, s)
	if err != nil {
		return o, err
	}
	stage := &stage{options: opts, plan: p, place: where, side: s}
	defer func() {
		if left := where.clean(ctx); left != nil {
			stage.sayf("not everything could be removed: %v", left)
		}
	}()
	if err := stage.prepare(ctx); err != nil {
		return o, err
	}
	began := time.Now()
	stage.sayf("sending %d messages", len(p.sent))
	if err := stage.send(ctx); err != nil {
		return o, err
	}
	if err := stage.consume(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return o, err
	}
	o, err = stage.count(ctx)
	stage.sayf("done after %.1f s", time.Since(began).Seconds())
	return o, err
}

// stage is one side being played.
type stage struct {
	options
	*plan
	*place

	side  side
	threw []string
	kills int
}

func (s *stage) sayf(format string, args ...any) {
	s.out.printf("%-12s %s\n", s.side, fmt.Sprintf(format, args...))
}

// withTables calls f with the side's own tables.
func (s *stage) withTables(f func(*warehouse.Warehouse) error) (err error) {
	db, err := connect.Open(s.place.db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return f(warehouse.New(warehouse.Config{DB: db.DB, Numbered: db.Numbered()}))
}

func (s *stage) prepare(ctx context.Context) error {
	return s.withTables(func(w *warehouse.Warehouse) error {
		if err := w.CreateTables(ctx); err != nil {
			return err
		}
		return w.AddProducts(ctx, s.products)
	})
}

func (s *stage) send(ctx context.Context) (err error) {
	msgs, err := s.messages()
	if err != nil {
		return err
	}
	broker, err := brokers.Open(ctx, s.place.broker, brokers.Config{Openers: connect.Openers(), Logger: watermill.NopLogger{}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	for _, msg := range msgs {
		msg.SetContext(ctx)
	}
	if err := broker.Publisher.Publish(s.topics.Changes, msgs...); err != nil {
		return fmt.Errorf("send the changes: %w", err)
	}
	return nil
}

// consume starts a consumer, which is killed when it is in the middle of the
// message that the plan says, and then another one, which ends by itself.
func (s *stage) consume(ctx context.Context) error {
	if err := s.process(ctx, s.hold); err != nil {
		return err
	}
	if s.kills == 0 {
		return errors.New("the consumer has ended before it could be killed")
	}
	return s.process(ctx, "")
}

// process runs one consumer process to its end.
func (s *stage) process(ctx context.Context, hold string) (err error) {
	cmd, stderr, err := s.command(ctx, hold)
	if err != nil {
		return err
	}
	stdin, err := cmd.StdinPipe() // closed by our death, which ends the consumer
	if err != nil {
		return fmt.Errorf("start a consumer: %w", err)
	}
	defer func() { err = errors.Join(err, ignoreClosed(stdin.Close())) }()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start a consumer: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a consumer: %w", err)
	}

	killed, finished := s.listen(stdout, cmd.Process)
	err = cmd.Wait()
	switch {
	case killed:
		return nil
	case err != nil:
		return fmt.Errorf("the consumer process failed: %w\n%s", err, lastLines(stderr.Bytes()))
	case !finished:
		return errors.New("the consumer process has ended before its work was done")
	}
	return nil
}

// lastLines is what a consumer has logged at its end.
func lastLines(log []byte) []byte {
	const enough = 4 << 10
	log = bytes.TrimSpace(log)
	if len(log) > enough {
		log = log[len(log)-enough:]
	}
	return log
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func (s *stage) command(ctx context.Context, hold string) (*exec.Cmd, *bytes.Buffer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find this program: %w", err)
	}
	encoded, err := json.Marshal(orders{
		Side: s.side, DB: s.place.db, Broker: s.place.broker, Group: s.group, Topics: s.topics, Hold: hold,
		Throw: slices.DeleteFunc(slices.Clone(s.throw), func(id string) bool { return slices.Contains(s.threw, id) }),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("write the consumer's orders: %w", err)
	}
	cmd := exec.CommandContext(ctx, self) //nolint:gosec // this very program
	cmd.Env = append(os.Environ(), ordersVariable+"="+string(encoded))
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	return cmd, stderr, nil
}

// listen follows a consumer's reports until it has ended, and kills it when it
// stands still in the middle of a message.
func (s *stage) listen(stdout io.Reader, process *os.Process) (killed, finished bool) {
	lines := bufio.NewScanner(stdout)
	progress := waits{since: time.Now()}
	for lines.Scan() {
		var r report
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // a line that the kill has cut
		}
		switch r.Event {
		case started:
			s.sayf("consumer %d has started", process.Pid)
		case threw:
			s.threw = append(s.threw, r.ID)
		case holding:
			s.sayf("consumer %d is in the middle of a message: kill -9", process.Pid)
			killed = process.Kill() == nil
			s.kills++
		case working:
			if what := r.Left.String(); progress.news(what, time.Now()) {
				s.sayf("%s", what)
			}
		case drained:
			finished = true
		}
	}
	return killed, finished
}

// waits says each second what is waited for, if it is something else than before:
// on Kafka a killed consumer's messages come again after its session, some ten
// seconds later, and the same line again and again would only scroll.
type waits struct {
	since time.Time
	last  string
}

func (w *waits) news(what string, now time.Time) bool {
	if what == w.last || now.Sub(w.since) < time.Second {
		return false
	}
	w.since, w.last = now, what
	return true
}
