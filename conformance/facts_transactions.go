package conformance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/headrace-go/headrace/store"
)

// transactionFacts are those about a handler's effects and its ack. Where the
// broker can't make them one commit, Dedupe makes up for it.
func transactionFacts() []Fact {
	fact := func(name, claim string, check func(d *desk) Observation) Fact {
		return Fact{
			Name: "transactions/" + name, Claim: claim, Needs: needsJoin,
			Missing: func(h Harness) string {
				return missing(h.Capabilities.JoinsTx && h.Join == nil, "Join")
			},
			Check:      func(t *Trial) Observation { return check(t.deskOf(t.Harness.Join != nil)) },
			ByHeadrace: func(t *Trial) Observation { return check(t.deskByHeadrace()) },
		}
	}
	deadline := fact("effects of a handler past its deadline",
		"what a handler wrote that held its message for too long happens once", checkEffectsPastDeadline)
	needsHook := deadline.Missing
	deadline.Missing = func(h Harness) string {
		return firstOf(needsHook(h), missing(h.Join == nil &&
			(h.Capabilities.AckDeadline == 0 || h.Capabilities.AckDeadline > longestDeadline), "ack deadline"))
	}

	return []Fact{
		fact("effects of a nacked attempt", "what a handler wrote before it failed is undone, and happens with the next attempt",
			func(d *desk) Observation { return d.failsOnce(errFails) }),
		fact("effects of a lost ack", "when the ack of a handler that did its work is lost, its effects happen once all the same",
			checkEffectsOfLostAck),
		deadline,
		fact("an aborted transaction", "a message whose transaction was aborted comes again, though its handler acks it",
			checkEffectsOfAborted),
		fact("a conflict of transactions", "a deadlock or serialization failure undoes the attempt, and the message comes again",
			checkEffectsOfConflict),
	}
}

var errFails = errors.New("the handler fails")

// desk is a handler with a database at which it leaves its effects.
type desk struct {
	*Consumer

	t     *Trial
	st    *store.Store
	table string
	// wrap makes a handler as a service would run it.
	wrap func(handle func(ctx context.Context) error) func(d *Delivery) error
	// again is how long to wait for another attempt.
	again time.Duration
}

// deskOf subscribes to the fact's topic: joined, with the broker's own
// transactions, or with the database of a service that commits, and then acks.
func (t *Trial) deskOf(joined bool) *desk {
	d := &desk{t: t, again: t.Harness.Quiet + min(t.Capabilities.AckDeadline, longestDeadline), wrap: plainly}
	if !joined {
		d.st = t.Store()
		d.Consumer = t.Subscribe(groupOne)
	} else {
		d.again = t.Again()
		d.Consumer, d.st = t.subscribeJoined(groupOne)
	}
	d.makeTable()

	return d
}

func plainly(handle func(ctx context.Context) error) func(d *Delivery) error {
	return func(d *Delivery) error { return handle(d.Context()) }
}

// deskByHeadrace is a service with Dedupe.
func (t *Trial) deskByHeadrace() *desk {
	d := t.deskOf(false)
	d.again = t.Again()
	d.wrap = t.deduped(d.st)

	return d
}

// subscribeJoined hears the fact's topic by handlers whose transaction holds the
// ack.
func (t *Trial) subscribeJoined(group string) (*Consumer, *store.Store) {
	var joined Joined
	err := t.call("open a joined subscriber", func() (err error) {
		joined, err = t.Harness.Join(t.ctx, t.groupName(group))

		return err
	})
	if err != nil {
		t.Unknownf("open a joined subscriber: %v", err)
	}
	t.closesWith(joined.Subscriber.Close)
	c, err := t.SubscribeBy(t.ctx, joined.Subscriber, t.Topic, group)
	if err != nil {
		t.Unknownf("%v", err)
	}

	return c, joined.Store
}

// closesWith has something closed with the fact.
func (t *Trial) closesWith(f func() error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closers = append(t.closers, f)
}

func (d *desk) makeTable() {
	d.table = uniqueName("effects")
	for _, statement := range []string{
		"CREATE TABLE " + d.table + " (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)",
		"CREATE TABLE " + d.table + "_done (attempt INTEGER NOT NULL)",
	} {
		if _, err := d.st.DB().ExecContext(d.t.ctx, statement); err != nil {
			d.t.Unknownf("make the table of effects: %v", err)
		}
	}
}

// effect is what a handler does to the world.
func (d *desk) effect(ctx context.Context, attempt int) error {
	return d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO "+d.table+"_done (attempt) VALUES (?)", attempt)

		return err
	})
}

// once waits for the effect of the last attempt, and judges how many there are.
func (d *desk) once(last int) Observation {
	var attempts []int
	found := d.t.poll(d.t.Harness.Patience, func() bool {
		attempts = nil
		err := d.st.InTx(d.t.ctx, func(ctx context.Context, tx store.Tx) error {
			return tx.SelectContext(ctx, &attempts, "SELECT attempt FROM "+d.table+"_done ORDER BY attempt")
		})

		return err == nil && len(attempts) > 0
	})
	switch {
	case !found:
		return Lacks("no effect was there after attempt %d was acked", last)
	case len(attempts) > 1:
		return Lacks("the effects happened %d times, by attempts %v", len(attempts), attempts)
	default:
		return HoldsWith("by attempt %d of %d", attempts[0], last)
	}
}

