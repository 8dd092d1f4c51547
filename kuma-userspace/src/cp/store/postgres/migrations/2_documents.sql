-- The last revision of each table, in the order of commits: whoever writes holds the row until the end of the transaction.
CREATE TABLE kuma_dns_revisions (
    what text PRIMARY KEY,
    revision bigint NOT NULL,
    -- Removals up to this one are not known any more.
    swept bigint NOT NULL
);
INSERT INTO kuma_dns_revisions VALUES ('documents', 0, 0), ('vips', 0, 0);

-- Resources given by REST: `kind/mesh/name` -> checksum, times and JSON.
CREATE TABLE kuma_dns_documents (
    key text PRIMARY KEY,
    revision bigint NOT NULL,
    document bytea NOT NULL
);
CREATE INDEX kuma_dns_documents_revision ON kuma_dns_documents (revision);

CREATE TABLE kuma_dns_documents_quarantine (
    key text NOT NULL,
    since_secs bigint NOT NULL,
    reason text NOT NULL,
    document bytea NOT NULL,
    PRIMARY KEY (key, since_secs)
);

ALTER TABLE kuma_dns_vips ADD COLUMN revision bigint NOT NULL DEFAULT 0;
CREATE INDEX kuma_dns_vips_revision ON kuma_dns_vips (revision);

-- What went, for those who read only what is new; forgotten after a while.
CREATE TABLE kuma_dns_removed (
    what text NOT NULL,
    key text NOT NULL,
    revision bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (what, key)
);
CREATE INDEX kuma_dns_removed_revision ON kuma_dns_removed (what, revision);
