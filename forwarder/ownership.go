package forwarder

import (
	"context"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/headrace-go/headrace/store"
)

// Names of the leases. Every forwarder holds one as a member, so that the others
// of its service know how many share the partitions, and one for each partition
// that it owns.
const (
	memberPrefix    = "forwarder/"
	partitionPrefix = "outbox/"
)

// forgetMembers is how long a member that died is kept for `headrace status`.
const forgetMembers = 10 * time.Minute

// PartitionLease is the name of the lease on a partition of the outbox.
func PartitionLease(p store.Partition) string {
	return partitionPrefix + leaseService(p.Service) + "/" + strconv.Itoa(p.Number)
}

// LeasedPartition is the partition that a lease is on; ok is false when it is on
// something else.
func LeasedPartition(lease string) (p store.Partition, ok bool) {
	rest, ok := strings.CutPrefix(lease, partitionPrefix)
	service, number, cut := strings.Cut(rest, "/")
	if !ok || !cut {
		return p, false
	}
	var err, numberErr error
	p.Service, err = url.PathUnescape(service)
	p.Number, numberErr = strconv.Atoi(number)
	ok = err == nil && numberErr == nil && p.Number >= 0 && p.Number < store.OutboxPartitions && PartitionLease(p) == lease
	return p, ok
}

// MemberService is the service for which a lease's owner takes part in relaying;
// ok is false when the lease says nothing of that.
func MemberService(lease string) (service string, ok bool) {
	rest, ok := strings.CutPrefix(lease, memberPrefix)
	escaped, _, cut := strings.Cut(rest, "/")
	service, err := url.PathUnescape(escaped)
	return service, ok && cut && err == nil
}

// leaseService is a service's name as it stands in the names of leases.
func leaseService(service string) string { return url.PathEscape(service) }

// memberLease is held by each forwarder of a service.
func memberLease(service, owner string) string {
	return memberPrefix + leaseService(service) + "/" + owner
}

// ownership keeps this forwarder's share of the partitions: it renews leases,
// takes what is free up to a fair share, and gives back what is above it.
type ownership struct {
	f       *Forwarder
	owner   string
	service string

	mu         sync.Mutex
	partitions map[int]*partition
	// leaving are partitions that were told to stop and have publishes in flight.
	// Waiting for them must not keep the other leases from being renewed.
	leaving map[int]*partition
	drops   sync.WaitGroup
}

func newOwnership(f *Forwarder) *ownership {
	return &ownership{
		f: f, owner: f.cfg.owner(), service: f.cfg.Service,
		partitions: map[int]*partition{}, leaving: map[int]*partition{},
	}
}

// run balances at a third of the lease's time and polls in between.
func (o *ownership) run(ctx context.Context) error {
	clock := o.f.cfg.Clock
	balance := clock.NewTicker(o.f.cfg.LeaseTTL / 3)
	defer balance.Stop()
	o.balance(ctx)
	close(o.f.running)
	interval := o.f.cfg.PollInterval
	for {
		poll := clock.NewTimer(interval)
		select {
		case <-ctx.Done():
			poll.Stop()
			return nil
		case <-balance.Chan():
			o.balance(ctx)
		case <-poll.Chan():
			if o.look(ctx) {
				interval = o.f.cfg.PollInterval
			} else {
				interval = min(2*interval, o.f.cfg.MaxPollInterval)
			}
		}
		poll.Stop()
	}
}

// look wakes the partitions that have rows. It is given up when it takes so long
// that the leases could not be renewed in time.
func (o *ownership) look(ctx context.Context) (found bool) {
	bounded, cancel := context.WithTimeout(ctx, o.f.cfg.LeaseTTL/3)
	defer cancel()
	waiting, err := o.f.store.WaitingPartitions(bounded, o.service)
	if err != nil {
		if ctx.Err() == nil {
			o.f.cfg.Logger.Error("Looking for outbox rows failed, trying again", err, nil)
		}
		return false
	}
	if len(waiting) > 0 {
		o.wake(waiting)
	}
	return len(waiting) > 0
}

// wake is given partitions that have new rows, of any service, or none for all.
func (o *ownership) wake(partitions []store.Partition) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, written := range partitions {
		if p := o.partitions[written.Number]; p != nil && written.Service == o.service {
			p.signal()
		}
	}
	if len(partitions) == 0 {
		for _, p := range o.partitions {
			p.signal()
		}
	}
}

// balance is done by one goroutine. A database that doesn't answer for as long as
// a lease lasts is asked anew, by another connection.
func (o *ownership) balance(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, o.f.cfg.LeaseTTL)
	defer cancel()
	if err := o.tryBalance(bounded); err != nil && ctx.Err() == nil {
		o.f.cfg.Logger.Error("Renewing the forwarder's leases failed, trying again", err, nil)
	}
	o.dropExpired()
}

func (o *ownership) tryBalance(ctx context.Context) error {
	asked := o.f.cfg.Clock.Now()
	if _, _, err := o.f.store.AcquireLease(ctx, memberLease(o.service, o.owner), o.owner, o.f.cfg.LeaseTTL); err != nil {
		return err
	}
	held, err := o.f.store.RenewLeases(ctx, "", o.owner, o.f.cfg.LeaseTTL)
	if err != nil {
		return err
	}
	for _, stray := range o.keep(held, asked.Add(o.f.cfg.LeaseTTL)) {
		if err := o.f.store.ReleaseLease(ctx, stray); err != nil {
			return err
		}
	}
	share, free, err := o.survey(ctx)
	if err != nil {
		return err
	}
	o.shrink(ctx, share)
	return o.grow(ctx, share, free, asked)
}

