package brokers_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

// fake is a broker that keeps what it is given.
type fake struct {
	sent   []*message.Message
	groups []string
	fail   error
	closed int
}

func (f *fake) Publish(_ string, messages ...*message.Message) error {
	f.sent = append(f.sent, messages...)

	return f.fail
}

func (f *fake) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return make(chan *message.Message), nil
}

func (f *fake) Close() error {
	f.closed++

	return nil
}

func (f *fake) opener(t *testing.T) brokers.Opener {
	t.Helper()

	return func(_ context.Context, u *url.URL, cfg brokers.Config) (*brokers.Backend, error) {
		require.NotNil(t, cfg.Logger)
		o := brokers.NewOptions(u)
		_ = o.Int("workers", 1, 1)
		_ = o.Duration("poll", time.Second)
		_ = o.Bool("join", false)
		_ = o.OneOf("acks", "all", "one")
		_ = o.String("secret_key", "")
		if err := o.Err(); err != nil {
			return nil, err
		}
		if f.fail != nil {
			return nil, f.fail
		}

		return &brokers.Backend{
			Publisher:    f,
			Capabilities: brokers.Capabilities{Name: "fake", MaxBody: 10},
			Subscribe: func(group string) (message.Subscriber, error) {
				f.groups = append(f.groups, group)

				return f, nil
			},
			Check: func(topic string, msg *message.Message) error {
				if topic == "odd" {
					return brokers.ErrTopic
				}

				return brokers.CheckUTF8(msg)
			},
		}, nil
	}
}

func openFake(t *testing.T, f *fake, rawURL string, cfg brokers.Config) (*brokers.Broker, error) {
	t.Helper()
	cfg.Openers = map[string]brokers.Opener{"fake": f.opener(t), "other": f.opener(t)}

	return brokers.Open(t.Context(), rawURL, cfg)
}

func TestOpenNamesCauseAndWayOut(t *testing.T) {
	t.Parallel()

	for name, c := range map[string]struct {
		url  string
		is   error
		says []string
	}{
		"empty":          {"", brokers.ErrBadURL, []string{"no scheme"}},
		"no scheme":      {"localhost/x", brokers.ErrBadURL, []string{"no scheme"}},
		"address":        {"127.0.0.1:9092", brokers.ErrBadURL, []string{"no scheme"}},
		"unknown scheme": {"amqp://h", brokers.ErrUnknownScheme, []string{`"amqp"`, "fake, other"}},
		"unknown option": {"fake://h?wrokers=1", brokers.ErrBadOption, []string{
			`"wrokers"`, "known options are acks, connect_timeout, group, join, poll, secret_key, workers",
		}},
		"all options at once": {"fake://h?nope=1&workers=x", brokers.ErrBadOption, []string{
			`"nope"`, "workers must be a whole number of at least 1", `is "x"`,
		}},
		"number too small":      {"fake://h?workers=0", brokers.ErrBadOption, []string{"at least 1"}},
		"bad duration":          {"fake://h?poll=5", brokers.ErrBadOption, []string{"a duration such as"}},
		"negative duration":     {"fake://h?poll=-5s", brokers.ErrBadOption, []string{"a duration such as"}},
		"bad bool":              {"fake://h?join=maybe", brokers.ErrBadOption, []string{"true or false"}},
		"not one of":            {"fake://h?acks=none", brokers.ErrBadOption, []string{"one of all, one"}},
		"twice":                 {"fake://h?workers=1&workers=2", brokers.ErrBadOption, []string{"given 2 times"}},
		"bad connect_timeout":   {"fake://h?connect_timeout=soon", brokers.ErrBadOption, []string{"connect_timeout"}},
		"options with ;":        {"fake://h?a=1;b=2", brokers.ErrBadURL, []string{"options can't be parsed"}},
		"two groups":            {"fake://h?group=billing", brokers.ErrBadOption, []string{`"billing"`, `"stock"`, "keep one"}},
		"control character":     {"fake://h\x00", brokers.ErrBadURL, []string{"control character"}},
		"bad escape in options": {"fake://h?a=%zz", brokers.ErrBadURL, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := openFake(t, &fake{}, c.url, brokers.Config{Group: "stock"})
			require.Nil(t, b)
			require.ErrorIs(t, err, c.is)
			for _, text := range c.says {
				require.ErrorContains(t, err, text)
			}
		})
	}
}

