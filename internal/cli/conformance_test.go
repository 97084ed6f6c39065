package cli

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/internal/redact"
)

// quickFacts are over at once.
const quickFacts = "^(delivery/a batch arrives whole|order/total|content/foreign producer)$"

func TestConformanceOfARunningBroker(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	junit, js := filepath.Join(folder, "report.xml"), filepath.Join(folder, "report.json")
	var term terminal
	exit := term.run(t, "conformance", "mem:", "--run", quickFacts, "--junit", junit, "--json-file", js)
	require.Equal(t, exitOK, exit, "%s%s", &term.out, &term.err)

	require.Contains(t, term.err.String(), "Trying 3 facts about mem:, 8 at a time.")
	require.Contains(t, term.err.String(), "named conf_…, and deletes them; touches no others")
	require.Contains(t, term.err.String(), "order per key")
	require.Regexp(t, `3/3  `, term.err.String())
	require.Regexp(t, `holds +delivery/a batch arrives whole`, term.err.String())

	require.Regexp(t, `Open: [^\n]*\n +order/total +\S`, term.out.String())
	require.Contains(t, term.out.String(), "Harness.Foreign: content/foreign producer")
	require.Regexp(t, `3 facts about mem: in \S+: holds 1, open 1, unknown 1, failed 0\n$`, term.out.String())

	var report conformance.Report
	text, err := os.ReadFile(js)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &report))
	require.Len(t, report.Results, 3)
	text, err = os.ReadFile(junit)
	require.NoError(t, err)
	require.NoError(t, xml.Unmarshal(text, new(struct {
		XMLName xml.Name `xml:"testsuite"`
	})))
	require.Contains(t, string(text), `<testcase classname="conformance.mem.delivery" name="a batch arrives whole"`)

	report = conformance.Report{}
	require.Equal(t, exitOK, term.run(t, "conformance", "mem:", "--run", quickFacts, "--json"))
	require.NoError(t, json.Unmarshal(term.out.Bytes(), &report))
	require.Equal(t, "mem:", report.Broker)

	term.env = map[string]string{"HEADRACE_BROKER": "mem:"}
	require.Equal(t, exitOK, term.run(t, "conformance", "--run", quickFacts, "--verbose"))
	require.Regexp(t, `Holds\n +delivery/a batch arrives whole`, term.out.String())
}

func TestConformanceLeavesNoTopicUnlessAskedTo(t *testing.T) {
	t.Parallel()
	count := func(file string) (n int) {
		db, err := sql.Open("sqlite", file)
		require.NoError(t, err)
		defer func() { require.NoError(t, db.Close()) }()
		const topics = "SELECT count(DISTINCT topic) FROM groups WHERE topic LIKE 'conf%'"
		require.NoError(t, db.QueryRowContext(t.Context(), topics).Scan(&n))
		return n
	}
	for flag, check := range map[string]func(left int, said string){
		"--verbose": func(left int, said string) { require.Zero(t, left, said) },
		"--keep": func(left int, said string) {
			require.Positive(t, left)
			require.Contains(t, said, "named conf_…, and leaves them there")
			require.Regexp(t, `Kept \d topics`, said)
		},
	} {
		file := filepath.Join(t.TempDir(), "queue.db")
		var term terminal
		exit := term.run(t, "conformance", "mem:?file="+file, flag, "--run", "delivery/a batch|lifecycle/two topics|odd topic")
		require.Equal(t, exitOK, exit, "%s%s", &term.out, &term.err)
		check(count(file), term.err.String())
	}
}

func TestConformanceWaitsAsLongAsItIsTold(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args            []string
		patience, quiet time.Duration
	}{
		{nil, conformance.DefaultPatience, conformance.DefaultQuiet},
		{[]string{"--patience", "90s", "--quiet", "25s"}, 90 * time.Second, 25 * time.Second},
		{[]string{"--patience", "1s"}, time.Second, time.Second},
	} {
		s := suite{app: &app{Env: Env{Getenv: func(string) string { return "" }}}, broker: &brokers.Broker{}}
		cmd := s.command()
		require.NoError(t, cmd.ParseFlags(test.args))
		require.NoError(t, s.args(cmd, []string{"mem:"}))
		h, err := s.harness()
		require.NoError(t, err)
		require.Equal(t, test.patience, h.Patience, test.args)
		require.Equal(t, test.quiet, h.Quiet, test.args)
	}
}

