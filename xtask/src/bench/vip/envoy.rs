//! The bootstrap of the real Envoy of the benchmark: what a mesh gives its proxies, without a control plane. Pure.
//! Called by world.

use serde_json::{Value, json};

use super::variant::{BOUND_PORT, OUTBOUND_PORT, VIP_PORT, VIP4, VIP6};

/// Where the echo server listens behind Envoy.
pub(super) const SERVICE: &str = "127.0.0.1:7000";

/// One worker, no shared memory with the other Envoys, errors only.
pub(super) const OPTIONS: [&str; 5] = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];

/// Two listeners without interception as the baseline; two outbound listeners that hand each connection to the listener
/// of its original destination; a listener for each VIP.
pub(super) fn bootstrap() -> Value {
    let original = json!([{"name": "envoy.filters.listener.original_dst", "typed_config":
        {"@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"}}]);
    let outbound = |name: &str, address: &str| {
        let mut listener = listener(name, address, OUTBOUND_PORT, "nowhere");
        listener["use_original_dst"] = json!(true);
        listener["listener_filters"] = original.clone();
        listener
    };
    let vip = |name: &str, address: &str| {
        let mut listener = listener(name, address, VIP_PORT, "service");
        listener["bind_to_port"] = json!(false);
        listener
    };
    let (host, port) = SERVICE.split_once(':').expect("SERVICE has a port");
    let port: u16 = port.parse().expect("SERVICE has a port");
    json!({"static_resources": {
        "listeners": [
            listener("direct4", "127.0.0.1", BOUND_PORT, "service"),
            listener("direct6", "::1", BOUND_PORT, "service"),
            outbound("outbound4", "0.0.0.0"),
            outbound("outbound6", "::"),
            vip("vip4", &VIP4.to_string()),
            vip("vip6", &VIP6.to_string()),
        ],
        "clusters": [
            {"name": "nowhere", "type": "STATIC", "load_assignment": {"cluster_name": "nowhere"}},
            {"name": "service", "type": "STATIC", "load_assignment": {"cluster_name": "service", "endpoints":
                [{"lb_endpoints": [{"endpoint": {"address": socket(host, port)}}]}]}},
        ],
    }})
}

fn listener(name: &str, address: &str, port: u16, cluster: &str) -> Value {
    json!({"name": name, "address": socket(address, port), "filter_chains": [{"filters": [
        {"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name, "cluster": cluster}}]}]})
}

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}
