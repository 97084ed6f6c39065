package parking

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// NobodyRunsError says that messages are to be tried again, and that no process says
// that it handles those of their consumers.
type NobodyRunsError struct {
	// Consumers are sorted.
	Consumers []string
}

func (e *NobodyRunsError) Error() string {
	return fmt.Sprintf("parking: no process says that it handles messages of %s: what is released is tried as soon as one runs "+
		"(one that is wired singly needs a middleware.Presence to be seen)", strings.Join(e.Consumers, ", "))
}

// NotRunning returns those of the consumers whose messages no process handles now, by
// the processes' own word (middleware.Presence; headrace.New runs it), sorted.
func (d *Desk) NotRunning(ctx context.Context, consumers ...string) ([]string, error) {
	var nobody []string
	consumers = slices.Compact(slices.Sorted(slices.Values(consumers)))
	for _, consumer := range consumers {
		present, err := d.st.Present(ctx, consumer)
		if err != nil {
			return nil, err
		}
		if len(present) == 0 {
			nobody = append(nobody, consumer)
		}
	}
	return nobody, nil
}