func TestConformanceDryRunMakesNothing(t *testing.T) {
	t.Parallel()
	var term terminal
	exit := term.run(t, "conformance", "mem:", "--dry-run", "--known", "order/total=it is a queue")
	require.Equal(t, exitOK, exit, term.err.String())
	lines := strings.Split(strings.TrimSpace(term.out.String()), "\n")
	require.Len(t, lines, len(conformance.Facts()))
	for _, want := range []string{
		`delivery/nacked comes again +must hold on every broker`,
		`order/per key +must hold: KeyOrder is declared`,
		`order/total with nacks +tried; TotalOrder is not declared`,
		`order/total +known to break: it is a queue`,
		`delivery/a restart of the broker loses nothing +unknown: needs Harness.Restart, so a Go test`,
	} {
		require.Regexp(t, want, term.out.String())
	}
	require.Equal(t, exitOK, term.run(t, "conformance", "mem:", "--dry-run", "--json"))
	var facts []planned
	require.NoError(t, json.Unmarshal(term.out.Bytes(), &facts))
	require.Len(t, facts, len(conformance.Facts()))
}

func TestConformanceRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no broker":       {nil, "pass its URL, such as kafka://localhost:9092, or set HEADRACE_BROKER"},
		"two brokers":     {[]string{"mem:", "report.json"}, "--json-file and --junit take a file"},
		"of the tables":   {[]string{"mem:", "--db", "sqlite:x"}, "--db is about Headrace's tables"},
		"bad expression":  {[]string{"mem:", "--run", "("}, "--run: error parsing regexp"},
		"no such fact":    {[]string{"mem:", "--run", "magic"}, "`headrace conformance --dry-run mem:` lists them"},
		"no patience":     {[]string{"mem:", "--patience", "0s"}, "--patience must be more than 0"},
		"no quiet":        {[]string{"mem:", "--quiet", "-1s"}, "--quiet must be more than 0"},
		"no duration":     {[]string{"mem:", "--quiet", "3"}, `invalid argument "3" for "--quiet"`},
		"too quiet":       {[]string{"mem:", "--quiet", "40s"}, "--quiet 40s is more than --patience 30s"},
		"nothing at once": {[]string{"mem:", "--parallel", "0"}, "--parallel must be at least 1"},
		"unknown fact":    {[]string{"mem:", "--known", "order/x=y"}, `Known names "order/x", which is no fact`},
		"no reason":       {[]string{"mem:", "--known", "order/total"}, "write it as fact=reason"},
		"no such folder":  {[]string{"mem:", "--junit", "/nowhere/at/all.xml"}, "--junit: open /nowhere/at/all.xml"},
		"unknown scheme":  {[]string{"nats://me:hunter22@host"}, `unknown scheme "nats"; known are kafka`},
		"bad option":      {[]string{"mem:?password=hunter22"}, `unknown option "password"`},
		"unparseable":     {[]string{"kafka://me:hunter22@host:x"}, "percent-encoded"},
		"nobody is there": {
			[]string{"kafka://me:hunter22@127.0.0.1:1", "--connect-timeout", "100ms"}, "can't be reached: kafka://127.0.0.1:1",
		},
		"no database":      {[]string{"postgres://me:hunter22@127.0.0.1:1/x", "--connect-timeout", "100ms"}, "can't be reached"},
		"no database file": {[]string{"mem:?file=/nowhere/at/all"}, "does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var term terminal
			began := time.Now()
			require.Equal(t, exitFailed, term.run(t, append([]string{"conformance"}, test.args...)...))
			require.Empty(t, term.out.String())
			require.Contains(t, term.err.String(), test.want)
			require.NotContains(t, term.err.String(), "hunter22")
			require.Less(t, time.Since(began), 20*time.Second)
		})
	}
}

// signalled cancels when a text has been written.
type signalled struct {
	bytes.Buffer

	text string
	then func()
}

func (s *signalled) Write(p []byte) (int, error) {
	n, err := s.Buffer.Write(p)
	if strings.Contains(s.String(), s.text) {
		s.then()
	}
	return n, err
}

func TestInterruptedConformanceReportsWhatItFound(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var out bytes.Buffer
	said := &signalled{text: "delivery/a batch arrives whole", then: interrupt}
	file := filepath.Join(t.TempDir(), "queue.db")
	// The second one takes half a minute.
	exit := Run(ctx, Env{
		Args: []string{
			"conformance", "mem:?file=" + file, "--parallel", "2",
			"--run", "a batch arrives whole|consumers that come and go|order/total",
		},
		In: strings.NewReader(""), Out: &out, Err: said, Getenv: func(string) string { return "" }, Now: time.Now,
		ProgressEvery: time.Hour,
	})
	require.Equal(t, exitProblem, exit)
	require.Contains(t, said.String(), "interrupted: what was not tried to its end is unknown")
	require.NotContains(t, said.String(), "could not be deleted")
	require.Contains(t, out.String(), "the run was ended while the fact was being tried")
	require.Regexp(t, `holds 1, (open \d, )?unknown \d, failed \d\n$`, out.String())
}

