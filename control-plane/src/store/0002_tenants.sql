-- Tenants that have rules, as validated JSON documents; of those that only channels name there is no row. `revision` is as
-- in channels.
CREATE TABLE tenants (
    id TEXT NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    document TEXT NOT NULL
) STRICT;
