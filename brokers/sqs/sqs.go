// Package sqs opens Amazon SQS, or anything that speaks its protocol, as a
// broker, on watermill-aws' publisher and subscriber.
//
//	sqs:?region=eu-west-1&group=stock                      AWS, with the usual chain of credentials
//	sqs:?region=eu-west-1&group=stock&fifo=true            FIFO queues: order per key
//	sqs://localhost:9324?region=eu-west-1&access_key=x&secret_key=x     another endpoint
//
// Options, with their defaults:
//
//	group            the service that reads the queue; required to subscribe
//	connect_timeout  how long Open keeps trying (10s)
//	region           of AWS (AWS_REGION); required with access_key
//	access_key, secret_key, session_token
//	                 credentials (the SDK's chain: environment, profile, role)
//	scheme           of the endpoint in the URL: http or https (http on the
//	                 local host, https elsewhere)
//	fifo             FIFO queues (false)
//	create           whether to make queues that don't exist, at the first Publish or
//	                 Subscribe (true)
//	visibility       how long a handler may hold a message before another copy
//	                 of it is delivered (30s); whole seconds
//	wait             of a long poll (20s, the most, on AWS, where requests cost;
//	                 1s elsewhere); whole seconds. Close lets polls of 1s or 2s
//	                 end and cuts off longer ones; what a server hands to one that
//	                 was cut off comes again after its visibility timeout
//	receivers        parallel receivers per subscription, and so the messages in
//	                 flight (8)
//	nack_delay       before a nacked message comes again (100ms), doubled with
//	                 each delivery of it up to
//	nack_delay_max   (1m); from 1s on rounded up to whole seconds
//	drain            how long Close waits for handlers before their contexts are
//	                 cancelled (10s)
//	retention        of queues created here, and the most that a queue may have
//	                 that is read (96h); whole seconds
//	max_message      greatest message in bytes, counted as SQS does: body plus
//	                 names, types and values of attributes (262144; AWS takes up
//	                 to 1048576 where the queue's MaximumMessageSize says so)
//	max_body         greatest payload in bytes (what max_message leaves); one
//	                 that isn't text is sent as base64, a third longer
//	claim            record the reading group in a tag of the queue (true)
//
// # Topics
//
// A topic's queue has the topic's name, with ".fifo" where fifo=true. SQS takes
// letters, digits, '-' and '_' only, and 80 characters: QueueName says what other
// topics' queues are called.
//
// # Groups
//
// SQS has no consumer groups: each message goes to one reader. A second group on
// one queue would take the first one's messages, so it is refused
// (brokers.ErrOneGroup), across processes too: the first group's name is kept in
// a tag of the queue. Until fan-out through SNS exists here, give each service a
// queue of its own.
//
// # Order and repeats
//
// A FIFO queue orders by message group: a message's key (msgmeta.Key) is its
// group, and a message without one is a group of its own. SQS accepts and drops
// a message whose deduplication id it has seen within five minutes, even when
// the first copy was handled and deleted since. The id is therefore not the UUID
// but UUID and msgmeta.SendID together: a relay that repeats a sending after a
// crash (same SendID) sends nothing twice, and the same message sent again on
// purpose (another SendID, or none) always arrives. Without a SendID each
// Publish counts as a sending of its own; the SDK's own retries within it don't
// double.
//
// A standard queue promises no order.
package sqs

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
)

// attributeRoom is left for UUID, key and a little metadata when the greatest
// payload is derived from the greatest message.
const attributeRoom = 1024

// dedupInterval is for how long FIFO queues know deduplication ids; it can't be
// set.
const dedupInterval = 5 * time.Minute

// Open is the brokers.Opener of the scheme sqs.
func Open(ctx context.Context, u *url.URL, cfg brokers.Config) (*brokers.Backend, error) {
	s, err := readSettings(u)
	if err != nil {
		return nil, err
	}
	c, err := newClient(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := brokers.Connect(ctx, u, cfg, c.probe); err != nil {
		c.close()
		return nil, err
	}

	logger := quietLogger{cfg.Logger}
	q := newQueues(s, c, logger)
	pub, err := newPublisher(s, c, q, logger)
	if err != nil {
		c.close()
		return nil, err
	}
	name, sendDedup := "sqs", time.Duration(0)
	if s.fifo {
		name, sendDedup = "sqs-fifo", dedupInterval
	}

	return &brokers.Backend{
		Publisher: pub,
		Subscribe: func(group string) (message.Subscriber, error) {
			return newSubscriber(s, c, q, group, logger), nil
		},
		Check:       s.check,
		DeleteTopic: q.remove,
		Close: func() error {
			c.close()
			return nil
		},
		Capabilities: brokers.Capabilities{
			Name:             name,
			KeyOrder:         s.fifo,
			Lanes:            s.receivers > 1,
			Durable:          true,
			NilPayload:       true,
			MaxBody:          s.maxBody,
			AckDeadline:      s.visibility,
			Takeover:         s.visibility,
			RedeliveryWindow: s.retention,
			SendDedup:        sendDedup,
			Backlog:          q.backlog,
		},
	}, nil
}

// check refuses what is too large for any queue opened with these settings.
func (s *settings) check(_ string, msg *message.Message) error {
	return checkSize(msg, s.maxMessage)
}

func checkSize(msg *message.Message, limit int) error {
	if size := encode(msg).size(); size > limit {
		return fmt.Errorf("%w: as SQS counts it has %d bytes (bytes that are not text are sent as base64) "+
			"and the limit is %d; send a reference to the data instead, or raise max_message", brokers.ErrTooLarge, size, limit)
	}

	return nil
}
