package effects

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/ratelimiter"
	"github.com/google/uuid"

	"github.com/headrace-go/headrace/internal/limits"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// Provider says what the other side of the calls can do, and how often it is
// called.
type Provider struct {
	// Name is stored with every effect. Required.
	Name string
	// Keys says that of several calls with one idempotency key the provider lets one
	// take effect, and answers the others as it did the first.
	Keys bool
	// KeysFor is how long it remembers keys. Default 0: for ever. It must be longer
	// than ClaimTTL.
	KeysFor time.Duration
	// Conditional says that every call names the version of the state that it is based on
	// (If-Match), of which the provider lets one call at most take effect: it may be made
	// again after a crash or a timeout. A refusal as a conflict (409, 412) is believed
	// then, though it may have been the call before that changed the version: compare the
	// current state with what was wanted, as Reconcile does.
	Conditional bool
	// Lookup asks what became of a call. found is false where nothing is known of it;
	// an error leaves it open.
	Lookup func(ctx context.Context, key string, request []byte) (response Response, found bool, err error)
	// Settle is how long after the last call "not found" is not believed: the call may
	// still be under way. Default twice Timeout, which is the least.
	Settle time.Duration
	// Timeout bounds a call and a look-up. Default 30 s. A call that ignores its
	// context is left behind.
	Timeout time.Duration
	// Limit bounds this process's calls. Default: no limit.
	Limit Rate
	// Breaker leaves the provider alone for a while when calls fail in a row. Default:
	// it never does.
	Breaker Breaker
}

// Rate is a number of calls a second, of which Burst may come at once (default 1).
type Rate = limits.Rate

// Breaker opens for Open (default 30 s) after Failures failed calls in a row.
type Breaker = limits.Breaker

// Config says how a client works. Provider is required.
type Config struct {
	Provider Provider
	// ClaimTTL is how long other instances wait for one that died in mid-call. It must
	// be 10 s longer than Timeout. Default 1 min, or that.
	ClaimTTL time.Duration

	// Service is the first part of the name by which Stage's consumers are known to
	// Dedupe, as in its configuration; Consumer is all of it. One is required for Stage.
	Service, Consumer string
	// Identity returns a message's identity, as DedupeConfig's. Default: its UUID.
	Identity func(msg *message.Message) (string, error)
	// TTL returns when a message is of no use any more, as DedupeConfig's. Default: the
	// metadata entry msgmeta.Expires.
	TTL func(msg *message.Message) (expires time.Time, ok bool, err error)
	// Logger gets what can't be returned. Default: none.
	Logger watermill.LoggerAdapter
}

const claimMargin = 10 * time.Second

func (c Config) withDefaults() Config {
	p := &c.Provider
	if p.Timeout == 0 {
		p.Timeout = 30 * time.Second
	}
	if p.Settle == 0 {
		p.Settle = 2 * p.Timeout
	}
	if c.ClaimTTL == 0 {
		c.ClaimTTL = max(time.Minute, p.Timeout+claimMargin)
	}
	if c.Identity == nil {
		c.Identity = func(msg *message.Message) (string, error) { return msg.UUID, nil }
	}
	if c.TTL == nil {
		c.TTL = msgmeta.GetExpires
	}
	if c.Logger == nil {
		c.Logger = watermill.NopLogger{}
	}
	return c
}

func (c Config) validate() error {
	p := c.Provider
	switch {
	case p.Name == "":
		return errors.New("effects: Provider.Name is empty")
	case p.Timeout < 0 || p.KeysFor < 0 || !p.Limit.Valid() || p.Breaker.Open < 0:
		return errors.New("effects: Provider's numbers must be finite, and not negative")
	case p.KeysFor > 0 && p.KeysFor <= c.ClaimTTL:
		return fmt.Errorf("effects: Provider.KeysFor (%s) must be longer than ClaimTTL (%s)", p.KeysFor, c.ClaimTTL)
	case p.Settle < 2*p.Timeout:
		return fmt.Errorf("effects: Provider.Settle (%s) must be at least twice Timeout (%s)", p.Settle, p.Timeout)
	case c.ClaimTTL < p.Timeout+claimMargin:
		return fmt.Errorf("effects: Config.ClaimTTL (%s) must be %s longer than Provider.Timeout (%s): raise the one or lower "+
			"the other", c.ClaimTTL, claimMargin, p.Timeout)
	}
	return nil
}

// Client calls one provider. It is safe for concurrent use.
type Client struct {
	store   *store.Store
	cfg     Config
	owner   string
	limiter ratelimiter.RateLimiter[any]
	breaker circuitbreaker.CircuitBreaker[any]
}

// New returns a client. Errors are those of the configuration.
func New(st *store.Store, cfg Config) (*Client, error) {
	if st == nil {
		return nil, errors.New("effects: New needs a store")
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Client{
		store: st, cfg: cfg, owner: "effects-" + uuid.NewString(),
		limiter: cfg.Provider.Limit.Limiter(), breaker: cfg.Provider.Breaker.New(),
	}, nil
}

// Call makes one call. key is the idempotency key, of visible ASCII characters. It
// returns an error marked by Refused or NotDone where it knows that nothing has
// happened; any other error leaves that open.
type Call func(ctx context.Context, key string, request []byte) (Response, error)

// Response is what a provider has answered. Its contents are stored.
type Response struct {
	Code int
	Meta map[string]string
	Body []byte
	// Truncated says that Body is only the beginning: at most store.MaxEffectContent
	// bytes are kept.
	Truncated bool
	// Repeated says that it is the stored response of an earlier call.
	Repeated bool
}

type clientKey struct{}

// With returns a context whose calls Do makes by the client.
func With(ctx context.Context, c *Client) context.Context {
	return context.WithValue(ctx, clientKey{}, c)
}

// Do is Client.Do with the context's client.
func Do(ctx context.Context, scope, key string, request []byte, call Call) (Response, error) {
	c, ok := ctx.Value(clientKey{}).(*Client)
	if !ok {
		return Response{}, errors.New("effects: the context carries no client: use effects.With, or Client.Do")
	}
	return c.Do(ctx, scope, key, request, call)
}
