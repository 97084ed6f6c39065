package cli

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// parkedShowJSON is the result of parked show.
type parkedShowJSON struct {
	parkedJSON

	Database string      `json:"database"`
	Content  contentJSON `json:"content"`
	// Edited is what is handled instead, missing where nobody has edited it.
	Edited *contentJSON `json:"edited,omitempty"`
	// Problem says why the content can't be read.
	Problem string `json:"problem,omitempty"`
	// Seen and Current are the states that a review is about; only with --payload.
	Seen    json.RawMessage       `json:"seen,omitempty"`
	Current json.RawMessage       `json:"current,omitempty"`
	Errors  []store.ErrorLink     `json:"errors"`
	History []store.AttemptRecord `json:"history"`
	Notes   string                `json:"notes"`
	Gate    *gateJSON             `json:"gate,omitempty"`
	Audit   []changeJSON          `json:"audit"`
}

type contentJSON struct {
	Bytes    int               `json:"bytes"`
	Metadata map[string]string `json:"metadata"`
	// Payload is in base64, and only there with --payload.
	Payload *[]byte `json:"payload,omitempty"`
}

type gateJSON struct {
	HeldSeconds float64 `json:"held_seconds"`
	Paused      bool    `json:"paused"`
	ClaimedBy   string  `json:"claimed_by"`
	Waiting     int64   `json:"waiting"`
	// DueIn is when it is worked next; missing when a person has to say so.
	DueIn *float64 `json:"due_in_seconds,omitempty"`
}

func gateOf(gate *store.Gate) *gateJSON {
	if gate == nil {
		return nil
	}
	told := &gateJSON{
		HeldSeconds: seconds(gate.HeldFor), Paused: gate.Paused, ClaimedBy: gate.ClaimedBy, Waiting: gate.Waiting(),
	}
	if gate.Due {
		due := seconds(gate.DueIn)
		told.DueIn = &due
	}
	return told
}

func changesJSON(rows []store.AuditRow) []changeJSON {
	told := make([]changeJSON, 0, len(rows))
	for _, c := range rows {
		told = append(told, changeJSON{At: c.At, Actor: c.Actor, Action: c.Action, Details: c.Details, Note: c.Note})
	}
	return told
}

