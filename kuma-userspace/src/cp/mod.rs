//! The control plane: services in, VIPs and names allocated and stored, xDS out.

pub mod snapshot;
pub mod xds;