// keep extends what is still ours and stops what isn't. It returns the strays:
// leases that the database says are ours, of partitions that were given up here
// because a renewal came late. Renewed with the others they would be ours for
// ever, and nobody would relay their rows.
func (o *ownership) keep(held []store.Lease, until time.Time) (strays []store.Lease) {
	still := map[int]store.Lease{}
	for _, lease := range held {
		if p, ok := LeasedPartition(lease.Name); ok && p.Service == o.service {
			still[p.Number] = lease
		}
	}
	for n, p := range o.snapshot() {
		if lease, ok := still[n]; ok && lease.Epoch == p.lease.Epoch {
			p.until.Store(&until)
		} else {
			o.f.cfg.Logger.Info("Another forwarder has taken the partition", watermill.LogFields{"partition": n})
			o.drop(n, p, nil)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for n, p := range o.leaving {
		if lease, ok := still[n]; ok && lease.Epoch == p.lease.Epoch {
			p.until.Store(&until) // its publishes in flight are still covered
		}
	}
	for n, lease := range still {
		if o.partitions[n] == nil && o.leaving[n] == nil {
			strays = append(strays, lease)
		}
	}
	return strays
}

// survey returns this forwarder's fair share and the partitions nobody owns.
func (o *ownership) survey(ctx context.Context) (share int, free []int, err error) {
	leases, err := o.f.store.Leases(ctx, "")
	if err != nil {
		return 0, nil, err
	}
	members, dead := 0, 0
	taken := map[int]bool{}
	for _, lease := range leases {
		if lease.Owner == "" || lease.ExpiresIn < 0 {
			if strings.HasPrefix(lease.Name, memberPrefix) && lease.ExpiresIn < -forgetMembers {
				dead++
			}
			continue
		}
		if service, ok := MemberService(lease.Name); ok && service == o.service {
			members++
		}
		if p, ok := LeasedPartition(lease.Name); ok && p.Service == o.service {
			taken[p.Number] = true
		}
	}
	if dead > 0 {
		if err := o.f.store.DeleteExpiredLeases(ctx, memberPrefix, forgetMembers); err != nil {
			return 0, nil, err
		}
	}
	members = max(members, 1)
	for n := range store.OutboxPartitions {
		if !taken[n] {
			free = append(free, n)
		}
	}
	return (store.OutboxPartitions + members - 1) / members, free, nil
}

// shrink gives back what is above the share, after its publishes in flight.
func (o *ownership) shrink(ctx context.Context, share int) {
	owned := o.snapshot()
	for n, p := range owned {
		if len(owned) <= share {
			return
		}
		delete(owned, n)
		o.drop(n, p, func() { o.release(context.WithoutCancel(ctx), p) })
	}
}

// grow takes free partitions up to the share. On a slow database it leaves some
// for the next time, or the first ones' leases would be over before the last
// ones are taken.
func (o *ownership) grow(ctx context.Context, share int, free []int, renewed time.Time) error {
	for _, n := range free {
		if len(o.snapshot()) >= share || o.f.cfg.Clock.Since(renewed) > o.f.cfg.LeaseTTL/3 {
			return nil
		}
		if o.isLeaving(n) {
			continue
		}
		asked := o.f.cfg.Clock.Now()
		id := store.Partition{Service: o.service, Number: n}
		lease, ok, err := o.f.store.AcquireLease(ctx, PartitionLease(id), o.owner, o.f.cfg.LeaseTTL)
		if err != nil {
			return err
		}
		if !ok {
			continue // another forwarder was quicker
		}
		// This context ends with the balancing; drop ends the partition.
		p := o.f.startPartition(context.WithoutCancel(ctx), id, lease, asked.Add(o.f.cfg.LeaseTTL))
		o.mu.Lock()
		o.partitions[n] = p
		o.mu.Unlock()
	}
	return nil
}

// dropExpired stops partitions whose lease ran out because the database could
// not be asked.
func (o *ownership) dropExpired() {
	for n, p := range o.snapshot() {
		if !p.owned() {
			o.f.cfg.Logger.Info("A partition's lease could not be renewed in time", watermill.LogFields{"partition": n})
			o.drop(n, p, nil)
		}
	}
}

// drop stops a partition and, once its publishes in flight have returned, calls
// then.
func (o *ownership) drop(n int, p *partition, then func()) {
	o.mu.Lock()
	delete(o.partitions, n)
	o.leaving[n] = p
	o.mu.Unlock()
	p.stop()
	o.drops.Go(func() {
		<-p.done
		if then != nil {
			then()
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.leaving, n)
	})
}

func (o *ownership) isLeaving(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.leaving[n] != nil
}

func (o *ownership) snapshot() map[int]*partition {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.partitions)
}

// releaseAll lets other forwarders take over at once.
func (o *ownership) releaseAll(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	for n, p := range o.snapshot() {
		o.drop(n, p, func() { o.release(ctx, p) })
	}
	o.drops.Wait()
	bounded, cancel := context.WithTimeout(ctx, o.f.cfg.CloseTimeout)
	defer cancel()
	if err := o.f.store.DeleteLease(bounded, memberLease(o.service, o.owner), o.owner); err != nil {
		o.f.cfg.Logger.Error("Signing off failed: other forwarders take its share when its lease is over", err, nil)
	}
}

func (o *ownership) release(ctx context.Context, p *partition) {
	ctx, cancel := context.WithTimeout(ctx, o.f.cfg.CloseTimeout)
	defer cancel()
	if err := o.f.store.ReleaseLease(ctx, p.lease); err != nil {
		o.f.cfg.Logger.Error("Releasing a partition failed: it moves when its lease is over", err,
			watermill.LogFields{"partition": p.id.Number})
	}
}
