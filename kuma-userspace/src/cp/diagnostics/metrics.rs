//! The statuses that exist, as metrics: made when somebody asks, so that nothing is counted for their sake on the way of a
//! change or a query. Called by diagnostics.

use std::collections::BTreeMap;
use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::Sources;
use super::process::Process;
use crate::cp::status::{Replica, Status};
use crate::cp::xds;
use crate::rt::Ready;

/// Label names and values.
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Everything that is looked at when somebody asks.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) ready: Ready,
    /// Nothing while the control plane is being opened.
    pub(super) sources: super::Late,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), Error> {
        let mut page = Page(encoder);
        page.gauge(
            "kuma_dns_ready",
            "1: nothing is awaited, see /ready",
            &[(vec![], self.ready.awaited().is_empty())],
        )?;
        let version = [(vec![("version", env!("CARGO_PKG_VERSION"))], true)];
        page.gauge("kuma_dns_build_info", "Always 1; the version is in the label", &version)?;
        process(&mut page, Process::now())?;
        let Some(sources) = self.sources.get() else { return Ok(()) };
        let status = sources.status.borrow().clone();
        control_plane(&mut page, &status)?;
        pools(&mut page, &status)?;
        views(&mut page, &sources.xds.read())?;
        dns(&mut page, sources)
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge<V: IntoGauge + Copy>(
        &mut self,
        name: &str,
        help: &str,
        rows: &[(Labels<'_>, V)],
    ) -> Result<(), Error> {
        self.gauge_in(name, help, None, rows)
    }

    fn gauge_in<V: IntoGauge + Copy>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: &[(Labels<'_>, V)],
    ) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in rows {
            let value = value.into_gauge();
            if labels.is_empty() {
                metric.encode_gauge(&value)?;
            } else {
                metric.encode_family(labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn counter<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: &[(Labels<'_>, V)],
    ) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in rows {
            if labels.is_empty() {
                metric.encode_counter::<NoLabelSet, _, u64>(value, None)?;
            } else {
                metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)?;
            }
        }
        Ok(())
    }
}

/// What a gauge can be made from.
trait IntoGauge {
    type Value: EncodeGaugeValue;
    fn into_gauge(self) -> Self::Value;
}

impl IntoGauge for usize {
    type Value = u64;
    fn into_gauge(self) -> u64 {
        self as u64
    }
}

impl IntoGauge for u64 {
    type Value = u64;
    fn into_gauge(self) -> u64 {
        self
    }
}

impl IntoGauge for bool {
    type Value = u64;
    fn into_gauge(self) -> u64 {
        self.into()
    }
}

impl IntoGauge for f64 {
    type Value = f64;
    fn into_gauge(self) -> f64 {
        self
    }
}

fn process(page: &mut Page<'_>, process: Process) -> Result<(), Error> {
    let Process { cpu_secs, resident_bytes, open_files, threads, started_secs } = process;
    let seconds = Some(&Unit::Seconds);
    page.counter("process_cpu", "CPU time of this process", seconds, &some(cpu_secs))?;
    page.gauge_in("process_resident_memory", "Memory in RAM", Some(&Unit::Bytes), &some(resident_bytes))?;
    page.gauge("process_open_fds", "Open files and sockets", &some(open_files))?;
    page.gauge("process_threads", "Threads", &some(threads))?;
    page.gauge_in("process_start_time", "When it started, since the Unix epoch", seconds, &some(started_secs))
}

/// One row without labels, if there is a value.
fn some<V>(value: Option<V>) -> Vec<(Labels<'static>, V)> {
    value.map(|value| (Vec::new(), value)).into_iter().collect()
}

fn control_plane(page: &mut Page<'_>, status: &Status) -> Result<(), Error> {
    let services =
        [(vec![("state", "wanted")], status.services), (vec![("state", "published")], status.published)];
    page.gauge(
        "kuma_dns_services",
        "Services and hosts that want a VIP, and those that have one",
        &services,
    )?;
    let count = |number: usize| [(Vec::new(), number)];
    page.gauge(
        "kuma_dns_mistakes",
        "Mistakes of the last edit, which is not served",
        &count(status.mistakes.len()),
    )?;
    page.gauge(
        "kuma_dns_conflicts",
        "Names and ports that two of a mesh want",
        &count(status.conflict_count),
    )?;
    page.gauge(
        "kuma_dns_quarantined_records",
        "Damaged records that were set aside",
        &count(status.quarantined_count),
    )?;
    let store = [(Vec::new(), status.store_error.is_none())];
    page.gauge("kuma_dns_store_up", "0: the store refused the last change, which is tried again", &store)?;
    page.gauge(
        "kuma_dns_starving_addresses",
        "Addresses that services wait for, because the pool is used up",
        &count(status.starving_count),
    )?;
    page.gauge(
        "kuma_dns_conditions",
        "Names that a resource was meant to have and has not got",
        &count(status.condition_count),
    )?;
    let leader = !matches!(status.replica, Some(Replica::Follower { .. }));
    page.gauge("kuma_dns_leader", "1: this control plane hands out VIPs", &[(Vec::new(), leader)])?;
    let epoch = match status.replica {
        Some(Replica::Leader { epoch }) => Some(epoch),
        _ => None,
    };
    page.gauge(
        "kuma_dns_leader_epoch",
        "How often the lead has changed, where it leads among several",
        &some(epoch),
    )
}

fn pools(page: &mut Page<'_>, status: &Status) -> Result<(), Error> {
    let labels = |pool: &'_ crate::cp::status::Pool| (pool.of, pool.range.clone());
    let keys: Vec<_> = status.pools.iter().map(labels).collect();
    let rows = |value: fn(&crate::cp::status::Pool) -> f64| -> Vec<(Labels<'_>, f64)> {
        let labelled = keys.iter().zip(&status.pools);
        labelled
            .map(|((of, range), pool)| (vec![("pool", *of), ("range", range.as_str())], value(pool)))
            .collect()
    };
    let size = rows(|pool| pool.size.parse().unwrap_or(f64::INFINITY));
    page.gauge("kuma_dns_pool_size_addresses", "Addresses of a VIP pool", &size)?;
    let held = rows(|pool| pool.held as f64);
    page.gauge("kuma_dns_pool_held_addresses", "Addresses that are VIPs now", &held)?;
    let resting = rows(|pool| pool.resting as f64);
    page.gauge("kuma_dns_pool_resting_addresses", "Addresses that were VIPs and rest", &resting)
}

fn views(page: &mut Page<'_>, status: &xds::Status) -> Result<(), Error> {
    let (mut clients, mut pending, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let (mut routes, mut outbounds, mut loss, mut waiting) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for view in &status.views {
        let name = view.view.as_str();
        let labels = |more: &[(&'static str, &'static str)]| [&[("view", name)], more].concat();
        for (role, count) in tally(view.clients.iter().map(|client| client.role.word())) {
            clients.push((labels(&[("role", role)]), count));
        }
        for (kind, count) in tally(view.clients.iter().flat_map(|client| client.pending.iter().copied())) {
            pending.push((labels(&[("kind", kind)]), count));
        }
        let kinds = view.clients.iter().flat_map(|client| &client.refused).map(|refused| refused.kind);
        for (kind, count) in tally(kinds) {
            refused.push((labels(&[("kind", kind)]), count));
        }
        routes.push((labels(&[("state", "working")]), view.listeners_working));
        routes.push((labels(&[("state", "wanted")]), view.listeners_wanted));
        outbounds.push((labels(&[("shape", "listeners")]), view.outbounds.listeners));
        outbounds.push((labels(&[("shape", "compact")]), view.outbounds.compact));
        loss.push((labels(&[]), view.outbounds.loss().is_some()));
        waiting.push((labels(&[]), view.waiting.len()));
    }
    page.counter(
        "kuma_dns_xds_logins_refused",
        "Streams that were refused for want of a good token",
        None,
        &[(Vec::new(), status.logins_refused)],
    )?;
    page.gauge("kuma_dns_xds_clients", "Connected proxies and agents", &clients)?;
    page.gauge(
        "kuma_dns_xds_pending_clients",
        "Clients that have not acknowledged the newest of a kind",
        &pending,
    )?;
    page.gauge("kuma_dns_xds_refused_resources", "Resources that a client does not take (NACK)", &refused)?;
    page.gauge("kuma_dns_xds_routes", "VIPs and ports: those that agents may use, and all", &routes)?;
    page.gauge("kuma_dns_xds_outbounds", "VIPs and ports by the shape in which Envoy has them", &outbounds)?;
    page.gauge(
        "kuma_dns_xds_outbounds_loss",
        "1: compact HTTP is balanced by connection and not retried",
        &loss,
    )?;
    page.gauge("kuma_dns_xds_waiting", "Reasons why agents do not have everything yet, see status", &waiting)
}

fn dns(page: &mut Page<'_>, sources: &Sources) -> Result<(), Error> {
    let Some(counts) = sources.dns.counts() else { return Ok(()) };
    let types = [("A", counts.mesh.a), ("AAAA", counts.mesh.aaaa), ("other", counts.mesh.other)];
    let types = types.map(|(name, count)| (vec![("type", name)], count));
    page.counter("kuma_dns_dns_queries", "Questions answered by the DNS server", None, &types)?;
    let rcodes: Vec<_> =
        counts.rcodes.iter().map(|(name, count)| (vec![("rcode", name.as_str())], *count)).collect();
    page.counter("kuma_dns_dns_answers", "Answers of the DNS server by response code", None, &rcodes)?;
    let dropped = [(Vec::new(), counts.dropped)];
    page.counter(
        "kuma_dns_dns_dropped_messages",
        "Messages that are no questions and get no answer",
        None,
        &dropped,
    )
}

/// How often each word comes.
fn tally<'a>(words: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut tally = BTreeMap::new();
    for word in words {
        *tally.entry(word).or_insert(0) += 1;
    }
    tally
}
