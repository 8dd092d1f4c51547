//! Persist before publish, with a store that fails.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::*;
use crate::cp::allocator::Changes;
use crate::cp::diagnostics::Meters;
use crate::cp::status::StatusCell;
use crate::cp::store::{Memory, Role};
use crate::model::kind::{Meta, Resource, Service};
use crate::model::view::Port;
use crate::rt::Drain;

/// A store whose next commits fail as often as it is told; both ends see the same records.
#[derive(Clone, Default)]
struct Flaky(Arc<Mutex<(Memory, usize)>>);

impl Store for Flaky {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.0.lock().unwrap().0.load()
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let mut inner = self.0.lock().unwrap();
        if inner.1 > 0 {
            inner.1 -= 1;
            let source = Box::new(redb::Error::Io(std::io::ErrorKind::StorageFull.into()));
            return Err(StoreError::Failed { verb: "write", path: "/nowhere".into(), source });
        }
        inner.0.commit(changes)
    }
}

fn resources(names: &[&str]) -> Resources {
    let mut resources = Resources::default();
    names.iter().for_each(|name| add(&mut resources, "default", name));
    resources
}

fn add(resources: &mut Resources, mesh: &str, name: &str) {
    let meta = Meta { mesh: mesh.into(), name: name.into(), ..Meta::default() };
    let service = Resource::Service(Service { meta, ..Service::default() });
    resources.all.insert(service.key(), Arc::new(service));
}

fn vip(published: &Published, name: &str) -> String {
    published.snapshot.meshes["default"].vips[name].addresses.v4.unwrap().to_string()
}

#[test]
fn what_the_store_refused_is_tried_again_and_no_vip_is_lost_or_changed() {
    let store = Flaky::default();
    let mut publisher = Publisher::open(Box::new(store.clone()), &Settings::default()).unwrap();
    publisher.publish(&resources(&["a"])).unwrap();
    store.0.lock().unwrap().1 = 2;
    for _ in 0..2 {
        publisher.publish(&resources(&["a", "b"])).unwrap_err();
        assert_eq!(store.clone().load().unwrap().records.len(), 1, "nothing of it was stored");
    }
    let published = publisher.publish(&resources(&["a", "c"])).unwrap();
    assert_eq!((vip(&published, "a"), vip(&published, "c")), ("240.0.0.0".into(), "240.0.0.1".into()));
}

#[test]
fn a_restart_publishes_the_same_vips() {
    let store = Flaky::default();
    let mut before = Publisher::open(Box::new(store.clone()), &Settings::default()).unwrap();
    before.publish(&resources(&["b"])).unwrap();
    let published = before.publish(&resources(&["a", "b"])).unwrap();
    let mut after = Publisher::open(Box::new(store), &Settings::default()).unwrap();
    let again = after.publish(&resources(&["a", "b"])).unwrap();
    assert_eq!(again.snapshot, published.snapshot);
    assert_eq!(vip(&again, "b"), "240.0.0.0");
}

#[test]
fn a_snapshot_holds_names_ports_ranges_and_the_default_mesh() {
    let mut publisher = Publisher::open(Box::new(Memory::default()), &Settings::default()).unwrap();
    let empty = publisher.publish(&resources(&[])).unwrap();
    assert_eq!(empty.snapshot.meshes.keys().map(|mesh| &**mesh).collect::<Vec<_>>(), ["default"]);
    let mut resources = resources(&["web_1"]);
    add(&mut resources, "other", "web_1");
    let snapshot = publisher.publish(&resources).unwrap().snapshot;
    let (mine, other) = (&snapshot.meshes["default"], &snapshot.meshes["other"]);
    let names: Vec<String> = mine.vips["web_1"].entry.hostnames.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["web.1.mesh", "web_1.mesh"]);
    assert_ne!(
        mine.vips["web_1"].addresses, other.vips["web_1"].addresses,
        "VIPs are unique over all meshes"
    );
    assert_eq!(*mine.vips["web_1"].entry.listeners[0].ports, [Port::new(80)]);
    assert_eq!(mine.header.ranges, Settings::default().pools.ranges());
    let gone = publisher.publish(&self::resources(&[])).unwrap().snapshot;
    assert!(gone.meshes["other"].vips.is_empty(), "a mesh stays, so that its removals are heard");
}

#[test]
fn a_snapshot_shares_with_the_one_before_whatever_did_not_change() {
    let mut publisher = Publisher::open(Box::new(Memory::default()), &Settings::default()).unwrap();
    let before = publisher.publish(&resources(&["a", "b", "c"])).unwrap().snapshot;
    let after = publisher.publish(&resources(&["a", "c", "d"])).unwrap().snapshot;
    let (before, after) = (&before.meshes["default"], &after.meshes["default"]);
    assert!(Arc::ptr_eq(&before.header, &after.header));
    for kept in ["a", "c"] {
        assert!(Arc::ptr_eq(&before.vips[kept].entry, &after.vips[kept].entry), "{kept}");
    }
    assert_eq!(before.vips.diff(&after.vips).count(), 2);
}

#[tokio::test]
async fn a_store_that_failed_is_tried_again_without_another_edit() {
    let store = Flaky::default();
    let publisher = Publisher::open(Box::new(store.clone()), &Settings::default()).unwrap();
    let (edits, followed) = watch::channel(Arc::new(resources(&["a"])));
    let status = StatusCell::default();
    let publish = Publish::first(publisher, followed, status.clone(), Meters::default()).unwrap();
    let (mut snapshots, mut reported) = (publish.snapshots.subscribe(), status.subscribe());
    let (trigger, drain) = Drain::pair();
    store.0.lock().unwrap().1 = 2;
    let edit = async {
        edits.send(Arc::new(resources(&["a", "b"]))).unwrap();
        let failed = reported.wait_for(|status| status.store_error.is_some()).await.unwrap().clone();
        assert_eq!(failed.store_error.unwrap(), "cannot write store /nowhere: I/O error: no storage space");
        snapshots.wait_for(|snapshot| snapshot.meshes["default"].vips.len() == 2).await.unwrap();
        reported.wait_for(|status| status.store_error.is_none() && status.published == 2).await.unwrap();
        trigger.request();
    };
    let (ended, edited) =
        tokio::join!(publish.run(drain), tokio::time::timeout(Duration::from_secs(10), edit));
    ended.unwrap();
    edited.expect("healed within the limit");
}

/// One replica's end of a shared store, with the epoch that it believes to lead in.
#[derive(Clone)]
struct Shared {
    records: Arc<Mutex<Memory>>,
    epoch: Arc<Mutex<u64>>,
    /// Zero follows.
    own: u64,
    /// Whose records were written, one after the other, and how many of them this end has read.
    written: Arc<Mutex<Vec<ServiceKey>>>,
    read: usize,
    loads: Arc<Mutex<usize>>,
}

impl Shared {
    fn led_by(epoch: u64) -> Self {
        let epoch = Arc::new(Mutex::new(epoch));
        let (records, written, loads) = Default::default();
        Self { records, epoch, own: 1, written, read: 0, loads }
    }

    fn role(&self) -> Role {
        let epoch = *self.epoch.lock().unwrap();
        if self.own == epoch { Role::Leader { epoch } } else { Role::Follower { leader: "other".into() } }
    }

    fn open(&self) -> Publisher {
        Publisher::open(Box::new(self.clone()), &Settings::default()).unwrap()
    }
}

impl Store for Shared {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        *self.loads.lock().unwrap() += 1;
        self.read = self.written.lock().unwrap().len();
        let loaded = self.records.lock().unwrap().load()?;
        Ok(Loaded { role: self.role(), ..loaded })
    }

    fn recent(&mut self) -> Result<Option<Recent>, StoreError> {
        let written = self.written.lock().unwrap();
        let touched: BTreeSet<ServiceKey> = written[self.read..].iter().cloned().collect();
        self.read = written.len();
        let mut changed = self.records.lock().unwrap().load()?.records;
        changed.retain(|record| touched.contains(&record.service));
        let gone = |service: &&ServiceKey| changed.iter().all(|record| record.service != **service);
        let removed = touched.iter().filter(gone).cloned().collect();
        Ok(Some(Recent { changed, removed, role: self.role(), wall: None }))
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        if self.own != *self.epoch.lock().unwrap() {
            return Err(StoreError::Superseded);
        }
        self.written.lock().unwrap().extend(changes.services().cloned());
        self.read = self.written.lock().unwrap().len();
        self.records.lock().unwrap().commit(changes)
    }
}

