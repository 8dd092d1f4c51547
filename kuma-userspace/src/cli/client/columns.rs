//! Tables of what was listed: which columns a kind has, and one row for each item. Pure; the time is an argument.
//! Called by get.

use std::net::IpAddr;

use serde_json::Value;

use super::kinds::What;
use super::list::Item;
use crate::model::kind::{ResourceKind, SERVICE_TAG};

/// Between two columns.
const GAP: &str = "   ";
/// What stands for nothing.
const NOTHING: &str = "-";

/// A table whose columns only grow, so that it can be printed row by row.
pub(in crate::cli) struct Table {
    what: What,
    header: Vec<&'static str>,
    widths: Vec<usize>,
    now_secs: i64,
}

impl Table {
    /// The columns of a kind; `leading` ones stand in front.
    pub(in crate::cli) fn new(what: What, leading: &[&'static str], now_secs: i64) -> Self {
        let header: Vec<_> = leading.iter().chain(header(what)).copied().collect();
        let widths = header.iter().map(|title| title.len()).collect();
        Self { what, header, widths, now_secs }
    }

    /// From now on ages are of this time.
    pub(in crate::cli) fn at(&mut self, now_secs: i64) {
        self.now_secs = now_secs;
    }

    /// The header and a line for each item.
    pub(in crate::cli) fn whole(&mut self, leading: &[&str], items: &[Item]) -> String {
        let mut rows = vec![self.header.iter().map(|title| (*title).to_owned()).collect()];
        rows.extend(items.iter().map(|item| self.row(leading, item)));
        self.render(&rows)
    }

    /// One more line.
    pub(in crate::cli) fn line(&mut self, leading: &[&str], item: &Item) -> String {
        let row = self.row(leading, item);
        self.render(&[row])
    }

    fn row(&self, leading: &[&str], item: &Item) -> Vec<String> {
        let cells = cells(self.what, item, self.now_secs).into_iter();
        let cells = cells.map(|cell| if cell.is_empty() { NOTHING.to_owned() } else { cell });
        leading.iter().map(|cell| (*cell).to_owned()).chain(cells).collect()
    }

    fn render(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in rows {
            let mut line = String::new();
            for (width, cell) in self.widths.iter().zip(row) {
                line.push_str(&format!("{cell:width$}{GAP}"));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Titles, in the order of [`cells`].
fn header(what: What) -> &'static [&'static str] {
    let kind = match what {
        What::Services => {
            return &["MESH", "NAME", "KIND", "HOSTNAME", "PORTS", "ENDPOINTS", "VIP4", "VIP6"];
        }
        What::Vips => return &["MESH", "NAME", "VIP4", "VIP6", "HOSTNAME", "PORTS"],
        What::Resources(kind) => kind,
    };
    match kind {
        ResourceKind::Mesh => &["NAME", "MESHSERVICES", "AGE"],
        ResourceKind::Dataplane => &["MESH", "NAME", "ADDRESS", "SERVICES", "AGE"],
        ResourceKind::ZoneIngress => &["NAME", "ZONE", "ADDRESS", "SERVICES", "AGE"],
        ResourceKind::ExternalService => &["MESH", "NAME", "SERVICE", "ADDRESS", "AGE"],
        ResourceKind::VirtualOutbound => &["MESH", "NAME", "HOST", "PORT", "AGE"],
        ResourceKind::MeshService
        | ResourceKind::MeshExternalService
        | ResourceKind::MeshMultiZoneService => &["MESH", "NAME", "VIP4", "VIP6", "HOSTNAME", "PORTS", "AGE"],
        ResourceKind::HostnameGenerator => &["NAME", "FOR", "TEMPLATE", "AGE"],
        ResourceKind::Secret | ResourceKind::Service => &["MESH", "NAME", "AGE"],
    }
}

fn cells(what: What, item: &Item, now_secs: i64) -> Vec<String> {
    let text = |pointer: &str| item.text(pointer).to_owned();
    let (mesh, name) = (text("/mesh"), text("/name"));
    let age = age(item.text("/creationTime"), now_secs);
    let kind = match what {
        What::Services => {
            let ports = item.list("/ports");
            let endpoints = ports.iter().flat_map(|port| port["endpoints"].as_array().into_iter().flatten());
            let mut endpoints: Vec<&str> = endpoints.filter_map(Value::as_str).collect();
            endpoints.sort_unstable();
            endpoints.dedup();
            let (names, count) = (texts(item, "/hostnames"), endpoints.len().to_string());
            let kind = text("/kind");
            return vec![
                mesh,
                name,
                kind,
                shortened(&names),
                port_list(ports),
                count,
                text("/v4"),
                text("/v6"),
            ];
        }
        What::Vips => {
            let (names, ports) = (texts(item, "/hostnames"), port_list(item.list("/ports")));
            return vec![mesh, name, text("/v4"), text("/v6"), names.join(","), ports];
        }
        What::Resources(kind) => kind,
    };
    match kind {
        ResourceKind::Mesh => {
            let mode = item.text("/meshServices/mode");
            vec![name, if mode.is_empty() { "Disabled".into() } else { mode.to_owned() }, age]
        }
        ResourceKind::Dataplane => vec![mesh, name, text("/networking/address"), services(item), age],
        ResourceKind::ZoneIngress => {
            let (host, port) = (item.text("/networking/address"), item.0.pointer("/networking/port"));
            let address = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
            vec![name, text("/zone"), address, item.list("/availableServices").len().to_string(), age]
        }
        ResourceKind::ExternalService => {
            let service = item.0["tags"][SERVICE_TAG].as_str().unwrap_or_default().to_owned();
            vec![mesh, name, service, text("/networking/address"), age]
        }
        ResourceKind::VirtualOutbound => vec![mesh, name, text("/conf/host"), text("/conf/port"), age],
        ResourceKind::MeshService | ResourceKind::MeshMultiZoneService => {
            named(mesh, name, item, port_list(item.list("/spec/ports")), age)
        }
        ResourceKind::MeshExternalService => {
            let ports = item.0.pointer("/spec/match").map_or_else(String::new, port);
            named(mesh, name, item, ports, age)
        }
        ResourceKind::HostnameGenerator => {
            let selector = item.0.pointer("/spec/selector").and_then(Value::as_object);
            let kinds: Vec<_> = selector.into_iter().flat_map(serde_json::Map::keys).cloned().collect();
            vec![name, kinds.join(","), text("/spec/template"), age]
        }
        ResourceKind::Secret | ResourceKind::Service => vec![mesh, name, age],
    }
}

/// The columns of what has a VIP in its status.
fn named(mesh: String, name: String, item: &Item, ports: String, age: String) -> Vec<String> {
    let one = item.0.pointer("/status/vip").into_iter();
    let vips = item.list("/status/vips").iter().chain(one).filter_map(|vip| vip["ip"].as_str());
    let vips: Vec<&str> = vips.collect();
    let of = |is_v6: bool| {
        let parsed = |vip: &&&str| vip.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6() == is_v6);
        vips.iter().find(parsed).map_or_else(String::new, |vip| (*vip).to_owned())
    };
    let hostnames = item.list("/status/addresses").iter().filter_map(|address| address["hostname"].as_str());
    let hostnames: Vec<&str> = hostnames.collect();
    vec![mesh, name, of(false), of(true), shortened(&hostnames), ports, age]
}

fn texts<'i>(item: &'i Item, pointer: &str) -> Vec<&'i str> {
    item.list(pointer).iter().filter_map(Value::as_str).collect()
}

/// The first, and how many more there are.
fn shortened(texts: &[&str]) -> String {
    match texts {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first, more @ ..] => format!("{first} +{}", more.len()),
    }
}

