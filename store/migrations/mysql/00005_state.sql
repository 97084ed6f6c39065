-- +goose Up
-- What events, users' actions and claims are about: whoever changes what belongs to an
-- entity locks its row here first. The revision counts changes by events and users.
CREATE TABLE IF NOT EXISTS {{.Anchors}} (
    entity_type VARBINARY(255) NOT NULL,
    entity_id   VARBINARY(255) NOT NULL,
    revision    BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (entity_type, entity_id)
) ENGINE=InnoDB;

-- The newest state that a consumer has taken of an entity's group of fields; '' is the
-- group of all fields. It outlives the inbox.
CREATE TABLE IF NOT EXISTS {{.Versions}} (
    consumer    VARBINARY(255) NOT NULL,
    entity_type VARBINARY(255) NOT NULL,
    entity_id   VARBINARY(255) NOT NULL,
    field_group VARBINARY(255) NOT NULL,
    version     VARBINARY(255) NOT NULL,
    deleted     BOOLEAN NOT NULL DEFAULT FALSE,
    updated_at  DATETIME(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (consumer, entity_type, entity_id, field_group),
    KEY {{.Prefix}}versions_entity (entity_type, entity_id)
) ENGINE=InnoDB;

-- +goose Down
DROP TABLE IF EXISTS {{.Versions}};
DROP TABLE IF EXISTS {{.Anchors}};