#[test]
fn a_follower_publishes_what_the_leader_stored_and_an_old_leader_follows_at_once() {
    let leading = Shared::led_by(1);
    let following = Shared { own: 2, ..leading.clone() };
    let (mut first, mut second) = (leading.open(), following.open());
    let alone = second.publish(&resources(&["a", "b"])).unwrap();
    assert!(alone.snapshot.meshes["default"].vips.is_empty(), "a follower hands out nothing");
    let stored = first.publish(&resources(&["a", "b"])).unwrap();
    second.read_again();
    assert_eq!(second.publish(&resources(&["a", "b"])).unwrap().snapshot, stored.snapshot);
    // The second takes over; the first does not know and has something to store.
    *leading.epoch.lock().unwrap() = 2;
    second.read_again();
    let stored = second.publish(&resources(&["a", "b", "c"])).unwrap();
    let refused = first.publish(&resources(&["a", "b", "d"])).unwrap();
    let names: Vec<&str> = refused.snapshot.meshes["default"].vips.keys().map(|name| &**name).collect();
    assert_eq!(names, ["a", "b"], "what the new leader has not stored is not published");
    assert_eq!(first.publish(&resources(&["a", "b", "c"])).unwrap().snapshot, stored.snapshot);
}

#[test]
fn a_follower_takes_what_is_new_and_leads_on_top_of_it_without_reading_everything() {
    let leading = Shared::led_by(1);
    let following = Shared { own: 2, loads: Arc::default(), ..leading.clone() };
    let (mut first, mut second) = (leading.open(), following.open());
    let steps: [&[&str]; 5] = [&["a", "b", "c"], &["b", "d"], &["a", "b", "d", "e"], &[], &["c", "f"]];
    for names in steps {
        let stored = first.publish(&resources(names)).unwrap();
        second.read_again();
        let followed = second.publish(&resources(names)).unwrap();
        assert_eq!(followed.snapshot, stored.snapshot, "{names:?}");
        assert!(followed.changed);
    }
    *leading.epoch.lock().unwrap() = 2;
    second.read_again();
    let led = second.publish(&resources(&["c", "f", "g"])).unwrap();
    assert_eq!((vip(&led, "c"), vip(&led, "f")), ("240.0.0.2".into(), "240.0.0.5".into()));
    assert_eq!(vip(&led, "g"), "240.0.0.6", "no address that rests");
    assert_eq!(*following.loads.lock().unwrap(), 1, "when it was opened");
    let again = second.publish(&resources(&["c", "f", "g"])).unwrap();
    assert!(!again.changed);
}

#[test]
fn a_changed_pool_leaves_the_former_addresses_routed_until_no_answer_with_them_is_believed() {
    let mut publisher = Publisher::open(Box::new(Memory::default()), &Settings::default()).unwrap();
    let mut resources = resources(&["a", "b"]);
    let before = publisher.publish(&resources).unwrap().snapshot;
    resources.settings.pools.v4 = Some("10.96.0.0/16".parse().unwrap());
    let during = publisher.publish(&resources).unwrap();
    let mesh = &during.snapshot.meshes["default"];
    assert_eq!((vip(&during, "a"), vip(&during, "b")), ("10.96.0.0".into(), "10.96.0.1".into()));
    for name in ["a", "b"] {
        let old = before.meshes["default"].vips[name].addresses;
        assert_eq!(*mesh.vips[name].former, [old.v4.unwrap()], "{name}");
        assert_eq!(mesh.vips[name].addresses.v6, old.v6, "the other family has not changed");
    }
    let former = "240.0.0.0/31".parse().unwrap();
    assert!(mesh.header.ranges.contains(&former), "{:?}", mesh.header.ranges);
    let rest_secs = Settings::default().rest_secs;
    let again_in = during.again_in.unwrap().as_secs();
    assert!((rest_secs - 2..=rest_secs).contains(&again_in), "it ends by itself: {again_in}");
    publisher.clock = Clock::start(SystemTime::now() + Duration::from_secs(rest_secs + 2), &[]);
    let after = publisher.publish(&resources).unwrap();
    let mesh = &after.snapshot.meshes["default"];
    assert!(after.changed && mesh.vips.values().all(|vip| vip.former.is_empty()));
    assert!(!mesh.header.ranges.contains(&former));
    assert_eq!(vip(&after, "a"), "10.96.0.0");
}
