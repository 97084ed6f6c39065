-- +goose Up
-- The last number that an outbox has given out, per stream and key.
CREATE TABLE IF NOT EXISTS {{.Sequences}} (
    stream      VARBINARY(255) NOT NULL,
    message_key VARBINARY(255) NOT NULL,
    last_number BIGINT NOT NULL,
    PRIMARY KEY (stream, message_key)
) ENGINE=InnoDB;

-- What a consumer has had of a stream's key: base is where it joined in, all from there
-- to mark, and what the bitmap ahead says beyond; a negative mark is of a row that was
-- just made. waiting says that messages are kept that wait for one before them.
CREATE TABLE IF NOT EXISTS {{.Positions}} (
    consumer    VARBINARY(255) NOT NULL,
    stream      VARBINARY(255) NOT NULL,
    message_key VARBINARY(255) NOT NULL,
    epoch       BIGINT NOT NULL,
    base        BIGINT NOT NULL,
    mark        BIGINT NOT NULL,
    ahead       VARBINARY(8192),
    waiting     BOOLEAN NOT NULL DEFAULT false,
    updated_at  DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (consumer, stream, message_key, epoch)
) ENGINE=InnoDB;

-- Numbers begin anew in an epoch: when the database is another one than before.
REPLACE INTO {{.Meta}} (name, value) VALUES ('sequence_epoch', '1'), ('sequence_server', '');

-- A program that knows no sequences would send what has one without.
UPDATE {{.Meta}} SET value = '6' WHERE name = 'min_program';

-- +goose Down
UPDATE {{.Meta}} SET value = '4' WHERE name = 'min_program';
DELETE FROM {{.Meta}} WHERE name IN ('sequence_epoch', 'sequence_server');
DROP TABLE IF EXISTS {{.Positions}};
DROP TABLE IF EXISTS {{.Sequences}};
