package store

import (
	"fmt"
	"strings"
)

// refuseEnding refuses a statement that would end the transaction behind the
// unit's back, so that what follows would be committed one by one.
//
// It reads the text alone: what a stored procedure does, or a statement that the
// server itself prepared from a string, it can't see.
func (d Dialect) refuseEnding(query string) error {
	if ordinary(query) {
		return nil
	}
	found := d.anyStatement(query, func(s *statement) bool { return s.ends() })
	if found != nil {
		return fmt.Errorf("%w: refused %q: return nil or an error from the handler instead", ErrOwned, firstWords(query))
	}
	if d == MySQL {
		found = d.anyStatement(query, func(s *statement) bool { return s.commitsOnMySQL() })
	}
	if found != nil {
		return fmt.Errorf("%w: MySQL would commit it because of %q: run that outside of any unit of work",
			ErrOwned, firstWords(query))
	}
	return nil
}

// ordinary spares nearly every statement the closer look: its first word reads or
// writes rows, and no other statement can follow it.
func ordinary(query string) bool {
	reads, writes := plainVerb(query)
	return reads || writes
}

// plainVerb looks only at the first word of a query that holds one statement. It
// is neither reading nor writing where a closer look is needed.
func plainVerb(query string) (reads, writes bool) {
	var buffer [7]byte
	switch string(leadingWord(query, &buffer)) {
	case "SELECT", "VALUES":
		reads = true
	case "INSERT", "UPDATE", "DELETE", "WITH", "MERGE", "REPLACE":
		writes = true
	default:
		return false, false
	}
	if strings.IndexByte(query, ';') >= 0 {
		return false, false
	}
	return reads, writes
}

// leadingWord returns the word with which a query begins, in upper case, as far
// as it fits into the buffer. It is empty for one that begins with a comment.
func leadingWord(query string, buffer *[7]byte) []byte {
	at := 0
	for at < len(query) && (isSpace(query[at]) || query[at] == '(') {
		at++
	}
	word := buffer[:0]
	for ; at < len(query) && inWord(query[at]); at++ {
		if len(word) == len(buffer) {
			return nil // longer than any that is looked for
		}
		word = append(word, upper(query[at]))
	}
	return word
}

// readsOnly reports whether a query surely writes nothing. WITH may, and EXPLAIN
// ANALYZE runs what it explains.
func (d Dialect) readsOnly(query string) bool {
	if reads, writes := plainVerb(query); reads || writes {
		return reads
	}
	return d.anyStatement(query, func(s *statement) bool {
		return !s.begins("SELECT", "SHOW", "DESCRIBE", "VALUES", "TABLE")
	}) == nil
}

