//! Guests with other kernels: where a kernel comes from, what the guest boots with, how it runs. Nothing of the machine
//! is changed: all of it lies under target/vm. Called by vmtest; setup uses the private apt tree.

pub(crate) mod initramfs;
pub(crate) mod kernel;
pub(crate) mod qemu;
pub(crate) mod tree;
