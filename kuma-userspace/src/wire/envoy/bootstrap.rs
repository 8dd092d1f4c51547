//! The bootstrap of an Envoy of ours: where the xDS server and the admin port are, and nothing about the mesh.
//! Keeps: the stats that Envoy itself needs are kept, and the few that operators need. Called by agent::proxy.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::wire::access::{AUTHORIZATION, Access, Trust};
use crate::wire::address::{Host, ServerAddress};
use crate::wire::node::{Introduction, META_OUTBOUND_PORT, META_OWNER, META_ROLE, META_VIEW};

/// Stats that are kept; all others would cost memory and CPU for each VIP. Envoy's CDS stands still for ever when
/// `cluster_manager.` is missing (envoyproxy/envoy issue 28179).
const KEPT_STAT_PREFIXES: [&str; 4] = ["cluster_manager.", "listener_manager.", "control_plane.", "server."];
/// Connections that were meant for no VIP.
const KEPT_STAT_SUFFIX: &str = ".no_filter_chain_match";

/// What a bootstrap depends on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bootstrap {
    pub node: Introduction,
    pub xds: ServerAddress,
    pub access: Access,
    pub admin: SocketAddr,
    /// A path that says on the command line whose Envoy it is.
    pub owner: PathBuf,
}

impl Bootstrap {
    /// The text for Envoy's `--config-yaml`: JSON, which is YAML. A command line is for everyone to read: what is not stands
    /// in [`secret`](Self::secret), and Envoy merges both.
    pub fn to_yaml(&self) -> String {
        let node = &self.node;
        let ads = json!({"resource_api_version": "V3", "ads": {}});
        let kept = KEPT_STAT_PREFIXES.iter().map(|prefix| json!({"prefix": prefix}));
        let kept: Vec<Value> = kept.chain([json!({"suffix": KEPT_STAT_SUFFIX})]).collect();
        let mut ads_config = json!({
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
        });
        if self.access.token.is_none() {
            ads_config["grpc_services"] = grpc_services(None);
        }
        json!({
            "node": {
                "id": node.id,
                "cluster": node.view,
                "metadata": {
                    META_ROLE: node.role.word(),
                    META_VIEW: node.view,
                    META_OUTBOUND_PORT: node.outbound_port.get(),
                    META_OWNER: self.owner,
                },
            },
            "dynamic_resources": {
                "ads_config": ads_config,
                "lds_config": ads,
                "cds_config": ads,
            },
            "static_resources": {"clusters": [xds_cluster(&self.xds, self.access.trust.as_ref())]},
            "admin": {"address": address(self.admin)},
            "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": kept}}},
            "overload_manager": {"resource_monitors": [connection_limit()]},
        })
        .to_string()
    }

    /// The rest of the bootstrap, for a file that only Envoy can read; `None` when nothing is secret.
    pub fn secret(&self) -> Option<String> {
        let token = self.access.token.as_ref()?;
        let ads_config = json!({"grpc_services": grpc_services(Some(token.reveal()))});
        Some(json!({"dynamic_resources": {"ads_config": ads_config}}).to_string())
    }
}

fn grpc_services(token: Option<&str>) -> Value {
    let metadata = token.map(|token| json!({"key": AUTHORIZATION, "value": token}));
    let metadata: Vec<Value> = metadata.into_iter().collect();
    json!([{"envoy_grpc": {"cluster_name": XDS_CLUSTER}, "initial_metadata": metadata}])
}

const XDS_CLUSTER: &str = "kuma-dns-xds";
/// Connections of all workloads through one proxy.
const MAX_CONNECTIONS: u32 = 1_000_000;

/// Said outright, or Envoy warns at every start that there is no limit.
fn connection_limit() -> Value {
    json!({
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": MAX_CONNECTIONS,
        },
    })
}

fn xds_cluster(xds: &ServerAddress, trust: Option<&Trust>) -> Value {
    let at = json!({"socket_address": {"address": xds.host.to_string(), "port_value": xds.port.get()}});
    let endpoint = json!({"endpoint": {"address": at}});
    let kind = match xds.host {
        Host::Ip(_) => "STATIC",
        // Envoy asks the machine's own nameservers, as it does for endpoints that are given by name.
        Host::Name(_) => "STRICT_DNS",
    };
    let http2 = json!({
        // A control plane that died without a word is noticed and dialled again.
        "connection_keepalive": {"interval": "30s", "timeout": "5s"},
    });
    let mut cluster = json!({
        "name": XDS_CLUSTER,
        "type": kind,
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": http2},
            },
        },
    });
    if let Some(trust) = trust {
        cluster["transport_socket"] = tls(&xds.host, trust);
    }
    cluster
}

/// The server must have a certificate for the host that is dialled, from an authority that is trusted.
fn tls(host: &Host, trust: &Trust) -> Value {
    let (kind, sni) = match host {
        Host::Ip(_) => ("IP_ADDRESS", None),
        Host::Name(name) => ("DNS", Some(name.as_str())),
    };
    let name = json!({"san_type": kind, "matcher": {"exact": host.to_string()}});
    let validation = json!({
        "trusted_ca": {"inline_string": trust.as_pem()},
        "match_typed_subject_alt_names": [name],
    });
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": sni.unwrap_or_default(),
            "common_tls_context": {"alpn_protocols": ["h2"], "validation_context": validation},
        },
    })
}

fn address(socket: SocketAddr) -> Value {
    json!({"socket_address": {"address": socket.ip().to_string(), "port_value": socket.port()}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::view::Port;
    use crate::wire::access::Token;
    use crate::wire::address::ServerUrl;
    use crate::wire::node::Role;

    #[test]
    fn a_bootstrap_says_whose_view_it_wants_and_keeps_the_stats_that_envoy_needs() {
        let (role, view, outbound_port) = (Role::Proxy, "default".into(), Port::new(15001));
        let node = Introduction { id: "proxy-1".into(), role, view, outbound_port };
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (xds, admin) = (at("127.0.0.1:5678").into(), at("127.0.0.1:9901"));
        let (access, owner) = (Access::default(), "/run/kuma-dns/default".into());
        let bootstrap = Bootstrap { node, xds, access, admin, owner };
        let text = bootstrap.to_yaml();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["node"]["metadata"]["kuma-dns.view"], "default");
        assert_eq!(value["node"]["metadata"]["kuma-dns.outbound-port"], 15001);
        assert!(text.contains(r#"{"prefix":"cluster_manager."}"#));
        assert_eq!(bootstrap.secret(), None);

        let token = Some(Token::parse("abc").unwrap());
        let secret = Bootstrap { access: Access { trust: None, token }, ..bootstrap };
        assert!(!secret.to_yaml().contains("grpc_services"), "Envoy would have the service twice");
        assert!(!secret.to_yaml().contains("abc") && secret.secret().unwrap().contains("abc"));

        let url: ServerUrl = "https://cp.example:5679".parse().unwrap();
        let trust = Some(Trust::parse("-----BEGIN CERTIFICATE-----").unwrap());
        let named = Bootstrap { xds: url.address, access: Access { trust, token: None }, ..secret };
        let cluster =
            &serde_json::from_str::<Value>(&named.to_yaml()).unwrap()["static_resources"]["clusters"][0];
        assert_eq!(cluster["type"], "STRICT_DNS");
        assert_eq!(cluster["transport_socket"]["typed_config"]["sni"], "cp.example");
    }
}
