//! Connects to a control plane: by address, or by a name that is looked up each time anew. Keeps: every address of a name is
//! tried, each with a deadline; over TLS only a server with a certificate for that host is talked to. Called by feed.

use std::net::SocketAddr;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::dns::lookup::{LookupError, lookup};
use crate::wire::access::Trust;
use crate::wire::address::{Host, ServerAddress};

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// A control plane that does not answer a ping within [`PING_LIMIT`] is gone, and is dialled again.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("cannot find the control plane {server}")]
    Lookup { server: ServerAddress, source: LookupError },
    #[error("cannot connect to the control plane at {at}")]
    Connect { at: SocketAddr, source: tonic::transport::Error },
}

/// Connects to the first address that answers; the error is the last one's.
pub(super) async fn dial(server: &ServerAddress, trust: Option<&Trust>) -> Result<Channel, DialError> {
    let addresses = match &server.host {
        Host::Ip(ip) => vec![*ip],
        Host::Name(name) => lookup(name.as_str())
            .await
            .map_err(|source| DialError::Lookup { server: server.clone(), source })?,
    };
    let mut failed = None;
    for ip in addresses {
        let at = SocketAddr::new(ip, server.port.get());
        match connect(at, &server.host, trust).await {
            Ok(channel) => return Ok(channel),
            Err(source) => failed = Some(DialError::Connect { at, source }),
        }
    }
    Err(failed.expect("a host has at least one address: lookup checks"))
}

async fn connect(
    at: SocketAddr,
    host: &Host,
    trust: Option<&Trust>,
) -> Result<Channel, tonic::transport::Error> {
    let scheme = if trust.is_some() { "https" } else { "http" };
    let mut endpoint =
        Endpoint::from_shared(format!("{scheme}://{at}")).expect("a socket address makes a valid URL");
    if let Some(trust) = trust {
        let authority = Certificate::from_pem(trust.as_pem());
        endpoint = endpoint
            .tls_config(ClientTlsConfig::new().ca_certificate(authority).domain_name(host.to_string()))?;
    }
    endpoint
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_LIMIT)
        .keep_alive_while_idle(true)
        .connect()
        .await
}
