//go:build unix

package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/headrace-go/headrace/internal/subprocess"
)

// Reexec starts the program that runs as a consumer process: the usual
// Harness.Consumer. Its main function must begin with ConsumerMain.
func Reexec(spec ConsumerSpec) (Process, error) {
	raw, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("conformance: %w", err)
	}
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("conformance: %w", err)
	}
	// No context: its end must not leave a process that nobody waits for.
	cmd := exec.Command(binary) //nolint:gosec,noctx // as said; it is this program
	cmd.Env = append(os.Environ(), consumerVariable+"="+string(raw))

	return StartProcess(cmd)
}

// loggedBytes is how much of a process's log stands in an error.
const loggedBytes = 4 << 10

// StartProcess starts a command that is not started yet as a consumer process,
// with its standard input and output taken.
func StartProcess(cmd *exec.Cmd) (Process, error) {
	p := &osProcess{cmd: cmd, log: &subprocess.Tail{Most: loggedBytes}, exited: make(chan struct{})}
	if cmd.Stderr == nil {
		cmd.Stderr = p.log
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = subprocess.DieWithParent()
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("conformance: %w", err)
	}
	read, write, err := os.Pipe() // and not StdoutPipe, which must be read before Wait
	if err != nil {
		return nil, fmt.Errorf("conformance: %w", err)
	}
	defer write.Close() //nolint:errcheck // the process has its own
	cmd.Stdout, p.stdin, p.stdout = write, stdin, read
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("conformance: start a consumer process: %w", err), read.Close())
	}
	go func() {
		defer close(p.exited)
		p.exit = cmd.Wait()
	}()

	return p, nil
}

type osProcess struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *os.File
	log    *subprocess.Tail
	exited chan struct{}
	exit   error // once exited
}

func (p *osProcess) Read(b []byte) (int, error) {
	n, err := p.stdout.Read(b)
	if err != nil {
		_ = p.stdout.Close() // at its end
	}

	return n, err //nolint:wrapcheck // io.EOF must stay
}

func (p *osProcess) Write(b []byte) (int, error) {
	return p.stdin.Write(b) //nolint:wrapcheck // as it is
}

func (p *osProcess) Kill() error {
	_ = p.cmd.Process.Kill() // an error says that it is dead
	timer := time.NewTimer(processGrace)
	defer timer.Stop()
	select {
	case <-p.exited:
		return nil
	case <-timer.C:
		return errors.New("the consumer process outlives SIGKILL")
	}
}

func (p *osProcess) Pause() error  { return p.signal(syscall.SIGSTOP) }
func (p *osProcess) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *osProcess) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%w; it logged: %s", err, p.log)
	}

	return nil
}

func (p *osProcess) Wait() error {
	<-p.exited
	if p.exit != nil {
		return fmt.Errorf("%w; it logged: %s", p.exit, p.log)
	}

	return nil
}
