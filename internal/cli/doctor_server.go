package cli

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/headrace-go/headrace/store"
)

// oldest are the first versions that Headrace is tested with.
var oldest = map[string][3]int{ //nolint:gochecknoglobals // a constant
	"PostgreSQL": {13, 0, 0},
	// Expressions as defaults came with 8.0.13.
	"MySQL":   {8, 0, 13},
	"MariaDB": {10, 6, 0},
	// SQLite comes with the driver, not with a server.
}

func (s *session) checkServer(ctx context.Context, inspector *store.Inspector) []finding {
	server, err := inspector.Server(ctx)
	if err != nil {
		return []finding{failed("server", err)}
	}
	findings := []finding{checkVersion(server)}
	switch s.cfg.Dialect {
	case store.Postgres:
		findings = append(findings, checkIsolation(server), checkPostgresLocks(server), checkPostgresIdle(server),
			checkPostgresDurability(server))
	case store.MySQL:
		findings = append(findings, checkIsolation(server), checkMySQLLocks(server), checkMySQLDeadlocks(server),
			checkMySQLDurability(server))
	case store.SQLite:
		findings = append(findings, checkSQLiteJournal(server), checkSQLiteBusy(server), checkSQLiteDurability(server))
	}
	return findings
}

var versionNumber = regexp.MustCompile(`^(\d+)(?:\.(\d+))?(?:\.(\d+))?`)

func checkVersion(server store.Server) finding {
	const check = "version"
	need := oldest[server.Product]
	parts := versionNumber.FindStringSubmatch(server.Version)
	if parts == nil {
		return warn(check, fmt.Sprintf("%s calls its version %q, which can't be compared", server.Product, server.Version),
			fmt.Sprintf("make sure that it is %s or later", dotted(need)))
	}
	for i, least := range need {
		have, _ := strconv.Atoi(parts[i+1]) // absent is zero
		if have > least {
			break
		}
		if have < least {
			return fail(check, fmt.Sprintf("%s %s is older than %s", server.Product, server.Version, dotted(need)),
				"upgrade the database")
		}
	}
	return ok(check, server.Product+" "+server.Version)
}

func dotted(version [3]int) string {
	return strings.TrimSuffix(strings.TrimSuffix(fmt.Sprintf("%d.%d.%d", version[0], version[1], version[2]), ".0"), ".0")
}

// checkIsolation looks at the default. Units of work set their own, so it only
// decides for transactions that the service begins itself.
func checkIsolation(server store.Server) finding {
	const check = "isolation"
	level := strings.ToUpper(strings.ReplaceAll(server.Settings["transaction_isolation"], "-", " "))
	switch {
	case level == "READ COMMITTED":
		return ok(check, "the default is READ COMMITTED, as in units of work")
	case level == "REPEATABLE READ" && server.Product != "PostgreSQL":
		name := "transaction_isolation"
		if server.Product == "MariaDB" {
			name = "tx_isolation" // the only name before 11.1
		}
		return ok(check, "the default is REPEATABLE READ; units of work use READ COMMITTED all the same").
			hint("?" + name + "=%27READ-COMMITTED%27 in the service's database URL saves each unit a round trip")
	}
	return warn(check, fmt.Sprintf("the default is %s; units of work use READ COMMITTED all the same, "+
		"but transactions that the service begins itself and publishes in do not", level),
		"set the database's or the role's default to READ COMMITTED")
}

func checkPostgresLocks(server store.Server) finding {
	const check, shortMS = "lock timeout", 1000
	ms, _ := strconv.Atoi(server.Settings["lock_timeout"]) // 0: none
	switch {
	case ms == 0:
		return ok(check, "lock_timeout is off; units of work bound their own waits (store.Config.LockTimeout)")
	case ms < shortMS:
		return warn(check, fmt.Sprintf("lock_timeout is %d ms: "+
			"a duplicate that waits for its first delivery is given up and redelivered", ms),
			"raise it to some seconds, or leave it to store.Config.LockTimeout")
	}
	return ok(check, fmt.Sprintf("lock_timeout is %d ms", ms))
}

