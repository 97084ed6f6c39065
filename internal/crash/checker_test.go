package crash_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"
)

// effect is a row of the ledger.
type effect struct {
	Stage    string `db:"stage"`
	Change   string `db:"change_id"`
	Product  string `db:"product"`
	Quantity int64  `db:"quantity"`
}

// findings is what is wrong in the user's tables, one line each.
type findings struct {
	lost, doubled, foreign, totals, disorder []string
	products                                 map[string]bool // concerned
}

// wrong is what no broker excuses.
func (f *findings) wrong() []string {
	return slices.Concat(f.lost, f.doubled, f.foreign, f.totals)
}

func (f *findings) addf(list *[]string, product, format string, args ...any) {
	*list = append(*list, fmt.Sprintf(format, args...))
	f.products[product] = true
}

// check compares what was sent, each change once and in the order of the first
// sending, with what the user's tables hold.
func check(ctx context.Context, db *sqlx.DB, sent []stockChanged) (*findings, error) {
	var ledger []effect
	if err := db.SelectContext(ctx, &ledger,
		"SELECT stage, change_id, product, quantity FROM effects ORDER BY seq"); err != nil {
		return nil, err
	}
	f := &findings{products: map[string]bool{}}
	for stage, table := range map[string]string{
		apply:     "SELECT id AS product, quantity FROM products",
		recommend: "SELECT product, quantity FROM recommendations",
	} {
		f.checkStage(stage, ledger, sent)
		var rows []effect
		if err := db.SelectContext(ctx, &rows, table); err != nil {
			return nil, err
		}
		f.checkTotals(stage, rows, sent)
	}
	return f, nil
}

func (f *findings) checkStage(stage string, ledger []effect, sent []stockChanged) {
	place := map[string]int{}
	for i, change := range sent {
		place[change.Change] = i
	}
	times := map[string]int{}
	last := map[string]int{} // product → place of the newest change
	for _, e := range ledger {
		if e.Stage != stage {
			continue
		}
		i, known := place[e.Change]
		if !known || sent[i] != (stockChanged{e.Change, e.Product, e.Quantity}) {
			f.addf(&f.foreign, e.Product, "%s: %+v was never sent", stage, e)
			continue
		}
		if times[e.Change]++; times[e.Change] > 1 {
			continue // the order is that of first occurrences
		}
		if before, seen := last[e.Product]; seen && before > i {
			f.addf(&f.disorder, e.Product, "%s: product %s: change %d (%s) came after change %d (%s)",
				stage, e.Product, i, e.Change, before, sent[before].Change)
		}
		last[e.Product] = max(last[e.Product], i)
	}
	for _, change := range sent {
		switch n := times[change.Change]; {
		case n == 0:
			f.addf(&f.lost, change.Product, "%s: lost: %+v", stage, change)
		case n > 1:
			f.addf(&f.doubled, change.Product, "%s: done %d times: %+v", stage, n, change)
		}
	}
}

// checkTotals asks the tables that the user cares about; the ledger is only the
// witness.
func (f *findings) checkTotals(stage string, rows []effect, sent []stockChanged) {
	want := map[string]int64{}
	for _, change := range sent {
		want[change.Product] += change.Quantity
	}
	got := map[string]int64{}
	for _, row := range rows {
		got[row.Product] = row.Quantity
	}
	for _, product := range slices.Sorted(maps.Keys(got)) {
		if got[product] != want[product] {
			f.addf(&f.totals, product, "%s: product %s has %d and should have %d", stage, product, got[product], want[product])
		}
	}
}

func excerpt(lines []string) string {
	const most = 12
	if len(lines) > most {
		lines = append(slices.Clone(lines[:most]), fmt.Sprintf("… and %d more", len(lines)-most))
	}
	return strings.Join(lines, "\n")
}

func excerptAll(lines []string) string { return strings.Join(lines, "\n") }
