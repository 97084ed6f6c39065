// Package smtp hands one mail to a mail server, and says of each failure whether the
// server may have taken it.
package smtp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"net/textproto"

	"github.com/headrace-go/headrace/effects"
)

// Server is a mail server that takes mails from this host without a password, as
// one on the same host does.
type Server struct {
	// Addr is its host and port.
	Addr string
	// Hello is the name that it is greeted by. Default: localhost.
	Hello string
}

// Send hands over one mail. An error is marked as effects.Refused where the server
// has said no for good, as effects.NotDone where it has surely not taken the mail,
// and leaves open whether it has where the connection broke at the very end.
func (s Server) Send(ctx context.Context, from, to string, content []byte) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return effects.NotDone(fmt.Errorf("smtp: connect to %s: %w", s.Addr, err))
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close() //nolint:errcheck // the server has answered, or there is an error
	body, client, err := s.begin(conn, from, to)
	if err == nil {
		_, err = body.Write(content)
	}
	if err != nil {
		return judge(err, effects.NotDone)
	}
	// Here the mail ends, and the server answers that it has it.
	if err := body.Close(); err != nil {
		return judge(err, func(err error) error { return err })
	}
	_ = client.Quit() // the mail is gone, whatever becomes of the connection
	return nil
}

// begin is all that comes before the mail itself.
//
//nolint:wrapcheck // judge does
func (s Server) begin(conn net.Conn, from, to string) (body io.WriteCloser, client *smtp.Client, err error) {
	host, _, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return nil, nil, err
	}
	if client, err = smtp.NewClient(conn, host); err != nil {
		return nil, nil, err
	}
	if s.Hello != "" {
		if err := client.Hello(s.Hello); err != nil {
			return nil, nil, err
		}
	}
	if err := client.Mail(from); err != nil {
		return nil, nil, err
	}
	if err := client.Rcpt(to); err != nil {
		return nil, nil, err
	}
	body, err = client.Data()
	return body, client, err
}

// judge marks a failure by the server's answer, or as said where there was none.
func judge(err error, unanswered func(error) error) error {
	const permanent = 500
	answer := (*textproto.Error)(nil)
	wrapped := fmt.Errorf("smtp: %w", err)
	switch {
	case !errors.As(err, &answer):
		return unanswered(wrapped)
	case answer.Code >= permanent:
		return effects.Refused(wrapped)
	default:
		return effects.NotDone(wrapped)
	}
}
