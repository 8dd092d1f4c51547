//! Bytes on the wires, and their conversion from and to the model. Keeps: no other room encodes a resource.
//!
//! - [`resource`]: one xDS resource as it is sent: name, version (a hash of its content), encoded body.
//! - [`local`]: the language of the agent's socket.
//! - [`access`]: what a client shows and trusts when it connects.
//! - [`address`]: where a control plane is.
//! - [`node`]: how a client of the xDS server introduces itself.
//! - [`view`]: the mesh view as a resource type of our own, for agents.
//! - [`envoy`]: listeners, clusters, endpoints and the bootstrap, for Envoy.

pub mod access;
pub mod address;
pub mod envoy;
pub mod local;
pub mod node;
pub mod resource;
pub mod view;
