//! Files, documents and replicas together: whatever came in whatever order, the outcome is what there is.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::{body, document, key};
use crate::cp::registry::layer::LayerReader;
use crate::cp::registry::state::State;
use crate::cp::registry::*;
use crate::cp::resources;
use crate::cp::settings::Settings;
use crate::cp::store::documents::{Document, DocumentNews};
use crate::model::kind::{Resource, ResourceKind};

/// A resource file of these documents; what is given twice counts once.
pub(super) fn write_file(path: &Path, picks: &[u8]) {
    let bodies: BTreeMap<ResourceKey, String> = picks.iter().map(|pick| body(*pick)).collect();
    let text: Vec<String> = bodies.into_values().collect();
    // Replaced as editors do, so that every edit is another file to the reader's stamps.
    let next = path.with_extension("next");
    std::fs::write(&next, text.join("\n---\n")).unwrap();
    std::fs::rename(next, path).unwrap();
}

pub(super) fn layer(directory: &Path) -> Layer {
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
