package crash_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	"github.com/headrace-go/headrace/effects"
)

// bank is an API that charges whenever it is asked to, in the test's process. With
// keys it charges once for each, and it can be asked what became of one.
type bank struct {
	url  string
	keys bool

	mu sync.Mutex
	// calls and charges are by what they were for: a message's change.
	calls, charges map[string]int
	receipts       map[string]string // by key
	// strike is called in the next charge, before its answer, which is lost.
	strike func()
}

func newBank(t *testing.T, keys bool) *bank {
	t.Helper()
	b := &bank{keys: keys, calls: map[string]int{}, charges: map[string]int{}, receipts: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /charges", b.charge)
	mux.HandleFunc("GET /charges", b.lookUp)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

func (b *bank) charge(w http.ResponseWriter, r *http.Request) {
	var change stockChanged
	if err := json.NewDecoder(r.Body).Decode(&change); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	key := r.Header.Get(keyHeader)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls[change.Change]++
	receipt, known := b.receipts[key]
	if !known || !b.keys {
		b.charges[change.Change]++
		receipt = fmt.Sprintf("receipt %d of %s", b.charges[change.Change], change.Change)
		b.receipts[key] = receipt
	}
	if strike := b.strike; strike != nil {
		b.strike = nil
		strike()
		panic(http.ErrAbortHandler)
	}
	_, _ = io.WriteString(w, receipt)
}

const keyHeader = "Idempotency-Key"

func (b *bank) lookUp(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	receipt, known := b.receipts[r.URL.Query().Get("key")]
	b.mu.Unlock()
	if !known {
		http.NotFound(w, r)
		return
	}
	_, _ = io.WriteString(w, receipt)
}

// atNextCharge lets f run while a charge has happened and was not answered yet.
func (b *bank) atNextCharge(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.strike = f
}

func (b *bank) of(change string) (calls, charges int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[change], b.charges[change]
}

// charging is the service's call of the bank.
func charging(bankURL string) effects.Call {
	return effects.HTTP{}.Call(func(ctx context.Context, body []byte) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodPost, bankURL+"/charges", bytes.NewReader(body))
	})
}

// asking is the service's question after a call.
func asking(bankURL string) func(context.Context, string, []byte) (effects.Response, bool, error) {
	return func(ctx context.Context, key string, _ []byte) (effects.Response, bool, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, bankURL+"/charges?key="+url.QueryEscape(key), nil)
		if err != nil {
			return effects.Response{}, false, err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return effects.Response{}, false, err
		}
		defer answer.Body.Close() //nolint:errcheck // it was read
		receipt, err := io.ReadAll(answer.Body)
		switch {
		case err != nil:
			return effects.Response{}, false, err
		case answer.StatusCode == http.StatusNotFound:
			return effects.Response{}, false, nil
		case answer.StatusCode != http.StatusOK:
			return effects.Response{}, false, errors.New(answer.Status)
		}
		return effects.Response{Code: answer.StatusCode, Body: receipt}, true, nil
	}
}
