package testenv

import (
	"net/http"
	"testing"

	"go.uber.org/goleak"
)

// VerifyMain runs a package's tests and fails when they leave goroutines behind.
// It is the whole body of a package's TestMain and exits the process:
//
//	func TestMain(m *testing.M) { testenv.VerifyMain(m) }
//
// A package that uses a library with goroutines it can't end adds options, each
// with the reason.
func VerifyMain(m *testing.M, options ...goleak.Option) {
	options = append(options,
		// sarama (under watermill-kafka) measures through this package, which
		// starts one goroutine for the whole process and has no way to end it.
		goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"),
	)
	goleak.VerifyTestMain(idleConnectionsClosed{m}, options...)
}

// idleConnectionsClosed closes what the default HTTP client keeps open for
// re-use after the tests: each such connection holds two goroutines.
type idleConnectionsClosed struct{ m *testing.M }

func (tests idleConnectionsClosed) Run() int {
	code := tests.m.Run()
	http.DefaultClient.CloseIdleConnections()

	return code
}
