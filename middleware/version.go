package middleware

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/tidwall/gjson"

	"github.com/headrace-go/headrace/store"
)

// ErrVersion says that a state can't be compared with others: its version is missing, is
// none, or of another kind than the one before. The message is nacked, and is permanent
// for Parking.
var ErrVersion = errors.New("state has no version that can be compared")

// Version says how new a state is, as its producer counts: IntVersion, TimeVersion or
// TextVersion make one. Versions of an entity at a consumer are of one kind.
type Version struct {
	kind versionKind
	n    int64
	at   time.Time
	text string
}

type versionKind string

// Each is what the notation of its versions begins with.
const (
	versionInt  versionKind = "i"
	versionTime versionKind = "t"
	versionText versionKind = "s"
)

// IntVersion is a version that is counted.
func IntVersion(n int64) Version { return Version{kind: versionInt, n: n} }

// TimeVersion is a version that is the time of the change, to the nanosecond. Two changes
// of one time are one version, and clocks may run backwards: a producer that can count
// should.
func TimeVersion(at time.Time) Version { return Version{kind: versionTime, at: at.UTC()} }

// TextVersion is a version that VersionSkipConfig.Compare understands, of at most 254 bytes
// of text.
func TextVersion(text string) Version { return Version{kind: versionText, text: text} }

// String is the version as its producer has it; "" for none.
func (v Version) String() string {
	switch v.kind {
	case versionInt:
		return strconv.FormatInt(v.n, 10)
	case versionTime:
		return v.at.Format(time.RFC3339Nano)
	case versionText:
		return v.text
	}
	return ""
}

func (v Version) notation() string { return string(v.kind) + v.String() }

// value is a version as a column of the user's own holds it.
func (v Version) value() any {
	if v.kind == versionInt {
		return v.n
	}
	return v.String()
}

func (v Version) check() error {
	switch {
	case v.kind == "":
		return fmt.Errorf("%w: there is none", ErrVersion)
	case v.kind == versionInt && v.n < 0:
		return fmt.Errorf("%w: %d is negative", ErrVersion, v.n)
	case v.kind == versionTime && (v.at.Year() < 1 || v.at.Year() > 9999):
		return fmt.Errorf("%w: the year %d", ErrVersion, v.at.Year())
	case v.kind == versionText && v.text == "":
		return fmt.Errorf("%w: it is empty", ErrVersion)
	case store.Identity(v.notation()) != v.notation():
		return fmt.Errorf("%w: it is no text of 1 to %d bytes", ErrVersion, store.MaxIdentity-1)
	}
	return nil
}

// ParseVersion reads a version as it is stored (store.EntityVersion). Errors match
// ErrVersion.
func ParseVersion(notation string) (Version, error) {
	bad := fmt.Errorf("%w: %q is stored", ErrVersion, notation)
	if notation == "" {
		return Version{}, bad
	}
	text := notation[1:]
	switch versionKind(notation[:1]) {
	case versionInt:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return IntVersion(n), nil
		}
	case versionTime:
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return TimeVersion(at), nil
		}
	case versionText:
		return TextVersion(text), nil
	}
	return Version{}, bad
}

// compare says which is newer, as cmp.Compare does.
func (v Version) compare(other Version, texts func(a, b string) (int, error)) (int, error) {
	switch {
	case v.kind != other.kind:
		return 0, fmt.Errorf("%w: %q and %q are of different kinds", ErrVersion, v, other)
	case v.kind == versionInt && v.n < other.n:
		return -1, nil
	case v.kind == versionInt && v.n > other.n:
		return 1, nil
	case v.kind == versionTime:
		return v.at.Compare(other.at), nil
	case v.kind == versionText:
		return texts(v.text, other.text)
	}
	return 0, nil
}

// VersionFunc reads the version of the state that a message carries. It is called
// concurrently.
type VersionFunc func(msg *message.Message) (Version, error)

// VersionFromJSON reads an integer from 0 to the largest int64 from the payload, by a path
// as gjson has them; a string of digits is one, too. Errors match ErrVersion.
func VersionFromJSON(path string) VersionFunc {
	return func(msg *message.Message) (Version, error) {
		value, err := jsonVersion(msg, path)
		if err != nil {
			return Version{}, err
		}
		return intVersion(value)
	}
}

// TimeVersionFromJSON reads a time as RFC 3339 has them from the payload, by a path as
// gjson has them. Errors match ErrVersion.
func TimeVersionFromJSON(path string) VersionFunc {
	return func(msg *message.Message) (Version, error) {
		value, err := jsonVersion(msg, path)
		if err != nil {
			return Version{}, err
		}
		at, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return Version{}, fmt.Errorf("%w: %q is no time such as 2026-03-01T14:00:00.5Z", ErrVersion, shortened(value))
		}
		return TimeVersion(at), nil
	}
}

// VersionFromMetadata reads an integer from 0 to the largest int64 from a metadata entry.
// Errors match ErrVersion.
func VersionFromMetadata(name string) VersionFunc {
	return func(msg *message.Message) (Version, error) {
		value := msg.Metadata.Get(name)
		if value == "" {
			return Version{}, fmt.Errorf("%w: there is no metadata entry %q", ErrVersion, name)
		}
		return intVersion(value)
	}
}

func jsonVersion(msg *message.Message, path string) (string, error) {
	if !gjson.ValidBytes(msg.Payload) {
		return "", fmt.Errorf("%w: the payload is not JSON, so %q can't be read", ErrVersion, path)
	}
	value := gjson.GetBytes(msg.Payload, path)
	switch value.Type {
	case gjson.String:
		return value.Str, nil
	case gjson.Number:
		return value.Raw, nil
	case gjson.Null, gjson.True, gjson.False, gjson.JSON:
	}
	return "", fmt.Errorf("%w: the payload has no number or string at %q", ErrVersion, path)
}

func intVersion(value string) (Version, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return Version{}, fmt.Errorf("%w: %q is not within 0 and %d", ErrVersion, shortened(value), int64(math.MaxInt64))
	case err != nil || strings.HasPrefix(value, "+"):
		return Version{}, fmt.Errorf("%w: %q is no integer", ErrVersion, shortened(value))
	}
	v := IntVersion(n)
	return v, v.check()
}

// shortened is a value for an error.
func shortened(value string) string {
	const longest = 40
	if len(value) <= longest {
		return value
	}
	return value[:longest] + "…"
}
