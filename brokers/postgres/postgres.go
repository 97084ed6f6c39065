// Package postgres uses a PostgreSQL database as a broker, on watermill-sql.
//
// Each topic is a table, read in one order by everybody: a group works on one
// message of a topic at a time, whatever number of consumers it has, and a
// message that fails holds up the topic for the group. Messages stay in the
// table after all groups have read them.
//
// Nothing in here holds a transaction id while a handler runs, unless it joins:
// every message in flight would otherwise hide all later messages of the whole
// server from all groups, because watermill-sql reads only what is older than
// the oldest running transaction. For the same reason any other transaction that
// has written and stays open delays every topic.
//
// After a dump and restore into another server transaction ids start anew, and
// consumers wait until they have caught up (watermill-sql issue 576): empty the
// offsets tables (headrace_offs_…) then.
//
// Options:
//
//	schema        where the tables are. Default: the first of search_path
//	poll          wait before looking again when there was nothing. Default 10ms
//	poll_max      to which that doubles. Default 200ms
//	nack_delay    wait before a nacked message comes again; it doubles with each
//	              attempt, up to a hundredfold. Default 100ms
//	ack_deadline  how long a handler may take before its message is given to
//	              somebody else. Default 0: as long as its process lives
//	drain         how long closing waits for messages in hand. Default 10s
//	pool          most connections for publishing. Default 16; each subscription
//	              has one more
//	max_body      largest payload in bytes. Default 16777216 (16 MiB)
//	join          true: handlers work in the transaction that records their ack
//	              (brokers.Config.Join)
//
// and those of the client that mean what they mean in libpq: application_name,
// options, search_path, sslcert, sslkey, sslmode, sslpassword, sslrootcert,
// sslsni, target_session_attrs.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/internal/sqlbroker"
)

// Open opens postgres:// and postgresql:// URLs. It is a brokers.Opener.
func Open(ctx context.Context, u *url.URL, cfg brokers.Config) (*brokers.Backend, error) {
	o := brokers.NewOptions(u)
	settings := sqlbroker.ParseSettings(o)
	schema := o.String("schema", "")
	client := clientURL(u, o)
	if err := o.Err(); err != nil {
		return nil, err
	}

	config, err := pgx.ParseConfig(client.String())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", brokers.ErrBadURL, err)
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "headrace"
	}

	publishing := stdlib.OpenDB(*config)
	if err := brokers.Connect(ctx, u, cfg, func(ctx context.Context) error { return ping(ctx, publishing) }); err != nil {
		return nil, errors.Join(err, publishing.Close())
	}

	broker := &sqlbroker.Broker{
		Settings:   settings,
		Dialect:    dialect{schema: schema},
		Publishing: publishing,
		Reading:    stdlib.OpenDB(*config),
		Logger:     cfg.Logger,
		Joiner:     cfg.Join,
	}
	backend, err := broker.Backend("postgres")
	if err != nil {
		return nil, errors.Join(err, broker.Publishing.Close(), broker.Reading.Close())
	}

	return backend, nil
}

// clientURL leaves the options that the client knows in the URL, and no others:
// it would send them to the server as settings.
func clientURL(u *url.URL, o *brokers.Options) *url.URL {
	query := url.Values{}
	for _, name := range []string{
		"application_name", "options", "search_path", "sslcert", "sslkey", "sslmode",
		"sslpassword", "sslrootcert", "sslsni", "target_session_attrs",
	} {
		if value := o.String(name, ""); value != "" {
			query.Set(name, value)
		}
	}
	client := *u
	client.RawQuery = query.Encode()

	return &client
}

// Classes of errors that another attempt to connect won't change: wrong user or
// password, unknown database.
const (
	classAuthorization = "28"
	classCatalog       = "3D"
)

func ping(ctx context.Context, db *sql.DB) error {
	err := db.PingContext(ctx)
	var refused *pgconn.PgError
	if errors.As(err, &refused) &&
		(strings.HasPrefix(refused.Code, classAuthorization) || strings.HasPrefix(refused.Code, classCatalog)) {
		return brokers.Hopeless(err)
	}
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}

	return nil
}
