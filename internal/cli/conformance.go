package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/internal/redact"
)

const envBroker = "HEADRACE_BROKER"

// suite is a run of the conformance suite as it was asked for.
type suite struct {
	*app

	url             string
	run             string
	known           []string
	junit, jsonFile string
	parallel        int
	patience, quiet time.Duration
	keep, dryRun    bool
	verbose         bool

	only    *regexp.Regexp
	secrets *redact.Redactor
	broker  *brokers.Broker
	kind    string // of broker
	topics  topics
}

func (a *app) conformance() *cobra.Command { return (&suite{app: a}).command() }

func (s *suite) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "conformance [broker-URL]",
		Short: "Try what a broker guarantees, and compare it with what it promises",
		Long: `Try what a running broker guarantees: whether messages get lost, come again, come
in order, come twice; and compare it with what Headrace promises of such brokers.

The broker's URL may stand in the environment variable ` + envBroker + ` instead, so that a
password doesn't show in the list of processes:

  kafka://host:9092    sqs:?region=eu-west-1&fifo=true    postgres://user:password@host/db
  mysql://user:password@host/db    mem:

The command makes topics (queues, tables) of its own, named conf_…, and deletes
them at the end, also after Ctrl-C. It leaves everything else alone, but is load:
it is meant for a broker on which nobody depends at the moment.

A fact that could not be tried is unknown, never a pass. Exit status: 0 every
promise was kept, 1 some fact failed or is unknown because something broke, 2 the
suite could not begin. docs/conformance.md says how to read the report, and how
to try an adapter of your own in a Go test.`,
		Example: `  headrace conformance kafka://localhost:9092
  headrace conformance --run '^order/' --junit report.xml 'sqs:?region=eu-west-1&fifo=true'
  headrace conformance --dry-run mem:`,
		Args: s.args,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.conform(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&s.run, "run", "", "try only the facts whose names match a `regexp`")
	flags.StringArrayVar(&s.known, "known", nil,
		"`fact=reason`: it is known to be broken, and fails nothing (repeat the flag for more)")
	flags.StringVar(&s.junit, "junit", "", "write a JUnit report to a `file`")
	flags.StringVar(&s.jsonFile, "json-file", "", "write the report as JSON to a `file`, beside the text")
	flags.IntVar(&s.parallel, "parallel", conformance.DefaultParallel, "how many facts are tried side by side")
	flags.DurationVar(&s.patience, "patience", conformance.DefaultPatience,
		"how long to wait for what should come soon; raise it for a broker that is far away or busy")
	flags.DurationVar(&s.quiet, "quiet", conformance.DefaultQuiet,
		"how long nothing must come before \"nothing comes\" is believed; raise it above the longest time in which "+
			"the broker may be late with a message")
	flags.BoolVar(&s.keep, "keep", false, "leave the topics there, to look into them")
	flags.BoolVar(&s.dryRun, "dry-run", false, "connect, say what would be tried, and make nothing")
	flags.BoolVarP(&s.verbose, "verbose", "v", false, "report what holds too, a line a fact")
	cmd.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		for _, name := range ofTables() {
			_ = cmd.InheritedFlags().MarkHidden(name) // it is there
		}
		cmd.Parent().HelpFunc()(cmd, args)
	})
	return cmd
}

// ofTables are the global flags that say nothing to a broker.
func ofTables() []string { return []string{"db", "schema", "prefix"} }

func (s *suite) args(cmd *cobra.Command, args []string) (err error) {
	for _, name := range ofTables() {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s is about Headrace's tables; a broker is named by its URL alone", name)
		}
	}
	if len(args) > 1 {
		return errors.New("one broker's URL is enough (--json prints to standard output; --json-file and --junit take a file)")
	}
	s.url = s.Getenv(envBroker)
	if len(args) == 1 {
		s.url = args[0]
	}
	switch {
	case s.url == "":
		return fmt.Errorf("no broker given: pass its URL, such as kafka://localhost:9092, or set %s", envBroker)
	case s.parallel < 1:
		return errors.New("--parallel must be at least 1")
	case s.patience <= 0:
		return errors.New("--patience must be more than 0, such as 30s")
	case s.quiet <= 0:
		return errors.New("--quiet must be more than 0, such as 3s")
	}
	if !cmd.Flags().Changed("quiet") {
		s.quiet = min(s.quiet, s.patience)
	}
	if s.quiet > s.patience {
		return fmt.Errorf("--quiet %v is more than --patience %v: who waits so long for nothing must wait as long "+
			"for what comes; raise --patience too", s.quiet, s.patience)
	}
	if s.run != "" {
		if s.only, err = regexp.Compile(s.run); err != nil {
			return fmt.Errorf("--run: %w", err)
		}
	}
	if len(s.chosen()) == 0 {
		return fmt.Errorf("no fact's name matches --run %s; `headrace conformance --dry-run mem:` lists them", s.run)
	}
	return nil
}

// chosen are the facts that --run leaves.
func (s *suite) chosen() (facts []conformance.Fact) {
	for _, f := range conformance.Facts() {
		if s.only == nil || s.only.MatchString(f.Name) {
			facts = append(facts, f)
		}
	}
	return facts
}

