//! The harness: worlds made of network namespaces, cgroups and real processes.
