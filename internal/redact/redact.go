// Package redact keeps the secrets of a URL out of errors and logs.
package redact

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill"
)

const redacted = "xxxxx"

// minPlainSecret is the length from which a secret is replaced wherever it
// stands. Shorter ones are replaced where they stand alone, because replacing
// every "x" would leave nothing to read.
const minPlainSecret = 6

var secretName = regexp.MustCompile(`(?i)pass|secret|token|access_?key|credential|private`)

// SecretOption reports whether an option's value must never be shown.
func SecretOption(name string) bool { return secretName.MatchString(name) }

// Describe names a service by its URL: scheme, host and path, leaving out the
// user, the password and all options.
func Describe(u *url.URL) string {
	bare := url.URL{Scheme: u.Scheme, Opaque: u.Opaque, Host: u.Host, Path: u.Path}

	return bare.String()
}

// Redactor replaces the secrets of a URL (the password, and every option that is
// named like one) in text.
type Redactor struct {
	plain *strings.Replacer
	short []*regexp.Regexp
}

// New returns the redactor of a URL.
func New(u *url.URL) *Redactor {
	var secrets []string
	if password, ok := u.User.Password(); ok {
		secrets = append(secrets, spellings(password)...)
		// As it was written, which need not be how Go would escape it.
		if _, raw, ok := strings.Cut(u.User.String(), ":"); ok {
			secrets = append(secrets, raw)
		}
	}
	for name, values := range u.Query() {
		if SecretOption(name) {
			for _, value := range values {
				secrets = append(secrets, spellings(value)...)
			}
		}
	}

	// The longest first, so that no secret's tail stays behind a shorter one.
	slices.SortFunc(secrets, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	r := &Redactor{}
	var pairs []string
	for _, secret := range slices.Compact(secrets) {
		switch {
		case secret == "":
		case len(secret) >= minPlainSecret:
			pairs = append(pairs, secret, redacted)
		default:
			// A pattern must be UTF-8; what isn't stands in messages in its quoted form.
			quoted := regexp.QuoteMeta(strings.ToValidUTF8(secret, "\uFFFD"))
			r.short = append(r.short, regexp.MustCompile(`(^|[^A-Za-z0-9])`+quoted+`($|[^A-Za-z0-9])`))
		}
	}
	r.plain = strings.NewReplacer(pairs...)

	return r
}

// spellings are the forms in which a secret can stand in a URL or a message.
func spellings(secret string) []string {
	quotedForm := fmt.Sprintf("%q", secret)

	return []string{secret, url.QueryEscape(secret), url.PathEscape(secret), quotedForm[1 : len(quotedForm)-1]}
}

// Text returns s without the secrets.
func (r *Redactor) Text(s string) string {
	s = r.plain.Replace(s)
	for _, short := range r.short {
		s = short.ReplaceAllString(s, "${1}"+redacted+"${2}")
	}

	return s
}

// Err hides the secrets in an error's text. What errors.Is and errors.As find
// stays the same; errors.Unwrap ends here, because the error below speaks.
func (r *Redactor) Err(err error) error {
	if err == nil {
		return nil
	}
	if text := err.Error(); r.Text(text) != text {
		return &redactedError{text: r.Text(text), err: err}
	}

	return err
}

type redactedError struct {
	text string
	err  error
}

func (e *redactedError) Error() string        { return e.text }
func (e *redactedError) Is(target error) bool { return errors.Is(e.err, target) }
func (e *redactedError) As(target any) bool   { return errors.As(e.err, target) }

// Logger hides the secrets in all that is logged through it.
func (r *Redactor) Logger(inner watermill.LoggerAdapter) watermill.LoggerAdapter {
	return redactingLogger{r, inner}
}

type redactingLogger struct {
	*Redactor

	inner watermill.LoggerAdapter
}

func (l redactingLogger) Error(msg string, err error, fields watermill.LogFields) {
	l.inner.Error(l.Text(msg), l.Err(err), l.fields(fields))
}

func (l redactingLogger) Info(msg string, fields watermill.LogFields) {
	l.inner.Info(l.Text(msg), l.fields(fields))
}

func (l redactingLogger) Debug(msg string, fields watermill.LogFields) {
	l.inner.Debug(l.Text(msg), l.fields(fields))
}

func (l redactingLogger) Trace(msg string, fields watermill.LogFields) {
	l.inner.Trace(l.Text(msg), l.fields(fields))
}

func (l redactingLogger) With(fields watermill.LogFields) watermill.LoggerAdapter {
	return redactingLogger{l.Redactor, l.inner.With(l.fields(fields))}
}

// fields leaves values without text alone, so that numbers stay numbers.
func (r *Redactor) fields(fields watermill.LogFields) watermill.LogFields {
	if fields == nil {
		return nil
	}

	clean := make(watermill.LogFields, len(fields))
	for name, value := range fields {
		switch v := value.(type) {
		case bool, int, int32, int64, uint, uint64, float64:
			clean[name] = v
		case string:
			clean[name] = r.Text(v)
		case error:
			clean[name] = r.Err(v)
		default:
			text := fmt.Sprint(v)
			if safe := r.Text(text); safe != text {
				clean[name] = safe
			} else {
				clean[name] = v
			}
		}
	}

	return clean
}
