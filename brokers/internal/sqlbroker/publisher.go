package sqlbroker

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
)

// One INSERT takes this many messages and about this many bytes: databases
// limit both a statement's parameters (65,535) and its size.
const (
	chunkMessages = 1000
	chunkBytes    = 4 << 20
)

// publisher writes all messages of a call in one transaction.
type publisher struct{ *Broker }

func (p publisher) Publish(topic string, messages ...*message.Message) error {
	ctx := messages[0].Context()
	tables := TablesOf(topic)
	if err := p.ensure(ctx, tables); err != nil {
		return err
	}

	tx, err := p.Publishing.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := p.OrderPublish(ctx, tx, tables); err != nil {
		return errors.Join(err, tx.Rollback())
	}

	// watermill's publisher logs payloads when it traces, so it gets no logger.
	inTx, err := wsql.NewPublisher(wsql.TxFromStdSQL(tx),
		wsql.PublisherConfig{SchemaAdapter: p.Schema(tables)}, watermill.NopLogger{})
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	for len(messages) > 0 {
		var chunk []*message.Message
		chunk, messages = cut(messages)
		// It takes the statement's context from the chunk's first message.
		if err := inTx.Publish(tables.Slug, withContext(ctx, chunk)...); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}

	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit (the messages may have been sent): %w", err)
	}

	return nil
}

func (publisher) Close() error { return nil }

// withContext returns the messages with the first one's context replaced.
func withContext(ctx context.Context, chunk []*message.Message) []*message.Message {
	if chunk[0].Context() == ctx {
		return chunk
	}
	first := chunk[0].Copy()
	first.SetContext(ctx)

	return append([]*message.Message{first}, chunk[1:]...)
}

func cut(messages []*message.Message) (chunk, rest []*message.Message) {
	size := 0
	for i, msg := range messages {
		size += len(msg.Payload)
		if i > 0 && (i == chunkMessages || size > chunkBytes) {
			return messages[:i], messages[i:]
		}
	}

	return messages, nil
}
