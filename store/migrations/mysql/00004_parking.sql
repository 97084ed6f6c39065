-- +goose Up
-- Lines that are held: whatever comes for one waits in the table parked. A line
-- that isn't held has no row.
CREATE TABLE IF NOT EXISTS {{.Gates}} (
    consumer    VARBINARY(255) NOT NULL,
    line        VARBINARY(255) NOT NULL,
    message_key VARBINARY(255),
    paused      BOOLEAN NOT NULL DEFAULT FALSE,
    due_at      DATETIME(6),
    claimed_by  VARBINARY(255) NOT NULL DEFAULT '',
    claim_epoch BIGINT NOT NULL DEFAULT 0,
    claim_head  BIGINT,
    stalls      INT NOT NULL DEFAULT 0,
    kept        BIGINT NOT NULL DEFAULT 0,
    gone        BIGINT NOT NULL DEFAULT 0,
    held_since  DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (consumer, line),
    KEY {{.Prefix}}gates_due (consumer, due_at)
) ENGINE=InnoDB;

-- Messages that are kept, and what they wait for. The open ones of a line are
-- handled in the order of their ids; a final one has no line.
CREATE TABLE IF NOT EXISTS {{.Parked}} (
    id               BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    origin           VARBINARY(16) NOT NULL,
    consumer         VARBINARY(255) NOT NULL,
    line             VARBINARY(255),
    inbox_id         VARBINARY(255),
    message_id       VARBINARY(255) NOT NULL DEFAULT '',
    message_key      VARBINARY(255),
    topic            VARBINARY(255) NOT NULL DEFAULT '',
    destination      VARBINARY(255) NOT NULL DEFAULT '',
    payload          LONGBLOB,
    metadata         LONGTEXT CHARACTER SET utf8mb4 NOT NULL DEFAULT ('{}'),
    sealed           VARBINARY(16) NOT NULL DEFAULT '',
    edited_payload   LONGBLOB,
    edited_metadata  LONGTEXT CHARACTER SET utf8mb4,
    edited_sealed    VARBINARY(16) NOT NULL DEFAULT '',
    edits            INT NOT NULL DEFAULT 0,
    status           VARBINARY(16) NOT NULL,
    class            VARBINARY(16) NOT NULL DEFAULT '',
    reason           TEXT CHARACTER SET utf8mb4,
    error_type       VARBINARY(255) NOT NULL DEFAULT '',
    error_group      VARBINARY(64) NOT NULL DEFAULT '',
    error_title      VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL DEFAULT '',
    chain            LONGTEXT CHARACTER SET utf8mb4 NOT NULL DEFAULT ('[]'),
    history          LONGTEXT CHARACTER SET utf8mb4 NOT NULL DEFAULT ('[]'),
    attempts         INT NOT NULL DEFAULT 0,
    tries            INT NOT NULL DEFAULT 0,
    due_at           DATETIME(6),
    subject          VARBINARY(255),
    diff             LONGBLOB,
    decision         VARBINARY(16) NOT NULL DEFAULT '',
    decided_by       VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL DEFAULT '',
    outbox_service   VARBINARY(255),
    outbox_partition SMALLINT,
    outbox_row       BIGINT,
    gap_place        VARBINARY(255),
    gap_sequence     BIGINT,
    note             TEXT CHARACTER SET utf8mb4,
    parked_at        DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    updated_at       DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    finished_at      DATETIME(6),
    KEY {{.Prefix}}parked_line (consumer, line, id),
    KEY {{.Prefix}}parked_gap (consumer, gap_place, gap_sequence),
    KEY {{.Prefix}}parked_list (status, consumer, error_group, id),
    KEY {{.Prefix}}parked_message (message_id),
    KEY {{.Prefix}}parked_key (message_key),
    KEY {{.Prefix}}parked_finished (finished_at)
) ENGINE=InnoDB;

-- A program that knows no gates would handle what has to wait.
UPDATE {{.Meta}} SET value = '4' WHERE name = 'min_program';

-- +goose Down
UPDATE {{.Meta}} SET value = '1' WHERE name = 'min_program';
DROP TABLE IF EXISTS {{.Parked}};
DROP TABLE IF EXISTS {{.Gates}};
