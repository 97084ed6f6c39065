-- +goose Up
-- What operators have changed. It never holds payloads.
CREATE TABLE IF NOT EXISTS {{.Audit}} (
    id          BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    at          DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    actor       VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL,
    action      VARBINARY(16) NOT NULL,
    target_kind VARBINARY(16) NOT NULL,
    target      VARBINARY(255) NOT NULL,
    subject     VARBINARY(255) NOT NULL DEFAULT '',
    details     LONGTEXT CHARACTER SET utf8mb4 NOT NULL DEFAULT ('{}'),
    note        TEXT CHARACTER SET utf8mb4,
    KEY {{.Prefix}}audit_target (target_kind, target),
    KEY {{.Prefix}}audit_subject (subject),
    KEY {{.Prefix}}audit_at (at),
    CONSTRAINT {{.Prefix}}audit_signed CHECK (actor <> '' AND action <> '')
) ENGINE=InnoDB;

-- +goose Down
DROP TABLE IF EXISTS {{.Audit}};
