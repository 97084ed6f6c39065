// Package conformance says what a broker guarantees, by trying it. The same
// facts run on every broker, on those of the brokers package and on any other
// pair of watermill publisher and subscriber:
//
//	func TestConformance(t *testing.T) {
//		conformance.Run(t, conformance.Harness{
//			Name:         "mine",
//			Capabilities: brokers.Capabilities{KeyOrder: true, Groups: true},
//			Publisher:    func(context.Context) (message.Publisher, error) { return mine.NewPublisher() },
//			Subscriber: func(_ context.Context, group string) (message.Subscriber, error) {
//				return mine.NewSubscriber(group)
//			},
//		})
//	}
//
// Each fact is a subtest "group/name" that -run finds. Check runs the same
// without the testing package, for programs.
//
// # Both ways
//
// A guarantee that the harness declares must hold; one that it doesn't is tried
// all the same, so that the report tells when a declaration is too bold (that is
// a failure) or too modest (a note: not having seen a lack is no guarantee).
// Facts without a capability of their own must hold on every broker. What a
// broker is known to break goes into Harness.Known, with the reason: it is still
// tried, and reported as "no".
//
// # Verdicts
//
//	holds        tried, and it held
//	by Headrace  the broker lacks it, and with Headrace it holds
//	open         the broker doesn't promise it, and Headrace doesn't yet make up for it
//	no           the broker doesn't promise it, or breaks it
//	unknown      couldn't be tried, for the reason given; never a pass
//
// # Time
//
// Facts wait by signals, as long as Harness.Patience. That something doesn't
// happen is only seen by waiting: as long as Harness.Quiet. Facts run side by
// side, each on a topic of its own and with its own deadline; past it a fact is
// unknown, and what hangs is left behind.
//
// # Whole services
//
// The composition facts build services as users do: handlers behind headrace.New,
// with an effect in a database (Harness.Database) for each message. Publishes fail
// and acks are lost by a seed, which a fact that failed names and
// HEADRACE_CONFORMANCE_SEED brings back; services are closed, and crash.
package conformance
