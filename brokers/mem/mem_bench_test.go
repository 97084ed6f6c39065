package mem

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/msgmeta"
)

// BenchmarkThroughput sends and handles messages of 100 keys, 256 bytes each.
func BenchmarkThroughput(b *testing.B) {
	for name, rawURL := range map[string]string{
		"memory": "mem:",
		"file":   "mem:?file=" + url.QueryEscape(b.TempDir()+"/queue.db"),
	} {
		b.Run(name, func(b *testing.B) {
			broker, err := brokers.Open(b.Context(), rawURL, brokers.Config{
				Openers: map[string]brokers.Opener{"mem": Open}, Group: "g",
			})
			require.NoError(b, err)
			defer func() { require.NoError(b, broker.Close()) }()
			messages, err := broker.Subscriber.Subscribe(b.Context(), "t")
			require.NoError(b, err)

			payload := make([]byte, 256)
			b.ResetTimer()
			go func() {
				for i := range b.N {
					msg := message.NewMessage(watermill.NewUUID(), payload)
					msgmeta.SetKey(msg, fmt.Sprint("k", i%100))
					if err := broker.Publisher.Publish("t", msg); err != nil {
						panic(err)
					}
				}
			}()
			for range b.N {
				(<-messages).Ack()
			}
		})
	}
}
