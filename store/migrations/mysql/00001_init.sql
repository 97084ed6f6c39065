-- +goose Up
CREATE TABLE IF NOT EXISTS {{.Meta}} (
    name  VARBINARY(255) NOT NULL PRIMARY KEY,
    value TEXT CHARACTER SET utf8mb4 NOT NULL
) ENGINE=InnoDB;
-- The oldest program (by the newest migration that it knows) that may use this schema.
REPLACE INTO {{.Meta}} (name, value) VALUES ('min_program', '1');

-- Identities are binary: under the usual collations 'A', 'a' and 'a ' are one.
CREATE TABLE IF NOT EXISTS {{.Inbox}} (
    consumer     VARBINARY(255) NOT NULL,
    message_id   VARBINARY(255) NOT NULL,
    verdict      VARBINARY(16) NOT NULL,
    reason       TEXT CHARACTER SET utf8mb4,
    fingerprint  VARBINARY(32),
    processed_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (consumer, message_id),
    KEY {{.Prefix}}inbox_purge (consumer, processed_at)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS {{.VerdictLog}} (
    id         BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    consumer   VARBINARY(255) NOT NULL,
    message_id VARBINARY(255) NOT NULL,
    verdict    VARBINARY(16) NOT NULL,
    reason     TEXT CHARACTER SET utf8mb4,
    observed   BOOLEAN NOT NULL DEFAULT FALSE,
    created_at DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    KEY {{.Prefix}}verdict_log_message (consumer, message_id),
    KEY {{.Prefix}}verdict_log_purge (consumer, created_at)
) ENGINE=InnoDB;

-- Other programs may write here too. What could never be sent is refused at the
-- insert, where its writer hears of it.
CREATE TABLE IF NOT EXISTS {{.Outbox}} (
    service      VARBINARY(255) NOT NULL DEFAULT '',
    partition_no SMALLINT NOT NULL,
    id           BIGINT NOT NULL AUTO_INCREMENT,
    message_id   VARBINARY(1024) NOT NULL,
    destination  VARBINARY(255) NOT NULL,
    topic        VARBINARY(255) NOT NULL,
    message_key  BLOB,
    sequence     BIGINT,
    payload      LONGBLOB,
    metadata     LONGTEXT CHARACTER SET utf8mb4 NOT NULL DEFAULT ('{}'),
    attempts     INT NOT NULL DEFAULT 0,
    last_error   TEXT CHARACTER SET utf8mb4,
    -- Id of the row of the table parked that keeps this one from being sent, and negative
    -- once a person has said that it be.
    parked_id    BIGINT,
    created_at   DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (service, partition_no, id),
    KEY {{.Prefix}}outbox_id (id),
    CONSTRAINT {{.Prefix}}outbox_partitions CHECK (partition_no BETWEEN 0 AND 15),
    CONSTRAINT {{.Prefix}}outbox_addressed CHECK (message_id <> '' AND destination <> '' AND topic <> ''),
    CONSTRAINT {{.Prefix}}outbox_numbers CHECK (sequence > 0 AND attempts >= 0),
    CONSTRAINT {{.Prefix}}outbox_metadata CHECK (JSON_VALID(metadata)),
    -- Dates with zeroes, which some servers take, make it NULL.
    CONSTRAINT {{.Prefix}}outbox_created CHECK (
        COALESCE(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at), -1) >= 0)
) ENGINE=InnoDB;

-- Messages for later. A slot's row stays for a while when it is sent, so that who
-- comes too late for the slot sees it.
CREATE TABLE IF NOT EXISTS {{.Scheduled}} (
    id           BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    service      VARBINARY(255) NOT NULL DEFAULT '',
    partition_no SMALLINT NOT NULL,
    message_id   VARBINARY(1024) NOT NULL,
    destination  VARBINARY(255) NOT NULL,
    topic        VARBINARY(255) NOT NULL,
    message_key  BLOB,
    payload      LONGBLOB,
    metadata     LONGTEXT CHARACTER SET utf8mb4 NOT NULL DEFAULT ('{}'),
    state        VARBINARY(16) NOT NULL DEFAULT 'waiting',
    due_at       DATETIME(6) NOT NULL,
    slot         VARBINARY(255),
    slot_subject BLOB,
    slot_plan    TEXT CHARACTER SET utf8mb4,
    sequenced    BOOLEAN NOT NULL DEFAULT FALSE,
    touched      BIGINT NOT NULL DEFAULT 0,
    created_at   DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    KEY {{.Prefix}}scheduled_due (service, state, due_at, id),
    KEY {{.Prefix}}scheduled_message (message_id(255)),
    UNIQUE KEY {{.Prefix}}scheduled_slot (slot)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS {{.Leases}} (
    name       VARBINARY(255) NOT NULL PRIMARY KEY,
    owner      VARBINARY(255) NOT NULL,
    epoch      BIGINT NOT NULL,
    expires_at DATETIME(6) NOT NULL
) ENGINE=InnoDB;

-- +goose Down
DROP TABLE IF EXISTS {{.Leases}};
DROP TABLE IF EXISTS {{.Scheduled}};
DROP TABLE IF EXISTS {{.Outbox}};
DROP TABLE IF EXISTS {{.VerdictLog}};
DROP TABLE IF EXISTS {{.Inbox}};
DROP TABLE IF EXISTS {{.Meta}};
