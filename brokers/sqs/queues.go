package sqs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	watermillsqs "github.com/ThreeDotsLabs/watermill-aws/sqs"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/headrace-go/headrace/brokers"
)

const (
	fifoSuffix   = ".fifo"
	maxQueueName = 80
)

// QueueName returns the name of a topic's queue. A topic that SQS takes as a
// name keeps it. In any other, what SQS refuses becomes '_', and the start of a
// hash is added, so that two topics never share a queue: stock.changed is
// stock_changed-2ac2b2fc.
func QueueName(topic string, fifo bool) string {
	suffix := ""
	if fifo {
		suffix = fifoSuffix
	}
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		default:
			return '_'
		}
	}, topic)
	if limit := maxQueueName - len(suffix); name != topic || len(name) > limit {
		sum := sha256.Sum256([]byte(topic))
		hash := "-" + hex.EncodeToString(sum[:4])
		name = name[:min(len(name), limit-len(hash))] + hash
	}

	return name + suffix
}

// queue is what is known of a topic's queue.
type queue struct {
	name       string
	url        string
	maxMessage int           // bytes
	retention  time.Duration // 0: it doesn't say
}

// queues finds and creates queues, and remembers what it found.
type queues struct {
	settings *settings
	client   *client
	logger   watermill.LoggerAdapter

	known sync.Map   // topic → *queue
	mu    sync.Mutex // one creation at a time
}

var _ watermillsqs.QueueUrlResolver = (*queues)(nil)

func newQueues(s *settings, c *client, logger watermill.LoggerAdapter) *queues {
	return &queues{settings: s, client: c, logger: logger}
}

// ResolveQueueUrl is upstream's way to a queue; upstream itself creates none.
//
//nolint:revive,staticcheck // the name is upstream's
func (q *queues) ResolveQueueUrl(
	ctx context.Context, params watermillsqs.ResolveQueueUrlParams,
) (watermillsqs.QueueUrlResolverResult, error) {
	found, err := q.ensure(ctx, params.Topic)
	if err != nil {
		return watermillsqs.QueueUrlResolverResult{}, err
	}
	url := watermillsqs.QueueURL(found.url)

	return watermillsqs.QueueUrlResolverResult{
		QueueName: watermillsqs.QueueName(found.name), QueueURL: &url, Exists: aws.Bool(true),
	}, nil
}

// ensure returns a topic's queue, and creates it where it is missing.
func (q *queues) ensure(ctx context.Context, topic string) (*queue, error) {
	if found, ok := q.known.Load(topic); ok {
		return found.(*queue), nil //nolint:forcetypeassert // only *queue is stored
	}
	q.mu.Lock()
	defer q.mu.Unlock()

	if found, ok := q.known.Load(topic); ok {
		return found.(*queue), nil //nolint:forcetypeassert // only *queue is stored
	}
	name := QueueName(topic, q.settings.fifo)
	url, err := q.find(ctx, name)
	var missing *types.QueueDoesNotExist
	switch {
	case err == nil:
	case !errors.As(err, &missing):
		return nil, fmt.Errorf("queue %s of topic %q: %w", name, topic, err)
	case !q.settings.create:
		return nil, fmt.Errorf("queue %s of topic %q doesn't exist; create it, or open the broker with create=true: %w",
			name, topic, err)
	default:
		if url, err = q.make(ctx, name); err != nil {
			return nil, fmt.Errorf("create queue %s of topic %q: %w", name, topic, err)
		}
	}
	found := &queue{name: name, url: url, maxMessage: q.settings.maxMessage}
	q.describe(ctx, found)
	q.known.Store(topic, found)

	return found, nil
}

// forget makes the next ensure look again: the queue was deleted.
func (q *queues) forget(topic string) { q.known.Delete(topic) }

