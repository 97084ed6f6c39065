package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/examples/stock/internal/connect"
	"github.com/headrace-go/headrace/examples/stock/internal/service"
)

// place is where one side lives: a database, topics and a consumer group of its
// own, so that neither runs nor sides disturb each other.
type place struct {
	db, broker string
	topics     service.Topics
	group      string

	cleanups []func(context.Context) error
}

// cleanupTimeout bounds the removal of everything that a side has made.
const cleanupTimeout = 30 * time.Second

// runName tells runs apart on shared servers. It is no part of the story, so it
// doesn't come from the seed.
func runName() string { return fmt.Sprintf("hrdemo_%08x", rand.Uint32()) }

func newPlace(ctx context.Context, opts options, run string, s side) (*place, error) {
	name := run + "_" + strings.ToLower(strings.ReplaceAll(string(s), " ", ""))
	p := &place{
		group:  name,
		topics: service.Topics{Changes: name + "_c", FollowUps: name + "_f", Refused: name + "_r"},
	}
	var err error
	if p.db, err = p.database(ctx, opts.db, name); err == nil {
		p.broker, err = p.queues(ctx, opts.broker, name+"_q")
	}
	if err != nil {
		return nil, errors.Join(err, p.clean(ctx))
	}
	return p, nil
}

func (p *place) onClean(f func(context.Context) error) { p.cleanups = append(p.cleanups, f) }

// clean removes what was made, the newest first.
func (p *place) clean(ctx context.Context) (err error) {
	// It has to work after an interrupt too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	for _, cleanup := range slices.Backward(p.cleanups) {
		err = errors.Join(err, cleanup(ctx))
	}
	return err
}

func (p *place) database(ctx context.Context, rawURL, name string) (string, error) {
	if rest, ok := strings.CutPrefix(rawURL, "sqlite:"); ok {
		path, options, _ := strings.Cut(rest, "?")
		path += "-" + name
		p.onClean(func(context.Context) error { return removeSQLite(path) })
		return "sqlite:" + path + "?" + options, nil
	}
	return p.ownSchema(ctx, rawURL, name)
}

// queues returns the broker's URL with what makes it quick to notice that a
// consumer was killed, unless the URL decides it itself.
func (p *place) queues(ctx context.Context, rawURL, name string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", errors.New("the broker's URL can't be parsed: escape what is special in user and password")
	}
	switch u.Scheme {
	case "mem":
		file := u.Query().Get("file")
		if file == "" {
			return "", errors.New("the consumer is another process: write mem:?file=path")
		}
		file += "-" + name
		p.onClean(func(context.Context) error { return errors.Join(removeSQLite(file), removeSQLite(file+"-owners")) })
		return withOptions(withOption(u, "file", file), map[string]string{"sync": "normal", "poll": "20ms"}), nil
	case "kafka":
		quick := withOptions(u, map[string]string{"session_timeout": "6s", "partitions": "4"})
		p.onClean(func(ctx context.Context) error { return p.removeTopics(ctx, rawURL) })
		return quick, nil
	case "sqs":
		quick := withOptions(u, map[string]string{"visibility": "5s"})
		p.onClean(func(ctx context.Context) error { return p.removeTopics(ctx, rawURL) })
		return quick, nil
	default:
		return p.ownSchema(ctx, rawURL, name) // or an error that names what is known
	}
}

// removeTopics deletes the side's topics. A group without any is forgotten by Kafka
// itself.
func (p *place) removeTopics(ctx context.Context, rawURL string) (err error) {
	broker, err := brokers.Open(ctx, rawURL, brokers.Config{Openers: connect.Openers()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	for _, topic := range []string{p.topics.Changes, p.topics.FollowUps, p.topics.Refused} {
		err = errors.Join(err, broker.DeleteTopic(ctx, topic))
	}
	return err
}

func removeSQLite(path string) (err error) {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if failed := os.Remove(path + suffix); failed != nil && !os.IsNotExist(failed) {
			err = errors.Join(err, failed)
		}
	}
	return err
}

func withOption(u *url.URL, name, value string) *url.URL {
	changed := *u
	query := u.Query()
	query.Set(name, value)
	changed.RawQuery = query.Encode()
	return &changed
}

// withOptions adds the options that the URL doesn't have.
func withOptions(u *url.URL, options map[string]string) string {
	changed := u
	for name, value := range maps.All(options) {
		if !u.Query().Has(name) {
			changed = withOption(changed, name, value)
		}
	}
	return changed.String()
}
