package brokers_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill"
)

// testLogger puts what a broker logs where a failed test shows it. Everything is
// closed before the test ends, so nothing is logged after it.
type testLogger struct{ t testing.TB }

func (l testLogger) Error(msg string, err error, fields watermill.LogFields) {
	l.t.Logf("error: %s: %v %v", msg, err, fields)
}

func (l testLogger) Info(msg string, fields watermill.LogFields) {
	l.t.Logf("info: %s %v", msg, fields)
}

func (testLogger) Debug(string, watermill.LogFields) {}
func (testLogger) Trace(string, watermill.LogFields) {}

func (l testLogger) With(watermill.LogFields) watermill.LoggerAdapter { return l }
