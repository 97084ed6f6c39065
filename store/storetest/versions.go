package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testVersions(t *testing.T, h Harness) {
	each(t, h, []test{
		{"AreKeptByConsumerEntityAndGroup", versionsKept},
		{"RefuseWhatIsNone", versionsRefused},
		{"AreReadAsOthersHaveLeftThem", func(t *testing.T, b *bundle) { versionsSerialised(t, b, true) }},
		{"AreReadAsOthersHaveMadeThem", func(t *testing.T, b *bundle) { versionsSerialised(t, b, false) }},
		{"OfManyEntitiesAreLockedInOneOrder", versionsOfMany},
		{"MoveWithTheirConsumer", versionsRenamed},
	})
}

func orderLine(id string) store.Entity { return store.Entity{Type: "order line", ID: id} }

func put(t *testing.T, st *store.Store, consumer string, rows ...store.EntityVersion) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		for _, row := range rows {
			if err := st.LockEntities(ctx, tx, row.Entity); err != nil {
				return err
			}
		}
		return st.PutVersions(ctx, tx, consumer, rows...)
	}))
}

// versions are what a consumer has of entities, without times.
func versions(t *testing.T, st *store.Store, consumer string, entities ...store.Entity) (all []string) {
	t.Helper()
	for _, entity := range entities {
		rows, err := st.VersionsOf(t.Context(), consumer, entity)
		require.NoError(t, err)
		for _, row := range rows {
			require.False(t, row.UpdatedAt.IsZero())
			text := row.Group + "=" + row.Version
			if row.Deleted {
				text += " deleted"
			}
			all = append(all, text)
		}
	}
	return all
}

func versionsKept(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	odd := []store.Entity{
		{Type: "t", ID: "a"},
		{Type: "t", ID: "A"},
		{Type: "t", ID: "a "},
		{Type: "t ", ID: "a"},
		{Type: "t", ID: strings.Repeat("a", 10_000)},
		{Type: "t", ID: strings.Repeat("a", 10_001)},
		{Type: "t", ID: "\xff\x00"},
		{},
	}
	for i, entity := range odd {
		put(t, st, "c", store.EntityVersion{Entity: entity, Group: "dates", Version: strconv.Itoa(i)})
		put(t, st, "C", store.EntityVersion{Entity: entity, Version: "x"})
	}
	for i, entity := range odd {
		require.Equal(t, []string{"dates=" + strconv.Itoa(i)}, versions(t, st, "c", entity))
		require.Equal(t, []string{"=x"}, versions(t, st, "C", entity))
		require.Empty(t, versions(t, st, "other", entity))
	}
	put(t, st, "c", store.EntityVersion{Entity: odd[0], Group: "dates", Version: "9", Deleted: true},
		store.EntityVersion{Entity: odd[0], Version: "8"}, store.EntityVersion{Entity: odd[1], Group: "Dates", Version: "7"})
	require.Equal(t, []string{"=8", "dates=9 deleted"}, versions(t, st, "c", odd[0]))
	require.Equal(t, []string{"Dates=7", "dates=1"}, versions(t, st, "c", odd[1]))
	put(t, st, "c", store.EntityVersion{Entity: odd[0], Group: "dates", Version: "10"})
	require.Equal(t, []string{"=8", "dates=10"}, versions(t, st, "c", odd[0]))

	shown := store.Identity(odd[4].ID)
	require.Equal(t, []string{"dates=4"}, versions(t, st, "c", store.Entity{Type: "t", ID: shown}), "as it is shown")
	everybodys, err := st.VersionsOf(t.Context(), "", odd[1])
	require.NoError(t, err)
	require.Len(t, everybodys, 3)
	require.Equal(t, []string{"C", "c", "c"}, []string{everybodys[0].Consumer, everybodys[1].Consumer, everybodys[2].Consumer})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		all, err := st.Versions(ctx, tx, "c", odd...)
		require.Len(t, all, len(odd)+2)
		return err
	}))
}

