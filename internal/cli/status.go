package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/store"
)

// limits are what status compares with when it checks; below zero means none.
type limits struct {
	check      bool
	maxAge     time.Duration
	maxUnsent  int64
	maxFailing int64
}

const defaultMaxAge = 5 * time.Minute

func (a *app) status() *cobra.Command {
	var l limits
	var verbose bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what waits in the outbox, what the inbox holds, and who owns what",
		Long: `Show what waits in the outbox; what the inbox holds by consumer and verdict; which
deliveries were repeats of messages in it, and so were skipped; and which process
relays which of the outbox's partitions. It counts whole tables, so it takes a
while on large ones.

Processes that died more than a minute ago are left out, unless --verbose or --json is
given, which list every lease by itself.

With --check, or any of the --max flags, the exit status is 1 when a limit is
exceeded.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"max-age", "max-unsent", "max-failing"} {
				l.check = l.check || cmd.Flags().Changed(name)
			}
			return a.with(cmd.Context(), false, func(s *session) error { return s.status(cmd.Context(), l, verbose) })
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&verbose, "verbose", "v", false, "list every lease instead of a line for each owner")
	flags.BoolVar(&l.check, "check", false, "exit with 1 when a limit is exceeded")
	flags.DurationVar(&l.maxAge, "max-age", defaultMaxAge, "how long the oldest unsent message may have waited")
	flags.Int64Var(&l.maxUnsent, "max-unsent", -1, "how many messages may be unsent; -1 for any number")
	flags.Int64Var(&l.maxFailing, "max-failing", -1, "how many messages may have failed to be published; -1 for any number")
	return cmd
}

// statusJSON is the result of status.
type statusJSON struct {
	Database string     `json:"database"`
	Outbox   outboxJSON `json:"outbox"`
	// Scheduled are messages for later, of all services.
	Scheduled laterJSON   `json:"scheduled"`
	Inbox     []inboxJSON `json:"inbox"`
	// Parked is what is kept for consumers and not over.
	Parked []parkedCountJSON `json:"parked"`
	// UnknownEffects are calls of which a person must say whether they have happened.
	UnknownEffects int64 `json:"unknown_effects"`
	// Repeats are deliveries of messages that the inbox knew already.
	Repeats []repeatsJSON `json:"repeats"`
	Leases  []leaseJSON   `json:"leases"`
	// Problems are the limits that are exceeded, when asked for.
	Problems []string `json:"problems"`
}

type outboxJSON struct {
	Unsent           int64       `json:"unsent"`
	Failing          int64       `json:"failing"`
	Parked           int64       `json:"parked"`
	OldestAgeSeconds float64     `json:"oldest_age_seconds"`
	Topics           []topicJSON `json:"topics"`

	oldest time.Duration
}

type topicJSON struct {
	Service          string  `json:"service"`
	Destination      string  `json:"destination"`
	Topic            string  `json:"topic"`
	Unsent           int64   `json:"unsent"`
	Failing          int64   `json:"failing"`
	Parked           int64   `json:"parked"`
	OldestAgeSeconds float64 `json:"oldest_age_seconds"`
	LastError        string  `json:"last_error"`

	oldest time.Duration
}

type laterJSON struct {
	Waiting int64 `json:"waiting"`
	// NextInSeconds is until the next one is due, below zero when it is overdue; 0
	// where none waits.
	NextInSeconds float64 `json:"next_in_seconds"`

	next time.Duration
}

func scheduledOf(counts []store.ScheduledCount) (later laterJSON) {
	for _, c := range counts {
		if later.Waiting == 0 || c.NextIn < later.next {
			later.next = c.NextIn
		}
		later.Waiting += c.Waiting
	}
	later.NextInSeconds = seconds(later.next)
	return later
}

func (l laterJSON) String() string {
	if l.next < 0 {
		return fmt.Sprintf("SCHEDULED  %s for later, the next overdue by %s", plural(l.Waiting, "message"), rounded(-l.next))
	}
	return fmt.Sprintf("SCHEDULED  %s for later, the next due in %s", plural(l.Waiting, "message"), rounded(l.next))
}

type inboxJSON struct {
	Consumer string `json:"consumer"`
	Verdict  string `json:"verdict"`
	// Open: the message is still to be decided.
	Open  bool  `json:"open"`
	Count int64 `json:"count"`
}

type repeatsJSON struct {
	Consumer string `json:"consumer"`
	Verdict  string `json:"verdict"`
	// Observed: the verdict was only recorded, and the handler ran again.
	Observed bool  `json:"observed"`
	Count    int64 `json:"count"`
}

func (s *session) status(ctx context.Context, l limits, verbose bool) error {
	st, err := s.store(ctx)
	if err != nil {
		return err
	}
	defer st.Close() //nolint:errcheck // frees memory only
	result, err := s.readStatus(ctx, st)
	if err != nil {
		return err
	}
	if l.check {
		result.Problems = result.Outbox.exceeds(l)
	}
	if s.app.json {
		err = s.app.printJSON(result)
	} else {
		err = s.app.write(result.text(verbose))
	}
	if err == nil && len(result.Problems) > 0 {
		err = errFound
	}
	return err
}

func (s *session) readStatus(ctx context.Context, st *store.Store) (statusJSON, error) {
	result := statusJSON{
		Database: s.url.Name, Inbox: []inboxJSON{}, Parked: []parkedCountJSON{}, Repeats: []repeatsJSON{}, Problems: []string{},
	}
	var topics []store.OutboxCount
	var inbox []store.InboxCount
	var repeats []store.VerdictLogCount
	err := s.app.progress("counting the outbox", func() (err error) {
		topics, err = st.CountOutbox(ctx)
		return err
	})
	if err == nil {
		err = s.app.progress("counting the inbox", func() (err error) {
			inbox, err = st.CountInbox(ctx)
			return err
		})
	}
	if err == nil {
		err = s.app.progress("counting the verdict log", func() (err error) {
			repeats, err = st.CountVerdictLog(ctx)
			return err
		})
	}
	if err != nil {
		return result, err
	}
	scheduled, err := st.CountScheduled(ctx)
	if err != nil {
		return result, err
	}
	leases, err := st.Leases(ctx, "")
	if err != nil {
		return result, err
	}
	if result.Parked, result.UnknownEffects, err = s.countParked(ctx, st); err != nil {
		return result, err
	}
	result.Scheduled = scheduledOf(scheduled)
	result.Outbox = outboxOf(topics)
	for _, c := range inbox {
		result.Inbox = append(result.Inbox, inboxJSON{c.Consumer, string(c.Verdict), c.Verdict.Open(), c.Count})
	}
	for _, c := range repeats {
		result.Repeats = append(result.Repeats, repeatsJSON{c.Consumer, string(c.Verdict), c.Observed, c.Count})
	}
	result.Leases = leasesOf(leases)
	return result, nil
}

func outboxOf(counts []store.OutboxCount) outboxJSON {
	outbox := outboxJSON{Topics: []topicJSON{}}
	for _, c := range counts {
		outbox.Unsent += c.Unsent
		outbox.Failing += c.Failing
		outbox.Parked += c.Parked
		outbox.oldest = max(outbox.oldest, c.OldestAge)
		outbox.Topics = append(outbox.Topics, topicJSON{
			Service: c.Service, Destination: c.Destination, Topic: c.Topic, Unsent: c.Unsent, Failing: c.Failing,
			Parked: c.Parked, OldestAgeSeconds: seconds(c.OldestAge), LastError: c.LastError, oldest: c.OldestAge,
		})
	}
	outbox.OldestAgeSeconds = seconds(outbox.oldest)
	return outbox
}

// exceeds says which limits the outbox exceeds.
func (o outboxJSON) exceeds(l limits) []string {
	problems := []string{}
	if l.maxAge >= 0 && o.oldest > l.maxAge {
		problems = append(problems,
			fmt.Sprintf("the oldest unsent message has waited %s, the limit is %s", rounded(o.oldest), l.maxAge))
	}
	if l.maxUnsent >= 0 && o.Unsent > l.maxUnsent {
		problems = append(problems, fmt.Sprintf("%s unsent, the limit is %d", plural(o.Unsent, "message"), l.maxUnsent))
	}
	if l.maxFailing >= 0 && o.Failing > l.maxFailing {
		problems = append(problems,
			fmt.Sprintf("%s failed to be published, the limit is %d", plural(o.Failing, "message"), l.maxFailing))
	}
	return problems
}

// text is the result for people.
func (r statusJSON) text(verbose bool) string {
	problems := make([]string, len(r.Problems))
	for i, problem := range r.Problems {
		problems[i] = "\nPROBLEM  " + problem + "\n"
	}
	leases := ownersText
	if verbose {
		leases = leasesText
	}
	parts := []string{r.Database, r.Outbox.String()}
	if r.Scheduled.Waiting > 0 {
		parts = append(parts, r.Scheduled.String())
	}
	parts = append(parts, r.inboxText())
	if len(r.Parked) > 0 {
		parts = append(parts, r.parkedText())
	}
	if r.UnknownEffects > 0 {
		parts = append(parts, fmt.Sprintf("EFFECTS  %s of unknown outcome, for a person to settle",
			plural(r.UnknownEffects, "call")))
	}
	parts = append(parts, r.repeatsText(), leases(r.Leases))
	return strings.Join(parts, "\n\n") + "\n" + strings.Join(problems, "")
}

func (o outboxJSON) String() string {
	if o.Unsent == 0 {
		return "OUTBOX  nothing unsent"
	}
	rows := [][]string{{"SERVICE", "DESTINATION", "TOPIC", "UNSENT", "FAILING", "PARKED", "OLDEST", "LAST ERROR"}}
	for _, t := range o.Topics {
		rows = append(rows, []string{
			serviceName(t.Service), t.Destination, t.Topic, number(t.Unsent), number(t.Failing), number(t.Parked),
			rounded(t.oldest), t.LastError,
		})
	}
	return fmt.Sprintf("OUTBOX  %d unsent, %d failing, %d parked, oldest %s\n%s", o.Unsent, o.Failing, o.Parked,
		rounded(o.oldest), strings.TrimSuffix(table(rows...), "\n"))
}

// serviceName is how a service is shown: rows and forwarders may have none.
func serviceName(service string) string {
	if service == "" {
		return "(none)"
	}
	return service
}

func (r statusJSON) inboxText() string {
	if len(r.Inbox) == 0 {
		return "INBOX  empty"
	}
	rows := [][]string{{"CONSUMER", "VERDICT", "MESSAGES"}}
	for _, c := range r.Inbox {
		verdict := c.Verdict
		if c.Open {
			verdict += " (open)"
		}
		rows = append(rows, []string{c.Consumer, verdict, number(c.Count)})
	}
	return "INBOX\n" + strings.TrimSuffix(table(rows...), "\n")
}

func (r statusJSON) repeatsText() string {
	if len(r.Repeats) == 0 {
		return "REPEATS  none"
	}
	rows := [][]string{{"CONSUMER", "VERDICT", "DELIVERIES"}}
	for _, c := range r.Repeats {
		verdict := c.Verdict
		if c.Observed {
			verdict += " (observed only)"
		}
		rows = append(rows, []string{c.Consumer, verdict, number(c.Count)})
	}
	return "REPEATS\n" + strings.TrimSuffix(table(rows...), "\n")
}
