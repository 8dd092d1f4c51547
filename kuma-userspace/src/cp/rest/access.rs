//! Who may write. Reading needs nothing, as in Kuma. An admin is who shows an admin's token, or who asks from this machine,
//! unless that was switched off.
//! Keeps: a web page in a browser of this machine is nobody: neither from another site, nor under a name that it made
//! point here (DNS rebinding), nor through a proxy. Called by rest::write and rest::routes.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};

use super::asked::Asked;
use super::problem::Problem;

/// Kuma's names.
const ADMIN: &str = "mesh-system:admin";
const AUTHENTICATED: &str = "mesh-system:authenticated";
const ANONYMOUS: &str = "mesh-system:anonymous";
const UNAUTHENTICATED: &str = "mesh-system:unauthenticated";
/// Headers that proxies add: the peer is not who asks.
const FORWARDED: [&str; 3] = ["forwarded", "x-forwarded-for", "x-real-ip"];

/// Somebody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    fn named(name: &str, group: &str) -> Self {
        let mut groups = vec![group.to_owned()];
        if name == ADMIN {
            groups.insert(0, name.to_owned());
        }
        Self { name: name.to_owned(), groups }
    }

    fn is_admin(&self) -> bool {
        self.name == ADMIN || self.groups.iter().any(|group| group == ADMIN)
    }
}

/// Knows whose a token is; in words why it is nobody's.
pub type Identify = Arc<dyn Fn(&str) -> Result<User, String> + Send + Sync>;

/// The rules.
#[derive(Clone, Default)]
pub struct Access {
    /// Kuma's `apiServer.authn.localhostIsAdmin`.
    pub localhost_is_admin: bool,
    /// Without, no token is anybody's.
    pub identify: Option<Identify>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.identify.is_some();
        f.debug_struct("Access")
            .field("localhost_is_admin", &self.localhost_is_admin)
            .field("tokens", &tokens)
            .finish()
    }
}

impl Access {
    /// Who asks.
    pub(super) fn who(&self, asked: &Asked) -> Result<User, Problem> {
        if let Some(given) = asked.headers.get(AUTHORIZATION) {
            let token = given.to_str().ok().and_then(|text| text.split_once(' '));
            let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
                return Err(Problem::unauthorized("write the header as `Authorization: Bearer TOKEN`"));
            };
            let Some(identify) = &self.identify else {
                return Err(Problem::unauthorized("this control plane takes no tokens"));
            };
            return identify(token.trim()).map_err(Problem::unauthorized);
        }
        Ok(match self.refuse_local(asked) {
            None => User::named(ADMIN, AUTHENTICATED),
            Some(_) => User::named(ANONYMOUS, UNAUTHENTICATED),
        })
    }

    /// Refuses everybody but an admin.
    pub(super) fn admin(&self, asked: &Asked) -> Result<User, Problem> {
        let user = self.who(asked)?;
        if user.is_admin() {
            return Ok(user);
        }
        if asked.headers.contains_key(AUTHORIZATION) {
            return Err(Problem::forbidden(format!("user {:?} is not in the group {ADMIN}", user.name)));
        }
        let why = self.refuse_local(asked).unwrap_or_default();
        Err(Problem::unauthorized(format!("{why}: send an admin's token as `Authorization: Bearer TOKEN`")))
    }

    /// Why a request without a token is not from an admin of this machine; nothing if it is.
    fn refuse_local(&self, asked: &Asked) -> Option<String> {
        let remote = asked.peer.remote.ip().to_canonical();
        if !self.localhost_is_admin {
            return Some("apiServer.authn.localhostIsAdmin is false".into());
        }
        if !remote.is_loopback() {
            return Some(format!("{remote} is another machine"));
        }
        if let Some(header) = FORWARDED.into_iter().find(|header| asked.headers.contains_key(*header)) {
            return Some(format!("the request came through a proxy ({header})"));
        }
        let host = asked.header(HOST).unwrap_or_default();
        if !is_local(without_port(host)) {
            return Some(format!(
                "Host is {host:?}, which need not be this machine: ask for 127.0.0.1 or localhost"
            ));
        }
        if asked.header("sec-fetch-site") == Some("cross-site") {
            return Some("the request comes from another site's page".into());
        }
        match asked.headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default()) {
            Some(origin) if !is_same(origin, host) => {
                Some(format!("the request comes from another origin ({origin})"))
            }
            _ => None,
        }
    }
}

