// Package sqlbroker is what the SQL brokers share: watermill-sql's publisher and
// subscriber, held so that their traps don't bite.
//
// A subscription runs watermill-sql's subscriber in sessions. A message that is
// nacked, or not acked in time, ends the session: its transaction is rolled back
// before the wait for the next attempt, and the next attempt has a transaction
// of its own. (watermill-sql alone would deliver the message again within the
// first attempt's transaction, and hold that open while it waits.)
package sqlbroker

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/internal/sqljoin"
)

// Dialect is what differs between the databases. All its functions may be called
// concurrently.
type Dialect interface { //nolint:interfacebloat // one method for each thing that differs
	// Schema and Offsets are watermill-sql's adapters for a topic's tables.
	Schema(t Tables) wsql.SchemaAdapter
	Offsets(t Tables) wsql.OffsetsAdapter
	// Create makes a topic's tables unless they exist; several processes may
	// do so at once.
	Create(ctx context.Context, db *sql.DB, t Tables) error
	// Drop removes a topic's tables, if they exist.
	Drop(ctx context.Context, db *sql.DB, t Tables) error
	// AddGroup makes a group known, at the oldest message.
	AddGroup(ctx context.Context, db *sql.DB, t Tables, group string) error
	// HasGroup reports whether a group is known.
	HasGroup(ctx context.Context, q sqljoin.Statements, t Tables, group string) (bool, error)
	// Peek reports whether there is a message for a group.
	Peek(ctx context.Context, db *sql.DB, t Tables, group string) (bool, error)
	// Claim takes the right to read for a group until the transaction ends,
	// without waiting.
	Claim(ctx context.Context, q sqljoin.Statements, t Tables, group string) (bool, error)
	// OrderPublish makes the order of insertion the order of commit, where the
	// database doesn't, within the transaction of a publish.
	OrderPublish(ctx context.Context, tx *sql.Tx, t Tables) error
	// Backlog counts what a group has not acked.
	Backlog(ctx context.Context, db *sql.DB, t Tables, group string) (int64, error)
	// Refuse refuses what the database can't store.
	Refuse(msg *message.Message) error
}

// Settings are the options that the SQL brokers have in common.
type Settings struct {
	Poll, PollMax time.Duration
	NackDelay     time.Duration
	Drain         time.Duration
	AckDeadline   time.Duration
	Pool          int
	MaxBody       int
	Join          bool
}

// ParseSettings reads the common options.
func ParseSettings(o *brokers.Options) Settings {
	s := Settings{
		Poll:        o.Duration("poll", 10*time.Millisecond),
		PollMax:     o.Duration("poll_max", 200*time.Millisecond),
		NackDelay:   o.Duration("nack_delay", 100*time.Millisecond),
		Drain:       o.Duration("drain", 10*time.Second),
		AckDeadline: o.Duration("ack_deadline", 0),
		Pool:        o.Int("pool", 16, 1),
		MaxBody:     o.Int("max_body", 16<<20, 1),
		Join:        o.Bool("join", false),
	}
	if s.Poll < time.Millisecond {
		o.Fail("poll", "at least 1ms")
	}
	if s.NackDelay < time.Millisecond {
		o.Fail("nack_delay", "at least 1ms: a message that always fails would take a whole processor")
	}
	s.PollMax = max(s.Poll, s.PollMax)

	return s
}

// Broker is an open database used as a broker.
type Broker struct {
	Settings
	Dialect

	// Publishing and Reading are pools of their own: a subscription keeps a
	// connection as long as its handler runs, and a handler that publishes must
	// not wait for another one.
	Publishing, Reading *sql.DB
	Logger              watermill.LoggerAdapter
	// Joiner begins the transactions of subscriptions when Join is set.
	Joiner brokers.Joiner

	mu    sync.Mutex
	known map[string]bool // topics whose tables exist
}

