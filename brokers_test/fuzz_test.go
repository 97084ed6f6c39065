package brokers_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
)

// Whatever stands in a URL, Open answers with an error that keeps the password
// to itself, or with a broker.
func FuzzOpen(f *testing.F) {
	for _, seed := range []string{
		"", ":", "mem:", "mem:?workers=0", "mem:?retain=x", "mem://host", "kafka://", "kafka://:x",
		"kafka://a:1,,b:2", "kafka://[::1",
		"kafka://u:hunter2pw@h?sasl=scram-sha-512&tls=true", "kafka://h?partitions=99999999999999999999",
		"kafka://h?retention=-1ms&session_timeout=1us", "sqs://", "sqs://h?region=%ff&secret_key=hunter2pw",
		"sqs://h?fifo=maybe&visibility=1ns", "postgres://u:hunter2pw@h:70000/db", "postgres://h?pool=-1",
		"postgres:///?search_path=%00",
		"mysql://u:hunter2pw@/db", "mysql://h?join=true", "mariadb://%zz", "\xff://\x00", "kafka:?#@", "mem:opaque@hunter2pw",
	} {
		f.Add(seed)
	}
	ended, cancel := context.WithCancel(f.Context())
	cancel() // nothing is looked up or dialled
	f.Fuzz(func(t *testing.T, rawURL string) {
		if strings.Contains(rawURL, "file") {
			return // it would be made
		}
		b, err := brokers.Open(ended, rawURL, brokers.Config{Openers: all.Openers(), Group: "g"})
		if err != nil {
			if strings.Contains(rawURL, ":hunter2pw@") { // elsewhere it may be the host's name
				require.NotContains(t, err.Error(), "hunter2pw")
			}
			return
		}
		require.NoError(t, b.Close())
	})
}
