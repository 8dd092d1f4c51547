//! The nameservers of a resolv.conf(5), and when the file has changed.
//! Keeps: a broken or missing file is said in words and never ends the resolver. Called by server.

use std::fs::Metadata;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the file is looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A resolv.conf is a few lines; a file beyond this is something else.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Where nameservers listen.
const DNS_PORT: u16 = 53;

/// What a resolv.conf says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ResolvConf {
    /// In the order of the file, each once. resolv.conf(5) takes three; we take all.
    pub nameservers: Vec<SocketAddr>,
    /// Lines that name no address: their number and text.
    pub unreadable: Vec<(usize, String)>,
}

/// Why the file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ResolvConfError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has {bytes} bytes, a resolv.conf has at most {MAX_FILE_BYTES}", path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
}

/// Parses the text; `scope` gives the number of an interface (`fe80::1%eth0`).
pub fn parse(text: &str, scope: impl Fn(&str) -> Option<u32>) -> ResolvConf {
    let mut parsed = ResolvConf::default();
    for (index, line) in text.lines().enumerate() {
        let mut words = line.split_ascii_whitespace();
        // The keyword begins its line; so a comment or an indented line is none (resolv.conf(5)).
        if !line.starts_with("nameserver") || words.next() != Some("nameserver") {
            continue;
        }
        match words.next().and_then(|address| nameserver(address, &scope)) {
            Some(server) if parsed.nameservers.contains(&server) => {}
            Some(server) => parsed.nameservers.push(server),
            None => parsed.unreadable.push((index + 1, line.into())),
        }
    }
    parsed
}

fn nameserver(text: &str, scope: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((address, zone)) = text.split_once('%') else {
        let ip = match text.parse::<IpAddr>().ok()? {
            // connect(2) takes "any address" for this host; say so, that our own listener can be recognised.
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip.to_canonical(),
        };
        return Some(SocketAddr::new(ip, DNS_PORT));
    };
    let scope_id = zone.parse().ok().or_else(|| scope(zone))?;
    Some(SocketAddrV6::new(address.parse().ok()?, DNS_PORT, 0, scope_id).into())
}

/// A file that is read again when it has changed: written, replaced, or a symlink turned elsewhere.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    seen: Option<Stamp>,
    read_once: bool,
}

/// What tells one content from another without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Watched {
    /// Nothing is read yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: None, read_once: false }
    }

    /// Which file this is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content, if it is another one than at the last call. A missing file is reported once.
    pub fn look(&mut self) -> Option<Result<ResolvConf, ResolvConfError>> {
        let metadata = std::fs::metadata(&self.path);
        let stamp = metadata.as_ref().ok().map(Stamp::of);
        if self.read_once && stamp == self.seen {
            return None;
        }
        (self.seen, self.read_once) = (stamp, true);
        Some(match metadata {
            Ok(metadata) if metadata.len() > MAX_FILE_BYTES => {
                Err(ResolvConfError::TooLarge { path: self.path.clone(), bytes: metadata.len() })
            }
            Ok(_) => self.read(),
            Err(source) => Err(ResolvConfError::Read { path: self.path.clone(), source }),
        })
    }

    fn read(&self) -> Result<ResolvConf, ResolvConfError> {
        let octets = std::fs::read(&self.path)
            .map_err(|source| ResolvConfError::Read { path: self.path.clone(), source })?;
        let number = |interface: &str| nix::net::if_::if_nametoindex(interface).ok();
        Ok(parse(&String::from_utf8_lossy(&octets), number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(text: &str) -> Vec<String> {
        let scope = |name: &str| (name == "eth0").then_some(7);
        parse(text, scope).nameservers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nameservers_come_in_the_order_of_the_file_each_once() {
        let text = "# nameserver 9.9.9.9\n; nameserver 9.9.9.9\nsearch example.com\nnameserver 10.0.0.1\n\
                    nameserver\t10.0.0.2 # trailing\noptions ndots:5\nnameserver 10.0.0.1\nnameserver 127.0.0.53\n\
                    nameserver 2001:db8::1\r\n nameserver 9.9.9.9\nnameservers 9.9.9.9\n";
        assert_eq!(servers(text), ["10.0.0.1:53", "10.0.0.2:53", "127.0.0.53:53", "[2001:db8::1]:53"]);
    }

    #[test]
    fn more_than_three_are_taken_and_scopes_become_numbers() {
        let text = "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver fe80::1%eth0\n\
                    nameserver fe80::1%3\n";
        assert_eq!(servers(text).len(), 5);
        assert_eq!(servers(text)[3..], ["[fe80::1%7]:53", "[fe80::1%3]:53"]);
    }

    #[test]
    fn a_line_without_an_address_is_told_by_number() {
        let parsed = parse("nameserver\nnameserver dns.example\nnameserver fe80::1%nope\n", |_| None);
        assert!(parsed.nameservers.is_empty());
        assert_eq!(parsed.unreadable.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn any_address_and_mapped_addresses_mean_what_connect_means() {
        assert_eq!(servers("nameserver 0.0.0.0\nnameserver ::\n"), ["127.0.0.1:53", "[::1]:53"]);
        assert_eq!(servers("nameserver ::ffff:10.0.0.1\n"), ["10.0.0.1:53"]);
    }

    #[test]
    fn a_file_is_read_again_only_when_it_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let mut watched = Watched::new(path.clone());
        assert!(matches!(watched.look(), Some(Err(ResolvConfError::Read { .. }))));
        assert!(watched.look().is_none(), "a missing file is told once");
        std::fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(watched.look().unwrap().unwrap().nameservers.len(), 1);
        assert!(watched.look().is_none());
        std::fs::write(dir.path().join("new"), "nameserver 10.0.0.2\n").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(watched.look().unwrap().unwrap().nameservers[0].to_string(), "10.0.0.2:53");
    }
}
