-- Apps and P2P rules: documents beside channels and tenants, which nodes are not told.
CREATE TABLE apps (
    id TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    revision INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    document TEXT NOT NULL
) STRICT;

CREATE TABLE rules (
    id TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    revision INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    document TEXT NOT NULL
) STRICT;

-- What is switched off, whatever rules say; an empty channel or asset: all of them.
CREATE TABLE switches (
    tenant TEXT NOT NULL,
    channel TEXT NOT NULL,
    asset TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, channel, asset)
) STRICT;

-- What passes are signed with. A key is accepted until drop_ms, if that is set.
CREATE TABLE pass_keys (
    number INTEGER NOT NULL PRIMARY KEY,
    secret BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    drop_ms INTEGER
) STRICT;

-- Parameters that were given out, so that every instance finds them by their digest.
CREATE TABLE conf_parameters (
    digest TEXT NOT NULL PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;

INSERT INTO settings (name, value) VALUES ('conf_version', 0);
