//! Documents of several replicas in one database.

use std::collections::BTreeMap;

use harness::documents;
use harness::postgres::Postgres as Server;
use harness::wait::wait_until;
use kuma_dns::cp::store::Postgres;
use kuma_dns::cp::store::documents::{Documents, Expected};
use kuma_dns::rt::Drain;
use tokio::runtime::Runtime;

use crate::FAILOVER_SECS;

#[test]
fn documents_of_one_replica_are_read_by_another_and_a_stale_one_is_refused() {
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    let (one, _replica) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    let (other, replica) = runtime.block_on(Postgres::connect(&server.settings())).unwrap();
    let (one, other) = (one.documents(), other.documents());
    documents::keeps_its_promises(&one, &other);

    let (trigger, drain) = Drain::pair();
    let running = runtime.spawn(replica.run(drain));
    let mut heard = other.news();
    wait_until(FAILOVER_SECS, "the other listens", || heard.has_changed().unwrap());
    heard.mark_unchanged();
    one.write(&[documents::put("heard", "{}", Expected::Any)]).unwrap();
    wait_until(FAILOVER_SECS, "the other hears of a document", || heard.has_changed().unwrap());
    trigger.request();
    runtime.block_on(running).unwrap().unwrap();

    // Whoever was away for too long is told everything: what went meanwhile is not known any more.
    let before = other.read(None).unwrap().revision;
    one.write(&[documents::delete("heard", Expected::Any)]).unwrap();
    server.sql("UPDATE kuma_dns_removed SET at = at - interval '2 hours'").unwrap();
    assert_eq!(documents::summary(&other.read(Some(before)).unwrap()).1, ["heard"]);
    one.write(&[documents::delete("a", Expected::Any)]).unwrap();
    let news = other.read(Some(before)).unwrap();
    assert!(news.whole && !documents::summary(&news).0.contains_key("heard"), "{news:?}");

    server.sql("UPDATE kuma_dns_documents SET document = '\\x00' WHERE key LIKE '%/b'").unwrap();
    for documents in [&other, &one] {
        let news = documents.read(None).unwrap();
        assert!(news.whole && !documents::summary(&news).0.contains_key("b"), "{news:?}");
        let aside: Vec<_> = news.quarantined.iter().map(|one| (&*one.key, &*one.reason)).collect();
        assert_eq!(aside, [("MeshService/default/b", "1 bytes are too few")]);
    }
    let bytes = server.sql("SELECT document FROM kuma_dns_documents_quarantine").unwrap();
    assert_eq!(bytes, "\\x00", "with its bytes");
    one.write(&[documents::put("b", "5", Expected::Absent)]).unwrap();
}

#[test]
fn whoever_reads_what_is_new_misses_nothing_while_replicas_write_at_once() {
    /// Each of them by a replica of its own.
    const WRITERS: usize = 4;
    const WRITES: usize = 60;
    let (server, runtime) = (Server::start().unwrap(), Runtime::new().unwrap());
    let connect = || runtime.block_on(Postgres::connect(&server.settings())).unwrap().0.documents();
    let reader = connect();
    let writers: Vec<_> = (0..WRITERS).map(|_| connect()).collect();
    let (mut known, mut last) = (BTreeMap::new(), reader.read(None).unwrap().revision);
    let mut follow = || {
        let news = reader.read(Some(last)).unwrap();
        assert!(!news.whole && news.revision >= last);
        last = news.revision;
        let (changed, removed) = documents::summary(&news);
        removed.iter().for_each(|name| drop(known.remove(name)));
        known.extend(changed);
        known.clone()
    };
    std::thread::scope(|scope| {
        let write = |writer: usize| {
            let (documents, name) =
                (&writers[writer], move |number: usize| format!("{writer}-{}", number % 7));
            move || {
                for number in 0..WRITES {
                    let (one, other) = (name(number), name(number + 3));
                    let put = documents::put(&one, &number.to_string(), Expected::Any);
                    documents.write(&[put, documents::delete(&other, Expected::Any)]).unwrap();
                }
            }
        };
        let running: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(write(writer))).collect();
        while running.iter().any(|thread| !thread.is_finished()) {
            follow();
        }
    });
    assert_eq!(follow(), documents::summary(&reader.read(None).unwrap()).0);
    assert_eq!(last, u64::try_from(WRITERS * WRITES).unwrap(), "each batch had a revision of its own");
}
