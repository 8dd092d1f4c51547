//! What must hold for every input from outside, one function a target: no panic, no hang, and a refusal names the field or the
//! line that is wrong. Keeps: the same functions are run by libFuzzer (the `fuzz` package) and, bounded, by the fuzz suite.

pub mod mutate;
pub mod seeds;

use std::cell::RefCell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use hickory_proto::op::Message as DnsMessage;
use kuma_dns::cp::configuration::{self, Sources};
use kuma_dns::cp::install::{self, Forward};
use kuma_dns::cp::registry::{self, given};
use kuma_dns::cp::{Invalid, resources};
use kuma_dns::dns::answer::ROOM_BYTES;
use kuma_dns::dns::zone::{Outcome, Zone};
use kuma_dns::model::kind::{ResourceKey, ResourceKind};
use kuma_dns::model::name::Hostname;
use kuma_dns::model::view::Addresses;
use kuma_dns::wire::local::Request;
use kuma_dns::wire::node::{self, Introduction};
use kuma_dns::wire::resource::ResourceType;
use kuma_dns::wire::view::{self, Decoded, Named};
use prost::Message as _;

/// Something that reads what comes from outside.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Panics when something does not hold.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target { name: "body", run: body },
    Target { name: "files", run: files },
    Target { name: "configuration", run: configuration },
    Target { name: "install", run: install },
    Target { name: "dns", run: dns },
    Target { name: "view", run: view },
    Target { name: "xds", run: xds },
    Target { name: "socket", run: socket },
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// A body that is put to REST: the first octet says under which kind.
pub fn body(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let kind = ResourceKind::ALL[usize::from(*kind) % ResourceKind::ALL.len()];
    let key = ResourceKey::new(kind, "default", "fuzz");
    match registry::canonical(&key, body) {
        Ok(canonical) => {
            let again = registry::canonical(&key, canonical.as_bytes());
            assert_eq!(again, Ok(canonical), "what is stored is read as it was");
        }
        Err(invalid) => {
            let is_map = matches!(serde_json::from_slice(body), Ok(serde_json::Value::Object(_)));
            told(&invalid, |field, _| !is_map || !field.is_empty());
        }
    }
}

/// A resource file, as `up -f` and as `apply -f` read it.
pub fn files(data: &[u8]) {
    let text = std::str::from_utf8(data);
    let first = in_file(data, |path| resources::read(&[path.to_owned()]).map(|_| ()));
    if let Err(invalid) = first {
        // What no document can be blamed for: it is empty, or no text.
        told(&invalid, |_, line| line > 0 || text.is_err() || no_document(text.unwrap_or_default()));
    }
    let Ok(text) = text else { return };
    let input = given::Input::Text { name: "stdin".into(), text: text.to_owned() };
    match given::read(&[input]) {
        Ok(given) => {
            for given in given {
                assert_eq!(
                    registry::canonical(&given.key, given.body.as_bytes()),
                    Ok(given.body),
                    "the server reads the same"
                );
            }
        }
        Err(invalid) => told(&invalid, |_, line| line > 0 || no_document(text)),
    }
}

fn no_document(text: &str) -> bool {
    kuma_dns::cp::yaml::parse(text).is_ok_and(|documents| documents.is_empty())
}

/// A configuration file; behind a zero octet, the values of Kuma's names in the environment, a line each.
pub fn configuration(data: &[u8]) {
    let (file, environment) = data.split_at(data.iter().position(|octet| *octet == 0).unwrap_or(data.len()));
    let environment = String::from_utf8_lossy(environment.get(1..).unwrap_or_default());
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment: Vec<_> = environment.lines().filter_map(pair).collect();
    let is_text = std::str::from_utf8(file).is_ok();
    let loaded = in_file(file, |path| {
        let file = Some(path.to_owned());
        configuration::load(&Sources { file, environment, flags: Vec::new(), data: "/nowhere".into() })
    });
    match loaded {
        Ok(configuration) => assert!(!configuration.to_string().is_empty()),
        // A name of the environment stands where a file does.
        Err(invalid) => {
            let named = |place: &Path| place.to_string_lossy().starts_with("KUMA_");
            for violation in invalid.violations() {
                assert!(
                    violation.place.line > 0
                        || named(&violation.place.file)
                        || !violation.place.field.is_empty()
                        || !is_text,
                    "{violation}"
                );
            }
            told(&invalid, |_, _| true);
        }
    }
}

