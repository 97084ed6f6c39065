package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// Lease is the ownership of a named thing until it expires. Each time it changes
// hands its epoch grows, so that what a former owner does can be told apart.
type Lease struct {
	Name  string `json:"name"`
	Owner string `json:"owner"`
	Epoch int64  `json:"epoch"`
	// ExpiresIn is relative to the database's clock at the time of reading;
	// negative when it is over.
	ExpiresIn time.Duration `json:"expires_in"`
}

// AcquireLease takes a lease that is free or over, or extends one that is the
// owner's already, whose epoch stays. ok is
// false when somebody else holds it. Owners must be unique per process start, or
// two of them would hold one lease.
func (s *Store) AcquireLease(ctx context.Context, name, owner string, ttl time.Duration) (lease Lease, ok bool, err error) {
	if err := checkLeaseNames(name, owner); err != nil {
		return Lease{}, false, err
	}
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		lease, ok = Lease{}, false
		if err := s.ensureLease(ctx, tx, name); err != nil {
			return err
		}
		// epoch comes first: MySQL assigns from left to right.
		_, err := tx.ExecContext(ctx, "UPDATE "+s.names.leases+
			" SET epoch = CASE WHEN owner = ? THEN epoch ELSE epoch + 1 END, owner = ?, expires_at = "+s.dialect.nowPlus()+
			" WHERE name = ? AND (owner = ? OR owner = '' OR expires_at < "+s.dialect.now()+")",
			owner, owner, ttl.Microseconds(), name, owner)
		if err != nil {
			return err
		}
		held, err := s.selectLeases(ctx, tx, "name = ? AND owner = ?", name, owner)
		if err == nil && len(held) == 1 {
			lease, ok = held[0], true
		}
		return err
	})
	if err != nil {
		return Lease{}, false, fmt.Errorf("store: acquire lease %q: %w", name, err)
	}
	return lease, ok, nil
}

func checkLeaseNames(name, owner string) error {
	if err := CheckLeaseName(name); err != nil {
		return err
	}
	return CheckLeaseName(owner)
}

// CheckLeaseName says what is wrong with the name of a lease or of its owner.
func CheckLeaseName(name string) error {
	if name == "" || len(name) > MaxIdentity || !plainName(name) {
		return fmt.Errorf("store: the name and the owner of a lease must be 1 to %d visible ASCII characters "+
			"without quotes and backslashes, not %q", MaxIdentity, Identity(name))
	}
	return nil
}

// plainName reports whether a name can stand in a statement's text.
func plainName(name string) bool {
	for _, r := range name {
		if r > 0x7e || r < 0x21 || r == '\'' || r == '\\' {
			return false
		}
	}
	return true
}

func (s *Store) ensureLease(ctx context.Context, tx Tx, name string) error {
	var n int
	err := tx.GetContext(ctx, &n, "SELECT count(*) FROM "+s.names.leases+" WHERE name = ?", name)
	if err != nil || n > 0 {
		return err
	}
	query := "INSERT INTO " + s.names.leases + " (name, owner, epoch, expires_at) VALUES (?, '', 0, " + s.dialect.now() + ")"
	if s.dialect != MySQL {
		query += " ON CONFLICT (name) DO NOTHING"
	}
	_, err = tx.ExecContext(ctx, query, name)
	if s.dialect == MySQL && s.dialect.duplicateKey(err) {
		return nil
	}
	return err
}

// RenewLeases extends every lease of an owner whose name starts with prefix, and
// returns those that it still has.
func (s *Store) RenewLeases(ctx context.Context, prefix, owner string, ttl time.Duration) (held []Lease, err error) {
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE "+s.names.leases+" SET expires_at = "+s.dialect.nowPlus()+
			" WHERE owner = ? AND name >= ? AND name < ?", ttl.Microseconds(), owner, prefix, afterPrefix(prefix))
		if err != nil {
			return err
		}
		held, err = s.selectLeases(ctx, tx, "owner = ? AND name >= ? AND name < ?", owner, prefix, afterPrefix(prefix))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: renew leases of %q: %w", owner, err)
	}
	return held, nil
}

// ReleaseLease gives a lease back, unless it has changed hands since.
func (s *Store) ReleaseLease(ctx context.Context, lease Lease) error {
	err := s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE "+s.names.leases+" SET owner = '' WHERE name = ? AND owner = ? AND epoch = ?",
			lease.Name, lease.Owner, lease.Epoch)
		return err
	})
	if err != nil {
		return fmt.Errorf("store: release lease %q: %w", lease.Name, err)
	}
	return nil
}

// DeleteLease removes a lease that nobody will take again, if the owner still
// has it.
func (s *Store) DeleteLease(ctx context.Context, name, owner string) error {
	err := s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM "+s.names.leases+" WHERE name = ? AND owner = ?", name, owner)
		return err
	})
	if err != nil {
		return fmt.Errorf("store: delete lease %q: %w", name, err)
	}
	return nil
}

// DeleteExpiredLeases removes leases whose name starts with prefix and that have
// been over for longer than age.
func (s *Store) DeleteExpiredLeases(ctx context.Context, prefix string, age time.Duration) error {
	err := s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM "+s.names.leases+" WHERE name >= ? AND name < ? AND expires_at < "+
			s.dialect.nowPlus(), prefix, afterPrefix(prefix), -age.Microseconds())
		return err
	})
	if err != nil {
		return fmt.Errorf("store: delete expired leases: %w", err)
	}
	return nil
}

// Leases lists the leases whose name starts with prefix.
func (s *Store) Leases(ctx context.Context, prefix string) ([]Lease, error) {
	var rows []leaseRow
	query := s.dialect.rebind(s.leaseQuery("name >= ? AND name < ?"))
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &rows, query, prefix, afterPrefix(prefix))
	})
	if err != nil {
		return nil, fmt.Errorf("store: list leases: %w", err)
	}
	return leasesOf(rows), nil
}

func (s *Store) selectLeases(ctx context.Context, tx Tx, where string, args ...any) ([]Lease, error) {
	var rows []leaseRow
	if err := tx.SelectContext(ctx, &rows, s.leaseQuery(where), args...); err != nil {
		return nil, err
	}
	return leasesOf(rows), nil
}

func (s *Store) leaseQuery(where string) string {
	return "SELECT name, owner, epoch, " + s.dialect.micros("expires_at") + " - " + s.dialect.micros(s.dialect.now()) +
		" AS expires_in_us FROM " + s.names.leases + " WHERE " + where + " ORDER BY name"
}

type leaseRow struct {
	Name      string `db:"name"`
	Owner     string `db:"owner"`
	Epoch     int64  `db:"epoch"`
	ExpiresIn int64  `db:"expires_in_us"`
}

func leasesOf(rows []leaseRow) []Lease {
	leases := make([]Lease, len(rows))
	for i, r := range rows {
		leases[i] = Lease{
			Name: r.Name, Owner: r.Owner, Epoch: r.Epoch,
			ExpiresIn: time.Duration(r.ExpiresIn) * time.Microsecond,
		}
	}
	return leases
}

// afterPrefix is above every name that starts with prefix: names are below "~"
// and its successor. Not LIKE, which on SQLite takes upper for lower case.
func afterPrefix(prefix string) string { return prefix + "\x7f" }
