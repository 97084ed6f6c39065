package storetest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testOutbox(t *testing.T, h Harness) {
	each(t, h, []test{
		{"KeepsMessagesByteForByte", outboxContent},
		{"KeepsLargeMessages", outboxLarge},
		{"KeepsTheOrderOfAKey", outboxOrder},
		{"TakesMoreRowsThanAStatement", outboxMany},
		{"RefusesWhatNoDatabaseCanHold", outboxRefuses},
		{"WakesAfterTheCommit", outboxWakes},
	})
}

// write writes rows, addressed somewhere unless they say where.
func write(t *testing.T, st *store.Store, rows ...store.OutboxRow) {
	t.Helper()
	for i := range rows {
		if rows[i].Destination == "" {
			rows[i].Destination = "default"
		}
		if rows[i].Topic == "" {
			rows[i].Topic = "topic"
		}
	}
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		return st.InsertOutbox(ctx, tx, rows)
	}))
}

// shard is a partition of the rows that name no service.
func shard(number int) store.Partition { return store.Partition{Number: number} }

// readAll reads all partitions, each in order.
func readAll(t *testing.T, st *store.Store) (all []store.OutboxRow) {
	t.Helper()
	for p := range store.OutboxPartitions {
		rows, err := st.ReadOutbox(t.Context(), shard(p), 0, 100_000, 1<<30)
		require.NoError(t, err)
		last := int64(0)
		for _, row := range rows {
			require.Equal(t, p, row.Partition)
			require.Greater(t, row.ID, last)
			last = row.ID
		}
		all = append(all, rows...)
	}
	return all
}

func outboxContent(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	rows := []store.OutboxRow{
		{MessageID: "nil payload"},
		{MessageID: "empty payload", Payload: []byte{}},
		{MessageID: "binary", Payload: binary, Key: "Ключ 'a\\", Sequence: 7, Metadata: map[string]string{
			"": "empty name", "empty": "", "quote\"'\\": "\n\t<&>\u2028😀", "UPPER": "a", "upper": "b",
		}},
		{MessageID: strings.Repeat("i", 1024), Topic: strings.Repeat("t", 255), Key: strings.Repeat("k", 10_000)},
		{MessageID: "ids may", Destination: "repeat"},
		{MessageID: "ids may", Destination: "repeat"},
	}
	want := map[string]store.OutboxRow{}
	write(t, st, rows...)
	for i := range rows {
		if rows[i].Metadata == nil {
			rows[i].Metadata = map[string]string{}
		}
		want[rows[i].MessageID] = rows[i]
	}
	got := readAll(t, st)
	require.Len(t, got, len(rows))
	for _, row := range got {
		expected := want[row.MessageID]
		require.WithinDuration(t, time.Now(), row.CreatedAt, time.Minute)
		require.Positive(t, row.ID)
		expected.ID, expected.Partition, expected.CreatedAt = row.ID, row.Partition, row.CreatedAt
		require.Equal(t, expected, row, "nil and empty payloads stay apart, too")
	}
}

