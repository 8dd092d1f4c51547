//! The registry as its users see it: what is acknowledged is stored and seen, what is refused is told why.

mod whole;

use self::whole::{layer, write_file};
use super::*;
use crate::cp::resources;
use crate::cp::status::StatusCell;
use crate::cp::store::MemoryDocuments;
use crate::cp::store::documents::{Document, Documents, Write};
use crate::model::kind::ResourceKind;
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
