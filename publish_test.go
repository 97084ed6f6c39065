package headrace_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
)

// uncomparable is a context that can't be compared with ==.
type uncomparable struct {
	context.Context

	_ []string
}

func TestPublishWithContextsThatCannotBeCompared(t *testing.T) {
	t.Parallel()
	b := setup(t)
	hr := b.open(t)
	var msgs []*message.Message
	for i := range 2 {
		msg := message.NewMessage(fmt.Sprint(i), nil)
		msg.SetContext(uncomparable{Context: t.Context()})
		msgs = append(msgs, msg)
	}
	require.NoError(t, hr.Publisher().Publish("out", msgs...))
}
