//! `ipam`: the pools of MeshServices, MeshExternalServices and MeshMultiZoneServices; and `multizone`.
//! Keeps: no two pools are equal, none is used up by those inside it. Called by cp::resources.

use ipnetwork::IpNetwork;

use super::{AllPools, Ipam, Pools, Settings, Source, pools};
use crate::cp::violation::{FieldPath, Place, Reader, Violation};
use crate::cp::yaml::Node;

/// Kuma's defaults, and the networks that Kuma's own tests use for IPv6.
const DEFAULTS: [(&str, &str); 3] =
    [("241.0.0.0/8", "fd00:fd01::/64"), ("242.0.0.0/8", "fd00:fd02::/64"), ("243.0.0.0/8", "fd00:fd03::/64")];
/// `allocationInterval` is Kuma's; addresses are given at once here, so it has no effect.
const FIELDS: [&str; 4] =
    ["meshService", "meshExternalService", "meshMultiZoneService", "allocationInterval"];
const POOL_FIELDS: [&str; 2] = ["cidr", "cidr6"];

/// What `ipam` says: pools that are given, and where.
#[derive(Debug, Default)]
pub(in crate::cp) struct IpamDraft {
    given: [Option<Given>; 3],
}

/// The pools of one kind; a family that is not given has its default.
#[derive(Debug)]
struct Given {
    pools: Pools,
    v4: bool,
    v6: bool,
    place: Place,
}

impl Default for Ipam {
    fn default() -> Self {
        let [mesh_service, mesh_external_service, mesh_multi_zone_service] = DEFAULTS.map(default);
        Self { mesh_service, mesh_external_service, mesh_multi_zone_service }
    }
}

fn default((v4, v6): (&str, &str)) -> Pools {
    let proof = "the table holds networks";
    Pools { v4: Some(v4.parse().expect(proof)), v6: Some(v6.parse().expect(proof)) }
}

/// Reads `ipam`; what is wrong goes to the reader, and defaults stand in for it.
pub(in crate::cp) fn read_ipam(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> IpamDraft {
    let mut draft = IpamDraft::default();
    let Some(object) = reader.object(node, path, &FIELDS) else { return draft };
    for (at, key) in FIELDS[..3].iter().enumerate() {
        let Some(node) = object.get(key) else { continue };
        let path = path.field(key);
        let Some(object) = reader.object(node, &path, &POOL_FIELDS) else { continue };
        let standard = default(DEFAULTS[at]);
        let Some(found) = pools(reader, &object, &path, POOL_FIELDS, standard) else { continue };
        let (v4, v6) =
            (object.get("cidr").is_some(), object.get("cidr6").is_some() || found.v6 != standard.v6);
        draft.given[at] = Some(Given { pools: found, v4, v6, place: reader.place(node.line, &path) });
    }
    draft
}

/// Reads `multizone.zone.name`, our own zone.
pub(in crate::cp) fn read_multizone(
    reader: &mut Reader<'_>,
    node: &Node,
    path: &FieldPath<'_>,
) -> Option<String> {
    let object = reader.object(node, path, &["zone"])?;
    let path = path.field("zone");
    let zone = reader.object(object.get("zone")?, &path, &["name"])?;
    reader.text(zone.get("name")?, &path.field("name")).map(str::to_owned)
}

impl IpamDraft {
    /// Puts the pools into the settings and checks them against each other. A family that is not given is there when
    /// `dnsServer` has it. `dns` is where `dnsServer` stands.
    pub(in crate::cp) fn finish(
        self,
        settings: &mut Settings,
        dns: Option<&Place>,
        violations: &mut Vec<Violation>,
    ) {
        let follow = |pools: Pools, v4: bool, v6: bool| Pools {
            v4: pools.v4.filter(|_| v4 || settings.pools.v4.is_some()),
            v6: pools.v6.filter(|_| v6 || settings.pools.v6.is_some()),
        };
        let [a, b, c] = self.given.each_ref().map(|given| given.as_ref().map(|given| &given.place));
        let all = [0, 1, 2].map(|at| match &self.given[at] {
            Some(given) => follow(given.pools, given.v4, given.v6),
            None => follow(default(DEFAULTS[at]), false, false),
        });
        let [mesh_service, mesh_external_service, mesh_multi_zone_service] = all;
        settings.ipam = Ipam { mesh_service, mesh_external_service, mesh_multi_zone_service };
        let place_of = |source: Source| match source {
            Source::Dns => dns,
            Source::MeshService => a,
            Source::MeshExternalService => b,
            Source::MeshMultiZoneService => c,
        };
        check(&settings.all_pools(), place_of, violations);
    }
}

fn check<'p>(
    pools: &AllPools,
    place_of: impl Fn(Source) -> Option<&'p Place>,
    violations: &mut Vec<Violation>,
) {
    let ranges: Vec<(Source, IpNetwork)> = pools.ranges().collect();
    for (at, &(source, range)) in ranges.iter().enumerate() {
        for &(other, _) in ranges[..at].iter().filter(|(_, before)| *before == range) {
            let problem = format!(
                "{} and {} have the same pool {range}: an address must belong to one of them, give each its own network",
                other.key(),
                source.key()
            );
            let place = place_of(source).or_else(|| place_of(other));
            violations.extend(place.map(|place| Violation { place: place.clone(), problem }));
        }
        let inside = pools.inside((source, range));
        if !inside.is_empty() && pools.is_used_up((source, range)) {
            let holes: Vec<String> =
                inside.iter().map(|(other, hole)| format!("{hole} ({})", other.key())).collect();
            let problem = format!(
                "nothing is left of {range} of {}: the pools inside it are carved out of it: {}",
                source.key(),
                holes.join(", ")
            );
            let place = place_of(source).or_else(|| inside.iter().find_map(|(other, _)| place_of(*other)));
            violations.extend(place.map(|place| Violation { place: place.clone(), problem }));
        }
    }
}
