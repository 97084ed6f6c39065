package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/examples/stock/internal/connect"
	"github.com/headrace-go/headrace/examples/stock/internal/service"
	"github.com/headrace-go/headrace/examples/stock/internal/warehouse"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

// patience bounds every wait for something that should come soon.
const patience = 60 * time.Second

type bundle struct {
	t    testing.TB
	base string
	stop func()
}

func start(t *testing.T, db, broker, prefix string) *bundle {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- run(ctx, config{
			DB: db, Broker: broker, Addr: "127.0.0.1:0", Log: t.Output(),
			Topics: service.Topics{Changes: prefix + "_c", FollowUps: prefix + "_f", Refused: prefix + "_r"},
			Ready:  func(addr string) { ready <- addr },
		})
	}()
	stopped := false
	b := &bundle{t: t, stop: func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(t, <-done)
		}
	}}
	t.Cleanup(b.stop)
	select {
	case addr := <-ready:
		b.base = "http://" + addr
	case err := <-done:
		done <- nil
		require.FailNow(t, "the service has ended", "%v", err)
	case <-time.After(patience):
		require.FailNow(t, "the service did not start")
	}
	return b
}

func (b *bundle) request(method, path, body string, headers ...string) (status int, answer string) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, strings.NewReader(body))
	require.NoError(b.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(b.t, err)
	defer func() { require.NoError(b.t, resp.Body.Close()) }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(b.t, err)
	return resp.StatusCode, string(text)
}

func (b *bundle) product(id int) (p warehouse.Product) {
	b.t.Helper()
	status, answer := b.request(http.MethodGet, fmt.Sprintf("/products/%d", id), "")
	require.Equal(b.t, http.StatusOK, status, answer)
	require.NoError(b.t, json.Unmarshal([]byte(answer), &p))
	return p
}

func (b *bundle) eventually(id int, want warehouse.Product) {
	b.t.Helper()
	testenv.Eventually(b.t, patience, 20*time.Millisecond, func() (bool, string) {
		got := b.product(id)
		got.Name = want.Name
		return fmt.Sprint(got) == fmt.Sprint(want), fmt.Sprintf("%+v, want %+v", got, want)
	})
}

func TestAChangeMovesStockAndLineAndAsksForRecommendations(t *testing.T) {
	t.Parallel()
	kinds := []string{"sqlite-mem"}
	if !testing.Short() {
		kinds = append(kinds, "postgres-kafka", "mariadb-sqs-fifo")
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var db, broker string
			switch kind {
			case "sqlite-mem":
				db, broker = testenv.SQLite(t), "mem:"
			case "postgres-kafka":
				db, broker = testenv.Postgres(t), testenv.Kafka(t)+"?partitions=2"
			case "mariadb-sqs-fifo":
				db, broker = testenv.MariaDB(t), testenv.SQS(t)+"&fifo=true"
			}
			b := start(t, db, broker, testenv.Topic(t, "stock"))

			// The client got no answer the first time and repeats its request.
			for range 2 {
				status, answer := b.request(http.MethodPost, "/changes",
					`{"product": 1, "quantity": 5, "raised": true, "purchase_order_line": 11}`,
					"Idempotency-Key", "6f1c1a0e-6a1e-4c69-a3b4-0a5e5f2f5c11")
				require.Equal(t, http.StatusAccepted, status, answer)
			}
			// Stock that goes down delivers nothing.
			status, answer := b.request(http.MethodPost, "/changes",
				`{"product": 1, "quantity": 2, "raised": false, "purchase_order_line": 12}`)
			require.Equal(t, http.StatusAccepted, status, answer)

			b.eventually(1, warehouse.Product{
				ID: 1, Stock: 13, ReorderLevel: 40,
				Lines:          []warehouse.PurchaseOrderLine{{ID: 11, Ordered: 20, Delivered: 5}, {ID: 12, Ordered: 5}},
				Recommendation: warehouse.Recommendation{ToDeliver: 20, ToOrder: 7, Runs: 2},
			})
			b.stop()
		})
	}
}

func TestARestartGoesOnWhereTheServiceStopped(t *testing.T) {
	t.Parallel()
	db := testenv.SQLite(t)
	broker := "mem:?file=" + url.QueryEscape(filepath.Join(t.TempDir(), "queue.db"))
	b := start(t, db, broker, "stock")
	status, answer := b.request(http.MethodPost, "/changes", `{"product": 3, "quantity": 1, "raised": true}`)
	require.Equal(t, http.StatusAccepted, status, answer)
	b.stop()

	b = start(t, db, broker, "stock")
	testenv.Eventually(t, patience, 20*time.Millisecond, func() (bool, string) {
		p := b.product(3)
		return p.Stock == 101, fmt.Sprint(p)
	})
}

