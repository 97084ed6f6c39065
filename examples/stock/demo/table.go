package main

func printTable(out printer, p *plan, outcomes map[side]*outcome) {
	want := &outcome{}
	want.Threw, want.Kills = len(p.throw), 1
	for _, product := range p.expected() {
		want.Stock += product.Stock
		for _, line := range product.Lines {
			want.Delivered += line.Delivered
		}
	}

	out.printf("\n%-26s%9s", "", "must be")
	for _, s := range sides() {
		out.printf("%14s", s)
	}
	out.printf("\n")
	for _, row := range []struct {
		name string
		of   func(*outcome) int64
	}{
		{"handlers that threw", func(o *outcome) int64 { return int64(o.Threw) }},
		{"consumers killed", func(o *outcome) int64 { return int64(o.Kills) }},
		{"stock of all products", func(o *outcome) int64 { return o.Stock }},
		{"delivered on order lines", func(o *outcome) int64 { return o.Delivered }},
		{"products with wrong stock", func(o *outcome) int64 { return int64(o.ProductsWrong) }},
		{"order lines wrong", func(o *outcome) int64 { return int64(o.LinesWrong) }},
		{"recommendations wrong", func(o *outcome) int64 { return int64(o.RecommendationsWrong) }},
		{"effects doubled", func(o *outcome) int64 { return int64(o.EffectsDoubled) }},
		{"effects lost", func(o *outcome) int64 { return int64(o.EffectsLost) }},
		{"follow-ups doubled", func(o *outcome) int64 { return int64(o.FollowUpsDoubled) }},
		{"follow-ups lost", func(o *outcome) int64 { return int64(o.FollowUpsLost) }},
	} {
		out.printf("%-26s%9d", row.name, row.of(want))
		for _, s := range sides() {
			out.printf("%14d", row.of(outcomes[s]))
		}
		out.printf("\n")
	}
	out.printf("\n%s", legend)
}

// legend says how to read the table.
const legend = `"must be" is what the messages that were sent add up to. What is done to each side is
the same (the first two rows); what it ended with is counted in its tables. Naive is an
ordinary router, Deduplicator one with Watermill's middleware of that name. Each change of
stock (an effect) sends a follow-up, whose handler writes what to order (a recommendation).
`

func verdict(outcomes map[side]*outcome) string {
	text := "Headrace: everything once, nothing lost"
	if outcomes[protected].damaged() {
		text = "Headrace: WRONG, see the table; please report it with the seed"
	}
	if !outcomes[naive].damaged() {
		text += ". The naive side took no damage this time"
	}
	return text
}
