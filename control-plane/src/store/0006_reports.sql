-- One row: a roll-up holds it, so that instances add up one after the other.
CREATE TABLE report_turn (id INTEGER NOT NULL PRIMARY KEY, turn INTEGER NOT NULL) STRICT;
INSERT INTO report_turn (id, turn) VALUES (1, 0);
-- Up to where each instance's spool is rolled up; newest_ms is the newest report in it.
CREATE TABLE report_spools (
    instance TEXT NOT NULL PRIMARY KEY,
    segment INTEGER NOT NULL,
    position INTEGER NOT NULL,
    newest_ms INTEGER NOT NULL
) STRICT;
-- id is a digest of tenant, channel, session and stream; state says which reports were counted, and for which buckets.
CREATE TABLE report_sessions (
    id BLOB NOT NULL PRIMARY KEY,
    seen_ms INTEGER NOT NULL,
    streams INTEGER NOT NULL,
    state BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX report_sessions_seen ON report_sessions (seen_ms);
-- step 0 is minutes, 1 hours, 2 days since the Unix epoch; h0 to h11 count times to the first frame.
CREATE TABLE report_rollups (
    step INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    channel TEXT NOT NULL,
    region TEXT NOT NULL,
    isp TEXT NOT NULL,
    platform TEXT NOT NULL,
    sdk TEXT NOT NULL,
    viewers INTEGER NOT NULL,
    reports INTEGER NOT NULL,
    edge_bytes INTEGER NOT NULL,
    direct_bytes INTEGER NOT NULL,
    p2p_in_bytes INTEGER NOT NULL,
    p2p_out_bytes INTEGER NOT NULL,
    connections INTEGER NOT NULL,
    connection_failures INTEGER NOT NULL,
    stalls INTEGER NOT NULL,
    stall_ms INTEGER NOT NULL,
    playing_ms INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    first_frames INTEGER NOT NULL,
    first_frame_ms INTEGER NOT NULL,
    h0 INTEGER NOT NULL,
    h1 INTEGER NOT NULL,
    h2 INTEGER NOT NULL,
    h3 INTEGER NOT NULL,
    h4 INTEGER NOT NULL,
    h5 INTEGER NOT NULL,
    h6 INTEGER NOT NULL,
    h7 INTEGER NOT NULL,
    h8 INTEGER NOT NULL,
    h9 INTEGER NOT NULL,
    h10 INTEGER NOT NULL,
    h11 INTEGER NOT NULL,
    PRIMARY KEY (step, bucket, tenant, channel, region, isp, platform, sdk)
) STRICT, WITHOUT ROWID;
-- What each session reported in an hour, to be held against the ledger.
CREATE TABLE report_usage (
    hour INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    channel TEXT NOT NULL,
    session TEXT NOT NULL,
    edge_bytes INTEGER NOT NULL,
    direct_bytes INTEGER NOT NULL,
    p2p_in_bytes INTEGER NOT NULL,
    PRIMARY KEY (hour, tenant, channel, session)
) STRICT, WITHOUT ROWID;
-- What came from other CDNs, by the provider's name, to be held against their logs.
CREATE TABLE report_providers (
    hour INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    channel TEXT NOT NULL,
    provider TEXT NOT NULL,
    direct_bytes INTEGER NOT NULL,
    PRIMARY KEY (hour, tenant, channel, provider)
) STRICT, WITHOUT ROWID;
