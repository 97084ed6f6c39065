package kafka_test

import (
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
)

// BenchmarkPublish sends distinct random payloads of 256 bytes with 100 keys,
// one per call, from several goroutines at once.
func BenchmarkPublish(b *testing.B) {
	for _, compression := range []string{"none", "lz4"} {
		for _, callers := range []int{1, 50, 100, 200} {
			b.Run(fmt.Sprintf("%s/callers=%d", compression, callers), func(b *testing.B) {
				broker := open(b, "compression="+compression)
				topic := testenv.Topic(b, "kafka_bench")
				require.NoError(b, broker.Publisher.Publish(topic, keyed("k", "warm")))
				messages := make([]*message.Message, b.N)
				for i := range messages {
					payload := make([]byte, 256)
					_, _ = rand.Read(payload)
					messages[i] = message.NewMessage(watermill.NewUUID(), payload)
					msgmeta.SetKey(messages[i], fmt.Sprint("k", i%100))
				}
				b.ResetTimer()
				var next atomic.Int64
				var publishing sync.WaitGroup
				for range callers {
					publishing.Go(func() {
						for i := int(next.Add(1)) - 1; i < b.N; i = int(next.Add(1)) - 1 {
							if err := broker.Publisher.Publish(topic, messages[i]); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				publishing.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			})
		}
	}
}
