package brokers_test

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/conformance"
)

// withProcesses has consumers run in processes of their own, which are this test
// binary once more: see TestMain.
func withProcesses(rawURL string, h *conformance.Harness) {
	h.Consumer = func(_ context.Context, spec conformance.ConsumerSpec) (conformance.Process, error) {
		spec.Args = map[string]string{"url": rawURL}

		return conformance.Reexec(spec)
	}
}

func openInProcess(ctx context.Context, spec conformance.ConsumerSpec) (message.Subscriber, error) {
	for _, c := range rawCases() {
		if c.name == spec.Args["raw"] {
			return c.inProcess(spec.Args["url"], spec.Group)
		}
	}
	b, err := brokers.Open(ctx, spec.Args["url"], brokers.Config{Openers: all.Openers(), Group: spec.Group})
	if err != nil {
		return nil, err
	}

	return b.SubscriberFor(spec.Group)
}
