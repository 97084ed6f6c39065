package cli

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/store"
)

// effectsJSON is the result of effect ls.
type effectsJSON struct {
	Database string       `json:"database"`
	Effects  []effectJSON `json:"effects"`
	// Next is what --after takes to go on; "" when there is no more.
	Next string `json:"next"`
}

type effectJSON struct {
	Scope    string `json:"scope"`
	Key      string `json:"key"`
	Provider string `json:"provider"`
	Status   string `json:"status"`
	Attempts int    `json:"attempts"`
	// LastCall is the seconds since the last call that may have taken effect was begun.
	LastCall  float64 `json:"last_call_seconds"`
	Consumer  string  `json:"consumer"`
	MessageID string  `json:"message_id"`
	LastError string  `json:"last_error"`
}

// settledJSON is the result of effect settle.
type settledJSON struct {
	Database string `json:"database"`
	Scope    string `json:"scope"`
	Key      string `json:"key"`
	Decision string `json:"decision"`
	Settled  bool   `json:"settled"`
	// Why it is not.
	Why string `json:"why"`
}

func (a *app) effect() *cobra.Command {
	return commandGroup("effect", "Show calls to the outside world without an outcome, or say what became of one",
		a.effectLs(), a.effectSettle())
}

func (a *app) effectLs() *cobra.Command {
	var f store.EffectFilter
	var limit int
	var after string
	var begun bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the calls of which nobody knows whether they took effect",
		Long: `List the calls of which nobody knows whether they took effect. Behind Parking the
message of such a call is in review too (headrace review ls): accept it there, and
both are settled.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return errors.New("--limit must be at least 1")
			}
			if after != "" {
				var ok bool
				if f.AfterScope, f.AfterKey, ok = strings.Cut(after, "/"); !ok {
					return fmt.Errorf("--after is SCOPE/KEY, not %q", cell(after))
				}
			}
			if !begun {
				f.Status = store.EffectUnknown
			}
			return a.with(cmd.Context(), false, func(s *session) error { return s.listEffects(cmd.Context(), f, limit) })
		},
	}
	cmd.Flags().StringVar(&f.Scope, "scope", "", "those of one `SCOPE`")
	cmd.Flags().BoolVar(&begun, "begun", false, "also those that were begun, and have no outcome yet")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many to list")
	cmd.Flags().StringVar(&after, "after", "", "list those behind the one that is `SCOPE/KEY`")
	return cmd
}

func (s *session) listEffects(ctx context.Context, f store.EffectFilter, limit int) error {
	st, err := s.store(ctx)
	if err != nil {
		return err
	}
	defer st.Close() //nolint:errcheck // frees memory only
	rows, err := st.ListEffects(ctx, f, limit)
	if err != nil {
		return err
	}
	result := effectsJSON{Database: s.url.Name, Effects: []effectJSON{}}
	shown := [][]string{{"SCOPE", "KEY", "PROVIDER", "STATUS", "ATTEMPTS", "LAST CALL", "CONSUMER", "MESSAGE", "LAST ERROR"}}
	for _, row := range rows {
		last := max(row.SinceLast, 0)
		result.Effects = append(result.Effects, effectJSON{
			row.Scope, row.Key, row.Provider, string(row.Status), row.Attempts, seconds(last),
			row.Consumer, row.MessageID, row.LastError,
		})
		shown = append(shown, []string{
			row.Scope, row.Key, row.Provider, string(row.Status), number(int64(row.Attempts)),
			rounded(last.Truncate(time.Second)) + " ago", row.Consumer, row.MessageID, row.LastError,
		})
	}
	if len(rows) == limit {
		last := rows[limit-1]
		result.Next = last.Scope + "/" + last.Key
	}
	if s.app.json {
		return s.app.printJSON(result)
	}
	if len(rows) == 0 {
		return s.app.write(s.url.Name + "\n\nno call waits for anybody\n")
	}
	text := s.url.Name + "\n\n" + table(shown...)
	if result.Next != "" {
		text += fmt.Sprintf("\nperhaps there are more: --after %s\n", cell(result.Next))
	}
	return s.app.write(text)
}

// How effect settle names what a person has found out.
const (
	settleDone   = "done"
	settleAgain  = "again"
	settleGiveUp = "give-up"
)

func (a *app) effectSettle() *cobra.Command {
	var sign signature
	var decision, file string
	response := effects.Response{}
	cmd := &cobra.Command{
		Use:   "settle SCOPE KEY --decision DECISION",
		Short: "Say what became of a call",
		Long: `Say what became of a call, when you have asked its provider:

  done      it took effect; the handler goes on as if the answer had come: an empty one,
            or what --as-done FILE holds
  again     it did not, and is to be made when its message comes again
  give-up   it did not, and is never to be made: every repeat is refused, with --note

Behind Parking its message waits in review, and goes on when it is accepted there
(headrace review accept), which settles the call too.

Exit status: 0 it is settled, 1 it needs no decision, 2 it could not be done.`,
		Example: `  headrace effect settle charge order-4711 --decision again --as anna --note "the bank knows nothing of it"
  headrace effect settle charge order-4712 --decision done --as-done receipt.json`,
		Args: exactly(2), //nolint:mnd // a scope and a key
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := a.payload(file)
			switch {
			case err != nil:
				return err
			case decision != settleDone && (body != nil || cmd.Flags().Changed("code")):
				return errors.New("--as-done and --code are what the provider has answered: they go with --decision done")
			case body != nil || cmd.Flags().Changed("code"):
				if body != nil {
					response.Body = *body
				}
			default:
				response.Code = 0 // nobody has said that there was an answer
			}
			decided, err := settlement(decision, response, sign.note)
			if err != nil {
				return err
			}
			return a.changing(cmd.Context(), &sign, func(s *session, st *store.Store, change store.ConsumerChange) error {
				return s.settle(cmd.Context(), st, change.Actor, args[0], args[1], decision, decided)
			})
		},
	}
	cmd.Flags().StringVar(&decision, "decision", "", "done, again or give-up; required")
	cmd.Flags().StringVar(&file, "as-done", "", "`FILE` with what the provider has answered; - for standard input")
	cmd.Flags().IntVar(&response.Code, "code", answered, "with --as-done: the answer's status `CODE`")
	sign.who(cmd)
	return cmd
}

func settlement(decision string, response effects.Response, note string) (effects.Decision, error) {
	switch decision {
	case settleDone:
		return effects.Happened(response, note), nil
	case settleAgain:
		return effects.CallAgain(note), nil
	case settleGiveUp:
		if note == "" {
			return effects.Decision{}, errors.New("give-up needs --note: it is what every repeat is refused with")
		}
		return effects.GiveUp(note), nil
	}
	return effects.Decision{}, fmt.Errorf("--decision is done, again or give-up, not %q", cell(decision))
}

func (s *session) settle(
	ctx context.Context, st *store.Store, actor, scope, key, decision string, decided effects.Decision,
) error {
	name := cell(scope) + " " + cell(key)
	// What was sealed by a codec that this program hasn't isn't answered in the clear.
	_, err := st.Effect(ctx, scope, key)
	if err == nil {
		err = effects.Settle(ctx, st, actor, scope, key, decided)
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("there is no call %s; headrace effect ls lists them by scope and key", name)
	case err != nil && !errors.Is(err, effects.ErrNotUnknown):
		return err
	}
	result := settledJSON{Database: s.url.Name, Scope: scope, Key: key, Decision: decision, Settled: err == nil}
	text := name + " is settled: " + decision + "\n"
	if err != nil {
		result.Why, text = err.Error(), cell(err.Error())+"\n"
	}
	if s.app.json {
		err = s.app.printJSON(result)
	} else {
		err = s.app.write(text)
	}
	if err == nil && !result.Settled {
		err = errFound
	}
	return err
}
