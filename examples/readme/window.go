package readme

import (
	"time"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/middleware"
)

// window is how docs/dedupe.md sets it, in both forms.
func window(broker *brokers.Broker) (headrace.Config, middleware.DedupeConfig) {
	return headrace.Config{
			Service: "warehouse", Publisher: broker.Publisher,
			RedeliveryWindow: broker.Capabilities.RedeliveryWindow, // what the broker may still repeat
			Dedupe:           middleware.DedupeConfig{Window: 14 * 24 * time.Hour},
		},
		middleware.DedupeConfig{
			Service: "warehouse", RedeliveryWindow: broker.Capabilities.RedeliveryWindow, Window: 14 * 24 * time.Hour,
		}
}
