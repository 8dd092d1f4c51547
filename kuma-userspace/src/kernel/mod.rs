//! Placeholder of the room; replaced by its owner.
pub mod process;
