package cli

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func (a *app) review() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "review",
		Short: "Decide what only a person can judge: conflicts, and calls whose outcome nobody knows",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("review needs one of ls, accept or reject; see headrace review --help")
		},
	}
	cmd.AddCommand(a.reviewLs(), a.reviewAccept(), a.reviewReject())
	return cmd
}

func (a *app) reviewLs() *cobra.Command {
	var p picks
	var limit int
	var after int64
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List what waits for a decision",
		Long: `List the messages that wait for a decision; headrace parked show ID tells what is known
of one.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return errors.New("--limit must be at least 1")
			}
			f, err := p.filter()
			if err != nil {
				return err
			}
			f.Status = []store.ParkedStatus{store.StatusReview}
			return a.desk(cmd.Context(), parking.DeskConfig{}, func(s *session, st *store.Store, desk *parking.Desk) error {
				return s.listParked(cmd.Context(), desk, st, f, after, limit)
			})
		},
	}
	cmd.Flags().StringVar(&p.consumer, "consumer", "", "those of one `CONSUMER`")
	cmd.Flags().StringVar(&p.key, "key", "", "those of one `KEY`")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many to list")
	cmd.Flags().Int64Var(&after, "after", 0, "list those behind the one with this `ID`")
	return cmd
}

func (a *app) reviewAccept() *cobra.Command {
	var sign signature
	var decision string
	cmd := &cobra.Command{
		Use:   "accept ID...",
		Short: "Have messages in review handled after all",
		Long: `Have messages in review handled, in their turn, with the decision that their handler
reads: accept, or of a call whose outcome nobody knows again (make it once more) or
done (it has happened).

Exit status: 0 all were accepted, 1 one of them was not, 2 the database could not be
asked.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := messageNumbers(args)
			if err != nil {
				return err
			}
			known := []parking.Decision{parking.Accepted, parking.CallAgain, parking.CallDone}
			if !slices.Contains(known, parking.Decision(decision)) {
				return fmt.Errorf("--decision is accept, again or done, not %q", cell(decision))
			}
			return a.signed(cmd.Context(), &sign, func(s *session, _ *store.Store, desk *parking.Desk) error {
				return s.eachMessage("accept", desk.Actor(), "is accepted, and handled when it is its turn", ids,
					func(id int64) error { return desk.Accept(cmd.Context(), id, parking.Decision(decision)) })
			})
		},
	}
	cmd.Flags().StringVar(&decision, "decision", string(parking.Accepted), "accept, again or done")
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
				return s.eachMessage("reject", desk.Actor(), "is rejected", ids, func(id int64) error {
					return desk.Reject(cmd.Context(), id, reason)
				})
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; required")
	sign.who(cmd)
	return cmd
}
