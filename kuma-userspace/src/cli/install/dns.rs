//! `kuma-dns install dns`: prints the ConfigMap of CoreDNS or kube-dns with the mesh domain forwarded to the control plane.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};

use crate::cli::outcome::{Code, Failure, OrExit, Outcome};
use crate::cp::install::{self, Forward, Patched};
use crate::model::name::Hostname;
use crate::model::view::Port;

/// A list of all ConfigMaps of a namespace fits; a ConfigMap has at most 1 MiB.
const MAX_INPUT_BYTES: u64 = 16 << 20;

/// Printed below `kuma-dns install dns --help`.
const EXAMPLES: &str = "\
Examples:
  kubectl -n kube-system get configmap coredns -o yaml > coredns.yaml
  kuma-dns install dns -f coredns.yaml --address 10.96.0.20 > patched.yaml
  diff coredns.yaml patched.yaml
  kubectl replace -f patched.yaml

The address is the ClusterIP of the control plane's Service:
  kubectl -n kuma-system get service kuma-control-plane -o jsonpath={.spec.clusterIP}

CoreDNS gets a server block for the domain at the end of its Corefile, kube-dns
an entry in its stubDomains, and coredns-custom (AKS) a key kuma-dns.server.
Everything else stays as it is. A block of `kumactl install dns` is taken over.
Patching twice changes nothing more.

Exit codes: 0 printed, 1 cannot be read or written, 2 bad input";

/// Prints the ConfigMap of CoreDNS or kube-dns with the mesh domain forwarded to the control plane's DNS server.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The ConfigMap as YAML or JSON, alone or in a list; `-` reads it from stdin.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Where the cluster reaches the control plane's DNS server: an IP address, since CoreDNS takes no names here.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// The port of the control plane's DNS server there.
    #[arg(long, value_name = "PORT", default_value = "5653", value_parser = crate::cli::port)]
    port: Port,
    /// The domain of mesh names, `dnsServer.domain` of the control plane.
    #[arg(long, value_name = "NAME", default_value = "mesh")]
    domain: String,
    /// The namespace of the control plane's Service.
    #[arg(long, value_name = "NAME", default_value = "kuma-system")]
    namespace: String,
    /// The name of the control plane's Service.
    #[arg(long, value_name = "NAME", default_value = "kuma-control-plane")]
    name: String,
}

pub(super) fn run(args: Args) -> Outcome {
    let file = args.file.clone();
    let forward = args.forward()?;
    let (shown, text) = if file == Path::new("-") {
        (PathBuf::from("stdin"), read(io::stdin().lock()).context("cannot read stdin")?)
    } else {
        let opened = File::open(&file).with_context(|| format!("cannot read {}", file.display()));
        (
            file.clone(),
            opened
                .and_then(|open| read(open).with_context(|| format!("cannot read {}", file.display())))
                .or_exit(Code::BadInput)?,
        )
    };
    let patched = install::patch(&shown, &text, &forward).or_exit(Code::BadInput)?;
    io::stdout().write_all(patched.text.as_bytes()).context("cannot write to stdout")?;
    anstream::eprint!("{}", story(&patched, &forward));
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn forward(self) -> Result<Forward, Failure> {
        let Self { address, port, domain, namespace, name, .. } = self;
        let address = address
            .ok_or_else(|| {
                anyhow!(
                    "--address is missing: give the ClusterIP of the control plane's Service, \
                     `kubectl -n {namespace} get service {name} -o jsonpath={{.spec.clusterIP}}` prints it"
                )
            })
            .or_exit(Code::BadInput)?;
        let domain = Hostname::parse(&domain).context("--domain is no domain").or_exit(Code::BadInput)?;
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            let wrong = anyhow!(
                "--address {address} is not reachable from other pods: give the ClusterIP of the Service"
            );
            return Err(Failure::new(Code::BadInput, wrong));
        }
        for (flag, word) in [("--namespace", &namespace), ("--name", &name)] {
            if word.is_empty()
                || !word
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
            {
                let wrong = anyhow!(
                    "{flag} {word:?} is no name of Kubernetes: use lower-case letters, digits, '-' and '.'"
                );
                return Err(Failure::new(Code::BadInput, wrong));
            }
        }
        let service = format!("{name} in {namespace}");
        Ok(Forward { domain, to: SocketAddr::new(address, port.get()), service })
    }
}

fn read(from: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(MAX_INPUT_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_INPUT_BYTES {
        return Err(anyhow!("it is larger than {MAX_INPUT_BYTES} bytes: give only the ConfigMap"));
    }
    Ok(text)
}

/// What was done, for a person: stdout has the ConfigMap.
fn story(patched: &Patched, forward: &Forward) -> String {
    let line = |target: &install::Target| {
        let done = if target.changed { "now forwards" } else { "forwards already" };
        format!("ConfigMap {}: {} {done} {} to {}\n", target.name, target.key, forward.domain, forward.to)
    };
    patched.configmaps.iter().map(line).collect()
}
