//! The pure decisions of the datapath. Filled by the datapath work; see architecture.
