package crash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv/disrupt"
)

// The database and the broker go away and come back, at any moment and again and
// again, while two instances of the service are at work. They must go on by
// themselves, and everything must have happened once.
//
// The services are taken away by a proxy in front of them, because other tests
// use them too. Kafka's clients go to the addresses that it advertises, past any
// proxy, so there it is the database alone. (An embedded part doesn't go away.)
func TestCrashOfTheDatabaseAndTheBrokerLosesAndDoublesNothing(t *testing.T) {
	networked := func(c combination) bool { return !c.oneProcess }
	onThose(t, networked, func(t *testing.T, c combination) {
		s := newStory(t, c)
		o := newOutages(t, s)
		var steps atomic.Int64
		progress := make(chan struct{}, 1)
		reach := func(context.Context, string) {
			steps.Add(1)
			select {
			case progress <- struct{}{}:
			default:
			}
		}
		stops := []func(){s.startAs(t, o.service, reach), s.startAs(t, o.service, reach)}
		for n := range outages() {
			require.NoError(t, s.send(t.Context(), 4))
			o.awaitMoment(t, progress, s.rng.IntN(60))
			o.strike(t, s.rng, n)
		}
		s.drain(t)
		for _, stop := range stops {
			stop()
		}
		s.requireRight(t)
		t.Logf("seed %d: %d changes, %d steps; %s", s.seed, len(s.sent), steps.Load(), strings.Join(s.kills, "; "))
	})
}

func outages() int {
	if full() {
		return 40
	}
	return 8
}

// outageMaker takes away what a story's instances use.
type outageMaker struct {
	story   *story
	service service // whose URLs lead through the proxies
	proxies map[string]*disrupt.Proxy
	names   []string
}

func newOutages(t *testing.T, s *story) *outageMaker {
	t.Helper()
	o := &outageMaker{story: s, service: s.service, proxies: map[string]*disrupt.Proxy{}}
	add := func(name, rawURL string) string {
		proxy, address := disrupt.Through(t, rawURL)
		o.proxies[name] = proxy
		o.names = append(o.names, name)
		return address
	}
	o.service.Database = add("database", s.Database)
	broker, err := url.Parse(s.Broker)
	require.NoError(t, err)
	database, err := url.Parse(o.service.Database)
	require.NoError(t, err)
	switch broker.Scheme {
	case "kafka":
	case "sqs":
		o.service.Broker = add("broker", s.Broker)
	default: // the broker is the database
		broker.Host = database.Host
		o.service.Broker = broker.String()
	}
	return o
}

// awaitMoment waits for so many steps of the instances, or until they have
// nothing more to do.
func (o *outageMaker) awaitMoment(t *testing.T, progress <-chan struct{}, steps int) {
	t.Helper()
	idle := time.NewTimer(patience)
	defer idle.Stop()
	for range steps {
		select {
		case <-progress:
		case <-idle.C:
			return
		}
	}
}

// strike takes something away for a while: mostly by death, sometimes by silence
// that is longer than a lease.
func (o *outageMaker) strike(t *testing.T, rng *rand.Rand, n int) {
	t.Helper()
	name := o.names[n%len(o.names)]
	proxy := o.proxies[name]
	pause := time.Duration(50+rng.IntN(1000)) * time.Millisecond
	how := "down"
	if n/len(o.names)%4 == 3 {
		how, pause = "silent", leaseTTL+pause
		proxy.Freeze()
	} else {
		proxy.Cut()
	}
	before := proxy.Served()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	<-timer.C
	proxy.Mend()
	o.story.mu.Lock()
	defer o.story.mu.Unlock()
	o.story.kills = append(o.story.kills, fmt.Sprintf("%s %s for %s (%d connections before)", name, how, pause, before))
}
