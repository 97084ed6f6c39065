package store

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill"
)

type outsideKey struct{}

// MeantOutside marks a context whose statements and publishes are meant to
// happen outside of any unit of work: strict mode lets them pass, and nothing is
// logged of them.
func MeantOutside(ctx context.Context) context.Context {
	return context.WithValue(ctx, outsideKey{}, true)
}

// OutsideHook is told about each statement through JoinDB and each publish
// through an outbox that happens outside of any unit of work and whose context
// isn't marked with MeantOutside, before it is sent or refused. what names it,
// without values. It is called on the goroutine that sends, and must not block.
// Give it to Config.Hooks.
type OutsideHook interface {
	OnOutside(ctx context.Context, what string)
}

// AllowOutside returns nil when something may be done outside of a unit of work
// with this context, and an error that matches ErrOutside when strict mode
// forbids it. what names the thing for the error and the log.
func (s *Store) AllowOutside(ctx context.Context, what string) error {
	if meant, _ := ctx.Value(outsideKey{}).(bool); meant {
		return nil
	}
	for _, hook := range s.outsideHooks {
		hook.OnOutside(ctx, what)
	}
	if s.cfg.Strict {
		return fmt.Errorf("%w: %s: pass the message's context (msg.Context()), or mark it with store.MeantOutside",
			ErrOutside, what)
	}
	s.strays.look(ctx, what, s.cfg.Logger)
	return nil
}

// errStray is what the log says of a statement that has likely lost its context.
var errStray = errors.New("it was sent by a function that InTx runs, a handler likely, without the message's context: " +
	"it isn't undone when that fails, and happens again when the message comes again; pass msg.Context() on " +
	"(Config.Strict refuses what doesn't), or mark what is meant so with store.MeantOutside")

// strays finds statements and publishes that are outside of any unit although a
// function that InTx runs has sent them: most likely they were not given its
// context. Without a context nothing but the goroutine connects the two, so its
// stack is looked at, which costs some microseconds and only what is outside
// while units are open. What a handler does on goroutines of its own isn't found.
type strays struct {
	// working counts the functions that InTx runs at the moment.
	working atomic.Int64
	// seen are the lines of code that were reported.
	seen  sync.Map
	count atomic.Int64
}

const (
	// maxStrays bounds how many lines of code are reported.
	maxStrays = 100
	// stackDepth is how far up InTx is looked for.
	stackDepth = 128
)

func (s *strays) look(ctx context.Context, what string, logger watermill.LoggerAdapter) {
	// A context with another store's unit was not forgotten.
	if s.working.Load() == 0 || s.count.Load() >= maxStrays || unitsIn(ctx) != nil {
		return
	}
	sender, inUnit := stackOfUnit()
	if !inUnit {
		return
	}
	if _, known := s.seen.LoadOrStore(sender.PC, nil); known {
		return
	}
	s.count.Add(1)
	logger.Error("Outside of its message's transaction: "+what, errStray, watermill.LogFields{
		"caller": fmt.Sprintf("%s (%s:%d)", path.Base(sender.Function), filepath.Base(sender.File), sender.Line),
	})
}

// stackOfUnit reports whether InTx is on this goroutine's stack, and who sends:
// the innermost function that isn't of a library between it and here.
func stackOfUnit() (sender runtime.Frame, inUnit bool) {
	var pcs [stackDepth]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs[:])])
	for {
		frame, more := frames.Next()
		switch {
		case frame.Function == unitFunction:
			return sender, true
		case sender.PC == 0 && !between(frame.Function):
			sender = frame
		}
		if !more {
			return sender, false
		}
	}
}

// unitFunction is the function that calls what InTx is given.
const unitFunction = module + "/store.(*Unit).join"

const module = "github.com/headrace-go/headrace"

// between reports whether a function only passes on what a user's code sends.
func between(function string) bool {
	for _, library := range []string{
		"runtime.", "database/sql.", "context.", module + "/store.", module + "/forwarder.",
		"github.com/jmoiron/sqlx.", "github.com/ThreeDotsLabs/watermill/",
	} {
		if strings.HasPrefix(function, library) {
			return true
		}
	}
	return false
}
