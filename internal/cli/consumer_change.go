package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

const envActor = "HEADRACE_ACTOR"

// signature is who makes a change, and what they say about it.
type signature struct {
	as, note string
	yes      bool
}

func (g *signature) flags(cmd *cobra.Command) {
	g.who(cmd)
	cmd.Flags().BoolVar(&g.yes, "yes", false, "don't ask")
}

// who registers the flags of a change that needs no question.
func (g *signature) who(cmd *cobra.Command) {
	cmd.Flags().StringVar(&g.as, "as", "", "`NAME` of who does this, for the audit (default $"+envActor+", or user@host)")
	cmd.Flags().StringVar(&g.note, "note", "", "why, for the audit")
}

func (g *signature) change(a *app) (store.ConsumerChange, error) {
	actor, err := g.actor(a)
	return store.ConsumerChange{Actor: actor, Note: g.note}, err
}

func (g *signature) actor(a *app) (string, error) {
	actor := cmp.Or(strings.TrimSpace(g.as), strings.TrimSpace(a.Getenv(envActor)), systemActor())
	if actor == "" {
		return "", fmt.Errorf("%w: pass --as NAME or set %s", store.ErrNoActor, envActor)
	}
	return actor, nil
}

// signed opens the tables for somebody at the desk who changes something.
func (a *app) signed(
	ctx context.Context, sign *signature, f func(*session, *store.Store, *parking.Desk) error,
) error {
	actor, err := sign.actor(a)
	if err != nil {
		return err
	}
	return a.desk(ctx, parking.DeskConfig{Actor: actor, Note: sign.note}, f)
}

// systemActor is who the operating system says this is, or "".
func systemActor() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	host, err := os.Hostname()
	if err != nil {
		return u.Username
	}
	return u.Username + "@" + host
}

// changedJSON is the result of consumer rename, reset and replay.
type changedJSON struct {
	Database string `json:"database"`
	Action   string `json:"action"`
	Consumer string `json:"consumer"`
	Actor    string `json:"actor"`
	// To is the new name of one that was renamed.
	To string `json:"to,omitempty"`
	// From and Until bound a replay.
	From  *time.Time `json:"from,omitempty"`
	Until *time.Time `json:"until,omitempty"`
	// Rows were moved or forgotten by this run.
	Rows int64 `json:"rows"`
}

func (a *app) consumerRename() *cobra.Command {
	var sign signature
	cmd := &cobra.Command{
		Use:   "rename OLD NEW",
		Short: "Move what a consumer remembers to another name",
		Long: `Move what a consumer remembers, and its verdict log, to another name, so that a
handler or service that is called otherwise from now on neither skips nor repeats
anything.

Stop every process of the consumer, rename, and start them under the new name. While
one runs under either name it is refused. Nothing may be remembered under the new name
yet. Cut off, it goes on when it is run again with the same names.

The broker's consumer group is none of this: it stays as it is.`,
		Example: "  headrace consumer rename shop.orders shop.on-order --as anna",
		Args:    exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changing(cmd.Context(), &sign, func(s *session, st *store.Store, change store.ConsumerChange) error {
				moved, err := s.moved(change, "moving what "+cell(args[0])+" remembers",
					func(change store.ConsumerChange) (int64, error) {
						return st.RenameConsumer(cmd.Context(), args[0], args[1], change)
					})
				if err != nil {
					return s.explainChange(cmd.Context(), st, err)
				}
				return s.changed(
					changedJSON{Action: "rename", Consumer: args[0], To: args[1], Actor: change.Actor, Rows: moved},
					fmt.Sprintf("%s is %s now: %s moved. Start its processes under the new name.\n",
						cell(args[0]), cell(args[1]), plural(moved, "row")))
			})
		},
	}
	sign.flags(cmd)
	return cmd
}

func (a *app) consumerReset() *cobra.Command {
	var sign signature
	cmd := &cobra.Command{
		Use:   "reset NAME",
		Short: "Forget all that a consumer remembers",
		Long: `Forget every message that a consumer remembers: each is handled again, with all its
effects, if it is delivered again. It asks first, unless --yes is given.

Stop every process of the consumer before; while one runs it is refused, and so it is
while messages are kept whose verdict is open. Cut off, run it again.

` + movingTheBroker,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changing(cmd.Context(), &sign, func(s *session, st *store.Store, change store.ConsumerChange) error {
				return s.reset(cmd.Context(), st, args[0], sign.yes, change)
			})
		},
	}
	sign.flags(cmd)
	return cmd
}

