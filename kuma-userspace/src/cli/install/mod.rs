//! `kuma-dns install`: what a cluster needs to know of us, printed for inspection. Nothing is changed anywhere.

mod dns;

use clap::Subcommand;

use super::outcome::Outcome;

/// Prints what a cluster needs to know of the control plane.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl -n kube-system get configmap coredns -o yaml | \\
      kuma-dns install dns -f - --address 10.96.0.20 | kubectl replace -f -

Exit codes: 0 printed, 2 bad input")]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Dns(dns::Args),
}

pub(super) fn run(args: Args) -> Outcome {
    match args.what {
        What::Dns(args) => dns::run(args),
    }
}
