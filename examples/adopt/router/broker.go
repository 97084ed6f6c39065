package main

import (
	"context"
	"os"
	"strings"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
)

// openBroker returns Kafka's publisher, and what makes a subscriber of a
// consumer group.
func openBroker(
	_ context.Context, logger watermill.LoggerAdapter,
) (message.Publisher, func(group string) (message.Subscriber, error), error) {
	addresses := strings.Split(os.Getenv("BROKER"), ",")
	publisher, err := kafka.NewPublisher(kafka.PublisherConfig{
		Brokers: addresses, Marshaler: kafka.DefaultMarshaler{},
	}, logger)
	if err != nil {
		return nil, nil, err
	}
	subscribe := func(group string) (message.Subscriber, error) {
		config := kafka.DefaultSaramaSubscriberConfig()
		config.Consumer.Offsets.Initial = sarama.OffsetOldest
		return kafka.NewSubscriber(kafka.SubscriberConfig{
			Brokers: addresses, Unmarshaler: kafka.DefaultMarshaler{},
			ConsumerGroup: group, OverwriteSaramaConfig: config,
		}, logger)
	}
	return publisher, subscribe, nil
}
