package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/examples/purchasing/buying"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

// patience bounds every wait for something that should come soon.
const patience = 60 * time.Second

type bundle struct {
	t    *testing.T
	base string
}

func start(t *testing.T, server *testenv.MailServer, database string, change ...func(cfg *config)) bundle {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan string, 1), make(chan error, 1)
	cfg := config{
		DB: database, Broker: "mem:?nack_delay=5ms", SMTP: server.Addr, Addr: "127.0.0.1:0", Log: t.Output(),
		Cron: "0 17 1 1 *", Zone: "Europe/Berlin", From: "orders@example.com",
		Parking: middleware.ParkingConfig{Delays: []time.Duration{10 * time.Millisecond, 50 * time.Millisecond}},
		Ready:   func(addr string) { ready <- addr },
	}
	for _, f := range change {
		f(&cfg)
	}
	go func() { done <- run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	select {
	case addr := <-ready:
		return bundle{t, "http://" + addr}
	case err := <-done:
		done <- nil
		require.FailNow(t, "the service has ended", "%v", err)
	case <-time.After(patience):
		require.FailNow(t, "the service did not start")
	}
	return bundle{}
}

func (b bundle) request(method, path, body string) (status int, answer string) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, strings.NewReader(body))
	require.NoError(b.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(b.t, err)
	defer func() { require.NoError(b.t, resp.Body.Close()) }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(b.t, err)
	return resp.StatusCode, string(text)
}

func (b bundle) mails() (all []buying.Mail) {
	b.t.Helper()
	status, answer := b.request(http.MethodGet, "/mails", "")
	require.Equal(b.t, http.StatusOK, status, answer)
	require.NoError(b.t, json.Unmarshal([]byte(answer), &all))
	return all
}

// A supplier's server that refuses the mail undoes nothing of what was ordered.
func TestOrdersAreMailedOnceTheirTimeHasComeAndARefusalIsNoted(t *testing.T) {
	t.Parallel()
	server := testenv.StartMailServer(t, func(m testenv.Mail, _ int) error {
		if m.To == "gates@localhost" {
			return testenv.ErrMailNever
		}
		return nil
	})
	database := testenv.SQLite(t)
	b := start(t, server, database)
	for path, body := range map[string]string{"1": `{"quantity": 7}`, "2": `{"quantity": 1}`, "3": `{"quantity": 9}`} {
		status, answer := b.request(http.MethodPut, "/recommendations/"+path+"/order", body)
		require.Equal(t, http.StatusOK, status, answer)
		require.Contains(t, answer, "01-01T17:00:00+01:00")
	}
	status, answer := b.request(http.MethodDelete, "/recommendations/2/order", "")
	require.Equal(t, http.StatusOK, status, answer)
	require.Empty(t, b.mails())

	_, err := testenv.Open(t, database).ExecContext(t.Context(), "UPDATE headrace_scheduled SET due_at = 0")
	require.NoError(t, err)
	testenv.Eventually(t, patience, 20*time.Millisecond, func() (bool, string) {
		all := b.mails()
		states := map[string]string{}
		for _, m := range all {
			states[m.Supplier] = m.State
		}
		return states["Valves Ltd"] == buying.Sent && states["Gates & Sons"] == buying.Refused, fmt.Sprint(all)
	})
	taken := server.Taken()
	require.Len(t, taken, 1)
	require.Contains(t, taken[0].Content, "\r\n1: 7 of Penstock valve\r\n")
	require.NotContains(t, taken[0].Content, "Butterfly")

	status, answer = b.request(http.MethodDelete, "/recommendations/1/order", "")
	require.Equal(t, http.StatusConflict, status, answer)
	status, answer = b.request(http.MethodDelete, "/recommendations/2/order", "")
	require.Equal(t, http.StatusConflict, status, answer)
	require.Contains(t, answer, "not ordered")
}

// Where the connection breaks before the answer, only the mail server's people know
// whether it has the mail.
func TestAPersonSettlesWhatNobodyKnows(t *testing.T) {
	t.Parallel()
	server := testenv.StartMailServer(t, func(m testenv.Mail, try int) error {
		switch {
		case try > 1:
			return nil
		case m.To == "gates@localhost":
			return testenv.ErrMailHangUp
		}
		return testenv.ErrMailTakenHangUp
	})
	database := testenv.SQLite(t)
	b := start(t, server, database)
	for _, id := range []string{"1", "3"} {
		status, answer := b.request(http.MethodPut, "/recommendations/"+id+"/order", `{"quantity": 7}`)
		require.Equal(t, http.StatusOK, status, answer)
	}
	_, err := testenv.Open(t, database).ExecContext(t.Context(), "UPDATE headrace_scheduled SET due_at = 0")
	require.NoError(t, err)
	b.all(buying.Unknown)
	require.Len(t, server.Taken(), 1)
	for _, m := range b.mails() {
		status, answer := b.request(http.MethodPost, "/mails/"+m.ID+"/settle",
			fmt.Sprintf(`{"actor": "anna", "sent": %t, "note": "the log says so"}`, m.Supplier == "Valves Ltd"))
		require.Equal(t, http.StatusOK, status, answer)
	}
	b.all(buying.Sent)
	require.Len(t, server.Taken(), 2)
}

// all waits until both suppliers' mails are in a state.
func (b bundle) all(state string) {
	b.t.Helper()
	testenv.Eventually(b.t, patience, 20*time.Millisecond, func() (bool, string) {
		all := b.mails()
		return len(all) == 2 && all[0].State == state && all[1].State == state, fmt.Sprint(all)
	})
}

func TestBadInputGetsAClearAnswer(t *testing.T) {
	t.Parallel()
	b := start(t, testenv.StartMailServer(t, nil), testenv.SQLite(t))
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		says               string
	}{
		"no number":      {http.MethodPut, "/recommendations/one/order", `{"quantity": 1}`, 400, "is a number"},
		"no JSON":        {http.MethodPut, "/recommendations/1/order", "five", 400, "can't be read"},
		"no quantity":    {http.MethodPut, "/recommendations/1/order", "{}", 400, "1 or more"},
		"unknown":        {http.MethodPut, "/recommendations/99/order", `{"quantity": 1}`, 404, "no such"},
		"none to take":   {http.MethodDelete, "/recommendations/99/order", "", 404, "no such"},
		"nobody settles": {http.MethodPost, "/mails/1/settle", "{}", 400, "actor"},
	} {
		status, answer := b.request(c.method, c.path, c.body)
		require.Equal(t, c.status, status, "%s: %s", name, answer)
		require.Contains(t, answer, c.says, name)
	}
}
