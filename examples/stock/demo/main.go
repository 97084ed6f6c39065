// The demo plays the stock story three times with the same messages: with an
// ordinary Watermill router, with Watermill's own Deduplicator in it, and with
// Headrace. Messages come twice and out of order, handlers throw after the stock
// was written, and the consumer process is killed with kill -9 in the middle of
// a message. A table says what each ended with; every number in it is counted in
// the run.
//
//	go run ./examples/stock/demo                     # SQLite and the embedded broker, no services
//	go run ./examples/stock/demo -broker kafka://localhost:9092 -db postgres://me@localhost/shop
//
// On real parts it works in schemas, topics and groups of its own, and removes
// them. The exit status is 1 when the protected side is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// maxChanges keeps a mistyped -changes from running for hours.
const maxChanges = 100_000

// options are the demo's flags.
type options struct {
	db, broker string
	seed       int64
	changes    int
	timeout    time.Duration
	out        printer
}

// printer writes for people: where that fails there is nobody to tell.
type printer struct{ io.Writer }

func (p printer) printf(format string, args ...any) { _, _ = fmt.Fprintf(p, format, args...) }

var (
	errUsage = errors.New("usage")
	// errWrong: the protected side did not end as it must.
	errWrong = errors.New("the protected side is wrong")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := runAs(ctx)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// runAs runs as what this process was started for: the demo, or a consumer that
// the demo has started.
func runAs(ctx context.Context) error {
	if orders := os.Getenv(ordersVariable); orders != "" {
		return consumeAsToldBy(ctx, orders)
	}
	opts, err := parse(os.Args[1:])
	if err != nil {
		return err
	}
	outcomes, err := play(ctx, opts)
	if err == nil && outcomes[protected].damaged() {
		err = errWrong
	}
	return err
}

func parse(args []string) (options, error) {
	opts := options{out: printer{os.Stdout}}
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.StringVar(&opts.broker, "broker", os.Getenv("BROKER"),
		"broker `URL`: kafka://, sqs://, postgres://, mysql:// (BROKER; default: the embedded broker on a file)")
	flags.StringVar(&opts.db, "db", os.Getenv("DB"),
		"database `URL`: postgres://, mysql://, sqlite:path (DB; default: SQLite in a temporary directory)")
	flags.Int64Var(&opts.seed, "seed", 0, "of the random choices; 0 takes a new one")
	flags.IntVar(&opts.changes, "changes", 300, "how many stock changes to send")
	flags.DurationVar(&opts.timeout, "timeout", 3*time.Minute, "for each of the three runs")
	if err := flags.Parse(args); err != nil {
		return opts, errUsage // flag has said what is wrong
	}
	if flags.NArg() > 0 {
		return opts, fmt.Errorf("unknown argument %q: see -help", flags.Arg(0))
	}
	if opts.changes < minChanges || opts.changes > maxChanges {
		return opts, fmt.Errorf("-changes must be from %d to %d, not %d", minChanges, maxChanges, opts.changes)
	}
	for _, address := range []*string{&opts.broker, &opts.db} {
		var err error
		if *address, err = ofScripts(*address); err != nil {
			return opts, err
		}
	}
	if opts.seed == 0 {
		opts.seed = time.Now().UnixNano() % 1_000_000
	}
	return opts, nil
}

// ofScripts turns the name of a service that scripts/brokers runs into its URL,
// which is in the environment then. It returns a URL as it is.
func ofScripts(name string) (string, error) {
	variable, ok := map[string]string{
		"kafka": "HEADRACE_TEST_KAFKA", "sqs": "HEADRACE_TEST_SQS", "sqs-fifo": "HEADRACE_TEST_SQS",
		"postgres": "HEADRACE_TEST_POSTGRES", "mariadb": "HEADRACE_TEST_MARIADB",
	}[name]
	if !ok {
		return name, nil
	}
	address := os.Getenv(variable)
	switch {
	case address == "":
		return "", fmt.Errorf("%q stands for the one that scripts/brokers starts, but %s is not set: "+
			"use make demo, or give a URL", name, variable)
	case name == "sqs-fifo":
		address += "&fifo=true"
	}
	return address, nil
}

// play plays every side and prints the table.
func play(ctx context.Context, opts options) (outcomes map[side]*outcome, err error) {
	began := time.Now()
	dir, err := os.MkdirTemp("", "headrace-demo-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if opts.db == "" {
		// This survives the death of processes, of which there will be some, and
		// saves the wait for the disk at every commit.
		opts.db = "sqlite:" + filepath.Join(dir, "stock.db") + "?_pragma=synchronous(NORMAL)"
	}
	if opts.broker == "" {
		opts.broker = "mem:?file=" + filepath.Join(dir, "queue.db")
	}

	p := newPlan(opts.seed, opts.changes)
	opts.out.printf("Stock demo on %s and %s, -seed %d\n", kindOf(opts.db), kindOf(opts.broker), opts.seed)
	opts.out.printf("To each side: %d changes, %d copies of them, %d out of order; %d handlers throw, one consumer is killed\n\n",
		len(p.changes), p.copies(), p.outOfOrder(), len(p.throw))

	run := runName()
	outcomes = map[side]*outcome{}
	for _, s := range sides() {
		outcomes[s], err = playSide(ctx, opts, p, run, s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
	}
	printTable(opts.out, p, outcomes)
	opts.out.printf("\n%s. Took %.1f s.\n", verdict(outcomes), time.Since(began).Seconds())
	return outcomes, nil
}

// kindOf says what a URL is of without repeating what may be secret.
func kindOf(rawURL string) string {
	scheme, _, _ := strings.Cut(rawURL, ":")
	return scheme
}
