package readme

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// oneShop is an API with one purchase.
type oneShop struct{ now purchase }

func (s *oneShop) Get(context.Context, string) (purchase, error) { return s.now, nil }

func (s *oneShop) Put(_, etag string) effects.Call {
	return func(context.Context, string, []byte) (effects.Response, error) {
		if etag != s.now.ETag {
			return effects.Response{}, effects.Refused(parking.AsConflict(errors.New("409")))
		}
		s.now = purchase{ETag: s.now.ETag + "'", Quantity: 50, Note: s.now.Note}
		return effects.Response{Code: 200}, nil
	}
}

func TestThePageOnEffectsShowsAConflict(t *testing.T) {
	t.Parallel()
	_, lines, ok := strings.Cut(read(t, "conflict.go"), "\t// CONFLICT\n")
	require.True(t, ok)
	lines, _, _ = strings.Cut(lines, "\t// END\n")
	blocks := codeBlocks(t, "../../docs/effects.md")
	require.Equal(t, strings.TrimPrefix(strings.ReplaceAll(lines, "\n\t", "\n"), "\t"), blocks[len(blocks)-1])

	st, err := store.Open(t.Context(), testenv.Open(t, testenv.SQLite(t)), store.Config{Dialect: store.SQLite, Migrate: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, st.Close()) }()
	client, err := effects.New(st, effects.Config{Provider: effects.Provider{Name: "shop", Conditional: true}})
	require.NoError(t, err)
	seen, wanted := purchase{ETag: "a", Quantity: 10}, purchase{Quantity: 50}

	shop := &oneShop{purchase{ETag: "b", Quantity: 10, Note: "call first"}}
	answer, err := change(t.Context(), client, shop, message.NewMessage("m-1", []byte("7")), seen, wanted)
	require.NoError(t, err)
	require.Equal(t, 200, answer.Code, "the handler finds the answer")
	require.Equal(t, purchase{ETag: "b'", Quantity: 50, Note: "call first"}, shop.now)

	shop = &oneShop{purchase{ETag: "b", Quantity: 12}}
	_, err = change(t.Context(), client, shop, message.NewMessage("m-2", []byte("8")), seen, wanted)
	var conflict *parking.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, "quantity", conflict.Diff[0].Field)
	require.Equal(t, 12, shop.now.Quantity)
}
