//! The few rtnetlink requests that test worlds need, without the `ip` command: test guests have none.
//! Keeps: every request is acknowledged, so that an error is seen. Called by netns.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::SocketFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket_with};

/// NETLINK_ROUTE is protocol 0.
const NETLINK_ROUTE: Option<rustix::net::Protocol> = None;
/// rtnetlink(7), uapi/linux/{netlink,rtnetlink,if_link}.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// No duplicate address detection: the address is usable at once.
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const IFF_UP: u32 = 1;

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// Nowhere: connect() fails with EHOSTUNREACH.
    Unreachable,
    /// Out of the interface with this index.
    Interface(u32),
    /// To this neighbour.
    Gateway(IpAddr),
}

/// Brings an interface up.
pub fn link_up(index: u32) -> io::Result<()> {
    let mut message = Message::new(RTM_NEWLINK, 0);
    message.interface(index, IFF_UP);
    message.send()
}

/// Takes an interface down: its routes go, and whoever sends is told so.
pub fn link_down(index: u32) -> io::Result<()> {
    let mut message = Message::new(RTM_NEWLINK, 0);
    message.bytes.extend([0; 4]);
    for word in [index, 0, IFF_UP] {
        message.bytes.extend(word.to_ne_bytes());
    }
    message.send()
}

/// Creates the interface `name` here and its peer `far_name` in the other namespace.
pub fn add_veth(name: &str, peer: &impl AsFd, far_name: &str) -> io::Result<()> {
    let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE);
    message.interface(0, 0);
    message.text(IFLA_IFNAME, name);
    message.nested(IFLA_LINKINFO, |info| {
        info.attribute(IFLA_INFO_KIND, b"veth");
        info.nested(IFLA_INFO_DATA, |data| {
            data.nested(VETH_INFO_PEER, |far| {
                far.interface(0, 0);
                far.text(IFLA_IFNAME, far_name);
                far.attribute(IFLA_NET_NS_FD, &peer.as_fd().as_raw_fd().to_ne_bytes());
            });
        });
    });
    message.send()
}

/// Gives an interface an address.
pub fn add_address(index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE);
    message.bytes.extend([family(address), prefix, IFA_F_NODAD, 0]);
    message.bytes.extend(index.to_ne_bytes());
    let octets = octets(address);
    message.attribute(IFA_LOCAL, &octets);
    message.attribute(IFA_ADDRESS, &octets);
    message.send()
}

/// Adds a route.
pub fn add_route(destination: IpAddr, prefix: u8, via: Via) -> io::Result<()> {
    let kind = if via == Via::Unreachable { RTN_UNREACHABLE } else { RTN_UNICAST };
    let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE);
    message.bytes.extend([family(destination), prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, kind]);
    message.bytes.extend([0; 4]);
    if prefix != 0 {
        message.attribute(RTA_DST, &octets(destination));
    }
    match via {
        Via::Unreachable => {}
        Via::Interface(index) => message.attribute(RTA_OIF, &index.to_ne_bytes()),
        Via::Gateway(gateway) => message.attribute(RTA_GATEWAY, &octets(gateway)),
    }
    message.send()
}

fn family(ip: IpAddr) -> u8 {
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    u8::try_from(family.as_raw()).expect("AF_INET and AF_INET6 are small")
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// `struct nlmsghdr`; the length is filled in when it is known.
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        Self { bytes }
    }

    /// `struct ifinfomsg`
    fn interface(&mut self, index: u32, flags: u32) {
        self.bytes.extend([0; 4]);
        for word in [index, flags, flags] {
            self.bytes.extend(word.to_ne_bytes());
        }
    }

    fn text(&mut self, kind: u16, text: &str) {
        let with_zero: Vec<u8> = text.bytes().chain([0]).collect();
        self.attribute(kind, &with_zero);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |message| message.bytes.extend(value));
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        fill(self);
        let len = u16::try_from(self.bytes.len() - start).expect("requests are small");
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn send(mut self) -> io::Result<()> {
        let len = u32::try_from(self.bytes.len()).expect("requests are small");
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        let socket: OwnedFd =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, NETLINK_ROUTE)?;
        send(&socket, &self.bytes, SendFlags::empty())?;
        let mut answer = [0_u8; 1024];
        let (filled, _whole) = recv(&socket, &mut answer, RecvFlags::empty())?;
        let answer = &answer[..filled];
        let field =
            |at: usize| answer.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
        let is_error = answer.get(4..6) == Some(&NLMSG_ERROR.to_ne_bytes());
        match (is_error, field(16)) {
            (true, 0) => Ok(()),
            (true, errno) => Err(io::Error::from_raw_os_error(-errno)),
            (false, _) => Err(io::Error::other("netlink answered something else than an acknowledgement")),
        }
    }
}
