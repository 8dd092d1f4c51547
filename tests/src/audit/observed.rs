//! What clients did and what replicas told, and whether that fits together. Pure; knows nothing of the store.
//! Called by tests of replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kuma_dns::model::view::Addresses;

/// How long one step may take to be told.
const GRACE_SECS: f64 = 1.0;

/// The wall clock, which everybody on this machine shares.
pub fn now_secs() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// One step of what a replica tells: names, and what they have from then on.
#[derive(Clone, PartialEq, Debug)]
pub struct Seen {
    pub replica: usize,
    pub at_secs: f64,
    pub changed: Vec<(Arc<str>, Option<Addresses>)>,
}

/// A request of a client.
#[derive(Clone, PartialEq, Debug)]
pub struct Operation {
    /// As it is told.
    pub local: String,
    pub verb: Verb,
    pub start_secs: f64,
    pub outcome: Outcome,
}

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Put,
    Delete,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Acknowledged,
    /// Nobody said: it may have happened, or not.
    Unknown,
    /// It cannot have happened.
    Never,
}

/// What must be there in the end, by local name; nothing stands for either.
pub fn expected(operations: &[Operation]) -> BTreeMap<&str, Option<bool>> {
    let mut expected = BTreeMap::new();
    for operation in operations {
        let there = operation.verb == Verb::Put;
        let known = match operation.outcome {
            Outcome::Acknowledged => Some(there),
            // What was there already is there whether or not it was put again.
            Outcome::Unknown if expected.get(&*operation.local) == Some(&Some(there)) => Some(there),
            Outcome::Unknown => None,
            Outcome::Never => continue,
        };
        expected.insert(&*operation.local, known);
    }
    expected
}

/// Everything that is wrong, in the order of `operations`, which is theirs for each name, and of each replica's `seen`.
pub fn judge(operations: &[Operation], seen: &[Seen], rest_secs: f64) -> Vec<String> {
    let mut wrong = doubled(seen);
    let mut deletes: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.verb == Verb::Delete) {
        deletes.entry(&operation.local).or_default().push(operation.start_secs);
    }
    let firsts = firsts(seen);
    wrong.extend(changed(&firsts, &deletes));
    wrong.extend(too_early(&firsts, &deletes, rest_secs));
    wrong
}

/// When an address was first seen with a name, by anybody.
type Firsts<'a> = BTreeMap<(&'a str, IpAddr), f64>;

fn firsts(seen: &[Seen]) -> Firsts<'_> {
    let mut firsts = Firsts::new();
    for step in seen {
        for (local, addresses) in &step.changed {
            for address in addresses.iter().flat_map(|addresses| addresses.iter()) {
                let first = firsts.entry((&**local, address)).or_insert(step.at_secs);
                *first = first.min(step.at_secs);
            }
        }
    }
    firsts
}

/// A replica never tells one address for two names. Where an address goes from one to the other in a step that is told piece by
/// piece, the former owner goes within the grace.
fn doubled(seen: &[Seen]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut told: BTreeMap<usize, Told<'_>> = BTreeMap::new();
    for step in seen {
        wrong.extend(told.entry(step.replica).or_default().take(step));
    }
    wrong.extend(told.into_values().flat_map(|told| told.open.into_values().map(|open| open.words)));
    wrong
}

/// What one replica tells.
#[derive(Default)]
struct Told<'a> {
    owners: BTreeMap<IpAddr, &'a str>,
    held: BTreeMap<&'a str, Addresses>,
    /// By the former owner of an address that has a new one.
    open: BTreeMap<&'a str, Open>,
}

struct Open {
    since_secs: f64,
    words: String,
}

impl<'a> Told<'a> {
    fn take(&mut self, Seen { replica, at_secs, changed }: &'a Seen) -> Vec<String> {
        for (local, _) in changed {
            self.open.remove(&**local);
            for address in self.held.remove(&**local).iter().flat_map(|before| before.iter()) {
                if self.owners.get(&address) == Some(&&**local) {
                    self.owners.remove(&address);
                }
            }
        }
        for (local, now) in changed {
            let Some(now) = now else { continue };
            self.held.insert(local, *now);
            for address in now.iter() {
                if let Some(other) = self.owners.insert(address, local) {
                    let words =
                        format!("replica {replica} told {address} for {other} and {local} at {at_secs:.3}");
                    self.open.insert(other, Open { since_secs: *at_secs, words });
                }
            }
        }
        let late = self.open.extract_if(.., |_, open| open.since_secs + GRACE_SECS < *at_secs);
        late.map(|(_, open)| open.words).collect()
    }
}

/// A name has one address for as long as nobody deletes it.
fn changed(firsts: &Firsts<'_>, deletes: &BTreeMap<&str, Vec<f64>>) -> Vec<String> {
    let mut addresses: BTreeMap<(&str, bool), BTreeSet<IpAddr>> = BTreeMap::new();
    for (local, address) in firsts.keys() {
        addresses.entry((local, address.is_ipv4())).or_default().insert(*address);
    }
    let lives = |local: &str| deletes.get(local).map_or(0, Vec::len) + 1;
    let too_many = addresses.into_iter().filter(|((local, _), had)| had.len() > lives(local));
    let words = |((local, _), had): ((&str, bool), BTreeSet<IpAddr>)| {
        format!("{local} was seen with {had:?}, and deleted {} times", lives(local) - 1)
    };
    too_many.map(words).collect()
}

