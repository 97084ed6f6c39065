package sqlbroker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/internal/delivery"
)

// initializeTimeout bounds the making of tables where no context is given.
const initializeTimeout = time.Minute

// subscriber belongs to one group. It may subscribe to several topics.
type subscriber struct {
	*Broker

	group string
	life  *delivery.Lifetime
}

func newSubscriber(b *Broker, group string) (*subscriber, error) {
	if err := checkName(group); err != nil {
		return nil, fmt.Errorf("the database can't have a group of this name: %w", err)
	}

	return &subscriber{Broker: b, group: group, life: delivery.NewLifetime()}, nil
}

// SubscribeInitialize makes the topic's tables and the group.
func (s *subscriber) SubscribeInitialize(topic string) error {
	ctx, cancel := context.WithTimeout(context.Background(), initializeTimeout)
	defer cancel()

	return s.initialize(ctx, topic)
}

func (s *subscriber) initialize(ctx context.Context, topic string) error {
	if err := checkName(topic); err != nil {
		return fmt.Errorf("%w: %w", brokers.ErrTopic, err)
	}
	tables := TablesOf(topic)
	if err := s.ensure(ctx, tables); err != nil {
		return err
	}
	if err := s.AddGroup(ctx, s.Publishing, tables, s.group); err != nil {
		return fmt.Errorf("add group %q to topic %q: %w", s.group, topic, err)
	}
	if s.Join {
		return s.checkJoined(ctx, tables)
	}

	return nil
}

// checkJoined asks through the handlers' transaction for what was written
// through the broker's own connection.
func (s *subscriber) checkJoined(ctx context.Context, tables Tables) error {
	tx, err := s.Joiner(ctx)
	if err != nil {
		return fmt.Errorf("begin the handlers' unit of work: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx), errJoinChecked)

	known, err := s.HasGroup(ctx, tx, tables, s.group)
	if err == nil && known {
		return nil
	}

	return fmt.Errorf("%w: join=true, but the store's connection doesn't see table %s with group %q; "+
		"store and broker must be in one database, with one search_path (%w)",
		brokers.ErrBadOption, tables.Offsets, s.group, orNotThere(err))
}

var (
	errJoinChecked = errors.New("only looked whether store and broker are in one database")
	errNotThere    = errors.New("the group is not there")
)

func orNotThere(err error) error {
	if err == nil {
		return errNotThere
	}

	return err
}

// Subscribe hears a topic, one message at a time, until the context ends or the
// subscriber is closed. The end of the context cancels the message in hand at
// once; both wait up to the drain option for its ack.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	err := s.life.Begin(ctx, func(stop context.Context) (run func(), err error) {
		if err := s.initialize(ctx, topic); err != nil {
			return nil, err
		}
		sub := &subscription{subscriber: s, tables: TablesOf(topic), ctx: ctx, stop: stop, out: out}

		return sub.run, nil
	})
	if err != nil {
		return nil, fmt.Errorf("subscriber of group %q: %w", s.group, err)
	}

	return out, nil
}

// Close stops handing out messages and waits up to the drain option for those
// in hand.
func (s *subscriber) Close() error {
	s.life.Close()

	return nil
}
