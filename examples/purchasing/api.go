package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/headrace-go/headrace/examples/purchasing/buying"
	"github.com/headrace-go/headrace/examples/purchasing/service"
)

// maxRequest bounds a request's body in bytes.
const maxRequest = 64 << 10

// api is the service's HTTP side.
type api struct{ *service.Service }

func newAPI(s *service.Service) http.Handler {
	a := api{s}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /recommendations", a.recommendations)
	mux.HandleFunc("PUT /recommendations/{id}/order", a.order)
	mux.HandleFunc("DELETE /recommendations/{id}/order", a.withdraw)
	mux.HandleFunc("GET /mails", a.mails)
	mux.HandleFunc("POST /mails/{id}/settle", a.settle)
	return mux
}

func (a api) recommendations(w http.ResponseWriter, r *http.Request) {
	all, err := a.Desk.Recommendations(r.Context())
	answer(w, all, err)
}

func (a api) mails(w http.ResponseWriter, r *http.Request) {
	all, err := a.Desk.Mails(r.Context())
	answer(w, all, err)
}

// order orders, or changes an order that the supplier doesn't have yet. It may be
// repeated by a client that got no answer.
func (a api) order(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Quantity int64 `json:"quantity"`
	}
	id, err := read(w, r, &body)
	if err == nil && body.Quantity < 1 {
		err = badRequestError{errors.New("quantity must be 1 or more")}
	}
	a.decide(w, r, id, body.Quantity, err)
}

func (a api) withdraw(w http.ResponseWriter, r *http.Request) {
	id, err := read(w, r, nil)
	a.decide(w, r, id, 0, err)
}

// decide answers with the recommendation as it is then: a shop takes its time.
func (a api) decide(w http.ResponseWriter, r *http.Request, id, quantity int64, err error) {
	var now struct {
		buying.Recommendation

		MailAt time.Time `json:"mail_at,omitzero"`
	}
	if err == nil {
		now.MailAt, err = a.Order(r.Context(), id, quantity)
	}
	if err == nil {
		now.Recommendation, err = a.Desk.Recommendation(r.Context(), id)
	}
	answer(w, now, err)
}

// settle says of a mail in the state "unknown" whether the supplier has it.
func (a api) settle(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Actor string `json:"actor"`
		Sent  *bool  `json:"sent"`
		Note  string `json:"note"`
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&body)
	if err != nil || body.Actor == "" || body.Sent == nil {
		err = badRequestError{errors.Join(err, errors.New(`send {"actor": "you", "sent": true or false, "note": "why"}`))}
	} else {
		err = a.Settle(r.Context(), body.Actor, r.PathValue("id"), *body.Sent, body.Note)
	}
	answer(w, map[string]string{"settled": r.PathValue("id")}, err)
}

// badRequestError is the client's fault.
type badRequestError struct{ error }

// read returns the request's id, and its body in into.
func read(w http.ResponseWriter, r *http.Request, into any) (id int64, err error) {
	if id, err = strconv.ParseInt(r.PathValue("id"), 10, 64); err != nil {
		return 0, badRequestError{errors.New("a recommendation's id is a number")}
	}
	if into == nil {
		return id, nil
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(into); err != nil {
		return 0, badRequestError{fmt.Errorf("the body can't be read: %w", err)}
	}
	return id, nil
}

func answer(w http.ResponseWriter, value any, err error) {
	status := http.StatusOK
	if err != nil {
		status, value = statusOf(err), map[string]string{"error": err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) //nolint:errchkjson // the client is gone
}

func statusOf(err error) int {
	switch bad := (badRequestError{}); {
	case errors.As(err, &bad):
		return http.StatusBadRequest
	case errors.Is(err, buying.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, buying.ErrMailed), errors.Is(err, buying.ErrNotOrdered):
		return http.StatusConflict
	default:
		return http.StatusServiceUnavailable
	}
}
