//! The domain: pure data and rules. No I/O, no async; time is an argument. Called by every other room.

pub mod datapath;
pub mod instance;
pub mod key;
pub mod kind;
pub mod name;
pub mod outbounds;
pub mod packed;
pub mod resource;
pub mod tags;
pub mod view;
