package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
)

// backlogJSON is the result of backlog.
type backlogJSON struct {
	Broker string             `json:"broker"`
	Group  string             `json:"group"`
	Topics []topicBacklogJSON `json:"topics"`
}

type topicBacklogJSON struct {
	Topic string `json:"topic"`
	// Left are the messages that the group has not acked.
	Left int64 `json:"left"`
}

func (a *app) backlog() *cobra.Command {
	var broker, group string
	cmd := &cobra.Command{
		Use:   "backlog --group NAME TOPIC...",
		Short: "Count what a consumer group has not acked yet on a broker",
		Long: `Count what a consumer group has not acked yet of topics: what waits, and what is in
somebody's hands. It is how a broker that is being left is seen to be empty
(docs/swap.md).

AWS SQS counts approximately, about a minute late: look twice. A topic that
doesn't exist has no messages, so mind how it is written.

Exit status: 0 nothing is left, 1 something is, 2 the broker could not be asked.`,
		Example: `  headrace backlog --broker kafka://localhost:9092 --group stock orders invoices
  until headrace backlog --broker "$OLD" --group stock orders; do sleep 10; done`,
		Args: func(cmd *cobra.Command, args []string) error {
			for _, name := range ofTables() {
				if cmd.Flags().Changed(name) {
					return fmt.Errorf("--%s is about Headrace's tables; a broker is named by --broker", name)
				}
			}
			if broker == "" {
				broker = a.Getenv(envBroker)
			}
			switch {
			case broker == "":
				return errors.New("no broker given: pass --broker, such as kafka://localhost:9092, or set " + envBroker)
			case group == "":
				return errors.New("--group is required: the consumer group, as the service names it")
			case len(args) == 0:
				return errors.New("name the topics to count")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, topics []string) error {
			return a.countLeft(cmd.Context(), broker, group, topics)
		},
	}
	cmd.Flags().StringVar(&broker, "broker", "", "`URL` of the broker (default $"+envBroker+")")
	cmd.Flags().StringVar(&group, "group", "", "the consumer group")
	return cmd
}

func (a *app) countLeft(ctx context.Context, rawURL, group string, topics []string) (err error) {
	var b *brokers.Broker
	err = a.progress("connecting to the broker", func() (err error) {
		b, err = brokers.Open(ctx, rawURL, brokers.Config{Openers: all.Openers(), ConnectTimeout: a.connectTimeout})
		return err
	})
	if err != nil {
		return err
	}
	defer b.Close() //nolint:errcheck // nothing was sent or received
	result := backlogJSON{Broker: b.Name(), Group: group}
	rows := [][]string{{"TOPIC", "LEFT"}}
	var sum int64
	for _, topic := range topics {
		left, err := b.Backlog(ctx, topic, group)
		if err != nil {
			return err
		}
		sum += left
		result.Topics = append(result.Topics, topicBacklogJSON{topic, left})
		rows = append(rows, []string{topic, strconv.FormatInt(left, 10)})
	}
	if a.json {
		err = a.printJSON(result)
	} else {
		err = a.write(table(rows...))
	}
	if err == nil && sum > 0 {
		return errFound
	}
	return err
}
