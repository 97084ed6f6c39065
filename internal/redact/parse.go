package redact

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Parse parses a URL with a host. Its errors never repeat what they were given:
// an unescaped character moves parts of a password into any other part of the
// URL.
func Parse(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil && isHostAndPort(raw) {
		return &url.URL{Host: raw}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s; special characters in user and password must be percent-encoded", reasonOf(err))
	}

	if u.Fragment != "" || strings.Contains(u.Path, "@") || strings.Contains(u.Opaque, "@") {
		return nil, errors.New("a '#', or an '@' after the host; " +
			"special characters in user and password must be percent-encoded")
	}
	if _, err := url.ParseQuery(u.RawQuery); err != nil {
		return nil, errors.New("its options can't be parsed; " +
			"write ?name=value&name=value with special characters percent-encoded")
	}

	return u, nil
}

// isHostAndPort reports whether a text is an address as other clients take it. A
// URL's parser takes the host for a scheme, and complains of something else than
// that there is none.
func isHostAndPort(raw string) bool {
	_, port, err := net.SplitHostPort(raw)
	_, notNumber := strconv.ParseUint(port, 10, 16)

	return err == nil && notNumber == nil
}

// quoted is what net/url repeats of its input.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// reasonOf returns why a URL can't be parsed, without any part of the URL.
func reasonOf(err error) string {
	var parseErr *url.Error
	if errors.As(err, &parseErr) {
		err = parseErr.Err
	}

	return quoted.ReplaceAllString(err.Error(), `"…"`)
}