// Backend returns the parts that brokers.Open needs.
func (b *Broker) Backend(name string) (*brokers.Backend, error) {
	if b.Join && b.Joiner == nil {
		return nil, fmt.Errorf("%w: join=true needs Config.Join, for example brokers.JoinUnits(st.Begin) of the handlers' store",
			brokers.ErrBadOption)
	}

	// Idle connections beyond the limit are closed: at each poll, that is.
	b.Reading.SetMaxIdleConns(64)
	b.Reading.SetConnMaxIdleTime(time.Minute)
	b.Publishing.SetMaxOpenConns(b.Pool)
	b.Publishing.SetMaxIdleConns(b.Pool)
	b.Publishing.SetConnMaxIdleTime(time.Minute)

	return &brokers.Backend{
		Publisher:   publisher{b},
		Subscribe:   func(group string) (message.Subscriber, error) { return newSubscriber(b, group) },
		Check:       b.check,
		DeleteTopic: b.drop,
		Close:       func() error { return errors.Join(b.Publishing.Close(), b.Reading.Close()) },
		Capabilities: brokers.Capabilities{
			Name:        name,
			Groups:      true,
			KeyOrder:    true,
			TotalOrder:  true,
			Durable:     true,
			JoinsTx:     b.Join,
			NilPayload:  true,
			MaxBody:     b.MaxBody,
			AckDeadline: b.AckDeadline,
			Backlog: func(ctx context.Context, topic, group string) (int64, error) {
				return b.Backlog(ctx, b.Publishing, TablesOf(topic), group)
			},
		},
	}, nil
}

func (b *Broker) check(topic string, msg *message.Message) error {
	if err := checkName(topic); err != nil {
		return fmt.Errorf("%w: %w", brokers.ErrTopic, err)
	}
	if err := brokers.CheckUTF8(msg); err != nil {
		return err
	}

	return b.Refuse(msg)
}

// maxName is the most bytes of a topic's or group's name.
const maxName = 255

func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty")
	case len(name) > maxName:
		return fmt.Errorf("it has %d bytes and the limit is %d", len(name), maxName)
	case !utf8.ValidString(name) || strings.ContainsRune(name, 0):
		return errors.New("it is not valid UTF-8 or holds a NUL")
	}

	return nil
}

// ensure makes a topic's tables, once per process.
func (b *Broker) ensure(ctx context.Context, t Tables) error {
	b.mu.Lock()
	known := b.known[t.Topic]
	b.mu.Unlock()
	if known {
		return nil
	}

	if err := b.Create(ctx, b.Publishing, t); err != nil {
		return fmt.Errorf("create the tables of topic %q: %w", t.Topic, err)
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil {
		b.known = map[string]bool{}
	}
	b.known[t.Topic] = true

	return nil
}

func (b *Broker) drop(ctx context.Context, topic string) error {
	if err := checkName(topic); err != nil {
		return fmt.Errorf("%w: %w", brokers.ErrTopic, err)
	}
	b.mu.Lock()
	delete(b.known, topic)
	b.mu.Unlock()

	return b.Drop(ctx, b.Publishing, TablesOf(topic))
}

// Tables are the names of a topic's tables.
type Tables struct {
	Topic string
	// Slug stands for the topic in names: it holds only a-z, 0-9 and _, and no
	// two topics share one.
	Slug     string
	Messages string
	Offsets  string
}

// plainTopic needs no hash: short enough for the databases' 63 characters, and
// equal only to itself where table names ignore case.
var (
	plainTopic = regexp.MustCompile(`^[a-z0-9_]{1,40}$`)
	notPlain   = regexp.MustCompile(`[^a-z0-9]+`)
)

// TablesOf names a topic's tables.
func TablesOf(topic string) Tables {
	slug := "t_" + topic
	if !plainTopic.MatchString(topic) {
		const readable, hashed = 20, 10
		hash := sha256.Sum256([]byte(topic))
		name := notPlain.ReplaceAllString(strings.ToLower(topic), "_")
		slug = "h_" + hex.EncodeToString(hash[:hashed]) + "_" + name[:min(len(name), readable)]
	}

	return Tables{Topic: topic, Slug: slug, Messages: "headrace_msgs_" + slug, Offsets: "headrace_offs_" + slug}
}
