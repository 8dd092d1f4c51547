//! What stands in tokens, in Kuma's words. Called by issue and verify.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Kuma backdates tokens by this, for clocks that are behind.
const BACKDATE_SECS: i64 = 300;

/// A data plane proxy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DataplaneIdentity {
    pub mesh: String,
    /// Empty: any of the mesh.
    pub name: String,
    /// Values that a Dataplane's tags may have; none: any.
    pub tags: BTreeMap<String, Vec<String>>,
}

/// Somebody who administers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserIdentity {
    pub name: String,
    pub groups: Vec<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DataplaneClaims {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) mesh: String,
    #[serde(default)]
    pub(super) tags: Option<BTreeMap<String, Vec<String>>>,
    #[serde(rename = "Type", default)]
    pub(super) kind: String,
    #[serde(flatten)]
    pub(super) registered: Registered,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UserClaims {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) groups: Option<Vec<String>>,
    #[serde(flatten)]
    pub(super) registered: Registered,
}

/// The claims of RFC 7519 that Kuma uses.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Registered {
    pub(super) exp: i64,
    pub(super) nbf: i64,
    pub(super) iat: i64,
    pub(super) jti: String,
}

impl Registered {
    pub(super) fn new(now_secs: i64, valid_secs: u64, id: String) -> Self {
        let valid = i64::try_from(valid_secs).unwrap_or(i64::MAX);
        Self { exp: now_secs.saturating_add(valid), nbf: now_secs - BACKDATE_SECS, iat: now_secs, jti: id }
    }
}
