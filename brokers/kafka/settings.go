package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"github.com/headrace-go/headrace/brokers"
)

const (
	defaultPort = "9092"

	maxPartitions  = 100_000 // beyond what a cluster has in all
	maxReplication = 1000

	// batchOverhead is what a batch adds to its records: a 61 byte header, and
	// room for a compressor that met noise.
	batchOverhead = 512
	// recordRoom is left for a record's key, UUID and a little metadata when a
	// payload limit is derived from the broker's.
	recordRoom = 2048
)

// settings are a URL's options, checked.
type settings struct {
	brokers []string

	create      bool
	partitions  int
	replication int
	retention   time.Duration // 0: the broker's default, or unlimited

	initialOffset  int64
	sessionTimeout time.Duration
	heartbeat      time.Duration
	commitInterval time.Duration
	nackDelay      time.Duration
	nackDelayMax   time.Duration
	drain          time.Duration

	maxBody     int // payload
	maxRecord   int // payload, key and headers, as sarama counts them
	compression sarama.CompressionCodec
	clientID    string

	tls            *tls.Config
	mechanism      sarama.SASLMechanism
	user, password string
}

func readSettings(u *url.URL) (*settings, error) {
	o := brokers.NewOptions(u)
	s := &settings{
		create:         o.Bool("create", true),
		partitions:     o.Int("partitions", 12, 1),
		replication:    o.Int("replication", 0, 1),
		retention:      o.Duration("retention", 0),
		initialOffset:  sarama.OffsetOldest,
		sessionTimeout: o.Duration("session_timeout", 10*time.Second),
		commitInterval: o.Duration("commit_interval", time.Second),
		nackDelay:      o.Duration("nack_delay", 100*time.Millisecond),
		nackDelayMax:   o.Duration("nack_delay_max", 5*time.Second),
		drain:          o.Duration("drain", 10*time.Second),
		maxBody:        o.Int("max_body", 0, 1),
		clientID:       o.String("client_id", "headrace"),
	}
	s.heartbeat = o.Duration("heartbeat", s.sessionTimeout/3)
	if o.OneOf("offset", "oldest", "newest") == "newest" {
		s.initialOffset = sarama.OffsetNewest
	}
	// The option takes the names that sarama's codec itself knows.
	if err := s.compression.UnmarshalText([]byte(o.OneOf("compression", "none", "gzip", "snappy", "lz4", "zstd"))); err != nil {
		s.compression = sarama.CompressionNone // OneOf has reported it
	}
	if s.partitions > maxPartitions {
		o.Fail("partitions", fmt.Sprintf("at most %d", maxPartitions))
	}
	if s.replication > maxReplication {
		o.Fail("replication", fmt.Sprintf("at most %d", maxReplication))
	}
	s.checkTimes(o)
	s.readTLS(o)
	s.readSASL(o, u)
	if err := o.Err(); err != nil {
		return nil, err
	}
	if u.Path != "" && u.Path != "/" {
		return nil, fmt.Errorf("%w: a path after the host; topics are named where they are used", brokers.ErrBadURL)
	}

	return s, s.readBrokers(u.Host)
}

// checkTimes reports what sarama or the broker would refuse later and in other
// words.
func (s *settings) checkTimes(o *brokers.Options) {
	if s.sessionTimeout < time.Second {
		o.Fail("session_timeout", "1s or more")
	}
	if s.heartbeat < time.Millisecond || s.heartbeat >= s.sessionTimeout {
		o.Fail("heartbeat", "more than 0 and shorter than session_timeout")
	}
	if s.commitInterval < time.Millisecond {
		o.Fail("commit_interval", "1ms or more")
	}
	if s.nackDelay < time.Millisecond {
		o.Fail("nack_delay", "1ms or more, or a message that fails would be a hot loop")
	}
	if s.nackDelayMax < s.nackDelay {
		if o.Has("nack_delay_max") {
			o.Fail("nack_delay_max", "nack_delay or more")
		}
		s.nackDelayMax = s.nackDelay
	}
	if o.Has("retention") && s.retention < time.Second {
		o.Fail("retention", "1s or more")
	}
}

func (s *settings) readTLS(o *brokers.Options) {
	ca := o.String("tls_ca", "")
	if !o.Bool("tls", ca != "") {
		return
	}
	s.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if ca == "" {
		return
	}
	pem, err := os.ReadFile(ca) //nolint:gosec // named by whoever configures the program
	if err != nil {
		o.Fail("tls_ca", "a file that can be read")
		return
	}
	s.tls.RootCAs = x509.NewCertPool()
	if !s.tls.RootCAs.AppendCertsFromPEM(pem) {
		o.Fail("tls_ca", "a file of PEM certificates")
	}
}

