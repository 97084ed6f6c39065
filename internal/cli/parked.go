package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func (a *app) parked() *cobra.Command {
	return commandGroup("parked", "Look at messages that couldn't be handled or sent, and decide what becomes of them",
		a.parkedLs(), a.parkedShow(), a.parkedRetry(), a.parkedEdit(), a.parkedDiscard(), a.parkedNote(), a.parkedImport())
}

// picks are the flags that pick messages.
type picks struct {
	origin, consumer, key, message, class, group string
	status                                       []string
	parkedSince                                  string
}

func (p *picks) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&p.consumer, "consumer", "", "those of one `CONSUMER`; of the outbox, of one service")
	flags.StringVar(&p.key, "key", "", "those of one `KEY`")
	flags.StringVar(&p.message, "message", "", "those with one message `ID`")
	flags.StringVar(&p.group, "group", "", "those that have failed in one way: `GROUP` as --by-error shows it")
	flags.StringVar(&p.class, "class", "", "those whose failure is transient, permanent, conflict or unknown")
	flags.StringVar(&p.origin, "origin", "", "those that a consumer, the outbox or a review has")
	flags.StringSliceVar(&p.status, "status", nil,
		"those that are waiting, delayed, released, parked, review,\ndone, discarded or expired")
	flags.StringVar(&p.parkedSince, "since", "", "those parked since a point in `TIME`")
}

func (p *picks) any() bool {
	return p.consumer+p.key+p.message+p.group+p.class+p.origin+p.parkedSince != "" || len(p.status) > 0
}

func (p *picks) filter() (store.ParkedFilter, error) {
	f := store.ParkedFilter{
		Origin: store.ParkedOrigin(p.origin), Consumer: p.consumer, Key: p.key, MessageID: p.message, Class: p.class,
		Group: p.group,
	}
	for _, status := range p.status {
		f.Status = append(f.Status, store.ParkedStatus(strings.TrimSpace(status)))
	}
	if p.parkedSince != "" {
		since, err := pointInTime("--since", p.parkedSince)
		if err != nil {
			return f, err
		}
		f.Since = since
	}
	return f, nil
}

// parkedListJSON is the result of parked ls and review ls.
type parkedListJSON struct {
	Database string       `json:"database"`
	Messages []parkedJSON `json:"messages"`
	// Next is what --after takes to go on; 0 when there is no more.
	Next int64 `json:"next"`
}

