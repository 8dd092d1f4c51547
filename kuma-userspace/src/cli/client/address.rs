//! Where a control plane's REST server is, as people write it. Pure. Called by client (flags) and connect.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;

/// Kuma's port of the REST server.
const REST_PORT: u16 = 5681;

/// A server and, behind a proxy, the path below which it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::cli) struct Address {
    pub(super) https: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// Empty, or begins with a slash and ends without one.
    prefix: String,
}

impl Default for Address {
    fn default() -> Self {
        Self { https: false, host: "127.0.0.1".into(), port: REST_PORT, prefix: String::new() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| {
            format!("{text:?} is no address of a control plane: {why}, like http://127.0.0.1:5681")
        };
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = whole.parse().map_err(|_no_uri| refused("write a URL"))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(refused("use http or https")),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| refused("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(refused("a user has no place in it"));
        }
        if uri.query().is_some() {
            return Err(refused("a query has no place in it"));
        }
        let said = authority.as_str().rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        let port = match (said, authority.port_u16(), text.contains("://")) {
            (Some(_), Some(port @ 1..), _) => port,
            (Some(_), ..) => return Err(refused("a port is a number from 1 to 65535")),
            // A URL means what it means to a browser.
            (None, _, true) => [80, 443][usize::from(https)],
            (None, _, false) => REST_PORT,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { https, host, port, prefix })
    }
}

impl Address {
    /// `host:port`, as the Host header wants it.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The whole URL of a path (with its query) of the server.
    pub(super) fn at(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// The path of a link that the server gave: below the prefix, whatever host it names.
    pub(super) fn path_of(&self, link: &str) -> Option<String> {
        let uri: Uri = link.parse().ok()?;
        let path = uri.path_and_query()?.as_str();
        let own = path.strip_prefix(&self.prefix).unwrap_or(path);
        own.starts_with('/').then(|| own.to_owned())
    }

    /// Can nobody on the way read along: TLS, or no way at all?
    pub(super) fn is_private(&self) -> bool {
        let loopback = self.host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
        self.https || loopback || self.host == "localhost"
    }
}

/// A piece of a path: what could be read as more than a name is escaped.
pub(super) fn segment(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => escaped.push(char::from(byte)),
            b'.' if !name.trim_matches('.').is_empty() => escaped.push('.'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_people_write_it() {
        for (text, want) in [
            ("http://127.0.0.1:5681", "http://127.0.0.1:5681"),
            ("https://cp.example:5682/", "https://cp.example:5682"),
            ("https://cp.example", "https://cp.example:443"),
            ("http://cp.example/kuma/", "http://cp.example:80/kuma"),
            ("cp.example", "http://cp.example:5681"),
            ("10.0.0.1:80", "http://10.0.0.1:80"),
            ("http://[fd00::1]:5681", "http://[fd00::1]:5681"),
            ("[fd00::1]", "http://[fd00::1]:5681"),
        ] {
            assert_eq!(
                text.parse::<Address>().map(|address| address.to_string()),
                Ok(want.to_owned()),
                "{text}"
            );
        }
        for bad in [
            "",
            "ftp://x",
            "http://",
            "http://u:p@x",
            "http://x:0",
            "http://x:99999",
            "http://x?y",
            "a b",
            "x:y",
        ] {
            let refused = bad.parse::<Address>().unwrap_err();
            assert!(refused.contains("http://127.0.0.1:5681"), "{bad:?}: {refused}");
        }
    }

    #[test]
    fn links_of_the_server_stay_at_the_server() {
        let address: Address = "https://proxy.example/kuma".parse().unwrap();
        for link in ["http://10.0.0.1:5681/kuma/meshes?offset=2", "/kuma/meshes?offset=2", "/meshes?offset=2"]
        {
            assert_eq!(address.path_of(link).as_deref(), Some("/meshes?offset=2"), "{link}");
        }
        assert_eq!(address.path_of("no link"), None);
    }

    #[test]
    fn a_name_never_becomes_another_path() {
        for (name, want) in
            [("web-1.a_b", "web-1.a_b"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), ("ä?", "%C3%A4%3F")]
        {
            assert_eq!(segment(name), want);
        }
    }
}
