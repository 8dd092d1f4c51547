//! The status as text for people: the answer to "does it work?" first, then each part, then what the kernel decided.
//! Pure: data in, text out. Called by status.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use comfy_table::{CellAlignment, Table};

use crate::cli::duration::human;
use crate::cli::table::plain;
use crate::wire::local::{
    ControlPlane, Datapath, Outbounds, Proxy, Resolver, Source, Status, View, XdsClient,
};

const BOLD: &str = "\x1b[1m";
const GOOD: &str = "\x1b[1;32m";
const BAD: &str = "\x1b[1;33m";
const OFF: &str = "\x1b[0m";

/// Everything about a running agent.
pub(super) fn running(status: &Status) -> String {
    let mut text = headline(status);
    if let Some(plane) = &status.control_plane {
        section(&mut text, "Control plane", &control_plane(plane));
    }
    section(&mut text, "Views", &views(&status.views, &status.source));
    section(&mut text, "Proxy", &proxy(status.proxy.as_ref()));
    section(&mut text, "Resolver", &resolver(&status.resolver));
    text.push_str(&datapath(&status.datapath));
    text
}

/// What the kernel still holds while no agent runs.
pub(super) fn leftover(instance: impl Display, datapath: &Datapath) -> String {
    let mut text = format!(
        "{BAD}instance {instance}: no agent is running, but its datapath is in the kernel{OFF}\n\
         Enrolled workloads still go to the resolver and to the proxy. `kuma-dns up` or `agent` takes it over, `kuma-dns cleanup` removes it.\n"
    );
    text.push_str(&self::datapath(datapath));
    text
}

/// The datapath's parts, which need no agent to be read.
fn datapath(datapath: &Datapath) -> String {
    let mut text = String::new();
    section(&mut text, "Attached", &attached(datapath));
    section(&mut text, "Maps", &maps(datapath));
    section(&mut text, "Decisions of the kernel", &counters(datapath));
    text
}

fn headline(status: &Status) -> String {
    let Status { instance, version, pid, uptime_ms, .. } = status;
    let word = if status.ready { format!("{GOOD}ready{OFF}") } else { format!("{BAD}not ready{OFF}") };
    let mut text =
        format!("instance {instance}: {word}  (version {version}, pid {pid}, up {})\n", ago(*uptime_ms));
    for awaited in &status.awaited {
        writeln!(text, "  waiting for {awaited}").expect("a String takes all text");
    }
    text
}

fn control_plane(plane: &ControlPlane) -> String {
    let files = plane.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    let ControlPlane { services, published, .. } = plane;
    let place = if files.is_empty() { files } else { format!(" in {files}") };
    let mut lines = vec![format!("{services} services{place}, {published} of them with VIPs")];
    lines.extend(plane.trouble.iter().map(|trouble| format!("trouble: {trouble}")));
    lines.extend(plane.outbounds.iter().flat_map(outbounds));
    let xds = plane.xds.map(|xds| xds.to_string()).unwrap_or_default();
    for client in &plane.clients {
        let XdsClient { node, role, view, software, connected_secs, pending, refused } = client;
        let software = software.as_ref().map(|software| format!(" ({software})")).unwrap_or_default();
        let since = match connected_secs {
            0 => "less than a second".into(),
            secs => human(Duration::from_secs(*secs)),
        };
        let acked = match pending.as_slice() {
            [] => "all acknowledged".into(),
            pending => format!("not yet acknowledged: {}", pending.join(" ")),
        };
        lines
            .push(format!("{role} {node}{software} of view {view}: connected to {xds} for {since}, {acked}"));
        lines.extend(refused.iter().map(|refused| format!("  refused {refused}")));
    }
    if plane.clients.is_empty() {
        lines.push(format!("nobody is connected to {xds}"));
    }
    lines.join("\n")
}

/// `outbounds of view default: compact (setting auto), 12 with a listener each, 1400 sharing one`
fn outbounds(outbounds: &Outbounds) -> Vec<String> {
    let Outbounds { view, setting, shape, listeners, compact, changing, loss } = outbounds;
    let mut line = format!(
        "outbounds of view {view}: {shape} (setting {setting}); VIPs and ports: {listeners} with a listener each, \
         {compact} sharing one"
    );
    if *changing > 0 {
        write!(line, ", {changing} changing").expect("a String takes all text");
    }
    [line].into_iter().chain(loss.iter().map(|loss| format!("  {loss}"))).collect()
}

fn views(views: &[View], source: &Source) -> String {
    if views.is_empty() {
        return format!("none yet: {}", standing(source));
    }
    let mut table = plain(&["NAME", "DOMAIN", "NAMES", "ROUTES", "TTL", "RANGES", "CHANGED"]);
    for view in views {
        table.add_row([
            view.name.clone(),
            view.domain.clone(),
            view.names.to_string(),
            view.routes.to_string(),
            format!("{} s", view.ttl_secs),
            view.ranges.join(" "),
            format!("{} ago", ago(view.age_ms)),
        ]);
    }
    numbers(&mut table, &[2, 3, 4]);
    let trouble =
        views.iter().filter_map(|view| view.trouble.as_ref().map(|trouble| format!("\ntrouble: {trouble}")));
    format!("{}\n{table}{}", standing(source), trouble.collect::<String>())
}

