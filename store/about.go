package store

import (
	"context"
	"strings"

	"github.com/ThreeDotsLabs/watermill"
)

// About says whose work a unit of work does, for logs and hooks.
type About struct {
	// Consumer is the scope of dedupe: service and handler.
	Consumer string
	// MessageID is the message's identity.
	MessageID string
	// Keys are what the message is about.
	Keys []string
}

func (a About) logFields() watermill.LogFields {
	fields := watermill.LogFields{}
	if a.Consumer != "" {
		fields["consumer"] = a.Consumer
	}
	if a.MessageID != "" {
		fields["message_id"] = a.MessageID
	}
	if len(a.Keys) > 0 {
		fields["keys"] = strings.Join(a.Keys, ",")
	}
	return fields
}

type aboutKey struct{}

// WithAbout labels the units of work that are opened with the context.
func WithAbout(ctx context.Context, about About) context.Context {
	return context.WithValue(ctx, aboutKey{}, about)
}

// AboutFromContext returns the label of the context's units of work, or an empty
// one.
func AboutFromContext(ctx context.Context) About {
	about, _ := ctx.Value(aboutKey{}).(About)
	return about
}
