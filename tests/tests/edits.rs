//! Edits of resource files while a control plane runs: whatever way a file is changed, the change arrives; a broken one
//! does not. The control plane runs in this process, on real files and a real store.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kuma_dns::cp::snapshot::Snapshot;
use kuma_dns::cp::store::StoreConfig;
use kuma_dns::cp::{Config, ControlPlane, Error, Serving, Status, rest};
use kuma_dns::rt::{Drain, DrainTrigger, Ready};
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;

/// An edit must be in force within a second; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(5);
const ANY_PORT: &str = "127.0.0.1:0";

struct Plane {
    snapshots: Receiver<Arc<Snapshot>>,
    status: Receiver<Status>,
    trigger: DrainTrigger,
    running: JoinHandle<Result<(), Error>>,
}

impl Plane {
    async fn open(files: &[&Path], data: &Path) -> Result<ControlPlane, Error> {
        let files = files.iter().map(|path| path.to_path_buf()).collect();
        let store = StoreConfig::Embedded(data.to_owned());
        let xds = ANY_PORT.parse().unwrap();
        let config = Config {
            files,
            settings: None,
            store,
            xds,
            serving: Serving::default(),
            api: rest::Config::default(),
            outbounds: None,
        };
        ControlPlane::open(config, &Ready::default()).await
    }

    #[expect(clippy::disallowed_methods, reason = "the test is the supervisor: it awaits the task in `stop`")]
    async fn start(files: &[&Path], data: &Path) -> Self {
        let plane = Self::open(files, data).await.unwrap();
        let (snapshots, status) = (plane.snapshots(), plane.status());
        let (trigger, drain) = Drain::pair();
        let running = tokio::spawn(plane.run(drain));
        Self { snapshots, status, trigger, running }
    }

    async fn stop(self) {
        self.trigger.request();
        self.running.await.unwrap().unwrap();
    }

    /// Waits until these services, and no others, are published; says how long it took.
    async fn publishes(&mut self, services: &[&str]) -> Duration {
        let started = Instant::now();
        let holds = |snapshot: &Arc<Snapshot>| names(snapshot) == services;
        let arrived = match tokio::time::timeout(LIMIT, self.snapshots.wait_for(holds)).await {
            Ok(found) => found.is_ok(),
            Err(_) => false,
        };
        assert!(
            arrived,
            "not within {LIMIT:?}: {services:?}; published: {:?}",
            names(&self.snapshots.borrow())
        );
        started.elapsed()
    }

    async fn status(&mut self, what: &str, holds: impl FnMut(&Status) -> bool) -> Status {
        let waited = tokio::time::timeout(LIMIT, self.status.wait_for(holds)).await;
        waited.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}")).unwrap().clone()
    }

    fn vip(&self, service: &str) -> String {
        let snapshot = self.snapshots.borrow();
        snapshot.meshes["default"].vips[service].addresses.v4.unwrap().to_string()
    }
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.meshes["default"].vips.keys().map(|name| &**name).collect()
}

fn mesh(services: &[&str]) -> String {
    let lines = services.iter().map(|name| format!("- {{service: {name}, endpoints: [\"127.0.0.1:80\"]}}\n"));
    format!("services:\n{}{}", lines.collect::<String>(), if services.is_empty() { "  []\n" } else { "" })
}

/// A directory with a mesh file in it, and a place for the store beside.
fn world(services: &[&str]) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (files, data) = (directory.path().join("files"), directory.path().join("data"));
    fs::create_dir(&files).unwrap();
    let file = files.join("mesh.yaml");
    fs::write(&file, mesh(services)).unwrap();
    (directory, file, data)
}

fn replace(file: &Path, text: &str) {
    let temporary = file.with_extension("yaml~");
    fs::write(&temporary, text).unwrap();
    fs::rename(&temporary, file).unwrap();
}

#[tokio::test]
async fn a_file_that_is_written_in_place_or_replaced_is_followed() {
    let (_directory, file, data) = world(&["a"]);
    let mut plane = Plane::start(&[&file], &data).await;
    plane.publishes(&["a"]).await;
    fs::write(&file, mesh(&["a", "b"])).unwrap();
    plane.publishes(&["a", "b"]).await;
    replace(&file, &mesh(&["b", "c"]));
    plane.publishes(&["b", "c"]).await;
    fs::remove_file(&file).unwrap();
    plane.status("the missing file is reported", |status| !status.mistakes.is_empty()).await;
    fs::write(&file, mesh(&["c"])).unwrap();
    plane.publishes(&["c"]).await;
    plane.stop().await;
}

#[tokio::test]
async fn an_added_service_is_published_within_a_second() {
    let (_directory, file, data) = world(&["a"]);
    let mut plane = Plane::start(&[&file], &data).await;
    let mut took = Vec::new();
    for round in 0..5 {
        let services = if round % 2 == 0 { vec!["a", "b"] } else { vec!["a"] };
        replace(&file, &mesh(&services));
        took.push(plane.publishes(&services).await);
    }
    took.sort();
    assert!(took[2] < Duration::from_secs(1), "{took:?}");
    plane.stop().await;
}

