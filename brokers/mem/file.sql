CREATE TABLE messages (
	id       INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice, so that order holds
	topic    TEXT NOT NULL,
	uuid     BLOB NOT NULL,
	key      BLOB,
	payload  BLOB,
	metadata BLOB NOT NULL
);
CREATE INDEX messages_topic ON messages (topic, id);

CREATE TABLE groups (
	topic TEXT NOT NULL,
	grp   TEXT NOT NULL,
	PRIMARY KEY (topic, grp)
) WITHOUT ROWID;

-- What each group has still to ack.
CREATE TABLE deliveries (
	topic    TEXT NOT NULL,
	grp      TEXT NOT NULL,
	id       INTEGER NOT NULL,
	key      BLOB,
	head     INTEGER NOT NULL, -- 1: nothing older of its key is left
	ready_at INTEGER NOT NULL DEFAULT 0,
	attempts INTEGER NOT NULL DEFAULT 0,
	claim    TEXT,
	PRIMARY KEY (topic, grp, id)
) WITHOUT ROWID;
CREATE INDEX deliveries_head ON deliveries (topic, grp, id) WHERE head = 1;
CREATE INDEX deliveries_key ON deliveries (topic, grp, key, id) WHERE key IS NOT NULL;
CREATE INDEX deliveries_id ON deliveries (id);

-- Messages that every group has acked, kept for groups that come later.
CREATE TABLE spent (
	seq   INTEGER PRIMARY KEY AUTOINCREMENT,
	topic TEXT NOT NULL,
	id    INTEGER NOT NULL,
	bytes INTEGER NOT NULL
);
CREATE INDEX spent_topic ON spent (topic, seq);
CREATE TABLE spent_totals (
	topic    TEXT PRIMARY KEY,
	messages INTEGER NOT NULL,
	bytes    INTEGER NOT NULL
) WITHOUT ROWID;
