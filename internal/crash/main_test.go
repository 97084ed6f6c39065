package crash_test

import (
	"os"
	"testing"

	"github.com/headrace-go/headrace/internal/testenv"
)

func TestMain(m *testing.M) {
	if raw := os.Getenv(childVariable); raw != "" {
		os.Exit(child(raw))
	}
	testenv.VerifyMain(m)
}
