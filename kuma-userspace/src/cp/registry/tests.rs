//! Files, documents and replicas together: whatever came in whatever order, the outcome is what there is.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::layer::LayerReader;
use super::state::State;
use super::*;
use crate::cp::resources;
use crate::cp::settings::Settings;
use crate::cp::status::StatusCell;
use crate::cp::store::MemoryDocuments;
use crate::cp::store::documents::{Document, DocumentNews, Documents, Write};
use crate::model::kind::{Resource, ResourceKind};
use crate::rt::{Drain, DrainTrigger};

fn key(kind: ResourceKind, name: &str) -> ResourceKey {
    ResourceKey::new(kind, "default", name)
}

/// A few documents that touch one another: (kind, name, body).
fn body(pick: u8) -> (ResourceKey, String) {
    let (kind, name) = match pick % 7 {
        0 => (ResourceKind::Mesh, "default"),
        1 => (ResourceKind::Dataplane, "web-01"),
        2 => (ResourceKind::Dataplane, "web-02"),
        3 => (ResourceKind::MeshService, "web"),
        4 => (ResourceKind::HostnameGenerator, "local-universal-mesh-service"),
        5 => (ResourceKind::Dataplane, "other"),
        _ => (ResourceKind::ExternalService, "httpbin"),
    };
    let key = key(kind, name);
    let variant = pick / 7 % 3;
    let own = match kind {
        ResourceKind::Mesh => {
            format!(
                r#""meshServices":{{"mode":"{}"}}"#,
                ["Disabled", "Everywhere", "Exclusive"][usize::from(variant)]
            )
        }
        ResourceKind::Dataplane => format!(
            r#""networking":{{"address":"10.0.0.{}","inbound":[{{"port":{},"tags":{{"kuma.io/service":"{}"}}}}]}}"#,
            pick % 7,
            8080 + u16::from(variant),
            if name == "other" { "api" } else { "web" },
        ),
        ResourceKind::MeshService => {
            format!(r#""spec":{{"ports":[{{"port":{}}}]}}"#, 80 + u16::from(variant))
        }
        ResourceKind::HostnameGenerator => {
            format!(r#""spec":{{"selector":{{"meshService":{{}}}},"template":"{{{{ .Name }}}}.{variant}"}}"#)
        }
        _ => format!(
            r#""networking":{{"address":"httpbin.org:{}"}},"tags":{{"kuma.io/service":"bin"}}"#,
            80 + u16::from(variant)
        ),
    };
    let mesh = if key.mesh.is_empty() { String::new() } else { r#""mesh":"default","#.to_owned() };
    (key.clone(), format!(r#"{{"type":"{kind}",{mesh}"name":"{name}",{own}}}"#))
}

fn document(pick: u8, revision: u64) -> Document {
    let (key, text) = body(pick);
    let parsed = document::parse(&key, text.as_bytes()).unwrap_or_else(|invalid| panic!("{text}: {invalid}"));
    Document { key, revision, created_secs: 5, modified_secs: 7, body: parsed.body }
}

/// A resource file of these documents; what is given twice counts once.
fn write_file(path: &Path, picks: &[u8]) {
    let bodies: BTreeMap<ResourceKey, String> = picks.iter().map(|pick| body(*pick)).collect();
    let text: Vec<String> = bodies.into_values().collect();
    // Replaced as editors do, so that every edit is another file to the reader's stamps.
    let next = path.with_extension("next");
    std::fs::write(&next, text.join("\n---\n")).unwrap();
    std::fs::rename(next, path).unwrap();
}

fn layer(directory: &Path) -> Layer {
    LayerReader::new(vec![directory.to_owned()], None).look().unwrap().unwrap()
}

/// What a layer says, without the times of its files.
fn said(layer: &Layer) -> (Settings, Vec<(String, String, Resource)>) {
    let entries = layer.given.values().map(|listed| {
        let Document { key, body, .. } = &listed.document;
        (key.to_string(), body.to_string(), (*listed.resource).clone())
    });
    (layer.settings.clone(), entries.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn files_read_step_by_step_say_what_they_say_from_scratch(
        edits in proptest::collection::vec((0_u8..4, proptest::collection::vec(0_u8..30, 0..4), any::<bool>()), 1..12),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let of = |file: u8| directory.path().join(format!("{file}.yaml"));
        write_file(&of(9), &[6]);
        let mut reader = LayerReader::new(vec![directory.path().to_owned()], None);
        let mut good = said(&reader.look().unwrap().unwrap());
        for (file, picks, extra) in edits {
            match (picks.as_slice(), extra) {
                ([], true) => std::fs::write(of(file), "dnsServer: {ttl: 30}\n").unwrap(),
                ([], false) => drop(std::fs::remove_file(of(file))),
                ([pick, ..], true) if *pick >= 21 => std::fs::write(of(file), "services: [{service: web, endpoints: []}]").unwrap(),
                _ => write_file(&of(file), &picks),
            }
            let scratch = LayerReader::new(vec![directory.path().to_owned()], None).look();
            match (reader.look(), scratch) {
                (Ok(Some(step)), Ok(Some(scratch))) => {
                    good = said(&step);
                    prop_assert_eq!(&good, &said(&scratch));
                }
                (Ok(None), Ok(Some(scratch))) => prop_assert_eq!(&good, &said(&scratch)),
                (Err(step), Err(scratch)) => prop_assert_eq!(step.to_string(), scratch.to_string()),
                (Ok(None), Err(_)) => {}
                (step, scratch) => prop_assert!(false, "{step:?} but from scratch {scratch:?}"),
            }
        }
    }

    #[test]
    fn any_order_of_files_and_documents_gives_the_same(
        steps in proptest::collection::vec((any::<bool>(), 0_u8..21, any::<bool>()), 1..24),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (mut state, mut files, mut stored) = (State::new(), BTreeMap::new(), BTreeMap::new());
        let write = |files: &BTreeMap<ResourceKey, u8>| {
            let picks: Vec<u8> = files.values().copied().collect();
            write_file(&directory.path().join("a.yaml"), &picks);
            std::fs::write(directory.path().join("b.yaml"), "services: [{service: redis, endpoints: []}]").unwrap();
            layer(directory.path())
        };
        for (at, (in_file, pick, is_there)) in steps.into_iter().enumerate() {
            let (key, _) = body(pick);
            if in_file {
                if is_there { files.insert(key, pick); } else { files.remove(&key); }
                if !files.is_empty() {
                    state.take_files(&write(&files));
                }
                continue;
            }
            let mut news = DocumentNews::default();
            if is_there {
                let document = document(pick, at as u64);
                stored.insert(key, document.clone());
                news.changed.push(document);
            } else if stored.remove(&key).is_some() {
                news.removed.push(key);
            }
            state.take_news(news);
        }
        if files.is_empty() {
            files.insert(body(6).0, 6);
        }
        let last = write(&files);
        state.take_files(&last);
        let whole = || DocumentNews { whole: true, changed: stored.values().cloned().collect(), ..DocumentNews::default() };
        let mut scratch = State::new();
        scratch.take_files(&last);
        scratch.take_news(whole());
        let mut turned = State::new();
        turned.take_news(whole());
        turned.take_files(&last);
        for other in [&scratch, &turned] {
            prop_assert_eq!(entries(&state), entries(other));
            prop_assert_eq!(&state.resources, &other.resources);
            for kind in ResourceKind::ALL {
                prop_assert_eq!(state.catalog.count(kind, None), other.catalog.count(kind, None));
                let counted = state.catalog.entries.keys().filter(|key| key.kind == kind).count();
                prop_assert_eq!(state.catalog.count(kind, None), counted);
            }
        }
        // The files alone are what reading them from scratch gives.
        let mut files_alone = State::new();
        files_alone.take_files(&last);
        let read = resources::read(&[directory.path().to_owned()]).unwrap();
        prop_assert_eq!(&files_alone.resources, &read);
    }
}

fn entries(state: &State) -> Vec<(String, String, Origin)> {
    let entries = state.catalog.entries.values();
    entries
        .map(|listed| {
            let Document { key, body, .. } = &listed.document;
            (key.to_string(), body.to_string(), listed.origin.clone())
        })
        .collect()
}

#[test]
fn what_did_not_change_keeps_its_place_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    write_file(&directory.path().join("a.yaml"), &[1, 5]);
    write_file(&directory.path().join("b.yaml"), &[6]);
    let mut reader = LayerReader::new(vec![directory.path().to_owned()], None);
    let mut state = State::new();
    state.take_files(&reader.look().unwrap().unwrap());
    let before = state.resources.clone();
    assert!(reader.look().unwrap().is_none(), "nothing has changed");
    write_file(&directory.path().join("a.yaml"), &[1 + 7, 5]);
    state.take_files(&reader.look().unwrap().unwrap());
    let changed: Vec<_> = before.all.diff(&state.resources.all).collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    let other = key(ResourceKind::Dataplane, "other");
    assert!(Arc::ptr_eq(&before.all[&other], &state.resources.all[&other]));
}

/// A registry on these documents, and what makes it run.
struct Running {
    registry: Registry,
    resources: watch::Receiver<Arc<resources::Resources>>,
    layers: watch::Sender<Arc<Layer>>,
    status: StatusCell,
    trigger: DrainTrigger,
    tasks: tokio::task::JoinSet<Result<(), super::writer::WriterError>>,
}

impl Running {
    fn start(documents: &Arc<MemoryDocuments>, layer: Layer) -> Self {
        let (layers, given) = watch::channel(Arc::new(layer));
        let status = StatusCell::default();
        let writer = Writer::open(documents.clone() as Arc<dyn Documents>, given, status.clone()).unwrap();
        let (registry, resources) = (writer.registry(), writer.resources());
        let (trigger, drain) = Drain::pair();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(writer.run(drain));
        Self { registry, resources, layers, status, trigger, tasks }
    }

    async fn put(&self, pick: u8) -> Result<PutOutcome, Refusal> {
        let (key, body) = body(pick);
        self.registry.put(key, body.into(), Expected::Any).await
    }

    fn has(&self, pick: u8) -> bool {
        let (key, _) = body(pick);
        let catalog = self.registry.catalog();
        let body = &document(pick, 0).body;
        catalog.entries.get(&key).is_some_and(|listed| listed.document.body == *body)
            && self.resources.borrow().all.get(&key) == Some(&catalog.entries[&key].resource)
    }

    async fn end(mut self) {
        self.trigger.request();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_write_is_read_after_its_acknowledgement_and_stored() {
    let documents = Arc::new(MemoryDocuments::default());
    let running = Running::start(&documents, Layer::default());
    assert!(matches!(running.put(1).await, Ok(PutOutcome::Created { .. })));
    assert!(running.has(1));
    let listed = running.registry.catalog().entries[&body(1).0].clone();
    assert!(listed.document.created_secs > 0 && listed.origin == Origin::Store);
    assert_eq!(listed.meta().created_secs, listed.document.created_secs);
    let revision = listed.document.revision;
    assert_eq!(running.put(1).await.unwrap(), PutOutcome::Unchanged { revision });
    assert!(matches!(running.put(8).await, Ok(PutOutcome::Updated { revision: now }) if now > revision));
    assert!(running.has(8) && !running.has(1));
    let (key, text) = body(1);
    let stale = running.registry.put(key.clone(), text.into(), Expected::Revision(revision)).await;
    assert!(matches!(stale, Err(Refusal::Stale { .. })), "{stale:?}");
    running.registry.delete(&key, Expected::Any).await.unwrap();
    assert!(!running.has(8));
    let gone = running.registry.delete(&key, Expected::Any).await;
    assert!(matches!(gone, Err(Refusal::NotFound { .. })), "{gone:?}");
    assert!(documents.read(None).unwrap().changed.is_empty());
    running.end().await;
}

#[tokio::test]
async fn writes_at_once_are_all_made_and_replicas_agree() {
    let documents = Arc::new(MemoryDocuments::default());
    let here = Running::start(&documents, Layer::default());
    let there = Running::start(&documents, Layer::default());
    let put = |registry: Registry, at: u16| async move {
        let name = format!("web-{at}");
        let text = format!(
            r#"{{"type":"Dataplane","mesh":"default","name":"{name}","networking":{{"address":"10.0.0.1","inbound":[{{"port":{at},"tags":{{"kuma.io/service":"web-{at}"}}}}]}}}}"#
        );
        registry.put(key(ResourceKind::Dataplane, &name), text.into(), Expected::Absent).await
    };
    let mut writes = tokio::task::JoinSet::new();
    for at in 1..=600 {
        let registry = if at % 2 == 0 { &here.registry } else { &there.registry };
        writes.spawn(put(registry.clone(), at));
    }
    while let Some(done) = writes.join_next().await {
        assert!(matches!(done.unwrap(), Ok(PutOutcome::Created { .. })));
    }
    for running in [&here, &there] {
        let mut catalogs = running.registry.subscribe();
        let all = catalogs.wait_for(|catalog| catalog.count(ResourceKind::Dataplane, Some("default")) == 600);
        tokio::time::timeout(Duration::from_secs(5), all).await.unwrap().unwrap();
    }
    assert_eq!(here.resources.borrow().all, there.resources.borrow().all);
    assert_eq!(documents.read(None).unwrap().changed.len(), 600);
    here.end().await;
    there.end().await;
}

#[tokio::test]
async fn a_file_goes_before_a_document_and_gives_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let documents = Arc::new(MemoryDocuments::default());
    let running = Running::start(&documents, Layer::default());
    running.put(1).await.unwrap();
    write_file(&directory.path().join("a.yaml"), &[8]);
    let mut catalogs = running.registry.subscribe();
    running.layers.send_replace(Arc::new(layer(directory.path())));
    catalogs.wait_for(|catalog| catalog.entries[&body(1).0].origin != Origin::Store).await.unwrap();
    assert!(running.has(8));
    let status =
        running.status.subscribe().wait_for(|status| !status.shadowed.is_empty()).await.unwrap().clone();
    assert_eq!(status.shadowed[0].resource, "Dataplane \"web-01\" of mesh \"default\"");
    let refused = running.put(15).await.unwrap_err();
    assert!(matches!(&refused, Refusal::InFile { file, .. } if file.ends_with("a.yaml")), "{refused}");
    assert!(running.registry.delete(&body(1).0, Expected::Any).await.is_err());
    running.layers.send_replace(Arc::new(Layer::default()));
    catalogs.wait_for(|catalog| catalog.entries[&body(1).0].origin == Origin::Store).await.unwrap();
    assert!(running.has(1));
    running.end().await;
}

#[tokio::test]
async fn a_mesh_is_needed_by_what_is_in_it() {
    let documents = Arc::new(MemoryDocuments::default());
    let running = Running::start(&documents, Layer::default());
    let put = |kind: ResourceKind, mesh: &str, name: &str, text: &str| {
        let key = ResourceKey::new(kind, mesh, name);
        running.registry.put(key, Bytes::from(text.to_owned()), Expected::Any)
    };
    let dataplane = r#"{"type":"Dataplane","mesh":"prod","name":"d","networking":{"address":"10.0.0.1","inbound":[{"port":1,"tags":{"kuma.io/service":"a"}}]}}"#;
    let refused = put(ResourceKind::Dataplane, "prod", "d", dataplane).await.unwrap_err();
    assert_eq!(refused.to_string(), "mesh: mesh of name prod is not found");
    put(ResourceKind::Mesh, "", "prod", r#"{"type":"Mesh","name":"prod"}"#).await.unwrap();
    put(ResourceKind::Dataplane, "prod", "d", dataplane).await.unwrap();
    let secret = ResourceKey::new(ResourceKind::Secret, "prod", "s");
    let write = Write::Put { key: secret, body: "{}".into(), expected: Expected::Any };
    documents.write(&[write]).unwrap();
    let mesh = ResourceKey::new(ResourceKind::Mesh, "", "prod");
    let refused = running.registry.delete(&mesh, Expected::Any).await.unwrap_err();
    assert_eq!(refused.to_string(), "mesh: unable to delete mesh, there are still some dataplanes attached");
    running
        .registry
        .delete(&ResourceKey::new(ResourceKind::Dataplane, "prod", "d"), Expected::Any)
        .await
        .unwrap();
    running.registry.delete(&mesh, Expected::Any).await.unwrap();
    assert!(documents.read(None).unwrap().changed.is_empty(), "its key material went with it");
    let default =
        running.registry.delete(&ResourceKey::new(ResourceKind::Mesh, "", "default"), Expected::Any).await;
    assert!(matches!(default, Err(Refusal::NotGiven { .. })), "{default:?}");
    running.end().await;
}

#[tokio::test]
async fn every_mistake_of_a_body_is_reported_with_its_field() {
    let running = Running::start(&Arc::new(MemoryDocuments::default()), Layer::default());
    let mistakes = async |key: &ResourceKey, text: &str| {
        let refused = running.registry.put(key.clone(), Bytes::from(text.to_owned()), Expected::Any).await;
        match refused.unwrap_err() {
            Refusal::Invalid(invalid) => {
                invalid.violations().iter().map(ToString::to_string).collect::<Vec<_>>()
            }
            other => panic!("{other}"),
        }
    };
    let web = key(ResourceKind::Dataplane, "web-01");
    let text = r#"{"type":"MeshService","mesh":"prod","name":"web","spec":{"ports":[{"port":0}]}}"#;
    assert_eq!(
        mistakes(&web, text).await,
        [
            "type: type from the URL has to be the same as in body",
            "mesh: mesh from the URL has to be the same as in body",
            "name: name from the URL has to be the same as in body",
            "spec.ports[0].port: 0 is not allowed: use a whole number from 1 to 65535",
        ]
    );
    let text = r#"{"type":"Dataplane","mesh":"default","name":"web-01","networking":{"address":"10.0.0.1","inbound":
        [{"port":1,"tags":{"kuma.io/service":"a b"}},{"port":2,"address":"240.0.0.1","tags":{"kuma.io/service":"c"}}]}}"#;
    let found = mistakes(&web, text).await;
    assert!(
        found[0].starts_with("networking.inbound[0]: name \"a b.mesh\" has the character ' '"),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with("networking.inbound[1]: endpoint 240.0.0.1:2 lies in the VIP pool"),
        "{found:#?}"
    );
    for (text, want) in [
        ("", "not readable as JSON: EOF while parsing a value at line 1 column 0"),
        ("type: Dataplane", "not readable as JSON: "),
        ("[]", "expected a resource with type, mesh and name, found a list"),
        ("{}", "type: the field is missing: use one of Dataplane"),
        (r#"{"type":"Dataplane","type":"Mesh"}"#, "mesh: the field is missing"),
        (r#"{"services":[]}"#, "type: the field is missing"),
    ] {
        let found = mistakes(&web, text).await;
        assert!(found.iter().any(|found| found.starts_with(want)), "{text}: {found:#?}");
    }
    let bad = key(ResourceKind::Dataplane, "Web 01");
    assert!(mistakes(&bad, "{}").await.iter().any(|found| found.starts_with("name: invalid characters.")));
    running.end().await;
}

#[tokio::test]
async fn a_document_that_cannot_be_read_any_more_stops_nobody_else() {
    let documents = Arc::new(MemoryDocuments::default());
    let good = document(1, 0);
    let bad = key(ResourceKind::Dataplane, "bad");
    let put = |key: &ResourceKey, body: &str| Write::Put {
        key: key.clone(),
        body: body.into(),
        expected: Expected::Any,
    };
    documents
        .write(&[
            put(&good.key, &good.body),
            put(&bad, r#"{"type":"Dataplane","mesh":"default","name":"bad"}"#),
        ])
        .unwrap();
    let running = Running::start(&documents, Layer::default());
    assert!(running.has(1) && !running.registry.catalog().entries.contains_key(&bad));
    let status = running.status.subscribe().borrow().clone();
    assert_eq!(status.unreadable.len(), 1);
    assert!(status.unreadable[0].reason.contains("networking: the field is missing"), "{status:?}");
    // It can be put right, and be deleted.
    running.registry.delete(&bad, Expected::Any).await.unwrap();
    assert!(running.status.subscribe().borrow().unreadable.is_empty());
    running.end().await;
}

#[test]
fn mesh_services_follow_the_mode_and_the_dataplanes() {
    let mut state = State::new();
    let derived = |state: &State| {
        let of = state.catalog.entries.values().filter(|listed| listed.origin == Origin::Derived);
        of.map(|listed| listed.document.body.to_string()).collect::<Vec<_>>()
    };
    let take = |state: &mut State, changed: &[u8]| {
        let changed = changed.iter().map(|pick| document(*pick, 1)).collect();
        state.take_news(DocumentNews { changed, ..DocumentNews::default() });
    };
    take(&mut state, &[1, 2 + 7]);
    assert!(derived(&state).is_empty());
    take(&mut state, &[7]);
    assert_eq!(
        derived(&state),
        [
            r#"{"type":"MeshService","mesh":"default","name":"web","spec":{"ports":[{"appProtocol":"tcp","port":8080,"targetPort":8080},{"appProtocol":"tcp","port":8081,"targetPort":8081}],"selector":{"dataplaneTags":{"kuma.io/service":"web"}}}}"#
        ]
    );
    let removed = vec![key(ResourceKind::Dataplane, "web-02")];
    state.take_news(DocumentNews { removed, ..DocumentNews::default() });
    assert!(!derived(&state)[0].contains("8081"), "{:?}", derived(&state));
    take(&mut state, &[3]);
    assert!(derived(&state).is_empty(), "one that is given goes first");
    state.take_news(DocumentNews {
        removed: vec![key(ResourceKind::MeshService, "web")],
        ..DocumentNews::default()
    });
    assert_eq!(derived(&state).len(), 1);
    take(&mut state, &[0]);
    assert!(derived(&state).is_empty());
}