func (s *settings) readSASL(o *brokers.Options, u *url.URL) {
	s.user = u.User.Username()
	s.password, _ = u.User.Password()
	mechanism := o.OneOf("sasl", "plain", "scram-sha-256", "scram-sha-512")
	switch {
	case s.user == "" && o.Has("sasl"):
		o.Fail("sasl", "accompanied by user:password@ before the host")
	case s.user == "":
	case mechanism == "scram-sha-256":
		s.mechanism = sarama.SASLTypeSCRAMSHA256
	case mechanism == "scram-sha-512":
		s.mechanism = sarama.SASLTypeSCRAMSHA512
	default:
		s.mechanism = sarama.SASLTypePlaintext
	}
}

func (s *settings) readBrokers(hosts string) error {
	for host := range strings.SplitSeq(hosts, ",") {
		if host == "" {
			return fmt.Errorf("%w: it names no broker; write kafka://host:9092", brokers.ErrBadURL)
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
		}
		s.brokers = append(s.brokers, host)
	}

	return nil
}

// adopt fills in what the cluster decides.
func (s *settings) adopt(d clusterDefaults) error {
	if s.replication == 0 {
		s.replication = min(d.brokers, 3)
	}
	if s.retention == 0 {
		s.retention = d.retention
	}
	if d.maxMessage <= batchOverhead+recordRoom {
		return fmt.Errorf("%w: the broker's message.max.bytes of %d leaves no room for a message",
			brokers.ErrBadOption, d.maxMessage)
	}
	s.maxRecord = d.maxMessage - batchOverhead
	if s.maxBody == 0 {
		s.maxBody = s.maxRecord - recordRoom
	}
	if s.maxBody > s.maxRecord {
		return fmt.Errorf("%w: max_body is %d and the broker's message.max.bytes only %d; lower one or raise the other",
			brokers.ErrBadOption, s.maxBody, d.maxMessage)
	}

	return nil
}

// config returns sarama's configuration: common parts, producer and consumer.
func (s *settings) config() *sarama.Config {
	c := sarama.NewConfig()
	// 2.1 is the oldest protocol that Kafka 4 still speaks, so it fits all.
	c.Version = sarama.V2_1_0_0
	c.ClientID = s.clientID
	c.Net.DialTimeout = 5 * time.Second
	// Otherwise a topic could spring up with the broker's number of partitions
	// between our look and our creation.
	c.Metadata.AllowAutoTopicCreation = false
	if s.tls != nil {
		c.Net.TLS.Enable = true
		c.Net.TLS.Config = s.tls
	}
	if s.user != "" {
		c.Net.SASL.Enable = true
		c.Net.SASL.Mechanism = s.mechanism
		c.Net.SASL.User = s.user
		c.Net.SASL.Password = s.password
		c.Net.SASL.SCRAMClientGeneratorFunc = newSCRAM(s.mechanism)
	}

	return c
}

func (s *settings) producerConfig() *sarama.Config {
	c := s.config()
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1 // sarama's condition for idempotence
	c.Producer.Return.Successes = true
	c.Producer.Return.Errors = true
	c.Producer.Partitioner = newPartitioner
	c.Producer.Compression = s.compression
	c.Producer.MaxMessageBytes = s.maxRecord
	c.Producer.Retry.Max = 5
	c.Producer.Retry.Backoff = 200 * time.Millisecond
	// A broker that hangs fails a Publish after Retry.Max of these.
	c.Net.ReadTimeout = 10 * time.Second
	c.Net.WriteTimeout = 10 * time.Second

	return c
}

// rebalanceTimeout is how long a member that joins waits for the others, frozen
// ones too. Shorter than ReadTimeout (30 s): it would give up reading the answer
// before it comes.
const rebalanceTimeout = 25 * time.Second

func (s *settings) consumerConfig() *sarama.Config {
	c := s.config()
	c.Consumer.Offsets.Initial = s.initialOffset
	c.Consumer.Offsets.AutoCommit.Enable = true
	c.Consumer.Offsets.AutoCommit.Interval = s.commitInterval
	c.Consumer.Group.Session.Timeout = s.sessionTimeout
	c.Consumer.Group.Heartbeat.Interval = s.heartbeat
	c.Consumer.Group.Rebalance.Timeout = rebalanceTimeout
	c.Consumer.IsolationLevel = sarama.ReadCommitted // aborted messages were never sent
	c.Consumer.Return.Errors = true

	return c
}
