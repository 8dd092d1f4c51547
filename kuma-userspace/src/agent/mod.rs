//! The agent: views in, kernel and resolver in step with them.

pub mod apply;
pub mod enrol;
pub mod feed;
pub mod proxy;
pub mod resolver;
pub mod status;
