//go:build !embedded

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/headrace-go/headrace/examples/stock/internal/connect"
	"github.com/headrace-go/headrace/store"
)

// ownSchema makes a schema (on MariaDB and MySQL a database) and returns the URL
// that works in it.
func (p *place) ownSchema(ctx context.Context, rawURL, name string) (own string, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", errors.New("the URL can't be parsed: escape what is special in user and password")
	}
	if err := execute(ctx, u, "CREATE", name); err != nil {
		return "", fmt.Errorf("make %s to work in, for which the user needs the right: %w", name, err)
	}
	p.onClean(func(ctx context.Context) error {
		if err := execute(ctx, u, "DROP", name); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
		return nil
	})
	if strings.HasPrefix(u.Scheme, "postgres") {
		return withOption(u, "search_path", name).String(), nil
	}
	inDatabase := *u
	inDatabase.Path = "/" + name
	return inDatabase.String(), nil
}

// execute creates or drops a schema or database. name comes from runName and
// needs no quotes.
func execute(ctx context.Context, u *url.URL, what, name string) (err error) {
	server := *u
	query := url.Values{}
	for option, values := range u.Query() {
		// The others are a broker's, which the driver doesn't know.
		if strings.HasPrefix(option, "ssl") {
			query[option] = values
		}
	}
	server.RawQuery = query.Encode()
	db, err := connect.Open(server.String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	statement := what + " DATABASE " + name
	if db.Dialect == store.Postgres {
		statement = what + " SCHEMA " + name
		if what == "DROP" {
			statement += " CASCADE"
		}
	}
	if _, err := db.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}
