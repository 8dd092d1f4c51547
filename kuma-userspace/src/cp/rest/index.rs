//! What stands on its own: who answers, what it is told, whom it takes one for, which kinds there are, how it goes.
//! Called by rest::routes.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};

use super::Api;
use super::asked::Asked;
use super::listing::SERVED;
use super::problem::Problem;
use crate::cp::{Status, xds};
use crate::model::kind::ResourceKind;

/// What kumactl shows beside the version.
const PRODUCT: &str = "kuma-dns";

/// kumactl asks this first.
pub(super) async fn index() -> Json<Value> {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let instance = format!("{hostname}-{:04x}", std::process::id() & 0xffff);
    Json(json!({
        "hostname": hostname,
        "tagline": PRODUCT,
        "product": PRODUCT,
        "version": env!("CARGO_PKG_VERSION"),
        "instanceId": instance,
        "clusterId": "",
        "gui": "",
    }))
}

pub(super) async fn config(State(api): State<Api>) -> Json<Value> {
    Json(Value::clone(&api.shown))
}

pub(super) async fn who_am_i(State(api): State<Api>, asked: Asked) -> Result<Json<Value>, Problem> {
    let user = api.access.who(&asked)?;
    Ok(Json(json!({"name": user.name, "groups": user.groups})))
}

pub(super) async fn resources() -> Json<Value> {
    let mut kinds = SERVED;
    kinds.sort_by_key(|kind| kind.word());
    let described = kinds.into_iter().map(|kind| {
        let mut described = described(kind);
        described["scope"] = if kind.is_global() { "Global" } else { "Mesh" }.into();
        described["includeInFederation"] = (kind == ResourceKind::Mesh).into();
        described
    });
    Json(json!({"resources": described.collect::<Vec<_>>()}))
}

/// Of our kinds, Kuma counts this one.
pub(super) async fn policies() -> Json<Value> {
    let mut policy = described(ResourceKind::VirtualOutbound);
    for field in ["isExperimental", "isTargetRefBased", "isInbound", "isOutbound"] {
        policy[field] = false.into();
    }
    Json(json!({"policies": [policy]}))
}

fn described(kind: ResourceKind) -> Value {
    let words = words(kind.word());
    json!({
        "name": kind.word(),
        "readOnly": false,
        "path": kind.path(),
        "singularDisplayName": words,
        "pluralDisplayName": super::routes::plural_of(&words),
    })
}

/// `MeshService` in words: `Mesh Service`.
fn words(word: &str) -> String {
    word.char_indices().fold(String::new(), |mut words, (at, letter)| {
        if at > 0 && letter.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(letter);
        words
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Whole {
    control_plane: Status,
    xds: xds::Status,
}

pub(super) async fn status(State(api): State<Api>) -> Json<Whole> {
    let control_plane = api.sources.status.borrow().clone();
    Json(Whole { control_plane, xds: api.xds.read() })
}
