//! Bytes on the wires, and their conversion from and to the model.

pub mod local;
