package cli

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// deadLetters puts messages on a queue of a broker that other processes can open.
func deadLetters(t *testing.T, address, topic string, msgs ...*message.Message) {
	t.Helper()
	bus, err := brokers.Open(t.Context(), address, brokers.Config{Openers: all.Openers()})
	require.NoError(t, err)
	require.NoError(t, bus.Publisher.Publish(topic, msgs...))
	require.NoError(t, bus.Close())
}

const imported = `parked 2 messages, 1 known already and acked, 1 passed over, of other handlers from dead of mem:
  3: known: the consumer keeps it already (parked)
  4: other: handler "mail" has put it aside, not "orders"
look at them: headrace parked ls --by-error; have them handled: headrace parked retry
`

func TestParkedImport(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		st, _ := migrated(on.T, on.kind, on.url)
		keep(on.T, st, "sku", "3", store.StatusParked, errUnknown)
		address := "mem:?poll=10ms&file=" + url.QueryEscape(filepath.Join(on.TempDir(), "queue.db"))
		var msgs []*message.Message
		for n := range 4 {
			msgs = append(msgs, message.NewMessage(fmt.Sprint(n+1), []byte("secret\x1b[31m\nline")))
		}
		msgs[0].Metadata.Set("reason_poisoned", "no shelf\x1b[31m")
		msgs[0].Metadata.Set("handler_poisoned", "orders")
		msgs[0].Metadata.Set("sku", "sku-7")
		msgs[3].Metadata.Set("handler_poisoned", "mail")
		deadLetters(on.T, address, "dead", msgs...)
		do := newCommands(on.T, on.url)

		args := []string{"parked", "import", "--from", address, "--topic", "dead", "--idle", "300ms", "--key-metadata", "sku"}
		require.Contains(on, do.failed(append(args, "--consumer", "shop.order")...), "--new-consumer")
		text := do.do(exitOK, append(args, "--consumer", parkedConsumer)...)
		require.ElementsMatch(on, strings.Split(imported, "\n"), strings.Split(text, "\n"))
		rows, err := st.ListParked(on.Context(), store.ParkedFilter{MessageID: "1"}, 0, 10)
		require.NoError(on, err)
		require.Len(on, rows, 1)
		require.Equal(on, "sku-7", rows[0].Key)

		do.do(exitOK, append(args, "--consumer", parkedConsumer, "--group", "again", "--json")...)
		var told importJSON
		require.NoError(on, json.Unmarshal(do.term.out.Bytes(), &told))
		require.Equal(on, []int{0, 3, 1, 0}, []int{told.Parked, told.Known, told.Others, told.Left})
		require.Len(on, told.NotParked, 4)
		require.Equal(on, "anna", told.Actor)
		require.Contains(on, do.do(exitOK, "audit", "ls"), "import")
	})
}

// A queue of somebody else's is neither made nor claimed.
func TestParkedImportMakesNoQueue(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Log("the embedded broker has no queue that is missing")
		return
	}
	address, database := testenv.SQS(t), testenv.Database(t, "sqlite")
	migrated(t, "sqlite", database)
	do, topic := newCommands(t, database), testenv.Topic(t, "dead")
	args := []string{
		"parked", "import", "--from", address, "--topic", topic, "--consumer", "shop.orders", "--new-consumer", "--idle", "1s",
	}
	for range 2 {
		require.Contains(t, do.failed(args...), "doesn't exist")
	}
	deadLetters(t, address, topic, message.NewMessage("1", []byte("{}")))
	require.Contains(t, do.do(exitOK, args...), "parked 1 message from "+topic)
	// Its own service may still claim it.
	bus, err := brokers.Open(t.Context(), address, brokers.Config{Openers: all.Openers(), Group: "shop"})
	require.NoError(t, err)
	_, err = bus.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	require.NoError(t, bus.Close())
}

func TestParkedImportWrongUsage(t *testing.T) {
	t.Parallel()
	database := testenv.Database(t, "sqlite")
	migrated(t, "sqlite", database)
	do := newCommands(t, database)
	for want, args := range map[string][]string{
		"pass --from":              {"--topic", "dead", "--consumer", "shop.orders"},
		"needs a topic":            {"--from", "mem:", "--consumer", "shop.orders"},
		"needs a consumer":         {"--from", "mem:", "--topic", "dead"},
		"either --key-metadata":    {"--from", "mem:", "--topic", "dead", "--key-metadata", "a", "--key-json", "b"},
		"unknown scheme":           {"--from", "rabbit://localhost", "--topic", "dead", "--consumer", "shop.orders"},
		"limits are not negative":  {"--from", "mem:", "--topic", "dead", "--consumer", "shop.orders", "--limit", "-1"},
		"consumer ls` lists those": {"--from", "mem:", "--topic", "dead", "--consumer", "shop.orders"},
		"percent-encoded":          {"--from", "kafka://me:hunter22@x:y/", "--topic", "dead", "--consumer", "shop.orders"},
	} {
		got := do.failed(append([]string{"parked", "import"}, args...)...)
		require.Contains(t, got, want)
		require.NotContains(t, got, "hunter22")
	}
}
