package middleware_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Messages carry some fields of an order line each. The second one comes late.
func ExampleNewVersionSkip() {
	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer os.RemoveAll(dir) //nolint:errcheck // it is temporary
	db, err := sql.Open("sqlite", filepath.Join(dir, "shop.db"))
	check(err)
	defer db.Close() //nolint:errcheck // nothing is written any more
	st, err := store.Open(context.Background(), db, store.Config{Dialect: store.SQLite, Migrate: true})
	check(err)
	defer st.Close() //nolint:errcheck // as said

	skip, err := middleware.NewVersionSkip(st, middleware.VersionSkipConfig{
		Consumer: "shop.lines", // behind Dedupe it is known
		States: middleware.StateOf(
			keys.OfType("order line", keys.FromJSON("line_id")),
			middleware.VersionFromJSON("version"),
			middleware.GroupsFromJSON(
				middleware.FieldGroup{Name: "dates", Fields: []string{"expected_date"}},
				middleware.FieldGroup{Name: "quantity", Fields: []string{"quantity"}},
			),
		),
	})
	check(err)
	handler := skip.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		for _, state := range middleware.Fresh(msg.Context()) {
			fmt.Printf("%s version %s: dates %t, quantity %t\n",
				state.Entity.ID, state.Version, state.Has("dates"), state.Has("quantity"))
		}
		return nil, nil
	})

	for _, payload := range []string{
		`{"line_id": "7", "version": 2, "expected_date": "2026-06-05"}`,
		`{"line_id": "7", "version": 1, "expected_date": "2026-05-01", "quantity": 12}`,
	} {
		_, err := handler(message.NewMessage("id", []byte(payload)))
		check(err)
	}
	// Output:
	// 7 version 2: dates true, quantity false
	// 7 version 1: dates false, quantity true
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// Three notifications about one customer come at once.
func ExampleNewFetch() {
	var calls atomic.Int64
	load := func(context.Context, keys.Entity) (middleware.Current[string], error) {
		return middleware.Current[string]{Value: "Anna", Version: middleware.IntVersion(calls.Add(1))}, nil
	}
	fetch, err := middleware.NewFetch(middleware.FetchConfig[string]{
		Entity: keys.OfType("customer", keys.FromJSON("customer_id")), Load: load,
	})
	check(err)
	handler := fetch.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		customer, _ := fetch.From(msg.Context())
		if customer.Value != "Anna" {
			return nil, errors.New("who is that?")
		}
		return nil, nil
	})
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			_, err := handler(message.NewMessage("id", []byte(`{"customer_id": 7}`)))
			check(err)
		})
	}
	all.Wait()
	fmt.Println("no more calls than notifications:", calls.Load() <= 3)
	// Output:
	// no more calls than notifications: true
}
