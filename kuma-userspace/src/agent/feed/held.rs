//! What the feed holds of its view: the value, and the version of each resource that it came in. Pure. Keeps: a message is
//! read as a whole or not at all; nothing changes before it is taken. Called by feed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource as Sent};
use tracing::warn;

use super::said;
use crate::model::name::Hostname;
use crate::model::view::{Changes, MeshView};
use crate::wire::resource::Version;
use crate::wire::view::{self, DecodeError, Decoded, Named};

#[derive(Debug)]
pub(super) struct Held {
    view: Arc<MeshView>,
    /// `None`: nothing came so far.
    header: Option<Version>,
    /// Of each part.
    parts: HashMap<Arc<str>, Version>,
    /// All versions in one, those of the parts by exclusive or; kept, not counted.
    digest: u64,
}

/// The view after a message, not taken yet.
#[derive(Debug)]
pub(super) struct Next {
    view: Arc<MeshView>,
    header: Option<Version>,
    /// `None`: the part is gone.
    parts: BTreeMap<Arc<str>, Option<Version>>,
}

impl Next {
    pub(super) fn view(&self) -> &Arc<MeshView> {
        &self.view
    }

    /// How many parts are others than before.
    pub(super) fn changed(&self) -> usize {
        self.parts.len()
    }
}

impl Held {
    /// Nothing of this view.
    pub(super) fn new(view: &str) -> Self {
        let domain = Hostname::parse("mesh").expect("a valid name");
        let view = Arc::new(MeshView::empty(view, domain));
        Self { view, header: None, parts: HashMap::new(), digest: 0 }
    }

    /// All versions in one; `None`: nothing is held.
    pub(super) fn version(&self) -> Option<String> {
        Some(format!("{:016x}", self.header?.get() ^ self.digest))
    }

    /// By the name of each resource, for a control plane that is met again.
    pub(super) fn versions(&self) -> HashMap<String, String> {
        let view = self.view.name();
        let header = self.header.map(|version| (view.to_owned(), version.to_string()));
        let parts = self.parts.iter().map(|(key, version)| (view::part_name(view, key), version.to_string()));
        header.into_iter().chain(parts).collect()
    }

    /// What a message makes of the view; `None`: it says nothing.
    ///
    /// # Errors
    /// Why the message cannot be taken: in words, after the name of the resource that is at fault.
    pub(super) fn read(&self, message: DeltaDiscoveryResponse) -> Result<Option<Next>, String> {
        let name = self.view.name();
        let (mut changes, mut header, mut parts) = (Changes::default(), self.header, BTreeMap::new());
        for removed in message.removed_resources {
            match Named::read(name, &removed).map_err(|error| view::refusal(&removed, &said(&error)))? {
                Named::Header => {
                    warn!(view = name, "the control plane says that the view is gone, the last one stays")
                }
                Named::Part(key) => {
                    let key: Arc<str> = key.into();
                    parts.insert(key.clone(), None);
                    changes.parts.insert(key, None);
                }
            }
        }
        for Sent { name: resource, version, resource: body, .. } in message.resources {
            let refused = |error: &dyn std::error::Error| view::refusal(&resource, &said(error));
            let version: Version = version.parse().map_err(|error| refused(&error))?;
            let named = Named::read(name, &resource).map_err(|error| refused(&error))?;
            let body = body.unwrap_or_default().value;
            match (named, view::decode(named, &body).map_err(|error| refused(&error))?) {
                (Named::Part(key), Decoded::Part(part)) => {
                    let key: Arc<str> = key.into();
                    parts.insert(key.clone(), Some(version));
                    changes.parts.insert(key, Some(Arc::new(part)));
                }
                (_, Decoded::Header(new)) => {
                    header = Some(version);
                    changes.header = Some(Arc::new(new));
                }
                (Named::Header, Decoded::Part(_)) => return Err(refused(&DecodeError::Misnamed)),
            }
        }
        if changes == Changes::default() {
            return Ok(None);
        }
        if header.is_none() {
            return Err("parts of a view came before its header".into());
        }
        let at_fault = |part: &str| view::part_name(name, part);
        let view =
            self.view.with(changes).map_err(|error| view::refusal(&at_fault(error.part()), &said(&error)))?;
        Ok(Some(Next { view: Arc::new(view), header, parts }))
    }

    /// It was applied. Returns the version of all of it.
    pub(super) fn take(&mut self, next: Next) -> String {
        let Next { view, header, parts } = next;
        for (key, version) in parts {
            let before = match version {
                Some(version) => self.parts.insert(key, version),
                None => self.parts.remove(&key),
            };
            self.digest ^= before.map_or(0, Version::get) ^ version.map_or(0, Version::get);
        }
        (self.view, self.header) = (view, header);
        self.version().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::Any;

    use super::*;
    use crate::model::view::{Addresses, Header, Part, Port, Route};

    fn name(text: &str) -> Hostname {
        Hostname::parse(text).unwrap()
    }

    fn sent(name: &str, body: Vec<u8>) -> Sent {
        let version = Version::of(&body).to_string();
        let resource = Some(Any { type_url: String::new(), value: body });
        Sent { name: name.into(), version, resource, ..Sent::default() }
    }

    fn header(range: &str) -> Sent {
        let ranges = vec![range.parse().unwrap()];
        sent("default", view::encode_header(&Header { domain: name("mesh"), ttl_secs: 60, ranges }))
    }

    fn part(key: &str, hostname: &str, last: u8) -> Sent {
        let addresses = Addresses { v4: Some([240, 0, 0, last].into()), v6: None };
        let route = Route { vip: [240, 0, 0, last].into(), port: Port::new(80) };
        let part = Part::new(vec![name(hostname)], addresses, vec![route]).unwrap();
        sent(&view::part_name("default", key), view::encode_part(&part))
    }

    fn message(resources: &[Sent], removed: &[&str]) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            resources: resources.to_vec(),
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        }
    }

    fn names(view: &MeshView) -> Vec<&str> {
        view.names().keys().map(Hostname::as_str).collect()
    }

    /// A feed that has taken a header and parts `a` and `b`.
    fn held() -> Held {
        let mut held = Held::new("default");
        let first = [header("240.0.0.0/4"), part("a", "a.mesh", 1), part("b", "b.mesh", 2)];
        let next = held.read(message(&first, &[])).unwrap().unwrap();
        held.take(next);
        held
    }

    #[test]
    fn the_first_message_is_the_view_and_later_ones_are_changes_of_it() {
        let mut held = held();
        assert_eq!(names(&held.view), ["a.mesh", "b.mesh"]);
        let changed = message(&[part("c", "a.mesh", 3)], &["default/a", "default/nobody"]);
        let next = held.read(changed).unwrap().unwrap();
        assert_eq!(next.view().names()[&name("a.mesh")].v4, Some([240, 0, 0, 3].into()));
        assert_eq!(held.versions().len(), 3, "nothing is taken yet");
        held.take(next);
        let mut held_now: Vec<String> = held.versions().into_keys().collect();
        held_now.sort();
        assert_eq!(held_now, ["default", "default/b", "default/c"]);
        assert!(held.read(message(&[], &[])).unwrap().is_none());
        assert!(held.read(message(&[], &["default"])).unwrap().is_none(), "the last view stays");
    }

    #[test]
    fn the_same_view_has_the_same_version_whatever_the_way_to_it() {
        let mut by_steps = Held::new("default");
        assert_eq!(by_steps.version(), None);
        for step in [
            message(&[header("240.0.0.0/4"), part("x", "x.mesh", 9), part("a", "a.mesh", 7)], &[]),
            message(&[part("a", "a.mesh", 1), part("b", "b.mesh", 2)], &["default/x"]),
        ] {
            let next = by_steps.read(step).unwrap().unwrap();
            by_steps.take(next);
        }
        assert_eq!((by_steps.version(), by_steps.versions()), (held().version(), held().versions()));
    }

    #[test]
    fn what_cannot_be_taken_is_refused_whole_after_the_name_of_the_resource() {
        let held = held();
        let good = || part("good", "good.mesh", 4);
        let broken = sent("default/c", b"\xff".to_vec());
        for (resources, want) in [
            (vec![good(), part("c", "b.mesh", 5)], "resource default/c: name b.mesh"),
            (vec![good(), broken], "resource default/c: the bytes are no"),
            (vec![good(), header("241.0.0.0/8")], "resource default/"),
            (vec![good(), Sent { name: "other/c".into(), ..good() }], "resource other/c: "),
        ] {
            let refusal = held.read(message(&resources, &[])).unwrap_err();
            assert!(refusal.starts_with(want), "{refusal}");
        }
        let headless = Held::new("default").read(message(&[good()], &[])).unwrap_err();
        assert!(headless.contains("before its header"), "{headless}");
    }
}
