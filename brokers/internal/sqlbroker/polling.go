package sqlbroker

import (
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"

	"github.com/headrace-go/headrace/brokers/internal/sqljoin"
)

// Waits after an error; they double from the first to the last.
const (
	retryFirst   = 50 * time.Millisecond
	retryLongest = 2 * time.Second
)

// polling says how long to wait between two reads: ever longer while there is
// nothing to do. One subscriber calls it from one goroutine.
type polling struct {
	*subscription

	idle   time.Duration
	failed time.Duration
}

func (s *subscription) newBackoff() wsql.BackoffManager { return &polling{subscription: s} }

// HandleError implements wsql.BackoffManager.
func (p *polling) HandleError(_ watermill.LoggerAdapter, nothing bool, err error) time.Duration {
	switch {
	case errors.Is(err, sqljoin.ErrBusy):
		// Whoever is at work gives the turn away after each message.
		return p.Poll
	case err != nil && !errors.Is(err, sqljoin.ErrNothing):
		p.failed = min(max(2*p.failed, retryFirst), retryLongest)
		fields := p.fields()
		fields["wait"] = p.failed.String()
		p.Logger.Error("could not read messages; trying again", err, fields)

		return p.failed
	case nothing || err != nil:
		p.failed = 0
		p.idle = min(max(2*p.idle, p.Poll), p.PollMax)

		return p.idle
	default:
		p.failed, p.idle = 0, 0

		return 0
	}
}

// errorLogger passes on errors only: what else watermill-sql logs holds the
// arguments of its statements, payloads among them.
type errorLogger struct{ inner watermill.LoggerAdapter }

func (l errorLogger) Error(msg string, err error, fields watermill.LogFields) {
	l.inner.Error("watermill-sql: "+msg, err, fields)
}

func (errorLogger) Info(string, watermill.LogFields)  {}
func (errorLogger) Debug(string, watermill.LogFields) {}
func (errorLogger) Trace(string, watermill.LogFields) {}

func (l errorLogger) With(fields watermill.LogFields) watermill.LoggerAdapter {
	return errorLogger{l.inner.With(fields)}
}
