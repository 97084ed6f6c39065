package forwarder

import "time"

// LookBehindLittle makes looking at everything behind count as slow, whatever it
// takes. The window's length is returned.
func (f *Forwarder) LookBehindLittle() (window time.Duration) {
	f.late.cheap = -1
	return f.late.window
}

// SlotAfter is the first time of a slot after t.
func SlotAfter(slot Slot, t time.Time) (time.Time, error) {
	times, err := slot.check()
	if err != nil {
		return time.Time{}, err
	}
	return times.next(t)
}
