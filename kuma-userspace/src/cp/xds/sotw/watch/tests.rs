//! What a client without delta is told, step by step. Part of watch.

use std::time::Duration;

use envoy_types::pb::google::rpc;

use super::*;

/// A client and the set that it follows.
struct Table {
    watch: Watch,
    set: Set,
    nonce: u64,
    now: Instant,
}

fn resource(name: &str, version: &str) -> (Name, Resource) {
    let name = Name::of(name);
    let content = Content::Bytes(format!("{name}={version}").into_bytes().into());
    (name.clone(), Resource::new(&name, content))
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn some(told: &str) -> Option<String> {
    Some(told.to_owned())
}

impl Table {
    fn open(kind: ResourceType, names: &[&str], version: &str) -> Self {
        let (version_info, resource_names) = (version.to_owned(), texts(names));
        let request = DiscoveryRequest { version_info, resource_names, ..DiscoveryRequest::default() };
        let set = Set { decided: true, ..Set::default() };
        Self { watch: Watch::open(kind, request), set, nonce: 0, now: Instant::now() }
    }

    fn publish(&mut self, resources: &[(&str, &str)]) -> &mut Self {
        self.set.resources = Resources::default();
        for (name, resource) in resources.iter().map(|(name, version)| resource(name, version)) {
            self.set.resources.insert(name, resource);
        }
        self.set.generation += 1;
        self
    }

    fn told(&mut self) -> Option<String> {
        let answer = self.watch.next(&self.set, &[], self.nonce + 1, self.now)?;
        self.nonce += 1;
        let said = answer.resources.iter().map(|(name, resource)| match &resource.content {
            Content::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            _ => format!("{name} has none"),
        });
        Some(said.collect::<Vec<_>>().join(" "))
    }

    fn request(&mut self, names: &[&str], error: Option<&str>) -> Vec<String> {
        let status = |text: &str| rpc::Status { code: 13, message: text.into(), details: Vec::new() };
        let request = DiscoveryRequest {
            resource_names: texts(names),
            response_nonce: self.nonce.to_string(),
            error_detail: error.map(status),
            ..DiscoveryRequest::default()
        };
        self.watch.take(request, self.now).into_iter().map(|(name, _)| name.to_string()).collect()
    }

    fn ack(&mut self) -> &mut Self {
        self.request(&[], None);
        self
    }
}

#[test]
fn a_change_of_one_sends_all_and_what_is_missing_is_gone() {
    let mut table = Table::open(ResourceType::Cluster, &[], "");
    assert_eq!(table.publish(&[("a", "1"), ("b", "1")]).told(), some("a=1 b=1"));
    assert_eq!(table.publish(&[("a", "2"), ("b", "1")]).told(), None, "one answer at a time");
    assert_eq!((table.ack().told(), table.watch.acked()), (some("a=2 b=1"), 1));
    assert_eq!(table.ack().publish(&[("a", "2")]).told(), some("a=2"));
    assert_eq!((table.ack().told(), table.watch.acked()), (None, 3));
}

#[test]
fn who_has_it_all_from_another_replica_is_sent_nothing() {
    let mut first = Table::open(ResourceType::Cluster, &[], "");
    first.publish(&[("a", "1"), ("b", "1")]);
    let version = first.watch.next(&first.set, &[], 1, first.now).unwrap().version;
    let mut table = Table::open(ResourceType::Cluster, &[], &version);
    assert_eq!(table.publish(&[("b", "1"), ("a", "1")]).told(), None);
    assert_eq!(table.watch.acked(), 1);
    assert_eq!(table.publish(&[("a", "1")]).told(), some("a=1"));
}

#[test]
fn endpoints_come_as_they_change_and_every_name_is_answered() {
    let mut table = Table::open(ResourceType::Endpoints, &["a", "nobody"], "");
    assert_eq!(table.publish(&[("a", "1"), ("b", "1")]).told(), some("a=1 nobody has none"));
    table.request(&["a", "nobody", "b"], None);
    assert_eq!(table.told(), some("b=1"));
    table.request(&["a", "b"], None);
    assert_eq!(table.publish(&[("a", "2"), ("b", "1")]).told(), some("a=2"));
    table.request(&["a", "b"], None);
    assert_eq!(table.told(), None);
    table.watch.forget(["b", "other"].map(Name::of).into_iter());
    assert_eq!(table.told(), some("b=1"), "behind a change of its cluster");
}

#[test]
fn a_refused_resource_holds_no_other_back_and_is_tried_again() {
    let mut table = Table::open(ResourceType::Listener, &[], "");
    table.publish(&[("a", "1"), ("b", "1")]).told();
    let text = "Error adding/updating listener(s) a: duplicate address";
    assert_eq!(table.request(&[], Some(text)), ["a"]);
    assert_eq!((table.told(), table.watch.acked()), (None, 1));
    assert_eq!(table.publish(&[("a", "1"), ("b", "2")]).told(), some("a=1 b=2"), "all or none");
    assert!(table.request(&[], Some(text)).is_empty(), "no news");
    assert_eq!((table.told(), table.watch.acked()), (None, 2));
    table.now = table.watch.wake().unwrap();
    assert_eq!(table.told(), some("a=1 b=2"));
    assert_eq!((table.ack().told(), table.watch.refused().count()), (None, 0));
}

#[test]
fn what_took_a_whole_message_with_it_is_sent_as_it_was_before() {
    let mut table = Table::open(ResourceType::Listener, &[], "");
    table.publish(&[("a", "1"), ("b", "1")]).told();
    table.ack();
    assert_eq!(table.publish(&[("a", "2"), ("b", "2"), ("c", "1")]).told(), some("a=2 b=2 c=1"));
    assert_eq!(table.request(&[], Some(r#"validation failed: name: "a""#)), ["a"]);
    assert_eq!((table.told(), table.watch.acked()), (some("a=1 b=2 c=1"), 1));
    assert_eq!((table.ack().told(), table.watch.acked()), (None, 2));
    assert_eq!(table.watch.refused().count(), 1);
}

#[test]
fn a_refusal_without_a_name_is_found_one_resource_at_a_time() {
    let mut table = Table::open(ResourceType::Cluster, &[], "");
    table.publish(&[("old", "1")]).told();
    table.ack().publish(&[("a", "1"), ("b", "1"), ("old", "1")]).told();
    assert!(table.request(&[], Some("cannot parse")).is_empty());
    assert_eq!(table.told(), some("a=1 old=1"));
    assert_eq!((table.ack().told(), table.watch.acked()), (some("a=1 b=1 old=1"), 1));
    assert_eq!(table.request(&[], Some("cannot parse")), ["b"]);
    table.now += Duration::from_secs(1);
    assert_eq!((table.told(), table.watch.acked()), (None, 2), "it has all the others");
}
