// Package brokers_test is what every broker must do alike, run on all of them.
// What they do differently is in their Capabilities, and the tests ask for
// either: the capability where it is declared, its fallback where it is not.
package brokers_test

import (
	"testing"

	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/internal/testenv"
)

func TestMain(m *testing.M) {
	conformance.ConsumerMain(openInProcess)
	testenv.VerifyMain(m)
}