// remove deletes a topic's queue, its claim with it.
func (q *queues) remove(ctx context.Context, topic string) error {
	name := QueueName(topic, q.settings.fifo)
	url, err := q.find(ctx, name)
	if err == nil {
		_, err = q.client.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: aws.String(url)})
	}
	q.forget(topic)
	var missing *types.QueueDoesNotExist
	if err != nil && !errors.As(err, &missing) {
		return fmt.Errorf("delete queue %s: %w", name, err)
	}

	return nil
}

func (q *queues) find(ctx context.Context, name string) (string, error) {
	out, err := q.client.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String(name)})
	if err != nil {
		return "", fmt.Errorf("get its URL: %w", err)
	}

	return aws.ToString(out.QueueUrl), nil
}

func (q *queues) make(ctx context.Context, name string) (string, error) {
	attributes := map[string]string{
		string(types.QueueAttributeNameVisibilityTimeout):      seconds(q.settings.visibility),
		string(types.QueueAttributeNameMessageRetentionPeriod): seconds(q.settings.retention),
	}
	if q.settings.fifo {
		attributes[string(types.QueueAttributeNameFifoQueue)] = "true"
	}
	out, err := q.client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String(name), Attributes: attributes})
	var exists *types.QueueNameExists
	if errors.As(err, &exists) {
		// Somebody else was quicker, with other settings.
		return q.find(ctx, name)
	}
	if err != nil {
		return "", fmt.Errorf("with visibility %v and retention %v: %w", q.settings.visibility, q.settings.retention, err)
	}
	q.logger.Info("Created queue", watermill.LogFields{"queue": name})

	return aws.ToString(out.QueueUrl), nil
}

// describe reads the queue's limits. An account may lack the right to, and not
// every server has all of them; then the settings count.
func (q *queues) describe(ctx context.Context, found *queue) {
	out, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: aws.String(found.url), AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll},
	})
	if err != nil {
		q.logger.Info("Can't read the queue's attributes", watermill.LogFields{"queue": found.name, "err": err.Error()})
		return
	}
	if n, err := strconv.Atoi(out.Attributes[string(types.QueueAttributeNameMaximumMessageSize)]); err == nil {
		found.maxMessage = min(found.maxMessage, n)
	}
	if n, err := strconv.Atoi(out.Attributes[string(types.QueueAttributeNameMessageRetentionPeriod)]); err == nil {
		found.retention = time.Duration(n) * time.Second
	}
}

// backlog counts what waits, is in flight or is delayed. The numbers are SQS's
// own approximations, about a minute behind on AWS.
func (q *queues) backlog(ctx context.Context, topic, _ string) (int64, error) {
	name := QueueName(topic, q.settings.fifo)
	url, err := q.find(ctx, name)
	var missing *types.QueueDoesNotExist
	if errors.As(err, &missing) {
		return 0, nil // nothing was ever published
	}
	if err != nil {
		return 0, fmt.Errorf("backlog of queue %s: %w", name, err)
	}
	counts := []types.QueueAttributeName{
		types.QueueAttributeNameApproximateNumberOfMessages,
		types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
		types.QueueAttributeNameApproximateNumberOfMessagesDelayed,
	}
	out, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: aws.String(url), AttributeNames: counts,
	})
	if err != nil {
		return 0, fmt.Errorf("backlog of queue %s: %w", name, err)
	}
	var sum int64
	for _, count := range counts {
		n, err := strconv.ParseInt(out.Attributes[string(count)], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("backlog of queue %s: %s: %w", name, count, err)
		}
		sum += n
	}

	return sum, nil
}

// readable refuses a queue whose messages outlive what RedeliveryWindow says:
// dedupe would forget them too early.
func (q *queues) readable(found *queue) error {
	if found.retention <= q.settings.retention {
		return nil
	}

	return fmt.Errorf("%w: queue %s keeps messages for %v, and the broker was opened with retention=%v: "+
		"open it with retention=%v, so that its redelivery window is known", brokers.ErrBadOption,
		found.name, found.retention, q.settings.retention, found.retention)
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }
