package storetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// What other programs, and hands, write into the outbox.
func testOutboxForeign(t *testing.T, h Harness) {
	each(t, h, []test{
		{"RowsThatSayLittleAreRead", foreignMinimal},
		{"RowsThatCouldNeverBeSentAreRefused", foreignRefused},
		{"RowsThatGotPastTheConstraintsAreReported", foreignReported},
	})
}

// foreignInsert is a row as another program writes it, some of whose columns are
// told as SQL.
func foreignInsert(partition int, columns map[string]string) string {
	row := map[string]string{
		"partition_no": fmt.Sprint(partition), "message_id": "'foreign'", "destination": "'d'", "topic": "'t'",
	}
	maps.Copy(row, columns)
	names := slices.Sorted(maps.Keys(row))
	values := make([]string, len(names))
	for i, name := range names {
		values[i] = row[name]
	}
	return "INSERT INTO headrace_outbox (" + strings.Join(names, ", ") + ") VALUES (" + strings.Join(values, ", ") + ")"
}

func foreignMinimal(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	for name, columns := range map[string]map[string]string{
		"least": {},
		"nulls": {"message_key": "NULL", "sequence": "NULL", "payload": "NULL", "last_error": "NULL"},
		"empty": {"message_key": "''", "payload": "''", "last_error": "''", "metadata": "'{}'"},
	} {
		columns["message_id"] = "'" + name + "'"
		b.exec(t, foreignInsert(3, columns))
	}
	rows, err := st.ReadOutbox(t.Context(), shard(3), 0, 100, 1<<20)
	require.NoError(t, err)
	require.Len(t, rows, 3)
	for _, row := range rows {
		require.NoError(t, row.Problem, row.MessageID)
		require.NotNil(t, row.Metadata)
		require.Empty(t, row.Key)
		require.Equal(t, row.MessageID == "empty", row.Payload != nil)
		require.False(t, row.CreatedAt.IsZero())
	}
}

// never are columns of rows that could never be sent, told as SQL.
func never(d store.Dialect) map[string]map[string]string {
	rows := map[string]map[string]string{
		"partition too high": {"partition_no": "16"},
		"partition negative": {"partition_no": "-1"},
		"no id":              {"message_id": "''"},
		"null id":            {"message_id": "NULL"},
		"no topic":           {"topic": "''"},
		"null topic":         {"topic": "NULL"},
		"no destination":     {"destination": "''"},
		"sequence negative":  {"sequence": "-1"},
		"sequence zero":      {"sequence": "0"},
		"attempts negative":  {"attempts": "-1"},
		"metadata no JSON":   {"metadata": `'{"a": '`},
		"metadata empty":     {"metadata": "''"},
		"metadata null":      {"metadata": "NULL"},
	}
	switch d {
	case store.Postgres:
		rows["created never"] = map[string]string{"created_at": "'infinity'"}
		rows["created before time"] = map[string]string{"created_at": "'-infinity'"}
		rows["created long ago"] = map[string]string{"created_at": "'4713-01-01 BC'"}
		rows["metadata no object"] = map[string]string{"metadata": "'[1]'"}
		rows["id of its own"] = map[string]string{"id": "7"}
	case store.MySQL:
		rows["created never"] = map[string]string{"created_at": "'0000-00-00'"}
		rows["created in no month"] = map[string]string{"created_at": "'2024-00-00'"}
		rows["created long ago"] = map[string]string{"created_at": "'1000-01-01'"}
	case store.SQLite:
		rows["partition a text"] = map[string]string{"partition_no": "'one'"}
		rows["partition a fraction"] = map[string]string{"partition_no": "1.5"}
		rows["sequence a text"] = map[string]string{"sequence": "'many'"}
		rows["attempts a text"] = map[string]string{"attempts": "'few'"}
		rows["created a text"] = map[string]string{"created_at": "'2024-01-01'"}
		rows["created a fraction"] = map[string]string{"created_at": "1e300"}
	}
	return rows
}

func foreignRefused(t *testing.T, b *bundle) {
	b.store(t, store.Config{})
	for name, columns := range never(b.h.Dialect) {
		_, err := b.db.ExecContext(t.Context(), foreignInsert(3, columns))
		require.Error(t, err, name)
	}
	require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_outbox"))
}

