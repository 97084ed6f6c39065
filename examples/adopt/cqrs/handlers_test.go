package main

import (
	"context"
	_ "embed"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/handlertest"
)

//go:embed schema.sql
var schema string

// The command's handler as it is, behind the bus and the marshaler of the service.
func TestBookRoomCountsEachBookingOnce(t *testing.T) {
	bank := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(bank.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	t.Setenv("PARTNERS", bank.URL)

	c := handlertest.Case{
		Schema:    append(strings.Split(schema, ";"), "INSERT INTO rooms VALUES ('7', 0)"),
		MustBreak: true, Runs: 60,
		Handler: func(app handlertest.App) message.NoPublishHandlerFunc {
			events, err := cqrs.NewEventBusWithConfig(app.Publisher, cqrs.EventBusConfig{
				GeneratePublishTopic: func(cqrs.GenerateEventPublishTopicParams) (string, error) { return "events", nil },
				Marshaler:            marshaler,
			})
			return func(msg *message.Message) error {
				var cmd BookRoom
				if err := marshaler.Unmarshal(msg, &cmd); err != nil {
					return err
				}
				if err != nil {
					return err
				}
				return newHandlers(app.DB, nil, events).BookRoom(msg.Context(), &cmd)
			}
		},
		Invariant: func(ctx context.Context, s handlertest.State) error {
			var counted, bookings int
			err := s.DB.QueryRowContext(ctx, `SELECT (SELECT bookings FROM rooms),
				(SELECT count(DISTINCT booking_id) FROM bookings)`).Scan(&counted, &bookings)
			if want := len(s.Sent); err == nil && (counted != want || bookings != want || len(s.Deduped()) != want) {
				err = fmt.Errorf("%d counted, %d written, %d told, want %d each", counted, bookings, len(s.Deduped()), want)
			}
			return err
		},
	}
	for _, booking := range []string{"b1", "b2"} {
		msg, err := marshaler.Marshal(&BookRoom{Booking: booking, Room: "7", Price: 90})
		if err != nil {
			t.Fatal(err)
		}
		c.Messages = append(c.Messages, msg)
	}
	handlertest.Run(t, c)
}