/// Whoever gets another's address is seen with it a rest after somebody began to delete that other one.
fn too_early(firsts: &Firsts<'_>, deletes: &BTreeMap<&str, Vec<f64>>, rest_secs: f64) -> Vec<String> {
    let mut owners: BTreeMap<IpAddr, Vec<(f64, &str)>> = BTreeMap::new();
    for ((local, address), at_secs) in firsts {
        owners.entry(*address).or_default().push((*at_secs, local));
    }
    let mut wrong = Vec::new();
    for (address, mut owners) in owners {
        owners.sort_by(|a, b| a.0.total_cmp(&b.0));
        for pair in owners.windows(2) {
            let [(since, former), (at, next)] = *pair else { continue };
            let freed = deletes.get(former).into_iter().flatten().filter(|start| **start > since - rest_secs);
            if !freed.into_iter().any(|start| start + rest_secs - super::ROUNDING_SECS <= at) {
                wrong.push(format!(
                    "{address} was seen with {former} at {since:.3} and with {next} at {at:.3}: no rest"
                ));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(replica: usize, at_secs: f64, changed: &[(&str, Option<&str>)]) -> Seen {
        let addresses = |v4: &str| Addresses { v4: Some(v4.parse().unwrap()), v6: None };
        let changed = changed.iter().map(|(local, v4)| ((*local).into(), v4.map(addresses))).collect();
        Seen { replica, at_secs, changed }
    }

    fn operation(local: &str, verb: Verb, start_secs: f64, outcome: Outcome) -> Operation {
        Operation { local: local.into(), verb, start_secs, outcome }
    }

    #[test]
    fn every_kind_of_wrong_is_seen_and_a_right_history_is_not() {
        const X: Option<&str> = Some("240.0.0.0");
        const Y: Option<&str> = Some("240.0.0.1");
        let deleted = [operation("a", Verb::Delete, 10.0, Outcome::Unknown)];
        type Case<'a> = (&'a str, &'a [Operation], Vec<Seen>, &'a [&'a str]);
        let table: &[Case<'_>] = &[
            (
                "moved after a rest, and a replica that is behind",
                &deleted,
                vec![
                    seen(0, 1.0, &[("a", X)]),
                    seen(0, 16.0, &[("a", None), ("b", X)]),
                    seen(1, 20.0, &[("a", X)]),
                ],
                &[],
            ),
            (
                "another one after it came back",
                &deleted,
                vec![seen(0, 1.0, &[("a", X)]), seen(0, 30.0, &[("a", Y)])],
                &[],
            ),
            (
                "doubled",
                &deleted,
                vec![seen(0, 1.0, &[("a", X)]), seen(0, 16.0, &[("b", X)])],
                &["replica 0 told 240.0.0.0 for a and b at 16.000"],
            ),
            (
                "doubled for too long",
                &deleted,
                vec![seen(0, 1.0, &[("a", X)]), seen(0, 16.0, &[("b", X)]), seen(0, 17.5, &[("c", Y)])],
                &["replica 0 told 240.0.0.0 for a and b at 16.000"],
            ),
            (
                "one step, told piece by piece",
                &deleted,
                vec![seen(0, 1.0, &[("a", X)]), seen(0, 16.0, &[("b", X)]), seen(0, 16.1, &[("a", None)])],
                &[],
            ),
            (
                "changed, over replicas",
                &[],
                vec![seen(0, 1.0, &[("a", X)]), seen(1, 2.0, &[("a", Y)])],
                &["a was seen with {240.0.0.0, 240.0.0.1}, and deleted 0 times"],
            ),
            (
                "too early",
                &deleted,
                vec![seen(0, 1.0, &[("a", X)]), seen(0, 12.0, &[("a", None)]), seen(1, 12.5, &[("b", X)])],
                &["240.0.0.0 was seen with a at 1.000 and with b at 12.500: no rest"],
            ),
            (
                "nobody deleted it",
                &[],
                vec![seen(0, 1.0, &[("a", X)]), seen(1, 90.0, &[("b", X)])],
                &["240.0.0.0 was seen with a at 1.000 and with b at 90.000: no rest"],
            ),
        ];
        for (claim, operations, seen, wanted) in table {
            assert_eq!(judge(operations, seen, 5.0), *wanted, "{claim}");
        }
    }

    #[test]
    fn what_was_acknowledged_last_is_expected_and_what_nobody_said_is_not() {
        use Outcome::{Acknowledged, Never, Unknown};
        use Verb::{Delete, Put};
        let operations = [
            operation("there", Put, 1.0, Acknowledged),
            operation("there", Put, 2.0, Unknown),
            operation("gone", Put, 1.0, Acknowledged),
            operation("gone", Delete, 2.0, Acknowledged),
            operation("gone", Put, 3.0, Never),
            operation("either", Put, 1.0, Acknowledged),
            operation("either", Delete, 2.0, Unknown),
            operation("sure again", Delete, 2.0, Unknown),
            operation("sure again", Put, 3.0, Acknowledged),
        ];
        let wanted =
            [("there", Some(true)), ("gone", Some(false)), ("either", None), ("sure again", Some(true))];
        assert_eq!(expected(&operations), BTreeMap::from(wanted));
    }
}
