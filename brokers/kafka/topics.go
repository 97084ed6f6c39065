package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"

	"github.com/headrace-go/headrace/brokers"
)

// topics creates topics and answers questions about them. Each operation has a
// connection of its own: they are rare, and one kept for them would be dropped
// by the broker as idle and fail the next.
type topics struct {
	settings *settings
	logger   watermill.LoggerAdapter

	ready sync.Map   // topic → struct{}: known to exist
	mu    sync.Mutex // one creation at a time
}

func newTopics(s *settings, logger watermill.LoggerAdapter) *topics {
	return &topics{settings: s, logger: logger}
}

// clusterDefaults is what the cluster decides when nobody else does.
type clusterDefaults struct {
	brokers    int
	maxMessage int           // bytes of a batch
	retention  time.Duration // of a topic that doesn't say; 0: unlimited
}

// Kafka's own defaults, for accounts that may not read the brokers' settings.
const (
	stockMaxMessage = 1048588
	stockRetention  = 7 * 24 * time.Hour
)

// readClusterDefaults also proves that the cluster talks to us.
func readClusterDefaults(s *settings) (d clusterDefaults, err error) {
	c := s.config()
	c.Metadata.Retry.Max = 0 // the caller tries again
	admin, err := sarama.NewClusterAdmin(s.brokers, c)
	if err != nil {
		return d, fmt.Errorf("connect: %w", err)
	}
	defer func() { err = errors.Join(err, admin.Close()) }()

	nodes, controller, err := admin.DescribeCluster()
	if err != nil {
		return d, fmt.Errorf("describe the cluster: %w", err)
	}
	d = clusterDefaults{brokers: len(nodes), maxMessage: stockMaxMessage, retention: stockRetention}
	entries, err := admin.DescribeConfig(sarama.ConfigResource{
		Type: sarama.BrokerResource, Name: strconv.Itoa(int(controller)),
		ConfigNames: []string{"message.max.bytes", "log.retention.ms"},
	})
	if err != nil {
		return d, nil // reading settings needs a right that many accounts lack
	}
	for _, entry := range entries {
		n, err := strconv.ParseInt(entry.Value, 10, 64)
		if err != nil {
			continue
		}
		switch entry.Name {
		case "message.max.bytes":
			d.maxMessage = int(n)
		case "log.retention.ms":
			d.retention = max(0, time.Duration(n)*time.Millisecond) // -1 is unlimited
		}
	}

	return d, nil
}

// remove deletes a topic; the group coordinator forgets its offsets by itself.
func (t *topics) remove(ctx context.Context, topic string) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ready.Delete(topic)

	return t.with(func(_ sarama.Client, admin sarama.ClusterAdmin) error {
		if err := admin.DeleteTopic(topic); err != nil && !errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
			return fmt.Errorf("delete: %w", err)
		}

		return gone(ctx, admin, topic)
	})
}

// gone waits until the topic isn't there any more: brokers hear of a deletion after the
// one that has answered, and take messages for the topic until then, which are lost.
func gone(ctx context.Context, admin sarama.ClusterAdmin, topic string) error {
	const pause = 20 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		found, err := admin.DescribeTopics([]string{topic})
		if err != nil {
			return fmt.Errorf("see whether it is deleted: %w", err)
		}
		if len(found) == 1 && errors.Is(found[0].Err, sarama.ErrUnknownTopicOrPartition) {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("it is deleted, but still there: %w", ctx.Err())
		}
	}
}

// limit returns the cluster's capabilities with a topic's own settings.
func (t *topics) limit(of brokers.Capabilities, topic string) (brokers.Capabilities, error) {
	if err := checkTopic(topic); err != nil {
		return of, err
	}
	var entries []sarama.ConfigEntry
	err := t.with(func(_ sarama.Client, admin sarama.ClusterAdmin) (err error) {
		entries, err = admin.DescribeConfig(sarama.ConfigResource{
			Type: sarama.TopicResource, Name: topic,
			ConfigNames: []string{"retention.ms", "cleanup.policy", "max.message.bytes"},
		})
		if err != nil {
			return fmt.Errorf("describe: %w", err)
		}
		return nil
	})
	if err != nil {
		return of, fmt.Errorf("settings of topic %q: %w", topic, err)
	}
	values := map[string]string{}
	for _, entry := range entries {
		values[entry.Name] = entry.Value
	}
	if n, err := strconv.ParseInt(values["retention.ms"], 10, 64); err == nil {
		of.RedeliveryWindow = max(0, time.Duration(n)*time.Millisecond) // -1 is unlimited
	}
	if policy := values["cleanup.policy"]; policy != "" && !strings.Contains(policy, "delete") {
		of.RedeliveryWindow = 0 // a compacted topic keeps each key's last message
	}
	if n, err := strconv.Atoi(values["max.message.bytes"]); err == nil {
		of.MaxBody = max(1, n-batchOverhead-recordRoom)
	}

	return of, nil
}

