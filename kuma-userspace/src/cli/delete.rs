//! `kuma-dns delete`: removes resources at a control plane, by kind and name or by the files that they came from.

use std::path::PathBuf;

use anyhow::anyhow;

use super::client::{self, Flags, Given, IfAbsent, What, Work};
use super::outcome::{Code, Failure, Outcome};
use crate::model::kind::ResourceKey;
use crate::model::resource::DEFAULT_MESH;

/// Printed below `kuma-dns delete --help`.
const EXAMPLES: &str = "\
Examples:
  kuma-dns delete meshservice redis
  kuma-dns delete dataplane web-01 web-02 -m shop
  kuma-dns delete -f services/ --ignore-not-found

Its name stops resolving first, then its virtual IP refuses; the address rests
before another service gets it, and a service of the same name gets it back.

Exit codes: 0 deleted; 1 no such resource, refused, or failed; 2 bad usage or a
mistake in a file; 3 no control plane answers; 4 not allowed";

/// Removes resources at a control plane.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The kind of resource.
    #[arg(value_name = "KIND", value_parser = What::parse, required_unless_present = "files", requires = "names")]
    what: Option<What>,
    /// The names of the resources.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The mesh that they are in.
    #[arg(short, long, value_name = "MESH", default_value = DEFAULT_MESH)]
    mesh: String,
    /// Every resource of a file, a folder of files, or `-` for stdin; may be given several times.
    #[arg(short, long = "file", value_name = "FILE", conflicts_with_all = ["what", "mesh"])]
    files: Vec<PathBuf>,
    /// What is not there is well.
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    server: Flags,
}

pub(super) fn run(args: &Args) -> Outcome {
    let given = match args.what {
        None => client::read(&args.files)?,
        Some(What::Resources(kind)) => {
            let key = |name: &String| ResourceKey::new(kind, &args.mesh, name);
            args.names.iter().map(|name| Given::named(key(name))).collect()
        }
        Some(what) => return Err(Failure::new(Code::BadInput, follows(what))),
    };
    let if_absent = if args.ignore_not_found { IfAbsent::Ignore } else { IfAbsent::Fail };
    let client = args.server.client()?;
    client::block_on(client::each(&client, &given, Work::Delete(if_absent)))
}

/// Why this cannot be deleted by itself.
fn follows(what: What) -> anyhow::Error {
    anyhow!(
        "a {} follows from resources: delete its dataplanes, or the meshservice, externalservice or virtualoutbound that it \
         comes from",
        what.singular()
    )
}