func TestNoSecretLeavesOpen(t *testing.T) {
	t.Parallel()

	for _, rawURL := range []string{
		"fake://user:hunter2pw@h/db?nope=1",
		"fake://user:hunter2pw@h:port/db",      // bad port
		"fake://user:hunter2pw/x@h/db",         // '/' in the password: what follows becomes the path
		"fake://user:12/hunter2pw@h/db",        // the same, with a port that parses
		"fake://user:12?hunter2pw@h/db",        // '?': the rest becomes an option's name
		"fake://user:12#hunter2pw@h/db",        // '#'
		"fake://user:hunter2pw%zz@h/db",        // bad escape
		"fake://user:hunter2pw@@h/db?nope=1",   // "@"
		"fake://user:hunter 2pw@h/db",          // space
		"fake://user:[hunter2pw@h/db",          // bracket
		"fake://h?secret_key=hunter2pw&nope=1", // secret option
		"fake://h?secret_key=hunter2pw&secret_key=hunter2pw",
		"amqp://user:hunter2pw@h/db",
		"fake://user:hunter2pw@h/db\x7f",
		"fake:user:hunter2pw@h",
	} {
		_, err := openFake(t, &fake{}, rawURL, brokers.Config{})
		require.Error(t, err, rawURL)
		require.NotContains(t, err.Error(), "hunter2pw", rawURL)
		require.NotContains(t, err.Error(), "2pw", rawURL)
	}
}

func TestSecretsOfDriverErrorsAreRedactedAndStillMatch(t *testing.T) {
	t.Parallel()

	for secret, text := range map[string]string{
		"hunter2pw":   "password hunter2pw is wrong for hunter2pw",
		"p@ss w%rd":   `dsn u:p%40ss%20w%25rd@h, p%40ss+w%25rd, "p@ss w%rd"`,
		`quo"te\d`:    fmt.Sprintf("%q", `quo"te\d`),
		"x":           "key x in max is extra",
		"longer-than": "longer-than",
	} {
		f := &fake{fail: fmt.Errorf("driver: %s: %w", text, driver.ErrBadConn)}
		target := url.URL{Scheme: "fake", User: url.UserPassword("user", secret), Host: "host"}
		_, err := openFake(t, f, target.String(), brokers.Config{})
		require.ErrorIs(t, err, driver.ErrBadConn)
		require.ErrorContains(t, err, "fake://host")
		require.ErrorContains(t, err, "xxxxx")
		rest := strings.ReplaceAll(err.Error(), "max is extra", "")
		for _, form := range []string{secret, url.PathEscape(secret), url.QueryEscape(secret)} {
			require.NotContains(t, strings.ReplaceAll(rest, "xxxxx", ""), form)
		}
	}
}

func TestLoggerIsRedacted(t *testing.T) {
	t.Parallel()

	logger := watermill.NewCaptureLogger()
	opener := func(_ context.Context, _ *url.URL, cfg brokers.Config) (*brokers.Backend, error) {
		secretErr := errors.New("hunter2pw")
		fields := watermill.LogFields{"s": "hunter2pw", "e": secretErr, "n": 5, "v": []string{"hunter2pw"}}
		cfg.Logger.Info("hunter2pw", fields)
		cfg.Logger.With(fields).Error("hunter2pw", secretErr, fields)

		return nil, errors.New("done")
	}
	_, err := brokers.Open(t.Context(), "fake://u:hunter2pw@h",
		brokers.Config{Openers: map[string]brokers.Opener{"fake": opener}, Logger: logger})
	require.EqualError(t, err, "brokers: fake://h: done")
	require.NotEmpty(t, logger.Captured())
	require.NotContains(t, fmt.Sprintf("%+v", logger.Captured()), "hunter2pw")
}

