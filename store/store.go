package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/jmoiron/sqlx"
)

// Config says where the tables are and how units of work behave. The zero value
// of every field but Dialect is usable.
type Config struct {
	// Dialect is the kind of database. Required.
	Dialect Dialect
	// Schema holds the tables: a schema on Postgres, a database on MySQL. Empty
	// means the connection's default. SQLite has none.
	Schema string
	// Prefix starts every table's name. Default "headrace_".
	Prefix string
	// Migrate makes Open bring the schema up to date first. Processes that do so
	// at the same time wait for each other. Default false: Open only checks.
	Migrate bool

	// Isolation of every unit of work: sql.LevelReadCommitted (the default, on
	// MySQL too: REPEATABLE READ reads a stale snapshot after a lock wait),
	// sql.LevelRepeatableRead or sql.LevelSerializable. SQLite is always
	// serializable.
	Isolation sql.IsolationLevel
	// MaxRetries bounds how often a unit is run again after a deadlock or
	// serialization failure. Default 8; -1 means never.
	MaxRetries int
	// RetryBackoff is the first pause before a retry; pauses double up to 50
	// times that and vary by a half. Default 10 ms.
	RetryBackoff time.Duration
	// LockTimeout bounds every wait for a lock inside a unit of work. Default 5 s.
	// It is set per transaction on Postgres and per connection on MySQL, where
	// whole seconds count; nothing is set where the connection already has one that is
	// no longer, by the DSN (lock_timeout on Postgres, in milliseconds), which saves a
	// statement of each transaction.
	LockTimeout time.Duration
	// ConnTimeout bounds the wait for a connection from the pool, and on SQLite
	// for the turn as the one writer. Default 10 s.
	ConnTimeout time.Duration
	// CommitTimeout bounds COMMIT and ROLLBACK, which go on when the message's
	// context is cancelled. Default 15 s.
	CommitTimeout time.Duration
	// WarnTxLonger makes a unit whose transaction was open for longer log a line,
	// at INFO: Watermill's loggers have no level for warnings. Default 1 s;
	// negative means never.
	WarnTxLonger time.Duration

	// Strict refuses statements through JoinDB and publishes through the outbox
	// that happen outside of any unit of work, unless their context was marked
	// with MeantOutside. Default false: they go through on their own, and those that
	// a function within InTx sends without its context are logged, once for each
	// line of code.
	Strict bool

	// Codec seals the requests and responses that effects keep, and the payloads of
	// messages that are parked. Default: none, they are kept as they are. What was
	// sealed is read by a codec of the same name only.
	Codec Codec

	// Logger gets retries, long transactions, and what has lost its unit's context.
	// Default: none.
	Logger watermill.LoggerAdapter
	// Hooks are told what happens; those that implement TxHook or OutsideHook here,
	// others in the packages that use the store.
	Hooks []any
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.Isolation == sql.LevelDefault {
		c.Isolation = sql.LevelReadCommitted
	}
	if c.MaxRetries == 0 {
		c.MaxRetries = 8
	}
	if c.MaxRetries < 0 {
		c.MaxRetries = 0
	}
	setDefault(&c.RetryBackoff, 10*time.Millisecond)
	setDefault(&c.LockTimeout, 5*time.Second)
	setDefault(&c.ConnTimeout, 10*time.Second)
	setDefault(&c.CommitTimeout, 15*time.Second)
	setDefault(&c.WarnTxLonger, time.Second)
	if c.Logger == nil {
		c.Logger = watermill.NopLogger{}
	}
	return c
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

func (c Config) validate() error {
	if err := c.Dialect.validate(); err != nil {
		return err
	}
	if _, err := isolationSQL(c.Isolation); err != nil {
		return err
	}
	if c.Codec != nil {
		if name := c.Codec.Name(); name == "" || len(name) > maxCodecName || !plainName(name) || name == forgottenCodec {
			return fmt.Errorf("store: the name of Config.Codec must be 1 to %d visible ASCII characters, not %q",
				maxCodecName, name)
		}
	}
	for name, d := range map[string]time.Duration{
		"RetryBackoff": c.RetryBackoff, "LockTimeout": c.LockTimeout,
		"ConnTimeout": c.ConnTimeout, "CommitTimeout": c.CommitTimeout,
	} {
		if d < 0 {
			return fmt.Errorf("store: Config.%s must be positive, not %s", name, d)
		}
	}
	return nil
}

// Store is a handle on Headrace's tables in the user's database. It is safe for
// concurrent use. Close frees the handle that JoinDB returns; the database stays
// open.
type Store struct {
	db      *sqlx.DB
	dialect Dialect
	cfg     Config
	names   names
	// insertInbox and admitInbox are the statements, bound for the dialect.
	insertInbox, admitInbox string

	begin        beginner
	txHooks      []TxHook
	outsideHooks []OutsideHook
	strays       strays
	joined       *sqlx.DB
	onClose      []func() error
	wakes        wakes
	lineWakes    lineWakes
	// sequenceServer is the database's process that is known to be the same as before.
	sequenceServer atomic.Pointer[string]
	// writer is held by the process's one writer on SQLite, nil elsewhere.
	writer chan struct{}
}

// Open checks the schema, or migrates it first when cfg.Migrate is set, and
// returns the store. The database stays the caller's.
//
// Errors: those of a wrong configuration; ErrSchemaMissing; ErrSchemaTooNew; and
// the database's own when it can't be reached, which is asked once (Connect waits
// for one that is starting).
func Open(ctx context.Context, db *sql.DB, cfg Config) (*Store, error) {
	s, err := newStore(db, cfg)
	if err != nil {
		return nil, err
	}
	// A database that doesn't answer is found out in bounded time.
	if err := s.withConn(ctx, func(*sqlx.Conn) error { return nil }); err != nil {
		return nil, err
	}
	if s.begin, err = s.newBeginner(ctx); err != nil {
		return nil, fmt.Errorf("store: session's settings: %w", err)
	}
	if s.cfg.Migrate {
		if err := s.Migrator().Up(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.CheckSchema(ctx); err != nil {
		return nil, err
	}
	// Last, because it starts a goroutine that only Close ends.
	s.joined = newJoinDB(s)
	return s, nil
}

func newStore(db *sql.DB, cfg Config) (*Store, error) {
	if db == nil {
		return nil, errors.New("store: a *sql.DB is needed")
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	tables, err := newNames(cfg.Dialect, cfg.Schema, cfg.Prefix)
	if err != nil {
		return nil, err
	}
	s := &Store{
		db:      sqlx.NewDb(db, cfg.Dialect.bindName()),
		dialect: cfg.Dialect,
		cfg:     cfg,
		names:   tables,

		insertInbox: insertInboxSQL(cfg.Dialect, tables.inbox),
		admitInbox:  admitInboxSQL(cfg.Dialect, tables.inbox, tables.gates),

		txHooks:      HooksOf[TxHook](cfg.Hooks),
		outsideHooks: HooksOf[OutsideHook](cfg.Hooks),
	}
	if cfg.Dialect == SQLite {
		s.writer = make(chan struct{}, 1)
	}
	return s, nil
}

// withConn runs f on a connection that it takes from the pool in bounded time.
func (s *Store) withConn(ctx context.Context, f func(conn *sqlx.Conn) error) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only gives it back
	return f(conn)
}

// Close frees what the store keeps beside the user's database, which stays open:
// a goroutine behind JoinDB. Units of work in progress may go on, JoinDB may not.
func (s *Store) Close() error {
	err := s.joined.Close()
	for _, f := range s.onClose {
		err = errors.Join(err, f())
	}
	return err
}

// OnClose registers what Close frees beside the store's own. It is for packages
// that open the store on a handle of theirs, before anyone else has it.
func (s *Store) OnClose(f func() error) { s.onClose = append(s.onClose, f) }

// Dialect returns the kind of database.
func (s *Store) Dialect() Dialect { return s.dialect }

// DB returns the database that the store was opened with. Statements through it
// never join a unit of work.
func (s *Store) DB() *sql.DB { return s.db.DB }

// Strict reports whether Config.Strict is set.
func (s *Store) Strict() bool { return s.cfg.Strict }
