// Package cli is the command headrace.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/store"
)

// Exit statuses.
const (
	exitOK = 0
	// exitProblem: the command did its work and found a problem.
	exitProblem = 1
	// exitFailed: wrong usage, or the database or broker could not be asked.
	exitFailed = 2
)

// Env is the world around the command.
type Env struct {
	// Args are the arguments without the command's own name.
	Args []string
	In   io.Reader
	// Out gets results, Err gets errors, questions and progress.
	Out, Err io.Writer
	Getenv   func(name string) string
	// Now is this machine's clock.
	Now func() time.Time
	// ProgressEvery is how often work that takes long says so. Default 2 s.
	ProgressEvery time.Duration
	// Terminal: Err is one, on which a line can be written anew.
	Terminal bool
}

// Run runs the command and returns its exit status: 0 fine, 1 a problem was
// found, 2 wrong usage or something that can't be reached.
func Run(ctx context.Context, env Env) int {
	if env.ProgressEvery <= 0 {
		env.ProgressEvery = 2 * time.Second
	}
	app := &app{Env: env}
	root := app.root() //nolint:contextcheck // each command gets its context when it runs
	root.SetArgs(env.Args)
	root.SetIn(env.In)
	root.SetOut(env.Out)
	root.SetErr(env.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, errFound) {
		app.sayf("headrace: %v", err)
	}
	if errors.Is(err, errFound) || errors.Is(err, store.ErrSchemaMissing) || errors.Is(err, store.ErrSchemaTooNew) {
		return exitProblem
	}
	return exitFailed
}

// errFound ends a command that has reported a problem by itself.
var errFound = errors.New("a problem was found")

// app is the command with the values of its global flags.
type app struct {
	Env

	db             string
	schema, prefix string
	connectTimeout time.Duration
	json           bool
}

const envDB = "HEADRACE_DB"

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "headrace",
		Short: "Look after Headrace's tables in a database, and try brokers",
		Long: `headrace looks after Headrace's tables in a database; and it tries what a broker
guarantees (headrace conformance).

The database is named by a URL, in --db or, so that a password doesn't show in
the list of processes, in the environment variable ` + envDB + `:

  postgres://user:password@host:port/database?sslmode=disable
  mysql://user:password@host:port/database      (or mariadb://)
  sqlite:path/to/file.db

Exit status: 0 fine, 1 a problem was found, 2 wrong usage or unreachable.`,
		Example: `  headrace migrate up --db postgres://localhost/shop
  headrace status --json
  headrace doctor --broker kafka://localhost:9092 --window 168h
  headrace inbox why 5b1f6f0c-6a3c-4f7e-9d43-2f1f6c9a7e11
  headrace parked ls --by-error
  headrace conformance kafka://localhost:9092`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.db, "db", "", "`URL` of the database (default $"+envDB+")")
	flags.StringVar(&a.schema, "schema", "",
		"schema on Postgres or database on MySQL that holds the tables (default the connection's)")
	flags.StringVar(&a.prefix, "prefix", store.DefaultPrefix, "what the tables' names start with")
	flags.DurationVar(&a.connectTimeout, "connect-timeout", 10*time.Second, "how long to try to reach the database or broker")
	flags.BoolVar(&a.json, "json", false, "print JSON for scripts")
	root.AddCommand(
		a.migrate(), a.status(), a.doctor(), a.inbox(), a.consumer(), a.parked(), a.key(), a.review(), a.audit(),
		a.forget(), a.scheduled(), a.effect(), a.versions(), a.sequences(),
		a.conformance(), a.backlog(),
	)
	return root
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return fmt.Sprintf("%s (schema version %d)", info.Main.Version, store.SchemaVersion)
}

// sayf writes a line for the person at the terminal.
func (a *app) sayf(format string, args ...any) {
	_, _ = fmt.Fprintf(a.Err, format+"\n", args...) // nobody to tell when stderr is gone
}