func TestConformanceReportsFailuresLastAndOnceEach(t *testing.T) {
	t.Parallel()
	u, err := redact.Parse("kafka://me:hunter22@host")
	require.NoError(t, err)
	s := suite{app: &app{Env: Env{Out: io.Discard, Err: io.Discard}}, secrets: redact.New(u)}
	report := conformance.Report{Broker: "kafka://host", Took: time.Second, Results: []conformance.Result{
		{
			Fact: "order/per key", Verdict: conformance.VerdictNo, Failed: true, Needs: "KeyOrder",
			Declaration: conformance.TooBold,
			Claim:       "messages of a key keep their order", Note: "a-2 came before a-1", Topic: "conf_x",
			History: []string{"0.1s  received  a-2"}, State: "1 not acked",
		},
		{Fact: "order/total", Verdict: conformance.VerdictUnknown, Failed: true, Note: "the broker is gone"},
		{Fact: "order/total with nacks", Verdict: conformance.VerdictUnknown, Failed: true, Note: "the broker is gone"},
		{Fact: "groups/progress is kept", Verdict: conformance.VerdictNo, Known: "it forgets", Note: "it came again"},
		{Fact: "content/key", Verdict: conformance.VerdictHolds},
	}}
	text := s.text(report)
	for _, want := range []string{
		"✗ order/per key: messages of a key keep their order\n  no: a-2 came before a-1\n" +
			"  KeyOrder is declared of this broker\n  topic: conf_x\n  the broker says: 1 not acked\n  0.1s  received  a-2\n",
		"✗ 2 facts are unknown: the broker is gone\n    order/total\n" +
			"    order/total with nacks\n",
		"  groups/progress is kept  known: it forgets; seen: it came again\n",
		"5 facts about kafka://host in 1s: holds 1, no 2, unknown 2, failed 3\n",
	} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "content/key", "what holds is told when asked for")
	require.Less(t, strings.Index(text, "groups/progress"), strings.Index(text, "✗"))
	require.Equal(t, 1, strings.Count(text, "the broker is gone"))
	require.ErrorIs(t, s.tell(report, files{}), errFound)
}

func TestConformanceScrubsSecrets(t *testing.T) {
	t.Parallel()
	u, err := redact.Parse("kafka://me:hunter22@host")
	require.NoError(t, err)
	b, err := brokers.Open(t.Context(), "mem:", brokers.Config{Openers: all.Openers()})
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	s := suite{app: &app{}, secrets: redact.New(u), broker: b}
	text, err := json.Marshal(s.scrubbed(conformance.Report{Results: []conformance.Result{{
		Note: "dial me:hunter22@host", State: "hunter22", History: []string{"refused: hunter22"},
	}}}))
	require.NoError(t, err)
	require.NotContains(t, string(text), "hunter22")
}

func TestTopicsThatStayAreNamedWithTheReason(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	s := suite{app: &app{Env: Env{Err: &said}}, secrets: redact.New(&url.URL{})}
	for _, err := range []error{nil, errors.New("not allowed")} {
		del := s.topics.deleting(func(context.Context, string) error { return err })
		name, _ := s.topics.make(t.Context())
		require.ErrorIs(t, del(t.Context(), name), err)
		require.ErrorIs(t, del(t.Context(), "of another"), err)
	}
	s.tellLeft()
	require.Regexp(t, `^1 topic could not be deleted: not allowed\n  conf_\w+\n$`, said.String())
}

func TestConformanceOnATerminalWritesOneLineAnew(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	view := newProgressView(&app{Env: Env{Err: &said, Terminal: true, ProgressEvery: time.Hour}}, 2)
	view.started("order/per key")
	view.started("order/per key with a name that is very long indeed and would not fit into a line")
	view.done(conformance.Result{Fact: "order/per key", Verdict: conformance.VerdictNo, Failed: true, Note: "came late"}, 1, 2)
	for range 2 {
		view.done(conformance.Result{Verdict: conformance.VerdictUnknown, Failed: true, Note: "the broker is gone"}, 2, 2)
	}
	view.end()
	require.Equal(t, 1, strings.Count(said.String(), "the broker is gone"), "said once")
	require.Contains(t, said.String(), "\r\x1b[Kno ✗         order/per key  0s  came late\n")
	require.Contains(t, said.String(), "1/2, 1 failed")
	require.True(t, strings.HasSuffix(said.String(), "\r\x1b[K"), "the line is gone at the end")
	for line := range strings.SplitSeq(said.String(), "\r\x1b[K") {
		require.LessOrEqual(t, len([]rune(line)), 80)
	}
}
