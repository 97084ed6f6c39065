package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/store"
)

// forgetJSON is the result of forget.
type forgetJSON struct {
	Database  string         `json:"database"`
	Actor     string         `json:"actor"`
	Parked    int64          `json:"parked"`
	Discarded int64          `json:"discarded"`
	Scheduled int64          `json:"scheduled"`
	Effects   int64          `json:"effects"`
	Reasons   int64          `json:"reasons"`
	Audit     int64          `json:"audit"`
	Left      forgetLeftJSON `json:"left"`
}

// forgetLeftJSON counts what is open and still readable.
type forgetLeftJSON struct {
	Parked    int64 `json:"parked"`
	Scheduled int64 `json:"scheduled"`
	Outbox    int64 `json:"outbox"`
	Effects   int64 `json:"effects"`
	Slots     int64 `json:"slots"`
	Paused    int64 `json:"paused"`
}

func (a *app) forget() *cobra.Command {
	var sign signature
	var f store.Forgetting
	cmd := &cobra.Command{
		Use:   "forget KEY",
		Short: "Remove everything readable of an entity",
		Long: `Remove everything readable that Headrace's tables hold of an entity: of the messages
with its key, of slots about it, of calls whose key is its name or that were made for
those messages, and of what operators have noted. What protects remains: that the
messages were handled and the calls made, by ids, keys of calls and hashes.

What was never parked isn't known by its key: name such messages with --message, by
their ids, so that the contents of calls made for them are removed too.

What is open stays, unless --discard-open is given: it is counted, and the exit status
is 1. The broker's topics and your own tables are none of this, nor are logs and
backups. It asks first, unless --yes is given; it is audited, under a hash of the key.
Cut off, run it again.

Exit status: 0 nothing readable is left, 1 something open is, 2 it could not be done.`,
		Example: `  headrace forget customer-4711 --as anna --note "asked by letter of March 3"
  headrace forget customer-4711 --message 5b1f6f0c-6a3c-4f7e-9d43-2f1f6c9a7e11 --discard-open`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Key = args[0]
			return a.changing(cmd.Context(), &sign, func(s *session, st *store.Store, change store.ConsumerChange) error {
				f.Actor, f.Note = change.Actor, change.Note
				return s.forget(cmd.Context(), st, f, sign.yes)
			})
		},
	}
	cmd.Flags().StringArrayVar(&f.MessageIDs, "message", nil, "`ID` of a further message that was about it; may be repeated")
	cmd.Flags().BoolVar(&f.DiscardOpen, "discard-open", false, "also discard what is parked and take back what is scheduled")
	sign.flags(cmd)
	return cmd
}

func (s *session) forget(ctx context.Context, st *store.Store, f store.Forgetting, yes bool) error {
	if !yes {
		what := "Everything readable of " + cell(f.Key) + " is removed for good."
		if f.DiscardOpen {
			what += " What waits of it is never handled nor sent."
		}
		if err := s.confirm(what); err != nil {
			return err
		}
	}
	var done store.Forgotten
	err := s.app.progress("forgetting", func() (err error) {
		done, err = st.Forget(ctx, f)
		return err
	})
	if err != nil {
		return err
	}
	if s.app.json {
		err = s.app.printJSON(forgetJSON{
			Database: s.url.Name, Actor: f.Actor, Parked: done.Parked, Discarded: done.Discarded, Scheduled: done.Scheduled,
			Effects: done.Effects, Reasons: done.Reasons, Audit: done.Audit, Left: forgetLeftJSON(done.Left),
		})
	} else {
		err = s.app.write(forgetText(f.Key, done))
	}
	if err == nil && done.Left.Any() {
		err = errFound
	}
	return err
}

func forgetText(key string, done store.Forgotten) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s: %s removed, %d of them discarded by this; %s for later; the contents of %s; "+
		"the reasons of %s; names and notes in %s.\n", cell(key), plural(done.Parked, "parked message"), done.Discarded,
		plural(done.Scheduled, "message"), plural(done.Effects, "call"), plural(done.Reasons, "verdict"),
		plural(done.Audit, "audited change"))
	for _, left := range []struct {
		n    int64
		text string
	}{
		{done.Left.Parked, "parked: handle or discard them (headrace parked), or pass --discard-open"},
		{done.Left.Scheduled, "scheduled: cancel them (headrace scheduled cancel), or pass --discard-open"},
		{done.Left.Slots, "slots that were sent: run this again in a day"},
		{done.Left.Outbox, "in the outbox: run this again when they are sent"},
		{done.Left.Effects, "calls whose outcome isn't known: settle them (headrace effect)"},
		{done.Left.Paused, "keys that are paused: resume them (headrace key resume)"},
	} {
		if left.n > 0 {
			fmt.Fprintf(&text, "  left: %d %s\n", left.n, left.text)
		}
	}
	return text.String()
}
