package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/store"
)

// auditJSON is the result of audit ls.
type auditJSON struct {
	Database string        `json:"database"`
	Changes  []auditedJSON `json:"changes"`
	// Next is what --before takes to go on; 0 when there is no more.
	Next int64 `json:"next"`
}

type auditedJSON struct {
	ID     int64     `json:"id"`
	At     time.Time `json:"at"`
	Actor  string    `json:"actor"`
	Action string    `json:"action"`
	Kind   string    `json:"kind"`
	Target string    `json:"target"`
	// Key is the message key that it was about, "" where it was about none.
	Key     string         `json:"key"`
	Details map[string]any `json:"details"`
	Note    string         `json:"note"`
}

func (a *app) audit() *cobra.Command {
	var f store.AuditFilter
	var since string
	var limit int
	ls := &cobra.Command{
		Use:   "ls",
		Short: "List what operators have changed, the last changes first",
		Long: `List what operators have changed with this command, or with a program of your own:
who, when, what, and their note. Payloads are never in it. It is kept for a year, unless
PurgeConfig.Audit says otherwise.`,
		Example: `  headrace audit ls --actor anna --since 2026-03-01
  headrace audit ls --kind consumer --target shop.orders --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if limit < 1 {
				return errors.New("--limit must be at least 1")
			}
			if since != "" {
				if f.Since, err = pointInTime("--since", since); err != nil {
					return err
				}
			}
			return a.with(cmd.Context(), false, func(s *session) error { return s.listAudit(cmd.Context(), f, limit) })
		},
	}
	ls.Flags().StringVar(&f.Actor, "actor", "", "list what `NAME` has changed")
	ls.Flags().StringVar(&f.Action, "action", "", "list changes of this `KIND`, such as rename")
	ls.Flags().StringVar(&f.TargetKind, "kind", "", "list changes of things of this `KIND`, such as consumer")
	ls.Flags().StringVar(&f.Target, "target", "", "list changes of the thing with this `NAME`")
	ls.Flags().StringVar(&f.Subject, "key", "", "list changes that were about this message `KEY`")
	ls.Flags().StringVar(&since, "since", "", "list changes since this `TIME`, such as 2026-03-01T14:00:00Z")
	ls.Flags().IntVar(&limit, "limit", 50, "how many to list")
	ls.Flags().Int64Var(&f.Before, "before", 0, "list those before the one with this `ID`")
	return commandGroup("audit", "Show what operators have changed", ls)
}

func (s *session) listAudit(ctx context.Context, f store.AuditFilter, limit int) error {
	st, err := s.store(ctx)
	if err != nil {
		return err
	}
	defer st.Close() //nolint:errcheck // frees memory only
	rows, err := st.ListAudit(ctx, f, limit)
	if err != nil {
		return err
	}
	result := auditJSON{Database: s.url.Name, Changes: []auditedJSON{}}
	shown := [][]string{{"ID", "AT", "ACTOR", "ACTION", "TARGET", "KEY", "DETAILS", "NOTE"}}
	for _, row := range rows {
		result.Changes = append(result.Changes, auditedJSON{
			row.ID, row.At, row.Actor, row.Action, row.TargetKind, row.Target, row.Subject, row.Details, row.Note,
		})
		shown = append(shown, []string{
			number(row.ID), instant(row.At), row.Actor, row.Action, row.TargetKind + " " + row.Target, row.Subject,
			auditDetails(row.Details), row.Note,
		})
	}
	if len(rows) == limit {
		result.Next = rows[limit-1].ID
	}
	if s.app.json {
		return s.app.printJSON(result)
	}
	if len(rows) == 0 {
		return s.app.write(s.url.Name + "\n\nno such change is recorded\n")
	}
	text := s.url.Name + "\n\n" + table(shown...)
	if result.Next > 0 {
		text += fmt.Sprintf("\nperhaps there are more: --before %d\n", result.Next)
	}
	return s.app.write(text)
}

// auditDetails is JSON, whose names are sorted.
func auditDetails(details map[string]any) string {
	if len(details) == 0 {
		return ""
	}
	text, err := json.Marshal(details)
	if err != nil {
		return "can't be shown"
	}
	return string(text)
}
