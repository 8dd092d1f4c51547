//! Names and what is known of each, as a persistent hash table over the names' octets on the wire. Pure.
//! Keeps: a look-up allocates nothing and touches two or three places; changing a few names costs a few shards, however
//! many names there are. Called by zone.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::model::view::Addresses;

/// The upper bits of a name's hash choose its shard.
const SHARD_BITS: u32 = 10;
const SHARDS: usize = 1 << SHARD_BITS;

/// A record is: length of the name, name, these flags, and what they say is there.
const HAS_V4: u8 = 1;
const HAS_V6: u8 = 2;
const HAS_BELOW: u8 = 4;

/// The names, spread over shards that versions of the table share.
#[derive(Clone)]
pub(super) struct Names {
    hasher: RandomState,
    shards: Box<[Arc<Shard>]>,
    len: usize,
}

/// What is known of a name. Without addresses and with nothing below there is no such name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Record {
    pub(super) addresses: Addresses,
    /// How many names with addresses lie below it, as far as somebody counts them.
    pub(super) below: u32,
}

impl Record {
    fn is_there(self) -> bool {
        self != Self::default()
    }

    fn is_named(self) -> bool {
        self.addresses != Addresses::default()
    }
}

/// A step from one version of the table to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// None: the name is gone.
    Addresses(Addresses),
    /// So many more names lie below it.
    Below(i32),
}

/// Changes that are made together. Those of one name are made in the order in which they were added.
#[derive(Default)]
pub(super) struct Changes {
    octets: Vec<u8>,
    steps: Vec<Step>,
}

struct Step {
    name_at: usize,
    name_bytes: u8,
    change: Change,
}

impl Changes {
    pub(super) fn add(&mut self, name: &str, change: Change) {
        let name_at = self.octets.len();
        put_wire_name(&mut self.octets, name);
        let name_bytes =
            u8::try_from(self.octets.len() - name_at).expect("names have at most 255 octets: Hostname");
        self.steps.push(Step { name_at, name_bytes, change });
    }
}

impl Default for Names {
    fn default() -> Self {
        let empty = Arc::new(Shard::new([].into_iter(), &RandomState::default()));
        Self { hasher: RandomState::default(), shards: vec![empty; SHARDS].into(), len: 0 }
    }
}

impl Names {
    /// The table after these changes; only the shards that they fall into are made anew.
    pub(super) fn with(&self, changes: &Changes) -> Self {
        let name_of = |step: &Step| &changes.octets[step.name_at..][..usize::from(step.name_bytes)];
        let mut steps: Vec<(usize, &Step)> =
            changes.steps.iter().map(|step| (shard_of(self.hasher.hash_one(name_of(step))), step)).collect();
        steps.sort_by_key(|&(shard, _)| shard);
        let mut new = self.clone();
        for of_one_shard in steps.chunk_by(|one, other| one.0 == other.0) {
            let shard = &self.shards[of_one_shard[0].0];
            let mut records: HashMap<&[u8], Record, RandomState> = HashMap::with_hasher(self.hasher.clone());
            records.extend(shard.iter());
            let named = |records: &HashMap<_, Record, _>| records.values().filter(|r| r.is_named()).count();
            let before = named(&records);
            for (_, step) in of_one_shard {
                let record = records.entry(name_of(step)).or_default();
                match step.change {
                    Change::Addresses(addresses) => record.addresses = addresses,
                    Change::Below(more) => record.below = record.below.saturating_add_signed(more),
                }
            }
            new.len = new.len + named(&records) - before;
            let records = records.into_iter().filter(|(_, record)| record.is_there());
            new.shards[of_one_shard[0].0] = Arc::new(Shard::new(records, &self.hasher));
        }
        new
    }

    /// What is known of this name, in lower case.
    pub(super) fn find(&self, name: &[u8]) -> Option<Record> {
        let hash = self.hasher.hash_one(name);
        self.shards[shard_of(hash)].find(hash, name)
    }

    /// How many names have addresses.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

fn shard_of(hash: u64) -> usize {
    (hash >> (u64::BITS - SHARD_BITS)) as usize
}

/// An open-addressed hash table of `tag << 32 | place of the record + 1`; 0 is an empty place. The tag, bits of the hash that
/// chose neither shard nor place, keeps a probe from touching records that cannot match; the name itself decides.
struct Shard {
    table: Box<[u64]>,
    records: Box<[u8]>,
}

impl Shard {
    fn new<'n>(records: impl Iterator<Item = (&'n [u8], Record)>, hasher: &RandomState) -> Self {
        let (mut octets, mut words) = (Vec::new(), Vec::new());
        for (name, record) in records {
            let hash = hasher.hash_one(name);
            let place = u32::try_from(octets.len() + 1).expect("a thousandth of all names fits into 4 GiB");
            words.push((hash, tag(hash) | u64::from(place)));
            put_record(&mut octets, name, record);
        }
        // At most half full: a probe ends after one or two places.
        let mut table = vec![0; (words.len() * 2).next_power_of_two()].into_boxed_slice();
        for (hash, word) in words {
            let mut place = hash as usize & (table.len() - 1);
            while table[place] != 0 {
                place = (place + 1) & (table.len() - 1);
            }
            table[place] = word;
        }
        Self { table, records: octets.into() }
    }

    fn find(&self, hash: u64, name: &[u8]) -> Option<Record> {
        let mut place = hash as usize & (self.table.len() - 1);
        loop {
            let word = self.table[place];
            let at = (word as u32).checked_sub(1)? as usize;
            if word & !u64::from(u32::MAX) == tag(hash) {
                let (known, record) = split_name(&self.records[at..]);
                if known == name {
                    return Some(read_record(record).0);
                }
            }
            place = (place + 1) & (self.table.len() - 1);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], Record)> {
        let mut rest = &*self.records;
        std::iter::from_fn(move || {
            let (name, record) = (!rest.is_empty()).then(|| split_name(rest))?;
            let (record, after) = read_record(record);
            rest = after;
            Some((name, record))
        })
    }
}