// changesRows reports whether a query may wait for rows that others lock, and does
// nothing beside. What Postgres refuses in a transaction doesn't, nor what begins
// or ends one.
func (d Dialect) changesRows(query string) bool {
	if reads, writes := plainVerb(query); reads || writes {
		return writes
	}
	changes := false
	return d.anyStatement(query, func(s *statement) bool {
		writes := s.begins("INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "WITH")
		changes = changes || writes
		return !writes && !s.begins("SELECT", "VALUES")
	}) == nil && changes
}

// leavesOpen reports whether a transaction is open on a session after a query, if
// it was open before.
func (d Dialect) leavesOpen(query string, open bool) bool {
	if ordinary(query) {
		return open
	}
	d.anyStatement(query, func(s *statement) bool {
		if s.ends() {
			open = s.begins("BEGIN", "START") || s.has("CHAIN") && !s.has("NO")
		}
		return false
	})
	return open
}

// statement is one of a query's statements, as far as it matters here.
type statement struct {
	dialect Dialect
	// words are the first ones, as they are written. Numbers, literals, quoted
	// names and punctuation are none.
	words [6]string
	n     int
	// autocommit: the word is in it, and doesn't name a user's variable.
	autocommit bool
	// body counts the BEGIN and CASE whose END is still to come, within a function
	// or trigger whose own statements end with semicolons, too.
	body int
}

func (s *statement) word(i int) string {
	if i < s.n {
		return s.words[i]
	}
	return ""
}

// begins reports whether the first word is one of these.
func (s *statement) begins(words ...string) bool { return s.at(0, words...) }

func (s *statement) at(i int, words ...string) bool {
	for _, word := range words {
		if strings.EqualFold(s.word(i), word) {
			return true
		}
	}
	return false
}

// has reports whether one of the first words is this one.
func (s *statement) has(word string) bool {
	for i := range s.n {
		if s.at(i, word) {
			return true
		}
	}
	return false
}

// ends reports whether the statement begins or ends a transaction.
func (s *statement) ends() bool {
	switch {
	case s.begins("BEGIN", "START", "COMMIT", "END", "ABORT"):
		return true
	case s.begins("ROLLBACK"): // but not to a savepoint
		return !s.at(1, "TO") && !s.at(2, "TO")
	case s.begins("PREPARE"):
		return s.dialect == Postgres && s.at(1, "TRANSACTION")
	case s.begins("SET"): // turning it on commits
		return s.dialect == MySQL && s.autocommit
	}
	return false
}

// commitsOnMySQL is https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html.
func (s *statement) commitsOnMySQL() bool {
	switch {
	case s.begins("CREATE", "DROP"):
		return !s.at(1, "TEMPORARY") && (!s.at(2, "REPLACE") || !s.at(3, "TEMPORARY"))
	case s.begins("ALTER", "RENAME", "TRUNCATE", "LOCK", "UNLOCK", "GRANT", "REVOKE", "CACHE", "CHECK", "FLUSH", "OPTIMIZE",
		"REPAIR", "RESET", "INSTALL", "UNINSTALL", "STOP", "CHANGE"):
		return true
	case s.begins("ANALYZE"): // MariaDB's ANALYZE SELECT explains
		return s.at(1, "TABLE") || s.at(2, "TABLE")
	case s.begins("LOAD"):
		return s.at(1, "INDEX")
	case s.begins("SET"):
		return s.at(1, "PASSWORD")
	}
	return false
}

// add takes the statement's next word.
func (s *statement) add(word, before string) {
	switch {
	case s.body > 0:
		if strings.EqualFold(word, "CASE") {
			s.body++
		}
		if strings.EqualFold(word, "END") {
			s.body--
		}
	case s.opensBody(word, before):
		s.body = 1
	}
	if strings.EqualFold(word, "AUTOCOMMIT") {
		s.autocommit = true
	}
	if s.n == 2 && s.begins("SET") && s.at(1, "STATEMENT") { // MariaDB: SET STATEMENT … FOR …
		if strings.EqualFold(word, "FOR") {
			s.n = 0
		}
		return
	}
	if s.n < len(s.words) {
		s.words[s.n] = word
		s.n++
	}
}

// opensBody: SQLite's triggers, and Postgres' functions in the SQL standard's form.
func (s *statement) opensBody(word, before string) bool {
	if !s.begins("CREATE") {
		return false
	}
	switch s.dialect {
	case SQLite:
		return strings.EqualFold(word, "BEGIN") && (s.at(1, "TRIGGER") || s.at(2, "TRIGGER"))
	case Postgres:
		return strings.EqualFold(word, "ATOMIC") && strings.EqualFold(before, "BEGIN") &&
			(s.has("FUNCTION") || s.has("PROCEDURE"))
	case MySQL: // CREATE is refused as a whole
	}
	return false
}

// anyStatement returns the query's first statement for which f is true, or nil.
func (d Dialect) anyStatement(query string, f func(*statement) bool) *statement {
	if found := (&scanner{dialect: d, text: query}).find(f); found != nil {
		return found
	}
	if d == MySQL && (strings.Contains(query, "/*!") || strings.Contains(query, "/*M!")) {
		// The server's version decides whether it is a comment.
		return (&scanner{dialect: d, text: query, plain: true}).find(f)
	}
	return nil
}
