package headrace

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jonboulle/clockwork"
)

// patience is how long after its first use a plugin may be without Attach: a
// service may well use its database before its router runs.
const patience = 30 * time.Second

var (
	errUnprotected = errors.New("a handler uses hr.DB() or hr.Publisher(), but nothing protects it: " +
		"give hr.Attach to router.AddPlugin before the router runs (or use hr.Middleware and hr.Run)")
	errIdle = errors.New("hr.DB() or hr.Publisher() has been in use for a while, but no handler is protected " +
		"and nothing is relayed: give hr.Attach to router.AddPlugin, or call hr.Run; " +
		"where this process only writes and another instance relays, call hr.Run all the same or ignore this")
)

// watch finds a plugin that is used, but was never attached: the service works
// then as if nothing were missing. It logs one line,
//
//   - at once when a router's handler uses it, which no router does before its
//     plugins were called;
//   - else when the first use is some time ago, which may be a router that is
//     slow to start.
type watch struct {
	clock   clockwork.Clock
	logger  watermill.LoggerAdapter
	service string

	mu sync.Mutex
	// over: it was attached, closed, or said.
	over  bool
	timer clockwork.Timer
}

// OnOutside implements store.OutsideHook.
func (w *watch) OnOutside(ctx context.Context, _ string) { w.use(ctx) }

func (w *watch) use(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.over:
	case message.HandlerNameFromCtx(ctx) != "":
		w.say(errUnprotected, message.HandlerNameFromCtx(ctx))
	case w.timer == nil:
		w.timer = w.clock.AfterFunc(patience, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			if !w.over {
				w.say(errIdle, "")
			}
		})
	}
}

// say is called with the lock held.
func (w *watch) say(why error, handler string) {
	w.over = true
	fields := watermill.LogFields{"service": w.service}
	if handler != "" {
		fields["handler"] = handler
	}
	if w.logger == nil {
		return
	}
	w.logger.Error("Headrace is not attached", why, fields)
}

// end is called when the plugin is put to work, and when it is closed.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.timer != nil {
		w.timer.Stop()
	}
}
