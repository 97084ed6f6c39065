package main

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace-go/headrace/middleware"
)

func parkingIdleCost() comparison {
	return comparison{
		name: "parking-idle-cost",
		what: "Transactions a second of dedupe-vs-bare's handler behind Parking and Dedupe with nothing parked, against Dedupe alone",
		unit: "x", rounds: 5, op: ">=", bar: 0.85,
		ours:   side{"with Parking", "transactions/s", withParking},
		theirs: side{"Dedupe alone", "transactions/s", withDedupe},
	}
}

func withParking(ctx context.Context, env servers) (float64, error) {
	return onPool(ctx, env, func(pool *pgxpool.Pool) (func(ctx context.Context, row int) error, func(), error) {
		g, err := guard(ctx, pool, &middleware.ParkingConfig{})
		if err != nil {
			return nil, nil, err
		}
		return g.handle, g.close, nil
	})
}
