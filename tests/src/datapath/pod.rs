//! One pod of a world: a namespace with addresses, a view, and stand-ins for proxy and resolver in the proxy's cgroup.
//! Keeps: the stand-ins listen before anybody is sent to them, and end with the pod. Called by builder and World.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::Context;
use kuma_dns::kernel::cgroup;
use kuma_dns::model::datapath::{Pod, ProxyIdentity};
use kuma_dns::model::view::ViewId;

use super::{Builder, CONNECT_TIMEOUT, World};
use crate::fork::{Job, Place};
use crate::netlink::Via;
use crate::netns::{Netns, UPLINK};
use crate::proxy::{self, Ports};
use crate::wait::wait_until;

/// How long a stand-in may take to listen.
const LISTEN_SECS: u64 = 20;

/// One pod of a world.
pub struct PodWorld {
    pub netns: Netns,
    pub view: ViewId,
    pub proxy_cgroup: PathBuf,
    pub ports: Ports,
    pub addr4: Ipv4Addr,
    pub addr6: Ipv6Addr,
    stand_ins: Option<Job<()>>,
    identity: ProxyIdentity,
    uid: Option<u32>,
}

impl PodWorld {
    /// Pod number `number` of a world; its stand-ins do not run yet.
    ///
    /// # Errors
    /// What this machine lacks.
    pub(super) fn new(builder: &Builder, number: u8, world: &World) -> anyhow::Result<Self> {
        let (addr4, addr6) = addresses(number, 2);
        let netns = Netns::new()?;
        netns.block_vips()?;
        let interface = if let Some(neighbour) = &world.neighbour {
            join(&netns, neighbour, number)?;
            UPLINK
        } else {
            "lo"
        };
        netns.add_addresses(interface, &[(addr4.into(), 24), (addr6.into(), 64)])?;
        if world.neighbour.is_some() {
            let (far4, far6) = addresses(number, 1);
            netns.add_route(Ipv4Addr::UNSPECIFIED.into(), 0, Via::Gateway(far4.into()))?;
            netns.add_route(Ipv6Addr::UNSPECIFIED.into(), 0, Via::Gateway(far6.into()))?;
        }
        let below = builder.proxies_below_workloads;
        let parent = if below { &world.config.workloads_cgroup } else { world.root.path() };
        let proxy_cgroup = parent.join(format!("proxy-{number}"));
        cgroup::ensure(&proxy_cgroup)?;
        let uid = builder.proxy_uid;
        let identity = uid.map_or_else(|| ProxyIdentity::Cgroup(proxy_cgroup.clone()), ProxyIdentity::Uid);
        let view = ViewId::of(&format!("view-{number}"));
        let ports = Ports::default();
        Ok(Self { netns, view, proxy_cgroup, ports, addr4, addr6, stand_ins: None, identity, uid })
    }

    /// Ends proxy and resolver.
    pub(super) fn stop_stand_ins(&mut self) {
        self.stand_ins = None;
    }

    /// Ends proxy and resolver, removes their cgroup, and starts them in a new one of the same name.
    pub(super) fn restart_stand_ins(&mut self) -> anyhow::Result<()> {
        self.stop_stand_ins();
        cgroup::remove(&self.proxy_cgroup)?;
        cgroup::ensure(&self.proxy_cgroup)?;
        self.start_stand_ins()
    }

    /// What the datapath is told of this pod.
    pub fn entry(&self) -> Pod {
        Pod {
            netns: self.netns.cookie(),
            view: self.view,
            proxy: self.identity.clone(),
            outbound_port: self.ports.outbound,
            dns_port: self.ports.dns,
            addr4: Some(self.addr4),
            addr6: Some(self.addr6),
        }
    }

    /// Starts proxy and resolver in the proxy's cgroup, and waits until they listen.
    pub(super) fn start_stand_ins(&mut self) -> anyhow::Result<()> {
        let (ports, uid) = (self.ports, self.uid);
        let place = Place { cgroup: &self.proxy_cgroup, netns: self.netns.as_fd() };
        let job = Job::start(&place, move || {
            if let Some(uid) = uid {
                nix::unistd::setuid(uid.into()).expect("root can become anybody");
            }
            proxy::serve(ports);
        })?;
        self.stand_ins = Some(job);
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            for port in [ports.outbound.get(), ports.dns.get()] {
                let listens = || {
                    self.netns.run(|| {
                        TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_TIMEOUT).is_ok()
                    })
                };
                wait_until(LISTEN_SECS, "the stand-ins listen", listens);
            }
        }
        Ok(())
    }
}

/// Host `host` of pod `number`'s networks: 2 is the pod, 1 its neighbour.
fn addresses(number: u8, host: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = Ipv6Addr::new(0xfd77, 0, 0, u16::from(number), 0, 0, 0, u16::from(host));
    (Ipv4Addr::new(10, 77, number, host), v6)
}

fn join(netns: &Netns, neighbour: &Netns, number: u8) -> anyhow::Result<()> {
    let far = format!("pod{number}");
    netns.join(neighbour, &far).context("cannot join a pod with its neighbour")?;
    let (far4, far6) = addresses(number, 1);
    neighbour.add_addresses(&far, &[(far4.into(), 24), (far6.into(), 64)])
}
