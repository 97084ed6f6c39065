package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/store"
)

// scheduledJSON is the result of scheduled ls.
type scheduledJSON struct {
	Database string                 `json:"database"`
	Messages []scheduledMessageJSON `json:"messages"`
	// Next is what --after takes to go on; 0 when there is no more.
	Next int64 `json:"next"`
}

type scheduledMessageJSON struct {
	ID          int64     `json:"id"`
	Service     string    `json:"service"`
	Destination string    `json:"destination"`
	Topic       string    `json:"topic"`
	MessageID   string    `json:"message_id"`
	Key         string    `json:"key"`
	DueAt       time.Time `json:"due_at"`
	DueIn       float64   `json:"due_in_seconds"`
	// Subject is of the slot that it is for, "" of none.
	Subject string `json:"subject"`
}

func (a *app) scheduled() *cobra.Command {
	var limit int
	var after int64
	ls := &cobra.Command{
		Use:   "ls",
		Short: "List what waits to be sent later, what is due first before others",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return errors.New("--limit must be at least 1")
			}
			return a.with(cmd.Context(), false, func(s *session) error { return s.listScheduled(cmd.Context(), after, limit) })
		},
	}
	ls.Flags().IntVar(&limit, "limit", 50, "how many to list")
	ls.Flags().Int64Var(&after, "after", 0, "list those behind the one with this `ID`")
	var service string
	cancel := &cobra.Command{
		Use:   "cancel MESSAGE-ID...",
		Short: "Take back messages that wait to be sent later",
		Long: `Take back messages that wait to be sent later, by their ids as "scheduled ls" shows
them. Of a time slot it does so for everybody who asked for its message; one who
asks again has it back.

Exit status: 0 all were taken back, 1 one of them doesn't wait (any more), 2 the
database could not be asked.`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return a.with(cmd.Context(), false, func(s *session) error { return s.cancelScheduled(cmd.Context(), service, ids) })
		},
	}
	cancel.Flags().StringVar(&service, "service", "", "whose messages they are, as Config.Service names it")
	return commandGroup("scheduled", "Show or cancel messages that wait to be sent later", ls, cancel)
}

func (s *session) listScheduled(ctx context.Context, after int64, limit int) error {
	st, err := s.store(ctx)
	if err != nil {
		return err
	}
	defer st.Close() //nolint:errcheck // frees memory only
	now, err := st.Now(ctx)
	if err != nil {
		return err
	}
	rows, err := st.ListScheduled(ctx, after, limit)
	if err != nil {
		return err
	}
	result := scheduledJSON{Database: s.url.Name, Messages: []scheduledMessageJSON{}}
	shown := [][]string{{"ID", "SERVICE", "DESTINATION", "TOPIC", "MESSAGE", "KEY", "DUE IN", "SUBJECT"}}
	for _, row := range rows {
		due := row.DueAt.Sub(now)
		result.Messages = append(result.Messages, scheduledMessageJSON{
			row.ID, row.Service, row.Destination, row.Topic, row.MessageID, row.Key, row.DueAt, seconds(due), row.Subject,
		})
		shown = append(shown, []string{
			number(row.ID), serviceName(row.Service), row.Destination, row.Topic, row.MessageID, row.Key, rounded(due),
			row.Subject,
		})
	}
	if len(rows) == limit {
		result.Next = rows[limit-1].ID
	}
	if s.app.json {
		return s.app.printJSON(result)
	}
	if len(rows) == 0 {
		return s.app.write(s.url.Name + "\n\nnothing waits to be sent later\n")
	}
	text := s.url.Name + "\n\n" + table(shown...)
	if result.Next > 0 {
		text += fmt.Sprintf("\nperhaps there are more: --after %d\n", result.Next)
	}
	return s.app.write(text)
}

func (s *session) cancelScheduled(ctx context.Context, service string, ids []string) error {
	st, err := s.store(ctx)
	if err != nil {
		return err
	}
	defer st.Close() //nolint:errcheck // frees memory only
	result := struct {
		Cancelled []string `json:"cancelled"`
		NotFound  []string `json:"not_found"`
	}{[]string{}, []string{}}
	for _, id := range ids {
		var n int64
		err := st.InTx(ctx, func(ctx context.Context, tx store.Tx) (err error) {
			n, err = st.CancelScheduled(ctx, tx, service, id)
			return err
		})
		switch {
		case err != nil:
			return err
		case n > 0:
			result.Cancelled = append(result.Cancelled, id)
		default:
			result.NotFound = append(result.NotFound, id)
		}
	}
	if s.app.json {
		err = s.app.printJSON(result)
	} else {
		var text strings.Builder
		for _, id := range result.Cancelled {
			fmt.Fprintf(&text, "cancelled %s\n", cell(id))
		}
		hint := ""
		if service == "" {
			hint = " (--service)"
		}
		for _, id := range result.NotFound {
			fmt.Fprintf(&text, "%s doesn't wait to be sent by service %s: it was sent or cancelled, or is another service's%s\n",
				cell(id), serviceName(service), hint)
		}
		err = s.app.write(text.String())
	}
	if err == nil && len(result.NotFound) > 0 {
		err = errFound
	}
	return err
}