func outboxLarge(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	payload := make([]byte, 10<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(payload)
	rows := []store.OutboxRow{{MessageID: "10 MB", Payload: payload, Key: "k", Metadata: map[string]string{
		"long": strings.Repeat("ü", 100_000),
	}}}
	for i := range 10 { // together more than a statement may have
		rows = append(rows, store.OutboxRow{MessageID: fmt.Sprint(i), Payload: payload[:3<<20], Key: "k"})
	}
	write(t, st, rows...)
	partition := rows[0].Partition
	got, err := st.ReadOutbox(t.Context(), shard(partition), 0, 100, 1<<30)
	require.NoError(t, err)
	require.Len(t, got, len(rows))
	for i, row := range got {
		require.Equal(t, rows[i].MessageID, row.MessageID)
		require.True(t, bytes.Equal(rows[i].Payload, row.Payload))
	}
	require.Len(t, got[0].Metadata["long"], 200_000)

	got, err = st.ReadOutbox(t.Context(), shard(partition), 0, 100, 11<<20)
	require.NoError(t, err)
	require.Len(t, got, 2, "one row beyond the limit at most")
	got, err = st.ReadOutbox(t.Context(), shard(partition), 0, 100, 1)
	require.NoError(t, err)
	require.Len(t, got, 1, "a row above the limit still comes")
}

func outboxOrder(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	const keys, each = 5, 20
	for n := range each {
		rows := make([]store.OutboxRow, keys)
		for k := range keys {
			rows[k] = store.OutboxRow{
				MessageID: fmt.Sprintf("%d-%d", k, n), Key: fmt.Sprintf("key-%d", k), Sequence: int64(n + 1),
			}
		}
		write(t, st, rows...)
	}
	write(t, st, store.OutboxRow{MessageID: "without a key"}, store.OutboxRow{MessageID: "without another"})
	last, where := map[string]int64{}, map[string]int{}
	for _, row := range readAll(t, st) {
		if row.Key == "" {
			continue
		}
		require.Equal(t, last[row.Key]+1, row.Sequence, row.Key)
		last[row.Key] = row.Sequence
		if p, seen := where[row.Key]; seen {
			require.Equal(t, p, row.Partition, "a key has one partition")
		}
		where[row.Key] = row.Partition
	}
	require.Len(t, last, keys)

	// Reading goes on behind an id, in pages.
	var page []string
	for after := int64(0); ; {
		rows, err := st.ReadOutbox(t.Context(), shard(where["key-0"]), after, 7, 1<<20)
		require.NoError(t, err)
		if len(rows) == 0 {
			break
		}
		require.LessOrEqual(t, len(rows), 7)
		for _, row := range rows {
			if row.Key == "key-0" {
				page = append(page, row.MessageID)
			}
			after = row.ID
		}
	}
	require.Len(t, page, each)
	require.Equal(t, "0-0", page[0])
	require.Equal(t, "0-19", page[each-1])
}

func outboxMany(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	const many = 1234
	rows := make([]store.OutboxRow, many)
	for i := range rows {
		rows[i] = store.OutboxRow{MessageID: fmt.Sprint(i), Key: "k", Payload: []byte("x")}
	}
	write(t, st, rows...)
	got := readAll(t, st)
	require.Len(t, got, many)
	for i, row := range got {
		require.Equal(t, fmt.Sprint(i), row.MessageID)
	}
	write(t, st) // none
	require.Len(t, readAll(t, st), many)
}

func outboxRefuses(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	fine := store.OutboxRow{MessageID: "fine", Destination: "d", Topic: "t"}
	for name, spoil := range map[string]func(row *store.OutboxRow){
		"id not UTF-8":          func(row *store.OutboxRow) { row.MessageID = "\xff" },
		"id with NUL":           func(row *store.OutboxRow) { row.MessageID = "a\x00" },
		"id too long":           func(row *store.OutboxRow) { row.MessageID = strings.Repeat("x", 1025) },
		"topic with NUL":        func(row *store.OutboxRow) { row.Topic = "a\x00" },
		"topic too long":        func(row *store.OutboxRow) { row.Topic = strings.Repeat("x", 256) },
		"destination too long":  func(row *store.OutboxRow) { row.Destination = strings.Repeat("x", 256) },
		"key not UTF-8":         func(row *store.OutboxRow) { row.Key = "\xff" },
		"key too long":          func(row *store.OutboxRow) { row.Key = strings.Repeat("x", 65_536) },
		"metadata value UTF-8":  func(row *store.OutboxRow) { row.Metadata = map[string]string{"a": "\xff"} },
		"metadata value NUL":    func(row *store.OutboxRow) { row.Metadata = map[string]string{"a": "secret\x00"} },
		"metadata name UTF-8":   func(row *store.OutboxRow) { row.Metadata = map[string]string{"\xff": "a"} },
		"metadata name has NUL": func(row *store.OutboxRow) { row.Metadata = map[string]string{"\x00": "a"} },
		"no id":                 func(row *store.OutboxRow) { row.MessageID = "" },
		"no topic":              func(row *store.OutboxRow) { row.Topic = "" },
		"no destination":        func(row *store.OutboxRow) { row.Destination = "" },
		"sequence negative":     func(row *store.OutboxRow) { row.Sequence = -1 },
	} {
		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			row := fine
			spoil(&row)
			err := st.InsertOutbox(ctx, tx, []store.OutboxRow{fine, row})
			require.ErrorIs(t, err, store.ErrContent, name)
			require.NotContains(t, err.Error(), "secret")
			return nil // the unit itself is sound: nothing was sent
		}), name)
	}
	require.Empty(t, readAll(t, st), "none is written, not even those before")
}

func outboxWakes(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	var woken []store.Partition
	stop := st.OnOutboxWritten(func(partitions []store.Partition) { woken = append(woken, partitions...) })
	rows := []store.OutboxRow{{MessageID: "1", Destination: "d", Topic: "t", Key: "k"}}
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, st.InsertOutbox(ctx, tx, rows))
		require.Empty(t, woken, "nothing is committed yet")
		return nil
	}))
	require.Equal(t, []store.Partition{shard(rows[0].Partition)}, woken)
	require.ErrorIs(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, st.InsertOutbox(ctx, tx, rows))
		return errBoom
	}), errBoom)
	require.Len(t, woken, 1)
	waiting, err := st.WaitingPartitions(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, woken, waiting)
	stop()
	write(t, st, rows...)
	require.Len(t, woken, 1)
}
