package keys_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/keys"
)

func TestKeyFunctions(t *testing.T) {
	t.Parallel()

	msg := message.NewMessage("1", []byte(`{"order":{"id":9007199254740993},"sku":"a|b","empty":"","deep":[{"x":true}]}`))
	msg.Metadata["tenant"] = `t\1`
	msg.Metadata["ce_subject"] = "subj"

	tests := map[string]struct {
		fn   keys.Func
		want string
	}{
		"metadata":            {keys.FromMetadata("tenant"), `t\1`},
		"json keeps digits":   {keys.FromJSON("order.id"), "9007199254740993"},
		"json string":         {keys.FromJSON("sku"), "a|b"},
		"json boolean":        {keys.FromJSON("deep.0.x"), "true"},
		"cloudevents subject": {keys.CloudEventsSubject(), "subj"},
		"composite escapes":   {keys.Composite(keys.FromMetadata("tenant"), keys.FromJSON("sku")), `t\\1|a\|b`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := test.fn(msg)
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
}

func TestAMissingKeyIsAnError(t *testing.T) {
	t.Parallel()

	msg := message.NewMessage("1", []byte(`{"order":{},"empty":"","null":null}`))
	for _, fn := range []keys.Func{
		keys.Default(), keys.FromMetadata("x"), keys.FromJSON("order"), keys.FromJSON("empty"),
		keys.FromJSON("null"), keys.FromJSON("nope"), keys.CloudEventsSubject(), keys.Composite(),
		keys.Composite(keys.FromMetadata("x")),
	} {
		_, err := fn(msg)
		require.ErrorIs(t, err, keys.ErrNoKey)
	}
	_, err := keys.FromJSON("x")(message.NewMessage("1", []byte("\xff")))
	require.ErrorIs(t, err, keys.ErrNoKey)
}

func TestStructuredCloudEventsSubject(t *testing.T) {
	t.Parallel()

	key, err := keys.CloudEventsSubject()(message.NewMessage("1", []byte(`{"specversion":"1.0","subject":"s1"}`)))
	require.NoError(t, err)
	require.Equal(t, "s1", key)

	entity, err := keys.OfType("order", keys.FromJSON("id"))(message.NewMessage("1", []byte(`{"id":"7"}`)))
	require.NoError(t, err)
	require.Equal(t, "order/7", entity.String())
}
