//! DNS servers. The resolver: mesh names from the zone, everything else from the nameservers of resolv.conf. The authority:
//! a whole domain from the zone, and nothing else.
//!
//! Reading order: [`question`] (what was asked), [`answer`] (how it is said), [`zone`] (what we know, in a [`table`]), [`server`] (the
//! threads and tasks on given sockets) with [`udp`] and [`tcp`], [`upstream`] (what others know) with [`attempts`] (whom to
//! ask next), [`legs`] (sockets towards them) and [`resolv_conf`] (who they are), [`counters`]. Apart from these: [`lookup`],
//! addresses for connections of our own.
//!
//! Keeps: an answer of ours never waits for the control plane or for a nameserver, and allocates nothing. The wire code
//! is our own; hickory-proto is the tests' second opinion. Called by agent, by cp (the authority) and by cli (lookup).

pub mod answer;
mod attempts;
pub mod counters;
mod legs;
pub mod lookup;
pub mod question;
pub mod resolv_conf;
pub mod server;
mod table;
mod tcp;
mod udp;
pub mod upstream;
pub mod zone;