func (s *session) reset(
	ctx context.Context, st *store.Store, name string, yes bool, change store.ConsumerChange,
) error {
	what, err := s.toForget(ctx, st, name, time.Time{}, time.Time{})
	if err != nil {
		return s.explainChange(ctx, st, err)
	}
	if !yes {
		err := s.confirm(fmt.Sprintf("%s forgets %s: what of it is delivered again is handled again.", cell(name), what))
		if err != nil {
			return err
		}
	}
	forgotten, err := s.moved(change, "forgetting what "+cell(name)+" remembers",
		func(change store.ConsumerChange) (int64, error) { return st.ResetConsumer(ctx, name, change) })
	if err != nil {
		return s.explainChange(ctx, st, err)
	}
	return s.changed(
		changedJSON{Action: "reset", Consumer: name, Actor: change.Actor, Rows: forgotten},
		fmt.Sprintf("%s has forgotten %s.\n\n%s", cell(name), plural(forgotten, "message"), movingTheBroker))
}

func (a *app) consumerReplay() *cobra.Command {
	var sign signature
	var from, until string
	var beyond bool
	cmd := &cobra.Command{
		Use:   "replay NAME --from TIME [--to TIME]",
		Short: "Forget what a consumer has handled since a point in time",
		Long: `Forget the messages that a consumer has decided from one point in time to another, now
by default: each is handled again, with all its effects, if it is delivered again. All
others are skipped as before when they come again. It asks first, unless --yes is given.

Times are when messages were decided, by the database's clock, as
2026-03-01T14:00:00Z, "2026-03-01 14:00" (UTC) or 2026-03-01.

Stop every process of the consumer before; while one runs it is refused. A beginning
before what is remembered is refused too, because what was forgotten by the purge is
handled again whenever it comes; --beyond says that this is meant. Messages whose
verdict is open stay. Cut off, run it again with the same times.

` + movingTheBroker,
		Example: "  headrace consumer replay shop.orders --from 2026-03-01T14:00:00Z --as anna",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r := store.Replay{Beyond: beyond}
			if r.From, err = pointInTime("--from", from); err != nil {
				return err
			}
			if until != "" {
				if r.To, err = pointInTime("--to", until); err != nil {
					return err
				}
			}
			return a.changing(cmd.Context(), &sign, func(s *session, st *store.Store, change store.ConsumerChange) error {
				return s.replay(cmd.Context(), st, args[0], r, sign.yes, change)
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "`TIME` from which on messages are handled again; required")
	cmd.Flags().StringVar(&until, "to", "", "`TIME` before which they were decided (default now)")
	cmd.Flags().BoolVar(&beyond, "beyond", false, "also when --from is older than what is remembered")
	sign.flags(cmd)
	return cmd
}

// pointInTime reads a time as people write it.
func pointInTime(flag, text string) (time.Time, error) {
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", "2006-01-02 15:04", time.DateOnly,
	} {
		if t, err := time.Parse(layout, strings.TrimSpace(text)); err == nil {
			return t, nil
		}
	}
	if text == "" {
		return time.Time{}, fmt.Errorf("%s is required: a time such as 2026-03-01T14:00:00Z", flag)
	}
	return time.Time{}, fmt.Errorf("%s %q is no time such as 2026-03-01T14:00:00Z or \"2026-03-01 14:00\"", flag, cell(text))
}

func (s *session) replay(
	ctx context.Context, st *store.Store, name string, r store.Replay, yes bool, change store.ConsumerChange,
) error {
	r, err := st.CheckReplay(ctx, name, r)
	if err != nil {
		return s.explainChange(ctx, st, err)
	}
	if !yes {
		what, err := s.toForget(ctx, st, name, r.From, r.To)
		if err != nil {
			return err
		}
		err = s.confirm(fmt.Sprintf("%s forgets %s, decided from %s to %s: what of it is delivered again is handled again.",
			cell(name), what, instant(r.From), instant(r.To)))
		if err != nil {
			return err
		}
	}
	forgotten, err := s.moved(change, "forgetting what "+cell(name)+" has handled",
		func(change store.ConsumerChange) (int64, error) { return st.ReplayConsumer(ctx, name, r, change) })
	if err != nil {
		return s.explainChange(ctx, st, err)
	}
	return s.changed(
		changedJSON{Action: "replay", Consumer: name, Actor: change.Actor, Rows: forgotten, From: &r.From, Until: &r.To},
		fmt.Sprintf("%s has forgotten %s, decided from %s to %s. Others are skipped when they come again.\n\n%s",
			cell(name), plural(forgotten, "message"), instant(r.From), instant(r.To), movingTheBroker))
}

const movingTheBroker = `Nothing is delivered by this alone. Before the consumer's processes are started again,
move the broker's position back, to before the oldest of the messages was published
(which is earlier than when it was handled):
  Kafka     kafka-consumer-groups --bootstrap-server HOST --group GROUP --topic TOPIC
            --reset-offsets --to-datetime 2026-03-01T14:00:00.000 --execute
  Postgres, MySQL
            set the group's row in the topic's table of offsets (headrace_offs_...) back
  mem:      start the service with another consumer group, which hears the topic from
            its oldest message; so it does on Kafka, Postgres and MySQL
  SQS       keeps nothing that was acked: publish the messages again, with their ids
What comes again besides these messages is skipped, as far as it is remembered.
`

// changing opens the tables for a signed change.
func (a *app) changing(
	ctx context.Context, sign *signature, f func(*session, *store.Store, store.ConsumerChange) error,
) error {
	change, err := sign.change(a)
	if err != nil {
		return err
	}
	return a.with(ctx, false, func(s *session) error {
		st, err := s.store(ctx)
		if err != nil {
			return err
		}
		defer st.Close() //nolint:errcheck // frees memory only
		return f(s, st, change)
	})
}

// moved runs a change and says how far it is when it takes long.
func (s *session) moved(
	change store.ConsumerChange, what string, f func(store.ConsumerChange) (int64, error),
) (n int64, err error) {
	err = s.app.progress(what, func() error {
		n, err = f(change)
		return err
	})
	return n, err
}

// toForget says how many messages would be forgotten, by verdict.
func (s *session) toForget(ctx context.Context, st *store.Store, name string, from, to time.Time) (string, error) {
	var counts []store.InboxCount
	err := s.app.progress("counting", func() (err error) {
		counts, err = st.CountConsumer(ctx, name, from, to)
		return err
	})
	if err == nil && len(counts) == 0 && name != "" {
		err = st.CheckConsumer(ctx, name)
	}
	if err != nil {
		return "", err
	}
	var all int64
	var verdicts []string
	for _, c := range counts {
		if !c.Verdict.Open() {
			all += c.Count
			verdicts = append(verdicts, fmt.Sprintf("%d %s", c.Count, c.Verdict))
		}
	}
	text := plural(all, "message")
	if len(verdicts) > 0 {
		text += " (" + strings.Join(verdicts, ", ") + ")"
	}
	return text, nil
}

// confirm asks at the terminal.
func (s *session) confirm(what string) error {
	s.app.sayf("%s", what)
	s.app.sayf("Type yes to go on:")
	lines := bufio.NewScanner(s.app.In)
	if !lines.Scan() || strings.TrimSpace(lines.Text()) != "yes" {
		return errDeclined
	}
	return nil
}

func (s *session) changed(result changedJSON, text string) error {
	if s.app.json {
		result.Database = s.url.Name
		return s.app.printJSON(result)
	}
	return s.app.write(text)
}

// explainChange adds the way out where the error holds none.
func (s *session) explainChange(ctx context.Context, st *store.Store, err error) error {
	switch {
	case errors.Is(err, store.ErrUnknownConsumer):
		return s.knownConsumers(ctx, st, err)
	case errors.Is(err, store.ErrForgotten):
		return fmt.Errorf("%w; choose a later --from, or pass --beyond", err)
	}
	return err
}