// settle handles a delivery, and acks or nacks it as a router does.
func (d *desk) settle(delivery *Delivery, handle func(ctx context.Context) error) {
	if err := d.handle(delivery, handle); err != nil {
		delivery.Nack()
	} else {
		delivery.Ack()
	}
}

func (d *desk) handle(delivery *Delivery, handle func(ctx context.Context) error) error {
	err := d.t.call("a handler", func() error { return d.wrap(handle)(delivery) })
	if err != nil {
		d.t.Notef("the handler of %s failed: %s", delivery.Name, short(err.Error()))
	}

	return err
}

// retried waits for the next attempt and has it succeed.
func (d *desk) retried(attempt int) Observation {
	again, _ := d.poll(d.again)
	if again == nil {
		return Lacks("the message did not come again within %v", d.again)
	}
	d.settle(again, func(ctx context.Context) error { return d.effect(ctx, attempt) })

	return d.once(attempt)
}

// failsOnce has a handler do its work, and end with an error the first time.
func (d *desk) failsOnce(with error) Observation {
	d.t.Publish(d.t.Message("a"))
	d.settle(d.Next(), func(ctx context.Context) error { return errors.Join(d.effect(ctx, 1), with) })

	return d.retried(2)
}

func checkEffectsOfLostAck(d *desk) Observation {
	d.t.Publish(d.t.Message("a"))
	first := d.Next()
	if err := d.handle(first, func(ctx context.Context) error { return d.effect(ctx, 1) }); err != nil {
		d.t.Unknownf("the first attempt: %v", err)
	}
	first.Nack() // as if its process had died, only sooner

	return d.retried(2)
}

func checkEffectsPastDeadline(d *desk) Observation {
	d.t.Publish(d.t.Message("a"))
	first := d.Next()
	if err := d.handle(first, func(ctx context.Context) error { return d.effect(ctx, 1) }); err != nil {
		d.t.Unknownf("the first attempt: %v", err)
	}

	o := d.retried(2)
	first.GiveUp()
	first.Message.Ack() // too late

	return o
}

func checkEffectsOfAborted(d *desk) Observation {
	d.t.Publish(d.t.Message("a"))
	d.settle(d.Next(), func(ctx context.Context) error {
		err := d.effect(ctx, 1)
		failed := d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO "+d.table+"_nowhere (n) VALUES (1)")

			return err
		})
		if failed == nil {
			return errors.New("a table was there that nobody made")
		}

		return err // and not what failed: the handler thinks that all is well
	})

	return d.retried(2)
}

// checkEffectsOfConflict has two transactions want each other's row.
func checkEffectsOfConflict(d *desk) Observation {
	dialect := d.st.Dialect()
	if dialect != store.Postgres && dialect != store.MySQL {
		return d.failsOnce(errors.New("a conflict, which SQLite's one writer can't have"))
	}
	if err := d.rivalRows(); err != nil {
		d.t.Unknownf("rows to want: %v", err)
	}
	d.t.Publish(d.t.Message("a"))
	const most = 6
	attempt, lost := 1, false
	for ; attempt < most && !lost; attempt++ {
		next, _ := d.poll(d.again)
		if next == nil {
			return Lacks("the message did not come again within %v after a conflict", d.again)
		}
		d.settle(next, func(ctx context.Context) error {
			if err := d.effect(ctx, attempt); err != nil {
				return err
			}
			if err := d.collide(ctx); err != nil {
				lost = true

				return err
			}

			return errors.New("the other transaction was chosen to lose")
		})
	}
	if !lost {
		d.t.Unknownf("the database chose the other transaction to lose %d times", most)
	}
	if dialect == store.Postgres {
		d.settle(d.NextAgain(), func(ctx context.Context) error {
			return errors.Join(d.effect(ctx, attempt), d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
				_, err := tx.ExecContext(ctx, "DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")

				return err
			}))
		})
		attempt++
	}

	return d.retried(attempt)
}

func (d *desk) rivalRows() error {
	return d.st.InTx(d.t.ctx, func(ctx context.Context, tx store.Tx) error {
		for id := range 40 {
			if _, err := tx.ExecContext(ctx, "INSERT INTO "+d.table+" (id, n) VALUES (?, 0)", id); err != nil {
				return err
			}
		}

		return nil
	})
}

// collide takes a row, has another transaction take all others, and then waits
// for one of those while that one asks for ours. It returns the database's error
// when it chose this transaction to lose. The other one has written more and
// begins to wait later, which is what databases choose by.
func (d *desk) collide(ctx context.Context) error {
	update := "UPDATE " + d.table + " SET n = n + 1 WHERE id "
	held, ended := make(chan struct{}), make(chan error, 1)
	defer func() { <-ended }()

	return d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		if _, err := tx.ExecContext(ctx, update+"= 0"); err != nil {
			ended <- nil

			return fmt.Errorf("the first row: %w", err)
		}
		go func() {
			took := false
			ended <- d.st.InTx(d.t.ctx, func(ctx context.Context, tx store.Tx) error {
				_, err := tx.ExecContext(ctx, update+"> 0")
				if !took {
					took = true
					close(held)
				}
				if err != nil {
					return err
				}
				const asksLater = 300 * time.Millisecond // no signal tells that the first waits
				d.t.rest(asksLater)
				_, err = tx.ExecContext(ctx, update+"= 0")

				return err
			})
		}()
		<-held
		_, err := tx.ExecContext(ctx, update+"= 1")

		return err
	})
}
