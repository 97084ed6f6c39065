package store

import "sync"

// wakes tells forwarders in this process that partitions of the outbox have new
// rows.
type wakes struct {
	mu        sync.Mutex
	listeners map[*func(partitions []Partition)]struct{}
}

// OnOutboxWritten calls f with the partitions that a commit in this process has
// written to, or none for any of them, until stop is called. f must not block.
func (s *Store) OnOutboxWritten(f func(partitions []Partition)) (stop func()) {
	w := &s.wakes
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.listeners == nil {
		w.listeners = map[*func([]Partition)]struct{}{}
	}
	w.listeners[&f] = struct{}{}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.listeners, &f)
	}
}

// WakeOutbox tells the process's forwarders to look at partitions of the outbox;
// none means all. Commits of units of work do so by themselves.
func (s *Store) WakeOutbox(partitions ...Partition) {
	w := &s.wakes
	w.mu.Lock()
	defer w.mu.Unlock()
	for f := range w.listeners {
		(*f)(partitions)
	}
}

// lineWakes tells subscribers in this process that lines of a consumer may have
// something to do.
type lineWakes struct {
	mu        sync.Mutex
	listeners map[*func(consumer string)]struct{}
}

// OnParked calls f with a consumer, as it is stored, when a commit in this process
// has left something to be handled in its lines, now or later, until stop is
// called. f must not block.
func (s *Store) OnParked(f func(consumer string)) (stop func()) {
	w := &s.lineWakes
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.listeners == nil {
		w.listeners = map[*func(string)]struct{}{}
	}
	w.listeners[&f] = struct{}{}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.listeners, &f)
	}
}

func (s *Store) wakeLines(consumer string) {
	w := &s.lineWakes
	w.mu.Lock()
	defer w.mu.Unlock()
	for f := range w.listeners {
		(*f)(consumer)
	}
}
