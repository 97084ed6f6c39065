package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

const (
	roleImporter  = "importer"
	importerSetup = "HEADRACE_SCENARIO_IMPORTER"
)

// importer imports a topic as a process of its own.
type importer struct {
	Database, Dialect, Broker, Topic string
	// Step kills it, when it is reached for the Nth time.
	Step string
	Nth  int
	// Protected tells messages apart by their ids, as their consumer does.
	Protected bool
}

func importerProcess() {
	var i importer
	err := json.Unmarshal([]byte(os.Getenv(importerSetup)), &i)
	if err == nil {
		err = i.run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (i importer) run(ctx context.Context) error {
	parsed, err := dburl.Parse(i.Database)
	if err != nil {
		return err
	}
	db, err := parsed.Open()
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, db, store.Config{Dialect: store.Dialect(i.Dialect)})
	if err != nil {
		return err
	}
	bus, err := brokers.Open(ctx, i.Broker, brokers.Config{Openers: all.Openers(), Group: "desk"})
	if err != nil {
		return err
	}
	cfg := parking.ImportConfig{
		Topic: i.Topic, Consumer: "stock.orders", NewConsumer: true, Shared: bus.Capabilities.Groups,
		Idle: time.Second, Patience: patience,
		Backlog: func(ctx context.Context) (int64, error) { return bus.Backlog(ctx, i.Topic, "desk") },
	}
	if !i.Protected {
		cfg.Identity = func(*message.Message) (string, error) { return watermill.NewUUID(), nil }
	}
	reached := 0
	ctx = step.With(ctx, func(_ context.Context, name string) {
		if name != i.Step {
			return
		}
		if reached++; reached == i.Nth {
			if p, err := os.FindProcess(os.Getpid()); err == nil {
				_ = p.Kill()
			}
			select {}
		}
	})
	_, err = parking.NewDesk(st, parking.DeskConfig{Actor: "anna"}).Import(ctx, bus.Subscriber, cfg)
	if err != nil {
		return err
	}
	return bus.Close()
}

// live runs it, and returns whether it was killed.
func (i importer) live(t *testing.T) (killed bool) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	setup, err := json.Marshal(i)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var problems bytes.Buffer
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childRole+"="+roleImporter, importerSetup+"="+string(setup))
	cmd.Stderr = &problems
	err = cmd.Run()
	require.NoError(t, ctx.Err(), "the import doesn't end")
	if err != nil {
		require.Equal(t, "signal: killed", err.Error(), problems.String())
	}
	return err != nil
}

// An import is killed before it has committed and after it, before its ack, and run
// again: each message is parked once, and none is left on the queue.
func TestAnImportThatIsKilledParksEachMessageOnce(t *testing.T) {
	pairs := on(t, []string{mem}, []string{sqlite})
	pairs = append(pairs, on(t, []string{sqs}, []string{mariadb})...)
	pairs = append(pairs, on(t, []string{postgres}, []string{postgres})...)
	onAndOff(t, pairs, func(t *testing.T, p pair, protected bool) (damage []string) {
		const messages = 12
		address := brokerURL(t, p.broker)
		if p.broker == mem {
			address = memFile(t)
		}
		address = withOptions(address, diedQuickly(p.broker))
		if p.broker == sqs {
			address = withOptions(brokerURL(t, p.broker), "visibility=2s")
		}
		w := open(t, p, withBroker(address))
		topic := w.topic("failed")
		for n := range messages {
			require.NoError(t, w.bus.Publisher.Publish(topic, message.NewMessage(fmt.Sprint(n), []byte("{}"))))
		}
		i := importer{
			Database: w.dbURL, Dialect: string(dialectOf(p.database)), Broker: address, Topic: topic, Protected: protected,
		}
		for nth, name := range []string{step.ParkWritten, step.ParkCommitted, step.ParkCommitted} {
			i.Step, i.Nth = name, nth+2
			require.True(t, i.live(t), "it is killed at %s", name)
		}
		i.Step = ""
		require.False(t, i.live(t))

		rows, err := w.st.ListParked(t.Context(), store.ParkedFilter{}, 0, 1000)
		require.NoError(t, err)
		times := map[string]int{}
		for _, row := range rows {
			times[row.MessageID]++
		}
		for n := range messages {
			if times[fmt.Sprint(n)] != 1 {
				damage = append(damage, fmt.Sprintf("message %d is parked %d times", n, times[fmt.Sprint(n)]))
			}
		}
		signed := w.count("SELECT count(*) FROM headrace_audit WHERE action = 'import'")
		require.Equal(t, len(rows), signed, "each is signed")
		left, err := w.bus.Backlog(t.Context(), topic, "desk")
		require.NoError(t, err)
		require.Zero(t, left)
		return damage
	})
}
