// Command cqrs is an ordinary Watermill CQRS application: a hotel whose guests
// book rooms and are served beer. Its handlers use their own *sql.DB and the
// buses.
//
// This is how it is before Headrace. `git apply examples/adopt/cqrs/headrace.patch`
// in the root of the module adds it, in ten lines of this file.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		slog.Error("hotel has ended", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	logger := watermill.NewSlogLogger(slog.Default())
	db, err := openDatabase()
	if err != nil {
		return err
	}
	defer db.Close()
	publisher, subscribe, err := openBroker(ctx, logger)
	if err != nil {
		return err
	}
	defer publisher.Close()
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return err
	}
	router.AddMiddleware(middleware.Recoverer)

	app := cqrsApp{router: router, publisher: publisher, subscribe: subscribe, logger: logger}
	if err := app.addHandlers(db); err != nil {
		return err
	}
	return router.Run(ctx)
}
