package middleware

import (
	"context"

	"github.com/headrace-go/headrace/internal/ruling"
	"github.com/headrace-go/headrace/store"
)

// pass tells a Sequence behind Dedupe, which won't see the message, that it is final: what
// comes behind it doesn't wait for it.
func (d *Dedupe) pass(ctx context.Context, tx store.Tx, dl delivery) error {
	return d.store.PassNumber(ctx, tx, dl.consumer, dl.msg.Metadata)
}

// skipRuling is of a message that only says that its number is none any more.
func skipRuling() *ruling.Ruling {
	return &ruling.Ruling{Verdict: string(store.Discarded), Reason: "it was discarded before it was sent"}
}
