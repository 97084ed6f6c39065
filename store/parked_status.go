package store

import (
	"errors"
	"fmt"
)

// ErrStatus is matched by every StatusError.
var ErrStatus = errors.New("the parked message has another status")

// StatusError says that what was asked of a parked message isn't for one of its
// status: somebody else was quicker, perhaps.
type StatusError struct {
	ID     int64
	Status ParkedStatus
	// By is who has released or judged it, "" where nobody did.
	By string
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%v: message %d is %s", ErrStatus, e.ID, e.Status)
	if e.By != "" {
		text += ", by " + e.By
	}
	return text
}

// Is matches ErrStatus.
func (*StatusError) Is(target error) bool { return target == ErrStatus }
