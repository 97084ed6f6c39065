package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/headrace-go/headrace/store"
)

type parkedCountJSON struct {
	Consumer string `json:"consumer"`
	Parked   int64  `json:"parked"`
	Review   int64  `json:"review"`
	Delayed  int64  `json:"delayed"`
	Gap      int64  `json:"gap"`
	Released int64  `json:"released"`
	Waiting  int64  `json:"waiting"`
	// Processes handle the consumer's messages now, by their own word.
	Processes        int     `json:"processes"`
	OldestAgeSeconds float64 `json:"oldest_age_seconds"`

	oldest time.Duration
}

// countParked says what is kept for consumers, and how many calls are of unknown outcome.
func (s *session) countParked(ctx context.Context, st *store.Store) (told []parkedCountJSON, unknown int64, err error) {
	told = []parkedCountJSON{}
	err = s.app.progress("counting what is parked", func() error {
		counts, err := st.CountParked(ctx)
		if err != nil {
			return err
		}
		for _, c := range counts {
			running, err := st.Present(ctx, c.Consumer)
			if err != nil {
				return err
			}
			told = append(told, parkedCountJSON{
				Consumer: c.Consumer, Parked: c.Parked, Review: c.Review, Delayed: c.Delayed, Gap: c.Gap, Released: c.Released,
				Waiting: c.Waiting, Processes: len(running), OldestAgeSeconds: seconds(c.OldestAge), oldest: c.OldestAge,
			})
		}
		effects, err := st.CountOpenEffects(ctx)
		for _, c := range effects {
			unknown += c.Unknown
		}
		return err
	})
	return told, unknown, err
}

func (r statusJSON) parkedText() string {
	rows := [][]string{{"CONSUMER", "PARKED", "REVIEW", "DELAYED", "GAP", "RELEASED", "WAITING", "OLDEST", "PROCESSES"}}
	for _, c := range r.Parked {
		rows = append(rows, []string{
			c.Consumer, number(c.Parked), number(c.Review), number(c.Delayed), number(c.Gap), number(c.Released),
			number(c.Waiting), rounded(c.oldest), number(int64(c.Processes)),
		})
	}
	return "PARKED  see headrace parked ls, headrace review ls\n" + strings.TrimSuffix(table(rows...), "\n")
}

// checkKept names the consumers whose messages wait for people, or for a process.
func checkKept(counts []parkedCountJSON, unknown int64) []finding {
	const check, effects = "parked", "effects"
	var causes, stopped []string
	for _, c := range counts {
		if c.Parked+c.Review > 0 {
			causes = append(causes, fmt.Sprintf("%s: %d parked, %d in review, %d behind them, the oldest for %s",
				cell(c.Consumer), c.Parked, c.Review, c.Waiting, rounded(c.oldest)))
		}
		if c.Processes == 0 && c.Delayed+c.Gap+c.Released > 0 {
			stopped = append(stopped, fmt.Sprintf("%s: %d are to be tried again, and no process says that it handles them",
				cell(c.Consumer), c.Delayed+c.Gap+c.Released))
		}
	}
	findings := []finding{ok(check, "no message waits for a person")}
	if len(causes) > 0 {
		findings[0] = warn(check, strings.Join(causes, "; "),
			"headrace parked ls --by-error, headrace review ls; then retry, edit, discard, accept or reject")
	}
	if len(stopped) > 0 {
		findings = append(findings, warn(check+" and due", strings.Join(stopped, "; "),
			"start the service; one that is wired singly needs a middleware.Presence to be seen"))
	}
	if unknown > 0 {
		findings = append(findings, warn(effects, plural(unknown, "call")+" of unknown outcome",
			"ask the provider what happened, and settle each: headrace review ls, or headrace effect ls without Parking"))
	}
	return findings
}
