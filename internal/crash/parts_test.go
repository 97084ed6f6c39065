package crash_test

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/sync/errgroup"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/store"
)

const (
	connectTimeout = 30 * time.Second
	maxConnections = 8
	closeTimeout   = 20 * time.Second
)

// ground is what a service stands on: by URL, its database and its broker.
type ground struct {
	Database, Broker string
	Group            string
	Join             bool // handlers work in the SQL broker's transaction
}

// with opens both, runs the service and closes them.
func (g ground) with(
	ctx context.Context, logger watermill.LoggerAdapter, run func(*store.Store, *brokers.Broker) error,
) (err error) {
	database, err := dburl.Parse(g.Database)
	if err != nil {
		return err
	}
	db, err := database.ForService().Connect(ctx, connectTimeout)
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(maxConnections)
	defer func() { err = errors.Join(err, db.Close()) }()
	st, err := store.Open(ctx, db, store.Config{Dialect: store.Dialect(database.Dialect), Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	cfg := brokers.Config{Openers: all.Openers(), Group: g.Group, Logger: logger}
	if g.Join {
		cfg.Join = brokers.JoinUnits(st.Begin)
	}
	broker, err := brokers.Open(ctx, g.Broker, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	return run(st, broker)
}

// part is the router or the forwarder.
type part struct {
	name    string
	run     func(ctx context.Context) error
	running func() <-chan struct{}
}

// runParts runs a service's parts until the context ends, and tells when all are
// running.
func runParts(ctx context.Context, watch watcher, parts ...part) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, p := range parts {
		group.Go(func() error {
			if err := p.run(context.WithValue(ctx, partKey{}, p.name)); err != nil || ctx.Err() != nil {
				return err
			}
			return errors.New("a part of the service stopped by itself")
		})
	}
	group.Go(func() error {
		for _, p := range parts {
			select {
			case <-p.running():
			case <-ctx.Done():
				return nil
			}
		}
		watch.up()
		return nil
	})
	return group.Wait()
}

// routing is the router as a part.
func routing(router *message.Router) part {
	return part{subscriber, router.Run, func() <-chan struct{} { return router.Running() }}
}
