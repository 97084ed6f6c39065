-- +goose Up
-- What events, users' actions and claims are about: whoever changes what belongs to an
-- entity locks its row here first. The revision counts changes by events and users.
CREATE TABLE {{.Anchors}} (
    entity_type TEXT NOT NULL,
    entity_id   TEXT NOT NULL,
    revision    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (entity_type, entity_id)
) WITHOUT ROWID;

-- The newest state that a consumer has taken of an entity's group of fields; '' is the
-- group of all fields. It outlives the inbox.
CREATE TABLE {{.Versions}} (
    consumer    TEXT NOT NULL,
    entity_type TEXT NOT NULL,
    entity_id   TEXT NOT NULL,
    field_group TEXT NOT NULL,
    version     TEXT NOT NULL,
    deleted     BOOLEAN NOT NULL DEFAULT FALSE,
    updated_at  INTEGER NOT NULL DEFAULT ({{.Now}}),
    PRIMARY KEY (consumer, entity_type, entity_id, field_group)
) WITHOUT ROWID;
CREATE INDEX {{.Prefix}}versions_entity ON {{.Versions}} (entity_type, entity_id);

-- +goose Down
DROP TABLE {{.Versions}};
DROP TABLE {{.Anchors}};
