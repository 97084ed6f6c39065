package store

import "strings"

// scanner finds the words and semicolons of a query that stand outside of
// comments, literals and quoted names. It takes any text: what isn't SQL gives
// some words.
type scanner struct {
	dialect Dialect
	text    string
	pos     int
	// plain takes MySQL's /*! … */ for comments. Else what they hold counts.
	plain bool
}

func (s *scanner) find(f func(*statement) bool) *statement {
	for {
		current := &statement{dialect: s.dialect}
		more := s.statement(current)
		if current.n > 0 && f(current) {
			return current
		}
		if !more {
			return nil
		}
	}
}

// statement reads one up to its semicolon; more is false at the text's end.
func (s *scanner) statement(current *statement) (more bool) {
	before := ""
	for s.pos < len(s.text) {
		c := s.text[s.pos]
		switch {
		case c == ';':
			s.pos++
			if current.body == 0 {
				return true
			}
		case startsWord(c):
			word := s.word()
			current.add(word, before)
			before = word
		case !s.skipQuoted(c) && !s.skipComment(c) && !s.skipVariable(c):
			s.pos++
		}
	}
	return false
}

func (s *scanner) word() string {
	start := s.pos
	for s.pos < len(s.text) && inWord(s.text[s.pos]) {
		s.pos++
	}
	word := s.text[start:s.pos]
	if s.dialect == Postgres && strings.EqualFold(word, "E") && s.next() == '\'' {
		s.skipTo('\'', true)
	}
	return word
}

func (s *scanner) next() byte { return s.peek(0) }

func (s *scanner) peek(ahead int) byte {
	if s.pos+ahead < len(s.text) {
		return s.text[s.pos+ahead]
	}
	return 0
}

// skipQuoted skips a literal or a quoted name. One that holds its quote twice
// looks like two in a row.
func (s *scanner) skipQuoted(c byte) bool {
	switch {
	case c == '\'', c == '"':
		s.skipTo(c, s.dialect == MySQL)
	case c == '`' && s.dialect != Postgres:
		s.skipTo(c, false)
	case c == '[' && s.dialect == SQLite:
		s.skipTo(']', false)
	case c == '$' && s.dialect == Postgres:
		return s.skipDollars()
	case '0' <= c && c <= '9':
		for s.pos < len(s.text) && inWord(s.text[s.pos]) && s.text[s.pos] != '$' {
			s.pos++
		}
	default:
		return false
	}
	return true
}

// skipTo goes behind the closing quote of what begins here.
func (s *scanner) skipTo(quote byte, backslash bool) {
	for s.pos++; s.pos < len(s.text); s.pos++ {
		switch {
		case s.text[s.pos] == quote:
			s.pos++
			return
		case backslash && s.text[s.pos] == '\\':
			s.pos++
		}
	}
	s.pos = len(s.text) // an escape may have led beyond
}

// skipDollars skips $$…$$ and $tag$…$tag$, and nothing of $1.
func (s *scanner) skipDollars() bool {
	end := s.pos + 1
	for end < len(s.text) && inWord(s.text[end]) && s.text[end] != '$' {
		end++
	}
	if end == len(s.text) || s.text[end] != '$' || '0' <= s.text[s.pos+1] && s.text[s.pos+1] <= '9' {
		return false
	}
	tag := s.text[s.pos : end+1]
	s.pos = end + 1
	s.skipBehind(tag)
	return true
}

// skipBehind goes behind the next occurrence of a text, or to the end.
func (s *scanner) skipBehind(text string) {
	if at := strings.Index(s.text[s.pos:], text); at >= 0 {
		s.pos += at + len(text)
		return
	}
	s.pos = len(s.text)
}

func (s *scanner) skipComment(c byte) bool {
	switch {
	case c == '#' && s.dialect == MySQL:
		s.skipBehind("\n")
	case c == '-' && s.peek(1) == '-' && (s.dialect != MySQL || s.peek(2) <= ' '):
		s.skipBehind("\n")
	case c == '*' && s.peek(1) == '/': // the end of one whose content counts
		s.pos += 2
	case c == '/' && s.peek(1) == '*':
		s.skipBlock()
	default:
		return false
	}
	return true
}

func (s *scanner) skipBlock() {
	if s.dialect == MySQL && !s.plain {
		for _, opening := range []string{"/*!", "/*M!"} {
			if !strings.HasPrefix(s.text[s.pos:], opening) {
				continue
			}
			s.pos += len(opening)
			for c := s.next(); '0' <= c && c <= '9'; c = s.next() {
				s.pos++
			}
			return
		}
	}
	depth := 1
	for s.pos += 2; s.pos < len(s.text); s.pos++ {
		switch {
		case s.text[s.pos] == '*' && s.peek(1) == '/':
			s.pos++
			if depth--; depth == 0 {
				s.pos++
				return
			}
		case s.dialect == Postgres && s.text[s.pos] == '/' && s.peek(1) == '*':
			s.pos++
			depth++
		}
	}
}

// skipVariable skips MySQL's @name, which is no word of the language; @@name is.
func (s *scanner) skipVariable(c byte) bool {
	if c != '@' || s.dialect != MySQL {
		return false
	}
	if s.pos++; s.next() == '@' {
		s.pos++
		return true
	}
	for s.pos < len(s.text) && inWord(s.text[s.pos]) {
		s.pos++
	}
	return true
}

func startsWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}

func inWord(c byte) bool { return startsWord(c) || '0' <= c && c <= '9' || c == '$' }

func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}
