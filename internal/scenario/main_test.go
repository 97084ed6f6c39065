// Package scenario plays the scenarios that Headrace must survive, on real
// brokers and databases. A test is named after its scenario (TestS10_…); its
// subtests are <broker>/<database>/protected and …/unprotected. The second plays
// the very same scenario with the protecting feature switched off, and asserts
// that the check which the first one passes reports damage: a check that can't
// fail proves nothing.
//
// The other tests here are about parts working together: two services on one
// database, Watermill's own middlewares, several forwarders, content that
// brokers can't carry.
package scenario

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/headrace-go/headrace/internal/testenv"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childRole) { // neither returns
	case roleRelay:
		relayProcess() // see S02
	case roleSwap:
		swapProcess() // see TestLiveSwap
	case roleBuyer:
		buyerProcess() // see S05
	case roleImporter:
		importerProcess()
	}
	testenv.VerifyMain(m,
		// Watermill's in-memory repository of seen messages (S11) can't be closed.
		goleak.IgnoreAnyFunction(
			"github.com/ThreeDotsLabs/watermill/message/router/middleware.(*mapExpiringKeyRepository).cleanOutLoop"),
	)
}
