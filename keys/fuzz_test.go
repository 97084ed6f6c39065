package keys_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/keys"
)

// Whatever a message holds, a Func gives a key or an error, never neither.
func FuzzFuncs(f *testing.F) {
	for _, payload := range []string{
		"", "{", "null", `{"id":""}`, `{"id":[1]}`, `{"id":1e999}`, `[{"id":{}}]`, "\xff\x00", `{"id":"\ud800"}`,
	} {
		f.Add([]byte(payload), "id", "value")
	}
	f.Add([]byte(`{"a":{"b":"|\\"}}`), "a.b", `|\`)
	f.Add([]byte(`[1,2]`), "#(>1)#|@reverse.0", "")
	f.Fuzz(func(t *testing.T, payload []byte, path, entry string) {
		for _, metadata := range []message.Metadata{nil, {path: entry, "ce_subject": entry}} {
			msg := &message.Message{Payload: payload, Metadata: metadata}
			for _, of := range []keys.Func{
				keys.Default(), keys.FromMetadata(path), keys.FromJSON(path), keys.CloudEventsSubject(), keys.Composite(),
				keys.Composite(keys.FromMetadata(path), keys.FromJSON(path)),
			} {
				key, err := of(msg)
				require.Equal(t, err == nil, key != "", "%q %v", key, err)
				if err != nil {
					require.ErrorIs(t, err, keys.ErrNoKey)
				}
			}
		}
	})
}
