//! Records of several replicas in one database: compare-and-swap, fencing, damage, reading what is new, and words for what is
//! refused.

use std::collections::BTreeMap;

use harness::postgres::Postgres as Server;
use harness::wait::wait_until;
use kuma_dns::cp::allocator::Changes;
use kuma_dns::cp::record::Record;
use kuma_dns::cp::store::postgres::{Settings, Tls, TlsMode};
use kuma_dns::cp::store::{Postgres, Role, Store, StoreError};
use kuma_dns::model::resource::ServiceKey;
use kuma_dns::rt::Drain;
use tokio::runtime::Runtime;

use crate::FAILOVER_SECS;

fn put(service: &str, version: u64, v4: &str) -> Record {
    let mut record = Record::new(ServiceKey::new("default", service));
    record.version = version;
    record.held.v4 = Some(v4.parse().unwrap());
    record
}

fn puts(records: &[Record]) -> Changes {
    Changes { puts: records.to_vec(), deletes: Vec::new() }
}

/// What the records hold, by service.
fn held(store: &mut Postgres) -> BTreeMap<String, (u64, String)> {
    let records = store.load().unwrap().records;
    let entry =
        |record: Record| (record.service.to_string(), (record.version, record.held.v4.unwrap().to_string()));
    records.into_iter().map(entry).collect()
}

#[test]
fn a_batch_on_an_old_version_is_refused_as_a_whole() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    let (mut store, _replica) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    assert_eq!(store.load().unwrap().role, Role::Leader { epoch: 1 });
    store.commit(&puts(&[put("a", 0, "240.0.0.0"), put("b", 0, "240.0.0.1")])).unwrap();
    store.commit(&puts(&[put("a", 1, "240.0.0.2")])).unwrap();
    let refused = store.commit(&puts(&[put("c", 0, "240.0.0.3"), put("a", 1, "240.0.0.4")])).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "record of service default/a has version 2, expected 1: somebody else changed it"
    );
    let wanted = [("default/a", (2, "240.0.0.2")), ("default/b", (1, "240.0.0.1"))];
    let wanted = wanted.map(|(key, (version, v4))| (key.to_owned(), (version, v4.to_owned())));
    assert_eq!(held(&mut store), BTreeMap::from(wanted), "nothing of the refused batch");
    let gone = Changes { puts: Vec::new(), deletes: vec![put("a", 2, "240.0.0.2")] };
    store.commit(&gone).unwrap();
    assert_eq!(held(&mut store).len(), 1);
    let again = put("b", 0, "240.0.0.9");
    assert!(
        matches!(store.commit(&puts(&[again])), Err(StoreError::Conflict { found: 1, .. })),
        "there is one"
    );
}

#[test]
fn a_leader_that_did_not_renew_is_refused_once_another_leads() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    // Its task does not run, as if the process were paused.
    let (mut old, _paused) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    old.load().unwrap();
    old.commit(&puts(&[put("a", 0, "240.0.0.0")])).unwrap();
    let (mut new, replica) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    assert!(matches!(new.load().unwrap().role, Role::Follower { leader } if !leader.is_empty()));
    let refused = new.commit(&puts(&[put("x", 0, "240.0.0.1")])).unwrap_err();
    assert!(matches!(refused, StoreError::Superseded), "a follower stores nothing: {refused}");
    let (trigger, drain) = Drain::pair();
    let running = runtime.spawn(replica.run(drain));
    wait_until(FAILOVER_SECS, "the other leads", || new.load().unwrap().role == Role::Leader { epoch: 2 });
    new.commit(&puts(&[put("b", 0, "240.0.0.1")])).unwrap();
    // The old one decided this before it was paused; no version stands against it, and the address is taken.
    let refused = old.commit(&puts(&[put("c", 0, "240.0.0.1")])).unwrap_err();
    assert!(matches!(refused, StoreError::Superseded), "{refused}");
    assert!(!old.load().unwrap().role.allocates());
    let stored: Vec<String> = held(&mut old).into_keys().collect();
    assert_eq!(stored, ["default/a", "default/b"]);
    trigger.request();
    runtime.block_on(running).unwrap().unwrap();
    let (mut third, _) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    assert_eq!(
        third.load().unwrap().role,
        Role::Leader { epoch: 3 },
        "a graceful end frees the lease at once"
    );
}

#[test]
fn a_damaged_row_is_set_aside_by_the_leader_and_harms_no_other() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    let (mut leader, _replica) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    let (mut follower, _other) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    leader.load().unwrap();
    leader.commit(&puts(&[put("a", 0, "240.0.0.0"), put("b", 0, "240.0.0.1")])).unwrap();
    server.sql("UPDATE kuma_dns_vips SET record = '\\x00' WHERE key = 'default/a'").unwrap();
    for store in [&mut follower, &mut leader] {
        let loaded = store.load().unwrap();
        assert_eq!(loaded.records.len(), 1);
        let quarantined: Vec<_> =
            loaded.quarantined.iter().map(|record| (&*record.key, &*record.reason)).collect();
        assert_eq!(quarantined, [("default/a", "1 bytes are too few")]);
    }
    assert_eq!(server.sql("SELECT key FROM kuma_dns_vips").unwrap(), "default/b");
    assert_eq!(server.sql("SELECT record FROM kuma_dns_quarantine").unwrap(), "\\x00", "with its bytes");
    leader.commit(&puts(&[put("a", 0, "240.0.0.2")])).unwrap();
}

