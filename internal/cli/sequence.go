package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) sequences() *cobra.Command {
	return commandGroup("sequence", "Show what consumers have had of numbered messages, and count anew after a restore",
		a.sequenceShow(), a.sequenceNewEpoch())
}

// positionsJSON is the result of sequence show.
type positionsJSON struct {
	Database  string         `json:"database"`
	Consumer  string         `json:"consumer"`
	Positions []positionJSON `json:"positions"`
}

type positionJSON struct {
	Stream string `json:"stream"`
	Key    string `json:"key"`
	Epoch  int64  `json:"epoch"`
	// Base is where the consumer has joined, Mark up to where all is done, Ahead how many
	// beyond are.
	Base      int64     `json:"base"`
	Mark      int64     `json:"mark"`
	Ahead     int       `json:"ahead"`
	Waiting   bool      `json:"waiting"`
	UpdatedAt time.Time `json:"updated_at"`
}

func (a *app) sequenceShow() *cobra.Command {
	var key string
	var limit int
	show := &cobra.Command{
		Use:   "show CONSUMER",
		Short: "Show what a consumer has had of the numbered messages of each key",
		Long: `Show what a consumer behind Sequence has had of each key: up to which number all is
done (MARK), how many are done beyond it (AHEAD), and whether messages are kept that wait
for one before them (see headrace parked ls --status gap).

Exit status: 0 there is something, 1 there is nothing, 2 it could not be asked for.`,
		Example: `  headrace sequence show shop.orders
  headrace sequence show shop.orders --key sku-17 --json`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case args[0] == "":
				return errors.New("the consumer's name is needed")
			case limit < 1:
				return errors.New("--limit must be positive")
			}
			return a.with(cmd.Context(), false, func(s *session) error {
				return s.showPositions(cmd.Context(), args[0], key, limit)
			})
		},
	}
	const some = 100
	show.Flags().StringVar(&key, "key", "", "only this key")
	show.Flags().IntVar(&limit, "limit", some, "how many at most")
	return show
}

func (s *session) showPositions(ctx context.Context, consumer, key string, limit int) error {
	st, err := s.store(ctx)
	if err != nil {
		return err
	}
	defer st.Close() //nolint:errcheck // frees memory only
	positions, err := st.Positions(ctx, consumer, key, limit)
	if err != nil {
		return err
	}
	result := positionsJSON{Database: s.url.Name, Consumer: consumer, Positions: []positionJSON{}}
	shown := [][]string{{"STREAM", "KEY", "MARK", "AHEAD", "WAITING", "EPOCH", "CHANGED"}}
	for _, p := range positions {
		result.Positions = append(result.Positions, positionJSON{
			p.Stream, p.Key, p.Epoch, p.Base, p.Mark, p.Ahead(), p.Waiting, p.UpdatedAt,
		})
		waiting := "no"
		if p.Waiting {
			waiting = "yes"
		}
		shown = append(shown, []string{
			p.Stream, p.Key, number(p.Mark), number(int64(p.Ahead())), waiting, number(p.Epoch), instant(p.UpdatedAt),
		})
	}
	switch {
	case s.app.json:
		err = s.app.printJSON(result)
	case len(positions) == 0:
		err = s.app.write(s.url.Name + "\n\n" + cell(consumer) + " has had no numbered messages\n")
	default:
		err = s.app.write(s.url.Name + "\n\n" + table(shown...))
	}
	if err == nil && len(positions) == 0 {
		err = errFound
	}
	return err
}

// epochJSON is the result of sequence new-epoch.
type epochJSON struct {
	Database string `json:"database"`
	Epoch    int64  `json:"epoch"`
}

func (a *app) sequenceNewEpoch() *cobra.Command {
	var sign signature
	begin := &cobra.Command{
		Use:   "new-epoch",
		Short: "Have the outbox's numbers count anew, after the database was restored",
		Long: `Have the numbers that the outbox gives count as new ones. After the database of a producer
was restored from a backup its next messages get numbers that consumers have had, and
would be taken for copies. On Postgres this happens by itself, unless the backup was
copied into the same server. Stop whoever publishes first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			actor, err := sign.actor(a)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), false, func(s *session) error {
				return s.newEpoch(cmd.Context(), actor, sign)
			})
		},
	}
	sign.flags(begin)
	return begin
}

func (s *session) newEpoch(ctx context.Context, actor string, sign signature) error {
	if !sign.yes {
		err := s.confirm("Messages that are published from now on count as others than those before. Is nobody publishing?")
		if err != nil {
			return err
		}
	}
	st, err := s.store(ctx)
	if err != nil {
		return err
	}
	defer st.Close() //nolint:errcheck // frees memory only
	epoch, err := st.NewSequenceEpoch(ctx, actor, sign.note)
	if err != nil {
		return err
	}
	if s.app.json {
		return s.app.printJSON(epochJSON{s.url.Name, epoch})
	}
	return s.app.write(s.url.Name + "\n\nepoch " + number(epoch) + " has begun\n")
}
