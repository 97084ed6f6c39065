// Package kafka opens Apache Kafka (2.1 and later) as a broker, on
// watermill-kafka's publisher and subscriber.
//
//	kafka://host:9092?group=stock
//	kafka://host1:9092,host2:9092?tls=true&sasl=scram-sha-512   (with user:password@)
//
// Options, with their defaults:
//
//	group              consumer group; required to subscribe
//	connect_timeout    how long Open keeps trying (10s)
//	create             whether to make topics that don't exist, at the first Publish or
//	                   Subscribe (true)
//	partitions         of topics created here (12); messages in flight at once
//	                   over all of a group's consumers
//	replication        of topics created here (the number of brokers, 3 at most)
//	retention          of topics created here (the broker's own default), and
//	                   what RedeliveryWindow says
//	offset             where a group without committed offsets starts: oldest or
//	                   newest (oldest)
//	session_timeout    after which the broker gives a dead consumer's partitions
//	                   to others (10s); at least the broker's
//	                   group.min.session.timeout.ms
//	heartbeat          sent by a live consumer (a third of session_timeout)
//	commit_interval    between commits of what was acked (1s); what was acked
//	                   since is delivered again after a crash
//	nack_delay         before a nacked message comes again (100ms), doubled with
//	                   each nack in a row up to
//	nack_delay_max     (5s)
//	drain              how long a handler may go on when its subscriber closes or
//	                   its partition is taken away, before its context is
//	                   cancelled (10s)
//	max_body           greatest payload in bytes (what the broker's
//	                   message.max.bytes leaves)
//	compression        none, gzip, snappy, lz4 or zstd (none)
//	client_id          shown in the broker's logs and quotas (headrace)
//	tls                encrypt (false); tls_ca names a PEM file of authorities
//	sasl               plain, scram-sha-256 or scram-sha-512, with user and
//	                   password in the URL (plain when there is a user)
//
// A message's key (msgmeta.Key) is the record's key, and lands in the partition
// where Java's clients put it. Publishing waits for all in-sync replicas, is
// idempotent within the process, and is meant to be called by many goroutines:
// records in flight together share requests.
//
// A subscription has one message in flight per partition: a message that is
// nacked comes again in place, so its partition waits for it. A message that
// was acked while its partition was being taken away still counts as acked.
package kafka

import (
	"context"
	"fmt"
	"net"
	"net/url"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
)

// Open is the brokers.Opener of the scheme kafka.
func Open(ctx context.Context, u *url.URL, cfg brokers.Config) (*brokers.Backend, error) {
	s, err := readSettings(u)
	if err != nil {
		return nil, err
	}

	var defaults clusterDefaults
	if err := brokers.Connect(ctx, u, cfg, func(ctx context.Context) error {
		if err := dialAny(ctx, s.brokers); err != nil {
			return err
		}
		defaults, err = readClusterDefaults(s)

		return err
	}); err != nil {
		return nil, err
	}
	if err := s.adopt(defaults); err != nil {
		return nil, err
	}

	t := newTopics(s, cfg.Logger)
	pub, err := newPublisher(s, t, cfg.Logger)
	if err != nil {
		return nil, err
	}

	capabilities := brokers.Capabilities{
		Name:             "kafka",
		Groups:           true,
		KeyOrder:         true,
		Durable:          true,
		MaxBody:          s.maxBody,
		Takeover:         max(s.sessionTimeout, rebalanceTimeout),
		RedeliveryWindow: s.retention,
		Backlog:          t.backlog,
	}
	capabilities.Topic = func(_ context.Context, topic string) (brokers.Capabilities, error) {
		return t.limit(capabilities, topic)
	}

	return &brokers.Backend{
		Publisher: pub,
		Subscribe: func(group string) (message.Subscriber, error) {
			return newSubscriber(s, t, group, cfg.Logger), nil
		},
		Check:        s.check,
		DeleteTopic:  t.remove,
		Capabilities: capabilities,
	}, nil
}

// dialAny makes sure that one broker accepts connections. Sarama's own dialling
// can't be cancelled, and its error doesn't say why.
func dialAny(ctx context.Context, addresses []string) error {
	var dialer net.Dialer
	var last error
	for _, address := range addresses {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			_ = conn.Close() // nothing was written

			return nil
		}
		last = err
	}

	return fmt.Errorf("none of %d brokers accepts connections: %w", len(addresses), last)
}

// check refuses what no topic or record can be.
func (s *settings) check(topic string, msg *message.Message) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	record, err := Marshaler{}.Marshal(topic, msg)
	if err != nil {
		return err
	}
	const recordVersion = 2
	if size := record.ByteSize(recordVersion); size > s.maxRecord {
		return fmt.Errorf("%w: with key and metadata it has %d bytes and the limit is %d; "+
			"send a reference to the data instead, or raise message.max.bytes", brokers.ErrTooLarge, size, s.maxRecord)
	}

	return nil
}

// maxTopicName is Kafka's own limit on a topic's name, in characters.
const maxTopicName = 249

func checkTopic(topic string) error {
	if topic == "" || topic == "." || topic == ".." || len(topic) > maxTopicName {
		return fmt.Errorf("%w: %.260q; a name has 1 to %d characters and is neither '.' nor '..' itself",
			brokers.ErrTopic, topic, maxTopicName)
	}
	for _, c := range []byte(topic) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("%w: %.260q; Kafka takes letters, digits, '.', '_' and '-'", brokers.ErrTopic, topic)
		}
	}

	return nil
}
