//! Replicas on a real PostgreSQL: compare-and-swap, fencing, and leaders that are killed, paused and cut off while services
//! come and go. The database's own log of every change is judged in the end, not what the replicas say of themselves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod documents;
mod faults;
mod records;

/// Lease (5 s), heartbeat (1 s), and what a busy machine needs.
const FAILOVER_SECS: u64 = 40;