func TestUnreachable(t *testing.T) {
	t.Parallel()

	refused := errors.New("connection refused for hunter2pw")
	open := func(try func(context.Context) error) error {
		opener := func(ctx context.Context, u *url.URL, cfg brokers.Config) (*brokers.Backend, error) {
			return nil, brokers.Connect(ctx, u, cfg, try)
		}
		_, err := brokers.Open(t.Context(), "fake://u:hunter2pw@h:1/db?connect_timeout=200ms",
			brokers.Config{Openers: map[string]brokers.Opener{"fake": opener}})

		return err
	}

	attempts := 0
	err := open(func(context.Context) error { attempts++; return refused })
	var unreachable *brokers.UnreachableError
	require.ErrorAs(t, err, &unreachable)
	require.ErrorIs(t, err, brokers.ErrUnreachable)
	require.ErrorIs(t, err, refused)
	require.Equal(t, "fake://h:1/db", unreachable.Broker)
	require.Greater(t, attempts, 1)
	require.Equal(t, attempts, unreachable.Attempts)
	require.GreaterOrEqual(t, unreachable.Tried, 200*time.Millisecond)
	require.Contains(t, err.Error(), "tried for 2")
	require.NotContains(t, err.Error()+unreachable.Error(), "hunter2pw")

	attempts = 0
	err = open(func(context.Context) error { attempts++; return brokers.Hopeless(refused) })
	require.ErrorIs(t, err, brokers.ErrUnreachable)
	require.Equal(t, 1, attempts, "a hopeless error is not tried again")

	err = open(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	require.ErrorIs(t, err, context.DeadlineExceeded, "each attempt ends with the time to connect")
}

func TestPublisherRefusesBeforeItSends(t *testing.T) {
	t.Parallel()

	f := &fake{}
	b, err := openFake(t, f, "fake://h", brokers.Config{})
	require.NoError(t, err)
	good := message.NewMessage("1", []byte("x"))
	bytes := message.NewMessage("2", nil)
	bytes.Metadata.Set("n", "\xff")

	for want, bad := range map[error]*message.Message{
		brokers.ErrNoUUID:     message.NewMessage("", nil),
		brokers.ErrTooLarge:   message.NewMessage("3", make([]byte, 11)),
		brokers.ErrMetadata:   bytes,
		brokers.ErrBadUUID:    message.NewMessage("\xff", nil),
		brokers.ErrNilMessage: nil,
	} {
		err := b.Publisher.Publish("t", good, bad)
		var refused *brokers.RefusedError
		require.ErrorAs(t, err, &refused)
		require.ErrorIs(t, err, want)
		require.Equal(t, 1, refused.Index)
		require.Equal(t, "t", refused.Topic)
	}
	require.ErrorIs(t, b.Publisher.Publish("odd", good), brokers.ErrTopic)
	require.ErrorIs(t, b.Publisher.Publish("", good), brokers.ErrTopic)
	require.NoError(t, b.Publisher.Publish("t"))
	require.Empty(t, f.sent)

	require.NoError(t, b.Publisher.Publish("t", good, good))
	require.Len(t, f.sent, 2)
}

func TestGroups(t *testing.T) {
	t.Parallel()

	f := &fake{}
	b, err := openFake(t, f, "fake://h", brokers.Config{})
	require.NoError(t, err)
	_, err = b.Subscriber.Subscribe(t.Context(), "t")
	require.ErrorIs(t, err, brokers.ErrNoGroup)
	_, err = b.SubscriberFor("")
	require.ErrorIs(t, err, brokers.ErrNoGroup)
	_, err = b.SubscriberFor("own")
	require.NoError(t, err)

	_, err = openFake(t, f, "fake://h?group=url", brokers.Config{})
	require.NoError(t, err)
	_, err = openFake(t, f, "fake://h?group=same", brokers.Config{Group: "same"})
	require.NoError(t, err)
	require.Equal(t, []string{"own", "url", "same"}, f.groups)

	require.NoError(t, b.Publisher.Close(), "closing the publisher closes nothing")
	require.Zero(t, f.closed)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	require.Equal(t, 2, f.closed, "one subscriber, one publisher")
	_, err = b.SubscriberFor("late")
	require.ErrorIs(t, err, brokers.ErrClosed)
}
