//! The store on a real disk: restarts, versions, and damage from outside.

use super::tables::{META, QUARANTINE, RECORDS, SCHEMA_KEY};
use super::*;
use crate::cp::record::Record;
use crate::cp::store::Memory;
use crate::model::resource::{Kind, ServiceKey};

fn record(name: &str, version: u64) -> Record {
    let mut record = Record::new(ServiceKey::new("default", name));
    record.version = version;
    record.held.v4 = Some("240.0.0.1".parse().unwrap());
    record
}

fn put(records: Vec<Record>) -> Changes {
    Changes { puts: records, deletes: Vec::new() }
}

/// Changes the file behind the store's back.
fn behind(store: &Embedded, change: impl FnOnce(&redb::WriteTransaction)) {
    let open = store.file.lock();
    let transaction = open.as_ref().unwrap().database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

fn overwrite(store: &Embedded, key: &str, bytes: &[u8]) {
    behind(store, |transaction| drop(transaction.open_table(RECORDS).unwrap().insert(key, bytes).unwrap()));
}

#[test]
fn records_survive_a_restart_in_their_next_version() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("new/instance");
    let mut store = Embedded::open(&data).unwrap();
    store.commit(&put(vec![record("a", 0), record("b", 0)])).unwrap();
    store.commit(&put(vec![record("a", 1)])).unwrap();
    store.commit(&Changes { puts: Vec::new(), deletes: vec![record("b", 1)] }).unwrap();
    drop(store);
    let loaded = Embedded::open(&data).unwrap().load().unwrap();
    assert_eq!(loaded, Loaded { records: vec![record("a", 2)], ..Loaded::default() });
}

#[test]
fn a_store_of_the_first_release_is_read_and_keeps_every_vip() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Embedded::open(directory.path()).unwrap();
    // The bytes as that release wrote them: services only, each under mesh/service.
    let json = br#"{"version":1,"v4":"240.0.0.1","v6":null}"#;
    let mut bytes = 0x80fb_ffb7_dc13_d9f5_u64.to_be_bytes().to_vec();
    bytes.extend(json);
    overwrite(&store, "default/a", &bytes);
    assert_eq!(store.load().unwrap(), Loaded { records: vec![record("a", 1)], ..Loaded::default() });
    let mut host = record("a", 0);
    host.service = ServiceKey::of("default", Kind::Host, "a.example");
    store.commit(&put(vec![record("a", 1), host.clone()])).unwrap();
    host.version = 1;
    let mut records = store.load().unwrap().records;
    records.sort_by(|a, b| a.service.cmp(&b.service));
    assert_eq!(records, [record("a", 2), host]);
}

#[test]
fn a_batch_with_one_stale_version_stores_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let stores: [Box<dyn Store>; 2] =
        [Box::new(Embedded::open(directory.path()).unwrap()), Box::new(Memory::default())];
    for mut store in stores {
        store.commit(&put(vec![record("a", 0)])).unwrap();
        for stale in [put(vec![record("b", 0), record("a", 0)]), put(vec![record("b", 0), record("a", 7)])] {
            assert!(matches!(store.commit(&stale), Err(StoreError::Conflict { found: 1, .. })));
        }
        let deletes = Changes { puts: vec![record("b", 0)], deletes: vec![record("a", 2)] };
        assert!(matches!(store.commit(&deletes), Err(StoreError::Conflict { expected: 2, .. })));
        assert_eq!(store.load().unwrap().records, [record("a", 1)]);
    }
}

#[test]
fn a_damaged_record_is_set_aside_and_stops_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Embedded::open(directory.path()).unwrap();
    store.commit(&put(vec![record("a", 0), record("b", 0)])).unwrap();
    overwrite(&store, "default/a", b"12345678{\"version\":1}");
    overwrite(&store, "no slash", b"");
    let loaded = store.load().unwrap();
    assert_eq!(loaded.records, [record("b", 1)]);
    let keys: Vec<&str> = loaded.quarantined.iter().map(|record| record.key.as_str()).collect();
    assert_eq!(keys, ["default/a", "no slash"]);
    assert_eq!(loaded.quarantined[0].reason, "the checksum does not fit the content");
    store.commit(&put(vec![record("a", 0)])).unwrap();
    drop(store);
    let again = Embedded::open(directory.path()).unwrap().load().unwrap();
    assert_eq!(again.records.len(), 2, "the name was given a new record");
    assert_eq!(again.quarantined, loaded.quarantined, "and the damage is still reported");
}

#[test]
fn a_damaged_record_is_kept_for_a_month() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Embedded::open(directory.path()).unwrap();
    overwrite(&store, "default/new", b"");
    behind(&store, |transaction| {
        let mut quarantine = transaction.open_table(QUARANTINE).unwrap();
        quarantine.insert("default/old", (1_000, "old", &[][..])).unwrap();
    });
    for _ in 0..2 {
        let keys: Vec<String> =
            store.load().unwrap().quarantined.into_iter().map(|record| record.key).collect();
        assert_eq!(keys, ["default/new"]);
    }
}

#[test]
fn a_store_in_use_a_foreign_file_and_another_schema_are_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    let text = |directory: &Path| Embedded::open(directory).unwrap_err().to_string();
    assert!(text(directory.path()).contains("is in use by another process: stop the other `kuma-dns up`"));
    behind(&store, |transaction| drop(transaction.open_table(META).unwrap().insert(SCHEMA_KEY, 9).unwrap()));
    drop(store);
    assert!(
        text(directory.path())
            .ends_with("has schema 9, this version of kuma-dns reads 1: use the version that wrote it")
    );
    std::fs::write(directory.path().join(Embedded::FILE), "services: []\n").unwrap();
    assert!(text(directory.path()).contains("is no store of kuma-dns or is damaged as a whole"));
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(text(&file.join("data")).starts_with("cannot create "));
}

#[test]
fn the_store_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let _store = Embedded::open(&data).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&data.join(Embedded::FILE))), (0o700, 0o600));
}

#[test]
fn damage_anywhere_among_the_records_costs_no_other_record() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Embedded::open(directory.path()).unwrap();
    store.commit(&put((0..300).map(|i| record(&format!("service-{i:03}"), 0)).collect())).unwrap();
    drop(store);
    let good = std::fs::read(directory.path().join(Embedded::FILE)).unwrap();
    let (mut hit, mut damaged) = (0, 0);
    for needle in [&b"fault/service-0"[..], b"\"v4\":\"240"] {
        let places = (0..good.len()).filter(|at| good[*at..].starts_with(needle));
        for at in places.step_by(17) {
            let mut bad = good.clone();
            bad[at + 1] ^= 0x10;
            let other = tempfile::tempdir().unwrap();
            std::fs::write(other.path().join(Embedded::FILE), &bad).unwrap();
            let mut store = Embedded::open(other.path()).unwrap();
            let loaded = store.load().unwrap();
            assert_eq!(loaded.records.len() + loaded.quarantined.len(), 300, "byte {at}");
            hit += 1;
            damaged += loaded.quarantined.len();
            for sound in &loaded.records {
                store.commit(&put(vec![sound.clone()])).unwrap();
                if sound.service > ServiceKey::new("default", "service-020") {
                    break;
                }
            }
            assert_eq!(store.load().unwrap().records.len(), loaded.records.len());
        }
    }
    assert!(hit > 10 && damaged > 10, "{hit} places, {damaged} damaged records");
}

mod documents;
