package adopt_test

import (
	"bytes"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// process is a running example.
type process struct {
	worker string
	cmd    *exec.Cmd
	output *output
	done   chan struct{}
	err    error
}

// start runs an example with the test's environment and more. It is killed at
// the end of the test, and its output shown when that failed.
func start(t *testing.T, binary, worker string, env ...string) *process {
	t.Helper()
	p := &process{worker: worker, output: &output{}, done: make(chan struct{})}
	p.cmd = exec.Command(binary) //nolint:noctx // it outlives the test's context, until the cleanup
	p.cmd.Env = append(append(os.Environ(), "WORKER="+worker), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if err := p.cmd.Start(); err != nil {
		t.Errorf("start %s: %v", worker, err) // not require: partners restart a program from their goroutine
		close(p.done)
		return p
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", worker, p.output.tail())
		}
	})
	return p
}

// kill ends the process as a crash does. It returns when it is gone.
func (p *process) kill() {
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
	}
	<-p.done
}

// stop ends the process as a deploy does.
func (p *process) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.done:
		require.NoError(t, p.err, "%s has failed", p.worker)
	case <-time.After(patience):
		t.Fatalf("%s doesn't stop", p.worker)
	}
}

// output keeps the end of what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const outputLimit = 64 << 10

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() > outputLimit {
		o.buf.Next(o.buf.Len() - outputLimit/2)
	}
	return o.buf.Write(b)
}

func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.buf.Bytes()
	return string(b[max(0, len(b)-outputLimit/4):])
}
