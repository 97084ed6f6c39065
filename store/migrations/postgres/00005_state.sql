-- +goose Up
-- What events, users' actions and claims are about: whoever changes what belongs to an
-- entity locks its row here first. The revision counts changes by events and users.
CREATE TABLE {{.Anchors}} (
    entity_type text COLLATE "C" NOT NULL,
    entity_id   text COLLATE "C" NOT NULL,
    revision    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (entity_type, entity_id)
) WITH (fillfactor = 80);

-- The newest state that a consumer has taken of an entity's group of fields; '' is the
-- group of all fields. It outlives the inbox.
CREATE TABLE {{.Versions}} (
    consumer    text COLLATE "C" NOT NULL,
    entity_type text COLLATE "C" NOT NULL,
    entity_id   text COLLATE "C" NOT NULL,
    field_group text COLLATE "C" NOT NULL,
    version     text COLLATE "C" NOT NULL,
    deleted     boolean NOT NULL DEFAULT false,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, entity_type, entity_id, field_group)
) WITH (fillfactor = 80);
CREATE INDEX {{.Prefix}}versions_entity ON {{.Versions}} (entity_type, entity_id);

-- +goose Down
DROP TABLE {{.Versions}};
DROP TABLE {{.Anchors}};
