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

// keyJSON is the result of key show, pause, resume and release.
type keyJSON struct {
	Database string `json:"database"`
	Consumer string `json:"consumer"`
	Key      string `json:"key"`
	Held     bool   `json:"held"`
	// Gate and Head are those of a held key; Head is missing when nothing waits.
	Gate  *gateJSON    `json:"gate,omitempty"`
	Head  *parkedJSON  `json:"head,omitempty"`
	Audit []changeJSON `json:"audit"`
	// Released and Resumed are what key release has done.
	Released []int64 `json:"released,omitempty"`
	Resumed  bool    `json:"resumed,omitempty"`
	// Why it was left as it is, "" when it was not.
	Refused string `json:"refused,omitempty"`
}

func (a *app) key() *cobra.Command {
	var force bool
	release := a.keyCommand("release", "Have all that waits of a key tried again, in order",
		`Have each message of a key that waits for a person, or for its next try, tried again
in their order, and end a pause. It stops at a message that has failed for good (unless
it was edited, or with --force) or is in review: nothing behind it would move.`,
		func(ctx context.Context, s *session, desk *parking.Desk, consumer, key string) error {
			return s.releaseKey(ctx, desk, consumer, key, parking.RetryOptions{Force: force})
		})
	release.Flags().BoolVar(&force, "force", false, "also what has failed for good")
	return commandGroup("key", "Look at one key's messages at a consumer, hold them, and set them free",
		a.keyCommand("show", "Show whether a key is held, by what, and what waits behind it", "",
			func(ctx context.Context, s *session, desk *parking.Desk, consumer, key string) error {
				return s.keyState(ctx, desk, consumer, key, nil)
			}),
		a.keyCommand("pause", "Hold a key: what comes for it waits until it is resumed",
			`Hold a key at a consumer: nothing of it is handled, and what comes for it waits, until
it is resumed or released. A message that is in its handler now is the last one.`,
			func(ctx context.Context, s *session, desk *parking.Desk, consumer, key string) error {
				return s.keyState(ctx, desk, consumer, key, desk.PauseKey)
			}),
		a.keyCommand("resume", "End a pause",
			`End a pause: the key goes on with its first message. One that waits for a person goes on
waiting.`,
			func(ctx context.Context, s *session, desk *parking.Desk, consumer, key string) error {
				return s.keyState(ctx, desk, consumer, key, desk.ResumeKey)
			}),
		release)
}

func (a *app) keyCommand(
	name, short, long string, run func(ctx context.Context, s *session, desk *parking.Desk, consumer, key string) error,
) *cobra.Command {
	var sign signature
	cmd := &cobra.Command{
		Use: name + " CONSUMER KEY", Short: short, Long: long,
		Example: "  headrace key " + name + " shop.orders sku-17",
		Args:    exactly(2), //nolint:mnd // as Use says
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" || args[1] == "" {
				return errors.New("the consumer's name and the key are needed")
			}
			return a.signed(cmd.Context(), &sign, func(s *session, st *store.Store, desk *parking.Desk) error {
				err := run(cmd.Context(), s, desk, args[0], args[1])
				if errors.Is(err, store.ErrUnknownConsumer) {
					return s.knownConsumers(cmd.Context(), st, err)
				}
				if name == "show" && err == nil {
					s.tellMisspelt(cmd.Context(), st, args[0])
				}
				return err
			})
		},
	}
	if name != "show" {
		sign.who(cmd)
	}
	return cmd
}

// tellMisspelt says so when nobody knows a consumer: a key of whom isn't held is no news.
func (s *session) tellMisspelt(ctx context.Context, st *store.Store, consumer string) {
	if err := st.CheckConsumer(ctx, consumer); errors.Is(err, store.ErrUnknownConsumer) {
		s.app.sayf("%v", s.knownConsumers(ctx, st, err))
	}
}

// keyState changes a key's line, unless there is nothing to change, and shows how it
// stands.
func (s *session) keyState(
	ctx context.Context, desk *parking.Desk, consumer, key string,
	change func(ctx context.Context, consumer, key string) (parking.KeyState, error),
) error {
	var refused error
	if change != nil {
		_, refused = change(ctx, consumer, key)
		if refused != nil && !keyRefusal(refused) {
			return refused
		}
	}
	return s.tellKey(ctx, desk, consumer, key, parking.Freed{}, refused)
}

// keyRefusal reports whether an error says that there is nothing to do for a key.
func keyRefusal(err error) bool {
	return errors.Is(err, store.ErrNotHeld) || errors.Is(err, parking.ErrNotPaused) || parking.IsRefusal(err)
}

func (s *session) releaseKey(
	ctx context.Context, desk *parking.Desk, consumer, key string, o parking.RetryOptions,
) error {
	freed, refused := desk.ReleaseKey(ctx, consumer, key, o)
	if refused != nil && !keyRefusal(refused) {
		return refused
	}
	if refused == nil && len(freed.Released) == 0 && !freed.Resumed {
		refused = errNothingWaits
	}
	if len(freed.Released) > 0 {
		s.notRunning(ctx, desk, []string{consumer})
	}
	return s.tellKey(ctx, desk, consumer, key, freed, refused)
}

var errNothingWaits = errors.New("none of its messages waits for a person or for another try")

// tellKey shows how a key stands now, with what was done and what was not.
func (s *session) tellKey(
	ctx context.Context, desk *parking.Desk, consumer, key string, freed parking.Freed, refused error,
) error {
	state, err := desk.Key(ctx, consumer, key)
	if err != nil {
		return err
	}
	result := keyJSON{
		Database: s.url.Name, Consumer: consumer, Key: key, Held: state.Gate != nil, Gate: gateOf(state.Gate),
		Audit: changesJSON(state.Audit), Released: freed.Released, Resumed: freed.Resumed,
	}
	if state.Head != nil {
		head := parkedOf(*state.Head)
		result.Head = &head
	}
	var text strings.Builder
	if len(freed.Released) > 0 {
		fmt.Fprintf(&text, "released %s of %s\n", plural(int64(len(freed.Released)), "message"), cell(key))
	}
	if freed.Resumed {
		fmt.Fprintf(&text, "%s is not paused any more\n", cell(key))
	}
	if refused != nil {
		result.Refused = refused.Error()
		fmt.Fprintf(&text, "left as it is: %s\n", sentence(strings.TrimPrefix(refused.Error(), "parking: ")))
	}
	text.WriteString(keyText(state))
	if s.app.json {
		err = s.app.printJSON(result)
	} else {
		err = s.app.write(text.String())
	}
	if err == nil && refused != nil {
		err = errFound
	}
	return err
}

func keyText(state parking.KeyState) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s of %s: ", cell(state.Key), cell(state.Consumer))
	if state.Gate == nil {
		text.WriteString("not held; what comes for it is handled at once\n")
	} else {
		text.WriteString("held for " + rounded(state.Gate.HeldFor))
		if state.Gate.Paused {
			text.WriteString(", paused")
		}
		if state.Gate.ClaimedBy != "" {
			text.WriteString(", worked by " + cell(state.Gate.ClaimedBy))
		}
		if head := state.Head; head == nil {
			text.WriteString("; nothing waits\n")
		} else {
			next := nextWords(head.ParkedRow, time.Time{}) // it isn't over
			fmt.Fprintf(&text, "\n  first is %d, %s%s; next: %s; %d behind it\n",
				head.ID, head.Status, because(head.Reason), cell(next), head.Behind)
		}
	}
	for _, line := range auditLines(state.Audit) {
		text.WriteString("  " + line + "\n")
	}
	return text.String()
}
