package readme

import (
	"os"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
)

// sides is docs/swap.md's.
func sides(from, to *brokers.Broker, cfg brokers.HandoverConfig) (message.Publisher, message.Subscriber, error) {
	publisher, subscriber := from.Publisher, from.Subscriber
	switch os.Getenv("SWAP_SEND") {
	case "hold":
		publisher = brokers.Held{}
	case "new":
		publisher = to.Publisher
	}
	var err error
	switch os.Getenv("SWAP_READ") {
	case "drain":
		subscriber, err = brokers.NewHandover(from, to, cfg)
	case "new":
		subscriber = to.Subscriber
	}
	return publisher, subscriber, err
}
