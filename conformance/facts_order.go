package conformance

import (
	"time"
)

const orderIssue = "ordering"

func orderFacts() []Fact {
	return []Fact{
		{
			Name:  "order/per key",
			Claim: "messages of a key are delivered in the order of publishing, each after the ack of the one before",
			Needs: needsKeyOrder, Issue: orderIssue,
			Check: func(t *Trial) Observation { return checkOrder(t, perKey, nil) },
		},
		{
			Name:  "order/per key with nacks",
			Claim: "a nacked message comes again before its successors",
			Needs: needsKeyOrder, Issue: orderIssue,
			Check: func(t *Trial) Observation { return checkOrder(t, perKey, failSome) },
		},
		{
			Name:  "order/per key within a batch",
			Claim: "messages of one Publish call keep the order of their keys",
			Needs: needsKeyOrder, Issue: orderIssue,
			Check: checkOrderInBatch,
		},
		{
			Name:  "order/per key after a consumer is lost",
			Claim: "what a lost consumer had in hand comes before its successors",
			Needs: needsKeyOrder, Issue: orderIssue,
			Check: checkOrderAfterLoss,
		},
		{
			Name:  "order/per key across a rebalance",
			Claim: "the order of a key holds while consumers of its group come and go",
			Needs: needsKeyOrder, Issue: orderIssue,
			Check: checkOrderAcrossRebalance,
		},
		{
			Name:  "order/per key across growth",
			Claim: "the order of a key holds while the topic is given more partitions",
			Needs: needsKeyOrder, Issue: orderIssue,
			Missing: func(h Harness) string { return missing(h.Grow == nil, "Grow") },
			Check:   checkOrderAcrossGrowth,
		},
		{
			Name:  "order/total",
			Claim: "all messages of a topic are delivered in the order of publishing",
			Needs: needsTotalOrder, Issue: orderIssue,
			Check: func(t *Trial) Observation { return checkOrder(t, ofTopic, nil) },
		},
		{
			Name:  "order/total with nacks",
			Claim: "a nacked message comes again before anything else",
			Needs: needsTotalOrder, Issue: orderIssue,
			Check: func(t *Trial) Observation { return checkOrder(t, ofTopic, failSome) },
		},
	}
}

// failSome nacks every third message of a key once, and some of them twice.
func failSome(e event, attempt int) bool {
	return e.number%3 == 1 && (attempt == 1 || attempt == 2 && e.number%2 == 0)
}

// checkOrder has handlers run as long as they like and looks whether anything
// overtakes. Messages follow each other quickly, so that a broker without order
// has the chance to show it.
func checkOrder(t *Trial, of stream, fails func(e event, attempt int) bool) Observation {
	c := t.Subscribe(groupOne)
	messages := t.Interleaved(12, "a", "b", "c")
	attempts := map[string]int{}
	c.Handle(func(d *Delivery) {
		e := t.history.of(d.Message)
		t.mu.Lock()
		attempts[e.name]++
		attempt := attempts[e.name]
		t.mu.Unlock()
		d.Work(time.Duration(1+e.number%2) * time.Millisecond)
		if fails != nil && fails(e, attempt) {
			d.Nack()
		} else {
			d.Ack()
		}
	})
	t.Publish(messages...)
	t.MustAck(groupOne, messages)

	return t.inOrder(of, true)
}

// inOrder judges the history of group one; overlaps may be asked for too.
func (t *Trial) inOrder(of stream, alone bool) Observation {
	if o, found := disorder(t.events(), groupOne, of); found {
		return o
	}
	if o, found := overlap(t.events(), groupOne, of); alone && found {
		return o
	}

	return Holds()
}

func checkOrderInBatch(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	messages := t.Interleaved(12, "a", "b")
	c.Handle(func(d *Delivery) {
		d.Work(time.Millisecond)
		d.Ack()
	})
	t.PublishBatch(messages...)
	t.MustAck(groupOne, messages)

	return t.inOrder(perKey, true)
}

func checkOrderAfterLoss(t *Trial) Observation { return t.orderAfter(t.Subscribe, (*Consumer).Drop) }

// orderAfter loses the first consumer with a message in hand.
func (t *Trial) orderAfter(subscribe func(group string) *Consumer, lose func(*Consumer)) Observation {
	messages := t.Interleaved(6, "a", "b", "c")
	t.Publish(messages...)
	first := subscribe(groupOne)
	for range 4 {
		first.Next().Ack()
	}
	first.Next()
	lose(first)
	t.Subscribe(groupOne).AckEverything()
	t.MustAck(groupOne, messages)

	// When exactly a lost consumer's message counts as free is the broker's
	// knowledge, not ours: so order alone, without overlaps.
	return t.inOrder(perKey, false)
}

// checkOrderAcrossRebalance has consumers join and leave in mid-flow. All of
// them close in good order: what a frozen process may do is another matter.
func checkOrderAcrossRebalance(t *Trial) Observation {
	messages := t.Interleaved(25, keysNamed(6)...)
	work := func(d *Delivery) {
		d.Work(2 * time.Millisecond)
		d.Ack()
	}
	done := func(n int) {
		t.Until("consumers to get on", t.Again(), func(events []event) bool { return count(events, acked, groupOne) >= n })
	}

	first := t.Subscribe(groupOne)
	first.Handle(work)
	t.PublishBatch(messages[:50]...)
	done(10)
	second := t.Subscribe(groupOne)
	second.Handle(work)
	t.PublishBatch(messages[50:100]...)
	done(60)
	first.Close()
	t.PublishBatch(messages[100:]...)
	done(110)
	t.Subscribe(groupOne).Handle(work)
	t.MustAck(groupOne, messages)

	return t.inOrder(perKey, true)
}

func checkOrderAcrossGrowth(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	messages := t.Interleaved(10, keysNamed(6)...)
	t.PublishBatch(messages[:30]...)
	if err := t.call("give the topic more partitions", func() error { return t.Harness.Grow(t.ctx, t.Topic) }); err != nil {
		t.Unknownf("give the topic more partitions: %v", err)
	}
	t.ReopenPublisher() // as a service does that is started again, or looks at last
	t.PublishBatch(messages[30:]...)
	// Handlers are busy with the old backlog while consumers find the new
	// partitions, which takes brokers a while.
	free := make(chan struct{})
	c.Handle(holdAll(free))
	t.Until("a message to overtake", t.Harness.Quiet, func(events []event) bool {
		_, found := disorder(events, groupOne, perKey)

		return found
	})
	close(free)
	t.MustAck(groupOne, messages)

	return t.inOrder(perKey, true)
}
