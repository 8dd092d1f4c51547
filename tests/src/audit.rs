//! What a database saw of its replicas, transaction by transaction, and whether it was right. The log is written by a
//! trigger, so by nothing that is tested; the judgement is pure. Called by tests of replicas.

pub mod observed;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;

/// Logs every change of a record, with the time, the epoch of the lease, and the address of who made it.
pub const TRIGGER: &str = "
CREATE TABLE audit (
    id bigserial PRIMARY KEY, xid xid8 DEFAULT pg_current_xact_id(), epoch bigint, key text, v4 text, v6 text,
    writer text DEFAULT host(inet_client_addr()), at_secs float8 DEFAULT extract(epoch FROM clock_timestamp()));
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE led bigint; stored json;
BEGIN
    SELECT epoch INTO led FROM kuma_dns_lease;
    IF TG_OP = 'DELETE' THEN
        INSERT INTO audit (epoch, key) VALUES (led, OLD.key);
        RETURN OLD;
    END IF;
    stored := convert_from(substring(NEW.record FROM 9), 'UTF8')::json;
    INSERT INTO audit (epoch, key, v4, v6) VALUES (led, NEW.key, stored->>'v4', stored->>'v6');
    RETURN NEW;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON kuma_dns_vips FOR EACH ROW EXECUTE FUNCTION audit()";

/// The log as JSON, one line for each change, in the order of their commits: all of them hold the lease's row.
pub const LOG: &str = "SELECT row_to_json(audit) FROM audit ORDER BY id";

/// One change of one record: what it holds from then on.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Change {
    /// Of the transaction.
    pub xid: String,
    pub epoch: u64,
    pub key: String,
    pub v4: Option<IpAddr>,
    pub v6: Option<IpAddr>,
    /// Its address; absent when it came over the Unix socket.
    pub writer: Option<String>,
    pub at_secs: f64,
}

/// A VIP that a replica published.
#[derive(Clone, PartialEq, Debug)]
pub struct Observation {
    pub key: String,
    pub vip: IpAddr,
    pub at_secs: f64,
}

/// Times are stored in whole seconds, so a rest may look this much shorter.
const ROUNDING_SECS: f64 = 1.2;

/// Everything that is wrong; nothing when every VIP was right at every moment.
pub fn judge(log: &[Change], seen: &[Observation], rest_secs: f64) -> Vec<String> {
    let mut history = History::default();
    for batch in log.chunk_by(|a, b| a.xid == b.xid) {
        history.take(batch, rest_secs);
    }
    let History { mut wrong, first_stored, .. } = history;
    for Observation { key, vip, at_secs } in seen {
        if first_stored.get(&(key.as_str(), *vip)).is_none_or(|stored| stored > at_secs) {
            wrong.push(format!("{key} was published with {vip} before that was stored"));
        }
    }
    wrong
}

/// What each record holds after the last batch.
pub fn held(log: &[Change]) -> BTreeMap<&str, BTreeSet<IpAddr>> {
    let mut held = BTreeMap::new();
    for change in log {
        held.insert(change.key.as_str(), change.holds());
    }
    held.retain(|_, addresses| !addresses.is_empty());
    held
}

impl Change {
    fn holds(&self) -> BTreeSet<IpAddr> {
        self.v4.into_iter().chain(self.v6).collect()
    }
}

