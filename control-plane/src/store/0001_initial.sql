-- Channels as validated JSON documents. `revision` is the snapshot version that brought the document in.
CREATE TABLE channels (
    id TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    revision INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    document TEXT NOT NULL
) STRICT;

-- Which channel answers to which host (empty: any) and prefix; its primary key keeps two channels from claiming one.
CREATE TABLE routes (
    prefix TEXT NOT NULL,
    host TEXT NOT NULL,
    channel TEXT NOT NULL REFERENCES channels (id) ON DELETE CASCADE,
    PRIMARY KEY (prefix, host)
) STRICT, WITHOUT ROWID;

CREATE INDEX routes_by_channel ON routes (channel);

CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;

INSERT INTO settings (name, value) VALUES ('snapshot_version', 0);

-- Data planes that ever said hello.
CREATE TABLE nodes (
    node TEXT NOT NULL PRIMARY KEY,
    boot INTEGER NOT NULL,
    software TEXT NOT NULL,
    public_url TEXT,
    snapshot INTEGER,
    first_seen_ms INTEGER NOT NULL,
    last_seen_ms INTEGER NOT NULL
) STRICT;

-- Usage, summed by hour (Unix hours) and key.
CREATE TABLE ledger (
    hour INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    channel TEXT NOT NULL,
    session TEXT NOT NULL,
    kind TEXT NOT NULL,
    origin TEXT NOT NULL,
    requests INTEGER NOT NULL,
    body_bytes INTEGER NOT NULL,
    wire_bytes INTEGER NOT NULL,
    PRIMARY KEY (hour, tenant, channel, session, kind, origin)
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_by_channel ON ledger (channel, hour);

-- The last batch counted of each boot. Batches of a boot come in order, so one number tells a repeated one.
CREATE TABLE ledger_applied (
    node TEXT NOT NULL,
    boot INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    applied_ms INTEGER NOT NULL,
    PRIMARY KEY (node, boot)
) STRICT, WITHOUT ROWID;
