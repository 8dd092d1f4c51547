//! Names and their addresses as one immutable hash table over the names' octets on the wire. Pure.
//! Keeps: a look-up allocates nothing and touches one or two places. Called by zone.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use crate::model::view::Addresses;

/// An open-addressed hash table of `hash << 32 | entry number + 1`; 0 is an empty place. The upper half of the hash keeps a
/// probe from touching entries that cannot match; the name itself decides.
pub(super) struct Names {
    hasher: RandomState,
    table: Box<[u64]>,
    entries: Box<[Entry]>,
    octets: Box<[u8]>,
}

struct Entry {
    name_at: u32,
    name_bytes: u8,
    addresses: Addresses,
}

impl Names {
    pub(super) fn new<'n>(names: impl ExactSizeIterator<Item = (&'n str, Addresses)>) -> Self {
        let count = names.len();
        let mut new = Self {
            hasher: RandomState::default(),
            // At most half full: a probe ends after one or two places.
            table: vec![0; (count * 2).next_power_of_two().max(8)].into(),
            entries: Box::default(),
            octets: Box::default(),
        };
        let (mut entries, mut octets) = (Vec::with_capacity(count), Vec::new());
        for (name, addresses) in names {
            let name_at = octets.len();
            put_wire_name(&mut octets, name);
            new.place(&octets[name_at..], entries.len());
            entries.push(Entry {
                name_at: u32::try_from(name_at)
                    .expect("a view's names fit into 4 GiB: gRPC messages are smaller"),
                name_bytes: u8::try_from(octets.len() - name_at).expect("names have at most 255 octets"),
                addresses,
            });
        }
        new.entries = entries.into();
        new.octets = octets.into();
        new
    }

    /// What was given for this name, in lower case.
    pub(super) fn find(&self, name: &[u8]) -> Option<Addresses> {
        let hash = self.hasher.hash_one(name);
        let mut place = self.first_place(hash);
        loop {
            let word = self.table[place];
            let number = (word as u32).checked_sub(1)?;
            if word >> 32 == hash >> 32 {
                let entry = &self.entries[number as usize];
                if self.name_of(entry) == name {
                    return Some(entry.addresses);
                }
            }
            place = (place + 1) & (self.table.len() - 1);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn name_of(&self, entry: &Entry) -> &[u8] {
        &self.octets[entry.name_at as usize..][..usize::from(entry.name_bytes)]
    }

    fn place(&mut self, name: &[u8], number: usize) {
        let hash = self.hasher.hash_one(name);
        let mut place = self.first_place(hash);
        while self.table[place] != 0 {
            place = (place + 1) & (self.table.len() - 1);
        }
        let number = u32::try_from(number + 1).expect("fewer than 4 billion names");
        self.table[place] = (hash >> 32) << 32 | u64::from(number);
    }

    fn first_place(&self, hash: u64) -> usize {
        hash as usize & (self.table.len() - 1)
    }
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
