package store

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jmoiron/sqlx"
)

// OutboxCount says what waits in the outbox for one topic of one destination of a
// service.
type OutboxCount struct {
	Service     string `db:"service" json:"service"`
	Destination string `db:"destination" json:"destination"`
	Topic       string `db:"topic" json:"topic"`
	Unsent      int64  `db:"unsent" json:"unsent"`
	// Failing counts the rows that a publish has already failed for and that are
	// tried again.
	Failing int64 `db:"failing" json:"failing"`
	// Parked counts those of Unsent that aren't, until a person has judged them.
	Parked int64 `db:"parked" json:"parked"`
	// OldestAge is how long the oldest row that isn't parked has been waiting, by the
	// database's clock.
	OldestAge time.Duration `db:"-" json:"oldest_age"`
	// LastError is one of the failing rows' errors.
	LastError string `db:"last_error" json:"last_error,omitempty"`
	AgeMicros int64  `db:"age_us" json:"-"`
}

// CountOutbox says what waits in the outbox. It reads the whole table.
func (s *Store) CountOutbox(ctx context.Context) ([]OutboxCount, error) {
	var counts []OutboxCount
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &counts, "SELECT service, destination, topic, count(*) AS unsent, "+
			"sum(CASE WHEN attempts > 0 AND coalesce(parked_id, 0) <= 0 THEN 1 ELSE 0 END) AS failing, "+
			"sum(CASE WHEN parked_id > 0 THEN 1 ELSE 0 END) AS parked, coalesce(max(last_error), '') AS last_error, "+
			s.outboxAge()+" AS age_us FROM "+s.names.outbox+
			" GROUP BY service, destination, topic ORDER BY service, destination, topic")
	})
	if err != nil {
		return nil, fmt.Errorf("store: count outbox: %w", err)
	}
	for i := range counts {
		counts[i].OldestAge = ageOf(counts[i].AgeMicros)
	}
	return counts, nil
}

// PartitionCount says what waits in one partition of the outbox.
type PartitionCount struct {
	Service   string `db:"service"      json:"service"`
	Partition int    `db:"partition_no" json:"partition"`
	Unsent    int64  `db:"unsent"       json:"unsent"`
	// OldestAge is how long the oldest row has been waiting, by the database's
	// clock.
	OldestAge time.Duration `db:"-"      json:"oldest_age"`
	AgeMicros int64         `db:"age_us" json:"-"`
}

// CountOutboxPartitions says which partitions of the outbox have rows waiting.
// It reads the whole table.
func (s *Store) CountOutboxPartitions(ctx context.Context) ([]PartitionCount, error) {
	var counts []PartitionCount
	err := s.db.SelectContext(ctx, &counts, "SELECT service, "+s.dialect.outboxPartitionNo()+
		" AS partition_no, count(*) AS unsent, "+s.outboxAge()+" AS age_us FROM "+s.names.outbox+
		" GROUP BY 1, 2 ORDER BY 1, 2")
	if err != nil {
		return nil, fmt.Errorf("store: count outbox by partition: %w", err)
	}
	for i := range counts {
		counts[i].OldestAge = ageOf(counts[i].AgeMicros)
	}
	return counts, nil
}

// outboxAge is the age of a group's oldest row that isn't parked in microseconds, 0 when none of
// them says when it was written.
func (s *Store) outboxAge() string {
	return "coalesce(" + s.dialect.micros(s.dialect.now()) + " - min(CASE WHEN coalesce(parked_id, 0) <= 0 THEN " +
		s.dialect.outboxCreated() + " END), 0)"
}

// outboxPartitionNo is -1 where foreign SQL wrote something that is no number and
// got past the table's constraints. Nobody owns such a partition, and `headrace
// doctor` says so.
func (d Dialect) outboxPartitionNo() string {
	if d == SQLite {
		return "CASE typeof(partition_no) WHEN 'integer' THEN partition_no ELSE -1 END"
	}
	return "partition_no"
}

// ageOf is 0 for rows that foreign SQL dated ahead, and at most what a Duration
// holds.
func ageOf(micros int64) time.Duration {
	return time.Duration(min(max(micros, 0), math.MaxInt64/1000)) * time.Microsecond
}
