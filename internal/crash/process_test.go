package crash_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headrace-go/headrace/internal/subprocess"
)

// process is one life of a child.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.Closer // the child dies when it ends
	log   subprocess.Tail

	lines    atomic.Int64
	progress chan struct{} // a step was reached since it was last read
	up       chan struct{}
	exited   chan struct{}
	exit     error // once exited
}

// startProcess starts a child whose steps go to the history.
func startProcess(name string, cfg childConfig, h *history) (*process, error) {
	raw, err := json.Marshal(cfg) //nolint:musttag // it talks to itself
	if err != nil {
		return nil, err
	}
	binary, err := os.Executable()
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer write.Close() //nolint:errcheck // the child has its own
	// No context: its end must not leave a process that nobody waits for.
	p := &process{
		name: name, cmd: exec.Command(binary), //nolint:noctx // as said
		progress: make(chan struct{}, 1), up: make(chan struct{}), exited: make(chan struct{}),
	}
	p.cmd.Env = append(os.Environ(), childVariable+"="+string(raw))
	p.cmd.ExtraFiles = []*os.File{write}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = subprocess.DieWithParent()
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, errors.Join(err, read.Close())
	}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, read.Close())
	}
	go p.watch(read, h)
	return p, nil
}

// watch reads the child's steps until it is dead, and reaps it.
func (p *process) watch(steps io.ReadCloser, h *history) {
	defer close(p.exited)
	for scanner := bufio.NewScanner(steps); scanner.Scan(); {
		fields := strings.Split(scanner.Text(), "\t")
		const who, name, product, change, all = 0, 1, 2, 3, 4
		if len(fields) != all {
			continue // cut off by the kill
		}
		h.add(event{process: p.name, who: fields[who], step: fields[name], product: fields[product], change: fields[change]})
		p.lines.Add(1)
		if fields[name] == up {
			close(p.up)
		}
		select {
		case p.progress <- struct{}{}:
		default:
		}
	}
	_ = steps.Close()
	p.exit = p.cmd.Wait()
	_ = p.stdin.Close()
}

func (p *process) kill() { _ = p.cmd.Process.Kill() } // an error says that it is dead

// dump ends the process with all its goroutines in its log: what does it wait
// for?
func (p *process) dump() {
	if p.cmd.Process.Signal(syscall.SIGQUIT) == nil {
		<-p.exited
	}
}

// killed returns an error unless the process, which has exited, died of SIGKILL.
func (p *process) killed() error {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("%s ended by itself: %w\n%s", p.name, p.exit, p.log.String())
}

// stop asks the process to end, once it is up, and returns an error unless it
// ends well.
func (p *process) stop(ctx context.Context) error {
	select {
	case <-p.up:
	case <-p.exited:
	case <-ctx.Done():
		p.kill()
		<-p.exited
		return fmt.Errorf("%s never was up: %w\n%s", p.name, ctx.Err(), p.log.String())
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s ended by itself: %w\n%s", p.name, err, p.log.String())
	}
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case <-p.exited:
	case <-bounded.Done():
		p.dump()
		<-p.exited
		return fmt.Errorf("%s did not stop\n%s", p.name, p.log.String())
	}
	if p.exit != nil {
		return fmt.Errorf("%s failed while it stopped: %w\n%s", p.name, p.exit, p.log.String())
	}
	return nil
}
