package brokers_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/internal/testenv"
)

// TestConformance tries all facts on every broker as Headrace opens it:
//
//	go test ./brokers_test -run 'TestConformance/kafka//order'
func TestConformance(t *testing.T) {
	t.Parallel()
	all := cases(t)
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.name
	}
	sideBySide(t, names, func(t *testing.T, i int) {
		t.Helper()
		usual := usually(t, all[i])
		tryColumn(t, titleOpened, opened(t, all[i]), conformance.Column{Default: &usual})
	})
	writeMatrix(t)
}

// usually is what a broker declares that is opened without options.
func usually(t *testing.T, c brokerCase) brokers.Capabilities {
	t.Helper()

	kind := map[string]string{}
	if fifo, chosen := c.quick["fifo"]; chosen {
		kind["fifo"] = fifo
	}

	return open(t, withOptions(t, c.url(t), kind)).Capabilities
}

// opened is the harness of a broker that is opened as a service would, with
// quicker redelivery.
func opened(t *testing.T, c brokerCase) conformance.Harness {
	t.Helper()

	service := c.url(t)
	rawURL := withOptions(t, service, c.quick)
	rawURL = withOptions(t, rawURL, map[string]string{"drain": "2s", "max_body": "150000"})
	rawURL = withOptions(t, rawURL, c.conformance)
	h := conformance.Opened(open(t, rawURL))
	h.Name = c.name
	h.Known, h.Sometimes = c.known, c.sometimes
	h.Parallel = c.parallel
	h.DeleteTopic = withPatience(h.DeleteTopic)
	h.Database = databaseFor(t, c)
	h.Handlings = handlings()

	switch c.name {
	case "mem": // is in one process
	case "mem-file":
		// Claims of processes that are killed and frozen needn't outlast a busy machine.
		h.Capabilities.Takeover = 3 * time.Second
		withProcesses(strings.Replace(rawURL, "ack_deadline=2m", "ack_deadline=3s", 1), &h)
	default:
		withProcesses(rawURL, &h)
		withOwnService(t, strings.TrimSuffix(c.name, "-fifo"), rawURL, &h)
	}
	if c.name == "postgres" || c.name == "mariadb" {
		withJoin(t, service, rawURL, &h)
	}
	if c.hooks != nil {
		c.hooks(t, rawURL, &h)
	}
	if testing.Short() {
		// Facts mostly wait: more of them at once, for shorter, with fewer messages.
		h.Parallel, h.Quiet, h.Handlings = 24, time.Second, 200
	}

	return h
}

// databaseFor is a real database for the services of the composition facts, such
// that each kind meets a broker that is a database itself and one that isn't; nil,
// which is SQLite, for the embedded brokers.
func databaseFor(t *testing.T, c brokerCase) func(context.Context) (*sql.DB, error) {
	t.Helper()

	var address string
	switch c.name {
	case "postgres", "kafka", "sqs-fifo":
		address = testenv.Postgres(t)
	case "mariadb", "sqs":
		address = testenv.MariaDB(t)
	default:
		return nil
	}
	database, err := dburl.Parse(address)
	require.NoError(t, err)

	return func(context.Context) (*sql.DB, error) { return database.Open() }
}

// withPatience bounds the removal of a topic.
func withPatience(remove func(context.Context, string) error) func(context.Context, string) error {
	return func(ctx context.Context, topic string) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()

		return remove(ctx, topic)
	}
}
