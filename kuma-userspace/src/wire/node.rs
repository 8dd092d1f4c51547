//! How a client introduces itself to the xDS server: which view it wants, and whether it is a proxy or an agent.
//! Keeps: an Envoy that knows nothing of us still works, its node cluster names the view. Called by cp::xds (reading),
//! agent::feed and the bootstrap (writing).

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use serde::Serialize;

use crate::model::view::Port;

/// Where Kuma's data plane redirects outbound connections.
pub const DEFAULT_OUTBOUND_PORT: Port = Port::new(15001);

pub(super) const META_ROLE: &str = "kuma-dns.role";
pub(super) const META_VIEW: &str = "kuma-dns.view";
pub(super) const META_OUTBOUND_PORT: &str = "kuma-dns.outbound-port";
pub(super) const META_OWNER: &str = "kuma-dns.owner";

/// What a client is there for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// An Envoy: a VIP waits for its ACKs.
    Proxy,
    /// Feeds a kernel and a resolver: a removed listener waits for its ACKs.
    Agent,
}

impl Role {
    /// The word on the wire and for operators.
    pub fn word(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Agent => "agent",
        }
    }
}

/// A client of the xDS server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Introduction {
    pub id: String,
    pub role: Role,
    pub view: String,
    /// The port of the original-destination listeners; only a proxy has them.
    pub outbound_port: Port,
}

/// Why a node cannot be served.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NodeError {
    #[error(
        "node {id:?} names no view: set node.cluster, or {META_VIEW} in its metadata, to the name of the mesh"
    )]
    NoView { id: String },
    #[error("node {id:?} has role {role:?}: {META_ROLE} is \"proxy\" or \"agent\"")]
    UnknownRole { id: String, role: String },
    #[error("node {id:?} has outbound port {port}: {META_OUTBOUND_PORT} is a number from 1 to 65535")]
    BadPort { id: String, port: String },
}

impl Introduction {
    /// Reads what a client sent with its first request.
    ///
    /// # Errors
    /// No view, an unknown role, a port that is none.
    pub fn read(node: &Node) -> Result<Self, NodeError> {
        let id = || node.id.clone();
        let field =
            |key: &str| node.metadata.as_ref().and_then(|m| m.fields.get(key)).and_then(|v| v.kind.as_ref());
        let view = match field(META_VIEW) {
            Some(Kind::StringValue(view)) => view.clone(),
            _ => node.cluster.clone(),
        };
        if view.is_empty() {
            return Err(NodeError::NoView { id: id() });
        }
        let role = match field(META_ROLE) {
            None => Role::Proxy,
            Some(Kind::StringValue(word)) if word == Role::Proxy.word() => Role::Proxy,
            Some(Kind::StringValue(word)) if word == Role::Agent.word() => Role::Agent,
            Some(other) => return Err(NodeError::UnknownRole { id: id(), role: shown(other) }),
        };
        let outbound_port = match field(META_OUTBOUND_PORT) {
            None => DEFAULT_OUTBOUND_PORT,
            Some(kind) => port(kind).ok_or_else(|| NodeError::BadPort { id: id(), port: shown(kind) })?,
        };
        Ok(Self { id: id(), role, view, outbound_port })
    }

    /// What a client of ours sends.
    pub fn write(&self) -> Node {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
        let port = Value { kind: Some(Kind::NumberValue(f64::from(self.outbound_port.get()))) };
        let fields = HashMap::from([
            (META_ROLE.into(), text(self.role.word())),
            (META_VIEW.into(), text(&self.view)),
            (META_OUTBOUND_PORT.into(), port),
        ]);
        let metadata = Some(Struct { fields });
        Node { id: self.id.clone(), cluster: self.view.clone(), metadata, ..Node::default() }
    }
}

/// The program and its version, as a client says it: `envoy 1.40.0`.
pub fn software(node: &Node) -> Option<String> {
    let Some(UserAgentVersionType::UserAgentBuildVersion(build)) = &node.user_agent_version_type else {
        return None;
    };
    let version = build.version.as_ref()?;
    Some(format!(
        "{} {}.{}.{}",
        node.user_agent_name, version.major_number, version.minor_number, version.patch
    ))
}

fn shown(kind: &Kind) -> String {
    match kind {
        Kind::StringValue(text) => text.clone(),
        Kind::NumberValue(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn port(kind: &Kind) -> Option<Port> {
    // A Struct has no integers (google.protobuf.Value), so the text of the number is parsed: "15001" or "15001.5".
    let port: u16 = shown(kind).parse().ok()?;
    (port != 0).then(|| Port::new(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction() -> Introduction {
        let (role, view, outbound_port) = (Role::Agent, "default".into(), Port::new(16001));
        Introduction { id: "node-1".into(), role, view, outbound_port }
    }

    #[test]
    fn an_introduction_survives_the_wire() {
        assert_eq!(Introduction::read(&introduction().write()), Ok(introduction()));
    }

    #[test]
    fn an_envoy_with_any_bootstrap_is_a_proxy_of_the_view_that_its_cluster_names() {
        let node = Node { id: "mine".into(), cluster: "default".into(), ..Node::default() };
        let read = Introduction::read(&node).unwrap();
        assert_eq!((read.role, read.view.as_str()), (Role::Proxy, "default"));
        assert_eq!(read.outbound_port, DEFAULT_OUTBOUND_PORT);
    }

    #[test]
    fn a_node_that_cannot_be_served_is_told_why() {
        let nameless = Node { id: "mine".into(), ..Node::default() };
        let error = Introduction::read(&nameless).unwrap_err().to_string();
        assert!(error.contains("node.cluster"), "{error}");
        for (port, want) in [(70_000.0, "70000"), (0.0, "0"), (1.5, "1.5")] {
            let mut node = introduction().write();
            let value = Value { kind: Some(Kind::NumberValue(port)) };
            node.metadata.as_mut().unwrap().fields.insert(META_OUTBOUND_PORT.into(), value);
            let error = Introduction::read(&node).unwrap_err().to_string();
            assert!(error.contains(&format!("outbound port {want}")), "{error}");
        }
    }
}
