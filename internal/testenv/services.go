package testenv

import (
	"net/url"
	"os"
	"testing"
)

// The environment variables that `scripts/brokers env` prints.
const (
	envKafka    = "HEADRACE_TEST_KAFKA"
	envSQS      = "HEADRACE_TEST_SQS"
	envPostgres = "HEADRACE_TEST_POSTGRES"
	envMariaDB  = "HEADRACE_TEST_MARIADB"
)

// Kafka returns the broker URL of the running Apache Kafka: kafka://host:port.
func Kafka(t testing.TB) string {
	t.Helper()

	return serviceURL(t, envKafka).String()
}

// SQS returns the broker URL of the running SQS: sqs://host:port with the
// region and the keys to sign with as its query. It serves plain HTTP.
func SQS(t testing.TB) string {
	t.Helper()

	return serviceURL(t, envSQS).String()
}

// serviceURL reads a service's address from the environment and ends the test
// when there is none.
func serviceURL(t testing.TB, variable string) *url.URL {
	t.Helper()

	raw := os.Getenv(variable)
	if raw == "" {
		t.Fatalf("%s is not set, and this test needs the real service behind it. "+
			"In the root of the checkout:\n\tscripts/brokers start\n\teval \"$(scripts/brokers env)\"", variable)
	}

	address, err := url.Parse(raw)
	if err != nil || address.Host == "" {
		t.Fatalf("%s must be a URL with a host, as scripts/brokers env prints it", variable)
	}

	return address
}
