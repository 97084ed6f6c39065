package crash_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/headrace-go/headrace/internal/step"
)

// childVariable holds a child's configuration as JSON.
const childVariable = "HEADRACE_TEST_CRASH_CHILD"

// childConfig is what the parent tells a child.
type childConfig struct {
	service

	// Payments, where it names a bank, is the service instead.
	Payments payments
	// Rename: it is no service, but `headrace consumer rename`.
	Rename *renaming
	// Relaying, where it names a broker, relays only.
	Relaying relaying
	// Warehouse, where it names a database, is.
	Warehouse warehouse
	Kill      killPoint
}

// killPoint says when a child kills itself: the Nth time that Who reaches Step.
type killPoint struct {
	Who  string // a handler's name, subscriber or relay
	Step string // "" never
	N    int
}

func (k killPoint) String() string { return fmt.Sprintf("%s %s #%d", k.Who, k.Step, k.N) }

// child is a process's main function. It ends by the parent's signal, or with
// the parent: a child that outlives a killed test would go on consuming.
func child(raw string) int {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		dieNow()
	}()
	var cfg childConfig
	if err := json.Unmarshal([]byte(raw), &cfg); err != nil { //nolint:musttag // it talks to itself
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	const progressPipe = 3 // the first of exec.Cmd's ExtraFiles
	r := &reporter{pipe: os.NewFile(progressPipe, "progress"), kill: cfg.Kill}
	logger := quietLogger{watermill.NewSlogLogger(slog.New(slog.NewTextHandler(os.Stderr, nil)))}
	serve := cfg.serve
	switch {
	case cfg.Payments.Bank != "":
		serve = cfg.Payments.serve
	case cfg.Rename != nil:
		serve = cfg.rename
	case cfg.Relaying.Broker != "":
		serve = cfg.Relaying.serve
	case cfg.Warehouse.Database != "":
		serve = cfg.Warehouse.serve
	}
	if err := serve(step.With(ctx, r.reach), logger, watcher{r.up, r.published}); err != nil {
		fmt.Fprintln(os.Stderr, "service failed:", err)
		return 1
	}
	return 0
}

// dieNow is kill -9: nothing is flushed, closed or rolled back.
func dieNow() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// reporter tells the parent of every step, and is the killer.
type reporter struct {
	mu   sync.Mutex
	pipe io.Writer
	kill killPoint
	seen int
}

func (r *reporter) reach(ctx context.Context, name string) {
	change, _ := ctx.Value(traceKey{}).(stockChanged)
	r.tell(whoIn(ctx), name, change)
}

func (r *reporter) up() { r.tell(self, up, stockChanged{}) }

// up is told when all parts of a process are running.
const (
	self = "process"
	up   = "up"
)

func (r *reporter) published(change stockChanged) { r.tell(relay, published, change) }

// published marks in the history what the broker took. It is no step: it names
// the message, which the relay's steps don't.
const published = "published"

func (r *reporter) tell(who, name string, change stockChanged) {
	r.mu.Lock() // and never given back by a kill: nothing happens in between
	defer r.mu.Unlock()
	line := strings.Join([]string{who, name, change.Product, change.Change}, "\t")
	_, _ = io.WriteString(r.pipe, line+"\n")
	if name != r.kill.Step || who != r.kill.Who {
		return
	}
	if r.seen++; r.seen == r.kill.N {
		dieNow()
	}
}

// quietLogger leaves out what handlers do on purpose.
type quietLogger struct{ watermill.LoggerAdapter }

func (l quietLogger) Error(msg string, err error, fields watermill.LogFields) {
	if !errors.Is(err, errUseCase) {
		l.LoggerAdapter.Error(msg, err, fields)
	}
}

func (l quietLogger) With(fields watermill.LogFields) watermill.LoggerAdapter {
	return quietLogger{l.LoggerAdapter.With(fields)}
}