type parkedJSON struct {
	ID     int64  `json:"id"`
	Origin string `json:"origin"`
	// Consumer has the message; of one from the outbox it is the service.
	Consumer    string `json:"consumer"`
	Key         string `json:"key"`
	MessageID   string `json:"message_id"`
	Topic       string `json:"topic"`
	Destination string `json:"destination"`
	Status      string `json:"status"`
	Class       string `json:"class"`
	Reason      string `json:"reason"`
	ErrorType   string `json:"error_type"`
	Group       string `json:"group"`
	Title       string `json:"title"`
	// Attempts counts all runs, Tries those since a person has last released it.
	Attempts int       `json:"attempts"`
	Tries    int       `json:"tries"`
	Edits    int       `json:"edits"`
	ParkedAt time.Time `json:"parked_at"`
	// DueIn is of a delayed one, FinishedAt of a final one.
	DueIn      *float64   `json:"due_in_seconds,omitempty"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
	DecidedBy  string     `json:"decided_by"`
	Decision   string     `json:"decision"`
	Subject    string     `json:"subject"`
	// Ahead and Behind are messages of its line, counted to 1,000.
	Ahead  int `json:"ahead"`
	Behind int `json:"behind"`
	// Diff is what differs, of one in review; parked ls leaves it out.
	Diff []parking.Change `json:"diff,omitempty"`
}

func parkedOf(item parking.Item) parkedJSON {
	row := item.ParkedRow
	told := parkedJSON{
		ID: row.ID, Origin: string(row.Origin), Consumer: row.Consumer, Key: row.Key, MessageID: row.MessageID,
		Topic: row.Topic, Destination: row.Destination, Status: string(row.Status), Class: row.Class, Reason: row.Reason,
		ErrorType: row.ErrorType, Group: row.ErrorGroup, Title: row.ErrorTitle, Attempts: row.Attempts, Tries: row.Tries,
		Edits: row.Edits, ParkedAt: row.ParkedAt, DecidedBy: row.DecidedBy, Decision: row.Decision, Subject: row.Subject,
		Ahead: item.Ahead, Behind: item.Behind,
	}
	if shown, err := parking.ShownOf(row); err == nil { // else a person is told in words
		told.Diff = shown.Diff
	}
	if row.Status == store.StatusDelayed || row.Status == store.StatusGap {
		due := seconds(row.DueIn)
		told.DueIn = &due
	}
	if !row.FinishedAt.IsZero() {
		told.FinishedAt = &row.FinishedAt
	}
	return told
}

func (a *app) parkedLs() *cobra.Command {
	var p picks
	var limit int
	var after int64
	var byError bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List what is kept, in the order in which it was kept",
		Long: `List the messages that couldn't be handled, or sent from the outbox, and wait: for
their next try, for their turn, or for a person. BEHIND counts what waits behind each
in its key (to 1000). What only waits behind others is listed with --status waiting,
what is over with --status done,discarded,expired.

With --by-error it counts what has failed in the same way.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return errors.New("--limit must be at least 1")
			}
			f, err := p.filter()
			if err != nil {
				return err
			}
			return a.desk(cmd.Context(), parking.DeskConfig{}, func(s *session, st *store.Store, desk *parking.Desk) error {
				if byError {
					return s.parkedGroups(cmd.Context(), desk, st, f, limit)
				}
				return s.list(cmd.Context(), st, limit, parkedColumns(), func(ctx context.Context) ([]parking.Item, error) {
					return desk.List(ctx, f, after, limit)
				})
			})
		},
	}
	p.flags(cmd)
	cmd.Flags().BoolVar(&byError, "by-error", false, "count what has failed in the same way")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many to list")
	cmd.Flags().Int64Var(&after, "after", 0, "list those behind the one with this `ID`")
	return cmd
}

// desk opens the tables for somebody at the desk.
func (a *app) desk(
	ctx context.Context, cfg parking.DeskConfig, f func(*session, *store.Store, *parking.Desk) error,
) error {
	return a.with(ctx, false, func(s *session) error {
		st, err := s.store(ctx)
		if err != nil {
			return err
		}
		defer st.Close() //nolint:errcheck // frees memory only
		return f(s, st, parking.NewDesk(st, cfg))
	})
}

// columns are what a list shows of kept messages.
type columns struct {
	header []string
	cells  func(item parking.Item, now time.Time) []string
}

func parkedColumns() columns {
	return columns{
		header: []string{"ID", "CONSUMER", "KEY", "STATUS", "CLASS", "TRIES", "AGE", "NEXT", "BEHIND", "REASON"},
		cells: func(item parking.Item, now time.Time) []string {
			return []string{
				number(item.ID), consumerName(item.ParkedRow), item.Key, string(item.Status), item.Class,
				number(int64(item.Attempts)), rounded(now.Sub(item.ParkedAt)), nextWords(item.ParkedRow, now), behindWords(item),
				item.Reason,
			}
		},
	}
}

func behindWords(item parking.Item) string {
	if item.Behind >= parking.MaxQueue {
		return number(int64(item.Behind)) + "+"
	}
	return number(int64(item.Behind))
}

