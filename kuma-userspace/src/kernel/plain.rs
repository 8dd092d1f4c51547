//! Values of the ABI as aya's maps take them. Keeps: `unsafe` of the ABI's user side is this one file: the contract crate has
//! none. Called by maps and status.
#![expect(unsafe_code, reason = "aya asks for a promise that a type is plain bytes")]

use aya::Pod;
use kuma_ebpf_common::abi::{PodEntry, Ranges, RevEntry, TupleEntry, TupleKey, VipKey};

/// A key or value of the ABI, byte for byte as it lies in the map.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Plain<T>(pub(super) T);

/// SAFETY of each: #[repr(C)] of integers and arrays only, no hidden padding (the size asserts beside the types in `abi` count
/// every byte of every field), any bit pattern is a value.
macro_rules! plain {
    ($($abi:ty),+ $(,)?) => {
        $(
            // SAFETY: see above; `Plain` is #[repr(transparent)].
            unsafe impl Pod for Plain<$abi> {}
        )+
    };
}

plain!(PodEntry, Ranges, VipKey, RevEntry, TupleKey, TupleEntry);
