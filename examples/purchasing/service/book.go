package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/examples/purchasing/buying"
	"github.com/headrace-go/headrace/examples/purchasing/shop"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// book has the shop take what a user has decided, unless the purchase has another
// quantity than the user has seen.
func (s *Service) book(ctx context.Context, msg *message.Message) (effects.Response, error) {
	b, err := buying.ReadBooked(msg)
	if err != nil {
		return effects.Response{}, parking.AsPermanent(err)
	}
	id := strconv.FormatInt(b.Recommendation, 10)
	body, err := json.Marshal(shop.Purchase{Quantity: b.Quantity})
	if err != nil {
		return effects.Response{}, fmt.Errorf("book: %w", err)
	}
	var answer effects.Response
	reconciled, err := effects.Reconcile[shop.Purchase]{
		Subject: "purchase " + id,
		Version: func(p shop.Purchase) string { return strconv.FormatInt(p.Version, 10) },
		Load:    func(ctx context.Context) (shop.Purchase, error) { return s.cfg.Shop.Get(ctx, id) },
		Push: func(ctx context.Context, base shop.Purchase) (err error) {
			// On another version it is another call, and so it is when a person has edited it.
			key := fmt.Sprintf("%s@%d=%d", msg.UUID, base.Version, b.Quantity)
			answer, err = s.booking.Do(ctx, bookScope, key, body, s.cfg.Shop.Put(id, base.Version))
			return err
		},
		Done: func(now shop.Purchase) bool { return now.Quantity == b.Quantity },
		Critical: func(seen, now shop.Purchase) []parking.Change {
			if seen.Quantity == now.Quantity {
				return nil
			}
			return []parking.Change{{
				Field: "quantity", Was: number(seen.Quantity), Is: number(now.Quantity), Wanted: number(b.Quantity),
			}}
		},
	}.Do(ctx, shop.Purchase{Version: b.SeenVersion, Quantity: b.SeenQuantity})
	if err != nil {
		return answer, err
	}
	if reconciled.Already {
		answer.Body, err = json.Marshal(reconciled.Base)
	}
	if err != nil {
		return answer, fmt.Errorf("book: %w", err)
	}
	return answer, nil
}

func number(n int64) json.RawMessage { return json.RawMessage(strconv.FormatInt(n, 10)) }

// noteBooked is the transaction behind book.
func (s *Service) noteBooked(msg *message.Message) error {
	answer, ok := effects.ResultOf(msg.Context(), bookScope)
	if !ok {
		return errors.New("the shop was not called in front of the transaction")
	}
	var p shop.Purchase
	if err := json.Unmarshal(answer.Body, &p); err != nil {
		return fmt.Errorf("the shop's answer can't be read: %w", err)
	}
	return s.Desk.Taken(msg, p.Version)
}

// disputed runs in the transaction that puts a conflict into review.
func (s *Service) disputed(ctx context.Context, _ store.Tx, msg *message.Message, err error) error {
	var conflict *parking.ConflictError
	if !errors.As(err, &conflict) {
		return nil
	}
	now, ok := conflict.Current.(shop.Purchase)
	if !ok {
		return nil
	}
	return s.Desk.Disputed(ctx, msg, now.Version, now.Quantity)
}

// Order orders what is recommended, in this quantity; 0 withdraws the order. It returns
// when the supplier's mail is written; with a shop that is open until the shop has
// taken the order.
func (s *Service) Order(ctx context.Context, id, quantity int64) (mailed time.Time, err error) {
	err = s.InTx(ctx, func(ctx context.Context) (err error) {
		switch {
		case s.cfg.Shop != nil:
			return s.Desk.Book(ctx, id, quantity)
		case quantity == 0:
			return s.Desk.Withdraw(ctx, id)
		}
		mailed, err = s.Desk.Order(ctx, id, quantity)
		return err
	})
	return mailed, err
}
