package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/store"
)

func (a *app) migrate() *cobra.Command {
	return commandGroup("migrate", "Create, upgrade or take back the tables",
		a.migrateUp(), a.migrateDown(), a.migrateStatus(), a.migratePrint())
}

// migrationsJSON is the result of migrate up, down and status.
type migrationsJSON struct {
	Database string `json:"database"`
	Version  int64  `json:"version"`
	// Known is the newest version that this program knows.
	Known int64 `json:"known"`
	// Usable is whether this program may use the schema as it is.
	Usable     bool                    `json:"usable"`
	Migrations []store.MigrationStatus `json:"migrations"`
}

func (a *app) migrateUp() *cobra.Command {
	return &cobra.Command{
		Use:   "up",
		Short: "Apply all migrations that are missing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), true, func(s *session) error { return s.migrateUp(cmd.Context()) })
		},
	}
}

func (s *session) migrateUp(ctx context.Context) error {
	before, err := s.schema(ctx)
	if err != nil {
		return err
	}
	pending := 0
	for _, m := range before.Migrations {
		if !m.Applied {
			pending++
		}
	}
	if pending > 0 {
		what := "applying " + plural(int64(pending), "migration") + " to " + s.url.Name
		s.app.sayf("%s", what)
		migrator, err := store.NewMigrator(s.db, s.cfg)
		if err != nil {
			return err
		}
		if err := s.app.progress(what, func() error { return migrator.Up(ctx) }); err != nil {
			return s.explainMigration(err)
		}
	}
	return s.showMigrations(ctx)
}

// explainMigration adds the way out where the database's own words hold none.
func (s *session) explainMigration(err error) error {
	if s.app.schema == "" || !strings.Contains(err.Error(), s.app.schema) {
		return err
	}
	return fmt.Errorf("%w; --schema must exist and belong to you: CREATE SCHEMA %s", err, s.app.schema)
}