func (a *app) parkedShow() *cobra.Command {
	var form string
	var original bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show all there is to know of a message that is kept",
		Long: `Show a message that is kept: where it stands, every error of its failure, its tries,
what people have done to it and said of it. Its payload is shown only with --payload:
text (made harmless for a terminal), hex, or raw, which writes its bytes and nothing
else, for a file. Of a message that was edited it is what is handled; --original is for
what came.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := messageNumber(args[0])
			if err != nil {
				return err
			}
			if !slices.Contains([]string{"", "text", "hex", "raw"}, form) {
				return fmt.Errorf("--payload is text, hex or raw, not %q", cell(form))
			}
			return a.desk(cmd.Context(), parking.DeskConfig{}, func(s *session, st *store.Store, desk *parking.Desk) error {
				return s.showParked(cmd.Context(), desk, st, id, form, original)
			})
		},
	}
	cmd.Flags().StringVar(&form, "payload", "", "show the payload as `FORM` text, hex or raw")
	cmd.Flags().BoolVar(&original, "original", false, "with --payload: what came, not what it was edited to")
	return cmd
}

func (s *session) showParked(
	ctx context.Context, desk *parking.Desk, st *store.Store, id int64, form string, original bool,
) error {
	whole, err := desk.Get(ctx, id)
	if err != nil {
		return err
	}
	now, err := st.Now(ctx)
	if err != nil {
		return err
	}
	payload, _ := whole.Handled()
	if original {
		payload = whole.Payload
	}
	switch {
	case form != "" && whole.Problem != nil:
		return fmt.Errorf("the payload of message %d can't be read: %w", id, whole.Problem)
	case s.app.json:
		return s.app.printJSON(s.showJSON(whole, form != ""))
	case form == "raw":
		return s.app.write(string(payload))
	}
	text := showText(whole, now)
	if shown, err := parking.ShownOf(whole.ParkedRow); err == nil && form != "" {
		text += stateText("Seen", shown.Seen) + stateText("Current", shown.Current)
	}
	switch form {
	case "text":
		text += "\nPayload\n" + harmless(string(payload)) + "\n"
	case "hex":
		text += "\nPayload\n" + hex.Dump(payload)
	}
	return s.app.write(text)
}

func stateText(name string, state json.RawMessage) string {
	if state == nil {
		return ""
	}
	return "\n" + name + "\n" + harmless(string(state)) + "\n"
}

func (s *session) showJSON(whole parking.Whole, withPayload bool) parkedShowJSON {
	content := func(payload []byte, metadata map[string]string) contentJSON {
		told := contentJSON{Bytes: len(payload), Metadata: metadata}
		if withPayload {
			told.Payload = &payload
		}
		return told
	}
	told := parkedShowJSON{
		Database: s.url.Name, parkedJSON: parkedOf(whole.Item), Content: content(whole.Payload, whole.Metadata),
		Errors: whole.Chain, History: whole.History, Notes: whole.Note, Gate: gateOf(whole.Gate), Audit: changesJSON(whole.Audit),
	}
	if whole.Edits > 0 {
		edited := content(whole.EditedPayload, whole.EditedMetadata)
		told.Edited = &edited
	}
	if whole.Problem != nil {
		told.Problem = whole.Problem.Error()
	}
	if shown, err := parking.ShownOf(whole.ParkedRow); err == nil && withPayload {
		told.Seen, told.Current = shown.Seen, shown.Current
	}
	return told
}

// sentence is cell for a text of any length.
func sentence(text string) string { return harmless(strings.Join(strings.Fields(text), " ")) }

// harmless is cell for text of several lines.
func harmless(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' || r == '\t' {
			return r
		}
		return '·'
	}, strings.ToValidUTF8(text, "·"))
}

func showText(whole parking.Whole, now time.Time) string {
	var text strings.Builder
	row := whole.ParkedRow
	fmt.Fprintf(&text, "Message %d of %s: %s, kept for %s; next: %s\n", row.ID, cell(consumerName(row)), row.Status,
		rounded(now.Sub(row.ParkedAt)), cell(nextWords(row, now)))
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&text, "  %-9s %s\n", name, value)
		}
	}
	field("id", cell(row.MessageID))
	field("key", cell(row.Key))
	field("topic", cell(strings.TrimSpace(row.Topic+" "+row.Destination)))
	field("failed", cell(row.Reason))
	if row.ErrorGroup != "" {
		field("group", cell(row.ErrorGroup[:min(len(row.ErrorGroup), store.MinGroup)])+" "+cell(row.ErrorTitle))
	}
	field("class", cell(row.Class))
	field("tries", number(int64(row.Attempts)))
	field("about", cell(row.Subject))
	field("line", lineWords(whole))
	contentText(field, "payload", "metadata", row.Payload, row.Metadata)
	if row.Edits > 0 {
		contentText(field, "edited to", "with", row.EditedPayload, row.EditedMetadata)
	}
	if row.Problem != nil {
		field("unread", cell(row.Problem.Error()))
	}
	section := func(name string, lines []string) {
		if len(lines) > 0 {
			text.WriteString("\n" + name + "\n")
		}
		for _, line := range lines {
			text.WriteString("  " + line + "\n")
		}
	}
	if row.Problem == nil {
		section("What differs", diffLines(row))
	}
	section("Errors, from the outside to the cause", chainLines(row.Chain))
	section("Tries that have failed", historyLines(row.History))
	if row.Note != "" {
		var notes []string
		for line := range strings.SplitSeq(row.Note, "\n") {
			notes = append(notes, harmless(line))
		}
		section("Notes", notes)
	}
	section("Changes", auditLines(whole.Audit))
	return text.String()
}

func contentText(field func(name, value string), payloadName, name string, payload []byte, metadata map[string]string) {
	field(payloadName, plural(int64(len(payload)), "byte"))
	for _, entry := range slices.Sorted(maps.Keys(metadata)) {
		field(name, cell(entry)+" = "+cell(metadata[entry]))
		name = ""
	}
}

// lineWords says where a message stands among those of its key.
func lineWords(whole parking.Whole) string {
	if whole.Gate == nil {
		return ""
	}
	words := "first"
	if whole.Ahead > 0 {
		words = fmt.Sprintf("%d before it", whole.Ahead)
	}
	words += fmt.Sprintf(", %d behind it", whole.Behind)
	if whole.Gate.Paused {
		words += "; the key is paused"
	}
	if whole.Gate.ClaimedBy != "" {
		words += "; worked by " + cell(whole.Gate.ClaimedBy)
	}
	return words
}

func chainLines(chain []store.ErrorLink) (lines []string) {
	for _, link := range chain {
		lines = append(lines, cell(link.Type)+": "+cell(link.Text))
		if link.Stack != "" {
			for line := range strings.SplitSeq(strings.TrimSpace(harmless(link.Stack)), "\n") {
				lines = append(lines, "    "+line)
			}
		}
	}
	return lines
}

func historyLines(history []store.AttemptRecord) (lines []string) {
	for _, try := range history {
		on := ""
		if try.Instance != "" {
			on = " on " + cell(try.Instance)
		}
		took := time.Duration(try.TookMs) * time.Millisecond
		lines = append(lines, fmt.Sprintf("%s try %d%s, after %s (%s): %s",
			instant(try.At), try.Attempt, on, rounded(took), cell(try.Class), cell(try.Error)))
	}
	return lines
}

func auditLines(changes []store.AuditRow) (lines []string) {
	for _, change := range changes {
		lines = append(lines, instant(change.At)+" "+cell(change.Action)+" by "+cell(change.Actor)+because(change.Note))
	}
	return lines
}

// messageNumber reads the id of a kept message.
func messageNumber(text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 {
		return 0, fmt.Errorf("%q is no message's number, as `headrace parked ls` shows it", cell(text))
	}
	return id, nil
}

func messageNumbers(args []string) ([]int64, error) {
	if len(args) == 0 {
		return nil, errors.New("which messages? Name their numbers, as `headrace parked ls` shows them")
	}
	ids := make([]int64, len(args))
	for i, arg := range args {
		var err error
		if ids[i], err = messageNumber(arg); err != nil {
			return nil, err
		}
	}
	return ids, nil
}
