package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// ConsumerSpec is what a consumer process is to do.
type ConsumerSpec struct {
	Topic string `json:"topic"`
	Group string `json:"group"`
	// Args are the harness's own words to its processes, such as the broker's URL.
	Args map[string]string `json:"args,omitempty"`
}

// Process is a consumer in a process of its own, which runs ConsumerMain: Read
// gives what that writes to its standard output, Write is its standard input.
type Process interface {
	io.ReadWriter

	// Kill ends it at once, as kill -9 does, and returns when it is gone. A dead
	// process may be killed again.
	Kill() error
	// Pause freezes it, as SIGSTOP does: its connections stay open.
	Pause() error
	// Resume ends Pause.
	Resume() error
	// Wait returns when it has ended.
	Wait() error
}

// consumerVariable holds the spec of a process that Reexec started, as JSON.
const consumerVariable = "HEADRACE_CONFORMANCE_CONSUMER"

// ConsumerMain makes the program a consumer process where Reexec started it as
// one, and returns at once in every other case. Call it first in main or
// TestMain, with the function that opens a subscriber. The process exits when
// its standard input ends, which is with its parent. Its standard output is
// taken; logs belong to standard error.
func ConsumerMain(open func(ctx context.Context, spec ConsumerSpec) (message.Subscriber, error)) {
	raw := os.Getenv(consumerVariable)
	if raw == "" {
		return
	}
	var spec ConsumerSpec
	err := json.Unmarshal([]byte(raw), &spec)
	if err == nil {
		var sub message.Subscriber
		if sub, err = open(context.Background(), spec); err == nil {
			err = ServeConsumer(context.Background(), sub, spec.Topic, os.Stdin, os.Stdout)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance: consumer process:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// line is what a consumer process says; command is what it is told.
type (
	line struct {
		Ready  bool   `json:"ready,omitempty"`
		Number int    `json:"n,omitempty"` // of the delivery, from 1
		UUID   string `json:"uuid,omitempty"`
	}
	command struct {
		Number int  `json:"n"`
		Ack    bool `json:"ack"`
	}
)

// ServeConsumer is ConsumerMain for processes that are started in a way of their
// own: it subscribes, tells of each message on out, and acks or nacks as it is
// told on in, until in or the subscription ends.
func ServeConsumer(ctx context.Context, sub message.Subscriber, topic string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	messages, err := sub.Subscribe(ctx, topic)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	var mu sync.Mutex
	held := map[int]*message.Message{}
	over := make(chan error, 1)
	go func() { over <- obey(in, &mu, held) }()

	say := json.NewEncoder(out)
	if err := say.Encode(line{Ready: true}); err != nil {
		return fmt.Errorf("say that it is ready: %w", err)
	}
	for n := 1; ; n++ {
		select {
		case msg, open := <-messages:
			if !open {
				return errors.New("the subscription ended by itself")
			}
			if msg == nil {
				return errors.New("the subscription gave nil instead of a message")
			}
			mu.Lock()
			held[n] = msg
			mu.Unlock()
			if err := say.Encode(line{Number: n, UUID: msg.UUID}); err != nil {
				return fmt.Errorf("tell of a message: %w", err)
			}
		case err := <-over:
			return err
		}
	}
}

// obey acks and nacks what is held as it is told, until there is no more.
func obey(in io.Reader, mu *sync.Mutex, held map[int]*message.Message) error {
	for told := json.NewDecoder(in); ; {
		var c command
		if err := told.Decode(&c); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a command: %w", err)
		}
		mu.Lock()
		msg := held[c.Number]
		delete(held, c.Number)
		mu.Unlock()
		switch {
		case msg == nil:
			return fmt.Errorf("told of delivery %d, which there is not", c.Number)
		case c.Ack:
			msg.Ack()
		default:
			msg.Nack()
		}
	}
}

// remote is a consumer process as a subscriber on this side, with one
// subscription: messages come with UUID, key and name alone.
type remote struct {
	process Process
	trial   *Trial

	mu      sync.Mutex // one command at a time
	closed  chan struct{}
	closing sync.Once
	running sync.WaitGroup
}

// Subscribe passes on what the process tells. The process hears its own topic.
func (r *remote) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	lines := bufio.NewScanner(r.process)
	var first line
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &first) != nil || !first.Ready {
		return nil, fmt.Errorf("the consumer process did not begin: %w", errors.Join(lines.Err(), r.process.Wait()))
	}
	out := make(chan *message.Message)
	r.running.Go(func() {
		defer close(out)
		for lines.Scan() {
			var told line
			if json.Unmarshal(lines.Bytes(), &told) != nil {
				continue // cut off by the kill
			}
			msg := r.trial.history.message(told.UUID)
			select {
			case out <- msg:
				r.running.Go(func() { r.follow(told.Number, msg) })
			case <-r.closed:
			}
		}
	})

	return out, nil
}

// follow tells the process what becomes of a delivery.
func (r *remote) follow(number int, msg *message.Message) {
	c := command{Number: number}
	select {
	case <-msg.Acked():
		c.Ack = true
	case <-msg.Nacked():
	case <-r.closed:
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = fmt.Fprintf(r.process, `{"n":%d,"ack":%t}`, c.Number, c.Ack) // a process that is dead is not told any more
}

// Close kills the process.
func (r *remote) Close() error {
	r.closing.Do(func() { close(r.closed) })
	err := r.process.Kill()
	r.running.Wait()

	return err
}

// SubscribeProcess hears the fact's topic as a group by a process of its own.
func (t *Trial) SubscribeProcess(group string) *Consumer {
	var process Process
	err := t.call("start a consumer process", func() (err error) {
		process, err = t.Harness.Consumer(t.ctx, ConsumerSpec{Topic: t.Topic, Group: t.groupName(group)})

		return err
	})
	if err != nil {
		t.Unknownf("start a consumer process: %v", err)
	}
	r := &remote{process: process, trial: t, closed: make(chan struct{})}
	t.mu.Lock()
	t.closers = append(t.closers, r.Close)
	t.mu.Unlock()
	c, err := t.SubscribeBy(t.ctx, r, t.Topic, group)
	if err != nil {
		t.Unknownf("%v", err)
	}
	c.process = process

	return c
}

// Kill ends the consumer's process, which never acks what it has in hand.
func (c *Consumer) Kill() {
	c.trial.Notef("consumer %d of group %s is killed", c.Number, c.Group)
	if err := c.trial.call("kill a consumer process", c.process.Kill); err != nil {
		c.trial.Unknownf("kill a consumer process: %v", err)
	}
	c.giveUpAll()
}

// Pause freezes the consumer's process.
func (c *Consumer) Pause() {
	if err := c.trial.call("freeze a consumer process", c.process.Pause); err != nil {
		c.trial.Unknownf("freeze a consumer process: %v", err)
	}
	c.trial.Notef("consumer %d of group %s is frozen", c.Number, c.Group)
}

// Resume ends Pause.
func (c *Consumer) Resume() {
	c.trial.Notef("consumer %d of group %s wakes up", c.Number, c.Group)
	if err := c.trial.call("wake a consumer process", c.process.Resume); err != nil {
		c.trial.Unknownf("wake a consumer process: %v", err)
	}
}

// processGrace is how long a killed process may take to be gone.
const processGrace = 10 * time.Second