func TestAMessageThatMakesNoSenseIsPutAsideAndHoldsUpNothing(t *testing.T) {
	t.Parallel()
	address := "mem:?file=" + url.QueryEscape(filepath.Join(t.TempDir(), "queue.db"))
	b := start(t, testenv.SQLite(t), address, "stock")
	broker, err := brokers.Open(t.Context(), address, brokers.Config{Openers: connect.Openers(), Group: "office"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, broker.Close()) })
	refused, err := broker.Subscriber.Subscribe(t.Context(), "stock_r")
	require.NoError(t, err)

	reasons := map[string]string{
		"five":                           "payload",
		`{"product": 9, "quantity": 1}`:  "there is no product 9",
		`{"product": 3, "quantity": -1}`: "quantity must be",
		`{"product": 1, "quantity": 1, "raised": true, "purchase_order_line": 21}`: "no purchase order line 21",
	}
	for payload := range reasons {
		msg := message.NewMessage(watermill.NewUUID(), []byte(payload))
		msgmeta.SetKey(msg, "3")
		require.NoError(t, broker.Publisher.Publish("stock_c", msg))
	}
	status, answer := b.request(http.MethodPost, "/changes", `{"product": 3, "quantity": 1}`)
	require.Equal(t, http.StatusAccepted, status, answer)
	for range reasons {
		msg := <-refused
		require.Contains(t, msg.Metadata.Get(middleware.ReasonForPoisonedKey), reasons[string(msg.Payload)])
		msg.Ack()
	}
	testenv.Eventually(t, patience, 20*time.Millisecond, func() (bool, string) {
		p := b.product(3)
		return p.Stock == 99, fmt.Sprint(p)
	})
	require.EqualValues(t, 10, b.product(1).Stock, "what a refused message has written is rolled back")
}

func TestBadInputGetsAClearAnswer(t *testing.T) {
	t.Parallel()
	b := start(t, testenv.SQLite(t), "mem:", "stock")
	for name, c := range map[string]struct {
		method, path, body, key string
		status                  int
		says                    string
	}{
		"no JSON":         {body: "five", status: 400, says: "the body is no change"},
		"empty":           {body: "", status: 400, says: "ends too early"},
		"cut off":         {body: `{"product": 1`, status: 400, says: "ends too early"},
		"two":             {body: `{"product":1,"quantity":1} {}`, status: 400, says: "one change per request"},
		"unknown field":   {body: `{"sku": 1}`, status: 400, says: `unknown field \"sku\"`},
		"wrong type":      {body: `{"product": "one"}`, status: 400, says: "product"},
		"too large":       {body: strings.Repeat(" ", maxRequest) + "{}", status: 413, says: "larger than 65536"},
		"no product":      {body: `{"quantity": 1}`, status: 422, says: "product must be"},
		"no quantity":     {body: `{"product": 1}`, status: 422, says: "quantity must be"},
		"negative":        {body: `{"product": 1, "quantity": -3}`, status: 422, says: "not -3"},
		"huge":            {body: `{"product": 1, "quantity": 1000001}`, status: 422, says: "from 1 to 1000000"},
		"default line":    {body: `{"product": 1, "quantity": 1, "purchase_order_line": -1}`, status: 422, says: "left out"},
		"unknown product": {body: `{"product": 9, "quantity": 1}`, status: 422, says: "no product 9"},
		"foreign line": {
			body: `{"product": 1, "quantity": 1, "raised": true, "purchase_order_line": 21}`, status: 422,
			says: "no purchase order line 21",
		},
		"bad key":         {body: `{"product": 1, "quantity": 1}`, key: "1", status: 400, says: "must be a UUID"},
		"method":          {method: http.MethodPut, body: "{}", status: 405},
		"product's id":    {method: http.MethodGet, path: "/products/one", status: 400, says: "is a number"},
		"missing product": {method: http.MethodGet, path: "/products/9", status: 404, says: "no product 9"},
	} {
		if c.method == "" {
			c.method = http.MethodPost
		}
		if c.path == "" {
			c.path = "/changes"
		}
		status, answer := b.request(c.method, c.path, c.body, "Idempotency-Key", c.key)
		require.Equal(t, c.status, status, "%s: %s", name, answer)
		require.Contains(t, answer, c.says, name)
	}
	require.EqualValues(t, 10, b.product(1).Stock)
}
