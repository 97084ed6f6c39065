package forwarder

import "time"

// PublishHook is told about every batch that the forwarder relayed. Give it to
// Config.Hooks. It is called by the goroutine of the batch's partition and must
// not block.
type PublishHook interface {
	OnPublish(stats PublishStats)
}

// PublishStats is what became of one batch.
type PublishStats struct {
	// Partition is the outbox partition that the batch was read from.
	Partition int
	// Published counts what brokers took; Failed the publishes that failed, each
	// of which holds its key; Parked those of Failed that were parked now; Held what
	// is parked, or waits behind it or an earlier failure.
	Published, Failed, Parked, Held int
	// Took is the time from reading the batch until its last publish returned.
	Took time.Duration
	// OldestAge is how old the batch's oldest row was by this machine's clock.
	OldestAge time.Duration
}
