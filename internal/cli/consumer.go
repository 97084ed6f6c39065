package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/store"
)

func (a *app) consumer() *cobra.Command {
	return commandGroup("consumer", "Look at who remembers messages, and change what they remember",
		a.consumerLs(), a.consumerRename(), a.consumerReset(), a.consumerReplay())
}

// consumersJSON is the result of consumer ls.
type consumersJSON struct {
	Database  string         `json:"database"`
	Consumers []consumerJSON `json:"consumers"`
}

type consumerJSON struct {
	Consumer string `json:"consumer"`
	// Processes handle its messages now.
	Processes int `json:"processes"`
	// RemembersSince is when the oldest remembered message was decided, Last the
	// youngest; missing when it remembers none.
	RemembersSince *time.Time `json:"remembers_since,omitempty"`
	Last           *time.Time `json:"last,omitempty"`
}

func (a *app) consumerLs() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the consumers, since when they remember messages, and who is running",
		Long: `List the consumers that remember messages or are running: how many processes handle
their messages now, and when the oldest and the youngest message was decided that
they remember. It counts nothing, so that it is quick on large tables; headrace
status counts.

A process that was killed is counted for half a minute more. Processes that protect
handlers without headrace.New are counted when they run a middleware.Presence.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), false, func(s *session) error { return s.consumers(cmd.Context()) })
		},
	}
}

func (s *session) consumers(ctx context.Context) error {
	st, err := s.store(ctx)
	if err != nil {
		return err
	}
	defer st.Close() //nolint:errcheck // frees memory only
	var infos []store.ConsumerInfo
	err = s.app.progress("looking at the consumers", func() error {
		infos, err = st.ConsumerInfos(ctx)
		return err
	})
	if err != nil {
		return err
	}
	list := consumersJSON{Database: s.url.Name, Consumers: []consumerJSON{}}
	rows := [][]string{{"CONSUMER", "PROCESSES", "REMEMBERS SINCE", "LAST"}}
	for _, info := range infos {
		line := consumerJSON{Consumer: info.Name, Processes: info.Processes}
		since, last := "nothing", ""
		if !info.Since.IsZero() {
			line.RemembersSince, since = &info.Since, instant(info.Since)
		}
		if !info.Last.IsZero() {
			line.Last, last = &info.Last, instant(info.Last)
		}
		list.Consumers = append(list.Consumers, line)
		rows = append(rows, []string{info.Name, number(int64(info.Processes)), since, last})
	}
	if s.app.json {
		return s.app.printJSON(list)
	}
	if len(infos) == 0 {
		return s.app.write("No consumer remembers any message here, and none is running.\n")
	}
	return s.app.write(table(rows...))
}
