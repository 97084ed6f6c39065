// Package mem is the embedded broker: no service to run, and the same promises
// as the real ones. mem: keeps its queue in the process, mem:?file=path in a
// SQLite file that several processes may share and that survives their death.
//
// Messages of one key (msgmeta.Key) are delivered in the order of publishing,
// never two at once within a group; messages without a key in any order. Several
// keys are in flight at once, and a message that is nacked again and again holds
// up its own key alone. Every group hears all messages that are still kept,
// late groups too. A message is redelivered until it is acked.
//
// Kept are: every message that some group of its topic has not acked, every
// message of a topic that no group has subscribed to yet (without bound), and
// the newest of the others, as the options retain and retain_bytes say.
//
// Options:
//
//	file          path of the SQLite file. Default: none, the queue is in memory
//	workers       most messages in flight per subscription. Default 16
//	nack_delay    wait before a nacked message comes again; it doubles with each
//	              attempt, up to a hundredfold. Default 100ms
//	drain         how long closing waits for messages in flight. Default 10s
//	max_body      largest payload in bytes. Default 16777216 (16 MiB)
//	retain        fully acked messages kept per topic for groups that come
//	              later. Default 10000
//	retain_bytes  bytes of payload that those may take. Default 67108864 (64 MiB)
//	ack_deadline  (with file) how long after the death of a process its messages
//	              are given to others; a live one extends its claims. Default 5s
//	poll          (with file) how often to look for what other processes have
//	              published. Default 50ms
//	sync          (with file) full: a published message survives a power cut;
//	              normal: only the death of processes. Default full
package mem

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
)

// settings are the options of the URL.
type settings struct {
	file        string
	workers     int
	nackDelay   time.Duration
	drain       time.Duration
	maxBody     int
	retain      retention
	ackDeadline time.Duration
	poll        time.Duration
	sync        string
}

// Values of the option sync, which are SQLite's own.
const (
	syncFull   = "full"
	syncNormal = "normal"
)

// retention bounds what is kept of a topic after all its groups have acked it.
type retention struct {
	messages int
	bytes    int
}

// Open opens mem: URLs. It is a brokers.Opener. Two calls without a file give
// two brokers that know nothing of each other.
func Open(ctx context.Context, u *url.URL, cfg brokers.Config) (*brokers.Backend, error) {
	set, err := parse(u)
	if err != nil {
		return nil, err
	}

	b := &broker{settings: set, logger: cfg.Logger, signals: newSignals()}
	name, takeover := "mem", time.Duration(0)
	if set.file == "" {
		b.queue = newMemoryQueue(set.retain)
	} else {
		name, takeover = "mem-file", set.ackDeadline
		err := brokers.Connect(ctx, u, cfg, func(ctx context.Context) error {
			b.queue, err = openFileQueue(ctx, set)

			return err
		})
		if err != nil {
			return nil, err
		}
	}

	return &brokers.Backend{
		Publisher:   publisher{b},
		Subscribe:   func(group string) (message.Subscriber, error) { return newSubscriber(b, group), nil },
		DeleteTopic: b.queue.remove,
		Close:       b.queue.close,
		Capabilities: brokers.Capabilities{
			Name:        name,
			Groups:      true,
			KeyOrder:    true,
			Lanes:       true,
			Durable:     set.file != "",
			NilPayload:  true,
			MaxBody:     set.maxBody,
			AckDeadline: 0, // a live consumer extends its claims
			Takeover:    takeover,
			Backlog:     b.queue.backlog,
		},
	}, nil
}

func parse(u *url.URL) (settings, error) {
	if u.Host != "" || u.Path != "" || u.Opaque != "" {
		return settings{}, fmt.Errorf("%w: mem: takes no address; a file is named by mem:?file=path", brokers.ErrBadURL)
	}

	o := brokers.NewOptions(u)
	set := settings{
		file:        o.String("file", ""),
		workers:     o.Int("workers", 16, 1),
		nackDelay:   o.Duration("nack_delay", 100*time.Millisecond),
		drain:       o.Duration("drain", 10*time.Second),
		maxBody:     o.Int("max_body", 16<<20, 1),
		retain:      retention{messages: o.Int("retain", 10_000, 0), bytes: o.Int("retain_bytes", 64<<20, 0)},
		ackDeadline: o.Duration("ack_deadline", 5*time.Second),
		poll:        o.Duration("poll", 50*time.Millisecond),
		sync:        o.OneOf("sync", syncFull, syncNormal),
	}
	if set.nackDelay < time.Millisecond {
		o.Fail("nack_delay", "at least 1ms: a message that always fails would take a whole processor")
	}
	if set.ackDeadline < 100*time.Millisecond {
		o.Fail("ack_deadline", "at least 100ms: claims are extended every third of it")
	}
	if set.poll < time.Millisecond {
		o.Fail("poll", "at least 1ms")
	}
	if o.Has("file") && set.file == "" {
		o.Fail("file", "a path")
	}
	for _, name := range []string{"ack_deadline", "poll", "sync"} {
		if set.file == "" && o.Has(name) {
			o.Fail(name, "left out without file=")
		}
	}

	return set, o.Err()
}
