package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// importJSON is the result of parked import.
type importJSON struct {
	Database string `json:"database"`
	Broker   string `json:"broker"`
	Topic    string `json:"topic"`
	Group    string `json:"group"`
	Actor    string `json:"actor"`
	// Parked were taken over; Known were over or parked already; Others are other
	// handlers', passed over; Left stay on the queue.
	Parked int `json:"parked"`
	Known  int `json:"known"`
	Others int `json:"others"`
	Left   int `json:"left"`
	// More says how many further messages the broker counts, that didn't come.
	More int64 `json:"more"`
	// NotParked names the first of those that weren't parked.
	NotParked []importedJSON `json:"not_parked"`
}

type importedJSON struct {
	MessageID string `json:"message_id"`
	Consumer  string `json:"consumer"`
	Outcome   string `json:"outcome"`
	Verdict   string `json:"verdict,omitempty"`
	Why       string `json:"why"`
}

// importing are the flags of parked import.
type importing struct {
	sign                                   signature
	from, group                            string
	keyMetadata, keyJSON, idMetadata, idJS string
	cfg                                    parking.ImportConfig
}

func (a *app) parkedImport() *cobra.Command {
	var o importing
	cmd := &cobra.Command{
		Use:   "import --from URL --topic TOPIC --consumer CONSUMER | --service SERVICE",
		Short: "Take over a dead-letter queue, or a topic of Watermill's PoisonQueue",
		Long: `Take the messages of a dead-letter queue (SQS) or of a topic to which Watermill's
PoisonQueue publishes, and park them for their consumer: retry, edit and discard are
for them like for others. Nothing is handled by it.

Each message is acked when it is committed. Cut off, the command is run again: each is
parked once. What the consumer knows (applied, discarded, parked already) is acked and
not parked. What can't be parked (too large for the database) stays on the queue.

PoisonQueue writes down which handler has failed. With --consumer another handler's
messages are not taken (--any-handler does); with --service each goes to its own.

The id and the key must be those that the service goes by: the message's UUID and the
metadata entry headrace_key, unless it has other functions for them. A message doesn't
hold its key, since the key has gone on without it; with --hold-keys it does.

It ends when nothing new has come for --idle and the broker counts no more.

Exit status: 0 all that came is parked or known, 1 something is left on the queue,
2 the database or the broker could not be asked, or wrong usage.`,
		Example: `  headrace parked import --from sqs://?region=eu-west-1 --topic orders-dlq --consumer shop.orders
  headrace parked import --from kafka://localhost:9092 --topic shop.failed --service shop --as anna`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.from == "" {
				o.from = a.Getenv(envBroker)
			}
			if o.from == "" {
				return errors.New("no broker given: pass --from, such as kafka://localhost:9092, or set " + envBroker)
			}
			if err := o.read(); err != nil {
				return err
			}
			if err := o.cfg.Validate(); err != nil { // before a broker is waited for
				return err
			}
			return a.signed(cmd.Context(), &o.sign, func(s *session, _ *store.Store, desk *parking.Desk) error {
				return s.importParked(cmd.Context(), desk, o)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.from, "from", "", "`URL` of the broker (default $"+envBroker+")")
	flags.StringVar(&o.cfg.Topic, "topic", "", "the `TOPIC` or queue to take over")
	flags.StringVar(&o.cfg.Consumer, "consumer", "", "`CONSUMER` that gets the messages: service.handler")
	flags.StringVar(&o.cfg.Service, "service", "", "`SERVICE` whose handlers get the messages that name them")
	flags.BoolVar(&o.cfg.AnyHandler, "any-handler", false, "also messages that another handler has put aside")
	flags.BoolVar(&o.cfg.NewConsumer, "new-consumer", false, "the consumer has neither run nor remembers messages yet")
	flags.StringVar(&o.group, "group", "", "consumer group that reads it\n(default headrace-import. and the consumer's name)")
	flags.BoolVar(&o.cfg.HoldKeys, "hold-keys", false, "hold each message's key: what comes for it waits")
	flags.StringVar(&o.keyMetadata, "key-metadata", "", "metadata entry `NAME` that is the key (default headrace_key)")
	flags.StringVar(&o.keyJSON, "key-json", "", "`PATH` of the key in the payload, such as order.id")
	flags.StringVar(&o.idMetadata, "id-metadata", "", "metadata entry `NAME` that is the id (default the message's UUID)")
	flags.StringVar(&o.idJS, "id-json", "", "`PATH` of the id in the payload")
	flags.DurationVar(&o.cfg.Idle, "idle", 5*time.Second, "how long nothing new must come")
	flags.IntVar(&o.cfg.Limit, "limit", 0, "how many to park at most; 0 for all")
	o.sign.who(cmd)
	return cmd
}

// read makes functions of the flags.
func (o *importing) read() error {
	pick := func(what, metadata, path string) (keys.Func, error) {
		switch {
		case metadata != "" && path != "":
			return nil, fmt.Errorf("either --%s-metadata or --%s-json", what, what)
		case metadata != "":
			return keys.FromMetadata(metadata), nil
		case path != "":
			return keys.FromJSON(path), nil
		}
		return nil, nil //nolint:nilnil // the default
	}
	key, err := pick("key", o.keyMetadata, o.keyJSON)
	if err != nil {
		return err
	}
	id, err := pick("id", o.idMetadata, o.idJS)
	o.cfg.Key, o.cfg.Identity = key, id
	if o.group == "" {
		o.group = "headrace-import." + o.cfg.Consumer + o.cfg.Service
	}
	return err
}

// lookOnly is a broker's URL by which nothing is created: a queue that is misspelt isn't
// made, and one of somebody else's isn't claimed.
func lookOnly(rawURL string) string {
	options := map[string][]string{"sqs": {"create", "claim"}, "kafka": {"create"}}
	scheme, _, _ := strings.Cut(rawURL, ":")
	base, query, _ := strings.Cut(rawURL, "?")
	values, err := url.ParseQuery(query)
	if err != nil || len(options[scheme]) == 0 { // brokers.Open says what is wrong
		return rawURL
	}
	for _, name := range options[scheme] {
		if !values.Has(name) {
			values.Set(name, "false")
		}
	}
	return base + "?" + values.Encode()
}

func (s *session) importParked(ctx context.Context, desk *parking.Desk, o importing) error {
	var broker *brokers.Broker
	err := s.app.progress("connecting to the broker", func() (err error) {
		broker, err = brokers.Open(ctx, lookOnly(o.from), brokers.Config{
			Openers: all.Openers(), ConnectTimeout: s.app.connectTimeout,
		})
		return err
	})
	if err != nil {
		return err
	}
	defer broker.Close() //nolint:errcheck // what was acked and lost comes again, and is known
	sub, err := broker.SubscriberFor(o.group)
	if err != nil {
		return err
	}
	result := importJSON{
		Database: s.url.Name, Broker: broker.Name(), Topic: o.cfg.Topic, Group: o.group, Actor: desk.Actor(),
		NotParked: []importedJSON{},
	}
	cfg := o.cfg
	cfg.From, cfg.Shared = broker.Name(), broker.Capabilities.Groups
	if broker.Capabilities.Backlog != nil {
		cfg.Backlog = func(ctx context.Context) (int64, error) { return broker.Backlog(ctx, cfg.Topic, o.group) }
	}
	const named = 20
	cfg.Each = func(m parking.ImportedMessage) {
		if m.Outcome != parking.ImportParked && len(result.NotParked) < named {
			result.NotParked = append(result.NotParked, importedJSON{
				m.MessageID, m.Consumer, string(m.Outcome), string(m.Verdict), m.Why,
			})
		}
	}
	said := time.Now()
	cfg.Progress = func(sums parking.Imported) {
		if time.Since(said) >= s.app.ProgressEvery {
			said = time.Now()
			s.app.sayf("%s", importWords(sums))
		}
	}
	sums, err := desk.Import(ctx, sub, cfg)
	if err != nil && sums == (parking.Imported{}) { // nothing was done
		return importUsage(err)
	}
	result.Parked, result.Known, result.Others = sums.Parked, sums.Known, sums.Others
	result.Left, result.More = sums.Left, sums.More
	if s.app.json {
		err = errors.Join(s.app.printJSON(result), err)
	} else {
		err = errors.Join(s.app.write(result.text(sums)), err)
	}
	if err == nil && (sums.Left > 0 || sums.More > 0) {
		return errFound
	}
	return err
}

// importUsage says what to do about an error of the flags.
func importUsage(err error) error {
	if errors.Is(err, store.ErrUnknownConsumer) {
		return fmt.Errorf("%w; `headrace consumer ls` lists those that are known; --new-consumer takes one that isn't", err)
	}
	return err
}

func importWords(sums parking.Imported) string {
	words := []string{"parked " + plural(int64(sums.Parked), "message")}
	for _, part := range []struct {
		n    int64
		what string
	}{
		{int64(sums.Known), "known already and acked"},
		{int64(sums.Others), "passed over, of other handlers"},
		{int64(sums.Left), "left on the queue"},
		{sums.More, "more there by the broker's count, which didn't come"},
	} {
		if part.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	return strings.Join(words, ", ")
}

func (r importJSON) text(sums parking.Imported) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s from %s of %s\n", importWords(sums), cell(r.Topic), r.Broker)
	for _, m := range r.NotParked {
		id := cell(m.MessageID)
		if id == "" {
			id = "(without id)"
		}
		fmt.Fprintf(&text, "  %s: %s: %s\n", id, m.Outcome, cell(strings.TrimPrefix(m.Why, "parking: ")))
	}
	if more := sums.Known + sums.Others + sums.Left - len(r.NotParked); more > 0 {
		fmt.Fprintf(&text, "  … and %d more\n", more)
	}
	if sums.Parked > 0 {
		text.WriteString("look at them: headrace parked ls --by-error; have them handled: headrace parked retry\n")
	}
	return text.String()
}