#[tokio::test]
async fn a_symlink_that_is_swapped_is_followed() {
    let (directory, file, data) = world(&[]);
    let versions = directory.path().join("versions");
    for (version, services) in [("v1", vec!["a"]), ("v2", vec!["a", "b"])] {
        fs::create_dir_all(versions.join(version)).unwrap();
        fs::write(versions.join(version).join("mesh.yaml"), mesh(&services)).unwrap();
    }
    let swap = |version: &str| {
        let temporary = versions.join("..data_tmp");
        std::os::unix::fs::symlink(version, &temporary).unwrap();
        fs::rename(&temporary, versions.join("..data")).unwrap();
    };
    swap("v1");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("../versions/..data/mesh.yaml", &file).unwrap();
    let mut plane = Plane::start(&[&file], &data).await;
    plane.publishes(&["a"]).await;
    swap("v2");
    assert!(plane.publishes(&["a", "b"]).await < Duration::from_secs(2), "by an event, not by the slow look");
    plane.stop().await;
}

#[tokio::test]
async fn files_of_a_directory_come_and_go() {
    let (_directory, file, data) = world(&["a"]);
    let second = file.with_file_name("second.yaml");
    let mut plane = Plane::start(&[file.parent().unwrap()], &data).await;
    plane.publishes(&["a"]).await;
    fs::write(&second, mesh(&["b"])).unwrap();
    plane.publishes(&["a", "b"]).await;
    fs::remove_file(&file).unwrap();
    plane.publishes(&["b"]).await;
    plane.stop().await;
}

#[tokio::test]
async fn a_directory_that_is_removed_and_made_again_is_followed() {
    let (_directory, file, data) = world(&["a"]);
    let files = file.parent().unwrap();
    let mut plane = Plane::start(&[files], &data).await;
    plane.publishes(&["a"]).await;
    fs::remove_dir_all(files).unwrap();
    fs::create_dir(files).unwrap();
    fs::write(&file, mesh(&["b"])).unwrap();
    plane.publishes(&["b"]).await;
    replace(&file, &mesh(&["c"]));
    assert!(plane.publishes(&["c"]).await < Duration::from_secs(2), "by an event, not by the slow look");
    plane.stop().await;
}

#[tokio::test]
async fn a_broken_edit_keeps_the_last_good_state_and_the_next_good_one_heals_it() {
    let (_directory, file, data) = world(&["a"]);
    let mut plane = Plane::start(&[&file], &data).await;
    replace(&file, "services: [{service: b, endpoints: [nowhere], port: 1}, {service: c]");
    let status = plane.status("the mistake is shown", |status| !status.mistakes.is_empty()).await;
    assert!(status.mistakes[0].contains("not readable as YAML"), "{:?}", status.mistakes);
    replace(&file, "services: [{service: b, endpoints: [nowhere], port: 1}]");
    let status = plane.status("both mistakes are shown", |status| status.mistakes.len() == 2).await;
    assert!(status.mistakes[0].contains("port: unknown field \"port\""), "{:?}", status.mistakes);
    assert_eq!(names(&plane.snapshots.borrow()), ["a"]);
    replace(&file, &mesh(&["a", "b"]));
    plane.publishes(&["a", "b"]).await;
    plane
        .status("nothing is wrong any more", |status| status.mistakes.is_empty() && status.published == 2)
        .await;
    plane.stop().await;
}

#[tokio::test]
async fn every_vip_stays_over_restarts_and_comes_back_with_its_service() {
    let (_directory, file, data) = world(&["m"]);
    let mut plane = Plane::start(&[&file], &data).await;
    replace(&file, &mesh(&["a", "m"]));
    plane.publishes(&["a", "m"]).await;
    let before = (plane.vip("a"), plane.vip("m"));
    assert_eq!(before, ("240.0.0.1".into(), "240.0.0.0".into()));
    plane.stop().await;
    let mut plane = Plane::start(&[&file], &data).await;
    assert_eq!((plane.vip("a"), plane.vip("m")), before);
    replace(&file, &mesh(&["a", "z"]));
    plane.publishes(&["a", "z"]).await;
    assert_eq!(plane.vip("z"), "240.0.0.2", "the freed VIP rests");
    plane.stop().await;
    replace(&file, &mesh(&["a", "m", "z"]));
    let plane = Plane::start(&[&file], &data).await;
    assert_eq!((plane.vip("a"), plane.vip("m")), before);
    plane.stop().await;
}

#[tokio::test]
async fn a_used_up_pool_starves_only_the_new_and_helps_them_after_the_rest() {
    let (_directory, file, data) = world(&[]);
    let settings = "dnsServer: {CIDR: 240.0.0.0/31, CIDR6: '', ttl: 1}\n";
    fs::write(&file, settings.to_owned() + &mesh(&["a", "b"])).unwrap();
    let mut plane = Plane::start(&[&file], &data).await;
    replace(&file, &(settings.to_owned() + &mesh(&["a", "c"])));
    let status = plane.status("c waits", |status| status.starving.len() == 1).await;
    assert_eq!((status.starving[0].service.as_str(), status.starving[0].family), ("c", "IPv4"));
    plane.publishes(&["a", "c"]).await;
    assert_eq!(plane.vip("c"), "240.0.0.1");
    plane.stop().await;
}

#[tokio::test]
async fn a_start_with_bad_files_or_a_store_in_use_is_refused_before_anything_is_served() {
    let (_directory, file, data) = world(&["a"]);
    let plane = Plane::start(&[&file], &data).await;
    let refused = Plane::open(&[&file], &data).await.err().expect("the store is in use").to_string();
    assert!(refused.contains("is in use by another process"), "{refused}");
    plane.stop().await;
    fs::write(&file, "servces: []").unwrap();
    let refused = Plane::open(&[&file], &data).await.err().expect("the file is bad").to_string();
    assert!(refused.ends_with("mesh.yaml:1: servces: unknown field \"servces\": did you mean \"services\"?"));
}
