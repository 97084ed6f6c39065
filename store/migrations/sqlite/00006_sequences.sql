-- +goose Up
-- The last number that an outbox has given out, per stream and key.
CREATE TABLE {{.Sequences}} (
    stream      TEXT NOT NULL,
    message_key TEXT NOT NULL,
    last_number INTEGER NOT NULL,
    PRIMARY KEY (stream, message_key)
) WITHOUT ROWID;

-- What a consumer has had of a stream's key: base is where it joined in, all from there
-- to mark, and what the bitmap ahead says beyond; a negative mark is of a row that was
-- just made. waiting says that messages are kept that wait for one before them.
CREATE TABLE {{.Positions}} (
    consumer    TEXT NOT NULL,
    stream      TEXT NOT NULL,
    message_key TEXT NOT NULL,
    epoch       INTEGER NOT NULL,
    base        INTEGER NOT NULL,
    mark        INTEGER NOT NULL,
    ahead       BLOB,
    waiting     BOOLEAN NOT NULL DEFAULT false,
    updated_at  INTEGER NOT NULL DEFAULT ({{.Now}}),
    PRIMARY KEY (consumer, stream, message_key, epoch)
) WITHOUT ROWID;

-- Numbers begin anew in an epoch: when the database is another one than before.
INSERT INTO {{.Meta}} (name, value) VALUES ('sequence_epoch', '1'), ('sequence_server', '');

-- A program that knows no sequences would send what has one without.
UPDATE {{.Meta}} SET value = '6' WHERE name = 'min_program';

-- +goose Down
UPDATE {{.Meta}} SET value = '4' WHERE name = 'min_program';
DELETE FROM {{.Meta}} WHERE name IN ('sequence_epoch', 'sequence_server');
DROP TABLE {{.Positions}};
DROP TABLE {{.Sequences}};