/// The ConfigMap of a cluster's DNS.
pub fn install(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    static FORWARD: LazyLock<Forward> = LazyLock::new(|| Forward {
        domain: Hostname::parse("mesh").expect("a good name"),
        to: SocketAddr::from((Ipv4Addr::new(10, 96, 0, 20), 5653)),
        service: "kuma-control-plane in kuma-system".to_owned(),
    });
    let path = Path::new("coredns.yaml");
    match install::patch(path, text, &FORWARD) {
        Ok(once) => {
            let twice = install::patch(path, &once.text, &FORWARD);
            let twice = twice.unwrap_or_else(|invalid| {
                panic!("what we wrote is not understood: {invalid}\n{}", once.text)
            });
            assert_eq!(twice.text, once.text, "twice is once");
        }
        // Not a field but the whole may be at fault: nothing of CoreDNS or kube-dns is in it.
        Err(invalid) => told(&invalid, |field, line| line > 0 || field.is_empty()),
    }
}

/// A DNS question, to the resolver's zone and to the authority's.
pub fn dns(data: &[u8]) {
    static ZONES: LazyLock<[Zone; 2]> = LazyLock::new(|| {
        let name = |text: &str| Hostname::parse(text).expect("a good name");
        let both = Addresses { v4: "240.0.0.1".parse().ok(), v6: "fd00:fd00::1".parse().ok() };
        let four = Addresses { v6: None, ..both };
        let names = [(name("redis.mesh"), both), (name("a.b.c.mesh"), four), (name("httpbin.org"), both)];
        let filled = |zone: Zone| zone.with(names.iter().map(|(name, addresses)| (name, *addresses)));
        [filled(Zone::resolver(60)), filled(Zone::authority(&name("mesh"), 60, both))]
    });
    if data.len() > usize::from(u16::MAX) {
        return;
    }
    for zone in &*ZONES {
        let mut buffer = data.to_vec();
        buffer.resize(data.len() + ROOM_BYTES, 0xa5);
        let Outcome::Answered(answered) = zone.answer(&mut buffer, data.len()) else { continue };
        let answer = &buffer[..answered.bytes];
        assert_eq!(answer[..2], data[..2], "the id");
        assert!(answer[2] & 0x80 != 0, "an answer");
        if let Err(error) = DnsMessage::from_vec(answer) {
            panic!("an answer that nobody reads: {error}: {answer:02x?}");
        }
    }
}

/// A resource of an agent's view.
pub fn view(data: &[u8]) {
    for named in [Named::Header, Named::Part("redis")] {
        let Ok(decoded) = view::decode(named, data) else { continue };
        let again = match &decoded {
            Decoded::Header(header) => view::encode_header(header),
            Decoded::Part(part) => view::encode_part(part),
        };
        assert_eq!(view::decode(named, &again).ok(), Some(decoded), "what is written is read");
    }
}

/// What an xDS client sends.
pub fn xds(data: &[u8]) {
    let delta = DeltaDiscoveryRequest::decode(data).ok();
    let nodes = delta.as_ref().and_then(|request| request.node.clone()).into_iter();
    let whole = DiscoveryRequest::decode(data).ok();
    for sent in nodes.chain(whole.and_then(|request| request.node)) {
        let _software = node::software(&sent);
        match Introduction::read(&sent) {
            Ok(introduction) => assert_eq!(Introduction::read(&introduction.write()), Ok(introduction)),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    if let Some(request) = delta {
        let _kind = ResourceType::of_url(&request.type_url);
        let text = request.error_detail.map(|detail| detail.message).unwrap_or_default();
        let names = request.resource_names_subscribe.iter().map(String::as_str);
        let _blamed = view::blamed(&text, names);
    }
}

/// A line on the agent's socket.
pub fn socket(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let again = serde_json::to_vec(&request).expect("a request is always JSON");
        assert_eq!(serde_json::from_slice::<Request>(&again).ok(), Some(request));
    }
}

/// A refusal is told in words, without Rust in them, and where.
fn told(invalid: &Invalid, is_placed: impl Fn(&str, u64) -> bool) {
    assert!(!invalid.violations().is_empty(), "a refusal without a reason");
    for violation in invalid.violations() {
        let said = &violation.problem;
        assert!(!said.trim().is_empty(), "{violation}: no words");
        for noise in ["Error {", "Some(", "None)", "kuma_dns::"] {
            assert!(!said.contains(noise) || said.contains('"'), "{violation}: {noise}");
        }
        assert!(is_placed(&violation.place.field, violation.place.line), "{violation}: nobody knows where");
    }
}

thread_local! {
    /// One file a thread, in memory.
    static FILE: RefCell<Option<(tempfile::TempDir, PathBuf)>> = const { RefCell::new(None) };
}

/// Runs on a file that holds `data`.
fn in_file<T>(data: &[u8], run: impl FnOnce(&Path) -> T) -> T {
    let path = FILE.with_borrow_mut(|file| {
        let (_, path) = file.get_or_insert_with(|| {
            let shm = Path::new("/dev/shm");
            let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
            let dir = dir.expect("a folder for files");
            let path = dir.path().join("input.yaml");
            (dir, path)
        });
        path.clone()
    });
    fs::write(&path, data).expect("room for an input");
    run(&path)
}
