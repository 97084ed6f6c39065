package scenario

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/internal/testenv/disrupt"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/parking"
)

// deadLetters are an SQS queue and the one into which SQS moves what it has delivered
// too often.
type deadLetters struct {
	t      *testing.T
	client *awssqs.Client
	letter string // the second one's URL
}

// newDeadLetters makes the queues of a topic.
func newDeadLetters(t *testing.T, topic string, maxReceives int) deadLetters {
	t.Helper()
	address, err := url.Parse(testenv.SQS(t))
	require.NoError(t, err)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := awssqs.New(awssqs.Options{
		Region: "us-east-1", BaseEndpoint: aws.String("http://" + address.Host),
		Credentials: credentials.NewStaticCredentialsProvider("x", "x", ""), HTTPClient: &http.Client{Transport: transport},
	})
	d := deadLetters{t: t, client: client}
	create := func(name string, attributes map[string]string) string {
		out, err := client.CreateQueue(t.Context(), &awssqs.CreateQueueInput{QueueName: aws.String(name), Attributes: attributes})
		require.NoError(t, err)
		return *out.QueueUrl
	}
	d.letter = create(topic+"-dead", nil)
	found, err := client.GetQueueAttributes(t.Context(), &awssqs.GetQueueAttributesInput{
		QueueUrl: aws.String(d.letter), AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameQueueArn},
	})
	require.NoError(t, err)
	create(topic, map[string]string{"RedrivePolicy": fmt.Sprintf(
		`{"deadLetterTargetArn":%q,"maxReceiveCount":"%d"}`, found.Attributes["QueueArn"], maxReceives)})
	return d
}

// some counts the things of topics that were counted.
func (c *tally) some(topics map[string]string) (n int) {
	for id := range topics {
		if got, _ := c.get(id); got > 0 {
			n++
		}
	}
	return n
}

// letters counts what was moved.
func (d deadLetters) letters() int {
	d.t.Helper()
	out, err := d.client.GetQueueAttributes(d.t.Context(), &awssqs.GetQueueAttributesInput{
		QueueUrl:       aws.String(d.letter),
		AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameApproximateNumberOfMessages},
	})
	require.NoError(d.t, err)
	n, err := strconv.Atoi(out.Attributes["ApproximateNumberOfMessages"])
	require.NoError(d.t, err)
	return n
}

// awayFor is how long the database is away, and how long SQS waits for an answer: five
// minutes and 30 s with HEADRACE_FAULTS=full, and else in proportion.
func awayFor() (outage, visibility time.Duration) {
	if os.Getenv("HEADRACE_FAULTS") == "full" {
		return 5 * time.Minute, 30 * time.Second
	}
	return 9 * time.Second, 2 * time.Second
}

// ships is a handler of the service stock, on a queue with dead letters.
func (w *world) ships(name string, maxReceives int, middlewares []message.HandlerMiddleware) (subscription, deadLetters) {
	w.t.Helper()
	s := subscription{
		service: "stock", handler: name, topic: w.topic(name), middlewares: middlewares,
		handle: func(msg *message.Message) ([]*message.Message, error) {
			return nil, w.exec(msg.Context(), "INSERT INTO shipped VALUES (?)", msg.UUID)
		},
	}
	return s, newDeadLetters(w.t, s.topic, maxReceives)
}

// The database is away for longer than SQS waits for all the answers that it would wait
// for. One handler is wrapped, and has more messages than it can take; the other isn't,
// and has one message, which each of its receivers would take when SQS gives it out
// again. Without Parking each delivery is nacked, and SQS counts them.
func TestFiveMinutesWithoutStoreLeaveTheDLQEmpty(t *testing.T) {
	onAndOff(t, on(t, []string{sqs}, []string{postgres, mariadb}), func(t *testing.T, p pair, protected bool) (damage []string) {
		const maxReceives, messages = 3, 12
		outage, visibility := awayFor()
		proxy, through := disrupt.Through(t, testenv.Database(t, p.database))
		w := open(t, p, withDatabase(through),
			withBroker(withOptions(brokerURL(t, p.broker), "visibility="+visibility.String())))
		acked := newTally()
		w.must("CREATE TABLE shipped (id VARCHAR(64))")
		valve := parking.NewValve(w.st, parking.ValveConfig{MaxInterval: time.Second})
		parks, err := middleware.NewParking(w.st, middleware.ParkingConfig{Service: "stock", Logger: w.logger, Valve: valve})
		require.NoError(t, err)
		handler := func(name string) (subscription, deadLetters) {
			return w.ships(name, maxReceives,
				chain(one(acked.acked), unlessOff(protected, parks.Middleware), one(w.dedupe("stock"))))
		}
		many, manyLetters := handler("many")
		lone, loneLetters := handler("lone")
		if protected {
			sub, err := w.bus.SubscriberFor("stock")
			require.NoError(t, err)
			many.subscriber, err = parking.NewSubscriber(w.st, sub, parking.SubscriberConfig{
				Consumer: "stock.many", Valve: valve, Logger: w.logger,
			})
			require.NoError(t, err)
		}
		w.serve(many, lone)
		for _, s := range []subscription{many, lone} {
			require.NoError(t, w.bus.Publisher.Publish(s.topic, message.NewMessage("before-"+s.handler, nil)))
			acked.wait(t, "before-"+s.handler, 1)
		}

		proxy.Cut()
		cut := time.Now()
		topics := map[string]string{"lone": lone.topic}
		for i := range messages {
			topics[fmt.Sprint("order-", i)] = many.topic
		}
		for id, topic := range topics {
			require.NoError(t, w.bus.Publisher.Publish(topic, message.NewMessage(id, nil)))
		}
		letters := func() int { return manyLetters.letters() + loneLetters.letters() }
		if protected {
			<-time.After(outage)
		} else {
			testenv.Eventually(t, patience, 100*time.Millisecond, func() (bool, string) {
				return letters() >= len(topics), fmt.Sprintf("%d dead letters", letters())
			})
		}
		proxy.Mend()
		away, mended := time.Since(cut), time.Now()
		handled := func() int { return acked.some(topics) }
		testenv.Eventually(t, patience, 100*time.Millisecond, func() (bool, string) {
			dead := letters()
			return handled()+dead >= len(topics), fmt.Sprintf("%d are handled, %d dead letters", handled(), dead)
		})
		t.Logf("%d messages, %s away at a visibility timeout of %s: %d handled, %d dead letters, %s after it came back",
			len(topics), away.Round(time.Second), visibility, handled(), letters(), time.Since(mended).Round(time.Millisecond))
		if n := letters(); n > 0 {
			damage = append(damage, fmt.Sprintf("%d of %d messages are in the dead-letter queue", n, len(topics)))
		}
		if n := w.count("SELECT count(*) FROM headrace_parked"); n > 0 {
			damage = append(damage, fmt.Sprintf("%d are parked", n))
		}
		if n := w.count("SELECT count(*) FROM shipped"); protected && n != len(topics)+2 {
			damage = append(damage, fmt.Sprintf("%d of %d are shipped", n, len(topics)+2))
		}
		return damage
	})
}
