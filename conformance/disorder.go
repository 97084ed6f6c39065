package conformance

import "fmt"

// stream tells which events belong to one order, and the place of each in it.
type stream func(e event) (name string, place int)

func perKey(e event) (string, int)  { return e.key, e.number }
func ofTopic(e event) (string, int) { return "", e.position }

// disorder looks for a message that a group was given before its predecessor in
// the stream was acked. Copies of what was acked may come at any time:
// duplicates are a matter of their own.
func disorder(events []event, group string, of stream) (Observation, bool) {
	done := map[string]map[int]bool{}
	lowest := map[string]int{} // first place of a stream that isn't acked
	for _, e := range events {
		if e.group != group || e.number < 0 {
			continue
		}
		name, place := of(e)
		switch e.kind {
		case received:
			if place > lowest[name] && !done[name][place] {
				return Lacks("%s came before number %d of the same order was acked", e.name, lowest[name]).Of(e.key), true
			}
		case acked:
			if done[name] == nil {
				done[name] = map[int]bool{}
			}
			done[name][place] = true
			for done[name][lowest[name]] {
				lowest[name]++
			}
		}
	}

	return Holds(), false
}

// overlap looks for two messages of one stream that a group had in hand at once.
func overlap(events []event, group string, of stream) (Observation, bool) {
	type hand struct {
		consumer int
		name     string
	}
	inHand := map[string]map[hand]int{}
	for _, e := range events {
		if e.group != group || e.number < 0 {
			continue
		}
		name, _ := of(e)
		h := hand{e.consumer, e.name}
		switch e.kind {
		case received:
			for other, n := range inHand[name] {
				if n > 0 {
					return Lacks("%s came to consumer %d while %s was in hand at consumer %d",
						e.name, e.consumer, other.name, other.consumer).Of(e.key), true
				}
			}
			if inHand[name] == nil {
				inHand[name] = map[hand]int{}
			}
			inHand[name][h]++
		case acked, nacked, gaveUp:
			inHand[name][h]--
		}
	}

	return Holds(), false
}

// twice looks for a message that a group was given again after it was acked.
func twice(events []event, group string) (Observation, bool) {
	done := map[string]bool{}
	copies := 0
	var first event
	for _, e := range events {
		if e.group != group {
			continue
		}
		switch {
		case e.kind == acked:
			done[e.name] = true
		case e.kind == received && done[e.name]:
			if copies++; copies == 1 {
				first = e
			}
		}
	}
	if copies == 0 {
		return Holds(), false
	}

	return Lacks("%s came again after it was acked%s", first.name, more(copies-1)).Of(first.key), true
}

func more(n int) string {
	if n == 0 {
		return ""
	}

	return fmt.Sprintf(", and so did %d more", n)
}
