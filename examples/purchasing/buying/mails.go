package buying

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
)

// States of a mail.
const (
	// Written mails are on their way to the mail server.
	Written = "written"
	// Sent mails were taken by it.
	Sent = "sent"
	// Refused mails were not, for good.
	Refused = "refused"
	// Unknown says that nobody knows whether the server has taken it.
	Unknown = "unknown"
)

// Mail is a mail to a supplier, and what became of it.
type Mail struct {
	ID       string `json:"id"`
	Supplier string `json:"supplier"`
	// Slot is the time that it was written for.
	Slot  string `json:"slot"`
	State string `json:"state"`
	// Note is the mail server's answer.
	Note string `json:"note,omitempty"`
}

// Letter is a mail as it is sent, again and again if need be.
type Letter struct {
	ID      string `db:"id"`
	From    string `db:"sender"`
	To      string `db:"recipient"`
	Content string `db:"content"`
}

// posted is a message of the topic Mails.
type posted struct {
	Mail string `json:"mail"`
}

// Letter returns what a message of the topic Mails has sent.
func (d *Desk) Letter(msg *message.Message) (l Letter, err error) {
	var p posted
	if err := json.Unmarshal(msg.Payload, &p); err != nil {
		return l, fmt.Errorf("buying: message %s names no mail: %w", msg.UUID, err)
	}
	err = d.cfg.DB.GetContext(msg.Context(), &l,
		d.cfg.DB.Rebind("SELECT id, sender, recipient, content FROM mails WHERE id = ?"), p.Mail)
	if err != nil {
		return l, fmt.Errorf("buying: read mail %q: %w", p.Mail, err)
	}
	return l, nil
}

// WriteMail handles a slot's message: it writes the supplier's mail of the orders
// that still stand. Where none do, there is no mail. Who changes or withdraws an
// order at the same time has come before, and it isn't in the mail as it was, or is
// told that it was mailed: both change the order's row.
func (d *Desk) WriteMail(msg *message.Message) error {
	ctx := msg.Context()
	supplier, slot, ok, err := msgmeta.GetSlot(msg)
	if err != nil {
		return fmt.Errorf("buying: %w", err)
	}
	if !ok {
		return fmt.Errorf("buying: message %s is for no slot", msg.UUID)
	}
	n, err := d.exec(ctx, `UPDATE recommendations SET mail = ?, version = version + 1
		WHERE supplier = ? AND state = 'ordered' AND mail = ''`, msg.UUID, supplier)
	if err != nil || n == 0 {
		return err
	}
	var lines []Recommendation
	err = d.cfg.DB.SelectContext(ctx, &lines, d.cfg.DB.Rebind(recommendationColumns+" WHERE mail = ? ORDER BY id"), msg.UUID)
	if err != nil {
		return fmt.Errorf("buying: read the orders at %s: %w", supplier, err)
	}
	var to string
	err = d.cfg.DB.GetContext(ctx, &to, d.cfg.DB.Rebind("SELECT address FROM suppliers WHERE name = ?"), supplier)
	if err != nil {
		return fmt.Errorf("buying: read the address of %s: %w", supplier, err)
	}
	l := d.letter(msg.UUID, to, slot, lines)
	if _, err := d.exec(ctx, `INSERT INTO mails (id, supplier, slot, sender, recipient, content, state, note)
		VALUES (?, ?, ?, ?, ?, ?, ?, '')`,
		l.ID, supplier, slot.UTC().Format(time.RFC3339), l.From, l.To, l.Content, Written); err != nil {
		return err
	}
	return d.Post(ctx, l.ID)
}

// Post has a mail sent that was written.
func (d *Desk) Post(ctx context.Context, id string) error {
	payload, err := json.Marshal(posted{id})
	if err != nil {
		return fmt.Errorf("buying: %w", err)
	}
	out := message.NewMessage(watermill.NewUUID(), payload)
	out.SetContext(ctx)
	msgmeta.SetKey(out, id)
	if err := d.cfg.Publisher.Publish(d.cfg.Mails, out); err != nil {
		return fmt.Errorf("buying: post mail %s: %w", id, err)
	}
	return nil
}

// letter says what is ordered. Nothing in it depends on when or how often it is
// sent.
func (d *Desk) letter(id, to string, slot time.Time, lines []Recommendation) Letter {
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	domain := "localhost"
	if _, after, ok := strings.Cut(d.cfg.From, "@"); ok {
		domain = after
	}
	header("From", (&mail.Address{Address: d.cfg.From}).String())
	header("To", (&mail.Address{Address: to}).String())
	header("Date", slot.Format(time.RFC1123Z))
	header("Message-ID", "<"+id+"@"+domain+">")
	header("Subject", mime.QEncoding.Encode("utf-8", fmt.Sprintf("Our orders of %s", slot.Format(time.DateOnly))))
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	body := quotedprintable.NewWriter(&b)
	for _, l := range lines {
		_, _ = fmt.Fprintf(body, "%d: %d of %s\r\n", l.ID, l.Quantity, l.Product) // to memory
	}
	_ = body.Close()
	return Letter{ID: id, From: d.cfg.From, To: to, Content: b.String()}
}

// Mailed notes what became of a mail.
func (d *Desk) Mailed(ctx context.Context, id, state, note string) error {
	const longest = 500
	if len(note) > longest {
		note = strings.ToValidUTF8(note[:longest], "")
	}
	n, err := d.exec(ctx, "UPDATE mails SET state = ?, note = ? WHERE id = ?", state, note, id)
	if err != nil {
		return err
	}
	if n == 0 {
		return errors.New("buying: there is no mail " + id)
	}
	return nil
}

// Mails returns all mails.
func (d *Desk) Mails(ctx context.Context) (all []Mail, err error) {
	err = d.cfg.DB.SelectContext(ctx, &all, "SELECT id, supplier, slot, state, note FROM mails ORDER BY slot, supplier")
	if err != nil {
		return nil, fmt.Errorf("buying: read mails: %w", err)
	}
	return all, nil
}
