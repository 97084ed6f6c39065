// Package bank is a payment API in memory, of the kinds that there are: one that
// knows idempotency keys, one that can be asked what became of a charge, and one that
// does neither. It charges whenever it is asked to.
//
//	POST /charges       {"order": "17", "cents": 4200}, with the header Idempotency-Key
//	GET  /charges?key=  404 where nothing is known of it
package bank

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
)

// Order is what is charged for.
type Order struct {
	Order string `json:"order"`
	Cents int64  `json:"cents"`
}

// Receipt is the answer.
type Receipt struct {
	Receipt string `json:"receipt"`
}

// Bank is the API. Its methods may be called by several goroutines at once.
type Bank struct {
	// Keys says for which orders it makes one of all charges with the same key.
	// Default: for none.
	Keys func(order string) bool
	// LookUp says that it can be asked.
	LookUp bool

	mu       sync.Mutex
	calls    []string           // each one's order
	charged  []string           // each charge's order
	receipts map[string]Receipt // by key
	before   func(order string)
}

// BeforeAnswer lets f run whenever a call has charged and isn't answered yet. If it
// panics the answer is lost.
func (b *Bank) BeforeAnswer(f func(order string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.before = f
}

// Charged returns how often an order was charged, and Called how often that was
// asked for.
func (b *Bank) Charged(order string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return count(b.charged, order)
}

// Called is described at Charged.
func (b *Bank) Called(order string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return count(b.calls, order)
}

func count(all []string, order string) (n int) {
	for _, one := range all {
		if one == order {
			n++
		}
	}
	return n
}

// Charges returns the orders that were charged, in this order.
func (b *Bank) Charges() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.charged)
}

// ServeHTTP implements http.Handler.
func (b *Bank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/charges":
		b.charge(w, r)
	case r.Method == http.MethodGet && r.URL.Path == "/charges" && b.LookUp:
		b.find(w, r.URL.Query().Get("key"))
	default:
		http.NotFound(w, r)
	}
}

func (b *Bank) charge(w http.ResponseWriter, r *http.Request) {
	var order Order
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil || order.Order == "" {
		http.Error(w, `want {"order": "…", "cents": …}`, http.StatusBadRequest)
		return
	}
	receipt, before := b.book(r.Header.Get("Idempotency-Key"), order.Order)
	if before != nil {
		before(order.Order)
	}
	answer(w, receipt)
}

func (b *Bank) book(key, order string) (receipt Receipt, before func(string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, order)
	known := false
	if b.Keys != nil && b.Keys(order) && key != "" {
		receipt, known = b.receipts[key]
	}
	if !known {
		b.charged = append(b.charged, order)
		receipt = Receipt{fmt.Sprintf("receipt %d", len(b.charged))}
		if b.receipts == nil {
			b.receipts = map[string]Receipt{}
		}
		b.receipts[key] = receipt
	}
	return receipt, b.before
}

func (b *Bank) find(w http.ResponseWriter, key string) {
	b.mu.Lock()
	receipt, known := b.receipts[key]
	b.mu.Unlock()
	if !known {
		http.Error(w, "no such charge", http.StatusNotFound)
		return
	}
	answer(w, receipt)
}

func answer(w http.ResponseWriter, receipt Receipt) {
	body, err := json.Marshal(receipt)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // a client that has gone hears nothing
}
