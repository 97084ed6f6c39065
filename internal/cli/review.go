package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func (a *app) review() *cobra.Command {
	return commandGroup("review", "Decide what only a person can judge: conflicts, and calls whose outcome nobody knows",
		a.reviewLs(), a.reviewAccept(), a.reviewReject())
}

func (a *app) reviewLs() *cobra.Command {
	var p picks
	var limit int
	var after int64
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List what waits for a decision, and what differs",
		Long: `List the messages that wait for a decision, with what differs from what they were
based on; headrace parked show ID tells all that is known of one.`,
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
				return s.list(cmd.Context(), st, limit, reviewColumns(), func(ctx context.Context) ([]parking.Item, error) {
					return desk.Reviews(ctx, f, after, limit)
				})
			})
		},
	}
	cmd.Flags().StringVar(&p.consumer, "consumer", "", "those of one `CONSUMER`")
	cmd.Flags().StringVar(&p.key, "key", "", "those of one `KEY`")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many to list")
	cmd.Flags().Int64Var(&after, "after", 0, "list those behind the one with this `ID`")
	return cmd
}

func reviewColumns() columns {
	return columns{
		header: []string{"ID", "CONSUMER", "KEY", "AGE", "BEHIND", "ABOUT", "WHAT DIFFERS"},
		cells: func(item parking.Item, now time.Time) []string {
			differs := strings.Join(diffLines(item.ParkedRow), "; ")
			if differs == "" {
				differs = item.Reason
			}
			return []string{
				number(item.ID), consumerName(item.ParkedRow), item.Key, rounded(now.Sub(item.ParkedAt)), behindWords(item),
				item.Subject, differs,
			}
		},
	}
}

// diffLines says what differs, a line for each field.
func diffLines(row store.ParkedRow) (lines []string) {
	shown, err := parking.ShownOf(row)
	switch {
	case row.Problem != nil:
		err = row.Problem
		fallthrough
	case err != nil:
		return []string{"it can't be read: " + cell(err.Error())}
	}
	for _, change := range shown.Diff {
		var parts []string
		for _, part := range []struct {
			name string
			text json.RawMessage
		}{{"was", change.Was}, {"is", change.Is}, {"wanted", change.Wanted}} {
			if part.text != nil {
				parts = append(parts, part.name+" "+cell(string(part.text)))
			}
		}
		lines = append(lines, cell(change.Field)+": "+strings.Join(parts, ", "))
	}
	return lines
}

const (
	doneDecision = string(parking.CallDone)
	answered     = 200
)

func (a *app) reviewAccept() *cobra.Command {
	var sign signature
	var decision, file string
	response := parking.CallResponse{}
	cmd := &cobra.Command{
		Use:   "accept ID... [--decision DECISION | --as-done FILE]",
		Short: "Have messages in review handled after all",
		Long: `Have messages in review handled, in their turn, with the decision that their handler
reads: accept, or of a call whose outcome nobody knows again (make it once more) or
done (it has happened). --as-done FILE is done with what the provider has answered, as
far as you have found out; the handler gets it as if the answer had come.

Exit status: 0 all were accepted, 1 one of them was not, 2 the database could not be
asked.`,
		Example: `  headrace review accept 4711 --as anna --note "the bank knows nothing of it" --decision again
  headrace review accept 4712 --as-done receipt.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := messageNumbers(args)
			if err != nil {
				return err
			}
			known := []parking.Decision{parking.Accepted, parking.CallAgain, parking.CallDone}
			if !slices.Contains(known, parking.Decision(decision)) {
				return fmt.Errorf("--decision is accept, again or done, not %q", cell(decision))
			}
			body, err := a.payload(file)
			switch {
			case err != nil:
				return err
			case body == nil && cmd.Flags().Changed("code"):
				return errors.New("--code is what the provider has answered: it goes with --as-done")
			case body == nil:
			case len(ids) > 1:
				return errors.New("--as-done is the answer to one call: name one message")
			case cmd.Flags().Changed("decision") && decision != doneDecision:
				return fmt.Errorf("--as-done is another decision than %q", decision)
			default:
				response.Body = *body
			}
			return a.signed(cmd.Context(), &sign, func(s *session, _ *store.Store, desk *parking.Desk) error {
				const done = "is accepted, and handled when it is its turn"
				accepted := deskAction{desk: desk, name: "accept", done: done, tried: true}
				return s.eachMessage(cmd.Context(), accepted, ids, func(id int64) error {
					if body != nil {
						return desk.AcceptDone(cmd.Context(), id, response)
					}
					return desk.Accept(cmd.Context(), id, parking.Decision(decision))
				})
			})
		},
	}
	cmd.Flags().StringVar(&decision, "decision", string(parking.Accepted), "accept, again or done")
	cmd.Flags().StringVar(&file, "as-done", "", "`FILE` with what the provider has answered; - for standard input")
	cmd.Flags().IntVar(&response.Code, "code", answered, "with --as-done: the answer's status `CODE`")
	sign.who(cmd)
	return cmd
}

func (a *app) reviewReject() *cobra.Command {
	var sign signature
	var reason string
	cmd := &cobra.Command{
		Use:   "reject ID... --reason TEXT",
		Short: "Have messages in review never handled",
		Long: `Have messages in review never handled; what waits behind them goes on.

Exit status: 0 all were rejected, 1 one of them was not, 2 the database could not be
asked.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := messageNumbers(args)
			if err != nil {
				return err
			}
			return a.signed(cmd.Context(), &sign, func(s *session, _ *store.Store, desk *parking.Desk) error {
				rejected := deskAction{desk: desk, name: "reject", done: "is rejected"}
				return s.eachMessage(cmd.Context(), rejected, ids, func(id int64) error {
					return desk.Reject(cmd.Context(), id, reason)
				})
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; required")
	sign.who(cmd)
	return cmd
}