/// The services of a Dataplane's inbounds, each once.
fn services(item: &Item) -> String {
    let mut found: Vec<&str> = Vec::new();
    for inbound in item.list("/networking/inbound") {
        let service = inbound["tags"][SERVICE_TAG].as_str().unwrap_or_default();
        if !service.is_empty() && !found.contains(&service) {
            found.push(service);
        }
    }
    found.join(",")
}

fn port_list(ports: &[Value]) -> String {
    let mut shown: Vec<String> = ports.iter().map(port).filter(|port| !port.is_empty()).collect();
    shown.dedup();
    shown.join(",")
}

/// `6379/tcp`
fn port(port: &Value) -> String {
    let Some(number) = port["port"].as_u64() else { return String::new() };
    let protocol = port["protocol"].as_str().or_else(|| port["appProtocol"].as_str());
    format!("{number}/{}", protocol.unwrap_or("tcp"))
}

/// How long ago, in its largest unit: `5s`, `3m`, `2h`, `4d`.
fn age(time: &str, now_secs: i64) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return String::new() };
    let secs = now_secs.saturating_sub(then.as_second()).max(0);
    match secs {
        0..=119 => format!("{secs}s"),
        120..=7_199 => format!("{}m", secs / 60),
        7_200..=172_799 => format!("{}h", secs / 3_600),
        _ => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: i64 = 1_700_000_000;

    fn table(what: What, item: Value) -> Vec<Vec<String>> {
        let text = Table::new(what, &[], NOW).whole(&[], &[Item(item)]);
        text.lines()
            .map(|line| {
                line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
            })
            .collect()
    }

    #[test]
    fn every_kind_has_a_column_for_each_title() {
        let empty = Item(json!({}));
        for (word, what) in What::all() {
            assert_eq!(cells(what, &empty, NOW).len(), header(what).len(), "{word}");
        }
    }

    #[test]
    fn a_mesh_service_shows_its_vips_names_and_ports() {
        let item = json!({"type": "MeshService", "mesh": "default", "name": "redis", "creationTime": "2023-11-14T22:11:20Z",
            "spec": {"ports": [{"port": 6379}, {"port": 80, "appProtocol": "http"}]},
            "status": {"vips": [{"ip": "241.0.0.1"}, {"ip": "fd00:fd01::1"}],
                       "addresses": [{"hostname": "redis.svc.mesh.local"}, {"hostname": "redis.x"}]}});
        let rows = table(What::Resources(ResourceKind::MeshService), item);
        assert_eq!(rows[0], ["MESH", "NAME", "VIP4", "VIP6", "HOSTNAME", "PORTS", "AGE"]);
        let want = [
            "default",
            "redis",
            "241.0.0.1",
            "fd00:fd01::1",
            "redis.svc.mesh.local +1",
            "6379/tcp,80/http",
            "2m",
        ];
        assert_eq!(rows[1], want);
    }

    #[test]
    fn a_vip_that_is_not_there_yet_is_a_dash() {
        let item = json!({"mesh": "m", "name": "db", "spec": {"match": {"port": 5432, "protocol": "tcp"}}, "status": {"vip": {}}});
        let rows = table(What::Resources(ResourceKind::MeshExternalService), item);
        assert_eq!(rows[1], ["m", "db", "-", "-", "-", "5432/tcp", "-"]);
    }

    #[test]
    fn services_count_their_endpoints_once() {
        let item = json!({"mesh": "m", "name": "web", "kind": "service", "hostnames": ["web.mesh"], "v4": "240.0.0.1", "v6": null,
            "ports": [{"port": 80, "protocol": "http", "endpoints": ["10.0.0.1:1", "10.0.0.2:1"]},
                      {"port": 7001, "protocol": "http", "endpoints": ["10.0.0.1:1"]}]});
        let rows = table(What::Services, item);
        assert_eq!(rows[1], ["m", "web", "service", "web.mesh", "80/http,7001/http", "2", "240.0.0.1", "-"]);
    }

    #[test]
    fn columns_of_later_lines_stand_below_the_first_ones() {
        let mut table = Table::new(What::Resources(ResourceKind::Mesh), &["EVENT"], NOW);
        let first = table.whole(&["ADDED"], &[Item(json!({"name": "a-long-name"}))]);
        let second = table.line(&["DELETED"], &Item(json!({"name": "b"})));
        assert_eq!(
            first,
            "EVENT   NAME          MESHSERVICES   AGE\nADDED   a-long-name   Disabled       -\n"
        );
        assert_eq!(second, "DELETED   b             Disabled       -\n");
    }

    #[test]
    fn an_age_is_short() {
        for (time, want) in [
            ("2023-11-14T22:13:20Z", "0s"),
            ("2023-11-14T22:12:20Z", "60s"),
            ("2023-11-14T12:13:20+01:00", "11h"),
            ("2023-01-14T22:13:20.5Z", "304d"),
            ("2030-01-01T00:00:00Z", "0s"),
            ("soon", ""),
        ] {
            assert_eq!(age(time, NOW), want, "{time}");
        }
    }
}
