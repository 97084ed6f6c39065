// Package shop is a shop's API in memory. It holds purchases, each with a version that
// every change raises, and takes a change only from those who know the current one.
//
//	GET /purchases/17
//	PUT /purchases/17   {"quantity": 5}, with the header If-Match: 3
//
// 409 says that the purchase has another version, 400 that it can't be bought in this
// quantity.
package shop

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
)

// Purchase is what was bought.
type Purchase struct {
	Version  int64  `json:"version"`
	Quantity int64  `json:"quantity"`
	Note     string `json:"note,omitempty"`
}

// Shop is the API. Its methods may be called by several goroutines at once.
type Shop struct {
	// Least is the smallest quantity, but for 0, that it sells.
	Least int64

	mu        sync.Mutex
	purchases map[string]Purchase
	changes   map[string]int
	before    func(id string) int
	after     func(id string)
}

// New returns a shop with these purchases, each in version 1.
func New(purchases map[string]Purchase) *Shop {
	s := &Shop{purchases: map[string]Purchase{}, changes: map[string]int{}}
	for id, p := range purchases {
		p.Version = 1
		s.purchases[id] = p
	}
	return s
}

// Purchase returns a purchase as it is, and how often the API has changed it.
func (s *Shop) Purchase(id string) (p Purchase, changes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.purchases[id], s.changes[id]
}

// Change is what somebody else does to a purchase.
func (s *Shop) Change(id string, change func(p *Purchase)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.purchases[id]
	change(&p)
	p.Version++
	s.purchases[id] = p
}

// BeforeChange lets f answer for the shop, by a status, before a change is looked at; 0
// leaves the answer to the shop.
func (s *Shop) BeforeChange(f func(id string) (status int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// AfterChange lets f run when a change is made and isn't answered yet. If it panics the
// answer is lost.
func (s *Shop) AfterChange(f func(id string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after = f
}

// ServeHTTP is the API.
func (s *Shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /purchases/{id}", s.get)
	mux.HandleFunc("PUT /purchases/{id}", s.put)
	mux.ServeHTTP(w, r)
}

func (s *Shop) get(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer(w, r.PathValue("id"))
}

func (s *Shop) put(w http.ResponseWriter, r *http.Request) {
	var wanted Purchase
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&wanted); err != nil {
		http.Error(w, "that is no purchase", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := r.PathValue("id")
	if s.before != nil {
		if status := s.before(id); status != 0 {
			http.Error(w, http.StatusText(status), status)
			return
		}
	}
	now, known := s.purchases[id]
	switch {
	case !known:
	case r.Header.Get("If-Match") != strconv.FormatInt(now.Version, 10):
		http.Error(w, "the purchase was changed meanwhile", http.StatusConflict)
		return
	case wanted.Quantity < s.Least && wanted.Quantity != 0:
		http.Error(w, fmt.Sprintf("the least order is %d", s.Least), http.StatusBadRequest)
		return
	default:
		now.Quantity, now.Version = wanted.Quantity, now.Version+1
		s.purchases[id] = now
		s.changes[id]++
		if s.after != nil {
			s.after(id)
		}
	}
	s.answer(w, id)
}

// maxRequest bounds a request's body in bytes.
const maxRequest = 64 << 10

func (s *Shop) answer(w http.ResponseWriter, id string) {
	p, known := s.purchases[id]
	if !known {
		http.Error(w, "there is no such purchase", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(p) //nolint:errchkjson // the client is gone
}
