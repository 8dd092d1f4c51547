//! The contract between the BPF programs and user space: what lies in the maps, and who may write it.
//!
//! Reading order: [`addr`] (addresses and ports as both sides see them), [`abi`] (every map: key, value, capacity,
//! one writer and its readers; counters and their numbered reasons), [`verdict`] (the pure decisions).
//!
//! Rules of the ABI: `#[repr(C)]`; only `u8`..`u64` and arrays; padding is a field named `_pad` and always zero;
//! no `bool`, `enum`, `Option` or `usize` in a map. Whoever changes a layout here raises [`ABI_VERSION`], which is
//! part of the pin path: programs and maps of two versions never meet.
#![no_std]

pub mod abi;
pub mod addr;
pub mod verdict;

/// Version of everything in [`abi`]; pins lie under `…/v<ABI_VERSION>`.
pub const ABI_VERSION: u32 = 1;
