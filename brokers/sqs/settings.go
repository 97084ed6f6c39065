package sqs

import (
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/headrace-go/headrace/brokers"
)

// SQS's own limits.
const (
	maxVisibility = 12 * time.Hour
	maxWait       = 20 * time.Second
	minRetention  = time.Minute
	maxRetention  = 14 * 24 * time.Hour
	minMessage    = 4 * attributeRoom
	maxMessage    = 1 << 20
)

// settings are a URL's options, checked.
type settings struct {
	endpoint                           string // "" is AWS
	region                             string
	accessKey, secretKey, sessionToken string

	fifo         bool
	create       bool
	claim        bool
	visibility   time.Duration
	wait         time.Duration
	receivers    int
	nackDelay    time.Duration
	nackDelayMax time.Duration
	drain        time.Duration
	retention    time.Duration
	maxMessage   int // bytes, body and attributes
	maxBody      int // bytes, payload
}

func readSettings(u *url.URL) (*settings, error) {
	o := brokers.NewOptions(u)
	s := &settings{
		region:       o.String("region", ""),
		accessKey:    o.String("access_key", ""),
		secretKey:    o.String("secret_key", ""),
		sessionToken: o.String("session_token", ""),
		fifo:         o.Bool("fifo", false),
		create:       o.Bool("create", true),
		claim:        o.Bool("claim", true),
		visibility:   o.Duration("visibility", 30*time.Second),
		receivers:    o.Int("receivers", 8, 1),
		nackDelay:    o.Duration("nack_delay", 100*time.Millisecond),
		nackDelayMax: o.Duration("nack_delay_max", time.Minute),
		drain:        o.Duration("drain", 10*time.Second),
		retention:    o.Duration("retention", 4*24*time.Hour),
		maxMessage:   o.Int("max_message", 256<<10, minMessage),
	}
	s.maxBody = o.Int("max_body", s.maxMessage-attributeRoom, 1)
	s.readEndpoint(o, u)
	s.wait = maxWait
	if s.endpoint != "" {
		s.wait = time.Second
	}
	s.wait = o.Duration("wait", s.wait)
	s.checkTimes(o)
	if s.maxMessage > maxMessage {
		o.Fail("max_message", fmt.Sprintf("at most %d", maxMessage))
	}
	if s.maxBody > s.maxMessage {
		o.Fail("max_body", "at most max_message")
	}
	if (s.accessKey == "") != (s.secretKey == "") {
		o.Fail("access_key", "given together with secret_key")
	}
	if s.accessKey != "" && s.region == "" {
		o.Fail("region", "given together with access_key")
	}
	if err := o.Err(); err != nil {
		return nil, err
	}
	if u.User != nil || u.Opaque != "" || (u.Path != "" && u.Path != "/") {
		return nil, fmt.Errorf("%w: sqs takes a host at most; credentials are access_key and secret_key, "+
			"queues are named where they are used", brokers.ErrBadURL)
	}

	return s, nil
}

func (s *settings) readEndpoint(o *brokers.Options, u *url.URL) {
	local := u.Hostname() == "localhost"
	if ip := net.ParseIP(u.Hostname()); ip != nil {
		local = ip.IsLoopback()
	}
	scheme := o.OneOf("scheme", "https", "http")
	if local && !o.Has("scheme") {
		scheme = "http"
	}
	if u.Host != "" {
		s.endpoint = (&url.URL{Scheme: scheme, Host: u.Host}).String()
	}
}

func (s *settings) checkTimes(o *brokers.Options) {
	seconds := func(name string, d, least, most time.Duration) {
		if d%time.Second != 0 || d < least || d > most {
			o.Fail(name, fmt.Sprintf("whole seconds from %v to %v", least, most))
		}
	}
	seconds("visibility", s.visibility, time.Second, maxVisibility)
	seconds("wait", s.wait, time.Second, maxWait)
	seconds("retention", s.retention, minRetention, maxRetention)
	if s.nackDelay < time.Millisecond {
		o.Fail("nack_delay", "1ms or more, or a message that fails would be a hot loop")
	}
	if s.nackDelayMax < s.nackDelay || s.nackDelayMax > maxVisibility {
		o.Fail("nack_delay_max", fmt.Sprintf("from nack_delay to %v", maxVisibility))
	}
}
