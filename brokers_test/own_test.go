package brokers_test

import (
	"context"
	"net/url"
	"testing"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/internal/testenv/disrupt"
)

// withOwnService has the facts that cut a broker off and restart it do that to
// one of their own, with the options that the shared one has.
func withOwnService(t *testing.T, service, shared string, h *conformance.Harness) {
	t.Helper()

	h.Own = func(ctx context.Context) (conformance.Harness, error) {
		own, err := disrupt.StartOwn(ctx, t, service)
		if err != nil {
			return conformance.Harness{}, err
		}
		rawURL, err := withOptionsOf(own.URL, shared)
		if err != nil {
			return conformance.Harness{}, err
		}
		b, err := brokers.Open(ctx, rawURL, brokers.Config{Openers: all.Openers(), Group: "one", Logger: testLogger{t}})
		if err != nil {
			return conformance.Harness{}, err
		}
		t.Cleanup(func() { _ = b.Close() }) // it may have been cut off once too often
		opened := conformance.Opened(b)
		opened.DeleteTopic = nil // all of it goes
		opened.Restart = own.Restart
		opened.Cut = func(context.Context) (func(), error) {
			own.Proxy.Cut()

			return own.Proxy.Mend, nil
		}

		return opened, nil
	}
}

// withOptionsOf returns a URL with the query of another one.
func withOptionsOf(rawURL, other string) (string, error) {
	to, err := url.Parse(rawURL)
	if err != nil {
		return "", err
	}
	from, err := url.Parse(other)
	if err != nil {
		return "", err
	}
	query := from.Query()
	query.Del("search_path") // a schema of the shared one's
	to.RawQuery = query.Encode()

	return to.String(), nil
}
