package middleware

import (
	"context"
	"errors"
	"fmt"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// columnsOf are the columns that hold the versions of an entity, nil if Headrace's table
// does.
func (v *VersionSkip) columnsOf(entity store.Entity) *store.VersionColumns {
	for i := range v.cfg.Columns {
		if v.cfg.Columns[i].Type == entity.Type {
			return &v.cfg.Columns[i]
		}
	}
	return nil
}

func checkColumns(all []store.VersionColumns) error {
	known := map[string]bool{}
	for _, columns := range all {
		if err := columns.Validate(); err != nil {
			return err
		}
		if known[columns.Type] {
			return fmt.Errorf("middleware: VersionSkipConfig.Columns has %q twice", columns.Type)
		}
		known[columns.Type] = true
	}
	return nil
}

// rowVersions are what users' own rows have. While observing they aren't looked at: the
// handler has written them by then.
func (v *VersionSkip) rowVersions(ctx context.Context, tx store.Tx, entities []store.Entity) (all []store.RowVersion, err error) {
	if v.cfg.Observe {
		return nil, nil
	}
	for _, columns := range v.cfg.Columns {
		rows, err := v.store.RowVersions(ctx, tx, columns, entities...)
		if errors.Is(err, store.ErrVersionColumn) {
			err = parking.AsPermanent(err)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
	}
	return all, nil
}

// put writes what was taken: into the user's row where there is one with a column for it,
// else, and if it is a tombstone, into Headrace's table. What that has already goes on
// with it: else it could be taken for what came last.
func (v *VersionSkip) put(ctx context.Context, tx store.Tx, consumer string, j *judgement) error {
	var rest []store.EntityVersion
	byEntity := map[store.Entity][]store.RowVersion{}
	var order []store.Entity
	for _, at := range j.changed {
		columns := v.columnsOf(at.entity)
		if columns == nil || columns.Columns[at.group] == "" {
			rest = append(rest, j.row(at))
			continue
		}
		if byEntity[at.entity] == nil {
			order = append(order, at.entity)
		}
		byEntity[at.entity] = append(byEntity[at.entity], store.RowVersion{
			Entity: at.entity, Group: at.group, Value: j.at(at).version.value(),
		})
	}
	for _, entity := range order {
		there, err := v.store.SetRowVersions(ctx, tx, *v.columnsOf(entity), byEntity[entity]...)
		if err != nil {
			return err
		}
		for _, row := range byEntity[entity] {
			at := place{entity, row.Group}
			if !there || j.at(at).deleted || j.tabled[at.stored()] {
				rest = append(rest, j.row(at))
			}
		}
	}
	return v.store.PutVersions(ctx, tx, consumer, rest...)
}
