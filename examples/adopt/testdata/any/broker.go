package main

import (
	"context"
	"os"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
)

// openBroker takes the place of the program's own, to run it on any broker.
func openBroker(
	ctx context.Context, logger watermill.LoggerAdapter,
) (message.Publisher, func(group string) (message.Subscriber, error), error) {
	b, err := brokers.Open(ctx, os.Getenv("BROKER"), brokers.Config{Openers: all.Openers(), Logger: logger})
	if err != nil {
		return nil, nil, err
	}
	return b.Publisher, b.SubscriberFor, nil
}
