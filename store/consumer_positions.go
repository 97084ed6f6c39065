package store

import "context"

// renamePositions moves what a consumer has had of streams. A place that the new name
// knows was had by a process that nobody saw: it is newer.
func (s *Store) renamePositions(ctx context.Context, tx Tx, from, to string, limit int) (int64, error) {
	places, err := s.placesOf(ctx, tx, from, limit)
	if err != nil {
		return 0, err
	}
	for _, at := range places {
		there := at
		there.Consumer = to
		var taken int
		err := tx.GetContext(ctx, &taken, "SELECT count(*) FROM "+s.names.positions+wherePlace, there.args()...)
		switch {
		case err != nil:
			return 0, err
		case taken > 0:
			_, err = tx.ExecContext(ctx, "DELETE FROM "+s.names.positions+wherePlace, at.args()...)
		default:
			_, err = tx.ExecContext(ctx, "UPDATE "+s.names.positions+" SET consumer = ?"+wherePlace,
				append([]any{to}, at.args()...)...)
		}
		if err != nil {
			return 0, err
		}
	}
	return int64(len(places)), nil
}

// forgetPositions has a consumer join its streams anew: a message is handled again when
// the inbox doesn't know it.
func (op *operation) forgetPositions(ctx context.Context, consumer string) error {
	s := op.store
	for {
		if err := op.alone(ctx); err != nil {
			return err
		}
		n, err := op.batch(ctx, func(ctx context.Context, tx Tx) (int64, error) {
			places, err := s.placesOf(ctx, tx, consumer, op.change.BatchSize)
			for _, at := range places {
				if err == nil {
					_, err = tx.ExecContext(ctx, "DELETE FROM "+s.names.positions+wherePlace, at.args()...)
				}
			}
			return int64(len(places)), err
		})
		if err != nil || n == 0 {
			return err
		}
	}
}

func (s *Store) placesOf(ctx context.Context, tx Tx, consumer string, limit int) ([]Place, error) {
	var rows []positionRow
	err := tx.SelectContext(ctx, &rows, s.positionQuery()+" WHERE consumer = ? ORDER BY stream, message_key, epoch LIMIT ?",
		consumer, limit)
	places := make([]Place, len(rows))
	for i, row := range rows {
		places[i] = row.position().Place
	}
	return places, err
}