// unchecked are statements after which a connection's rows aren't checked: as on
// a database that was migrated by other tools, or whose checks were off for a
// while.
func unchecked(d store.Dialect) []string {
	switch d {
	case store.MySQL:
		return []string{"SET SESSION check_constraint_checks = 0", "SET SESSION sql_mode = ''"}
	case store.SQLite:
		return []string{"PRAGMA ignore_check_constraints = ON"}
	case store.Postgres:
	}
	var drop []string
	for _, name := range []string{"partitions", "addressed", "numbers", "metadata", "created"} {
		drop = append(drop, "ALTER TABLE headrace_outbox DROP CONSTRAINT headrace_outbox_"+name)
	}
	return drop
}

// writeUnchecked writes rows past the constraints and returns the names of those
// that the columns' types took. A row's last_error is its name.
func (b *bundle) writeUnchecked(t *testing.T, partition int, rows map[string]map[string]string) (taken []string) {
	t.Helper()
	conn, err := b.db.Conn(t.Context())
	require.NoError(t, err)
	for _, statement := range unchecked(b.h.Dialect) {
		_, err := conn.ExecContext(t.Context(), statement)
		require.NoError(t, err, statement)
	}
	for name, columns := range rows {
		columns["last_error"] = "'" + name + "'"
		if _, err := conn.ExecContext(t.Context(), foreignInsert(partition, columns)); err == nil {
			taken = append(taken, name)
		}
	}
	if b.h.Dialect == store.SQLite { // the connection goes back to the pool
		_, err := conn.ExecContext(t.Context(), "PRAGMA ignore_check_constraints = OFF")
		require.NoError(t, err)
	}
	require.NoError(t, conn.Close())
	return taken
}

func foreignReported(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	write(t, st, store.OutboxRow{MessageID: "before", Key: "k"})
	partition := readAll(t, st)[0].Partition
	rows := never(b.h.Dialect)
	rows["metadata of numbers"] = map[string]string{"metadata": `'{"a": 1}'`}
	rows["metadata a list"] = map[string]string{"metadata": "'[1, 2]'"}
	rows["metadata a text"] = map[string]string{"metadata": `'"text"'`}
	if b.h.Dialect != store.Postgres {
		rows["id no text"] = map[string]string{"message_id": "X'ff00'"}
		rows["key no text"] = map[string]string{"message_key": "X'ff'"}
		rows["topic no text"] = map[string]string{"topic": "X'ff'"}
	}
	taken := b.writeUnchecked(t, partition, rows)
	require.Subset(t, taken, append([]string{"no topic", "sequence negative", "metadata of numbers"},
		map[store.Dialect]string{
			store.Postgres: "created never", store.MySQL: "created never", store.SQLite: "created a text",
		}[b.h.Dialect]))
	write(t, st, store.OutboxRow{MessageID: "after", Key: "k"})

	read, err := st.ReadOutbox(t.Context(), shard(partition), 0, 100, 1<<20)
	require.NoError(t, err, "an odd row doesn't hide the others")
	require.Equal(t, "before", read[0].MessageID)
	require.Equal(t, "after", read[len(read)-1].MessageID)
	for _, row := range read[1 : len(read)-1] {
		name := row.LastError
		switch {
		case strings.HasPrefix(name, "created"):
			require.NoError(t, row.Problem, "the message itself is sound: %s", name)
		case strings.HasPrefix(name, "attempts"), name == "sequence zero", name == "id of its own":
			require.NoError(t, row.Problem, name)
		default:
			require.ErrorIs(t, row.Problem, store.ErrContent, name)
			require.LessOrEqual(t, len(row.Problem.Error()), 400)
		}
	}
	_, err = st.OutboxBetween(t.Context(), shard(partition), 0, read[len(read)-1].ID, 100)
	require.NoError(t, err)
	requireCounted(t, st, len(taken)+2)
}

// requireCounted wants every row in what `headrace status` shows.
func requireCounted(t *testing.T, st *store.Store, want int) {
	t.Helper()
	counts, err := st.CountOutbox(t.Context())
	require.NoError(t, err)
	partitions, err := st.CountOutboxPartitions(t.Context())
	require.NoError(t, err)
	var byTopic, byPartition int64
	for _, c := range counts {
		byTopic += c.Unsent
		require.GreaterOrEqual(t, c.OldestAge, 0*c.OldestAge)
	}
	for _, p := range partitions {
		byPartition += p.Unsent
	}
	require.EqualValues(t, want, byTopic)
	require.EqualValues(t, want, byPartition)
}
