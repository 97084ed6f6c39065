package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Grades of a finding.
const (
	gradeOK   = "ok"
	gradeWarn = "warn"
	gradeFail = "fail"
	// gradeSkip: the check was not made.
	gradeSkip = "skip"
)

// finding is what one check found.
type finding struct {
	Check string `json:"check"`
	// Status is ok, warn, fail or skip.
	Status string `json:"status"`
	// Cause says what is so; WayOut what to do about it, where there is something
	// to do.
	Cause  string `json:"cause"`
	WayOut string `json:"way_out,omitempty"`
}

func ok(check, cause string) finding {
	return finding{Check: check, Status: gradeOK, Cause: cause}
}

func warn(check, cause, wayOut string) finding {
	return finding{Check: check, Status: gradeWarn, Cause: cause, WayOut: wayOut}
}

func fail(check, cause, wayOut string) finding {
	return finding{Check: check, Status: gradeFail, Cause: cause, WayOut: wayOut}
}

func skip(check, cause, wayOut string) finding {
	return finding{Check: check, Status: gradeSkip, Cause: cause, WayOut: wayOut}
}

// hint adds what could be better to a finding that is fine.
func (f finding) hint(text string) finding {
	f.WayOut = text
	return f
}

// doctorJSON is the result of doctor.
type doctorJSON struct {
	Database string `json:"database"`
	// Healthy: no check failed, and with --strict none warned.
	Healthy  bool      `json:"healthy"`
	Findings []finding `json:"findings"`
}

// examination is what a run of doctor was asked for.
type examination struct {
	broker string
	topics []string
	window time.Duration
	maxAge time.Duration
	strict bool
}

func (a *app) doctor() *cobra.Command {
	var e examination
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what would break Headrace's promises, with the way out",
		Long: `Look for what would break Headrace's promises or slow it down: the schema, the
database's version and settings, the clocks, the outbox and its owners; and, with
--broker, whether messages are remembered for as long as the broker can deliver
them again. Topics may have settings of their own: name them with --topic.

An arrow is advice: on a line that says ok, nothing is wrong without it.

Settings are those of a session opened by --db: give it the options that your
service's own connections have. Exit status 1 when a check fails.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("window") && e.broker == "" {
				return errors.New("--window is compared with a broker: pass --broker URL too")
			}
			if len(e.topics) > 0 && e.broker == "" {
				return errors.New("--topic is one of a broker's: pass --broker URL too")
			}
			return a.with(cmd.Context(), false, func(s *session) error { return s.doctor(cmd.Context(), e) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&e.broker, "broker", "", "`URL` of a broker to compare the dedupe window with")
	flags.StringSliceVar(&e.topics, "topic", nil, "`names` of topics whose own settings to look at (Kafka)")
	flags.DurationVar(&e.window, "window", middleware.DefaultWindow,
		"how long the service remembers messages (DedupeConfig.Window)")
	flags.DurationVar(&e.maxAge, "max-age", defaultMaxAge, "how long the oldest unsent message may have waited")
	flags.BoolVar(&e.strict, "strict", false, "exit with 1 on warnings too")
	return cmd
}

func (s *session) doctor(ctx context.Context, e examination) error {
	inspector, err := store.NewInspector(s.db, s.cfg)
	if err != nil {
		return err
	}
	// What is wrong with the question comes before what is wrong with the answer.
	broker, err := s.checkBroker(ctx, e)
	if err != nil {
		return err
	}
	findings := s.checkServer(ctx, inspector)
	findings = append(findings, s.checkClock(ctx, inspector))
	schema := s.checkSchema(ctx, inspector)
	findings = append(findings, schema)
	if schema.Status == gradeOK {
		findings = append(findings, s.checkOutbox(ctx, e)...)
	}
	return s.report(e, append(findings, broker...))
}

func (s *session) report(e examination, findings []finding) error {
	result := doctorJSON{Database: s.url.Name, Healthy: true, Findings: findings}
	count := map[string]int64{}
	for _, f := range findings {
		count[f.Status]++
		if f.Status == gradeFail || f.Status == gradeWarn && e.strict {
			result.Healthy = false
		}
	}
	err := func() error {
		if s.app.json {
			return s.app.printJSON(result)
		}
		return s.app.write(fmt.Sprintf("%s\n\n%s\n%d ok, %s, %d failed, %d skipped\n", s.url.Name, listing(findings),
			count[gradeOK], plural(count[gradeWarn], "warning"), count[gradeFail], count[gradeSkip]))
	}()
	if err == nil && !result.Healthy {
		err = errFound
	}
	return err
}

// listing shows each check on a line and its way out below.
func listing(findings []finding) string {
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Check))
	}
	var out strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&out, "%-4s  %-*s  %s\n", f.Status, width, f.Check, oneLine(f.Cause))
		if f.WayOut != "" {
			fmt.Fprintf(&out, "%*s→ %s\n", 4+2+width+2, "", oneLine(f.WayOut))
		}
	}
	return out.String()
}

// oneLine is cell without its limit: causes and ways out are the command's own
// words, but may quote the database's.
func oneLine(text string) string {
	words := strings.Fields(text)
	for i, word := range words {
		words[i] = cell(word)
	}
	return strings.Join(words, " ")
}

// failed is the finding of a check that could not be made.
func failed(check string, err error) finding {
	return fail(check, "could not be checked: "+err.Error(), "give the user the right to read it, or ask again later")
}
