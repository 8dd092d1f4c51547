//! The names of all meshes as one zone that follows the snapshots. Pure.
//! Keeps: a name that several meshes have is the default mesh's, then the first mesh's by name; a snapshot costs no more than
//! what differs from the one before it, unless the domain is another one. Called by cp::dns.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;

use crate::cp::snapshot::{MeshHeader, MeshSnapshot, Published, Snapshot};
use crate::dns::zone::Zone;
use crate::model::name::Hostname;
use crate::model::resource::DEFAULT_MESH;
use crate::model::view::Addresses;

/// A zone and the snapshot that it shows.
pub(super) struct Names {
    /// What the server's own name resolves to.
    own: Addresses,
    shown: Arc<Snapshot>,
    zone: Zone,
    /// The names of each mesh by itself, while more than one has any.
    of_meshes: BTreeMap<Arc<str>, Zone>,
}

/// Names of one mesh and what they resolve to now; without addresses they are gone.
type Changed<'s> = HashMap<&'s Hostname, Addresses>;

impl Names {
    pub(super) fn new(snapshot: &Arc<Snapshot>, own: Addresses) -> Self {
        let header = header(snapshot);
        let zone = Zone::authority(&header.domain, header.ttl_secs, own);
        let mut names = Self { own, shown: Arc::default(), zone, of_meshes: BTreeMap::new() };
        names.show(snapshot);
        names
    }

    /// What is answered now.
    pub(super) fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Shows another snapshot.
    pub(super) fn follow(&mut self, snapshot: &Arc<Snapshot>) {
        let (before, now) = (header(&self.shown).clone(), header(snapshot));
        if before.domain != now.domain {
            *self = Self::new(snapshot, self.own);
            return;
        }
        if before.ttl_secs != now.ttl_secs {
            self.zone = self.zone.with_ttl(now.ttl_secs);
        }
        self.show(snapshot);
    }

    fn show(&mut self, snapshot: &Arc<Snapshot>) {
        let before = std::mem::replace(&mut self.shown, snapshot.clone());
        let meshes: HashSet<&Arc<str>> = before.meshes.keys().chain(snapshot.meshes.keys()).collect();
        let changed: Vec<(&Arc<str>, Changed<'_>)> = meshes
            .into_iter()
            .map(|mesh| (mesh, changed(before.meshes.get(mesh), snapshot.meshes.get(mesh))))
            .filter(|(_, names)| !names.is_empty())
            .collect();
        let named =
            |snapshot: &Snapshot| snapshot.meshes.values().filter(|mesh| !mesh.vips.is_empty()).count();
        let alone = named(snapshot) < 2;
        if alone && self.of_meshes.is_empty() && changed.len() < 2 {
            let names = changed.iter().flat_map(|(_, names)| names.iter());
            self.zone = self.zone.with(names.map(|(&name, &addresses)| (name, addresses)));
            return;
        }
        self.split(&before);
        for (mesh, names) in &changed {
            let table = self.of_meshes.entry((*mesh).clone()).or_insert_with(|| Zone::resolver(0));
            *table = table.with(names.iter().map(|(&name, &addresses)| (name, addresses)));
        }
        let all: HashSet<&Hostname> = changed.iter().flat_map(|(_, names)| names.keys().copied()).collect();
        self.zone = self.zone.with(all.into_iter().map(|name| (name, self.winner(name))));
        self.of_meshes.retain(|_, names| !alone && !names.is_empty());
    }

    /// Gives each mesh of `shown` a table of its own, if there are none yet.
    fn split(&mut self, shown: &Snapshot) {
        if !self.of_meshes.is_empty() {
            return;
        }
        for (name, mesh) in &shown.meshes {
            let names = changed(None, Some(mesh));
            let names = names.iter().map(|(&name, &addresses)| (name, addresses));
            self.of_meshes.insert(name.clone(), Zone::resolver(0).with(names));
        }
    }

    /// The addresses that the first mesh with this name gives it.
    fn winner(&self, name: &Hostname) -> Addresses {
        let default = self.of_meshes.get(DEFAULT_MESH);
        let mut tables = default.into_iter().chain(self.of_meshes.values());
        tables.find_map(|table| table.addresses(name)).unwrap_or_default()
    }
}

/// Domain and TTL are the same in all meshes.
fn header(snapshot: &Snapshot) -> &Arc<MeshHeader> {
    let first = snapshot.meshes.get(DEFAULT_MESH).or_else(|| snapshot.meshes.values().next());
    &first.expect("the publisher keeps the default mesh in every snapshot").header
}

/// The names of a mesh that resolve to something else than before.
fn changed<'s>(before: Option<&'s MeshSnapshot>, now: Option<&'s MeshSnapshot>) -> Changed<'s> {
    let mut names = Changed::new();
    let gone = |names: &mut Changed<'s>, vip: &'s Published| {
        for name in &vip.entry.hostnames {
            // It may have gone to another VIP, which came first.
            names.entry(name).or_default();
        }
    };
    let there = |names: &mut Changed<'s>, vip: &'s Published| {
        names.extend(vip.entry.hostnames.iter().map(|name| (name, vip.addresses)));
    };
    match (before, now) {
        (Some(before), Some(now)) => {
            for item in before.vips.diff(&now.vips) {
                match item {
                    DiffItem::Add(_, vip) => there(&mut names, vip),
                    DiffItem::Remove(_, vip) => gone(&mut names, vip),
                    DiffItem::Update { old: (_, old), new: (_, new) } => {
                        if (&old.entry.hostnames, old.addresses) != (&new.entry.hostnames, new.addresses) {
                            gone(&mut names, old);
                            there(&mut names, new);
                        }
                    }
                }
            }
        }
        (None, Some(now)) => now.vips.values().for_each(|vip| there(&mut names, vip)),
        (Some(before), None) => before.vips.values().for_each(|vip| gone(&mut names, vip)),
        (None, None) => {}
    }
    names
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};

    use super::*;
    use crate::cp::snapshot::{Entry, Outbounds};
    use crate::dns::answer::ROOM_BYTES;
    use crate::dns::zone::Outcome;

    fn hostname(name: &str) -> Hostname {
        Hostname::parse(&format!("{name}.mesh")).unwrap()
    }

    /// By VIP's key: its names and the last octet of its address.
    type Vips = BTreeMap<String, (Vec<String>, u8)>;

    fn snapshot(meshes: &BTreeMap<String, Vips>, domain: &str, ttl_secs: u32) -> Arc<Snapshot> {
        let mesh = |vips: &Vips| {
            let published = |(names, last): &(Vec<String>, u8)| {
                let hostnames = names.iter().map(|name| hostname(name)).collect();
                let addresses = Addresses { v4: Some([240, 0, 0, *last].into()), v6: None };
                Published::new(addresses, Arc::new(Entry { hostnames, listeners: [].into() }))
            };
            let (domain, ranges, outbounds) =
                (Hostname::parse(domain).unwrap(), Vec::new(), Outbounds::default());
            let header = Arc::new(MeshHeader { domain, ttl_secs, ranges, outbounds });
            let vips = vips.iter().map(|(key, vip)| (Arc::from(key.as_str()), published(vip))).collect();
            MeshSnapshot { header, vips }
        };
        let mut meshes: BTreeMap<Arc<str>, MeshSnapshot> =
            meshes.iter().map(|(name, vips)| (name.as_str().into(), mesh(vips))).collect();
        meshes.entry(DEFAULT_MESH.into()).or_insert_with(|| mesh(&Vips::new()));
        Arc::new(Snapshot { meshes })
    }

    /// The address at the end of the answer to `name.mesh A`, if there is one.
    fn resolve(zone: &Zone, name: &str) -> Option<Ipv4Addr> {
        let mut query = b"\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        for label in [name, "mesh"] {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(b"\x00\x00\x01\x00\x01");
        let bytes = query.len();
        query.resize(bytes + ROOM_BYTES, 0);
        let Outcome::Answered(answered) = zone.answer(&mut query, bytes) else {
            panic!("an authority answers")
        };
        let octets: [u8; 4] = query[answered.bytes - 4..answered.bytes].try_into().unwrap();
        (query[7] == 1).then(|| octets.into())
    }

    fn one(names: &[(&str, u8)]) -> Vips {
        names.iter().map(|(name, last)| ((*name).into(), (vec![(*name).into()], *last))).collect()
    }

    #[test]
    fn every_meshs_names_are_there_and_the_default_meshs_win() {
        let mut meshes = BTreeMap::from([
            ("a".to_owned(), one(&[("redis", 1), ("only-a", 2)])),
            ("b".to_owned(), one(&[("only-a", 9), ("only-b", 3)])),
            (DEFAULT_MESH.to_owned(), one(&[("redis", 4)])),
        ]);
        let mut names = Names::new(&snapshot(&meshes, "mesh", 60), Addresses::default());
        let check = |names: &Names, want: [(&str, Option<u8>); 4]| {
            for (name, last) in want {
                let want = last.map(|last| Ipv4Addr::new(240, 0, 0, last));
                assert_eq!(resolve(names.zone(), name), want, "{name}");
            }
        };
        check(&names, [("redis", Some(4)), ("only-a", Some(2)), ("only-b", Some(3)), ("none", None)]);
        meshes.remove("a");
        meshes.get_mut(DEFAULT_MESH).unwrap().clear();
        names.follow(&snapshot(&meshes, "mesh", 60));
        check(&names, [("redis", None), ("only-a", Some(9)), ("only-b", Some(3)), ("none", None)]);
        assert!(names.of_meshes.is_empty(), "one mesh needs no table of its own");
        names.follow(&snapshot(&meshes, "other.mesh", 60));
        assert!(names.zone().is_empty(), "all names lie outside of the new domain");
    }

    fn meshes() -> impl Strategy<Value = BTreeMap<String, Vips>> {
        // Names of one mesh belong to one VIP each: the plan keeps that.
        let vips = btree_map(0..5_u8, (1..6_u8, any::<bool>()), 0..5).prop_map(|names| {
            let vip = |(name, (last, moved)): (u8, (u8, bool))| {
                let key = if moved { format!("z-{name}") } else { format!("a-{name}") };
                (key, (vec![format!("service-{name}")], last))
            };
            names.into_iter().map(vip).collect()
        });
        let mesh = (0..3_usize).prop_map(|number| [DEFAULT_MESH, "a", "z"][number].to_owned());
        btree_map(mesh, vips, 0..3)
    }

    proptest! {
        #[test]
        fn following_ends_where_a_new_start_begins(steps in vec(meshes(), 1..8)) {
            let mut names = Names::new(&snapshot(&BTreeMap::new(), "mesh", 60), Addresses::default());
            for step in steps {
                let snapshot = snapshot(&step, "mesh", 60);
                names.follow(&snapshot);
                let anew = Names::new(&snapshot, Addresses::default());
                prop_assert_eq!(names.zone().len(), anew.zone().len());
                for number in 0..5 {
                    let name = format!("service-{number}");
                    let first = [DEFAULT_MESH, "a", "z"].iter().find_map(|mesh| {
                        step.get(*mesh)?.values().find(|(names, _)| names.contains(&name)).map(|(_, last)| *last)
                    });
                    let want = first.map(|last| Ipv4Addr::new(240, 0, 0, last));
                    prop_assert_eq!(resolve(names.zone(), &name), want, "{}", name);
                    prop_assert_eq!(resolve(anew.zone(), &name), want, "{}", name);
                }
            }
        }
    }
}
