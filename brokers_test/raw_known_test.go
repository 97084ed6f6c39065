package brokers_test

import "maps"

// What Watermill's own adapters break of what every broker must do, or of what
// they promise, with the reason.

// Reasons that several of them share.
const (
	knownCancelled  = "the end of a subscription cancels the contexts of its messages at once, whatever their handlers are doing"
	knownShared     = "a redelivery shares its bytes and entries with the copy before, and has what the handler wrote into them"
	knownJSON       = "the payload column is of type JSON, which takes nothing else"
	knownJSONText   = "metadata is stored as JSON, where what is no UTF-8 becomes a replacement character"
	knownAckLost    = "an ack just before Close may not reach the broker"
	knownAttributes = "metadata are the message's attributes, which "
	knownBody       = "the body is sent as it is, and the service refuses an empty one"
	knownNothing    = "without messages it sends an incomplete INSERT"
)

var (
	knownOfRawGoChannel = func() map[string]string {
		const gone, everybody = "nothing is kept for a later subscription", "each subscription is given every message"

		return map[string]string{
			"delivery/nack is no hot loop":                     "a nacked message comes again at once",
			"delivery/in hand at close comes again":            gone,
			"delivery/consumers that come and go lose nothing": gone,
			"delivery/before anybody listens":                  gone,
			"concurrency/one message in one hand":              everybody,
			"time/held for as long as it takes":                everybody,
			"groups/consumers of one share":                    everybody,
			"groups/progress is kept":                          gone,
			"content/the same on redelivery":                   knownShared,
			"content/copies":                                   "the payload's bytes are shared by all copies",
			"lifecycle/close lets the handler finish":          knownCancelled,
			"lifecycle/close while nobody reads":               gone,
			"lifecycle/ack after close":                        gone,
		}
	}()

	knownOfRawKafka = map[string]string{
		"content/the same on redelivery":          knownShared,
		"content/foreign producer":                "the UUID travels in a header of Watermill's, and others set none",
		"lifecycle/close lets the handler finish": knownCancelled,
	}

	knownOfRawSQL = map[string]string{
		"content/payload":                         knownJSON,
		"content/sizes up to the limit":           knownJSON,
		"content/metadata that is no text":        knownJSONText,
		"content/the same on redelivery":          knownShared,
		"lifecycle/close lets the handler finish": knownCancelled,
		"lifecycle/publishing nothing":            knownNothing,
	}

	knownOfRawPostgres = knownOfRawSQL

	knownOfRawMariaDB = func() map[string]string {
		const locked = "the subscriber's serializable transaction holds up publishers while a handler works"
		known := maps.Clone(knownOfRawSQL)
		known["delivery/from within a handler"] = locked + ", and its own until the ack deadline"
		known["concurrency/never two of one key"] = locked + "; past the ack deadline the message in hand is delivered again"

		return known
	}()

	knownOfRawSQS = map[string]string{
		"groups/no group takes another's messages": "it has no groups, and takes whatever group is asked for",
		"content/payload":                          knownBody + ", and changes what is no UTF-8",
		"content/sizes up to the limit":            knownBody,
		"content/metadata values":                  knownAttributes + "may not be empty",
		"content/metadata that is no text":         knownAttributes + "must be text: what is no UTF-8 is changed",
		"content/many entries":                     knownAttributes + "are ten at most",
		"lifecycle/close lets the handler finish":  knownCancelled,
		"lifecycle/close while nobody reads":       "Close waits for somebody to take the message",
	}

	knownOfRawSQSFIFO = func() map[string]string {
		known := maps.Clone(knownOfRawSQS)
		known["content/key"] = "the group id takes only letters, digits and punctuation, and nothing encodes the key"

		return known
	}()
)

// What they break in some runs.
var (
	sometimesOfRawMariaDB = map[string]string{
		"delivery/acked stays acked": knownAckLost,
		"groups/progress is kept":    knownAckLost,
		"delivery/concurrent publishers lose nothing": "a message whose insert had to wait while one with a higher " +
			"number was read is stepped over",
	}
	sometimesOfRaw = map[string]string{
		"delivery/acked stays acked": knownAckLost,
	}
	sometimesOfRawOrdered = map[string]string{
		"delivery/acked stays acked": knownAckLost,
		"groups/progress is kept":    knownAckLost,
	}
)
