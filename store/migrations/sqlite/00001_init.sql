-- +goose Up
-- Timestamps are microseconds since 1970, UTC.
CREATE TABLE {{.Meta}} (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
-- The oldest program (by the newest migration that it knows) that may use this schema.
INSERT INTO {{.Meta}} (name, value) VALUES ('min_program', '1');

CREATE TABLE {{.Inbox}} (
    consumer     TEXT NOT NULL,
    message_id   TEXT NOT NULL,
    verdict      TEXT NOT NULL,
    reason       TEXT,
    fingerprint  BLOB,
    processed_at INTEGER NOT NULL DEFAULT ({{.Now}}),
    PRIMARY KEY (consumer, message_id)
) WITHOUT ROWID;
CREATE INDEX {{.Prefix}}inbox_purge ON {{.Inbox}} (consumer, processed_at);

CREATE TABLE {{.VerdictLog}} (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer   TEXT NOT NULL,
    message_id TEXT NOT NULL,
    verdict    TEXT NOT NULL,
    reason     TEXT,
    observed   BOOLEAN NOT NULL DEFAULT FALSE,
    created_at INTEGER NOT NULL DEFAULT ({{.Now}})
);
CREATE INDEX {{.Prefix}}verdict_log_message ON {{.VerdictLog}} (consumer, message_id);
CREATE INDEX {{.Prefix}}verdict_log_purge ON {{.VerdictLog}} (consumer, created_at);

-- Other programs may write here too. What could never be sent is refused at the
-- insert, where its writer hears of it. Columns take any type unless told.
-- AUTOINCREMENT: an id must not come back after the last row was deleted.
CREATE TABLE {{.Outbox}} (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    service      TEXT NOT NULL DEFAULT '',
    partition_no INTEGER NOT NULL,
    message_id   TEXT NOT NULL,
    destination  TEXT NOT NULL,
    topic        TEXT NOT NULL,
    message_key  TEXT,
    sequence     INTEGER,
    payload      BLOB,
    metadata     TEXT NOT NULL DEFAULT '{}',
    attempts     INTEGER NOT NULL DEFAULT 0,
    last_error   TEXT,
    -- Id of the row of the table parked that keeps this one from being sent, and negative
    -- once a person has said that it be.
    parked_id    INTEGER,
    created_at   INTEGER NOT NULL DEFAULT ({{.Now}}),
    CONSTRAINT {{.Prefix}}outbox_partitions CHECK (typeof(partition_no) = 'integer' AND partition_no BETWEEN 0 AND 15),
    CONSTRAINT {{.Prefix}}outbox_addressed CHECK (message_id <> '' AND destination <> '' AND topic <> ''),
    CONSTRAINT {{.Prefix}}outbox_numbers CHECK (
        typeof(sequence) IN ('integer', 'null') AND sequence > 0 AND typeof(attempts) = 'integer' AND attempts >= 0),
    CONSTRAINT {{.Prefix}}outbox_metadata CHECK (json_valid(metadata)),
    CONSTRAINT {{.Prefix}}outbox_created CHECK (typeof(created_at) = 'integer' AND created_at >= 0)
);
CREATE INDEX {{.Prefix}}outbox_partition ON {{.Outbox}} (service, partition_no, id);

-- Messages for later. A slot's row stays for a while when it is sent, so that who
-- comes too late for the slot sees it.
CREATE TABLE {{.Scheduled}} (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    service      TEXT NOT NULL DEFAULT '',
    partition_no INTEGER NOT NULL,
    message_id   TEXT NOT NULL,
    destination  TEXT NOT NULL,
    topic        TEXT NOT NULL,
    message_key  TEXT,
    payload      BLOB,
    metadata     TEXT NOT NULL DEFAULT '{}',
    state        TEXT NOT NULL DEFAULT 'waiting',
    due_at       INTEGER NOT NULL,
    slot         TEXT,
    slot_subject TEXT,
    slot_plan    TEXT,
    sequenced    BOOLEAN NOT NULL DEFAULT FALSE,
    touched      INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL DEFAULT ({{.Now}})
);
CREATE INDEX {{.Prefix}}scheduled_due ON {{.Scheduled}} (service, state, due_at, id);
CREATE INDEX {{.Prefix}}scheduled_message ON {{.Scheduled}} (message_id);
CREATE UNIQUE INDEX {{.Prefix}}scheduled_slot ON {{.Scheduled}} (slot);

CREATE TABLE {{.Leases}} (
    name       TEXT NOT NULL PRIMARY KEY,
    owner      TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;

-- +goose Down
DROP TABLE {{.Leases}};
DROP TABLE {{.Scheduled}};
DROP TABLE {{.Outbox}};
DROP TABLE {{.VerdictLog}};
DROP TABLE {{.Inbox}};
DROP TABLE {{.Meta}};
