package store

import (
	"fmt"
	"regexp"
)

// DefaultPrefix starts the name of every table.
const DefaultPrefix = "headrace_"

// Lower case only: some names stand in statements without quotes, where Postgres
// would change them.
var namePattern = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// names spells out the tables, quoted and qualified.
type names struct {
	inbox, verdictLog, outbox, scheduled, effects, leases, audit, gates, parked, anchors, versions string
	sequences, positions, meta                                                                     string
	// migrations is unquoted: goose quotes nothing.
	migrations string
}

func newNames(d Dialect, schema, prefix string) (names, error) {
	if !namePattern.MatchString(prefix) || len(prefix) > 30 {
		return names{}, fmt.Errorf("store: prefix %q must be lower-case letters, digits and underscores, 30 at most", prefix)
	}
	if schema != "" && (!namePattern.MatchString(schema) || len(schema) > 60) {
		return names{}, fmt.Errorf("store: schema %q must be lower-case letters, digits and underscores, 60 at most", schema)
	}
	if schema != "" && d == SQLite {
		return names{}, fmt.Errorf("store: SQLite has no schemas: leave Config.Schema (%q) empty", schema)
	}
	table := func(name string) string {
		if schema == "" {
			return d.quote(prefix + name)
		}
		return d.quote(schema) + "." + d.quote(prefix+name)
	}
	migrations := prefix + "migrations"
	if schema != "" {
		migrations = schema + "." + migrations
	}
	return names{
		inbox:      table("inbox"),
		verdictLog: table("verdict_log"),
		outbox:     table("outbox"),
		scheduled:  table("scheduled"),
		effects:    table("effects"),
		leases:     table("leases"),
		audit:      table("audit"),
		gates:      table("gates"),
		parked:     table("parked"),
		anchors:    table("anchors"),
		versions:   table("versions"),
		sequences:  table("sequences"),
		positions:  table("positions"),
		meta:       table("meta"),
		migrations: migrations,
	}, nil
}
