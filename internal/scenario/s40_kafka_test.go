package scenario

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/headrace-go/headrace/examples/payments/bank"
)

// errCrashed ends a life of the service.
var errCrashed = errors.New("the process has crashed")

// transactional is the service with all that Kafka has: an idempotent producer, and
// transactions that send the events and commit the offsets as one. It crashes once
// for each order, after the charge and the event, before the commit.
func (c *checkout40) transactional() {
	c.t.Helper()
	c.order()
	crashes, booked := firstTime(), map[string]bool{}
	for len(booked) < len(orders40) {
		if err := c.live(crashes, booked); err != nil {
			require.ErrorIs(c.t, err, errCrashed)
		}
	}
	c.hearCommitted()
}

func (c *checkout40) seeds() kgo.Opt {
	parsed, err := url.Parse(c.brokerURL)
	require.NoError(c.t, err)
	return kgo.SeedBrokers(strings.Split(parsed.Host, ",")...)
}

// live runs one life: it handles orders in transactions until all are booked, or
// crashes. The next life has the same transactional id, by which Kafka takes back what
// this one has left open.
func (c *checkout40) live(crashes func(id string) bool, booked map[string]bool) error {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	session, err := kgo.NewGroupTransactSession(
		c.seeds(), kgo.ConsumerGroup("shop"+c.orders), kgo.ConsumeTopics(c.orders), kgo.TransactionalID("shop"+c.orders),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.DefaultProduceTopic(c.events),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AllowAutoTopicCreation(), kgo.SessionTimeout(kafkaSession),
	)
	require.NoError(c.t, err)
	defer session.Close()
	call := bank.Call(c.address)
	for len(booked) < len(orders40) {
		fetches := session.PollRecords(ctx, 1)
		require.NoError(c.t, fetches.Err())
		require.NoError(c.t, session.Begin())
		for _, record := range fetches.Records() {
			id := uuidOf(record)
			receipt, err := call(ctx, "", record.Value)
			require.NoError(c.t, err)
			read, err := bank.Read(receipt)
			require.NoError(c.t, err)
			require.NoError(c.t, session.ProduceSync(ctx, kgo.StringRecord(id)).FirstErr())
			if crashes(id) {
				return errCrashed
			}
			require.NoError(c.t, c.exec(ctx, "INSERT INTO payments VALUES (?, ?)", id, read.Receipt))
			booked[id] = true
		}
		committed, err := session.End(ctx, kgo.TryCommit)
		require.NoError(c.t, err)
		require.True(c.t, committed, "nobody else is in the group")
	}
	return nil
}

const kafkaSession = 6 * time.Second

// uuidOf is the message's id, as Watermill's marshaler writes it.
func uuidOf(record *kgo.Record) string {
	for _, header := range record.Headers {
		if header.Key == "_watermill_message_uuid" {
			return string(header.Value)
		}
	}
	return ""
}

// hearCommitted reads the events as others do, to the end.
func (c *checkout40) hearCommitted() {
	c.t.Helper()
	client, err := kgo.NewClient(c.seeds(), kgo.ConsumeTopics(c.events), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(c.t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	heard := map[string]int{}
	for len(heard) < len(orders40) {
		fetches := client.PollFetches(ctx)
		require.NoError(c.t, fetches.Err())
		for _, record := range fetches.Records() {
			heard[string(record.Value)]++
			require.NoError(c.t, c.exec(ctx, "INSERT INTO heard VALUES (?)", string(record.Value)))
		}
	}
	for id, n := range heard {
		require.Equal(c.t, 1, n, "Kafka keeps its promise: %s", id)
	}
}
