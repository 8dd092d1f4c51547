//! Addresses of a host name, for connections of our own: an address is itself, then /etc/hosts, then the nameservers of
//! resolv.conf under its search list.
//! Keeps: the C library's resolver is never called (the binary is static, and that one loads modules); every question has
//! a deadline. Called by whoever connects to a host that is given by name.

mod ask;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use self::ask::Reply;
use super::resolv_conf;

/// Labels that a name must have to be tried as it stands first, unless `options ndots` says otherwise (resolv.conf(5)).
const DEFAULT_NDOTS: usize = 1;
/// Domains that are tried for one name.
const MAX_SEARCH: usize = 16;
/// Nameservers that are asked, as in the C library.
const MAX_SERVERS: usize = 3;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("{0:?} is no host name")]
    NoName(String),
    #[error("no such host: {name} is neither in {} nor known to a nameserver", hosts.display())]
    Unknown { name: String, hosts: PathBuf },
    #[error("{name} is not in {}, and {} names no nameserver", hosts.display(), resolv_conf.display())]
    NoServer { name: String, hosts: PathBuf, resolv_conf: PathBuf },
    #[error("no nameserver answered for {name}: asked {}", list(servers))]
    Silent { name: String, servers: Vec<SocketAddr> },
}

fn list(servers: &[SocketAddr]) -> String {
    servers.iter().map(|server| server.ip().to_string()).collect::<Vec<_>>().join(", ")
}

/// Where names are looked up.
#[derive(Clone, Debug)]
pub struct Sources {
    pub hosts: PathBuf,
    pub resolv_conf: PathBuf,
}

impl Default for Sources {
    fn default() -> Self {
        Self { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into() }
    }
}

/// Every address of `host`, IPv4 first; at least one.
///
/// # Errors
/// See [`LookupError`].
pub async fn lookup(host: &str) -> Result<Vec<IpAddr>, LookupError> {
    Sources::default().lookup(host).await
}

impl Sources {
    /// The same with other files.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if !is_host_name(&name) {
            return Err(LookupError::NoName(host.to_owned()));
        }
        let known = in_hosts(&text(&self.hosts), &name);
        if !known.is_empty() {
            return Ok(known);
        }
        // RFC 6761 section 6.3: never asked of anybody.
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let conf = text(&self.resolv_conf);
        let scope = |interface: &str| nix::net::if_::if_nametoindex(interface).ok();
        let mut servers = resolv_conf::parse(&conf, scope).nameservers;
        servers.truncate(MAX_SERVERS);
        if servers.is_empty() {
            let Self { hosts, resolv_conf } = self.clone();
            return Err(LookupError::NoServer { name, hosts, resolv_conf });
        }
        self.ask_servers(&name, candidates(host, &conf), servers).await
    }

    async fn ask_servers(
        &self,
        name: &str,
        candidates: Vec<String>,
        servers: Vec<SocketAddr>,
    ) -> Result<Vec<IpAddr>, LookupError> {
        let mut silent = false;
        for candidate in &candidates {
            match ask::both_families(&servers, candidate).await {
                Reply::Addresses(addresses) => return Ok(addresses),
                Reply::Nothing => {}
                Reply::Silence => silent = true,
            }
        }
        let name = name.to_owned();
        if silent {
            return Err(LookupError::Silent { name, servers });
        }
        Err(LookupError::Unknown { name, hosts: self.hosts.clone() })
    }
}

/// A file that is not there says nothing, as for the C library.
fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Addresses of `name` in the text of a hosts(5) file, IPv4 first.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

/// The full names that `host` may stand for, in the order of resolv.conf(5).
fn candidates(host: &str, conf: &str) -> Vec<String> {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.ends_with('.') {
        return vec![name];
    }
    let (search, ndots) = search_list(conf);
    let suffixed = search.iter().map(|domain| format!("{name}.{domain}")).filter(|full| is_host_name(full));
    let mut all: Vec<String> = suffixed.collect();
    let as_it_stands = if name.matches('.').count() >= ndots { 0 } else { all.len() };
    all.insert(as_it_stands, name);
    all
}

/// The domains of the last `search` or `domain` line, and `ndots`.
fn search_list(conf: &str) -> (Vec<String>, usize) {
    let (mut search, mut ndots) = (Vec::new(), DEFAULT_NDOTS);
    for line in conf.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("search" | "domain") => {
                let domains = words.map(|word| word.trim_end_matches('.').to_ascii_lowercase());
                search = domains.filter(|domain| !domain.is_empty()).take(MAX_SEARCH).collect();
            }
            Some("options") => {
                let mut said = words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                ndots = said.next_back().unwrap_or(ndots);
            }
            _ => {}
        }
    }
    (search, ndots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_gives_every_address_of_a_name_ipv4_first() {
        let text = "127.0.0.1 localhost\n# 10.0.0.9 cp\n::1 cp\tCP.example # local\n10.0.0.1 other cp\nnonsense cp\n10.0.0.1 cp\n";
        let found: Vec<String> = in_hosts(text, "cp").iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1", "::1"]);
        assert_eq!(in_hosts(text, "cp.example").len(), 1);
        assert!(in_hosts(text, "p").is_empty());
    }

    #[test]
    fn a_name_is_completed_as_resolv_conf_says() {
        let conf = "search a.example b.example.\noptions edns0 ndots:2\n";
        assert_eq!(candidates("cp", conf), ["cp.a.example", "cp.b.example", "cp"]);
        assert_eq!(candidates("x.y.z", conf), ["x.y.z", "x.y.z.a.example", "x.y.z.b.example"]);
        assert_eq!(candidates("Cp.", conf), ["cp"]);
        assert_eq!(candidates("cp", ""), ["cp"]);
        assert_eq!(candidates("cp", "domain old\nsearch new\n"), ["cp.new", "cp"]);
    }

    #[tokio::test]
    async fn what_needs_no_nameserver_asks_none() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        std::fs::write(&hosts, "10.1.2.3 kuma-cp\n").unwrap();
        let sources = Sources { hosts, resolv_conf: dir.path().join("none") };
        let ask = async |host: &str| sources.lookup(host).await.map(|found| found[0].to_string());
        assert_eq!(ask("10.0.0.1").await.unwrap(), "10.0.0.1");
        assert_eq!(ask("fd00::1").await.unwrap(), "fd00::1");
        assert_eq!(ask("localhost").await.unwrap(), "127.0.0.1");
        assert_eq!(ask("KUMA-cp.").await.unwrap(), "10.1.2.3");
        assert!(matches!(ask("kuma-cp.example").await, Err(LookupError::NoServer { .. })));
        for bad in ["", "a..b", "a b", ".", "[::1]"] {
            assert!(matches!(ask(bad).await, Err(LookupError::NoName(_))), "{bad:?}");
        }
    }
}