func versionsRefused(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	for _, version := range []string{"", strings.Repeat("1", store.MaxIdentity+1), "\x00", "\xff"} {
		err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			return st.PutVersions(ctx, tx, "c", store.EntityVersion{Entity: orderLine("1"), Version: version})
		})
		require.ErrorIs(t, err, store.ErrVersion, "%q", version)
	}
}

// versionsSerialised has one unit of work change an entity while another, which has begun
// and read before, waits for it: what that one reads behind the lock is what is there now.
func versionsSerialised(t *testing.T, b *bundle, known bool) {
	cfg := store.Config{Prefix: prefix()}
	st := b.store(t, cfg)
	entity := orderLine("1")
	if known {
		put(t, st, "c", store.EntityVersion{Entity: entity, Version: "1"})
	}
	has, end := make(chan struct{}), make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			if err := st.LockEntities(ctx, tx, entity); err != nil {
				return err
			}
			close(has)
			await(t, "the other waits", end)
			return st.PutVersions(ctx, tx, "c", store.EntityVersion{Entity: entity, Version: "2"})
		})
		if err != nil {
			t.Error(err)
		}
	})
	await(t, "the first has the lock", has)
	var read []store.EntityVersion
	both.Go(func() {
		err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) (err error) {
			var n int
			if err := tx.GetContext(ctx, &n, "SELECT count(*) FROM things"); err != nil { // it has begun
				return err
			}
			if err := st.LockEntities(ctx, tx, entity); err != nil {
				return err
			}
			read, err = st.Versions(ctx, tx, "c", entity)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	b.waitsForLock(t, cfg.Prefix+"anchors")
	close(end)
	both.Wait()
	require.Len(t, read, 1)
	require.Equal(t, "2", read[0].Version)
}

// versionsOfMany has batches about the same entities, each in its own order.
func versionsOfMany(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	const batches, workers, lines = 15, 4, 6
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range batches {
				var entities []store.Entity
				for _, n := range append(rand.Perm(lines), rand.IntN(lines))[rand.IntN(lines):] {
					entities = append(entities, orderLine(strconv.Itoa(n)))
				}
				if err := addOneToEach(t.Context(), st, entities); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	sum := 0
	for n := range lines {
		for _, text := range versions(t, st, "c", orderLine(strconv.Itoa(n))) {
			var version int
			_, err := fmt.Sscanf(text, "=%d", &version)
			require.NoError(t, err)
			sum += version
		}
	}
	require.Equal(t, b.int(t, "SELECT sum(n) FROM things"), sum, "no change was made on an old state")
}

// addOneToEach counts entities in their versions, and in the table things.
func addOneToEach(ctx context.Context, st *store.Store, entities []store.Entity) error {
	return st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		if err := st.LockEntities(ctx, tx, entities...); err != nil {
			return err
		}
		rows, err := st.Versions(ctx, tx, "c", entities...)
		if err != nil {
			return err
		}
		counted := map[store.Entity]int{}
		for _, entity := range entities {
			counted[entity] = 1
		}
		for _, row := range rows {
			n, err := strconv.Atoi(row.Version)
			if err != nil {
				return err
			}
			counted[row.Entity] = n + 1
		}
		var next []store.EntityVersion
		for entity, n := range counted {
			next = append(next, store.EntityVersion{Entity: entity, Version: strconv.Itoa(n)})
		}
		if err := st.PutVersions(ctx, tx, "c", next...); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO things (id, n) VALUES (?, ?)", rand.Int32(), len(next))
		return err
	})
}

func versionsRenamed(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	remember(t, st, "old", 1)
	for n := range 5 {
		put(t, st, "old", store.EntityVersion{Entity: orderLine(strconv.Itoa(n)), Version: "1"})
	}
	put(t, st, "new", store.EntityVersion{Entity: orderLine("3"), Version: "2"})
	_, err := st.RenameConsumer(t.Context(), "old", "new", store.ConsumerChange{Actor: "anna", BatchSize: 2})
	require.NoError(t, err)
	for n, want := range []string{"=1", "=1", "=1", "=2", "=1"} {
		require.Equal(t, []string{want}, versions(t, st, "new", orderLine(strconv.Itoa(n))))
	}
	require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_versions WHERE consumer = 'old'"))
}