func (s *session) list(
	ctx context.Context, st *store.Store, limit int, c columns, read func(ctx context.Context) ([]parking.Item, error),
) error {
	now, err := st.Now(ctx)
	if err != nil {
		return err
	}
	var items []parking.Item
	err = s.app.progress("looking at what is kept", func() error {
		items, err = read(ctx)
		return err
	})
	if err != nil {
		return err
	}
	result := parkedListJSON{Database: s.url.Name, Messages: []parkedJSON{}}
	rows := [][]string{c.header}
	for _, item := range items {
		result.Messages = append(result.Messages, parkedOf(item))
		rows = append(rows, c.cells(item, now))
	}
	if len(items) == limit {
		result.Next = items[limit-1].ID
	}
	if s.app.json {
		return s.app.printJSON(result)
	}
	if len(items) == 0 {
		return s.app.write(s.url.Name + "\n\nno such message waits\n")
	}
	text := s.url.Name + "\n\n" + table(rows...)
	if result.Next > 0 {
		text += fmt.Sprintf("\nperhaps there are more: --after %d\n", result.Next)
	}
	return s.app.write(text)
}

func consumerName(row store.ParkedRow) string {
	if row.Origin == store.OriginOutbox {
		return "outbox of " + serviceName(row.Consumer)
	}
	return row.Consumer
}

// nextWords says what comes next for a message.
func nextWords(row store.ParkedRow, now time.Time) string {
	switch row.Status {
	case store.StatusDelayed:
		if row.DueIn <= 0 {
			return "tried now"
		}
		return "tried in " + rounded(row.DueIn)
	case store.StatusGap:
		return "what is missing before it, for " + rounded(max(row.DueIn, 0))
	case store.StatusParked:
		return "a person"
	case store.StatusReview:
		return "a decision"
	case store.StatusReleased:
		return "its turn, by " + row.DecidedBy
	case store.StatusWaiting:
		return "its turn"
	case store.StatusDone, store.StatusDiscarded, store.StatusExpired:
		return "over for " + rounded(now.Sub(row.FinishedAt))
	}
	return ""
}

// groupsJSON is the result of parked ls --by-error.
type groupsJSON struct {
	Database string      `json:"database"`
	Groups   []groupJSON `json:"groups"`
}

type groupJSON struct {
	Group    string    `json:"group"`
	Consumer string    `json:"consumer"`
	Class    string    `json:"class"`
	Type     string    `json:"error_type"`
	Title    string    `json:"title"`
	Count    int64     `json:"count"`
	Oldest   time.Time `json:"oldest"`
	Newest   time.Time `json:"newest"`
	// Example is the id of the oldest of them.
	Example int64 `json:"example"`
}

func (s *session) parkedGroups(
	ctx context.Context, desk *parking.Desk, st *store.Store, f store.ParkedFilter, limit int,
) error {
	now, err := st.Now(ctx)
	if err != nil {
		return err
	}
	var groups []store.ParkedGroup
	err = s.app.progress("counting", func() error {
		groups, err = desk.Groups(ctx, f, limit)
		return err
	})
	if err != nil {
		return err
	}
	result := groupsJSON{Database: s.url.Name, Groups: []groupJSON{}}
	rows := [][]string{{"GROUP", "CONSUMER", "CLASS", "COUNT", "OLDEST", "NEWEST", "EXAMPLE", "ERROR"}}
	for _, g := range groups {
		result.Groups = append(result.Groups, groupJSON{
			g.Group, g.Consumer, g.Class, g.Type, g.Title, g.Count, g.Oldest, g.Newest, g.Example,
		})
		rows = append(rows, []string{
			g.Group[:min(len(g.Group), store.MinGroup)], g.Consumer, g.Class, number(g.Count), rounded(now.Sub(g.Oldest)),
			rounded(now.Sub(g.Newest)), number(g.Example), g.Title,
		})
	}
	if s.app.json {
		return s.app.printJSON(result)
	}
	if len(groups) == 0 {
		return s.app.write(s.url.Name + "\n\nno such message waits\n")
	}
	return s.app.write(s.url.Name + "\n\n" + table(rows...))
}
