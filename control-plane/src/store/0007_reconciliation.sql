-- CDNs whose logs are imported, as validated JSON documents.
CREATE TABLE recon_providers (
    id TEXT NOT NULL PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;

-- From which difference on a tenant's channels alert.
CREATE TABLE recon_settings (
    tenant TEXT NOT NULL PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;

-- Logs that were imported whole: digest is the SHA-256 of their bytes, document the answer to the import.
CREATE TABLE recon_imports (
    provider TEXT NOT NULL,
    digest TEXT NOT NULL,
    imported_ms INTEGER NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (provider, digest)
) STRICT, WITHOUT ROWID;

-- What logs say, by hour (Unix hours). asker is `edge` for a node of ours and `viewer` for others; measure says of what the bytes
-- are, `body` or `wire`.
CREATE TABLE recon_log (
    hour INTEGER NOT NULL,
    provider TEXT NOT NULL,
    tenant TEXT NOT NULL,
    channel TEXT NOT NULL,
    asker TEXT NOT NULL,
    measure TEXT NOT NULL,
    session TEXT NOT NULL,
    digest TEXT NOT NULL,
    requests INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    hits INTEGER NOT NULL,
    PRIMARY KEY (hour, provider, tenant, channel, asker, measure, session, digest)
) STRICT, WITHOUT ROWID;

CREATE INDEX recon_log_by_import ON recon_log (provider, digest);
CREATE INDEX recon_log_by_channel ON recon_log (channel, hour);

-- Hashes of the lines that were counted, 8 bytes each, so that a line in two files counts once.
CREATE TABLE recon_seen (
    provider TEXT NOT NULL,
    hour INTEGER NOT NULL,
    digest TEXT NOT NULL,
    hashes BLOB NOT NULL,
    PRIMARY KEY (provider, hour, digest)
) STRICT, WITHOUT ROWID;
