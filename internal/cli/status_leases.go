package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/store"
)

// longDead is how long an owner may be dead and still be shown: its partitions
// change hands in seconds.
const longDead = time.Minute

type leaseJSON struct {
	Name  string `json:"name"`
	Owner string `json:"owner"`
	Epoch int64  `json:"epoch"`
	// Live: it has an owner and is not over.
	Live             bool    `json:"live"`
	ExpiresInSeconds float64 `json:"expires_in_seconds"`

	expiresIn time.Duration
}

func leasesOf(leases []store.Lease) []leaseJSON {
	list := make([]leaseJSON, 0, len(leases))
	for _, l := range leases {
		list = append(list, leaseJSON{
			Name: l.Name, Owner: l.Owner, Epoch: l.Epoch, Live: live(l),
			ExpiresInSeconds: seconds(l.ExpiresIn), expiresIn: l.ExpiresIn,
		})
	}
	slices.SortStableFunc(list, func(a, b leaseJSON) int {
		aPartition, aOK := forwarder.LeasedPartition(a.Name)
		bPartition, bOK := forwarder.LeasedPartition(b.Name)
		if aOK && bOK && aPartition.Service == bPartition.Service {
			return cmp.Compare(aPartition.Number, bPartition.Number) // outbox/…/10 after outbox/…/9
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return list
}

func live(l store.Lease) bool { return l.Owner != "" && l.ExpiresIn > 0 }

const noLeases = "LEASES  none: no forwarder has run here"

// leasesText lists each lease by itself.
func leasesText(leases []leaseJSON) string {
	if len(leases) == 0 {
		return noLeases
	}
	rows := [][]string{{"NAME", "OWNER", "EPOCH", "EXPIRES"}}
	for _, l := range leases {
		owner, expires := l.Owner, "in "+rounded(l.expiresIn)
		switch {
		case owner == "":
			owner, expires = "nobody", "given back"
		case !l.Live:
			expires = "expired " + rounded(-l.expiresIn) + " ago"
		}
		rows = append(rows, []string{l.Name, owner, number(l.Epoch), expires})
	}
	return "LEASES\n" + strings.TrimSuffix(table(rows...), "\n")
}

// holder is what one owner has.
type holder struct {
	name string
	// services are those whose messages it relays, or is there to relay: one.
	services   []string
	partitions []int
	// others are leases on anything but partitions and membership.
	others []string
	// soonest is when the first of its leases ends, the one renewed longest ago.
	soonest time.Duration
}

// ownersText sums the leases up by their owners.
func ownersText(leases []leaseJSON) string {
	// `headrace consumer ls` tells who handles what.
	leases = slices.DeleteFunc(slices.Clone(leases), func(l leaseJSON) bool { return store.OfConsumer(l.Name) })
	if len(leases) == 0 {
		return noLeases
	}
	holders, dead := holdersOf(leases)
	rows := [][]string{{"SERVICE", "OWNER", "PARTITIONS", "OTHER LEASES", "EXPIRES"}}
	owned := map[store.Partition]bool{}
	services := map[string]bool{}
	for _, h := range holders {
		for _, service := range h.services {
			services[service] = true
			for _, p := range h.partitions {
				owned[store.Partition{Service: service, Number: p}] = true
			}
		}
		expires := "in " + rounded(h.soonest)
		if h.soonest <= 0 {
			expires = "expired " + rounded(-h.soonest) + " ago"
		}
		rows = append(rows, []string{
			h.servicesText(), h.name, partitionsText(h.partitions), strings.Join(h.others, " "), expires,
		})
	}
	for _, service := range slices.Sorted(maps.Keys(services)) {
		var free []int
		for p := range store.OutboxPartitions {
			if !owned[store.Partition{Service: service, Number: p}] {
				free = append(free, p)
			}
		}
		if len(free) > 0 {
			rows = append(rows, []string{serviceName(service), "nobody", partitionsText(free), "", ""})
		}
	}
	text := "LEASES\n" + strings.TrimSuffix(table(rows...), "\n")
	if dead > 0 {
		text += fmt.Sprintf("\n%s died more than a minute ago (--verbose shows all leases)", plural(dead, "owner"))
	}
	return text
}

// holdersOf are the owners that live or have died of late, and how many have
// been dead for long.
func holdersOf(leases []leaseJSON) (holders []*holder, dead int64) {
	byName, old := map[string]*holder{}, map[string]bool{}
	for _, l := range leases {
		if l.Owner == "" {
			continue
		}
		if l.expiresIn < -longDead {
			old[l.Owner] = true
			continue
		}
		h := byName[l.Owner]
		if h == nil {
			h = &holder{name: l.Owner, soonest: l.expiresIn}
			byName[l.Owner] = h
		}
		h.soonest = min(h.soonest, l.expiresIn)
		h.add(l)
	}
	for name := range old {
		if byName[name] == nil {
			dead++
		}
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b *holder) int { return cmp.Compare(a.name, b.name) }), dead
}

// add notes a lease of the holder's.
func (h *holder) add(l leaseJSON) {
	service, relays := forwarder.MemberService(l.Name)
	p, partition := forwarder.LeasedPartition(l.Name)
	switch {
	case partition:
		service, relays = p.Service, true
		if l.Live {
			h.partitions = append(h.partitions, p.Number)
		}
	case !relays:
		h.others = append(h.others, l.Name)
	}
	if relays && !slices.Contains(h.services, service) {
		h.services = append(h.services, service)
	}
}

func (h *holder) servicesText() string {
	names := make([]string, len(h.services))
	for i, service := range h.services {
		names[i] = serviceName(service)
	}
	return strings.Join(names, " ")
}

// partitionsText writes numbers in ascending order as "3 of 16: 0-1, 7".
func partitionsText(numbers []int) string {
	if len(numbers) == 0 {
		return "none"
	}
	var spans []string
	for i := 0; i < len(numbers); {
		end := i
		for end+1 < len(numbers) && numbers[end+1] == numbers[end]+1 {
			end++
		}
		span := strconv.Itoa(numbers[i])
		if end > i {
			span += "-" + strconv.Itoa(numbers[end])
		}
		spans = append(spans, span)
		i = end + 1
	}
	return fmt.Sprintf("%d of %d: %s", len(numbers), store.OutboxPartitions, strings.Join(spans, ", "))
}
