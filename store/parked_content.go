package store

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// What is kept of a failure, in bytes and numbers.
const (
	maxShort      = 16
	maxGroup      = 64
	maxTitle      = 255
	maxChainLinks = 32
	maxChainText  = 2000
	maxStack      = 16 << 10
	maxAttemptErr = 500
	firstAttempts = 5
	lastAttempts  = 15
)

// questionMarks are n further parameters.
func questionMarks(n int) string { return strings.Repeat(", ?", n) }

// nullIdentity is an identity that may be missing. It is given as it is stored.
func nullIdentity(stored string) any { return nullString(stored) }

// boundChain makes a chain storable. It is never null in JSON.
func boundChain(chain []ErrorLink) []ErrorLink {
	bounded := make([]ErrorLink, 0, min(len(chain), maxChainLinks))
	for _, link := range chain[:min(len(chain), maxChainLinks)] {
		bounded = append(bounded, ErrorLink{
			Type: plainText(link.Type, MaxIdentity), Text: plainText(link.Text, maxChainText),
			Stack: plainText(link.Stack, maxStack),
		})
	}
	return bounded
}

// boundHistory keeps the first and the last attempts.
func boundHistory(history []AttemptRecord) []AttemptRecord {
	bounded := make([]AttemptRecord, 0, min(len(history), firstAttempts+lastAttempts))
	for i, a := range history {
		if i >= firstAttempts && i < len(history)-lastAttempts {
			continue
		}
		a.Error, a.Instance = plainText(a.Error, maxAttemptErr), plainText(a.Instance, MaxIdentity)
		a.Class = plainText(a.Class, maxShort)
		bounded = append(bounded, a)
	}
	return bounded
}

// encodeOriginal writes a message's id and metadata as JSON text, byte for byte: an
// object of strings where JSON can carry them, which is nearly always, and else an
// array of the id and such an object in base64.
func encodeOriginal(id string, metadata map[string]string) (string, error) {
	plain := id == Identity(id)
	for name, value := range metadata {
		plain = plain && utf8.ValidString(name) && utf8.ValidString(value)
	}
	if plain {
		if len(metadata) == 0 {
			return "{}", nil
		}
		text, err := json.Marshal(metadata)
		return string(text), err
	}
	encoded := make(map[string]string, len(metadata))
	for name, value := range metadata {
		encoded[base64.StdEncoding.EncodeToString([]byte(name))] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	text, err := json.Marshal([]any{base64.StdEncoding.EncodeToString([]byte(id)), encoded})
	return string(text), err
}

// decodeOriginal reads what encodeOriginal has written. id is the one that is
// stored.
func decodeOriginal(id, text string) (string, map[string]string, error) {
	metadata := map[string]string{}
	if !strings.HasPrefix(text, "[") {
		if err := json.Unmarshal([]byte(text), &metadata); err != nil {
			return id, nil, fmt.Errorf("%w: metadata is not a JSON object of strings: %w", ErrContent, err)
		}
		return id, metadata, nil
	}
	var exact []byte
	var encoded map[string][]byte // json decodes base64 by itself
	if err := json.Unmarshal([]byte(text), &[]any{&exact, &encoded}); err != nil {
		return id, nil, fmt.Errorf("%w: metadata can't be read: %w", ErrContent, err)
	}
	for name, value := range encoded {
		raw, err := base64.StdEncoding.DecodeString(name)
		if err != nil {
			return id, nil, fmt.Errorf("%w: metadata can't be read: %w", ErrContent, err)
		}
		metadata[string(raw)] = string(value)
	}
	return string(exact), metadata, nil
}
