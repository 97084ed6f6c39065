package parking_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func TestChainSpellsOutEveryCause(t *testing.T) {
	root := errors.New("refused")
	panicked := &parking.PanicError{Value: "boom", Stack: []byte("main.go:1")}
	err := fmt.Errorf("order 7: %w", parking.AsPermanent(errors.Join(root, panicked)))
	require.Equal(t, []store.ErrorLink{
		{Type: "*fmt.wrapError", Text: err.Error()},
		{Type: "*errors.joinError", Text: "refused\npanic: boom"},
		{Type: "*errors.errorString", Text: "refused"},
		{Type: "*parking.PanicError", Text: "panic: boom", Stack: "main.go:1"},
	}, parking.Chain(err))
	require.Empty(t, parking.Chain(nil))
	for range 100 {
		err = fmt.Errorf("again: %w", err)
	}
	require.Len(t, parking.Chain(err), 32)
}

func TestFailuresOfOneKindAreOneGroup(t *testing.T) {
	group := func(text string) (hash, title string) {
		_, hash, title = parking.Group("c", parking.Transient, fmt.Errorf("handle: %w", errors.New(text)))
		return hash, title
	}
	one, title := group(`dial tcp 10.0.0.1:5432: order "A-17" of 2f1b2c9e-3333-4444-8888-aaaaaaaaaaaa (0xc0ffee) not found`)
	require.Equal(t, "dial tcp #.#.#.#:#: order # of # (#) not found", title)
	other, _ := group(`dial tcp 10.0.0.2:5433: order "B" of 2f1b2c9e-3333-4444-8888-bbbbbbbbbbbb (0xc0ffef) not found`)
	require.Equal(t, one, other)
	require.Len(t, one, 64)
	other, _ = group("something else")
	require.NotEqual(t, one, other)
	_, other, _ = parking.Group("d", parking.Transient, errors.New("something else"))
	require.NotEqual(t, one, other)
	_, title = group(strings.Repeat("ü", 5000))
	require.LessOrEqual(t, len(title), 255)
	errorType, hash, title := parking.Group("c", parking.Unknown, nil)
	require.Empty(t, errorType+hash+title)
}

func TestConflictsSayWhatDiffers(t *testing.T) {
	diff := []parking.Change{{Field: "price"}, {Field: "stock"}}
	err := &parking.ConflictError{Subject: "sku-17", Diff: diff, Err: errors.New("409")}
	require.ErrorIs(t, err, parking.ErrConflict)
	require.EqualError(t, err, "conflict: sku-17 has another price and 1 more: 409")
	require.Equal(t, parking.Conflict, parking.Classify(fmt.Errorf("x: %w", err)))
}
