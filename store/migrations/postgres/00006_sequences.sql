-- +goose Up
-- The last number that an outbox has given out, per stream and key.
CREATE TABLE {{.Sequences}} (
    stream      text COLLATE "C" NOT NULL,
    message_key text COLLATE "C" NOT NULL,
    last_number bigint NOT NULL,
    PRIMARY KEY (stream, message_key)
) WITH (fillfactor = 80);

-- What a consumer has had of a stream's key: base is where it joined in, all from there
-- to mark, and what the bitmap ahead says beyond; a negative mark is of a row that was
-- just made. waiting says that messages are kept that wait for one before them.
CREATE TABLE {{.Positions}} (
    consumer    text COLLATE "C" NOT NULL,
    stream      text COLLATE "C" NOT NULL,
    message_key text COLLATE "C" NOT NULL,
    epoch       bigint NOT NULL,
    base        bigint NOT NULL,
    mark        bigint NOT NULL,
    ahead       bytea,
    waiting     boolean NOT NULL DEFAULT false,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, stream, message_key, epoch)
) WITH (fillfactor = 80);

-- Numbers begin anew in an epoch: when the database is another one than before.
INSERT INTO {{.Meta}} (name, value) VALUES ('sequence_epoch', '1'), ('sequence_server', '');

-- A program that knows no sequences would send what has one without.
UPDATE {{.Meta}} SET value = '6' WHERE name = 'min_program';

-- +goose Down
UPDATE {{.Meta}} SET value = '4' WHERE name = 'min_program';
DELETE FROM {{.Meta}} WHERE name IN ('sequence_epoch', 'sequence_server');
DROP TABLE {{.Positions}};
DROP TABLE {{.Sequences}};
