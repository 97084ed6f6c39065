package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/headrace-go/headrace/examples/stock/internal/service"
	"github.com/headrace-go/headrace/examples/stock/internal/warehouse"
)

// maxRequest bounds a request's body in bytes.
const maxRequest = 64 << 10

// api is the service's HTTP side.
type api struct {
	*service.Service

	changes string // topic
}

func newAPI(s *service.Service, changes string) http.Handler {
	a := api{s, changes}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /changes", a.postChange)
	mux.HandleFunc("GET /products/{id}", a.getProduct)
	return mux
}

// postChange sends a change through the outbox: once this has answered 202, the
// change happens, once, whatever dies meanwhile. A client that got no answer
// repeats its request with the same Idempotency-Key (a UUID), which becomes the
// message's id: the change still happens once.
func (a api) postChange(w http.ResponseWriter, r *http.Request) {
	id, err := changeID(r.Header.Get("Idempotency-Key"))
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	change, status, err := readChange(w, r)
	if err != nil {
		fail(w, status, err)
		return
	}
	switch err := a.Warehouse.Check(r.Context(), change); {
	case errors.Is(err, warehouse.ErrRefused):
		fail(w, http.StatusUnprocessableEntity, err)
		return
	case err != nil:
		fail(w, http.StatusServiceUnavailable, err)
		return
	}

	payload, err := json.Marshal(change)
	if err == nil {
		msg := message.NewMessage(id, payload)
		msg.SetContext(r.Context())
		err = a.Headrace.Publisher().Publish(a.changes, msg)
	}
	if err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, http.StatusAccepted, map[string]string{"id": id})
}

func changeID(idempotencyKey string) (string, error) {
	if idempotencyKey == "" {
		return watermill.NewUUID(), nil
	}
	id, err := uuid.Parse(idempotencyKey)
	if err != nil {
		return "", errors.New("the header Idempotency-Key must be a UUID, or left out")
	}
	return id.String(), nil
}

func readChange(w http.ResponseWriter, r *http.Request) (change warehouse.ProductStockChanged, status int, err error) {
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	body.DisallowUnknownFields()
	err = body.Decode(&change)
	if err == nil && body.More() {
		err = errors.New("one change per request")
	}
	switch tooLarge := (*http.MaxBytesError)(nil); {
	case err == nil:
		return change, 0, nil
	case errors.As(err, &tooLarge):
		return change, http.StatusRequestEntityTooLarge, fmt.Errorf("the body is larger than %d bytes", maxRequest)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("it ends too early")
	}
	return change, http.StatusBadRequest, fmt.Errorf(
		`the body is no change: %w; send {"product": 1, "quantity": 5, "raised": true, "purchase_order_line": 11}`, err)
}

func (a api) getProduct(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		fail(w, http.StatusBadRequest, errors.New("a product's id is a number"))
		return
	}
	product, ok, err := a.Warehouse.Product(r.Context(), id)
	switch {
	case err != nil:
		fail(w, http.StatusServiceUnavailable, err)
	case !ok:
		fail(w, http.StatusNotFound, fmt.Errorf("there is no product %d", id))
	default:
		answer(w, http.StatusOK, product)
	}
}

func fail(w http.ResponseWriter, status int, err error) {
	answer(w, status, map[string]string{"error": err.Error()})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) //nolint:errchkjson // only a client that has gone makes it fail
}
