package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
)

// Prefixes of the leases that are about a consumer.
const (
	// PresencePrefix starts the leases that processes hold while they handle a
	// consumer's messages.
	PresencePrefix = "consumer/"
	// operationPrefix starts those that are held while a consumer is changed.
	operationPrefix = "operation/"
)

// maxLeasedConsumer leaves room for the owner in the name of a lease.
const maxLeasedConsumer = 140

// leasedConsumer is a consumer's name as it stands in the names of leases, where
// few characters may.
func leasedConsumer(consumer string) string {
	stored := storedIdentity(consumer)
	if escaped := url.PathEscape(stored); len(escaped) <= maxLeasedConsumer {
		return escaped
	}
	sum := sha256.Sum256([]byte(stored))
	return hashedPrefix + hex.EncodeToString(sum[:])
}

// PresenceLease is the name of the lease by which an owner says that it handles a
// consumer's messages. An owner has at most 105 bytes.
func PresenceLease(consumer, owner string) string {
	return PresencePrefix + leasedConsumer(consumer) + "/" + owner
}

// OfConsumer reports whether a lease is about a consumer: who handles its
// messages, or changes what it remembers.
func OfConsumer(lease string) bool {
	return strings.HasPrefix(lease, PresencePrefix) || strings.HasPrefix(lease, operationPrefix)
}

// Present lists the leases of the processes that handle a consumer's messages
// now. A process that died is in it until its lease is over; one without a
// middleware.Presence never is.
func (s *Store) Present(ctx context.Context, consumer string) ([]Lease, error) {
	return s.liveLeases(ctx, PresencePrefix+leasedConsumer(consumer)+"/")
}

// Changing lists the leases of those who change what a consumer remembers now. A
// rename that was begun and not finished counts, and its actor for the owner.
func (s *Store) Changing(ctx context.Context, consumer string) ([]Lease, error) {
	leases, err := s.liveLeases(ctx, operationLease(consumer))
	if err != nil || len(leases) > 0 {
		return leases, err
	}
	begun, err := s.unfinished(ctx, storedIdentity(consumer))
	if err != nil {
		return nil, fmt.Errorf("store: look for renames of %q: %w", storedIdentity(consumer), err)
	}
	if begun != nil {
		leases = append(leases, Lease{Name: operationLease(consumer), Owner: begun.Actor})
	}
	return leases, nil
}

func (s *Store) liveLeases(ctx context.Context, prefix string) ([]Lease, error) {
	leases, err := s.Leases(ctx, prefix)
	if err != nil {
		return nil, err
	}
	var live []Lease
	for _, lease := range leases {
		if lease.Owner != "" && lease.ExpiresIn > 0 {
			live = append(live, lease)
		}
	}
	return live, nil
}

// operationLease ends with a slash, so that it is no other's prefix.
func operationLease(consumer string) string { return operationPrefix + leasedConsumer(consumer) + "/" }

// present lists the consumers whose messages are handled now, by their names in
// leases, with how many processes do so.
func (s *Store) present(ctx context.Context) (map[string]int, error) {
	leases, err := s.liveLeases(ctx, PresencePrefix)
	if err != nil {
		return nil, err
	}
	processes := map[string]int{}
	for _, lease := range leases {
		name, _, _ := strings.Cut(strings.TrimPrefix(lease.Name, PresencePrefix), "/")
		processes[name]++
	}
	return processes, nil
}
