//! What a client is told, step by step. Part of subscription.

use envoy_types::pb::google::rpc;

use super::*;

/// A client and the set that it follows.
struct Table {
    subscription: Subscription,
    set: Set,
    strangers_may_go: bool,
    nonce: u32,
}

impl Table {
    /// A client that asks for `names` (none: everything) and `has` some of it from an earlier stream.
    fn open(names: &[&str], has: &[(&str, &str)]) -> Self {
        Self::open_as(Scope::Names, names, has)
    }

    fn open_as(scope: Scope, names: &[&str], has: &[(&str, &str)]) -> Self {
        let mut request = DeltaDiscoveryRequest {
            resource_names_subscribe: texts(names),
            initial_resource_versions: has
                .iter()
                .map(|&(name, version)| (name.into(), version.into()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        };
        let subscription = Subscription::open(scope, &mut request);
        let set = Set { generation: 0, decided: true, resources: Resources::default() };
        Self { subscription, set, strangers_may_go: true, nonce: 0 }
    }

    /// Publishes exactly these names and versions.
    fn publish(&mut self, resources: &[(&str, &str)]) -> &mut Self {
        let mut set = Resources::default();
        for &(name, version) in resources {
            let (name, version, body) = (name.to_owned(), version.to_owned(), bytes::Bytes::new());
            set.insert(Resource { name, version, body, endpoints: None });
        }
        self.set.resources = set;
        self.set.generation += 1;
        self
    }

    /// What the client is told now: `name=version`, `-name`; `None` when there is nothing to tell.
    fn told(&mut self) -> Option<String> {
        let source = Source { set: &self.set, own: &[], strangers_may_go: self.strangers_may_go };
        let nonce = (self.nonce + 1).to_string();
        let (_, answer) = self.subscription.next(&source, || nonce)?;
        self.nonce += 1;
        let changed = answer.changed.iter().map(|resource| format!("{}={}", resource.name, resource.version));
        let mut told: Vec<String> = changed.collect();
        told.extend(answer.removed.iter().map(|name| format!("-{name}")));
        told.sort();
        Some(told.join(" "))
    }

    fn ack(&mut self) -> &mut Self {
        self.request(&[], &[], None);
        self
    }

    /// Refuses the last answer; returns the names that are held responsible.
    fn nack(&mut self, text: &str) -> Vec<String> {
        let error = rpc::Status { code: 13, message: text.into(), details: Vec::new() };
        self.request(&[], &[], Some(error))
    }

    fn request(
        &mut self,
        subscribe: &[&str],
        unsubscribe: &[&str],
        error: Option<rpc::Status>,
    ) -> Vec<String> {
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: texts(subscribe),
            resource_names_unsubscribe: texts(unsubscribe),
            response_nonce: if subscribe.is_empty() { self.nonce.to_string() } else { String::new() },
            error_detail: error,
            ..DeltaDiscoveryRequest::default()
        };
        self.subscription.take(request).into_iter().map(|(name, _)| name).collect()
    }
}

fn texts(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn some(told: &str) -> Option<String> {
    Some(told.to_owned())
}

#[test]
fn a_client_is_told_everything_once_and_then_only_what_changed() {
    let mut table = Table::open(&[], &[]);
    assert_eq!(table.publish(&[("a", "1"), ("b", "1")]).told(), some("a=1 b=1"));
    assert_eq!(table.ack().told(), None);
    assert_eq!(table.publish(&[("a", "2"), ("c", "1")]).told(), some("-b a=2 c=1"));
    assert_eq!(table.ack().told(), None);
    assert_eq!(table.subscription.acked(), 2);
}

#[test]
fn a_client_that_does_not_acknowledge_finds_the_newest_state_and_nothing_between() {
    let mut table = Table::open(&[], &[]);
    assert_eq!(table.publish(&[("a", "1")]).told(), some("a=1"));
    for version in ["2", "3", "4"] {
        assert_eq!(table.publish(&[("a", version)]).told(), None);
    }
    assert_eq!(table.subscription.acked(), 0);
    assert_eq!(table.ack().told(), some("a=4"));
    assert_eq!(table.subscription.acked(), 1);
}

#[test]
fn the_first_answer_comes_even_when_it_is_empty_but_not_before_something_is_decided() {
    let mut table = Table::open(&[], &[]);
    table.set.decided = false;
    assert_eq!(table.told(), None);
    table.set.decided = true;
    assert_eq!(table.told(), some(""), "Envoy waits 15 seconds for it");
    assert_eq!(table.ack().told(), None);
}

#[test]
fn every_name_that_is_asked_for_is_answered() {
    let mut table = Table::open(&["a", "nobody"], &[]);
    assert_eq!(table.publish(&[("a", "1"), ("b", "1")]).told(), some("-nobody a=1"));
    assert_eq!(table.ack().told(), None, "once");
    table.request(&["b", "nobody"], &[], None);
    assert_eq!(table.told(), some("-nobody b=1"), "asked again, told again");
    table.ack().request(&[], &["a"], None);
    assert_eq!(table.publish(&[("a", "2"), ("b", "1"), ("nobody", "1")]).told(), some("nobody=1"));
}

#[test]
fn a_client_that_reconnects_is_told_only_what_it_lacks() {
    let mut table = Table::open(&[], &[("a", "1"), ("b", "1"), ("gone", "1")]);
    assert_eq!(table.publish(&[("a", "1"), ("b", "2")]).told(), some("-gone b=2"));
}

#[test]
fn what_an_earlier_control_plane_gave_is_not_taken_away_before_it_may_go() {
    let mut table = Table::open(&[], &[("a", "1"), ("old", "1")]);
    table.strangers_may_go = false;
    assert_eq!(table.publish(&[("a", "1"), ("b", "1")]).told(), some("b=1"));
    assert_eq!(table.ack().told(), None);
    assert_eq!(table.publish(&[("a", "1")]).told(), some("-b"), "our own goes");
    assert_eq!(table.ack().told(), None);
    table.strangers_may_go = true;
    assert_eq!(table.told(), some("-old"));
}

#[test]
fn endpoints_that_were_sent_can_be_sent_again() {
    let mut table = Table::open(&["a", "b"], &[]);
    table.publish(&[("a", "1"), ("b", "1")]).told();
    table.ack();
    table.subscription.forget([&"a".to_owned(), &"nobody".to_owned()].into_iter());
    assert_eq!(table.told(), some("a=1"));
}

#[test]
fn a_refused_resource_is_not_sent_again_until_it_changes() {
    let mut table = Table::open(&[], &[]);
    assert_eq!(table.publish(&[("a", "1"), ("b", "1")]).told(), some("a=1 b=1"));
    assert_eq!(table.nack("Error adding/updating listener(s) a: duplicate address"), ["a"]);
    assert_eq!(table.told(), None);
    assert_eq!(table.subscription.acked(), 1, "the others are in");
    assert_eq!(table.subscription.refused().len(), 1);
    assert_eq!(table.publish(&[("a", "2"), ("b", "1")]).told(), some("a=2"));
    assert!(table.subscription.refused().is_empty());
}

#[test]
fn when_a_whole_message_was_refused_the_good_ones_of_it_are_sent_again() {
    let mut table = Table::open(&[], &[("gone", "1")]);
    assert_eq!(table.publish(&[("a", "1"), ("b", "1")]).told(), some("-gone a=1 b=1"));
    assert_eq!(table.nack(r#"Proto constraint validation failed: name: "a""#), ["a"]);
    assert_eq!(table.subscription.acked(), 0);
    assert_eq!(table.told(), some("-gone b=1"));
    assert_eq!(table.ack().told(), None);
    assert_eq!(table.subscription.acked(), 1);
}

#[test]
fn a_refusal_without_a_name_is_found_one_resource_at_a_time() {
    let mut table = Table::open(&[], &[]);
    table.publish(&[("a", "1"), ("b", "1"), ("c", "1")]).told();
    assert_eq!(table.nack("cannot parse"), NOBODY);
    assert_eq!(table.told(), some("a=1"));
    assert_eq!(table.ack().told(), some("b=1"));
    assert_eq!(table.nack("cannot parse"), ["b"]);
    assert_eq!(table.told(), some("c=1"));
    assert_eq!(table.subscription.acked(), 0);
    assert_eq!(table.ack().told(), None);
    assert_eq!(table.subscription.acked(), 1);
}

#[test]
fn an_answer_to_an_old_message_changes_nothing() {
    let mut table = Table::open(&[], &[]);
    table.publish(&[("a", "1")]).told();
    table.nonce -= 1;
    table.ack();
    assert_eq!(table.publish(&[("a", "2")]).told(), None, "the last answer is still awaited");
}

/// An agent of view `v`.
fn agent(has: &[(&str, &str)]) -> Table {
    Table::open_as(Scope::View("v".into()), &["v"], has)
}

#[test]
fn who_asks_for_a_view_is_told_of_its_header_and_of_every_part_also_of_those_that_come_later() {
    let mut table = agent(&[("v", "1"), ("v/a", "1"), ("v/gone", "1")]);
    let published = [("v", "1"), ("v/a", "1"), ("v/b", "1")];
    assert_eq!(table.publish(&published).told(), some("-v/gone v/b=1"));
    assert_eq!(table.ack().publish(&[("v", "2"), ("v/b", "1"), ("v/c", "1")]).told(), some("-v/a v/c=1 v=2"));
}

#[test]
fn a_part_that_an_agent_refuses_is_left_out_and_the_others_come_without_it() {
    let mut table = agent(&[("v", "1"), ("v/gone", "1")]);
    assert_eq!(table.publish(&[("v", "1"), ("v/a", "1"), ("v/b", "1")]).told(), some("-v/gone v/a=1 v/b=1"));
    assert_eq!(table.nack("resource v/a: name x is in another part"), ["v/a"]);
    assert_eq!(table.subscription.acked(), 0);
    assert_eq!(table.told(), some("-v/gone v/b=1"));
    assert_eq!(table.ack().told(), None);
    assert_eq!(table.subscription.acked(), 1);
}

#[test]
fn a_message_that_an_agent_refuses_as_a_whole_comes_again_as_a_whole_with_the_next_change() {
    let mut table = agent(&[]);
    assert_eq!(table.publish(&[("v", "1"), ("v/a", "1")]).told(), some("v/a=1 v=1"));
    assert_eq!(table.nack("map VIPS is full"), ["v"]);
    assert_eq!(table.told(), None, "not part by part");
    assert_eq!(table.publish(&[("v", "1"), ("v/b", "1")]).told(), some("-v/a v/b=1 v=1"));
    assert_eq!(table.subscription.acked(), 0);
    assert_eq!(table.ack().told(), None);
    assert_eq!((table.subscription.acked(), table.subscription.refused().len()), (2, 0));
}

const NOBODY: [&str; 0] = [];
