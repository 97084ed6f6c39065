package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/sync/errgroup"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
)

// What a batch does to the customer API.
const (
	fetchCustomers     = 1_000
	fetchAtOnce        = 100 // customers
	fetchConsumers     = 5
	fetchNotifications = 3
	fetchCall          = 100 * time.Millisecond // what a call takes
)

func fetchCalls() comparison {
	return comparison{
		name: "fetch-calls", what: "Calls to a customer API, over HTTP, for a customer and a consumer behind Fetch: a batch updates " +
			"1,000 customers, 5 consumers hear 3 notifications of each within four fifths of the time that a call takes. " +
			"Without Fetch it is 3.",
		unit: "calls", rounds: 3, op: "<=", bar: 2,
		ours: side{"headrace", "calls", func(ctx context.Context, _ servers) (float64, error) {
			var calls atomic.Int64
			api := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				calls.Add(1)
				time.Sleep(fetchCall)
			}))
			defer api.Close()
			err := notifyHerd(ctx, api.URL)
			return float64(calls.Load()) / (fetchCustomers * fetchConsumers), err
		}},
	}
}

func notifyHerd(ctx context.Context, api string) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: fetchAtOnce * fetchConsumers}}
	defer client.CloseIdleConnections()
	consumers := make([]message.HandlerFunc, fetchConsumers)
	for n := range consumers {
		fetch, err := middleware.NewFetch(middleware.FetchConfig[int]{
			Entity: keys.OfType("customer", keys.FromMetadata("customer")),
			Load: func(ctx context.Context, entity keys.Entity) (state middleware.Current[int], err error) {
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, api+"/"+entity.ID, nil)
				if err != nil {
					return state, err
				}
				response, err := client.Do(request)
				if err != nil {
					return state, err
				}
				return state, response.Body.Close()
			},
		})
		if err != nil {
			return err
		}
		consumers[n] = fetch.Middleware(message.PassthroughHandler)
	}
	for from := 0; from < fetchCustomers; from += fetchAtOnce {
		all, ctx := errgroup.WithContext(ctx)
		for customer := from; customer < from+fetchAtOnce; customer++ {
			for _, consumer := range consumers {
				for n := range fetchNotifications {
					all.Go(func() error {
						if n > 0 {
							time.Sleep(rand.N(fetchCall * 4 / 5))
						}
						msg := message.NewMessage("notification", nil)
						msg.Metadata.Set("customer", strconv.Itoa(customer))
						msg.SetContext(ctx)
						_, err := consumer(msg)
						return err
					})
				}
			}
		}
		if err := all.Wait(); err != nil {
			return err
		}
	}
	return nil
}
