// Package adopt_test applies the patches of the examples beside it, and runs the
// programs before and after, alone and mixed as in a rolling deploy.
package adopt_test

import (
	"testing"

	"github.com/headrace-go/headrace/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }
