package sqs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"

	"github.com/headrace-go/headrace/brokers"
)

const (
	// requestTimeout bounds one try of every request but the long poll; the SDK
	// makes three. AWS answers within a second; ElasticMQ (1.6) now and then
	// leaves a request unanswered for ever, which another try gets over.
	requestTimeout = 5 * time.Second
	// settleTimeout is the same for telling SQS what became of a message, whose
	// visibility runs out meanwhile.
	settleTimeout = 3 * time.Second
	// queueTimeout bounds finding or creating a queue on behalf of a call that
	// has no context.
	queueTimeout = 30 * time.Second
)

// client holds the SDK's configuration and the connections of one broker.
type client struct {
	*sqs.Client // for requests of our own

	config    aws.Config
	transport *connections
	settling  func(*sqs.Options) // option of requests that settle a message
}

func newClient(ctx context.Context, s *settings) (*client, error) {
	// A pool that is as wide as many publishers and receivers, and our own, so
	// that Close can close what is idle.
	transport := &connections{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: maxWait + 10*time.Second,
		MaxIdleConns:          512,
		MaxIdleConnsPerHost:   512,
		IdleConnTimeout:       90 * time.Second,
		ForceAttemptHTTP2:     true,
	}}
	c := &client{transport: transport}
	c.config = aws.Config{Region: s.region}
	if s.accessKey != "" {
		c.config.Credentials = aws.NewCredentialsCache(
			credentials.NewStaticCredentialsProvider(s.accessKey, s.secretKey, s.sessionToken))
	} else {
		var options []func(*config.LoadOptions) error
		if s.region != "" {
			options = append(options, config.WithRegion(s.region))
		}
		loaded, err := config.LoadDefaultConfig(ctx, options...)
		if err != nil {
			return nil, fmt.Errorf("AWS configuration: %w", err)
		}
		c.config = loaded
	}
	if c.config.Region == "" {
		return nil, fmt.Errorf("%w: no region; set region, or AWS_REGION in the environment", brokers.ErrBadOption)
	}
	if s.endpoint != "" {
		c.config.BaseEndpoint = aws.String(s.endpoint)
	}
	c.config.HTTPClient = &http.Client{Transport: transport}
	c.Client = sqs.NewFromConfig(c.config, within(transport, requestTimeout))
	c.settling = within(transport, settleTimeout)

	return c, nil
}

// within gives up on a request that isn't answered in time; not for long polls.
func within(transport http.RoundTripper, limit time.Duration) func(*sqs.Options) {
	client := &http.Client{Transport: transport, Timeout: limit}

	return func(o *sqs.Options) { o.HTTPClient = client }
}

// probe returns nil when something answers like SQS, even with a refusal of the
// question: an account need not have the right to list queues.
func (c *client) probe(ctx context.Context) error {
	_, err := c.ListQueues(ctx, &sqs.ListQueuesInput{MaxResults: aws.Int32(1)},
		func(o *sqs.Options) { o.RetryMaxAttempts = 1 })
	if err == nil {
		return nil
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return fmt.Errorf("list queues: %w", err)
	}
	switch api.ErrorCode() {
	case "InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException", "InvalidAccessKeyId",
		"MissingAuthenticationToken", "InvalidSecurity", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature":
		return brokers.Hopeless(fmt.Errorf("credentials refused: %w", err))
	}
	if api.ErrorFault() == smithy.FaultServer {
		return fmt.Errorf("list queues: %w", err)
	}

	return nil
}

func (c *client) close() {
	c.transport.closed.Store(true)
	c.transport.CloseIdleConnections()
}

// connections refuses requests after close: they would open connections that
// nobody closes.
type connections struct {
	*http.Transport

	closed atomic.Bool
}

func (c *connections) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.closed.Load() {
		return nil, brokers.ErrClosed
	}

	return c.Transport.RoundTrip(r) //nolint:wrapcheck // passed through
}
