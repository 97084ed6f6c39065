package store

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

// MaxIdentity is the longest identity, in bytes, that is stored as it is.
const MaxIdentity = 255

const hashedPrefix = "sha256:"

// Identity returns the form in which an identity (a message's id, a consumer's
// or key's name) is stored and compared: byte for byte, so that "A", "a" and
// "a " are three. What is longer than MaxIdentity, not UTF-8, holds a NUL, or
// looks like a hash itself, is replaced by its SHA-256.
func Identity(s string) string {
	if len(s) <= MaxIdentity && utf8.ValidString(s) && !strings.ContainsRune(s, 0) &&
		!strings.HasPrefix(s, hashedPrefix) {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return hashedPrefix + hex.EncodeToString(sum[:])
}

// cutHashed reports whether an identity has the form of a hash, and the digits.
func cutHashed(s string) (digits string, ok bool) {
	digits, ok = strings.CutPrefix(s, hashedPrefix)
	return digits, ok && strings.Trim(digits, "0123456789abcdef") == ""
}
