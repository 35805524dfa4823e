-- People. `password` is a PHC string (argon2id).
CREATE TABLE users (
    name TEXT NOT NULL PRIMARY KEY,
    role TEXT NOT NULL,
    password TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    last_used_ms INTEGER
) STRICT;

-- Tokens of the API, by the SHA-256 of each.
CREATE TABLE tokens (
    name TEXT NOT NULL PRIMARY KEY,
    role TEXT NOT NULL,
    hash TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    last_used_ms INTEGER
) STRICT;

CREATE UNIQUE INDEX tokens_by_hash ON tokens (hash);

-- Sessions of the console, by the SHA-256 of each one's id. `kind` and `name` say whose it is; of the token file's, `name` is
-- the hash of that token, so that another token ends it.
CREATE TABLE sessions (
    hash TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    used_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX sessions_by_name ON sessions (kind, name);

-- Who changed what; rows are only added, and the oldest taken away. `id` has no gaps. `change` is JSON.
CREATE TABLE audit (
    id INTEGER NOT NULL PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    kind TEXT NOT NULL,
    role TEXT,
    address TEXT,
    action TEXT NOT NULL,
    request TEXT NOT NULL,
    target TEXT NOT NULL,
    outcome TEXT NOT NULL,
    status INTEGER,
    before INTEGER,
    after INTEGER,
    change TEXT
) STRICT;

CREATE INDEX audit_by_time ON audit (at_ms);

INSERT INTO settings (name, value) VALUES ('audit_id', 0);
