package pgxstore_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
	"github.com/headrace-go/headrace/store/pgxstore"
)

// A row that JoinDB reads looks the same whoever began the transaction.
func TestValuesReadThroughJoinDBAreTheDriversInAForeignTransactionToo(t *testing.T) {
	b := setup(t)
	joined := store.JoinDB(b.st)
	id := uuid.New()
	at := time.Date(2024, 2, 29, 1, 2, 3, 456000, time.UTC)
	read := func(ctx context.Context) []any {
		m := pgtype.NewMap()
		var (
			gotID                      uuid.UUID
			texts                      []string
			price, address, span, kind string
			raw, document              []byte
			gotAt, day                 time.Time
			none                       sql.NullString
			small                      int16
			yes                        bool
			ratio                      float32
		)
		err := joined.QueryRowContext(ctx, "SELECT $1::uuid, $2::text[], 12.50::numeric, '10.0.0.1/8'::inet, "+
			"'1 day 02:00'::interval, '\\x00ff'::bytea, '{\"a\": [1]}'::jsonb, $3::timestamptz, '2024-02-29'::date, "+
			"NULL::text, 7::smallint, true, 1.5::real, 'text'::varchar", id, []string{"a", "b"}, at).
			Scan(&gotID, m.SQLScanner(&texts), &price, &address, &span, &raw, &document, &gotAt, &day, &none, &small, &yes,
				&ratio, &kind)
		require.NoError(t, err)
		return []any{
			gotID, texts, price, address, span, raw, string(document), gotAt.UTC(), day.UTC(), none, small, yes, ratio, kind,
		}
	}
	want := read(t.Context())
	require.Equal(t, id, want[0])
	require.Equal(t, "12.50", want[2])
	require.Equal(t, at, want[7])
	require.NoError(t, b.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		require.Equal(t, want, read(ctx))
		return nil
	}))
	tx, err := b.pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.Background()) //nolint:errcheck // reading only
	require.Equal(t, want, read(pgxstore.Join(t.Context(), b.st, tx)))
}
