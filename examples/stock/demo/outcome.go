package main

import (
	"context"
	"fmt"

	"github.com/headrace-go/headrace/examples/stock/internal/warehouse"
)

// outcome is what a side ended with, counted in its tables.
type outcome struct {
	Threw, Kills int
	// Stock and Delivered are sums over all products and order lines.
	Stock, Delivered int64

	ProductsWrong, LinesWrong, RecommendationsWrong int
	// Doubled and Lost count changes by the entries that they left behind:
	// those beyond the first, and those without any.
	EffectsDoubled, EffectsLost     int
	FollowUpsDoubled, FollowUpsLost int
}

func (o *outcome) damaged() bool {
	return o.ProductsWrong+o.LinesWrong+o.RecommendationsWrong+
		o.EffectsDoubled+o.EffectsLost+o.FollowUpsDoubled+o.FollowUpsLost > 0
}

// count compares what the tables hold with what was sent, and knows nothing
// else.
func (s *stage) count(ctx context.Context) (o *outcome, err error) {
	o = &outcome{Threw: len(s.threw), Kills: s.kills}
	err = s.withTables(func(w *warehouse.Warehouse) error {
		for _, want := range s.expected() {
			got, ok, err := w.Product(ctx, want.ID)
			if err != nil {
				return err
			}
			if !ok {
				return fmt.Errorf("product %d has vanished", want.ID)
			}
			o.compare(got, want)
		}
		effects, err := w.StockJournal(ctx)
		if err != nil {
			return err
		}
		o.EffectsDoubled, o.EffectsLost = s.tally(effects)
		followUps, err := w.RecommendationRuns(ctx)
		if err != nil {
			return err
		}
		o.FollowUpsDoubled, o.FollowUpsLost = s.tally(followUps)
		return nil
	})
	return o, err
}

func (o *outcome) compare(got, want warehouse.Product) {
	o.Stock += got.Stock
	if got.Stock != want.Stock {
		o.ProductsWrong++
	}
	for i, line := range got.Lines {
		o.Delivered += line.Delivered
		if i >= len(want.Lines) || line != want.Lines[i] {
			o.LinesWrong++
		}
	}
	// Runs are what the journal of runs is compared by.
	got.Recommendation.Runs = want.Recommendation.Runs
	if got.Recommendation != want.Recommendation {
		o.RecommendationsWrong++
	}
}

// tally compares a journal with the changes, each of which must be in it once.
func (p *plan) tally(journal map[string]int) (doubled, lost int) {
	for _, c := range p.changes {
		doubled += max(0, journal[c.id]-1)
		if journal[c.id] == 0 {
			lost++
		}
	}
	return doubled, lost
}
