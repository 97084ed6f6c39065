package disrupt_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/internal/testenv/disrupt"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

// patience bounds what must happen, and soon does; moment is how long it is looked
// whether something doesn't happen.
const (
	patience = time.Minute
	moment   = 50 * time.Millisecond
)

// service is a service behind a proxy, as a client finds it.
type service struct {
	*disrupt.Proxy

	address string
	// accepted are the service's ends of the connections.
	accepted chan net.Conn
}

func behindProxy(t *testing.T) service {
	t.Helper()

	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := service{accepted: make(chan net.Conn, 100)}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.accepted <- conn
		}
	})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		accepting.Wait()
		close(s.accepted)
		for conn := range s.accepted {
			_ = conn.Close()
		}
	})
	proxy, address := disrupt.Through(t, "tcp://user@"+listener.Addr().String()+"/name?option=1")
	parsed, err := url.Parse(address)
	require.NoError(t, err)
	require.Equal(t, "tcp://user@"+parsed.Host+"/name?option=1", address)
	s.Proxy, s.address = proxy, parsed.Host

	return s
}

func (s service) tryDial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
}

// connect returns both ends of a new connection.
func (s service) connect(t *testing.T) (client, server net.Conn) {
	t.Helper()

	client, err := s.tryDial(t.Context())
	require.NoError(t, err)
	s.keep(t, client)
	requireSaid(t, client, "greeting")
	for {
		server = s.reached(t)
		heard := make([]byte, len("greeting"))
		if _, err := io.ReadFull(server, heard); err == nil {
			return client, server
		} // it was one that had been refused before
	}
}

// reached returns the service's end of the next connection.
func (s service) reached(t *testing.T) net.Conn {
	t.Helper()

	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case server := <-s.accepted:
		s.keep(t, server)

		return server
	case <-timeout.C:
		t.Fatal("the service is not reached")

		return nil
	}
}

func (service) keep(t *testing.T, conn net.Conn) {
	t.Helper()

	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { _ = conn.Close() })
}

func requireSaid(t *testing.T, conn net.Conn, what string) {
	t.Helper()

	_, err := io.WriteString(conn, what)
	require.NoError(t, err)
}

func requireHeard(t *testing.T, conn net.Conn, what string) {
	t.Helper()

	heard := make([]byte, len(what))
	_, err := io.ReadFull(conn, heard)
	require.NoError(t, err)
	require.Equal(t, what, string(heard))
}

// requireBroken demands that a connection has ended, by its end or by an error.
func requireBroken(t *testing.T, conn net.Conn) {
	t.Helper()

	_, err := io.Copy(io.Discard, conn) // what was under way already may still come
	var late net.Error
	if err != nil {
		require.ErrorAs(t, err, &late)
		require.False(t, late.Timeout(), "it is still open")
	}
}

// requireSilent demands that a connection is open and nothing comes.
func requireSilent(t *testing.T, conn net.Conn) {
	t.Helper()

	require.NoError(t, conn.SetReadDeadline(time.Now().Add(moment)))
	n, err := conn.Read(make([]byte, 1))
	var late net.Error
	require.ErrorAs(t, err, &late)
	require.True(t, late.Timeout(), "it has ended: %v", err)
	require.Zero(t, n)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
}

func TestProxyCutBreaksBothSidesAndServesNobodyUntilMended(t *testing.T) {
	t.Parallel()

	s := behindProxy(t)
	for n := range 20 {
		client, server := s.connect(t)
		requireSaid(t, server, "hello")
		requireHeard(t, client, "hello")
		require.Equal(t, n+1, s.Served())

		s.Cut()
		requireBroken(t, client)
		requireBroken(t, server)
		if refused, err := s.tryDial(t.Context()); err == nil { // or broken before it is told that it stands
			require.NoError(t, refused.SetDeadline(time.Now().Add(patience)))
			requireBroken(t, refused)
			require.NoError(t, refused.Close())
		}
		require.Equal(t, n+1, s.Served())
		_, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", s.address)
		require.Error(t, err, "the port is the proxy's all the time")
		s.Mend()
	}
}

// A peer that doesn't read has what it is sent pile up on the way to it.
func TestProxyCutBreaksConnectionsOnWhichBytesPileUp(t *testing.T) {
	t.Parallel()

	for _, frozen := range []bool{false, true} {
		s := behindProxy(t)
		var clients, servers []net.Conn
		var writing sync.WaitGroup
		for range 10 {
			client, server := s.connect(t)
			clients, servers = append(clients, client), append(servers, server)
			for _, conn := range []net.Conn{client, server} {
				writing.Go(func() { _, _ = io.Copy(conn, endless{}) })
			}
		}
		require.NoError(t, clients[0].SetReadDeadline(time.Now().Add(moment)))
		_, _ = io.Copy(io.Discard, clients[0]) // one is read from, for a moment
		require.NoError(t, clients[0].SetReadDeadline(time.Now().Add(patience)))
		if frozen {
			s.Freeze()
		}
		s.Cut()
		writing.Wait()
		for n := range clients {
			requireBroken(t, servers[n])
			requireBroken(t, clients[n])
		}
	}
}

type endless struct{}

func (endless) Read(to []byte) (int, error) { return len(to), nil }

func TestProxyFreezeHoldsBothDirectionsAndLosesNothing(t *testing.T) {
	t.Parallel()

	s := behindProxy(t)
	client, server := s.connect(t)
	s.Freeze()
	s.Freeze()
	requireSaid(t, client, "held back")
	requireSaid(t, server, "held back")
	requireSilent(t, client)
	requireSilent(t, server)
	opened, err := s.tryDial(t.Context())
	require.NoError(t, err)
	requireSaid(t, opened, "held back")
	far := s.reached(t)
	require.NoError(t, opened.Close())
	requireSilent(t, far)

	s.Mend()
	for _, conn := range []net.Conn{client, server, far} {
		requireHeard(t, conn, "held back")
	}
	_, err = far.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "the end comes after all that was said")
	requireSaid(t, client, "hello")
	requireHeard(t, server, "hello")
	require.Equal(t, 2, s.Served())
}

func TestProxyLosesNothingWhileItIsFrozenAgainAndAgain(t *testing.T) {
	t.Parallel()

	const size, chunk = 8 << 20, 50_000
	s := behindProxy(t)
	said := make([]byte, size)
	source := rand.NewChaCha8([32]byte{})
	_, _ = source.Read(said)
	var all errgroup.Group
	for range 4 {
		client, server := s.connect(t)
		for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
			from, to := way[0], way[1]
			all.Go(func() error {
				for rest := said; len(rest) > 0; rest = rest[min(chunk, len(rest)):] {
					if _, err := from.Write(rest[:min(chunk, len(rest))]); err != nil {
						return err
					}
				}

				return nil
			})
			all.Go(func() error {
				heard := make([]byte, size)
				if _, err := io.ReadFull(to, heard); err != nil {
					return err
				}
				if !bytes.Equal(said, heard) {
					return fmt.Errorf("other bytes have come")
				}

				return nil
			})
		}
	}
	done := make(chan error, 1)
	go func() { done <- all.Wait() }()
	for passing := true; ; passing = !passing {
		pause := time.NewTimer(5 * time.Millisecond)
		select {
		case err := <-done:
			pause.Stop()
			require.NoError(t, err)

			return
		case <-pause.C:
		}
		if passing {
			s.Freeze()
		} else {
			s.Mend()
		}
	}
}