// conform runs the suite and reports.
func (s *suite) conform(ctx context.Context) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	defer s.closeBroker()
	harness, err := s.harness()
	if err != nil {
		return err
	}
	if s.dryRun {
		return s.plan(harness)
	}
	files, err := openFiles(s.junit, s.jsonFile)
	if err != nil {
		return err
	}
	defer files.close()
	s.announce(harness)
	view := newProgressView(s.app, len(s.chosen()))
	report, err := conformance.Check(ctx, harness, conformance.Options{Only: s.only, Progress: view.done, Started: view.started})
	view.end()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		s.sayf("interrupted: what was not tried to its end is unknown")
	}
	return s.tell(s.scrubbed(report), files)
}

// open connects to the broker.
func (s *suite) open(ctx context.Context) error {
	err := s.progress("connecting to the broker", func() (err error) {
		s.broker, err = brokers.Open(ctx, s.url, brokers.Config{Openers: all.Openers(), ConnectTimeout: s.connectTimeout})
		return err
	})
	if err != nil {
		return err
	}
	u, err := redact.Parse(s.url)
	if err != nil {
		return err
	}
	s.secrets, s.kind = redact.New(u), s.broker.Capabilities.Name
	return nil
}

// closeBroker closes the broker, which may itself be what is broken.
func (s *suite) closeBroker() {
	const patience = 15 * time.Second
	closed := make(chan error, 1)
	go func() { closed <- s.broker.Close() }()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-closed:
		if err != nil {
			s.sayf("headrace: %v", s.secrets.Err(err))
		}
	case <-timer.C:
		s.sayf("headrace: the broker's connections did not close within %v", patience)
	}
}

func (s *suite) harness() (conformance.Harness, error) {
	h := conformance.Opened(s.broker)
	h.Parallel, h.Patience, h.Quiet = s.parallel, s.patience, s.quiet
	h.Known = map[string]string{}
	for _, pair := range s.known {
		fact, reason, _ := strings.Cut(pair, "=")
		if reason == "" {
			return h, fmt.Errorf("--known %q: write it as fact=reason, such as 'order/per key=we run ten consumers'", pair)
		}
		h.Known[fact] = reason
	}
	h.Topic = s.topics.make
	if s.keep {
		h.DeleteTopic = nil
	} else {
		h.DeleteTopic = s.topics.deleting(h.DeleteTopic)
	}
	return h, nil
}

// announce says what is about to be done to the broker.
func (s *suite) announce(h conformance.Harness) {
	afterwards := "and deletes them"
	if s.keep {
		afterwards = "and leaves them there"
	}
	s.sayf("Trying %s about %s, %d at a time.\nMakes topics of its own for them, named conf_…, %s; touches no others.\n%s\n",
		plural(int64(len(s.chosen())), "fact"), s.broker.Name(), h.Parallel, afterwards, promises(h.Capabilities))
}

// promises says what a broker declares.
func promises(c brokers.Capabilities) string {
	var words []string
	for _, promise := range []struct {
		is   bool
		what string
	}{
		{c.Groups, "groups that each hear everything"},
		{c.TotalOrder, "total order"},
		{c.KeyOrder && !c.TotalOrder, "order per key"},
		{c.Lanes, "several keys at once"},
		{c.Durable, "durable messages"},
		{c.MaxBody > 0, fmt.Sprintf("bodies up to %d bytes", c.MaxBody)},
		{c.AckDeadline > 0, "redelivery when a message is held for " + c.AckDeadline.String()},
	} {
		if promise.is {
			words = append(words, promise.what)
		}
	}
	if len(words) == 0 {
		return "It promises nothing beyond what every broker must."
	}
	return "It promises " + strings.Join(words, ", ") + "."
}

// topics are those that a run has made and not deleted.
type topics struct {
	mu   sync.Mutex
	left map[string]error // why it is still there
}

func (t *topics) make(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("the run is over: %w", err)
	}
	name := conformance.TopicName()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left == nil {
		t.left = map[string]error{}
	}
	t.left[name] = nil
	return name, nil
}

func (t *topics) deleting(del func(ctx context.Context, topic string) error) func(ctx context.Context, topic string) error {
	return func(ctx context.Context, topic string) error {
		err := del(ctx, topic)
		t.mu.Lock()
		defer t.mu.Unlock()
		if _, made := t.left[topic]; !made {
			return err
		}
		if err == nil {
			delete(t.left, topic)
		} else {
			t.left[topic] = err
		}
		return err
	}
}

// files are the reports that are written beside the one for people. They are
// opened before the run: a wrong path should not cost minutes.
type files struct{ junit, json *os.File }

func openFiles(junit, json string) (f files, err error) {
	const mode = 0o644
	open := func(flag, path string) *os.File {
		if path == "" || err != nil {
			return nil
		}
		var file *os.File
		//nolint:gosec // the user's own path
		if file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode); err != nil {
			err = fmt.Errorf("--%s: %w", flag, err)
		}
		return file
	}
	f = files{junit: open("junit", junit), json: open("json-file", json)}
	if err != nil {
		f.close()
	}
	return f, err
}

// close is for the end: write errors were told when they happened.
func (f files) close() {
	for _, file := range []*os.File{f.junit, f.json} {
		if file != nil {
			_ = file.Close()
		}
	}
}
