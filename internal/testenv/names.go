package testenv

import (
	"crypto/rand"
	"encoding/base32"
	"strings"
	"testing"
)

// maxTopicLength leaves room for what others add to a topic's name: a table
// prefix (63 bytes for a whole name on Postgres), ".fifo" and a dead-letter
// suffix (80 characters on SQS).
const maxTopicLength = 40

// Topic returns a name that no other test uses, of at most 40 characters. It
// holds only a-z, 0-9 and _, which every broker takes, as a table's name too.
// The prefix says in the broker whose topic it is; it is cut where too long.
func Topic(t testing.TB, prefix string) string {
	t.Helper()

	return uniqueName(prefix, maxTopicLength)
}

// Brokers returns the kinds of broker to run a test on: all, or only the one in
// memory when the tests run with -short.
func Brokers(t testing.TB) []string {
	t.Helper()

	if testing.Short() {
		return []string{"mem"}
	}

	return []string{"mem", "kafka", "sqs", "sqs-fifo", "postgres", "mariadb"}
}

// uniqueName returns prefix_random, safe as an unquoted SQL identifier too.
func uniqueName(prefix string, limit int) string {
	const randomBytes = 10 // 16 characters of base32

	var random [randomBytes]byte
	_, _ = rand.Read(random[:]) // never fails: it ends the program instead
	suffix := "_" + strings.ToLower(base32.StdEncoding.EncodeToString(random[:]))

	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '_'
		}
	}, prefix)

	// A name that starts with a digit needs quotes in SQL, one that starts with
	// two underscores is the broker's own in Kafka.
	safe = strings.TrimLeft(safe, "0123456789_")
	if safe == "" {
		safe = "t"
	}

	return safe[:min(len(safe), limit-len(suffix))] + suffix
}