/// A name or address of loopback as it is written.
fn is_local(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || literal.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Is this the origin of a page that this server gave out itself?
fn is_same(origin: &str, host: &str) -> bool {
    let of = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    of.is_some_and(|of| of.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderName, HeaderValue};
    use axum::response::IntoResponse;

    use super::*;
    use crate::cp::rest::asked::{Names, Peer};

    fn asked(remote: &str, headers: &[(&str, &str)]) -> Asked {
        let header = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        let (remote, local) = (remote.parse().unwrap(), "127.0.0.1:5681".parse().unwrap());
        Asked {
            peer: Peer { remote, local, scheme: "http" },
            names: Names::default(),
            query: Vec::new(),
            uri: "/".parse().unwrap(),
            headers: headers.iter().map(header).collect::<HeaderMap>(),
        }
    }

    fn rules() -> Access {
        let identify: Identify = Arc::new(|token| match token {
            "root" => Ok(User { name: "ops".into(), groups: vec![ADMIN.into()] }),
            "guest" => Ok(User { name: "guest".into(), groups: Vec::new() }),
            _ => Err("nobody has this token".into()),
        });
        Access { localhost_is_admin: true, identify: Some(identify) }
    }

    #[test]
    fn who_asks_from_this_machine_is_admin_and_a_browsers_page_is_not() {
        let (here, there) = ("127.0.0.1:40000", "192.0.2.1:40000");
        let host = ("host", "localhost:5681");
        for (remote, headers, status) in [
            (here, &[host][..], 200),
            ("[::1]:1", &[("host", "[::1]:5681")], 200),
            ("[::ffff:127.0.0.1]:1", &[("host", "127.0.0.1:5681")], 200),
            (here, &[host, ("origin", "http://localhost:5681")], 200),
            (here, &[host, ("sec-fetch-site", "same-origin")], 200),
            (there, &[host], 401),
            (here, &[("host", "evil.example:5681")], 401),
            (here, &[], 401),
            (here, &[("host", "127.0.0.1.evil.example")], 401),
            (here, &[host, ("origin", "http://evil.example")], 401),
            (here, &[host, ("origin", "http://localhost:8080")], 401),
            (here, &[host, ("origin", "null")], 401),
            (here, &[host, ("sec-fetch-site", "cross-site")], 401),
            (here, &[host, ("x-forwarded-for", "192.0.2.1")], 401),
            (there, &[host, ("authorization", "Bearer root")], 200),
            (there, &[host, ("authorization", "bearer root")], 200),
            (there, &[host, ("authorization", "Bearer guest")], 403),
            (here, &[host, ("authorization", "Bearer guest")], 403),
            (here, &[host, ("authorization", "Bearer else")], 401),
            (here, &[host, ("authorization", "Basic root")], 401),
        ] {
            let found = rules().admin(&asked(remote, headers));
            let found = found.map_or_else(|problem| problem.into_response().status().as_u16(), |_admin| 200);
            assert_eq!(found, status, "{remote} {headers:?}");
        }
    }

    #[test]
    fn without_the_switch_only_a_token_helps() {
        let rules = Access { localhost_is_admin: false, ..rules() };
        let host = ("host", "localhost");
        assert!(rules.admin(&asked("127.0.0.1:1", &[host])).is_err());
        assert!(rules.admin(&asked("127.0.0.1:1", &[host, ("authorization", "Bearer root")])).is_ok());
        let nobody = rules.who(&asked("127.0.0.1:1", &[host])).unwrap();
        assert_eq!(
            (nobody.name.as_str(), nobody.groups.as_slice()),
            (ANONYMOUS, &[UNAUTHENTICATED.to_owned()][..])
        );
    }
}
