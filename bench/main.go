// Command bench compares Headrace with the real alternatives: each comparison
// runs both sides on the same data and servers, alternating them, so that what
// the machine does meanwhile meets both.
//
//	make bench              all of them; writes docs/benchmarks.md
//	make bench ONLY=name    one
//
// Each comparison ends with one line:
//
//	bar <name> <value> <unit> want <op> <bar> ok|short
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
)

func main() {
	only := flag.String("only", "", "run one comparison, by name")
	report := flag.String("report", "../docs/benchmarks.md", "where a full run writes its report")
	child := flag.String("child", "", "used by bench itself: run one measurement in this process")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only, *report, *child); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func run(ctx context.Context, only, report, child string) error {
	env, err := environment()
	if err != nil {
		return err
	}
	if child != "" {
		return runChild(ctx, env, child)
	}
	comparisons := all()
	var results []result
	for _, c := range comparisons {
		if only != "" && c.name != only {
			continue
		}
		r, err := c.run(ctx, env)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Println(r.bar())
		results = append(results, r)
	}
	if only != "" && len(results) == 0 {
		names := make([]string, len(comparisons))
		for i, c := range comparisons {
			names[i] = c.name
		}
		return fmt.Errorf("no comparison is called %q: there are %s", only, strings.Join(names, ", "))
	}
	if only != "" {
		return nil
	}
	return writeReport(report, results)
}

// all lists the comparisons in the order in which they run.
func all() []comparison {
	return []comparison{
		dedupeVersusBare(),
		relayVersusWatermill(),
		relayMemory(),
		purgeMemory(),
		parkingIdleCost(),
		parkingDrain(),
		poisonOtherKeys(),
		fetchCalls(),
	}
}

// servers are what the comparisons run on; scripts/brokers brings them up.
type servers struct {
	postgres string
	kafka    []string
	// sqs and kafkaURL are as brokers.Open takes them.
	sqs, kafkaURL string
}

func environment() (servers, error) {
	env := servers{
		postgres: os.Getenv("HEADRACE_TEST_POSTGRES"), sqs: os.Getenv("HEADRACE_TEST_SQS"), kafkaURL: os.Getenv("HEADRACE_TEST_KAFKA"),
	}
	kafka := strings.TrimPrefix(env.kafkaURL, "kafka://")
	if env.postgres == "" || kafka == "" || env.sqs == "" {
		return servers{}, errors.New("HEADRACE_TEST_POSTGRES, HEADRACE_TEST_KAFKA and HEADRACE_TEST_SQS are not set: run `make bench`, " +
			"or scripts/brokers start and eval \"$(scripts/brokers env)\"")
	}
	env.kafka = strings.Split(kafka, ",")
	return env, nil
}