fn tag(hash: u64) -> u64 {
    hash << SHARD_BITS & !u64::from(u32::MAX)
}

fn put_record(octets: &mut Vec<u8>, name: &[u8], Record { addresses, below }: Record) {
    octets.push(u8::try_from(name.len()).expect("names have at most 255 octets"));
    octets.extend_from_slice(name);
    let flag = |is_there, flag| if is_there { flag } else { 0 };
    let flags = flag(addresses.v4.is_some(), HAS_V4) | flag(addresses.v6.is_some(), HAS_V6);
    octets.push(flags | flag(below > 0, HAS_BELOW));
    octets.extend(addresses.v4.iter().flat_map(Ipv4Addr::octets));
    octets.extend(addresses.v6.iter().flat_map(Ipv6Addr::octets));
    if below > 0 {
        octets.extend(below.to_ne_bytes());
    }
}

fn split_name(octets: &[u8]) -> (&[u8], &[u8]) {
    octets[1..].split_at(usize::from(octets[0]))
}

/// The record behind a name, and what is behind the record.
fn read_record(octets: &[u8]) -> (Record, &[u8]) {
    let (&flags, mut rest) = octets.split_first().expect("put_record wrote flags");
    let mut record = Record::default();
    if flags & HAS_V4 != 0 {
        record.addresses.v4 = Some(take::<4>(&mut rest).into());
    }
    if flags & HAS_V6 != 0 {
        record.addresses.v6 = Some(take::<16>(&mut rest).into());
    }
    if flags & HAS_BELOW != 0 {
        record.below = u32::from_ne_bytes(take(&mut rest));
    }
    (record, rest)
}

fn take<const N: usize>(octets: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = octets.split_first_chunk::<N>().expect("put_record wrote what its flags say");
    *octets = rest;
    *taken
}

/// The name as it stands on the wire.
pub(super) fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::with_capacity(name.len() + 2);
    put_wire_name(&mut wire, name);
    wire
}

fn put_wire_name(wire: &mut Vec<u8>, name: &str) {
    for label in name.split('.') {
        wire.push(u8::try_from(label.len()).expect("labels have at most 63 bytes: Hostname::parse checks"));
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    fn change() -> impl Strategy<Value = (String, Change)> {
        let v4 = proptest::option::of(any::<u32>().prop_map(Ipv4Addr::from));
        let v6 = proptest::option::of(any::<u128>().prop_map(Ipv6Addr::from));
        let addresses = (v4, v6).prop_map(|(v4, v6)| Change::Addresses(Addresses { v4, v6 }));
        let change = prop_oneof![4 => addresses, 1 => (-1..3_i32).prop_map(Change::Below)];
        ((0..40_u8).prop_map(|n| format!("service-{n}.mesh")), change)
    }

    proptest! {
        #[test]
        fn any_changes_leave_what_a_plain_map_would_hold(
            batches in proptest::collection::vec(proptest::collection::vec(change(), 0..20), 0..8),
        ) {
            let (mut names, mut plain) = (Names::default(), BTreeMap::<String, Record>::new());
            for batch in batches {
                let mut changes = Changes::default();
                for (name, change) in batch {
                    changes.add(&name, change);
                    let record = plain.entry(name).or_default();
                    match change {
                        Change::Addresses(addresses) => record.addresses = addresses,
                        Change::Below(more) => record.below = record.below.saturating_add_signed(more),
                    }
                }
                let before = names.clone();
                names = names.with(&changes);
                drop(before);
                for (name, record) in &plain {
                    let known = names.find(&wire_name(name));
                    prop_assert_eq!(known.unwrap_or_default(), *record);
                    prop_assert_eq!(known.is_some(), record.is_there());
                }
                prop_assert_eq!(names.len(), plain.values().filter(|record| record.is_named()).count());
            }
        }
    }

    #[test]
    fn one_change_leaves_all_other_shards_shared_and_no_shard_is_crowded() {
        let mut changes = Changes::default();
        let addresses = Addresses { v4: Some([240, 0, 0, 1].into()), v6: None };
        (0..100_000).for_each(|n| changes.add(&format!("service-{n}.mesh"), Change::Addresses(addresses)));
        let names = Names::default().with(&changes);
        let fullest = names.shards.iter().map(|shard| shard.iter().count()).max().unwrap();
        assert!(fullest < 200, "{fullest} names in one of {SHARDS} shards");
        let mut changes = Changes::default();
        changes.add("service-7.mesh", Change::Addresses(Addresses::default()));
        let fewer = names.with(&changes);
        let apart = names.shards.iter().zip(&fewer.shards).filter(|(one, other)| !Arc::ptr_eq(one, other));
        assert_eq!((apart.count(), fewer.len()), (1, 99_999));
        assert!(fewer.find(&wire_name("service-7.mesh")).is_none());
        assert!(names.find(&wire_name("service-7.mesh")).is_some(), "the version before is as it was");
    }
}
