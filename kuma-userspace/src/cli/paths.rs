//! Where an instance keeps its things, as flags that every subcommand understands. Called by every subcommand.

use std::path::PathBuf;

use clap::Args;

use crate::model::instance::Instance;

/// Flags that name the instance and its places.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Where things are")]
pub(super) struct Paths {
    /// Keeps sockets, pins, cgroups and state of several instances on one machine apart.
    #[arg(long, global = true, value_name = "NAME", env = "KUMA_DNS_INSTANCE", default_value_t)]
    pub instance: Instance,
    /// State that outlives a restart: which name has which VIP.
    #[arg(long = "data", global = true, value_name = "DIR", default_value = "/var/lib/kuma-dns")]
    pub data_dir: PathBuf,
    /// The agent's socket lies in DIR/kuma-dns/INSTANCE/agent.sock.
    #[arg(long, global = true, value_name = "DIR", default_value = "/run")]
    pub run_dir: PathBuf,
    /// The BPF file system that programs, links and maps are pinned in; mounted when it is not there.
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
}

impl Paths {
    /// The agent's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.instance.socket(&self.run_dir)
    }
}
