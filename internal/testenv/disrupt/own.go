package disrupt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Own is a service that one test has to itself, to cut off, kill and start again.
type Own struct {
	// URL leads to it, as Kafka, SQS, Postgres or MariaDB return one, by way of
	// Proxy.
	URL   string
	Proxy *Proxy

	name string
	env  []string
}

// ownTimeout bounds each start of a service.
const ownTimeout = 3 * time.Minute

// StartOwn starts a service of the test's own: kafka, sqs, postgres or mariadb, as
// scripts/brokers does, on data of its own that is kept over Restart. It ends
// with the test, and with the test's process, however that ends.
func StartOwn(ctx context.Context, t testing.TB, name string) (*Own, error) {
	t.Helper()

	state, err := os.MkdirTemp("", "headrace-own-")
	if err != nil {
		return nil, fmt.Errorf("a service of the test's own: %w", err)
	}
	port := freePort()
	if err := errors.Join( // Postgres runs as another user
		os.Chmod(state, 0o755),
		os.Mkdir(filepath.Join(state, name), 0o755),
		os.WriteFile(filepath.Join(state, name, "port"), []byte(strconv.Itoa(port)), 0o600),
	); err != nil {
		return nil, err
	}
	proxy, address := Through(t, "tcp://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("the proxy's address: %w", err)
	}
	o := &Own{Proxy: proxy, name: name, env: append(os.Environ(),
		"HEADRACE_BROKERS_STATE="+state, "HEADRACE_KAFKA_ADVERTISED="+parsed.Host, "HEADRACE_SQS_DURABLE=1")}
	end, err := o.guard(state)
	if err != nil {
		return nil, err
	}
	t.Cleanup(end)
	if _, err := o.run(ctx, "start", name); err != nil {
		return nil, err
	}
	said, err := o.run(ctx, "env")
	if err != nil {
		return nil, err
	}
	direct, err := url.Parse(exported(said))
	if err != nil || direct.Host == "" {
		return nil, fmt.Errorf("scripts/brokers env printed no URL of %s", name)
	}
	direct.Host = parsed.Host
	o.URL = direct.String()

	return o, nil
}

// Restart kills the service and starts it again, with its data.
func (o *Own) Restart(ctx context.Context) error {
	if _, err := o.run(ctx, "kill", o.name); err != nil {
		return err
	}
	_, err := o.run(ctx, "start", o.name)

	return err
}

func (o *Own) run(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, brokersScript(), args...)
	cmd.Env = o.env
	var said, log strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &log
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("scripts/brokers %s: %w\n%s%s", strings.Join(args, " "), err, said.String(), log.String())
	}

	return said.String(), nil
}

// guard starts the process that ends the service when this one has ended, and
// returns what ends it sooner.
func (o *Own) guard(state string) (end func(), err error) {
	const script = `cat >/dev/null; "$0" kill "$1"; "$0" reset "$1"; rm -rf "$2"`
	// No context: it must outlive the test.
	cmd := exec.Command("bash", "-c", script, brokersScript(), o.name, state) //nolint:noctx // as said
	cmd.Env = o.env
	cmd.SysProcAttr = inGroupOfItsOwn()
	alive, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("guard a service: %w", err)
	}
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("guard a service: %w", err)
	}

	return sync.OnceFunc(func() {
		_ = alive.Close() // which it waits for
		_ = cmd.Wait()    // it has nothing to say
	}), nil
}

// exported is the value of the first export line of scripts/brokers env.
func exported(lines string) string {
	line, _, _ := strings.Cut(lines, "\n")
	_, value, _ := strings.Cut(line, "=")

	return strings.Trim(value, "'")
}

// handedOut are the ports that freePort has returned: who is to have one may not
// listen on it yet.
var handedOut sync.Map //nolint:gochecknoglobals // ports are the process's

// freePort returns a port of its own below those from which the kernel takes ports for
// outgoing connections, so that it is still free after a restart.
func freePort() int {
	const lowest, ports, attempts = 20000, 12000, 100
	port := 0
	for range attempts {
		port = lowest + rand.IntN(ports)
		if _, taken := handedOut.LoadOrStore(port, true); taken {
			continue
		}
		var listen net.ListenConfig
		listener, err := listen.Listen(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = listener.Close()

			break
		}
	}

	return port
}

// brokersScript is the path of scripts/brokers, beside this very file.
func brokersScript() string {
	_, file, _, _ := runtime.Caller(0) //nolint:dogsled // the file alone

	return filepath.Join(filepath.Dir(file), "..", "..", "..", "scripts", "brokers")
}
