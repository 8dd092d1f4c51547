//! The harness: worlds made of network namespaces, cgroups and real processes.

pub mod audit;
pub mod backend;
pub mod binaries;
pub mod cgroup;
pub mod datapath;
pub mod documents;
pub mod foreign;
pub mod fork;
pub mod history;
pub mod http;
pub mod live;
pub mod mesh;
pub mod nameserver;
pub mod netlink;
pub mod netns;
pub mod plain;
pub mod plane;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod resolver;
pub mod sim;
pub mod upstream;
pub mod wait;
pub mod world;
pub mod xds;
