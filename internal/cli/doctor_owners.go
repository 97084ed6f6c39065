package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/store"
)

// handoverGrace is how long rows may wait without an owner while partitions
// change hands.
const handoverGrace = 15 * time.Second

func checkOwners(partitions []store.PartitionCount, leases []store.Lease) finding {
	const check = "outbox owners"
	owned := map[string]bool{}
	for _, l := range leases {
		if live(l) {
			owned[l.Name] = true
		}
	}
	orphans := map[string]*orphaned{}
	var oldest time.Duration
	for _, p := range partitions {
		if owned[forwarder.PartitionLease(store.Partition{Service: p.Service, Number: p.Partition})] {
			continue
		}
		o := orphans[p.Service]
		if o == nil {
			o = &orphaned{}
			orphans[p.Service] = o
		}
		o.partitions = append(o.partitions, strconv.Itoa(p.Partition))
		o.unsent += p.Unsent
		o.oldest = max(o.oldest, p.OldestAge)
		oldest = max(oldest, p.OldestAge)
	}
	relayed := relaying(leases)
	if len(orphans) == 0 {
		return ok(check, fmt.Sprintf("no messages wait in partitions without an owner (%s)", relayedText(relayed)))
	}
	var causes, ways []string
	for _, service := range slices.Sorted(maps.Keys(orphans)) {
		causes = append(causes, orphans[service].cause(service, relayed[service]))
		if !relayed[service] {
			ways = append(ways, fmt.Sprintf("start service %s, or, if it has a new name, "+
				"a forwarder for what the old one left (forwarder.Config.Service)", serviceName(service)))
		}
	}
	if oldest < handoverGrace {
		return warn(check, strings.Join(causes, "; "), "normal for some seconds while forwarders start or stop; ask again")
	}
	if len(ways) == 0 {
		ways = []string{"start another forwarder (forwarder.New, Run), or see the logs for why they can't take leases"}
	}
	return fail(check, strings.Join(causes, "; "), strings.Join(ways, "; "))
}

// orphaned is what waits for a service in partitions that nobody owns.
type orphaned struct {
	partitions []string
	unsent     int64
	oldest     time.Duration
}

func (o *orphaned) cause(service string, relayed bool) string {
	waiting := fmt.Sprintf("%s waiting, for up to %s", plural(o.unsent, "message")+are(o.unsent), rounded(o.oldest))
	if !relayed {
		return fmt.Sprintf("no forwarder relays service %s, for which %s", serviceName(service), waiting)
	}
	return fmt.Sprintf("no forwarder of service %s owns %s (%s) where %s", serviceName(service),
		counted(len(o.partitions), "partition"), strings.Join(o.partitions, ", "), waiting)
}

// relaying returns the services that have a forwarder.
func relaying(leases []store.Lease) map[string]bool {
	services := map[string]bool{}
	for _, l := range leases {
		if service, ok := forwarder.MemberService(l.Name); ok && live(l) {
			services[service] = true
		}
	}
	return services
}

func relayedText(services map[string]bool) string {
	if len(services) == 0 {
		return "no forwarder runs"
	}
	names := slices.Sorted(maps.Keys(services))
	for i := range names {
		names[i] = serviceName(names[i])
	}
	return "forwarders run for " + strings.Join(names, ", ")
}
