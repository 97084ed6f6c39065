package cli

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/store"
)

// session is an open database.
type session struct {
	app *app
	url *dburl.URL
	db  *sql.DB
	cfg store.Config
}

// connect opens the database. Only a command that creates things may create a
// missing SQLite file.
func (a *app) connect(ctx context.Context, mayCreate bool) (*session, error) {
	u, err := a.address()
	if err != nil {
		return nil, err
	}
	if !mayCreate {
		u = u.Existing()
		if _, err := os.Stat(u.File); u.File != "" && errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: there is no file %s: check the path, or create it with `headrace migrate up`",
				dburl.ErrUnreachable, u.File)
		}
	}
	cfg := store.Config{Dialect: store.Dialect(u.Dialect), Schema: a.schema, Prefix: a.prefix}
	var db *sql.DB
	err = a.progress("connecting to "+u.Name, func() error {
		db, err = u.Connect(ctx, a.connectTimeout)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &session{app: a, url: u, db: db, cfg: cfg}, nil
}

func (a *app) address() (*dburl.URL, error) {
	raw := a.db
	if raw == "" {
		raw = a.Getenv(envDB)
	}
	if raw == "" {
		return nil, fmt.Errorf("no database given: pass --db URL or set %s", envDB)
	}
	return dburl.Parse(raw)
}

// close is for the end of a command: what it did is done, and a connection that
// can't be closed ends with the process.
func (s *session) close() { _ = s.db.Close() }

// with connects, runs f and closes.
func (a *app) with(ctx context.Context, mayCreate bool, f func(s *session) error) error {
	s, err := a.connect(ctx, mayCreate)
	if err != nil {
		return err
	}
	defer s.close()
	return f(s)
}

// store opens Headrace's tables.
func (s *session) store(ctx context.Context) (*store.Store, error) {
	return store.Open(ctx, s.db, s.cfg)
}

// progress says what is being done once it takes long, and again as it goes on.
func (a *app) progress(what string, f func() error) error {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(a.ProgressEvery)
		defer ticker.Stop()
		started := time.Now()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				a.sayf("%s… %s", what, time.Since(started).Round(100*time.Millisecond))
			}
		}
	}()
	err := f()
	close(done)
	<-ended
	return err
}
