//! What aya's typed maps ask for: that every ABI type is plain bytes. Keeps: only types without padding that is not a
//! field (size asserts in `abi`). Compiled for user space only.
#![expect(unsafe_code, reason = "Pod is aya's promise that a type is plain bytes")]

use crate::abi::{
    AcceptedEntry, OrigEntry, PodEntry, Ranges, RevEntry, SlotsEntry, TupleEntry, TupleKey, VipKey,
};

macro_rules! pod {
    ($($name:ty)+) => {$(
        // SAFETY: `#[repr(C)]`, integers and arrays of them only, every byte belongs to a field.
        unsafe impl aya::Pod for $name {}
    )+};
}

pod! { PodEntry Ranges VipKey RevEntry OrigEntry SlotsEntry TupleKey TupleEntry AcceptedEntry }
