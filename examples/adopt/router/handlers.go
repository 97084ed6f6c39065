package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
)

type handlers struct {
	db        *sql.DB
	publisher message.Publisher
	partners  string // base URL of the carrier's and the loyalty programme's API
	worker    string // shown in the tables, for support
}

func newHandlers(db *sql.DB, publisher message.Publisher) *handlers {
	return &handlers{db: db, publisher: publisher, partners: os.Getenv("PARTNERS"), worker: os.Getenv("WORKER")}
}

type orderPlaced struct {
	Order    string `json:"order"`
	Product  string `json:"product"`
	Quantity int    `json:"quantity"`
	Customer string `json:"customer"`
}

type stockReserved struct {
	orderPlaced

	Worker string `json:"worker"`
}

// Reserve takes an order's goods out of the stock, in the team's own
// transaction, books the parcel, and says so.
func (h *handlers) Reserve(msg *message.Message) error {
	ctx := msg.Context()
	var order orderPlaced
	if err := json.Unmarshal(msg.Payload, &order); err != nil {
		return err
	}
	tx, err := h.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, takeStock, order.Quantity, order.Product); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, insertReservation, order.Order, order.Product, order.Quantity, h.worker); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if err := h.call(ctx, "book", order.Order); err != nil {
		return err
	}
	return h.publish(ctx, "stock_reserved", stockReserved{order, h.worker})
}

// Points credits a customer, statement by statement.
func (h *handlers) Points(msg *message.Message) error {
	ctx := msg.Context()
	var reserved stockReserved
	if err := json.Unmarshal(msg.Payload, &reserved); err != nil {
		return err
	}
	if _, err := h.db.ExecContext(ctx, creditPoints, reserved.Quantity, reserved.Customer); err != nil {
		return err
	}
	if err := h.call(ctx, "credit", reserved.Order); err != nil {
		return err
	}
	if _, err := h.db.ExecContext(ctx, insertCredit, reserved.Order, reserved.Quantity); err != nil {
		return err
	}
	return h.publish(ctx, "points_earned", map[string]any{"order": reserved.Order, "points": reserved.Quantity})
}

// Invoice leaves the publishing to the router.
func (h *handlers) Invoice(msg *message.Message) ([]*message.Message, error) {
	ctx := msg.Context()
	var reserved stockReserved
	if err := json.Unmarshal(msg.Payload, &reserved); err != nil {
		return nil, err
	}
	var price int
	if err := h.db.QueryRowContext(ctx, selectPrice, reserved.Product).Scan(&price); err != nil {
		return nil, err
	}
	if _, err := h.db.ExecContext(ctx, insertInvoice, reserved.Order, price*reserved.Quantity); err != nil {
		return nil, err
	}
	payload, err := json.Marshal(map[string]any{"order": reserved.Order, "amount": price * reserved.Quantity})
	if err != nil {
		return nil, err
	}
	return []*message.Message{message.NewMessage(watermill.NewUUID(), payload)}, nil
}

func (h *handlers) publish(ctx context.Context, name string, event any) error {
	payload, err := json.Marshal(event)
	if err != nil {
		return err
	}
	msg := message.NewMessage(watermill.NewUUID(), payload)
	msg.SetContext(ctx) // for the traces
	return h.publisher.Publish(topic(name), msg)
}

func (h *handlers) call(ctx context.Context, what, order string) error {
	target := h.partners + "/" + what + "/" + url.PathEscape(order)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s of order %s: %s", what, order, resp.Status)
	}
	return nil
}
