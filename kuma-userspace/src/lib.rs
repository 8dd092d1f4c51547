//! The user side of kuma-dns. Rooms in reading order:
//!
//! - [`model`]: the domain, pure data and rules; no I/O, no async, time is an argument.
//! - [`rt`]: process life: drain, readiness, supervised tasks.
//! - [`wire`]: bytes on the wires: xDS resources, the agent's socket.
//! - [`dns`]: the resolver: the zone (ours) and the upstreams (not ours).
//! - [`kernel`]: aya, bpffs and namespaces; the only room with `unsafe`; implements [`model::datapath::Datapath`].
//! - [`agent`]: views in, kernel maps and zone in step with them; enrolment; the proxy beside the workload.
//! - [`cp`]: services in, VIPs and names allocated and stored; xDS out.
//! - [`cli`]: the command line.
//!
//! Arrows go down only, and `agent` and `cp` never import each other: they meet on the wire. `cargo xtask tidy` checks.
#![deny(unsafe_code)]

pub mod agent;
pub mod cli;
pub mod cp;
pub mod dns;
pub mod kernel;
pub mod model;
pub mod rt;
pub mod wire;
