// Package mysql uses a MySQL or MariaDB database as a broker, on watermill-sql.
// It needs MySQL 8 or MariaDB 10.6, which know SKIP LOCKED.
//
// Each topic is a table, read in one order by everybody: a group works on one
// message of a topic at a time, whatever number of consumers it has, and a
// message that fails holds up the topic for the group. Messages stay in the
// table after all groups have read them.
//
// Publishers of one topic commit one after the other. That makes the order of
// the rows the order of the commits, so that readers never step over a row that
// is committed late, and they need neither watermill-sql's SERIALIZABLE nor its
// gap locks, which block publishers for as long as a handler runs.
//
// Options:
//
//	poll          wait before looking again when there was nothing. Default 10ms
//	poll_max      to which that doubles. Default 200ms
//	nack_delay    wait before a nacked message comes again; it doubles with each
//	              attempt, up to a hundredfold. Default 100ms
//	ack_deadline  how long a handler may take before its message is given to
//	              somebody else. Default 0: as long as its process lives
//	drain         how long closing waits for messages in hand. Default 10s
//	pool          most connections for publishing. Default 16; each subscription
//	              has one more
//	max_body      largest payload in bytes. Default 16777216 (16 MiB), or what the
//	              server's max_allowed_packet leaves if that is less
//	join          true: handlers work in the transaction that records their ack
//	              (brokers.Config.Join)
//	tls           false, true, skip-verify or preferred. Default false
package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/go-sql-driver/mysql"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/internal/sqlbroker"
)

const defaultPort = "3306"

// packetRoom is what a statement holds beside a payload: its own text, the
// metadata and the protocol's fields. The metadata has a limit below it.
const (
	packetRoom   = 128 << 10
	maxMetadata  = 64 << 10
	minMaxPacket = 1 << 20
)

// Open opens mysql:// and mariadb:// URLs. It is a brokers.Opener.
func Open(ctx context.Context, u *url.URL, cfg brokers.Config) (*brokers.Backend, error) {
	o := brokers.NewOptions(u)
	settings := sqlbroker.ParseSettings(o)
	client, err := clientConfig(u, o.OneOf("tls", "false", "true", "skip-verify", "preferred"), cfg.Logger)
	if err := errors.Join(err, o.Err()); err != nil {
		return nil, err
	}

	var maxPacket int
	err = brokers.Connect(ctx, u, cfg, func(ctx context.Context) (err error) {
		maxPacket, err = askMaxPacket(ctx, client)

		return err
	})
	if err != nil {
		return nil, err
	}
	if maxPacket < minMaxPacket {
		return nil, fmt.Errorf("%w: the server's max_allowed_packet is %d bytes and must be at least %d",
			brokers.ErrBadOption, maxPacket, minMaxPacket)
	}

	client.MaxAllowedPacket = maxPacket
	settings.MaxBody = min(settings.MaxBody, maxPacket-packetRoom)
	connector, err := mysql.NewConnector(client)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", brokers.ErrBadURL, err)
	}
	broker := &sqlbroker.Broker{
		Settings:   settings,
		Dialect:    dialect{},
		Publishing: sql.OpenDB(connector),
		Reading:    sql.OpenDB(connector),
		Logger:     cfg.Logger,
		Joiner:     cfg.Join,
	}
	backend, err := broker.Backend("mysql")
	if err != nil {
		return nil, errors.Join(err, broker.Publishing.Close(), broker.Reading.Close())
	}

	return backend, nil
}

func clientConfig(u *url.URL, tls string, logger watermill.LoggerAdapter) (*mysql.Config, error) {
	client := mysql.NewConfig()
	client.Net = "tcp"
	client.Addr = u.Host
	if u.Port() == "" {
		client.Addr = net.JoinHostPort(u.Hostname(), defaultPort)
	}
	client.User = u.User.Username()
	client.Passwd, _ = u.User.Password()
	client.DBName = strings.TrimPrefix(u.Path, "/")
	client.TLSConfig = tls
	client.Logger = driverLogger{logger}
	switch {
	case u.Hostname() == "":
		return client, fmt.Errorf("%w: it names no host; write mysql://user:password@host:port/database", brokers.ErrBadURL)
	case client.DBName == "" || strings.Contains(client.DBName, "/"):
		return client, fmt.Errorf("%w: it names no database; write mysql://user:password@host:port/database", brokers.ErrBadURL)
	}

	return client, nil
}

// Errors that another attempt to connect won't change.
const (
	errDatabaseDenied = 1044
	errAccessDenied   = 1045
	errNoDatabase     = 1049
)

// askMaxPacket connects once, to learn what every other connection must know.
func askMaxPacket(ctx context.Context, client *mysql.Config) (size int, err error) {
	connector, err := mysql.NewConnector(client)
	if err != nil {
		return 0, brokers.Hopeless(err)
	}
	db := sql.OpenDB(connector)
	defer func() { err = errors.Join(err, db.Close()) }()

	err = db.QueryRowContext(ctx, "SELECT @@max_allowed_packet").Scan(&size)
	var refused *mysql.MySQLError
	if errors.As(err, &refused) {
		switch refused.Number {
		case errDatabaseDenied, errAccessDenied, errNoDatabase:
			return 0, brokers.Hopeless(err)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("ask for max_allowed_packet: %w", err)
	}

	return size, nil
}

// driverLogger keeps the driver from writing to the standard error output.
type driverLogger struct{ watermill.LoggerAdapter }

func (l driverLogger) Print(v ...any) { l.Debug("mysql driver: "+fmt.Sprint(v...), nil) }
