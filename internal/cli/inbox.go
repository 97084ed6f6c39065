package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/store"
)

func (a *app) inbox() *cobra.Command {
	return commandGroup("inbox", "Ask what became of a message", a.inboxWhy())
}

func (a *app) inboxWhy() *cobra.Command {
	var consumer string
	cmd := &cobra.Command{
		Use:   "why MESSAGE-ID",
		Short: "Tell what each consumer has done with a message, and why",
		Long: `Tell in words what each consumer has done with a message: its verdict in the inbox,
and the verdicts on its repeats; or that it was never seen, and since when the
consumer remembers messages at all.

The id is the message's UUID, or what DedupeConfig.Identity makes of it. Ids that are
longer than 255 bytes or not UTF-8 are stored as a hash; that may be given too.
It takes some look-ups for each consumer, also on large tables.

Exit status: 0 the story was told, also when nobody has seen the message; 2 it
could not be asked for.`,
		Example: `  headrace inbox why 5b1f6f0c-6a3c-4f7e-9d43-2f1f6c9a7e11
  headrace inbox why --consumer shop.orders 5b1f6f0c-6a3c-4f7e-9d43-2f1f6c9a7e11 --json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return errors.New("name one message by its id")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), false, func(s *session) error { return s.why(cmd.Context(), args[0], consumer) })
		},
	}
	cmd.Flags().StringVar(&consumer, "consumer", "", "tell of this consumer only, as \"service.handler\"")
	return cmd
}

// whyJSON is the result of inbox why.
type whyJSON struct {
	Database string `json:"database"`
	// MessageID is the id as it was given; what is not UTF-8 in it was replaced.
	MessageID string      `json:"message_id"`
	Consumers []storyJSON `json:"consumers"`
}

type storyJSON struct {
	Consumer string `json:"consumer"`
	Seen     bool   `json:"seen"`
	// Verdict is empty when the inbox doesn't remember the message (any more).
	Verdict string     `json:"verdict,omitempty"`
	Open    bool       `json:"open,omitempty"`
	Reason  string     `json:"reason,omitempty"`
	At      *time.Time `json:"at,omitempty"`
	// Repeats counts the log's entries, of which Log has the first and the last.
	Repeats int64        `json:"repeats"`
	Log     []repeatJSON `json:"log"`
	// Changes are what operators have changed in the consumer's memory, oldest first,
	// where it doesn't remember the message.
	Changes []changeJSON `json:"changes,omitempty"`
	// RemembersSince says how far back the consumer remembers, when it has never
	// seen the message; missing when it remembers none.
	RemembersSince *time.Time `json:"remembers_since,omitempty"`
}

type changeJSON struct {
	At      time.Time      `json:"at"`
	Actor   string         `json:"actor"`
	Action  string         `json:"action"`
	Details map[string]any `json:"details,omitempty"`
	Note    string         `json:"note,omitempty"`
}

type repeatJSON struct {
	At       time.Time `json:"at"`
	Verdict  string    `json:"verdict"`
	Reason   string    `json:"reason,omitempty"`
	Observed bool      `json:"observed,omitempty"`
}

func (s *session) why(ctx context.Context, messageID, consumer string) error {
	st, err := s.store(ctx)
	if err != nil {
		return err
	}
	defer st.Close() //nolint:errcheck // frees memory only
	var stories []store.Story
	err = s.app.progress("looking for the message", func() error {
		stories, err = st.Stories(ctx, messageID, consumer)
		return err
	})
	if errors.Is(err, store.ErrUnknownConsumer) {
		return s.knownConsumers(ctx, st, err)
	}
	if err != nil {
		return err
	}
	changes, err := changesOf(ctx, st, stories)
	if err != nil {
		return err
	}
	if s.app.json {
		return s.app.printJSON(whyOf(s.url.Name, messageID, stories, changes))
	}
	return s.app.write(whyText(messageID, stories, changes))
}

// changesOf are the finished changes of the consumers that don't remember the
// message: it may have been forgotten by one of them.
func changesOf(ctx context.Context, st *store.Store, stories []store.Story) (map[string][]store.AuditRow, error) {
	const enough = 20
	changes := map[string][]store.AuditRow{}
	for _, story := range stories {
		if story.Row != nil {
			continue
		}
		rows, err := st.AuditOf(ctx, store.TargetConsumer, story.Consumer, enough)
		if err != nil {
			return nil, err
		}
		changes[story.Consumer] = slices.DeleteFunc(rows, func(row store.AuditRow) bool {
			return row.Details["state"] != "finished"
		})
	}
	return changes, nil
}

func changeText(row store.AuditRow) string {
	what := row.Action
	if from, ok := row.Details["from"].(string); ok {
		to, _ := row.Details["to"].(string)
		what += " of what was decided from " + cell(from) + " to " + cell(to)
	}
	text := "  " + instant(row.At) + " " + what + " by " + cell(row.Actor) + because(row.Note)
	if forgotten, ok := row.Details["forgotten"].(float64); ok {
		text += ": " + plural(int64(forgotten), "message") + " forgotten"
	}
	return text + "\n"
}

// knownConsumers adds the names that could have been meant.
func (s *session) knownConsumers(ctx context.Context, st *store.Store, unknown error) error {
	names, err := st.Consumers(ctx)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("%w: nothing is remembered here at all", unknown)
	}
	const enough = 20
	more := ""
	if len(names) > enough {
		names, more = names[:enough], ", …"
	}
	for i, name := range names {
		names[i] = cell(name)
	}
	return fmt.Errorf("%w: known are %s%s", unknown, strings.Join(names, ", "), more)
}

func whyOf(database, messageID string, stories []store.Story, changes map[string][]store.AuditRow) whyJSON {
	result := whyJSON{Database: database, MessageID: messageID, Consumers: []storyJSON{}}
	for _, story := range stories {
		told := storyJSON{Consumer: story.Consumer, Seen: story.Seen(), Repeats: story.Entries, Log: []repeatJSON{}}
		if row := story.Row; row != nil {
			told.Verdict, told.Open, told.Reason, told.At = string(row.Verdict), row.Verdict.Open(), row.Reason, &row.ProcessedAt
		}
		for _, e := range story.Log {
			told.Log = append(told.Log, repeatJSON{At: e.At, Verdict: string(e.Verdict), Reason: e.Reason, Observed: e.Observed})
		}
		for _, c := range changes[story.Consumer] {
			told.Changes = append(told.Changes, changeJSON{
				At: c.At, Actor: c.Actor, Action: c.Action, Details: c.Details, Note: c.Note,
			})
		}
		if !story.Since.IsZero() {
			told.RemembersSince = &story.Since
		}
		result.Consumers = append(result.Consumers, told)
	}
	return result
}

// whyText begins with those that have seen the message.
func whyText(messageID string, stories []store.Story, changes map[string][]store.AuditRow) string {
	if len(stories) == 0 {
		return "No consumer remembers any message here.\n"
	}
	var seen, never []string
	for _, story := range stories {
		lines := []string{storyText(story)}
		for _, change := range changes[story.Consumer] {
			lines = append(lines, changeText(change))
		}
		if story.Seen() {
			seen = append(seen, lines...)
		} else {
			never = append(never, lines...)
		}
	}
	return "Message " + cell(messageID) + "\n\n" + strings.Join(slices.Concat(seen, never), "")
}

func storyText(story store.Story) string {
	var text strings.Builder
	text.WriteString(cell(story.Consumer) + ": " + outcomeWords(story) + "\n")
	for i, entry := range story.Log {
		if left := story.Entries - int64(len(story.Log)); left > 0 && i == len(story.Log)/2 {
			text.WriteString("  … " + fmt.Sprintf("%d more", left) + " …\n")
		}
		text.WriteString("  " + instant(entry.At) + " " + repeatWords(entry, story.Row) + "\n")
	}
	return text.String()
}

func outcomeWords(story store.Story) string {
	row := story.Row
	switch {
	case row == nil && story.Seen():
		return "seen before, but not remembered any more: if it comes again, it is handled as new."
	case row == nil && story.Since.IsZero():
		return "never seen. It remembers no message."
	case row == nil:
		return "never seen. It remembers messages since " + instant(story.Since) + "."
	case row.Verdict.Open():
		return string(row.Verdict) + " since " + instant(row.ProcessedAt) + because(row.Reason) +
			"; it is kept until that is decided."
	case row.Verdict == store.Applied && row.Reason == store.ReasonObserved:
		return "handled at " + instant(row.ProcessedAt) + ", while Dedupe only observed."
	}
	return string(row.Verdict) + " at " + instant(row.ProcessedAt) + because(row.Reason) + "."
}

// repeatWords says what became of a delivery of a message with this row.
func repeatWords(e store.StoryEntry, row *store.InboxRow) string {
	switch {
	case e.Verdict == store.Duplicate && e.Observed:
		return "delivered again and handled again: Dedupe only observes, and would have skipped it" + because(e.Reason)
	case e.Verdict == store.Duplicate && row != nil:
		return "delivered again: skipped, it was " + string(row.Verdict) + because(e.Reason)
	case e.Verdict == store.Duplicate:
		return "delivered again: skipped, it was handled before" + because(e.Reason)
	case e.Observed:
		return "handled, because Dedupe only observes; it would have been " + string(e.Verdict) + because(e.Reason)
	case e.Verdict == store.Conflict:
		return "delivered and refused" + because(e.Reason)
	}
	return "delivered: " + string(e.Verdict) + because(e.Reason)
}

// because adds a reason from the database to a sentence.
func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + cell(reason) + ")"
}

// instant is a time for people.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
