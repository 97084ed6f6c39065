package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/examples/payments/bank"
	"github.com/headrace-go/headrace/internal/subprocess"
	"github.com/headrace-go/headrace/internal/testenv"
)

// childVariable holds the configuration of a service that the test kills.
const childVariable = "HEADRACE_TEST_PAYMENTS"

func TestMain(m *testing.M) {
	raw := os.Getenv(childVariable)
	if raw == "" {
		testenv.VerifyMain(m)
		return
	}
	var cfg config
	err := json.Unmarshal([]byte(raw), &cfg)
	if err == nil {
		err = run(context.Background(), cfg, nil)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

const (
	patience    = 2 * time.Minute
	callTimeout = 2 * time.Second
)

// The service is killed with -9 when the bank has charged for an order and hasn't
// answered yet, again and again. Each order is charged once, booked once, told once.
func TestAServiceThatIsKilledInMidChargeChargesOnce(t *testing.T) {
	t.Parallel()
	for name, on := range places() {
		for _, provider := range []string{"keys", "look-up", "none"} {
			t.Run(name+"/"+provider, func(t *testing.T) {
				t.Parallel()
				s := newShop(t, on(t), provider)
				require.Empty(t, s.sell(t, provider))
				if provider == "keys" {
					require.Greater(t, s.called(), ordersCount, "no call was repeated")
				} else {
					require.Equal(t, ordersCount, s.called(), "a blind second call")
				}
			})
		}
	}
}

// A bank that is believed to know keys and doesn't is what the check must find.
func TestABankThatDoesNotKnowKeysChargesTwice(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a test for the long run: make test")
	}
	s := newShop(t, embedded(t), "keys")
	s.bank.Keys = nil
	damage := s.sell(t, "keys")
	require.NotEmpty(t, damage)
	t.Log(damage)
}

// place is a database and a broker.
type place struct{ database, broker string }

func places() map[string]func(*testing.T) place {
	if testing.Short() {
		return map[string]func(*testing.T) place{"embedded": embedded}
	}
	return map[string]func(*testing.T) place{"embedded": embedded, "kafka and postgres": servers}
}

func embedded(t *testing.T) place {
	t.Helper()
	queue := url.QueryEscape(filepath.Join(t.TempDir(), "queue.db"))
	return place{testenv.SQLite(t), "mem:?nack_delay=50ms&ack_deadline=500ms&poll=10ms&file=" + queue}
}

func servers(t *testing.T) place {
	t.Helper()
	return place{
		testenv.Postgres(t),
		testenv.Kafka(t) + "?partitions=1&session_timeout=6s&heartbeat=500ms&nack_delay=50ms&nack_delay_max=500ms",
	}
}

// shop is a service, its bank, and who kills it.
type shop struct {
	config

	bank *bank.Bank

	mu      sync.Mutex
	process *exec.Cmd
	killed  map[string]bool
	log     subprocess.Tail
}

func newShop(t *testing.T, on place, provider string) *shop {
	t.Helper()
	s := &shop{killed: map[string]bool{}, bank: &bank.Bank{
		Keys: func(string) bool { return provider == "keys" }, LookUp: provider == "look-up",
	}}
	s.bank.BeforeAnswer(s.kill)
	server := httptest.NewServer(s.bank)
	t.Cleanup(server.Close)
	s.config = config{
		DB: on.database, Broker: on.broker, Bank: server.URL, Provider: provider, Timeout: callTimeout,
		Group:  testenv.Topic(t, "payments"), // others run the same test on the same Kafka
		Orders: testenv.Topic(t, "orders"), Paid: testenv.Topic(t, "paid"),
	}
	return s
}

const ordersCount = 3

// kill ends the service with the first charges of all orders but the last.
func (s *shop) kill(order string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.killed[order] || len(s.killed) == ordersCount-1 {
		return
	}
	s.killed[order] = true
	_ = s.process.Process.Signal(syscall.SIGKILL)
	panic(http.ErrAbortHandler)
}

// start runs the service again and again, until the test ends.
func (s *shop) start(t *testing.T) {
	t.Helper()
	raw, err := json.Marshal(s.config)
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	ended := make(chan struct{})
	run := func() error {
		s.mu.Lock()
		s.process = exec.CommandContext(t.Context(), self)
		s.process.Env = append(os.Environ(), childVariable+"="+string(raw))
		s.process.Stderr = &s.log
		s.process.SysProcAttr = subprocess.DieWithParent()
		process, err := s.process, s.process.Start()
		s.mu.Unlock()
		if err != nil {
			return err
		}
		return process.Wait()
	}
	go func() {
		defer close(ended)
		for t.Context().Err() == nil {
			_ = run() // it was killed
		}
	}()
	t.Cleanup(func() { <-ended })
}

// sell sends the orders and returns what was not charged, booked and told once.
func (s *shop) sell(t *testing.T, provider string) (damage []string) {
	t.Helper()
	s.migrate(t)
	s.start(t)
	for i := range ordersCount {
		require.NoError(t, run(t.Context(), s.config, []string{"order", fmt.Sprintf("order-%d", i), "4200"}))
	}
	told := s.listen(t)
	testenv.Eventually(t, patience, time.Second, func() (bool, string) {
		if provider == "none" {
			s.settle(t)
		}
		n := told()
		return len(n) == ordersCount, fmt.Sprintf("told %v, charged %v\n%s", n, s.bank.Charges(), s.log.String())
	})
	db := testenv.Open(t, s.DB)
	for i := range ordersCount {
		var booked int
		id := fmt.Sprintf("order-%d", i)
		query := fmt.Sprintf("SELECT count(*) FROM payments WHERE order_id = '%s'", id)
		require.NoError(t, db.QueryRowContext(t.Context(), query).Scan(&booked))
		if charged, told := s.bank.Charged(id), told()[id]; charged != 1 || booked != 1 || told != 1 {
			damage = append(damage,
				fmt.Sprintf("%s was charged %d times, booked %d and told %d times", id, charged, booked, told))
		}
	}
	return damage
}

func (s *shop) called() (n int) {
	for i := range ordersCount {
		n += s.bank.Called(fmt.Sprintf("order-%d", i))
	}
	return n
}

// migrate makes the tables before the first kill.
func (s *shop) migrate(t *testing.T) {
	t.Helper()
	p, err := open(t.Context(), s.config, nil)
	require.NoError(t, err)
	require.NoError(t, p.close())
}

// settle does what a person has to, who sees what the bank has charged.
func (s *shop) settle(t *testing.T) {
	t.Helper()
	for i := range ordersCount {
		id := fmt.Sprintf("order-%d", i)
		what := "again"
		if s.bank.Charged(id) > 0 {
			what = "happened"
		}
		err := run(t.Context(), s.config, []string{"settle", id, what, "the bank's list says so"})
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			require.ErrorIs(t, err, effects.ErrNotUnknown)
		}
	}
}

// listen counts each order's events, by their ids.
func (s *shop) listen(t *testing.T) (told func() map[string]int) {
	t.Helper()
	broker, err := brokers.Open(t.Context(), s.Broker, brokers.Config{Openers: all.Openers(), Group: "listener" + s.Group})
	require.NoError(t, err)
	events, err := broker.Subscriber.Subscribe(t.Context(), s.Paid)
	require.NoError(t, err)
	var mu sync.Mutex
	seen, counts := map[string]bool{}, map[string]int{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for event := range events {
			mu.Lock()
			if !seen[event.UUID] {
				seen[event.UUID] = true
				counts[string(event.Payload)]++
			}
			mu.Unlock()
			event.Ack()
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, broker.Close())
		<-ended
	})
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(counts)
	}
}
