-- +goose Up
-- What operators have changed. It never holds payloads.
CREATE TABLE {{.Audit}} (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL DEFAULT ({{.Now}}),
    actor       TEXT NOT NULL,
    action      TEXT NOT NULL,
    target_kind TEXT NOT NULL,
    target      TEXT NOT NULL,
    subject     TEXT NOT NULL DEFAULT '',
    details     TEXT NOT NULL DEFAULT '{}',
    note        TEXT,
    CONSTRAINT {{.Prefix}}audit_signed CHECK (actor <> '' AND action <> '')
);
CREATE INDEX {{.Prefix}}audit_target ON {{.Audit}} (target_kind, target);
CREATE INDEX {{.Prefix}}audit_subject ON {{.Audit}} (subject);
CREATE INDEX {{.Prefix}}audit_at ON {{.Audit}} (at);

-- +goose Down
DROP TABLE {{.Audit}};