func (a *app) migrateDown() *cobra.Command {
	var yes, force bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Take back the newest migration, with the data in its tables",
		Long: `Take back the newest migration, with the data in its tables. Messages that are parked
or in review, and calls of which nobody knows whether they have happened, are nowhere
else: while there are any it refuses, and names them, unless --force is given.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), false, func(s *session) error { return s.migrateDown(cmd.Context(), yes, force) })
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask")
	cmd.Flags().BoolVar(&force, "force", false, "also delete what waits for people and is nowhere else")
	return cmd
}

func (s *session) migrateDown(ctx context.Context, yes, force bool) error {
	before, err := s.schema(ctx)
	if err != nil {
		return err
	}
	if before.Version == 0 {
		s.app.sayf("nothing to take back: no migration was applied")
		return s.showMigrations(ctx)
	}
	if before.Version > before.Known {
		return fmt.Errorf("%w: version %d was applied by a newer program and only that one can take it back",
			store.ErrSchemaTooNew, before.Version)
	}
	unfinished, err := s.unfinished(ctx, before.Version)
	if err != nil {
		return err
	}
	if unfinished != "" && !force {
		return fmt.Errorf("nothing was changed: version %d holds what is nowhere else: %s; "+
			"have it handled or discarded (headrace parked ls, headrace review ls), or pass --force", before.Version, unfinished)
	}
	if !yes {
		if unfinished != "" {
			s.app.sayf("Lost for good: %s.", unfinished)
		}
		if err := s.confirmDown(ctx, before.Version); err != nil {
			return err
		}
	}
	migrator, err := store.NewMigrator(s.db, s.cfg)
	if err != nil {
		return err
	}
	if err := s.app.progress("taking back a migration", func() error { return migrator.Down(ctx) }); err != nil {
		return err
	}
	return s.showMigrations(ctx)
}

// Versions whose tables hold what waits for people.
const (
	effectsVersion = 2
	parkingVersion = 4
)

// unfinished says what waits for people in the tables of a version, or nothing.
func (s *session) unfinished(ctx context.Context, version int64) (string, error) {
	inspector, err := store.NewInspector(s.db, s.cfg)
	if err != nil {
		return "", err
	}
	var words []string
	switch version {
	case parkingVersion:
		var counts []store.ParkedCount
		err = s.app.progress("counting what is parked", func() (err error) {
			counts, err = inspector.CountParked(ctx)
			return err
		})
		for _, c := range counts {
			words = append(words, parkedWords(c)+" of consumer "+cell(c.Consumer))
		}
	case effectsVersion:
		var counts []store.EffectCount
		err = s.app.progress("counting effects", func() (err error) {
			counts, err = inspector.CountOpenEffects(ctx)
			return err
		})
		for _, c := range counts {
			words = append(words, fmt.Sprintf("%s of unknown outcome and %d begun of scope %s",
				plural(c.Unknown, "call"), c.Begun, cell(c.Scope)))
		}
	}
	return strings.Join(words, "; "), err
}

// parkedWords counts what is kept of a consumer.
func parkedWords(c store.ParkedCount) string {
	var words []string
	for _, part := range []struct {
		n    int64
		what string
	}{
		{c.Parked, "parked"},
		{c.Review, "in review"},
		{c.Delayed + c.Released, "to be tried again"},
		{c.Gap, "behind what is missing"},
		{c.Waiting, "waiting behind others"},
	} {
		if part.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	return strings.Join(words, ", ")
}

// errDeclined ends a command that was not confirmed.
var errDeclined = errors.New("nothing was changed: answer yes, or pass --yes")

// confirmDown says what would be lost before it asks.
func (s *session) confirmDown(ctx context.Context, version int64) error {
	text := fmt.Sprintf("Taking back version %d of %s deletes what its tables hold.", version, s.url.Name)
	if lost := s.wouldLose(ctx); lost != "" && version == 1 { // the outbox and the inbox are the first one's
		text += "\n" + lost
	}
	return s.confirm(text)
}

func (s *session) wouldLose(ctx context.Context) string {
	inspector, err := store.NewInspector(s.db, s.cfg)
	if err != nil {
		return ""
	}
	// Counting a large table may take minutes, and the answer is needed anyway.
	bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	partitions, err := inspector.CountOutboxPartitions(bounded)
	if err != nil {
		return ""
	}
	var unsent int64
	for _, p := range partitions {
		unsent += p.Unsent
	}
	scheduled, err := inspector.CountScheduled(bounded)
	if err != nil {
		return ""
	}
	later := ""
	if n := scheduledOf(scheduled).Waiting; n > 0 {
		later = plural(n, "message") + " for later, "
	}
	return fmt.Sprintf("Lost: %s in the outbox, %sand the memory of what was handled already.",
		plural(unsent, "unsent message"), later)
}

func (a *app) migrateStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "List the migrations; exit status 1 when one is missing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), false, func(s *session) error {
				if err := s.showMigrations(cmd.Context()); err != nil {
					return err
				}
				schema, err := s.schema(cmd.Context())
				if err == nil && !schema.Usable() {
					err = errFound
				}
				return err
			})
		},
	}
}

func (s *session) schema(ctx context.Context) (store.Schema, error) {
	inspector, err := store.NewInspector(s.db, s.cfg)
	if err != nil {
		return store.Schema{}, err
	}
	return inspector.Schema(ctx)
}

func (s *session) showMigrations(ctx context.Context) error {
	schema, err := s.schema(ctx)
	if err != nil {
		return err
	}
	if s.app.json {
		return s.app.printJSON(migrationsJSON{
			Database: s.url.Name, Version: schema.Version, Known: schema.Known,
			Usable: schema.Usable(), Migrations: schema.Migrations,
		})
	}
	rows := [][]string{{"VERSION", "MIGRATION", "APPLIED"}}
	for _, m := range schema.Migrations {
		applied := "no"
		if m.Applied {
			applied = m.At.UTC().Format("2006-01-02 15:04:05 UTC")
		}
		rows = append(rows, []string{number(m.Version), m.Name, applied})
	}
	return s.app.write(table(rows...))
}

func (a *app) migratePrint() *cobra.Command {
	var dialect string
	var down bool
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the migrations as plain SQL, for other tools",
		Long: `Print the migrations as plain SQL, for teams whose database is changed by other
tools. Nothing is connected to: the database's URL only tells the dialect, and
--dialect does so without one.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if dialect == "" {
				u, err := a.address()
				if err != nil {
					return fmt.Errorf("%w, or --dialect postgres, mysql or sqlite", err)
				}
				dialect = u.Dialect
			}
			text, err := store.PrintMigrations(
				store.Config{Dialect: store.Dialect(dialect), Schema: a.schema, Prefix: a.prefix}, down)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]string{"dialect": dialect, "sql": text})
			}
			return a.write(text)
		},
	}
	cmd.Flags().StringVar(&dialect, "dialect", "", "postgres, mysql or sqlite (default the URL's)")
	cmd.Flags().BoolVar(&down, "down", false, "print the way back")
	return cmd
}
