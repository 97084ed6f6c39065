-- +goose Up
-- Calls to the outside world. Each is written before it is made, and what came of it after.
CREATE TABLE {{.Effects}} (
    scope           TEXT NOT NULL,
    effect_key      TEXT NOT NULL,
    provider        TEXT NOT NULL,
    request_hash    BLOB NOT NULL,
    request         BLOB,
    response        BLOB,
    response_code   INTEGER NOT NULL DEFAULT 0,
    response_meta   TEXT,
    truncated       INTEGER NOT NULL DEFAULT 0,
    sealed          TEXT NOT NULL,
    response_sealed TEXT NOT NULL DEFAULT '',
    status          TEXT NOT NULL,
    class           TEXT NOT NULL,
    -- An earlier call may have taken effect.
    in_doubt        INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL,
    last_error      TEXT,
    owner           TEXT NOT NULL,
    epoch           INTEGER NOT NULL,
    claimed_until   INTEGER NOT NULL,
    first_called_at INTEGER NOT NULL,
    last_called_at  INTEGER NOT NULL,
    consumer        TEXT,
    message_id      TEXT,
    settled_by      TEXT,
    settled_note    TEXT,
    created_at      INTEGER NOT NULL DEFAULT ({{.Now}}),
    updated_at      INTEGER NOT NULL DEFAULT ({{.Now}}),
    finished_at     INTEGER,
    PRIMARY KEY (scope, effect_key)
);
CREATE INDEX {{.Prefix}}effects_status ON {{.Effects}} (status, updated_at);
CREATE INDEX {{.Prefix}}effects_finished ON {{.Effects}} (finished_at);
CREATE INDEX {{.Prefix}}effects_message ON {{.Effects}} (message_id);

-- +goose Down
DROP TABLE {{.Effects}};
