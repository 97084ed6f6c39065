package testenv

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"
)

// Mail is a mail that a MailServer has taken.
type Mail struct {
	ID       string // Message-ID without its brackets
	From, To string
	Content  string // headers and body
}

// MailServer is an SMTP server that keeps what it takes.
type MailServer struct {
	// Addr is its host and port.
	Addr string
	// Log is a URL that answers 200 for a mail that was taken, with ?id=<Message-ID>,
	// and 404 for one that wasn't.
	Log string

	refuse func(mail Mail, try int) error

	mu    sync.Mutex
	tries map[string]int
	taken []Mail
}

// Answers of a mail server.
var (
	// ErrMailLater is temporary, as that of a server with greylisting.
	ErrMailLater error = &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "try again later"}
	// ErrMailHangUp ends the connection instead of an answer. The mail is not taken.
	ErrMailHangUp = errors.New("hang up")
	// ErrMailTakenHangUp is the same with a mail that is taken.
	ErrMailTakenHangUp = errors.New("take it and hang up")
	// ErrMailNever is permanent.
	ErrMailNever error = &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such mailbox"}
)

// StartMailServer runs a server until the test ends. refuse, where it is given, is
// asked about each mail at its end, with the number of the try.
func StartMailServer(t testing.TB, refuse func(mail Mail, try int) error) *MailServer {
	t.Helper()

	s := &MailServer{refuse: refuse, tries: map[string]int{}}
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{server: s, conn: c}, nil
	}))
	server.Domain = "localhost"

	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)

	s.Addr = listener.Addr().String()
	served := make(chan error, 1)

	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())

		if err := <-served; !errors.Is(err, smtp.ErrServerClosed) {
			require.NoError(t, err)
		}
	})

	log := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.URL.Query().Get("id")
		if !slices.ContainsFunc(s.Taken(), func(m Mail) bool { return m.ID == id }) {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(log.Close)
	s.Log = log.URL

	return s
}

// Taken returns the mails that were taken, in order.
func (s *MailServer) Taken() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()

	return slices.Clone(s.taken)
}

// session is one connection.
type session struct {
	server *MailServer
	conn   *smtp.Conn
	mail   Mail
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.mail.From = from

	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.mail.To = to

	return nil
}

func (s *session) Data(r io.Reader) error {
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}

	read, err := mail.ReadMessage(strings.NewReader(string(content)))
	if err != nil {
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: "this is no mail: " + err.Error()}
	}

	m := s.mail
	m.ID, m.Content = strings.Trim(read.Header.Get("Message-ID"), "<>"), string(content)

	server := s.server

	server.mu.Lock()
	defer server.mu.Unlock()

	server.tries[m.ID]++

	if server.refuse != nil {
		err = server.refuse(m, server.tries[m.ID])
	}

	if errors.Is(err, ErrMailHangUp) || errors.Is(err, ErrMailTakenHangUp) {
		_ = s.conn.Close()
	}

	if err == nil || errors.Is(err, ErrMailTakenHangUp) {
		server.taken = append(server.taken, m)
	}

	return err
}

func (s *session) Reset() { s.mail = Mail{} }

func (*session) Logout() error { return nil }
