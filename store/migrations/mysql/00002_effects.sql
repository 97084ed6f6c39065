-- +goose Up
-- Calls to the outside world. Each is written before it is made, and what came of it after.
CREATE TABLE IF NOT EXISTS {{.Effects}} (
    scope           VARBINARY(255) NOT NULL,
    effect_key      VARBINARY(255) NOT NULL,
    provider        VARBINARY(255) NOT NULL,
    request_hash    VARBINARY(32) NOT NULL,
    request         LONGBLOB,
    response        LONGBLOB,
    response_code   INT NOT NULL DEFAULT 0,
    response_meta   LONGTEXT CHARACTER SET utf8mb4,
    truncated       BOOLEAN NOT NULL DEFAULT FALSE,
    sealed          VARBINARY(16) NOT NULL,
    response_sealed VARBINARY(16) NOT NULL DEFAULT '',
    status          VARBINARY(16) NOT NULL,
    class           VARBINARY(16) NOT NULL,
    -- An earlier call may have taken effect.
    in_doubt        BOOLEAN NOT NULL DEFAULT FALSE,
    attempts        INT NOT NULL,
    last_error      TEXT CHARACTER SET utf8mb4,
    owner           VARBINARY(255) NOT NULL,
    epoch           BIGINT NOT NULL,
    claimed_until   DATETIME(6) NOT NULL,
    first_called_at DATETIME(6) NOT NULL,
    last_called_at  DATETIME(6) NOT NULL,
    consumer        VARBINARY(255),
    message_id      VARBINARY(255),
    settled_by      VARBINARY(255),
    settled_note    TEXT CHARACTER SET utf8mb4,
    created_at      DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    updated_at      DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    finished_at     DATETIME(6),
    PRIMARY KEY (scope, effect_key),
    KEY {{.Prefix}}effects_status (status, updated_at),
    KEY {{.Prefix}}effects_finished (finished_at),
    KEY {{.Prefix}}effects_message (message_id)
) ENGINE=InnoDB;

-- +goose Down
DROP TABLE IF EXISTS {{.Effects}};
