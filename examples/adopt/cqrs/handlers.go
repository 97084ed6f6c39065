package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
)

// BookRoom is a guest's command.
type BookRoom struct {
	Booking string `json:"booking"`
	Room    string `json:"room"`
	Price   int    `json:"price"`
}

// RoomBooked says that a room was booked and paid.
type RoomBooked struct {
	Booking string `json:"booking"`
	Room    string `json:"room"`
	Price   int    `json:"price"`
}

// OrderBeer is sent to the bar for each booking.
type OrderBeer struct {
	Booking string `json:"booking"`
	Count   int    `json:"count"`
}

// BeerOrdered says that the bar has it in hand.
type BeerOrdered struct {
	Booking string `json:"booking"`
	Count   int    `json:"count"`
}

type handlers struct {
	db       *sql.DB
	commands *cqrs.CommandBus
	events   *cqrs.EventBus
	partners string // base URL of the bank's and the brewery's API
}

func newHandlers(db *sql.DB, commands *cqrs.CommandBus, events *cqrs.EventBus) *handlers {
	return &handlers{db: db, commands: commands, events: events, partners: os.Getenv("PARTNERS")}
}

// BookRoom counts and records the booking, takes the money, and says so.
func (h *handlers) BookRoom(ctx context.Context, cmd *BookRoom) error {
	if _, err := h.db.ExecContext(ctx, countBooking, cmd.Room); err != nil {
		return err
	}
	if _, err := h.db.ExecContext(ctx, insertBooking, cmd.Booking, cmd.Room, cmd.Price); err != nil {
		return err
	}
	if err := h.call(ctx, "pay", cmd.Booking); err != nil {
		return err
	}
	return h.events.Publish(ctx, &RoomBooked{Booking: cmd.Booking, Room: cmd.Room, Price: cmd.Price})
}

// ServeBeer welcomes a guest with two.
func (h *handlers) ServeBeer(ctx context.Context, event *RoomBooked) error {
	return h.commands.Send(ctx, &OrderBeer{Booking: event.Booking, Count: 2})
}

// OrderBeer works in the team's own transaction.
func (h *handlers) OrderBeer(ctx context.Context, cmd *OrderBeer) error {
	tx, err := h.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, takeBeer, cmd.Count); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, insertBeer, cmd.Booking, cmd.Count); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if err := h.call(ctx, "brew", cmd.Booking); err != nil {
		return err
	}
	return h.events.Publish(ctx, &BeerOrdered{Booking: cmd.Booking, Count: cmd.Count})
}

// ReportRoom adds to the revenue.
func (h *handlers) ReportRoom(ctx context.Context, event *RoomBooked) error {
	_, err := h.db.ExecContext(ctx, addRevenue, event.Price)
	return err
}

// AuditRoom hears the same event in the same group, after ReportRoom.
func (h *handlers) AuditRoom(ctx context.Context, event *RoomBooked) error {
	if err := h.call(ctx, "audit", event.Booking); err != nil {
		return err
	}
	_, err := h.db.ExecContext(ctx, insertAudit, event.Booking)
	return err
}

// ReportBeer adds to the count of beers.
func (h *handlers) ReportBeer(ctx context.Context, event *BeerOrdered) error {
	_, err := h.db.ExecContext(ctx, addBeers, event.Count)
	return err
}

func (h *handlers) call(ctx context.Context, what, booking string) error {
	target := h.partners + "/" + what + "/" + url.PathEscape(booking)
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
		return fmt.Errorf("%s for booking %s: %s", what, booking, resp.Status)
	}
	return nil
}