func checkPostgresIdle(server store.Server) finding {
	const check, name, shortMS = "idle timeout", "idle_in_transaction_session_timeout", 30_000
	ms, _ := strconv.Atoi(server.Settings[name]) // 0: none
	switch {
	case ms == 0:
		return ok(check, name+" is off").
			hint("set it to some minutes: a service that hangs in a handler would hold its locks, " +
				"and stop vacuum, for ever")
	case ms < shortMS:
		return warn(check,
			fmt.Sprintf("%s is %d ms: a handler that does something else for longer loses its transaction", name, ms),
			"raise it above the longest pause between a handler's statements")
	}
	return ok(check, fmt.Sprintf("%s is %d ms", name, ms))
}

func checkPostgresDurability(server store.Server) finding {
	const check = "durability"
	off := []string{}
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		if server.Settings[name] == "off" {
			off = append(off, name)
		}
	}
	if len(off) == 0 {
		return ok(check, "commits survive a crash")
	}
	return fail(check, strings.Join(off, " and ")+" off: a crash may lose commits whose messages are acked already",
		"set "+strings.Join(off, " and ")+" to on")
}

func checkMySQLLocks(server store.Server) finding {
	const check, wanted = "lock timeout", 5
	waits, err := strconv.Atoi(server.Settings["innodb_lock_wait_timeout"])
	if err != nil {
		return warn(check, "innodb_lock_wait_timeout can't be read", "see that InnoDB is on")
	}
	found := ok(check, fmt.Sprintf("innodb_lock_wait_timeout is %d s; "+
		"units of work bound their own waits (store.Config.LockTimeout)", waits))
	if waits > wanted {
		found = found.hint(fmt.Sprintf(
			"?innodb_lock_wait_timeout=%d in the service's database URL saves each unit a round trip", wanted))
	}
	if server.Settings["innodb_rollback_on_timeout"] == "ON" {
		found.Cause += "; innodb_rollback_on_timeout is ON, which units of work assume anyway"
	}
	return found
}

func checkMySQLDeadlocks(server store.Server) finding {
	const check = "deadlock log"
	if server.Settings["innodb_print_all_deadlocks"] == "ON" {
		return ok(check, "innodb_print_all_deadlocks is ON")
	}
	return warn(check, "innodb_print_all_deadlocks is OFF: the server's log won't say who deadlocked with whom",
		"SET GLOBAL innodb_print_all_deadlocks = ON, and in the server's configuration")
}

func checkMySQLDurability(server store.Server) finding {
	const check, name = "durability", "innodb_flush_log_at_trx_commit"
	const wayOut = "set " + name + " to 1"
	switch server.Settings[name] {
	case "0":
		return fail(check, name+" is 0: a crash of the server may lose commits whose messages are acked already", wayOut)
	case "2":
		return warn(check, name+" is 2: a crash of the machine may lose commits whose messages are acked already", wayOut)
	}
	return ok(check, "commits survive a crash")
}

func checkSQLiteJournal(server store.Server) finding {
	const check = "journal"
	mode := server.Settings["journal_mode"]
	if strings.EqualFold(mode, "wal") {
		return ok(check, "journal_mode is WAL")
	}
	return warn(check, fmt.Sprintf("journal_mode is %s: readers and the writer wait for each other", strings.ToUpper(mode)),
		"PRAGMA journal_mode = WAL, once; the file keeps it")
}

func checkSQLiteBusy(server store.Server) finding {
	const check = "busy timeout"
	if server.Settings["busy_timeout"] == "0" {
		return warn(check, "sessions opened by this URL have no busy_timeout: "+
			"a statement fails at once while another process writes",
			"?_pragma=busy_timeout(5000) in the service's database URL, and in this one")
	}
	return ok(check, fmt.Sprintf("busy_timeout is %s ms", server.Settings["busy_timeout"]))
}

func checkSQLiteDurability(server store.Server) finding {
	const check = "durability"
	const wayOut = "?_pragma=synchronous(FULL) in the service's database URL, and in this one"
	switch server.Settings["synchronous"] {
	case "0":
		return fail(check, "synchronous is OFF: a crash of the machine may corrupt the file", wayOut)
	case "1":
		return warn(check, "synchronous is NORMAL: a power cut may lose commits whose messages are acked already", wayOut)
	}
	return ok(check, "commits survive a crash")
}
