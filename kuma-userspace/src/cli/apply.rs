//! `kuma-dns apply`: creates or changes the resources of files at a control plane.

use std::path::PathBuf;
use std::process::ExitCode;

use super::client::{self, Flags, Work};
use super::outcome::Outcome;
use super::table;

/// Printed below `kuma-dns apply --help`.
const EXAMPLES: &str = "\
Examples:
  kuma-dns apply -f redis.yaml
  kuma-dns apply -f services/ -f external.yaml --dry-run
  kuma-dns get meshservice redis -o yaml | sed s/6379/6380/ | kuma-dns apply -f -
  kuma-dns apply -f mesh.yaml --address https://cp.example:5682 \\
      --ca-cert-file ca.pem --token-file token

Files are YAML or JSON with Kuma's resources in their Universal form, one or
several documents each. All of them are read and checked before the first is
sent; a mistake anywhere and nothing is. What the control plane refuses then is
listed with its fields, and everything else is applied.

Exit codes: 0 applied; 1 something was refused, or failed; 2 bad usage or a
mistake in a file; 3 no control plane answers; 4 not allowed";

/// Creates or changes resources at a control plane.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A file, a folder of files, or `-` for stdin; may be given several times.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Only read and check; nothing is sent.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    server: Flags,
}

pub(super) fn run(args: &Args) -> Outcome {
    let given = client::read(&args.files)?;
    if args.dry_run {
        let lines: Vec<String> =
            given.iter().map(|given| format!("{} is well (dry run)", given.shown())).collect();
        table::print(&lines.join("\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let client = args.server.client()?;
    client::block_on(client::each(&client, &given, Work::Put))
}
