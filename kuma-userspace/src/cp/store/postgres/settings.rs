//! Which database, as whom and how: what `store.postgres` says.
//! Keeps: a password is never shown. Called by postgres; made by cp::configuration.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::model::view::Port;

/// Enforced by the server, so that a replica that was paused in the middle of a batch holds the others up no longer.
const IDLE_IN_TRANSACTION: &str = "2s";
/// Also enforced by the server.
const STATEMENT_TIMEOUT: &str = "30s";

/// Which database, and as whom. The defaults are Kuma's.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// A name, an address, or the directory of a Unix socket.
    pub host: String,
    pub port: Port,
    pub user: String,
    pub password: String,
    pub db_name: String,
    pub tls: Tls,
}

/// How the connection is protected.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tls {
    pub mode: TlsMode,
    /// Whom to trust; without it, the well-known authorities.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, for a server that asks for them.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// How much is checked; Kuma's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsMode {
    #[default]
    Disable,
    /// Encrypted, to whoever answers.
    VerifyNone,
    /// The certificate is from an authority that we trust.
    VerifyCa,
    /// And it is for this host.
    VerifyFull,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: Port::new(15432),
            user: "kuma".into(),
            password: "kuma".into(),
            db_name: "kuma".into(),
            tls: Tls::default(),
        }
    }
}

/// Where it is, without the password.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, user, db_name, .. } = self;
        write!(f, "database {db_name} at {host}:{port} as user {user}")
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}, {:?}", self.tls)
    }
}

impl Settings {
    /// The host, where it is a name that we look up. With `verifyFull` sqlx must have the name, to compare it with the
    /// certificate's, and looks it up itself.
    pub(super) fn name(&self) -> Option<&str> {
        let ours = !self.host.starts_with('/')
            && self.host.parse::<IpAddr>().is_err()
            && self.tls.mode != TlsMode::VerifyFull;
        ours.then_some(&*self.host)
    }

    /// How to connect, to an address of the host if its name was looked up.
    pub(super) fn options(&self, address: Option<IpAddr>) -> PgConnectOptions {
        let mode = match self.tls.mode {
            TlsMode::Disable => PgSslMode::Disable,
            TlsMode::VerifyNone => PgSslMode::Require,
            TlsMode::VerifyCa => PgSslMode::VerifyCa,
            TlsMode::VerifyFull => PgSslMode::VerifyFull,
        };
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&address.map_or_else(|| self.host.clone(), |address| address.to_string()))
            .port(self.port.get())
            .username(&self.user)
            .password(&self.password)
            .database(&self.db_name)
            .ssl_mode(mode)
            .application_name("kuma-dns")
            .options([
                ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
                ("statement_timeout", STATEMENT_TIMEOUT),
            ])
            .disable_statement_logging();
        if let Some(ca) = &self.tls.ca {
            options = options.ssl_root_cert(ca);
        }
        if let Some((certificate, key)) = &self.tls.certificate {
            options = options.ssl_client_cert(certificate).ssl_client_key(key);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_is_looked_up_and_not_where_the_certificate_must_have_it() {
        let name = |host: &str, mode| {
            let tls = Tls { mode, ..Tls::default() };
            let settings = Settings { host: host.into(), tls, ..Settings::default() };
            settings.name().map(str::to_owned)
        };
        assert_eq!(name("db.example", TlsMode::VerifyCa).as_deref(), Some("db.example"));
        assert_eq!(name("db.example", TlsMode::VerifyFull), None);
        for host in ["192.0.2.1", "2001:db8::1", "/run/postgresql"] {
            assert_eq!(name(host, TlsMode::Disable), None, "{host}");
        }
    }
}
