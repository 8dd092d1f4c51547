//! Are Envoy's ports free? Keeps: nothing listens while we look. Called by the supervisor before the first start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

use crate::model::view::Port;

/// A port of Envoy's that somebody else has.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot use {addr} for Envoy's {what}: end the process that has it or choose another port with {flag}"
)]
pub struct PortError {
    addr: SocketAddr,
    what: &'static str,
    flag: &'static str,
    source: std::io::Error,
}

pub(super) fn check(admin: Port, outbound: Port) -> Result<(), PortError> {
    free(Ipv4Addr::LOCALHOST.into(), admin, "admin interface", "--admin-port")?;
    free(Ipv4Addr::UNSPECIFIED.into(), outbound, "outbound listener", "--outbound-port")
}

fn free(ip: IpAddr, port: Port, what: &'static str, flag: &'static str) -> Result<(), PortError> {
    let addr = SocketAddr::new(ip, port.get());
    let bind = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        // Old connections in TIME_WAIT are no hindrance; a listener is.
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())
    };
    bind().map_err(|source| PortError { addr, what, flag, source })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_that_is_taken_is_named_with_the_flag_that_chooses_another() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = Port::new(taken.local_addr().unwrap().port());
        let error = free(Ipv4Addr::LOCALHOST.into(), port, "admin interface", "--admin-port")
            .unwrap_err()
            .to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--admin-port"), "{error}");
        drop(taken);
        free(Ipv4Addr::LOCALHOST.into(), port, "admin interface", "--admin-port").unwrap();
    }
}
