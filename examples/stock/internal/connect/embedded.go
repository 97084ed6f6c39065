//go:build embedded

package connect

import (
	"net/url"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/mem"
)

// Openers returns the embedded broker's.
func Openers() map[string]brokers.Opener { return map[string]brokers.Opener{"mem": mem.Open} }

func servers() map[string]func(*url.URL) (Database, error) { return nil }
