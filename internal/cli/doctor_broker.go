package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
)

const checkOfWindow = "dedupe window"

// checkBroker compares what the service relies on with what the broker, and the
// topics that were named, do. An error is one of usage.
func (s *session) checkBroker(ctx context.Context, e examination) ([]finding, error) {
	if e.broker == "" {
		return []finding{skip(checkOfWindow, "no broker was given to compare it with", "pass --broker URL")}, nil
	}
	var broker *brokers.Broker
	err := s.app.progress("connecting to the broker", func() (err error) {
		broker, err = brokers.Open(ctx, e.broker, brokers.Config{Openers: all.Openers(), ConnectTimeout: s.app.connectTimeout})
		return err
	})
	switch {
	case errors.Is(err, brokers.ErrUnreachable):
		return []finding{fail("broker", err.Error(), "start the broker, or correct --broker")}, nil
	case err != nil:
		return nil, err
	}
	defer broker.Close() //nolint:errcheck // nothing was sent or received
	findings := []finding{checkWindow(checkOfWindow, broker.Name(), e.window, broker.Capabilities)}
	for _, topic := range e.topics {
		findings = append(findings, checkTopic(ctx, broker, topic, e.window)...)
	}
	return findings, nil
}

// checkTopic looks at the settings of a topic's own.
func checkTopic(ctx context.Context, broker *brokers.Broker, topic string, window time.Duration) []finding {
	check := "topic " + topic
	general := broker.Capabilities
	if general.Topic == nil {
		return []finding{skip(check, broker.Name()+" has no settings for single topics that can be read here",
			"leave --topic out")}
	}
	own, err := general.Topic(ctx, topic)
	if err != nil {
		return []finding{fail(check, "its settings can't be read: "+err.Error(),
			"check the name, and that the account may describe the topic's configuration")}
	}
	if own.MaxBody == general.MaxBody && own.RedeliveryWindow == general.RedeliveryWindow {
		return []finding{ok(check, "it keeps messages for as long, and takes as large ones, as the broker says")}
	}
	size := ok(check+" size", fmt.Sprintf("bodies of %d bytes fit", general.MaxBody))
	if own.MaxBody < general.MaxBody {
		size = warn(size.Check, fmt.Sprintf("it takes bodies of %d bytes, but Publish lets %d pass: "+
			"the relay would try a larger one again and again", own.MaxBody, general.MaxBody),
			fmt.Sprintf("raise the topic's max.message.bytes, or put max_body=%d into the publisher's URL", own.MaxBody))
	}
	return []finding{checkWindow(check+" window", "it", window, own), size}
}

// checkWindow compares how long the service remembers messages with how late
// the broker can deliver one again.
//
// A broker that keeps messages for ever is none that repeats them for ever: a
// consumer is given again what it has not acked, which is soon after it comes
// back, and nothing else unless somebody makes it start over. There is no window
// that would cover that, so it is not a fault, but said.
func checkWindow(check, broker string, window time.Duration, can brokers.Capabilities) finding {
	switch late := can.RedeliveryWindow; {
	case late == 0:
		over := "when a group is made to start over"
		if can.Name == "kafka" {
			over = "when a group starts over (offsets reset, or lost after offsets.retention.minutes without a consumer)"
		}
		return ok(check, fmt.Sprintf("messages are remembered for %s; %s keeps them without a bound, "+
			"and by itself gives a consumer again only what it has not acked", days(window), broker)).
			hint(fmt.Sprintf("not covered are copies of what is older: after an absence of %s, and %s; "+
				"see docs/dedupe.md before you replay", days(window), over))
	case window < late:
		return fail(check, fmt.Sprintf("messages are remembered for %s, but %s can deliver a copy %s later: "+
			"it would be handled again", days(window), broker, days(late)),
			"raise DedupeConfig.Window and PurgeConfig.Window, or lower the broker's retention")
	default:
		return ok(check, fmt.Sprintf("messages are remembered for %s, and %s delivers none again after %s",
			days(window), broker, days(late)))
	}
}

// days writes whole days as such.
func days(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return plural(int64(d/day), "day")
	}
	return d.String()
}
