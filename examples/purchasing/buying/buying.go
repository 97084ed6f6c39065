// Package buying is the purchasing service's own code: its tables, its SQL, what
// users do and what its message handlers do. What it is given as database,
// publisher and slot decides whether it is protected.
package buying

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
)

// Errors of what users ask for.
var (
	// ErrNotFound says that there is no such recommendation.
	ErrNotFound = errors.New("there is no such recommendation")
	// ErrMailed says that the supplier has the order already.
	ErrMailed = errors.New("the order has been mailed to the supplier")
	// ErrNotOrdered says that there is nothing to withdraw.
	ErrNotOrdered = errors.New("the recommendation is not ordered")
)

// States of a recommendation.
const (
	// Open recommendations wait for a user.
	Open = "open"
	// Booking ones are ordered, or withdrawn, once the shop has taken it. They are in no
	// mail.
	Booking = "booking"
	// Review says that the shop's purchase isn't what the user has seen: a person decides.
	Review = "review"
	// Ordered ones are in the supplier's next mail, or in one that was written.
	Ordered = "ordered"
)

// Recommendation is advice to order a product. Version counts its changes.
type Recommendation struct {
	ID       int64  `json:"id"`
	Supplier string `json:"supplier"`
	Product  string `json:"product"`
	Quantity int64  `json:"quantity"`
	State    string `json:"state"`
	// Mail is the id of the mail that the order is in, or "".
	Mail    string `json:"mail,omitempty"`
	Version int64  `json:"version"`
	// SeenVersion and SeenQuantity are what the shop has, as far as its users know: what
	// they decide is based on it.
	SeenVersion  int64 `db:"seen_version"  json:"seen_version,omitempty"`
	SeenQuantity int64 `db:"seen_quantity" json:"seen_quantity,omitempty"`
}

// Config is what a Desk works with. All fields but Bookings are required.
type Config struct {
	// DB runs statements in the transaction in their context.
	DB *sqlx.DB
	// Publisher sends the mails that are written, to the topic Mails, and what the shop is
	// to take, to the topic Bookings, in the transaction in the messages' context.
	Publisher       message.Publisher
	Mails, Bookings string
	// Slot asks for a message that has the mail to a supplier written, in the
	// context's transaction, and returns when that will be.
	Slot func(ctx context.Context, supplier string) (time.Time, error)
	// From is the sender's address.
	From string
}

// Desk is where recommendations are handled.
type Desk struct{ cfg Config }

// New returns a desk on tables that CreateTables has made.
func New(cfg Config) *Desk { return &Desk{cfg} }

// Order orders what is recommended, in this quantity, or changes an order that the
// supplier doesn't have yet. It returns when the supplier's mail is written. It must
// be called in a transaction.
func (d *Desk) Order(ctx context.Context, id, quantity int64) (slot time.Time, err error) {
	n, err := d.exec(ctx, `UPDATE recommendations SET state = 'ordered', quantity = ?, version = version + 1
		WHERE id = ? AND mail = ''`, quantity, id)
	if err != nil {
		return time.Time{}, err
	}
	r, err := d.Recommendation(ctx, id)
	switch {
	case err != nil:
		return time.Time{}, err
	case n == 0:
		return time.Time{}, ErrMailed
	}
	// The last thing: other orders at this supplier wait from here to the commit.
	return d.cfg.Slot(ctx, r.Supplier)
}

// Withdraw takes an order back that the supplier doesn't have yet.
func (d *Desk) Withdraw(ctx context.Context, id int64) error {
	n, err := d.exec(ctx, `UPDATE recommendations SET state = 'open', version = version + 1
		WHERE id = ? AND state = 'ordered' AND mail = ''`, id)
	if err != nil || n > 0 {
		return err
	}
	r, err := d.Recommendation(ctx, id)
	switch {
	case err != nil:
		return err
	case r.Mail != "":
		return ErrMailed
	default:
		return ErrNotOrdered
	}
}

// exec runs a statement and returns how many rows it changed.
func (d *Desk) exec(ctx context.Context, query string, args ...any) (int64, error) {
	result, err := d.cfg.DB.ExecContext(ctx, d.cfg.DB.Rebind(query), args...)
	if err != nil {
		return 0, fmt.Errorf("buying: %w", err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("buying: %w", err)
	}
	return n, nil
}
