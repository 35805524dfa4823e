-- Addresses and networks that nodes serve nothing, as validated JSON documents; `until_s` in Unix seconds, or NULL.
CREATE TABLE blocks (
    network TEXT NOT NULL PRIMARY KEY,
    ipv6 INTEGER NOT NULL,
    until_s INTEGER,
    document TEXT NOT NULL
) STRICT;
