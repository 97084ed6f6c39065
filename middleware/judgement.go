package middleware

import (
	"fmt"
	"slices"

	"github.com/headrace-go/headrace/store"
)

// judgement compares the states of one message with what was taken of their entities.
type judgement struct {
	cfg  VersionSkipConfig
	have map[store.Entity]map[string]taken
	// tabled are the places, as they are stored, that Headrace's table knows.
	tabled map[place]bool
	// changed are what is to be written, in the order of the states.
	changed []place

	fresh []FreshState
	// stale says what is skipped, and why.
	stale []string
}

type taken struct {
	version Version
	deleted bool
}

// place is where a version stands; the message's own names, not those that are stored.
type place struct {
	entity store.Entity
	group  string
}

func (p place) stored() place { return place{identity(p.entity), store.Identity(p.group)} }

func newJudgement(cfg VersionSkipConfig, rows []store.EntityVersion, inRows []store.RowVersion) (*judgement, error) {
	j := &judgement{cfg: cfg, have: map[store.Entity]map[string]taken{}, tabled: map[place]bool{}}
	for _, row := range rows {
		version, err := ParseVersion(row.Version)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", row.Entity, err)
		}
		j.of(row.Entity)[row.Group] = taken{version, row.Deleted}
		j.tabled[place{row.Entity, row.Group}] = true
	}
	for _, row := range inRows {
		if err := j.meet(row); err != nil {
			return nil, fmt.Errorf("%s: %w", identity(row.Entity), err)
		}
	}
	return j, nil
}

// meet takes over what a user's row has, if it is newer.
func (j *judgement) meet(row store.RowVersion) error {
	var version Version
	switch value := row.Value.(type) {
	case int64:
		version = IntVersion(value)
	case string:
		version = TextVersion(value)
	}
	at := place{row.Entity, row.Group}.stored()
	got, known := j.of(at.entity)[at.group]
	if known {
		order, err := version.compare(got.version, j.cfg.Compare)
		if err != nil || order <= 0 {
			return err
		}
	}
	j.of(at.entity)[at.group] = taken{version: version}
	return nil
}

// at is what was taken at a place.
func (j *judgement) at(p place) taken {
	p = p.stored()
	return j.of(p.entity)[p.group]
}

func (j *judgement) row(at place) store.EntityVersion {
	got := j.at(at)
	return store.EntityVersion{Entity: at.entity, Group: at.group, Version: got.version.notation(), Deleted: got.deleted}
}

// of is what was taken of an entity, by groups; both as they are stored.
func (j *judgement) of(entity store.Entity) map[string]taken {
	if j.have[entity] == nil {
		j.have[entity] = map[string]taken{}
	}
	return j.have[entity]
}

func identity(e store.Entity) store.Entity {
	return store.Entity{Type: store.Identity(e.Type), ID: store.Identity(e.ID)}
}

// wholeGroup is the group of all fields.
const wholeGroup = ""

// judgeAll judges states in their order: one that comes later in a message finds what
// those before it have left.
func (j *judgement) judgeAll(states []State) error {
	for _, state := range states {
		entity := store.Entity(state.Entity)
		var err error
		if state.Groups == nil || state.Deleted {
			err = j.judgeWhole(entity, state)
		} else {
			err = j.judgeGroups(entity, state)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", entity, err)
		}
	}
	return nil
}

// judgeWhole judges a state of all fields. A group of which something newer was taken
// stays; and it says that there is such an entity, whatever an older message says.
func (j *judgement) judgeWhole(entity store.Entity, state State) error {
	have := j.of(identity(entity))
	whole, known := have[wholeGroup]
	if known {
		older, why, err := j.older(state, whole)
		if err != nil {
			return err
		}
		if older {
			j.skip(entity, wholeGroup, why)
			return nil
		}
	}
	var newer []string
	for group, got := range have {
		if group == wholeGroup {
			continue
		}
		order, err := state.Version.compare(got.version, j.cfg.Compare)
		if err != nil {
			return err
		}
		if order < 0 {
			newer = append(newer, group)
		}
	}
	if state.Deleted && len(newer) > 0 {
		j.skip(entity, wholeGroup, fmt.Sprintf("it was deleted at %s, and is newer", state.Version))
		return nil
	}
	j.take(place{entity, wholeGroup}, taken{state.Version, state.Deleted})
	j.fresh = append(j.fresh, FreshState{State: state, Newer: newer})
	return nil
}

// judgeGroups judges each group that a state carries.
func (j *judgement) judgeGroups(entity store.Entity, state State) error {
	have := j.of(identity(entity))
	fresh := FreshState{State: state}
	fresh.Groups = []string{}
	for _, name := range state.Groups {
		older, why, err := j.olderThanAny(state, have, store.Identity(name))
		if err != nil {
			return err
		}
		if older {
			j.skip(entity, name, why)
			continue
		}
		j.take(place{entity, name}, taken{version: state.Version})
		fresh.Groups = append(fresh.Groups, name)
	}
	if len(state.Groups) > 0 && len(fresh.Groups) == 0 {
		return nil
	}
	if whole := have[wholeGroup]; whole.deleted && len(fresh.Groups) > 0 {
		whole.deleted = false // it is there again, as of this
		j.take(place{entity, wholeGroup}, whole)
	}
	j.fresh = append(j.fresh, fresh)
	return nil
}

func (j *judgement) olderThanAny(state State, have map[string]taken, group string) (older bool, why string, err error) {
	for _, name := range []string{group, wholeGroup} {
		got, known := have[name]
		if !known {
			continue
		}
		if older, why, err = j.older(state, got); older || err != nil {
			return older, why, err
		}
	}
	return false, "", nil
}

// older reports whether a state must not be applied over what was taken.
func (j *judgement) older(state State, got taken) (older bool, why string, err error) {
	order, err := state.Version.compare(got.version, j.cfg.Compare)
	if err != nil {
		return false, "", err
	}
	switch {
	case order < 0:
		return true, fmt.Sprintf("%s is older than %s", state.Version, got.version), nil
	case order > 0:
		return false, "", nil
	case got.deleted && !state.Deleted:
		return true, fmt.Sprintf("it was deleted as of %s", got.version), nil
	case j.cfg.SkipEqual:
		return true, fmt.Sprintf("%s was applied before", state.Version), nil
	}
	return false, "", nil
}

func (j *judgement) skip(entity store.Entity, group, why string) {
	name := identity(entity).String()
	if group != wholeGroup {
		name += " (" + group + ")"
	}
	j.stale = append(j.stale, name+": "+why)
}

func (j *judgement) take(at place, now taken) {
	if j.at(at) == now {
		return
	}
	p := at.stored()
	j.of(p.entity)[p.group] = now
	if !slices.Contains(j.changed, at) {
		j.changed = append(j.changed, at)
	}
}

// taken are the versions to be written.
func (j *judgement) taken() (rows []store.EntityVersion) {
	for _, at := range j.changed {
		rows = append(rows, j.row(at))
	}
	return rows
}
