package service

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/examples/purchasing/buying"
)

const stateEntry, noteEntry = "state", "note"

// send gives a mail to the mail server, once. A mail can't be rolled back, so it is sent
// in front of the transaction that notes what became of it.
func (s *Service) send(ctx context.Context, msg *message.Message) (effects.Response, error) {
	letter, err := s.Desk.Letter(msg)
	if err != nil {
		return effects.Response{}, err
	}
	response, err := s.mailing.Do(ctx, scope, letter.ID, []byte(letter.Content),
		func(ctx context.Context, _ string, content []byte) (effects.Response, error) {
			return taken(), s.cfg.Server.Send(ctx, letter.From, letter.To, content)
		})
	switch {
	case errors.Is(err, effects.ErrRefused):
		return became(buying.Refused, err.Error()), nil
	case errors.Is(err, effects.ErrUnknown):
		return became(buying.Unknown, err.Error()), nil
	}
	return response, err
}

func taken() effects.Response { return became(buying.Sent, "") }

func became(state, note string) effects.Response {
	return effects.Response{Meta: map[string]string{stateEntry: state, noteEntry: note}}
}

// noteSent is the transaction behind send.
func (s *Service) noteSent(msg *message.Message) error {
	letter, err := s.Desk.Letter(msg)
	if err != nil {
		return err
	}
	response, ok := effects.ResultOf(msg.Context(), scope)
	if !ok {
		return errors.New("the mail was not sent in front of the transaction")
	}
	return s.Desk.Mailed(msg.Context(), letter.ID, response.Meta[stateEntry], response.Meta[noteEntry])
}

// mailServer is what mail servers can do: they know no idempotency keys, and some can
// be asked.
func (s *Service) mailServer() effects.Provider {
	p := s.cfg.Effects.Provider
	p.Name = "smtp"
	if s.cfg.Taken == nil {
		return p
	}
	p.Lookup = func(ctx context.Context, _ string, content []byte) (effects.Response, bool, error) {
		read, err := mail.ReadMessage(strings.NewReader(string(content)))
		if err != nil {
			return effects.Response{}, false, fmt.Errorf("the mail can't be read: %w", err)
		}
		found, err := s.cfg.Taken(ctx, strings.Trim(read.Header.Get("Message-ID"), "<>"))
		return taken(), found, err
	}
	return p
}

// Settle says of a mail in the state buying.Unknown what a person has found out:
// whether the supplier has it. If not, it is sent again.
func (s *Service) Settle(ctx context.Context, actor, id string, sent bool, note string) error {
	decision := effects.CallAgain(note)
	if sent {
		decision = effects.Happened(taken(), note)
	}
	// It may be settled already, by this very call, which was cut off.
	err := effects.Settle(ctx, s.hr.Store(), actor, scope, id, decision)
	if err != nil && !errors.Is(err, effects.ErrNotUnknown) {
		return err
	}
	return s.InTx(ctx, func(ctx context.Context) error { return s.Desk.Post(ctx, id) })
}
