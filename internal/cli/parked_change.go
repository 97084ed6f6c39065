package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// deskJSON is the result of parked edit, discard and note, and of review accept and
// reject.
type deskJSON struct {
	Database string  `json:"database"`
	Action   string  `json:"action"`
	Actor    string  `json:"actor"`
	Done     []int64 `json:"done"`
	// Refused are those that were left as they are.
	Refused []refusedJSON `json:"refused"`
	// NotRunning are the consumers that are to handle messages now and that no process
	// says it handles.
	NotRunning []string `json:"not_running"`
}

type refusedJSON struct {
	ID  int64  `json:"id"`
	Why string `json:"why"`
}

// deskAction is what a command does to messages.
type deskAction struct {
	desk *parking.Desk
	// name is the command's, done what it has made of a message.
	name, done string
	// tried says that the messages are to be handled then.
	tried bool
}

// eachMessage does something to messages, one after another.
func (s *session) eachMessage(ctx context.Context, a deskAction, ids []int64, f func(id int64) error) error {
	result := deskJSON{
		Database: s.url.Name, Action: a.name, Actor: a.desk.Actor(),
		Done: []int64{}, Refused: []refusedJSON{}, NotRunning: []string{},
	}
	var text strings.Builder
	var consumers []string
	for _, id := range ids {
		err := f(id)
		switch {
		case err == nil:
			result.Done = append(result.Done, id)
			fmt.Fprintf(&text, "%d %s\n", id, a.done)
			if row, err := a.desk.Get(ctx, id); err == nil && row.Origin != store.OriginOutbox {
				consumers = append(consumers, row.Consumer)
			}
		case parking.IsRefusal(err):
			result.Refused = append(result.Refused, refusedJSON{id, err.Error()})
			text.WriteString(refusalText(id, err))
		default:
			if text.Len() > 0 {
				s.app.sayf("%s", strings.TrimSpace(text.String())) // what is done already
			}
			return err
		}
	}
	if a.tried {
		result.NotRunning = s.notRunning(ctx, a.desk, consumers)
	}
	var err error
	if s.app.json {
		err = s.app.printJSON(result)
	} else {
		err = s.app.write(text.String())
	}
	if err == nil && len(result.Refused) > 0 {
		err = errFound
	}
	return err
}

func refusalText(id int64, why error) string {
	return fmt.Sprintf("%d left as it is: %s\n", id, sentence(strings.TrimPrefix(why.Error(), "parking: ")))
}

func (a *app) parkedEdit() *cobra.Command {
	var sign signature
	var file string
	var set, unset []string
	var edit parking.Edit
	cmd := &cobra.Command{
		Use:   "edit ID [--payload FILE] [--set NAME=VALUE] [--retry]",
		Short: "Change what is handled of a message; what came is kept",
		Long: `Change the payload or metadata entries of a message before it is tried again. What
came is kept beside it, and the audit says who has changed it. A message that is edited
again is changed from what it was edited to.`,
		Example: `  headrace parked show 4711 --payload raw > order.json
  headrace parked edit 4711 --payload order.json --retry --as anna`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := messageNumbers(args)
			if err != nil {
				return err
			}
			if edit.Payload, err = a.payload(file); err != nil {
				return err
			}
			edit.Set, edit.Unset = map[string]string{}, unset
			for _, entry := range set {
				name, value, ok := strings.Cut(entry, "=")
				if !ok || name == "" {
					return fmt.Errorf("--set %q is not NAME=VALUE", cell(entry))
				}
				edit.Set[name] = value
			}
			return a.signed(cmd.Context(), &sign, func(s *session, _ *store.Store, desk *parking.Desk) error {
				done := fmt.Sprintf("is edited; `headrace parked retry %d` has it tried", ids[0])
				if edit.Retry {
					done = "is edited, and tried again when it is its turn"
				}
				edited := deskAction{desk: desk, name: "edit", done: done, tried: edit.Retry}
				return s.eachMessage(cmd.Context(), edited, ids, func(id int64) error {
					return desk.Edit(cmd.Context(), id, edit)
				})
			})
		},
	}
	cmd.Flags().StringVar(&file, "payload", "", "`FILE` with the new payload; - for standard input")
	cmd.Flags().StringArrayVar(&set, "set", nil, "metadata entry `NAME=VALUE` to add or replace")
	cmd.Flags().StringArrayVar(&unset, "unset", nil, "`NAME` of a metadata entry to remove")
	cmd.Flags().BoolVar(&edit.Retry, "retry", false, "have it tried again at once")
	sign.who(cmd)
	return cmd
}

