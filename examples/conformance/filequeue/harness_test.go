//go:build unix

package filequeue_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/examples/conformance/filequeue"
)

// harness says how the suite uses the queue, and what the queue promises.
func harness(t *testing.T) conformance.Harness {
	t.Helper()
	dir := t.TempDir()

	return conformance.Harness{
		Name: "filequeue",
		Capabilities: brokers.Capabilities{
			Groups:     true, // each group has a file of its own
			KeyOrder:   true, // a group has one message in hand at a time …
			TotalOrder: true, // … whatever its key
			Durable:    true, // no process holds anything
			NilPayload: true, // JSON has null
		},
		Publisher: func(context.Context) (message.Publisher, error) { return filequeue.New(dir, ""), nil },
		Subscriber: func(_ context.Context, group string) (message.Subscriber, error) {
			return filequeue.New(dir, group), nil
		},

		// How far a group is, for the reports of facts that fail.
		State: func(_ context.Context, topic, group string) (string, error) {
			offset, err := os.ReadFile(filepath.Join(dir, topic+"@"+group))

			return "the group is at byte " + string(offset), err
		},

		// What every broker should do and this one doesn't, with the reason.
		Known: map[string]string{
			"content/metadata that is no text": "JSON replaces what isn't UTF-8",
		},

		Patience: 30 * time.Second,       // outlasts a busy machine
		Quiet:    300 * time.Millisecond, // twenty looks
	}
}
