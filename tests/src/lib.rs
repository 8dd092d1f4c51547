//! The harness: worlds made of network namespaces, cgroups and real processes.

pub mod backend;
pub mod binaries;
pub mod mesh;
pub mod process;
pub mod sim;
pub mod wait;
pub mod xds;
