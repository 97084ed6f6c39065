package main

import (
	"context"

	"github.com/headrace-go/headrace/bench/relay"
)

func relaySetting(env servers) relay.Setting {
	return relay.Setting{PostgresURL: env.postgres, KafkaBrokers: env.kafka, Keys: 100, PayloadBytes: 256}
}

// relayVersusWatermill gives watermill's forwarder fewer messages only because
// it takes so long; its rate doesn't depend on the number.
func relayVersusWatermill() comparison {
	return comparison{
		name: "relay-any-publisher-vs-watermill",
		what: "Relay from Postgres to Kafka through watermill-kafka's own publisher, against watermill's forwarder " +
			"component on its own table: 100 keys, distinct random 256 B payloads, same publisher settings",
		unit: "x", rounds: 3, op: ">=", bar: 10,
		ours: side{"headrace", "messages/s", func(ctx context.Context, env servers) (float64, error) {
			return relay.Headrace(ctx, relaySetting(env), 200_000)
		}},
		theirs: side{"watermill", "messages/s", func(ctx context.Context, env servers) (float64, error) {
			return relay.Watermill(ctx, relaySetting(env), 10_000)
		}},
	}
}
