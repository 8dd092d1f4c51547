-- One small row per service: `mesh/service` -> checksum and JSON.
CREATE TABLE kuma_dns_vips (
    key text PRIMARY KEY,
    record bytea NOT NULL
);

-- Records that could not be read, with their bytes.
CREATE TABLE kuma_dns_quarantine (
    key text NOT NULL,
    since_secs bigint NOT NULL,
    reason text NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (key, since_secs)
);

-- Who allocates. The epoch rises with every new leader; a write names the epoch that it was decided in.
CREATE TABLE kuma_dns_lease (
    id smallint PRIMARY KEY CHECK (id = 1),
    holder text NOT NULL,
    epoch bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