// payload reads a file, or nothing where none is given.
func (a *app) payload(file string) (*[]byte, error) {
	var content []byte
	var err error
	switch file {
	case "":
		return nil, nil //nolint:nilnil // there is none
	case "-":
		content, err = io.ReadAll(a.In)
	default:
		content, err = os.ReadFile(file) //nolint:gosec // the file that the operator names
	}
	if err != nil {
		return nil, fmt.Errorf("read the payload: %w", err)
	}
	return &content, nil
}

func (a *app) parkedDiscard() *cobra.Command {
	var sign signature
	var reason string
	cmd := &cobra.Command{
		Use:   "discard ID... --reason TEXT",
		Short: "Have messages never handled",
		Long: `Have messages never handled, or never sent. What waits behind them goes on. Their
story (headrace inbox why) tells who did so and why; they are kept like others that are
over.

Exit status: 0 all were discarded, 1 one of them was not, 2 the database could not be
asked.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := messageNumbers(args)
			if err != nil {
				return err
			}
			return a.signed(cmd.Context(), &sign, func(s *session, _ *store.Store, desk *parking.Desk) error {
				discarded := deskAction{desk: desk, name: "discard", done: "is discarded"}
				return s.eachMessage(cmd.Context(), discarded, ids, func(id int64) error {
					return desk.Discard(cmd.Context(), id, reason)
				})
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; required")
	sign.who(cmd)
	return cmd
}

func (a *app) parkedNote() *cobra.Command {
	var sign signature
	cmd := &cobra.Command{
		Use:   "note ID TEXT...",
		Short: "Add a line to a message's notes",
		Args:  atLeast(2), //nolint:mnd // a number and a word
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := messageNumbers(args[:1])
			if err != nil {
				return err
			}
			return a.signed(cmd.Context(), &sign, func(s *session, _ *store.Store, desk *parking.Desk) error {
				noted := deskAction{desk: desk, name: "note", done: "has one more note"}
				return s.eachMessage(cmd.Context(), noted, ids, func(id int64) error {
					return desk.Note(cmd.Context(), id, strings.Join(args[1:], " "))
				})
			})
		},
	}
	sign.who(cmd)
	return cmd
}

// retriedJSON is the result of parked retry.
type retriedJSON struct {
	Database string `json:"database"`
	Actor    string `json:"actor"`
	Total    int    `json:"total"`
	Released int    `json:"released"`
	// Refused were left as they are; the first of them are named.
	Refused []refusedJSON `json:"refused"`
	// RefusedCount is how many they are.
	RefusedCount int `json:"refused_count"`
	// What became of those released; only with --wait.
	Outcome *outcomeJSON `json:"outcome,omitempty"`
	// NotRunning is deskJSON's.
	NotRunning []string `json:"not_running"`
}

type outcomeJSON struct {
	Done        int `json:"done"`
	FailedAgain int `json:"failed_again"`
	Discarded   int `json:"discarded"`
	Expired     int `json:"expired"`
	Open        int `json:"open"`
}

func (a *app) parkedRetry() *cobra.Command {
	var sign signature
	var p picks
	var o parking.GroupOptions
	var all bool
	cmd := &cobra.Command{
		Use:   "retry ID... | --group GROUP | --consumer CONSUMER ... | --all",
		Short: "Have messages tried again",
		Long: `Have messages tried again when it is their turn: those that are named, or those that
the flags pick among what waits for a person or for its next try. They are handled by
the processes of their consumer, or sent by those of their service, in the order of
each key; --rate lets a number of them go in a second, and --wait waits until each was
handled or has failed again.

What has failed for good (class permanent) is left as it is unless it was edited, or
--force is given. Somebody else may retry the same messages at the same time: each is
tried once. Cut off, it is run again: what was released already is left alone.

Exit status: 0 all were released (and handled, with --wait), 1 some were not, 2 the
database could not be asked.`,
		Example: `  headrace parked retry 4711 4712 --as anna --note "supplier 7 is known now"
  headrace parked retry --group a1b2c3d4 --rate 10 --wait`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := p.filter()
			if err != nil {
				return err
			}
			switch {
			case len(args) > 0 && (all || p.any()), all && p.any(), len(args) == 0 && !all && !p.any():
				return errors.New("which messages? Name their numbers, or pick them by --group, --consumer, --key or others, " +
					"or pass --all")
			case len(args) > 0:
				if f.IDs, err = messageNumbers(args); err != nil {
					return err
				}
			}
			return a.signed(cmd.Context(), &sign, func(s *session, _ *store.Store, desk *parking.Desk) error {
				return s.retryParked(cmd.Context(), desk, f, o)
			})
		},
	}
	p.flags(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&all, "all", false, "all that wait for a person or for their next try")
	flags.Float64Var(&o.Rate, "rate", 0, "how many a second at most; 0 for no limit")
	flags.IntVar(&o.Limit, "limit", 0, "how many at most; 0 for all")
	flags.BoolVar(&o.Force, "force", false, "also what has failed for good")
	flags.BoolVar(&o.Follow, "wait", false, "wait until each was handled or has failed again")
	sign.who(cmd)
	return cmd
}

func (s *session) retryParked(
	ctx context.Context, desk *parking.Desk, f store.ParkedFilter, o parking.GroupOptions,
) error {
	const named = 20
	result := retriedJSON{Database: s.url.Name, Actor: desk.Actor(), Refused: []refusedJSON{}, NotRunning: []string{}}
	var refused strings.Builder
	o.Refused = func(id int64, why error) {
		if len(result.Refused) < named {
			result.Refused = append(result.Refused, refusedJSON{id, why.Error()})
			refused.WriteString(refusalText(id, why))
		}
	}
	consumers := map[string]bool{}
	o.Released = func(row store.ParkedRow) {
		if row.Origin != store.OriginOutbox {
			consumers[row.Consumer] = true
		}
	}
	said := time.Now()
	o.Progress = func(p parking.Progress) {
		if time.Since(said) >= s.app.ProgressEvery {
			said = time.Now()
			s.app.sayf("%s", progressText(p, o.Follow))
		}
	}
	p, err := desk.RetryAll(ctx, f, o)
	result.Total, result.Released, result.RefusedCount = p.Total, p.Released, p.Refused
	if o.Follow {
		result.Outcome = &outcomeJSON{p.Done, p.FailedAgain, p.Discarded, p.Expired, p.Open}
	}
	nobody := (*parking.NobodyRunsError)(nil)
	switch {
	case errors.As(err, &nobody):
		result.NotRunning = nobody.Consumers
	case p.Released > 0 && !o.Follow:
		result.NotRunning = s.notRunning(ctx, desk, slices.Collect(maps.Keys(consumers)))
	}
	text := progressText(p, o.Follow) + "\n" + refused.String()
	if more := p.Refused - len(result.Refused); more > 0 {
		text += fmt.Sprintf("… and %d more left as they are\n", more)
	}
	switch {
	case p.Total == 0 && err == nil && !s.app.json:
		return s.app.write("no message waits that is so\n")
	case s.app.json:
		err = errors.Join(s.app.printJSON(result), err)
	default:
		err = errors.Join(s.app.write(text), err)
	}
	if nobody != nil {
		s.app.sayf("headrace: %s", sentence(strings.TrimPrefix(nobody.Error(), "parking: ")))
		return errFound
	}
	if err == nil && p.Refused+p.FailedAgain > 0 {
		err = errFound
	}
	return err
}

// notRunning returns, and tells of, consumers whose messages are to be handled by nobody
// who runs.
func (s *session) notRunning(ctx context.Context, desk *parking.Desk, consumers []string) []string {
	nobody, err := desk.NotRunning(ctx, consumers...)
	if err != nil || len(nobody) == 0 { // it is only a word to the wise
		return []string{}
	}
	s.app.sayf("note: %s", sentence(strings.TrimPrefix((&parking.NobodyRunsError{Consumers: nobody}).Error(), "parking: ")))
	return nobody
}

func progressText(p parking.Progress, follow bool) string {
	text := fmt.Sprintf("released %d of %s", p.Released, plural(int64(p.Total), "message"))
	if p.Left > 0 {
		text += fmt.Sprintf(" (%s left)", rounded(p.Left))
	}
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	if follow {
		add(p.Done, "handled")
		add(p.FailedAgain, "failed again")
		add(p.Discarded, "discarded")
		add(p.Expired, "expired")
		add(p.Open, "not tried yet")
	}
	add(p.Refused, "left as they are")
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	return text
}
