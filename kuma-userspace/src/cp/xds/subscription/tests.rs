//! What a client is told, step by step. Part of subscription.

use envoy_types::pb::google::rpc;

use std::time::Duration;

use super::*;
use crate::cp::xds::content::Content;

/// A client and the set that it follows.
struct Table {
    subscription: Subscription,
    set: Set,
    strangers_may_go: bool,
    nonce: u64,
    now: Instant,
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
                .map(|&(name, version)| (name.into(), resource(name, version).version.to_string()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        };
        let subscription = Subscription::open(scope, &mut request);
        let set = Set { generation: 0, decided: true, resources: Resources::default() };
        Self { subscription, set, strangers_may_go: true, nonce: 0, now: Instant::now() }
    }

    /// Publishes exactly these names and versions.
    fn publish(&mut self, resources: &[(&str, &str)]) -> &mut Self {
        let mut set = Resources::default();
        for &(name, version) in resources {
            let key = self.subscription.scope().read(name).unwrap();
            set.insert(key, resource(name, version));
        }
        self.set.resources = set;
        self.set.generation += 1;
        self
    }

    /// What the client is told now: `name=version`, `-name`; `None` when there is nothing to tell.
    fn told(&mut self) -> Option<String> {
        let source = Source { set: &self.set, own: &[], strangers_may_go: self.strangers_may_go };
        let answer = self.subscription.next(&source, self.nonce + 1, self.now)?;
        self.nonce += 1;
        let changed = answer.changed.iter().map(|(name, resource)| match &resource.content {
            Content::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{name} {other:?}"),
        });
        let mut told: Vec<String> = changed.collect();
        let removed = answer.removed.iter().map(|name| self.subscription.scope().write(name));
        told.extend(removed.map(|name| format!("-{name}")));
        told.sort();
        Some(told.join(" "))
    }

    fn after(&mut self, pause: Duration) -> &mut Self {
        self.now += pause;
        self
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
        let news = self.subscription.take(request, self.now);
        news.into_iter().map(|(name, _)| self.subscription.scope().write(&name)).collect()
    }
}

/// `name=version` in bytes.
fn resource(name: &str, version: &str) -> Resource {
    let content = Content::Bytes(format!("{name}={version}").into_bytes().into());
    Resource::new(&Name::of(name), content)
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
    table.subscription.forget(["a", "nobody"].map(Name::of).into_iter());
    assert_eq!(table.told(), some("a=1"));
}

#[test]
fn a_refused_resource_is_not_sent_again_until_it_changes() {
    let mut table = Table::open(&[], &[]);
    assert_eq!(table.publish(&[("a", "1"), ("b", "1")]).told(), some("a=1 b=1"));
    assert_eq!(table.nack("Error adding/updating listener(s) a: duplicate address"), ["a"]);
    assert_eq!(table.told(), None);
    assert_eq!(table.subscription.acked(), 1, "the others are in");
    assert_eq!(table.subscription.refused().count(), 1);
    assert_eq!(table.publish(&[("a", "2"), ("b", "1")]).told(), some("a=2"));
    assert_eq!(table.subscription.refused().count(), 1, "not taken yet");
    assert_eq!(table.ack().told(), None);
    assert_eq!(table.subscription.refused().count(), 0);
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
    assert_eq!((table.subscription.acked(), table.subscription.refused().count()), (2, 0));
}

#[test]
fn a_refused_resource_is_tried_again_by_itself_and_alone() {
    let mut table = Table::open(&[], &[]);
    table.publish(&[("a", "1"), ("b", "1")]).told();
    table.nack("Error adding/updating listener(s) a: the port is in use");
    assert_eq!(table.told(), None);
    let pause = table.subscription.wake().unwrap() - table.now;
    table.publish(&[("a", "1"), ("b", "2")]);
    assert_eq!(table.after(pause).told(), some("a=1"), "alone: it must not take others with it");
    assert_eq!(table.subscription.refused().count(), 1, "still refused until it is taken");
    assert_eq!(table.nack("Error adding/updating listener(s) a: the port is in use"), NOBODY, "no news");
    assert_eq!(table.told(), some("b=2"));
    assert_eq!(table.ack().told(), None);
    assert!(table.subscription.wake().unwrap() - table.now > pause, "the pause grows");
    assert_eq!(table.after(pause * 2).told(), some("a=1"));
    table.ack();
    assert_eq!((table.subscription.refused().count(), table.subscription.wake()), (0, None));
}

#[test]
fn a_view_that_was_refused_as_a_whole_is_tried_again_by_itself() {
    let mut table = agent(&[]);
    table.publish(&[("v", "1"), ("v/a", "1")]).told();
    table.nack("map VIPS is full");
    assert_eq!(table.told(), None);
    let pause = table.subscription.wake().unwrap() - table.now;
    assert_eq!(table.after(pause).told(), some("v/a=1 v=1"));
    assert_eq!(table.nack("map VIPS is full"), NOBODY, "no news");
    assert_eq!(table.told(), None);
    assert_eq!(table.after(pause * 2).told(), some("v/a=1 v=1"));
    table.ack();
    assert_eq!((table.subscription.refused().count(), table.subscription.wake()), (0, None));
    assert_eq!((table.subscription.acked(), table.told()), (1, None));
}

const NOBODY: [&str; 0] = [];
