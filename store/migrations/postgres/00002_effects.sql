-- +goose Up
-- Calls to the outside world. Each is written before it is made, and what came of it after.
CREATE TABLE {{.Effects}} (
    scope           text COLLATE "C" NOT NULL,
    effect_key      text COLLATE "C" NOT NULL,
    provider        text COLLATE "C" NOT NULL,
    request_hash    bytea NOT NULL,
    request         bytea,
    response        bytea,
    response_code   integer NOT NULL DEFAULT 0,
    response_meta   text,
    truncated       boolean NOT NULL DEFAULT false,
    sealed          text COLLATE "C" NOT NULL,
    response_sealed text COLLATE "C" NOT NULL DEFAULT '',
    status          text COLLATE "C" NOT NULL,
    class           text COLLATE "C" NOT NULL,
    -- An earlier call may have taken effect.
    in_doubt        boolean NOT NULL DEFAULT false,
    attempts        integer NOT NULL,
    last_error      text,
    owner           text COLLATE "C" NOT NULL,
    epoch           bigint NOT NULL,
    claimed_until   timestamptz NOT NULL,
    first_called_at timestamptz NOT NULL,
    last_called_at  timestamptz NOT NULL,
    consumer        text COLLATE "C",
    message_id      text COLLATE "C",
    settled_by      text COLLATE "C",
    settled_note    text,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz,
    PRIMARY KEY (scope, effect_key)
);
CREATE INDEX {{.Prefix}}effects_status ON {{.Effects}} (status, updated_at);
CREATE INDEX {{.Prefix}}effects_finished ON {{.Effects}} (finished_at);
CREATE INDEX {{.Prefix}}effects_message ON {{.Effects}} (message_id);

-- +goose Down
DROP TABLE {{.Effects}};