#[test]
fn a_server_that_is_not_there_and_tables_of_a_newer_version_are_refused_in_words() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    let settings = server.settings();
    runtime.block_on(Postgres::connect(&settings)).unwrap();
    let newer = "INSERT INTO kuma_dns_migrations SELECT 99, description, installed_on, success, checksum, execution_time
                 FROM kuma_dns_migrations WHERE version = 1";
    server.sql(newer).unwrap();
    let place = format!("database postgres at 127.0.0.1:{} as user postgres", settings.port.get());
    let refused = runtime.block_on(Postgres::connect(&settings)).unwrap_err().to_string();
    assert_eq!(
        refused,
        format!("PostgreSQL, {place}, has tables of a newer kuma-dns (migration 99): use that version")
    );
    drop(server);
    let refused = runtime.block_on(Postgres::connect(&settings)).unwrap_err().to_string();
    assert!(
        refused.starts_with(&format!("cannot connect to PostgreSQL, {place}: is it running")),
        "{refused}"
    );
}

#[test]
fn tls_is_checked_as_far_as_it_was_asked_for() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    let connect = |host: &str, mode, ca| {
        let tls = Tls { mode, ca, certificate: None };
        let settings = Settings { host: host.into(), tls, ..server.settings() };
        let connected = runtime.block_on(Postgres::connect(&settings))?;
        let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                         WHERE application_name = 'kuma-dns'";
        let encrypted = server.sql(encrypted).unwrap();
        drop(connected);
        Ok::<_, StoreError>(encrypted)
    };
    let ca = || Some(server.authority());
    assert_eq!(connect("127.0.0.1", TlsMode::VerifyFull, ca()).unwrap(), "t");
    assert_eq!(
        connect("localhost", TlsMode::VerifyCa, ca()).unwrap(),
        "t",
        "the certificate is for 127.0.0.1"
    );
    assert_eq!(connect("127.0.0.1", TlsMode::VerifyNone, None).unwrap(), "t");
    let name = connect("localhost", TlsMode::VerifyFull, ca()).unwrap_err();
    assert!(matches!(name, StoreError::Connect { source: Some(_), .. }), "another host: {name}");
    let authority = connect("127.0.0.1", TlsMode::VerifyCa, None).unwrap_err();
    assert!(
        matches!(authority, StoreError::Connect { source: Some(_), .. }),
        "unknown authority: {authority}"
    );
}

#[test]
fn a_follower_reads_only_what_is_new_and_everything_where_that_is_not_known() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    let (mut leader, _replica) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    let (mut follower, other) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    leader.load().unwrap();
    leader.commit(&puts(&[put("a", 0, "240.0.0.0"), put("b", 0, "240.0.0.1")])).unwrap();
    let fresh = |store: &mut Postgres| {
        let mut fresh = store.recent().unwrap().expect("it can tell");
        fresh.changed.sort_by(|a, b| a.service.cmp(&b.service));
        let names = |record: &Record| (record.service.to_string(), record.version);
        let removed: Vec<String> = fresh.removed.iter().map(ToString::to_string).collect();
        (fresh.changed.iter().map(names).collect::<Vec<_>>(), removed, fresh.role.allocates())
    };
    let name = |name: &str, version| (name.to_owned(), version);
    assert_eq!(follower.recent().unwrap(), None, "it knows nothing yet");
    assert_eq!(follower.load().unwrap().records.len(), 2);
    assert_eq!(fresh(&mut follower), (vec![], vec![], false));
    let gone = vec![put("b", 1, "240.0.0.1")];
    leader
        .commit(&Changes { puts: vec![put("a", 1, "240.0.0.0"), put("c", 0, "240.0.0.2")], deletes: gone })
        .unwrap();
    let news = (vec![name("default/a", 2), name("default/c", 1)], vec!["default/b".to_owned()], false);
    assert_eq!(fresh(&mut follower), news);
    assert_eq!(fresh(&mut leader), (vec![], vec![], true), "a leader's own batch is no news to it");
    leader.commit(&puts(&[put("b", 0, "240.0.0.1")])).unwrap();
    assert_eq!(fresh(&mut follower), (vec![name("default/b", 1)], vec![], false), "it is back");

    // A new leader takes up from where it followed.
    server.sql("UPDATE kuma_dns_lease SET expires_at = '-infinity'").unwrap();
    let (trigger, drain) = Drain::pair();
    let running = runtime.spawn(other.run(drain));
    wait_until(FAILOVER_SECS, "the other leads", || fresh(&mut follower).2);
    follower.commit(&puts(&[put("a", 2, "240.0.0.0")])).unwrap();
    assert!(matches!(leader.commit(&puts(&[put("d", 0, "240.0.0.4")])), Err(StoreError::Superseded)));
    assert_eq!(leader.recent().unwrap(), None, "after a refusal it knows nothing");
    trigger.request();
    runtime.block_on(running).unwrap().unwrap();

    for (what, change) in [
        ("a database that was put back", "UPDATE kuma_dns_revisions SET revision = 1 WHERE what = 'vips'"),
        (
            "removals that were forgotten",
            "UPDATE kuma_dns_revisions SET revision = 9, swept = 9 WHERE what = 'vips'",
        ),
        (
            "a record that was set aside",
            "INSERT INTO kuma_dns_quarantine VALUES ('default/x', 4000000000, 'x', '')",
        ),
        (
            "damage",
            "UPDATE kuma_dns_vips SET record = '\\x00', revision = 10 WHERE key = 'default/a';
                    UPDATE kuma_dns_revisions SET revision = 10 WHERE what = 'vips'",
        ),
    ] {
        leader.load().unwrap();
        server.sql(change).unwrap();
        assert_eq!(leader.recent().unwrap(), None, "{what}");
    }
}
