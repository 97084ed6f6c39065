package brokers

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/headrace-go/headrace/internal/redact"
)

// Options reads the options of a broker's URL (?name=value&…). Each getter
// declares its option as known; Err, called last, reports every option that was
// not declared, with the list of those that were, and every bad value. Values of
// secret options are never repeated. The zero value is not usable.
type Options struct {
	values map[string][]string
	known  map[string]bool
	errs   []error
}

// NewOptions returns the options of a URL. The options that Open handles itself
// are known to all brokers and need not be declared.
func NewOptions(u *url.URL) *Options {
	return &Options{
		values: u.Query(),
		known:  map[string]bool{optionGroup: true, optionConnectTimeout: true},
	}
}

// String returns an option's value, or fallback when it is absent.
func (o *Options) String(name, fallback string) string {
	value, ok := o.lookup(name)
	if !ok {
		return fallback
	}

	return value
}

// Has reports whether the URL has an option.
func (o *Options) Has(name string) bool {
	_, ok := o.lookup(name)

	return ok
}

// OneOf returns an option that has a closed set of values, the first of which
// is the default.
func (o *Options) OneOf(name string, allowed ...string) string {
	value, ok := o.lookup(name)
	if !ok {
		return allowed[0]
	}
	if !slices.Contains(allowed, value) {
		o.bad(name, value, "one of "+strings.Join(allowed, ", "))
	}

	return value
}

// Int returns an integer of at least least.
func (o *Options) Int(name string, fallback, least int) int {
	value, ok := o.lookup(name)
	if !ok {
		return fallback
	}

	n, err := strconv.Atoi(value)
	if err != nil || n < least {
		o.bad(name, value, fmt.Sprintf("a whole number of at least %d", least))
	}

	return n
}

// Duration returns a duration such as 500ms or 30s, not negative.
func (o *Options) Duration(name string, fallback time.Duration) time.Duration {
	value, ok := o.lookup(name)
	if !ok {
		return fallback
	}

	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		o.bad(name, value, "a duration such as 500ms or 30s")
	}

	return d
}

// Bool returns true or false.
func (o *Options) Bool(name string, fallback bool) bool {
	value, ok := o.lookup(name)
	if !ok {
		return fallback
	}

	b, err := strconv.ParseBool(value)
	if err != nil {
		o.bad(name, value, "true or false")
	}

	return b
}

// Fail reports a rule of the broker's own that an option breaks. want completes
// "must be …".
func (o *Options) Fail(name, want string) { o.bad(name, o.String(name, ""), want) }

// Err returns nil, or an error that matches ErrBadOption and holds everything
// that is wrong with the options.
func (o *Options) Err() error {
	errs := slices.Clone(o.errs)
	for _, name := range slices.Sorted(maps.Keys(o.values)) {
		if !o.known[name] {
			errs = append(errs, fmt.Errorf("%w: unknown option %s; known options are %s",
				ErrBadOption, optionName(name), strings.Join(slices.Sorted(maps.Keys(o.known)), ", ")))
		}
	}

	return errors.Join(errs...)
}

// invalid returns what is wrong with the declared options alone.
func (o *Options) invalid() error { return errors.Join(o.errs...) }

func (o *Options) lookup(name string) (string, bool) {
	o.known[name] = true
	values, ok := o.values[name]
	if !ok {
		return "", false
	}
	if len(values) > 1 {
		o.errs = append(o.errs, fmt.Errorf("%w: %s is given %d times; keep one", ErrBadOption, name, len(values)))
	}

	return values[0], true
}

func (o *Options) bad(name, value, want string) {
	got := "is " + printable(value)
	if redact.SecretOption(name) {
		got = "has another value"
	}
	o.errs = append(o.errs, fmt.Errorf("%w: %s must be %s, and %s", ErrBadOption, name, want, got))
}

var plainName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,39}$`)

// optionName repeats an unknown option's name only when it looks like one: part
// of a password with an unescaped '?' in it ends up here.
func optionName(name string) string {
	if plainName.MatchString(name) {
		return strconv.Quote(name)
	}

	return "(a name of " + strconv.Itoa(len(name)) + " bytes that is none)"
}
