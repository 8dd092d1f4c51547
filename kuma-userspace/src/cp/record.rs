//! What is remembered of one service: the VIPs it holds and those it held before. One small record per service.
//! Keeps: plain data, no rule. Made by allocator, kept by store.

use std::net::IpAddr;

use crate::model::resource::ServiceKey;
use crate::model::view::Addresses;

/// A service and its VIPs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub service: ServiceKey,
    /// Of the stored record; 0: never stored. Every commit raises it by one.
    pub version: u64,
    /// What the service's names resolve to now.
    pub held: Addresses,
    /// What it held before and nobody else has had since.
    pub resting: Vec<Resting>,
}

/// A freed address, in seconds of the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resting {
    pub address: IpAddr,
    pub since_secs: u64,
    /// From then on another service may have it.
    pub until_secs: u64,
}

impl Record {
    /// A service that never had a VIP.
    pub fn new(service: ServiceKey) -> Self {
        Self { service, version: 0, held: Addresses::default(), resting: Vec::new() }
    }

    /// Is there nothing to remember?
    pub fn is_empty(&self) -> bool {
        self.held == Addresses::default() && self.resting.is_empty()
    }
}
