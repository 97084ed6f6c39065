-- +goose Up
-- Lines that are held: whatever comes for one waits in the table parked. A line
-- that isn't held has no row.
CREATE TABLE {{.Gates}} (
    consumer    TEXT NOT NULL,
    line        TEXT NOT NULL,
    message_key TEXT,
    paused      BOOLEAN NOT NULL DEFAULT FALSE,
    due_at      INTEGER,
    claimed_by  TEXT NOT NULL DEFAULT '',
    claim_epoch INTEGER NOT NULL DEFAULT 0,
    claim_head  INTEGER,
    stalls      INTEGER NOT NULL DEFAULT 0,
    kept        INTEGER NOT NULL DEFAULT 0,
    gone        INTEGER NOT NULL DEFAULT 0,
    held_since  INTEGER NOT NULL DEFAULT ({{.Now}}),
    PRIMARY KEY (consumer, line)
) WITHOUT ROWID;
CREATE INDEX {{.Prefix}}gates_due ON {{.Gates}} (consumer, due_at);

-- Messages that are kept, and what they wait for. The open ones of a line are
-- handled in the order of their ids; a final one has no line.
CREATE TABLE {{.Parked}} (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    origin           TEXT NOT NULL,
    consumer         TEXT NOT NULL,
    line             TEXT,
    inbox_id         TEXT,
    message_id       TEXT NOT NULL DEFAULT '',
    message_key      TEXT,
    topic            TEXT NOT NULL DEFAULT '',
    destination      TEXT NOT NULL DEFAULT '',
    payload          BLOB,
    metadata         TEXT NOT NULL DEFAULT '{}',
    sealed           TEXT NOT NULL DEFAULT '',
    edited_payload   BLOB,
    edited_metadata  TEXT,
    edited_sealed    TEXT NOT NULL DEFAULT '',
    edits            INTEGER NOT NULL DEFAULT 0,
    status           TEXT NOT NULL,
    class            TEXT NOT NULL DEFAULT '',
    reason           TEXT,
    error_type       TEXT NOT NULL DEFAULT '',
    error_group      TEXT NOT NULL DEFAULT '',
    error_title      TEXT NOT NULL DEFAULT '',
    chain            TEXT NOT NULL DEFAULT '[]',
    history          TEXT NOT NULL DEFAULT '[]',
    attempts         INTEGER NOT NULL DEFAULT 0,
    tries            INTEGER NOT NULL DEFAULT 0,
    due_at           INTEGER,
    subject          TEXT,
    diff             BLOB,
    decision         TEXT NOT NULL DEFAULT '',
    decided_by       TEXT NOT NULL DEFAULT '',
    outbox_service   TEXT,
    outbox_partition INTEGER,
    outbox_row       INTEGER,
    gap_place        TEXT,
    gap_sequence     INTEGER,
    note             TEXT,
    parked_at        INTEGER NOT NULL DEFAULT ({{.Now}}),
    updated_at       INTEGER NOT NULL DEFAULT ({{.Now}}),
    finished_at      INTEGER
);
CREATE INDEX {{.Prefix}}parked_line ON {{.Parked}} (consumer, line, id);
CREATE INDEX {{.Prefix}}parked_gap ON {{.Parked}} (consumer, gap_place, gap_sequence) WHERE gap_place IS NOT NULL;
CREATE INDEX {{.Prefix}}parked_list ON {{.Parked}} (status, consumer, error_group, id);
CREATE INDEX {{.Prefix}}parked_message ON {{.Parked}} (message_id);
CREATE INDEX {{.Prefix}}parked_key ON {{.Parked}} (message_key);
CREATE INDEX {{.Prefix}}parked_finished ON {{.Parked}} (finished_at);

-- A program that knows no gates would handle what has to wait.
UPDATE {{.Meta}} SET value = '4' WHERE name = 'min_program';

-- +goose Down
UPDATE {{.Meta}} SET value = '1' WHERE name = 'min_program';
DROP TABLE {{.Parked}};
DROP TABLE {{.Gates}};