/// `kept up to date by https://cp.example:5678`, or since when they are not.
fn standing(source: &Source) -> String {
    let Source { control_plane, current, reason, view_age_secs, remembered } = source;
    if *current {
        return format!("kept up to date by the control plane {control_plane}");
    }
    let reason = reason.as_deref().unwrap_or("not connected");
    let origin = if *remembered { ", written down by an earlier agent" } else { "" };
    let age = human(Duration::from_secs(*view_age_secs));
    let served =
        if *view_age_secs > 0 { format!("; what is served is {age} old{origin}") } else { String::new() };
    format!("{BAD}no control plane{OFF} {control_plane}: {reason}{served}")
}

fn proxy(proxy: Option<&Proxy>) -> String {
    let Some(proxy) = proxy else { return "none yet".into() };
    let mut words: Vec<String> = proxy.path.iter().map(|path| path.display().to_string()).collect();
    words.push(proxy.mode.clone());
    words.extend(proxy.pid.map(|pid| format!("pid {pid}")));
    words.extend(proxy.uptime_ms.map(|uptime| format!("up {}", ago(uptime))));
    words.extend((proxy.restarts > 0).then(|| format!("restarted {} times", proxy.restarts)));
    words.extend(proxy.outbound.map(|outbound| format!("VIP connections on {outbound}")));
    words.extend(proxy.admin.map(|admin| format!("admin on {admin}")));
    words.join(", ")
}

fn resolver(resolver: &Resolver) -> String {
    if resolver.listen.is_empty() {
        return "not listening yet".into();
    }
    let Resolver { answered, forwarded, failed, .. } = resolver;
    let upstreams = join(&resolver.upstreams, ", ");
    let upstreams = if upstreams.is_empty() { "the nameserver that was asked".into() } else { upstreams };
    format!(
        "listens on {}\n{answered} questions answered, {forwarded} passed on to {upstreams}, {failed} of them without answer",
        places(&resolver.listen)
    )
}

/// `127.0.0.1 and ::1, ports 15053 to 15057`: the addresses once, the ports as a range.
fn places(listen: &[SocketAddr]) -> String {
    let addresses: BTreeSet<IpAddr> = listen.iter().map(SocketAddr::ip).collect();
    let ports: BTreeSet<u16> = listen.iter().map(SocketAddr::port).collect();
    let addresses: Vec<IpAddr> = addresses.into_iter().collect();
    let (Some(first), Some(last)) = (ports.first(), ports.last()) else { return String::new() };
    let ports = if first == last { format!("port {first}") } else { format!("ports {first} to {last}") };
    format!("{}, {ports}", join(&addresses, " and "))
}

/// One line for each cgroup, with its programs.
fn attached(datapath: &Datapath) -> String {
    if datapath.programs.is_empty() {
        return "nothing".into();
    }
    let mut by_cgroup: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
    for program in &datapath.programs {
        by_cgroup.entry(&program.cgroup).or_default().push(&program.name);
    }
    let lines =
        by_cgroup.iter().map(|(cgroup, programs)| format!("{}\n  {}", cgroup.display(), programs.join(" ")));
    let pins = format!("pinned in {} (ABI version {})", datapath.pins.display(), datapath.abi_version);
    lines.chain([pins]).collect::<Vec<_>>().join("\n")
}

fn maps(datapath: &Datapath) -> String {
    let mut table = plain(&["NAME", "ENTRIES", "CAPACITY"]);
    for map in &datapath.maps {
        table.add_row([map.name.clone(), map.entries.to_string(), map.capacity.to_string()]);
    }
    numbers(&mut table, &[1, 2]);
    if datapath.maps.is_empty() { "none".into() } else { table.to_string() }
}

/// Only what happened; the JSON has all of them.
fn counters(datapath: &Datapath) -> String {
    let mut table = plain(&["COUNT", "NUMBER", "REASON", "MEANING"]);
    for counter in datapath.counters.iter().filter(|counter| counter.count > 0) {
        let (count, number) = (counter.count.to_string(), counter.number.to_string());
        table.add_row([count, number, counter.name.clone(), counter.meaning.clone()]);
    }
    numbers(&mut table, &[0, 1]);
    if table.row_count() == 0 {
        "none yet: nothing inside has connected or asked".into()
    } else {
        table.to_string()
    }
}

/// Right-aligned columns.
fn numbers(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn section(text: &mut String, title: &str, body: &str) {
    write!(text, "\n{BOLD}{title}{OFF}\n").expect("a String takes all text");
    for line in body.lines() {
        writeln!(text, "  {}", line.trim_end()).expect("a String takes all text");
    }
}

fn ago(millis: u64) -> String {
    human(Duration::from_millis(millis))
}

fn join<T: Display>(items: &[T], separator: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::local::{Counter, Program};

    #[test]
    fn the_report_says_what_is_awaited_and_hides_what_never_happened() {
        let counter =
            |count, name: &str| Counter { number: 7, name: name.into(), meaning: "because".into(), count };
        let program = |name: &str| Program { name: name.into(), cgroup: "/cg/workloads".into() };
        let status = Status {
            instance: "blue".into(),
            awaited: vec!["a proxy".into()],
            datapath: Datapath {
                counters: vec![counter(3, "vip_v4"), counter(0, "vip_v6")],
                programs: vec![program("connect4"), program("connect6")],
                ..Datapath::default()
            },
            ..Status::default()
        };
        let text = running(&status);
        for part in ["blue", "not ready", "waiting for a proxy", "connect4 connect6", "vip_v4"] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        assert!(!text.contains("vip_v6"), "{text}");
    }
}