/// What is known of all addresses between two batches.
#[derive(Default)]
struct History<'a> {
    wrong: Vec<String>,
    held: BTreeMap<&'a str, BTreeSet<IpAddr>>,
    owners: BTreeMap<IpAddr, &'a str>,
    /// Who had an address last, and when he gave it up.
    left: BTreeMap<IpAddr, (&'a str, f64)>,
    first_stored: BTreeMap<(&'a str, IpAddr), f64>,
    epoch: u64,
    /// An epoch belongs to one holder of the lease: whoever else writes in it has overtaken nobody, but slipped through.
    writers: BTreeMap<u64, &'a Option<String>>,
}

impl<'a> History<'a> {
    fn take(&mut self, batch: &'a [Change], rest_secs: f64) {
        for change in batch {
            self.give_up(change);
        }
        for change in batch {
            self.gain(change, rest_secs);
        }
    }

    fn give_up(&mut self, change: &'a Change) {
        if change.epoch < self.epoch {
            self.wrong
                .push(format!("epoch {} wrote after epoch {}: {}", change.epoch, self.epoch, change.key));
        }
        self.epoch = self.epoch.max(change.epoch);
        let leader = *self.writers.entry(change.epoch).or_insert(&change.writer);
        if *leader != change.writer {
            let (epoch, writer) = (change.epoch, &change.writer);
            self.wrong.push(format!("{writer:?} wrote {} in epoch {epoch} of {leader:?}", change.key));
        }
        let now = change.holds();
        let before = self.held.insert(&change.key, now.clone()).unwrap_or_default();
        for address in before.difference(&now) {
            if self.owners.get(address) == Some(&change.key.as_str()) {
                self.owners.remove(address);
            }
            self.left.insert(*address, (&change.key, change.at_secs));
            if now.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
                self.wrong.push(format!("the VIP {address} of {} was changed", change.key));
            }
        }
    }

    fn gain(&mut self, change: &'a Change, rest_secs: f64) {
        for address in change.holds() {
            self.first_stored.entry((&change.key, address)).or_insert(change.at_secs);
            if let Some(other) = self.owners.insert(address, &change.key)
                && other != change.key
            {
                self.wrong.push(format!("{address} belongs to {other} and to {}", change.key));
            }
            if let Some((owner, since)) = self.left.remove(&address)
                && owner != change.key
                && change.at_secs - since < rest_secs - ROUNDING_SECS
            {
                let rested = change.at_secs - since;
                self.wrong.push(format!("{address} went from {owner} to {} after {rested:.1} s", change.key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(xid: u64, epoch: u64, key: &str, v4: Option<&str>, at_secs: f64) -> Change {
        let v4 = v4.map(|text| text.parse().unwrap());
        Change {
            xid: xid.to_string(),
            epoch,
            key: key.into(),
            v4,
            v6: None,
            writer: Some("a".into()),
            at_secs,
        }
    }

    #[test]
    fn every_kind_of_wrong_is_found_and_a_right_history_is_not() {
        const X: Option<&str> = Some("240.0.0.0");
        const Y: Option<&str> = Some("240.0.0.1");
        let table = [
            (
                "right",
                vec![change(1, 1, "a", X, 0.0), change(2, 1, "a", None, 1.0), change(3, 2, "b", X, 9.0)],
                None,
            ),
            (
                "its own again",
                vec![change(1, 1, "a", X, 0.0), change(2, 1, "a", None, 1.0), change(3, 1, "a", X, 1.5)],
                None,
            ),
            (
                "doubled",
                vec![change(1, 1, "a", X, 0.0), change(2, 1, "b", X, 1.0)],
                Some("240.0.0.0 belongs to a and to b"),
            ),
            (
                "changed",
                vec![change(1, 1, "a", X, 0.0), change(2, 1, "a", Y, 1.0)],
                Some("the VIP 240.0.0.0 of a was changed"),
            ),
            (
                "too early",
                vec![change(1, 1, "a", X, 0.0), change(2, 1, "a", None, 1.0), change(3, 2, "b", X, 3.0)],
                Some("240.0.0.0 went from a to b after 2.0 s"),
            ),
            (
                "fenced",
                vec![change(1, 2, "a", X, 0.0), change(2, 1, "b", Y, 1.0)],
                Some("epoch 1 wrote after epoch 2: b"),
            ),
        ];
        for (claim, log, wanted) in table {
            assert_eq!(judge(&log, &[], 5.0), Vec::from_iter(wanted.map(str::to_owned)), "{claim}");
        }
        let stranger = Change { writer: Some("b".into()), ..change(2, 1, "b", Y, 1.0) };
        let slipped = judge(&[change(1, 1, "a", X, 0.0), stranger], &[], 5.0);
        assert_eq!(slipped, [r#"Some("b") wrote b in epoch 1 of Some("a")"#]);
        let early = Observation { key: "a".into(), vip: X.unwrap().parse().unwrap(), at_secs: 0.5 };
        let log = [change(1, 1, "a", X, 1.0)];
        assert_eq!(judge(&log, &[early], 5.0), ["a was published with 240.0.0.0 before that was stored"]);
    }
}
