package handlertest_test

import (
	"testing"

	"github.com/headrace-go/headrace/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }
