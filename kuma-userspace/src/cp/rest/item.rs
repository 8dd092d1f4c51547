//! A resource as it is shown: as it was accepted, with its times and its KRI, and with what became of it: VIPs and names,
//! in the places where Kuma 2.9 and later have them.
//! Keeps: `status` is ours alone, whatever was written. Called by rest::listing.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::became::Status;
use super::listing::View;
use crate::cp::registry::Listed;
use crate::model::kind::{ResourceKey, ResourceKind};

/// What Kuma shows for a time that is not known.
const NO_TIME: &str = "0001-01-01T00:00:00Z";
/// Fields that are shown from elsewhere than the body.
const OWN: [&str; 7] = ["type", "mesh", "name", "creationTime", "modificationTime", "kri", "status"];
const NAMESPACE_LABEL: &str = "k8s.kuma.io/namespace";
const ZONE_LABEL: &str = "kuma.io/zone";

#[derive(Serialize)]
struct Shown<'v> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    mesh: &'v str,
    name: &'v str,
    #[serde(rename = "creationTime")]
    created: String,
    #[serde(rename = "modificationTime")]
    modified: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kri: Option<String>,
    #[serde(flatten)]
    given: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'v>>,
}

pub(super) fn write(
    key: &ResourceKey,
    listed: &Listed,
    view: &View,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let document = &listed.document;
    let mut given: Map<String, Value> = serde_json::from_str(&document.body)?;
    for field in OWN {
        given.remove(field);
    }
    let shown = Shown {
        r#type: key.kind.word(),
        mesh: &key.mesh,
        name: &key.name,
        created: time(document.created_secs),
        modified: time(document.modified_secs),
        labels: given.remove("labels"),
        kri: kri(key, listed),
        given,
        status: Status::of(key, listed, view),
    };
    serde_json::to_writer(out, &shown)
}

fn time(secs: i64) -> String {
    match Timestamp::from_second(secs) {
        Ok(time) if secs != 0 => time.to_string(),
        _ => NO_TIME.into(),
    }
}

/// Kuma's short word for a kind in a KRI; the older kinds for the mesh have none there.
fn kri_word(kind: ResourceKind) -> Option<&'static str> {
    match kind {
        ResourceKind::Mesh => Some("m"),
        ResourceKind::Dataplane => Some("dp"),
        ResourceKind::ZoneIngress => Some("zi"),
        ResourceKind::MeshService => Some("msvc"),
        ResourceKind::MeshExternalService => Some("extsvc"),
        ResourceKind::MeshMultiZoneService => Some("mzsvc"),
        ResourceKind::HostnameGenerator => Some("hg"),
        ResourceKind::ExternalService
        | ResourceKind::VirtualOutbound
        | ResourceKind::Secret
        | ResourceKind::Service => None,
    }
}

fn kri(key: &ResourceKey, listed: &Listed) -> Option<String> {
    let kind = kri_word(key.kind)?;
    let label = |name: &str| listed.resource.meta().labels.get(name).unwrap_or_default();
    let (zone, namespace) = (label(ZONE_LABEL), label(NAMESPACE_LABEL));
    Some(format!("kri_{kind}_{}_{zone}_{namespace}_{}_", key.mesh, key.name))
}
