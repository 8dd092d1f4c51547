//! Where a control plane is: a host, by address or by name, and a port. Pure: a name is looked up by whoever connects, each time
//! anew, so that it may move. Called by cli (parsing), agent::feed and the bootstrap.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::model::name::{Hostname, NameError};
use crate::model::view::Port;

/// The port of Kuma's data plane server.
const DEFAULT_PORT: Port = Port::new(5678);

/// A host and a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerAddress {
    pub host: Host,
    pub port: Port,
}

/// A host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    Ip(IpAddr),
    Name(Hostname),
}

/// Is what is said to a server encrypted?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    Plain,
    Tls,
}

/// A server as people write it: `https://cp.example:5678`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerUrl {
    pub scheme: Scheme,
    pub address: ServerAddress,
}

/// Why a text names no server.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    #[error("begin it with https://, or with http:// for a control plane that is plain: https://HOST:5678")]
    Scheme,
    #[error("{0:?} is no port: https://HOST:5678")]
    Port(String),
    #[error("it has more than a host and a port: https://HOST:5678")]
    Path,
    #[error("an IPv6 address stands in brackets: https://[2001:db8::1]:5678")]
    Brackets,
    #[error("{0}")]
    Host(#[from] NameError),
}

impl From<SocketAddr> for ServerAddress {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip()), port: Port::new(address.port()) }
    }
}

impl ServerAddress {
    /// Does what is sent there stay on this machine?
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(name) => name.as_str() == "localhost" || name.as_str().ends_with(".localhost"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(v6)) => write!(f, "[{v6}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl std::str::FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Scheme::Tls, rest),
            Some(("http", rest)) => (Scheme::Plain, rest),
            _ => return Err(UrlError::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(UrlError::Path);
        }
        let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
            let (ip, port) = rest.split_once(']').ok_or(UrlError::Brackets)?;
            let ip = ip.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6).ok_or(UrlError::Brackets)?;
            (Host::Ip(ip), port.strip_prefix(':').or(port.is_empty().then_some("")).ok_or(UrlError::Path)?)
        } else {
            let (host, port) = rest.split_once(':').unwrap_or((rest, ""));
            if port.contains(':') {
                return Err(UrlError::Brackets);
            }
            (host.parse().map(Host::Ip).or_else(|_no_ip| Hostname::parse(host).map(Host::Name))?, port)
        };
        let port = match port.parse() {
            Ok(number @ 1..) => Port::new(number),
            _ if port.is_empty() => DEFAULT_PORT,
            _ => return Err(UrlError::Port(port.to_owned())),
        };
        Ok(Self { scheme, address: ServerAddress { host, port } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_read_as_people_write_it() {
        for (text, scheme, address, loopback) in [
            ("https://cp.example:5679", Scheme::Tls, "cp.example:5679", false),
            ("https://CP.example/", Scheme::Tls, "cp.example:5678", false),
            ("http://127.0.0.1", Scheme::Plain, "127.0.0.1:5678", true),
            ("http://localhost:1", Scheme::Plain, "localhost:1", true),
            ("https://[2001:db8::1]:6000", Scheme::Tls, "[2001:db8::1]:6000", false),
            ("https://[::1]", Scheme::Tls, "[::1]:5678", true),
        ] {
            let url: ServerUrl = text.parse().unwrap();
            assert_eq!((url.scheme, url.address.to_string().as_str()), (scheme, address));
            assert_eq!(url.address.is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn what_names_no_server_is_refused_with_an_example() {
        for (text, want) in [
            ("cp.example:5678", "https://"),
            ("grpc://cp.example", "https://"),
            ("https://cp.example:0", "no port"),
            ("https://cp.example:x", "no port"),
            ("https://cp.example:5678/xds", "more than a host"),
            ("https://user@cp.example", "more than a host"),
            ("https://2001:db8::1", "brackets"),
            ("https://[cp.example]:1", "brackets"),
            ("https://:5678", "empty"),
            ("https://a b", "the character"),
        ] {
            let error = text.parse::<ServerUrl>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
