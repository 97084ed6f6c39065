package testenv_test

import (
	"bufio"
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
)

// echo is a service that says again what it hears.
func echo(t *testing.T) string {
	t.Helper()

	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, listener.Close()) })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					_, _ = fmt.Fprintln(conn, lines.Text())
				}
				_ = conn.Close()
			}()
		}
	}()

	return "tcp://" + listener.Addr().String()
}

func TestProxyTakesTheServiceAwayAndGivesItBack(t *testing.T) {
	t.Parallel()

	proxy, address := testenv.Through(t, echo(t))
	parsed, err := url.Parse(address)
	require.NoError(t, err)
	tryDial := func() (net.Conn, error) { return (&net.Dialer{}).DialContext(t.Context(), "tcp", parsed.Host) }
	dial := func() net.Conn {
		conn, err := tryDial()
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })

		return conn
	}
	say := func(conn net.Conn, patience time.Duration) error {
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		if _, err := fmt.Fprintln(conn, "hello"); err != nil {
			return err
		}
		heard := make([]byte, len("hello\n"))
		_, err := conn.Read(heard)

		return err
	}

	first := dial()
	require.NoError(t, say(first, time.Minute))
	proxy.Cut()
	require.Error(t, say(first, time.Minute), "what was open is broken")
	if refused, err := tryDial(); err == nil { // or broken before it is told that it stands
		require.Error(t, say(refused, time.Minute), "and nothing new is served")
		require.NoError(t, refused.Close())
	}
	require.Equal(t, 1, proxy.Served())

	proxy.Mend()
	second := dial()
	require.NoError(t, say(second, time.Minute))
	proxy.Freeze()
	err = say(second, 50*time.Millisecond)
	var late net.Error
	require.ErrorAs(t, err, &late)
	require.True(t, late.Timeout(), "it is open and silent")
	proxy.Mend()
	heard := make([]byte, len("hello\n"))
	require.NoError(t, second.SetDeadline(time.Now().Add(time.Minute)))
	_, err = second.Read(heard)
	require.NoError(t, err, "what was held back arrives")
}
