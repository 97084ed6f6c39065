package toy

// Fault is one way in which a toy is broken, as real adapters are.
type Fault string

// Faults of delivery.
const (
	AcksOnDelivery     Fault = "acks on delivery"               // handled or not
	LosesInHandOnClose Fault = "loses what is in hand on close" // gives up the delivery
	NeverRedelivers    Fault = "never redelivers"               // a nack is an ack
	HotLoop            Fault = "redelivers in a hot loop"
	DriftsAway         Fault = "drops after five failures" // to a dead-letter queue that nobody reads
	PoisonBlocksAll    Fault = "one poison message blocks all"
	LosesRestOfBatch   Fault = "loses the rest of a batch"
	LosesConcurrent    Fault = "concurrent publishers overwrite"
	ForgetsAcks        Fault = "forgets acks on close"
	NewestOnly         Fault = "starts at the newest message"
	DropsKnownUUIDs    Fault = "drops known UUIDs for ever"
	DeadlocksOnSelf    Fault = "publishing from a handler deadlocks"
	LosesOnRestart     Fault = "loses messages on restart"
	LosesUnread        Fault = "loses what nobody took on close"
	CommitsPastHeld    Fault = "an ack counts for what is held before it" // seen when its consumer goes
	LosesNackedOnClose Fault = "loses what was nacked on close"
	LosesOnCancel      Fault = "loses what is in hand when a context ends"
	LosesBeyond100     Fault = "takes a hundred of a batch"
)

// Faults of processes and of the network.
const (
	LateAckLosesNext Fault = "an ack past the deadline acks the next message"
	LosesOnCut       Fault = "loses what is in hand when a connection breaks"
	LiesWhileCut     Fault = "takes messages while it is cut off and loses them"
	DeafAfterCut     Fault = "subscriptions do not recover from a cut"
)

// Faults of transactions that handlers join; the harness has them.
const (
	CommitsOnNack       Fault = "commits the effects of a nacked attempt"
	CommitsPastDeadline Fault = "commits the effects of a handler past its deadline"
	AcksThoughAborted   Fault = "acks though the transaction was aborted"
)

// Faults of order and concurrency.
const (
	ReordersAfterNack Fault = "reorders after a nack"
	ReordersOnLoss    Fault = "reorders after a consumer is lost"
	ReordersBatch     Fault = "reorders a batch"
	ReordersCrowd     Fault = "reorders what comes from several publishers"
	TwoOfAKey         Fault = "two of a key at once"
	TwoOfAKeyAtTwo    Fault = "two of a key at two consumers"
	OneAtATime        Fault = "one message at a time"
	HotKeyStarves     Fault = "a hot key starves others"
	OrdersKeysOnly    Fault = "orders keys but not the topic"
	HandsOutTwice     Fault = "hands a message to two consumers"
)

// Faults of duplicates and groups.
const (
	DoublesSome       Fault = "delivers every fifth message twice"
	SendsHalfARefused Fault = "sends half of a refused batch"
	ForgetsSendIDs    Fault = "does not look at send ids"
	ForgetsHandled    Fault = "forgets the send id of what was handled"
	GroupsSteal       Fault = "groups share messages"
	ConsumersAllHear  Fault = "consumers of a group all hear everything"
	LateGroupHears    Fault = "a late group hears nothing old"
	NackHitsAllGroups Fault = "a nack is for all groups"
)

// Faults of content.
const (
	DropsEntry        Fault = "drops a metadata entry beyond ten"
	DropsEmptyEntries Fault = "drops metadata entries without a value"
	LowersNames       Fault = "lowers metadata names"
	TrimsValues       Fault = "trims metadata values"
	MangleBytes       Fault = "replaces bytes that are not UTF-8"
	RewritesJSON      Fault = "rewrites JSON"
	NilIsEmpty        Fault = "a nil payload comes back empty"
	Truncates         Fault = "cuts payloads at 64 KiB"
	TakesTooLarge     Fault = "takes what is too large"
	CutsUUIDs         Fault = "cuts UUIDs at 36 characters"
	ForgetsKey        Fault = "forgets the key on redelivery"
	ForgetsKeyOnLoss  Fault = "forgets the key of what a lost consumer held"
	FreshUUID         Fault = "makes a new UUID on redelivery"
	ChangesSent       Fault = "writes into the message that is published"
	SharesPayload     Fault = "shares the payload's bytes"
	LeaksContext      Fault = "hands on the publisher's context"
	AddsEntry         Fault = "adds a metadata entry"
	MixesTopics       Fault = "takes a.b and a_b for one topic"
	RoundsEventTime   Fault = "rounds the event time"
	MixesForeignUUIDs Fault = "gives foreign messages no UUID"
)

// Faults of time.
const (
	NoDeadline    Fault = "ignores its ack deadline"
	EarlyDeadline Fault = "redelivers what is held"
)

// Faults of lifecycle.
const (
	CloseDoesNotWait   Fault = "Close does not wait for handlers"
	CloseHangsUnread   Fault = "Close hangs while nobody reads"
	CloseTwicePanics   Fault = "Close twice panics"
	ChannelStaysOpen   Fault = "Close leaves the channel open"
	IgnoresContext     Fault = "ignores the subscription's context"
	CancelEndsAll      Fault = "the end of one subscription ends all"
	SubscribesClosed   Fault = "subscribes after Close"
	LeaksGoroutine     Fault = "leaves a goroutine behind"
	RefusesNothing     Fault = "publishing nothing is an error"
	TopicsBlockOthers  Fault = "a busy topic blocks others"
	LateAckTakesNext   Fault = "an ack after close acks the next message"
	EndsWithNil        Fault = "a subscription ends with nil instead of a closed channel"
	SecondSubscription Fault = "a second subscription takes messages away"
)
