package main

import (
	"database/sql"
	"os"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
)

type cqrsApp struct {
	router    *message.Router
	publisher message.Publisher
	subscribe func(group string) (message.Subscriber, error)
	logger    watermill.LoggerAdapter
}

// topic is the environment's name of a topic.
func topic(name string) string { return os.Getenv("TOPICS") + name }

// marshaler names messages "BookRoom", not "main.BookRoom".
var marshaler = cqrs.JSONMarshaler{GenerateName: cqrs.StructName}

func (a cqrsApp) addHandlers(db *sql.DB) error {
	commands, err := cqrs.NewCommandBusWithConfig(a.publisher, cqrs.CommandBusConfig{
		GeneratePublishTopic: func(p cqrs.CommandBusGeneratePublishTopicParams) (string, error) {
			return topic(p.CommandName), nil
		},
		Marshaler: marshaler, Logger: a.logger,
	})
	if err != nil {
		return err
	}
	events, err := cqrs.NewEventBusWithConfig(a.publisher, cqrs.EventBusConfig{
		GeneratePublishTopic: func(cqrs.GenerateEventPublishTopicParams) (string, error) { return topic("events"), nil },
		Marshaler:            marshaler, Logger: a.logger,
	})
	if err != nil {
		return err
	}
	h := newHandlers(db, commands, events)
	if err := a.addCommands(h); err != nil {
		return err
	}
	if err := a.addEvents(h); err != nil {
		return err
	}
	return a.addGroups(h)
}

func (a cqrsApp) addCommands(h *handlers) error {
	processor, err := cqrs.NewCommandProcessorWithConfig(a.router, cqrs.CommandProcessorConfig{
		GenerateSubscribeTopic: func(p cqrs.CommandProcessorGenerateSubscribeTopicParams) (string, error) {
			return topic(p.CommandName), nil
		},
		SubscriberConstructor: func(p cqrs.CommandProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return a.subscribe("hotel_" + p.HandlerName)
		},
		Marshaler: marshaler, Logger: a.logger,
	})
	if err != nil {
		return err
	}
	return processor.AddHandlers(
		cqrs.NewCommandHandler("book_room", h.BookRoom),
		cqrs.NewCommandHandler("order_beer", h.OrderBeer),
	)
}

// addEvents gives a handler a subscription of its own.
func (a cqrsApp) addEvents(h *handlers) error {
	processor, err := cqrs.NewEventProcessorWithConfig(a.router, cqrs.EventProcessorConfig{
		GenerateSubscribeTopic: func(cqrs.EventProcessorGenerateSubscribeTopicParams) (string, error) {
			return topic("events"), nil
		},
		SubscriberConstructor: func(p cqrs.EventProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return a.subscribe("hotel_" + p.HandlerName)
		},
		AckOnUnknownEvent: true, Marshaler: marshaler, Logger: a.logger,
	})
	if err != nil {
		return err
	}
	return processor.AddHandlers(cqrs.NewEventHandler("serve_beer", h.ServeBeer))
}

// addGroups lets several handlers share one subscription.
func (a cqrsApp) addGroups(h *handlers) error {
	processor, err := cqrs.NewEventGroupProcessorWithConfig(a.router, cqrs.EventGroupProcessorConfig{
		GenerateSubscribeTopic: func(cqrs.EventGroupProcessorGenerateSubscribeTopicParams) (string, error) {
			return topic("events"), nil
		},
		SubscriberConstructor: func(p cqrs.EventGroupProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return a.subscribe("hotel_" + p.EventGroupName)
		},
		AckOnUnknownEvent: true, Marshaler: marshaler, Logger: a.logger,
	})
	if err != nil {
		return err
	}
	return processor.AddHandlersGroup("report",
		cqrs.NewGroupEventHandler(h.ReportRoom),
		cqrs.NewGroupEventHandler(h.AuditRoom),
		cqrs.NewGroupEventHandler(h.ReportBeer),
	)
}
