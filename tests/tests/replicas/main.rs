//! Replicas on a real PostgreSQL: compare-and-swap, fencing, and leaders that are killed, paused and cut off while services
//! come and go.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod api;
mod clients;
mod documents;
mod faults;
mod fleet;
mod observer;
mod records;

/// Lease (5 s), heartbeat (1 s), and what a busy machine needs.
const FAILOVER_SECS: u64 = 60;