// ensure makes sure that a topic exists and can be used at once.
func (t *topics) ensure(ctx context.Context, topic string) error {
	if _, ok := t.ready.Load(topic); ok {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()

	if _, ok := t.ready.Load(topic); ok {
		return nil
	}
	if err := checkTopic(topic); err != nil {
		return err
	}
	if err := t.with(func(client sarama.Client, admin sarama.ClusterAdmin) error {
		return t.create(ctx, client, admin, topic)
	}); err != nil {
		return fmt.Errorf("topic %q: %w", topic, err)
	}
	t.ready.Store(topic, struct{}{})

	return nil
}

func (t *topics) create(ctx context.Context, client sarama.Client, admin sarama.ClusterAdmin, topic string) error {
	created := false
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := usable(admin, topic)
		if err == nil && created {
			err = led(client, topic)
		}
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, sarama.ErrUnknownTopicOrPartition):
			// It is on its way: partitions are waiting for their leaders.
			t.logger.Debug("Topic is not ready yet", watermill.LogFields{"topic": topic, "err": err.Error()})
		case !t.settings.create:
			return fmt.Errorf("%w; create it, or open the broker with create=true", err)
		default:
			if err := t.createOnce(admin, topic); err != nil {
				return err
			}
			created = true
		}

		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()

			return fmt.Errorf("not ready: %w", ctx.Err())
		}
	}
}

func (t *topics) createOnce(admin sarama.ClusterAdmin, topic string) error {
	detail := &sarama.TopicDetail{
		NumPartitions:     int32(t.settings.partitions),  //nolint:gosec // at most maxPartitions
		ReplicationFactor: int16(t.settings.replication), //nolint:gosec // at most maxReplication
	}
	if t.settings.retention > 0 {
		ms := strconv.FormatInt(t.settings.retention.Milliseconds(), 10)
		detail.ConfigEntries = map[string]*string{"retention.ms": &ms}
	}
	err := admin.CreateTopic(topic, detail, false)
	if err == nil {
		t.logger.Info("Created topic", watermill.LogFields{"topic": topic, "partitions": t.settings.partitions})
	}
	if err != nil && !errors.Is(err, sarama.ErrTopicAlreadyExists) {
		return fmt.Errorf("create with %d partitions and replication %d: %w",
			t.settings.partitions, t.settings.replication, err)
	}

	return nil
}

// usable returns nil when every partition of a topic has a leader.
func usable(admin sarama.ClusterAdmin, topic string) error {
	found, err := admin.DescribeTopics([]string{topic})
	if err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	if len(found) != 1 {
		return sarama.ErrUnknownTopicOrPartition
	}
	if !errors.Is(found[0].Err, sarama.ErrNoError) {
		return found[0].Err
	}
	for _, partition := range found[0].Partitions {
		if !errors.Is(partition.Err, sarama.ErrNoError) {
			return fmt.Errorf("partition %d: %w", partition.ID, partition.Err)
		}
		if partition.Leader < 0 {
			return fmt.Errorf("partition %d: %w", partition.ID, sarama.ErrLeaderNotAvailable)
		}
	}

	return nil
}

// led asks the leader of each partition whether it knows that it leads: right
// after a topic's creation brokers name leaders that don't, and sarama's
// idempotent producer uses up its retries without a pause between them.
func led(client sarama.Client, topic string) error {
	if err := client.RefreshMetadata(topic); err != nil {
		return fmt.Errorf("refresh metadata: %w", err)
	}
	partitions, err := client.Partitions(topic)
	if err != nil {
		return fmt.Errorf("partitions: %w", err)
	}
	for _, partition := range partitions {
		if _, err := client.GetOffset(topic, partition, sarama.OffsetNewest); err != nil {
			return fmt.Errorf("partition %d: %w", partition, sarama.ErrLeaderNotAvailable)
		}
	}

	return nil
}

// backlog is the group's lag: messages after its committed offsets. The control
// records of transactional producers count as messages.
func (t *topics) backlog(ctx context.Context, topic, group string) (lag int64, err error) {
	if ctx.Err() != nil {
		return 0, fmt.Errorf("lag of group %q on topic %q: %w", group, topic, context.Cause(ctx))
	}
	err = t.with(func(client sarama.Client, admin sarama.ClusterAdmin) error {
		partitions, err := client.Partitions(topic)
		if errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
			return nil // nothing was ever published
		}
		if err != nil {
			return fmt.Errorf("partitions: %w", err)
		}
		committed, err := admin.ListConsumerGroupOffsets(group, map[string][]int32{topic: partitions})
		if err != nil {
			return fmt.Errorf("committed offsets: %w", err)
		}
		for _, partition := range partitions {
			n, err := t.lag(client, topic, partition, committed.GetBlock(topic, partition))
			if err != nil {
				return fmt.Errorf("partition %d: %w", partition, err)
			}
			lag += n
		}

		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("lag of group %q on topic %q: %w", group, topic, err)
	}

	return lag, nil
}

func (t *topics) lag(client sarama.Client, topic string, partition int32, block *sarama.OffsetFetchResponseBlock) (int64, error) {
	newest, err := client.GetOffset(topic, partition, sarama.OffsetNewest)
	if err != nil {
		return 0, fmt.Errorf("newest offset: %w", err)
	}
	if block != nil && block.Offset >= 0 {
		return max(0, newest-block.Offset), nil
	}
	start, err := client.GetOffset(topic, partition, t.settings.initialOffset)
	if err != nil {
		return 0, fmt.Errorf("first offset: %w", err)
	}

	return max(0, newest-start), nil
}

func (t *topics) with(f func(sarama.Client, sarama.ClusterAdmin) error) (err error) {
	client, err := sarama.NewClient(t.settings.brokers, t.settings.config())
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	admin, err := sarama.NewClusterAdminFromClient(client)
	if err != nil {
		return errors.Join(err, client.Close())
	}
	defer func() { err = errors.Join(err, admin.Close()) }() // closes the client too

	return f(client, admin)
}
