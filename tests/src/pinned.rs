//! The datapath's VIPs as anybody with the right can read them: one key at a time, in the pinned map. Called by the benchmark of
//! the control plane.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use kuma_dns::model::instance::Instance;
use kuma_dns::model::view::ViewId;
use kuma_ebpf_common::ABI_VERSION;
use kuma_ebpf_common::abi::{VipKey, map};
use kuma_ebpf_common::addr::Port;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_OBJ_GET: libc::c_long = 7;
const IPPROTO_TCP: u8 = 6;

/// The map of an instance's VIPs.
pub struct PinnedVips {
    map: OwnedFd,
    view: ViewId,
}

impl PinnedVips {
    /// Opens the map where an agent of this instance has pinned it; VIPs are those of a view.
    ///
    /// # Errors
    /// It is not there, or we are not root.
    pub fn open(instance: &str, view: &str) -> anyhow::Result<Self> {
        let instance: Instance = instance.parse()?;
        let pins = instance.pins(Path::new("/sys/fs/bpf")).join(format!("v{ABI_VERSION}/maps"));
        let path = pins.join(map::VIPS);
        let text = CString::new(path.as_os_str().as_bytes()).context("a path without zeros")?;
        let pointer = text.as_ptr() as u64;
        let fd = bpf(BPF_OBJ_GET, &mut [pointer, 0]).with_context(|| format!("no map {}", path.display()))?;
        // SAFETY: a new descriptor that nobody else owns.
        let map = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { map, view: ViewId::of(view) })
    }

    /// Is this VIP redirected?
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn has(&self, vip: SocketAddr) -> io::Result<bool> {
        let (view, port) = (self.view.get(), Port::new(vip.port()));
        let key = VipKey { addr: vip.ip().into(), view, port, protocol: IPPROTO_TCP, _pad: 0 };
        let mut value = 0_u32;
        let map = u64::try_from(self.map.as_raw_fd()).expect("a descriptor is not negative");
        let mut attr = [map, &raw const key as u64, &raw mut value as u64, 0];
        match bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn bpf<const N: usize>(command: libc::c_long, attr: &mut [u64; N]) -> io::Result<i32> {
    // SAFETY: `attr` is live and its size is passed along; the pointers in it outlive the call and are to values of the
    // sizes that the map has (the ABI's, which `ABI_VERSION` in the path stands for).
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret as i32) }
}
