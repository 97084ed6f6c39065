package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
)

// Story is what one consumer knows of one message.
type Story struct {
	// Consumer is its name in the form in which it is stored.
	Consumer string
	// Row is what the inbox remembers of the message, nil when it doesn't.
	Row *InboxRow
	// Log is what the verdict log says of it, oldest first: the first and the last
	// entries when there are more than StoryEntries.
	Log []StoryEntry
	// Entries is how many there are in the log.
	Entries int64
	// Since is when the oldest message was decided that the consumer still
	// remembers: what came before may have been forgotten. Zero when it remembers
	// none. It is set where the message was never seen.
	Since time.Time
}

// Seen reports whether the consumer has heard of the message.
func (s Story) Seen() bool { return s.Row != nil || s.Entries > 0 }

// StoryEntry is one entry of the verdict log.
type StoryEntry struct {
	Verdict  Verdict
	Reason   string
	Observed bool
	At       time.Time
}

// StoryEntries is how many entries of the verdict log a Story holds at most.
const StoryEntries = 20

// ErrUnknownConsumer says that nothing is remembered under a consumer's name.
var ErrUnknownConsumer = errors.New("unknown consumer")

// Stories tells what every consumer knows of a message, sorted by consumer, or
// what the one that is named does; when that remembers nothing at all the error
// matches ErrUnknownConsumer. Ids and names may be given as they are or as
// they are stored. It takes some look-ups for each consumer, however large the
// tables are, and sees what is committed while it looks.
func (s *Store) Stories(ctx context.Context, messageID, consumer string) ([]Story, error) {
	consumers, err := s.Consumers(ctx)
	if err != nil {
		return nil, err
	}
	if consumer != "" {
		named := storedIdentity(consumer)
		if !slices.Contains(consumers, named) {
			return nil, fmt.Errorf("store: %w %q", ErrUnknownConsumer, named)
		}
		consumers = []string{named}
	}
	messageID = storedIdentity(messageID)
	stories := make([]Story, 0, len(consumers))
	err = s.withConn(ctx, func(conn *sqlx.Conn) error {
		for _, name := range consumers {
			story, err := s.story(ctx, conn, name, messageID)
			if err != nil {
				return err
			}
			stories = append(stories, story)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store: story of message %q: %w", messageID, err)
	}
	return stories, nil
}

// story takes names as they are stored. The log is read first: a repeat is logged
// after the message's row was committed, so that no story has a repeat of nothing.
func (s *Store) story(ctx context.Context, conn *sqlx.Conn, consumer, messageID string) (Story, error) {
	story := Story{Consumer: consumer}
	if err := s.storyLog(ctx, conn, &story, messageID); err != nil {
		return Story{}, err
	}
	row, err := s.lookInbox(ctx, conn, consumer, messageID)
	if err == nil {
		story.Row = &row
		return story, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return Story{}, err
	}
	if story.Entries == 0 {
		story.Since, err = s.remembersSince(ctx, conn, consumer)
		return story, err
	}
	return story, nil
}

func (s *Store) storyLog(ctx context.Context, conn *sqlx.Conn, story *Story, messageID string) error {
	from := " FROM " + s.names.verdictLog + " WHERE consumer = ? AND message_id = ?"
	count := s.dialect.rebind("SELECT count(*)" + from)
	if err := conn.GetContext(ctx, &story.Entries, count, story.Consumer, messageID); err != nil || story.Entries == 0 {
		return err
	}
	columns := "SELECT verdict, reason, observed, " + s.dialect.micros("created_at") + " AS created_at_us"
	read := func(order string, limit int) error {
		var rows []logRow
		query := s.dialect.rebind(columns + from + " ORDER BY id " + order + " LIMIT ?")
		if err := conn.SelectContext(ctx, &rows, query, story.Consumer, messageID, limit); err != nil {
			return err
		}
		if order == "DESC" {
			slices.Reverse(rows)
		}
		for _, r := range rows {
			story.Log = append(story.Log, r.entry())
		}
		return nil
	}
	if story.Entries <= StoryEntries {
		return read("ASC", StoryEntries)
	}
	if err := read("ASC", StoryEntries/2); err != nil {
		return err
	}
	return read("DESC", StoryEntries/2)
}

type logRow struct {
	Verdict  string         `db:"verdict"`
	Reason   sql.NullString `db:"reason"`
	Observed bool           `db:"observed"`
	At       int64          `db:"created_at_us"`
}

func (r logRow) entry() StoryEntry {
	return StoryEntry{
		Verdict: Verdict(r.Verdict), Reason: r.Reason.String, Observed: r.Observed, At: timeFromMicros(r.At),
	}
}

// lookInbox is getInbox without a lock, for those who only look.
func (s *Store) lookInbox(ctx context.Context, conn *sqlx.Conn, consumer, messageID string) (InboxRow, error) {
	var row inboxRow
	query := s.dialect.rebind(s.inboxQuery())
	if err := conn.GetContext(ctx, &row, query, consumer, messageID); err != nil {
		return InboxRow{}, err
	}
	return row.of(consumer, messageID), nil
}

// remembersSince looks for the oldest final row. Open ones are older than the
// purge's window, and say nothing of what it has left.
func (s *Store) remembersSince(ctx context.Context, conn *sqlx.Conn, consumer string) (time.Time, error) {
	var us int64
	query := s.dialect.rebind("SELECT " + s.dialect.micros("processed_at") + " FROM " + s.names.inbox +
		" WHERE consumer = ? AND verdict NOT IN " + openVerdicts + " ORDER BY processed_at LIMIT 1")
	err := conn.GetContext(ctx, &us, query, consumer)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return timeFromMicros(us), nil
}
