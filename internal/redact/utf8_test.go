package redact_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/redact"
)

func TestASecretThatIsNotUTF8IsNoPanic(t *testing.T) {
	t.Parallel()
	u, err := url.Parse("sqs://h?secret_key=%ff&password=a%00")
	require.NoError(t, err)
	require.NotEmpty(t, redact.New(u).Text("text"))
}
