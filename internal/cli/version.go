package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// versionsJSON is the result of version show.
type versionsJSON struct {
	Database string        `json:"database"`
	Type     string        `json:"type"`
	ID       string        `json:"id"`
	Versions []versionJSON `json:"versions"`
}

type versionJSON struct {
	Consumer string `json:"consumer"`
	// Group of fields; "" is that of all.
	Group   string `json:"group"`
	Version string `json:"version"`
	// Deleted says that the entity was gone as of this version.
	Deleted bool      `json:"deleted"`
	TakenAt time.Time `json:"taken_at"`
}

func (a *app) versions() *cobra.Command {
	var consumer string
	show := &cobra.Command{
		Use:   "show TYPE ID",
		Short: "Show the newest state of an entity that each consumer has taken",
		Long: `Show the newest version of an entity that each consumer behind VersionSkip has taken, for
each group of its fields. What is older is skipped as stale. Versions that are kept in
columns of tables of your own (VersionSkipConfig.Columns) are there.

Exit status: 0 there is one, 1 there is none, 2 it could not be asked for.`,
		Example: `  headrace version show "order line" 4711
  headrace version show "order line" 4711 --consumer shop.lines --json`,
		Args: exactly(2), //nolint:mnd // as Use says
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" || args[1] == "" {
				return errors.New("the entity's type and id are needed")
			}
			entity := store.Entity{Type: args[0], ID: args[1]}
			return a.with(cmd.Context(), false, func(s *session) error { return s.showVersions(cmd.Context(), consumer, entity) })
		},
	}
	show.Flags().StringVar(&consumer, "consumer", "", "what this consumer has, as \"service.handler\"")
	return commandGroup("version", "Show what consumers know of an entity that carries versions", show)
}

func (s *session) showVersions(ctx context.Context, consumer string, entity store.Entity) error {
	st, err := s.store(ctx)
	if err != nil {
		return err
	}
	defer st.Close() //nolint:errcheck // frees memory only
	rows, err := st.VersionsOf(ctx, consumer, entity)
	if err != nil {
		return err
	}
	result := versionsJSON{Database: s.url.Name, Type: entity.Type, ID: entity.ID, Versions: []versionJSON{}}
	shown := [][]string{{"CONSUMER", "FIELDS", "VERSION", "STATE", "TAKEN"}}
	for _, row := range rows {
		version, err := middleware.ParseVersion(row.Version)
		if err != nil {
			return err
		}
		result.Versions = append(result.Versions, versionJSON{
			row.Consumer, row.Group, version.String(), row.Deleted, row.UpdatedAt,
		})
		fields, state := row.Group, "there"
		if fields == "" {
			fields = "(all)"
		}
		if row.Deleted {
			state = "deleted"
		}
		shown = append(shown, []string{row.Consumer, fields, version.String(), state, instant(row.UpdatedAt)})
	}
	switch {
	case s.app.json:
		err = s.app.printJSON(result)
	case len(rows) == 0:
		err = s.app.write(s.url.Name + "\n\nnobody has taken a version of " + cell(entity.String()) + "\n")
	default:
		err = s.app.write(s.url.Name + "\n\n" + table(shown...))
	}
	if err == nil && len(rows) == 0 {
		err = errFound
	}
	return err
}
