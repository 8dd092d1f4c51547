//! The BPF programs of kuma-dns: one object for 5.10 and newer. Thin wrappers; each hook reads its context, looks up,
//! lets `kuma_ebpf_common::verdict` decide, writes the context and counts. Loaded by kuma-userspace's kernel room.
//!
//! | program | hook | file | what it does |
//! |---|---|---|---|
//! | connect4, connect6 | connect() | connect | a VIP goes to the proxy, port 53 to the resolver |
//! | getpeername4, getpeername6 | getpeername() | connect | shows the VIP or nameserver that was asked for |
//! | getsockname4, getsockname6 | getsockname() | connect | shows the workload's address in place of loopback |
//! | sendmsg4, sendmsg6 | sendto() of UDP | datagram | port 53 goes to the resolver, one port per nameserver |
//! | recvmsg4, recvmsg6 | recvfrom() of UDP | datagram | shows the nameserver that was asked |
//! | sock_ops | TCP's states | original | carries an IPv6 VIP from the client's SYN to the accepted socket |
//! | getsockopt | getsockopt() of the proxy | original | answers SO_ORIGINAL_DST |
//! | bind6 (optional) | bind() of the proxy | original | kernels that hide an accepted socket's namespace |
//! | whoami (optional) | connect() of the agent | original | kernels without SO_NETNS_COOKIE |
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    not(target_arch = "bpf"),
    expect(dead_code, reason = "the programs exist for the BPF target only")
)]

mod connect;
mod ctx;
mod datagram;
mod log;
mod maps;
mod original;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::{cgroup_sock_addr, cgroup_sockopt, sock_ops};
    use aya_ebpf::programs::{SockAddrContext, SockOpsContext, SockoptContext};

    use crate::ctx::{Family, SockAddr, SockOps, Sockopt};
    use crate::{connect, datagram, original};

    macro_rules! sock_addr {
        ($($hook:ident $program:ident $family:ident $body:path;)+) => {$(
            #[cgroup_sock_addr($hook)]
            fn $program(ctx: SockAddrContext) -> i32 {
                $body(SockAddr::new(ctx.sock_addr, Family::$family))
            }
        )+};
    }

    sock_addr! {
        connect4 connect4 V4 connect::connect;
        connect6 connect6 V6 connect::connect;
        getpeername4 getpeername4 V4 connect::getpeername;
        getpeername6 getpeername6 V6 connect::getpeername;
        getsockname4 getsockname4 V4 connect::getsockname;
        getsockname6 getsockname6 V6 connect::getsockname;
        sendmsg4 sendmsg4 V4 datagram::sendmsg;
        sendmsg6 sendmsg6 V6 datagram::sendmsg;
        recvmsg4 recvmsg4 V4 datagram::recvmsg;
        recvmsg6 recvmsg6 V6 datagram::recvmsg;
        bind6 bind6 V6 original::bind;
        connect4 whoami V4 original::whoami;
    }

    #[sock_ops]
    fn sock_ops(ctx: SockOpsContext) -> u32 {
        original::sockops(SockOps::new(ctx.ops));
        1
    }

    #[cgroup_sockopt(getsockopt)]
    fn getsockopt(ctx: SockoptContext) -> i32 {
        original::getsockopt(Sockopt::new(ctx.sockopt))
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
