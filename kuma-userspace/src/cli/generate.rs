//! `kuma-dns generate`: tokens, by the control plane or offline with a signing key from a file; and such keys. Kuma's flags.
//! Keeps: a token or key goes to stdout and nowhere else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Subcommand;

use super::outcome::{Code, Failure, OrExit, Outcome};
use super::{duration, table};
use crate::cp::tokens::{
    ADMIN, DataplaneIdentity, OfflineKey, UserIdentity, public_key_pem, signing_key_pem,
};

/// Printed below `kuma-dns generate --help`.
const EXAMPLES: &str = "\
Examples:
  kuma-dns generate signing-key > key.pem
  kuma-dns generate public-key --signing-key-path key.pem > key.pub
  kuma-dns generate dataplane-token --mesh default --valid-for 720h \\
      --signing-key-path key.pem --kid laptop > web-1.token
  kuma-dns generate admin-token --signing-key-path key.pem --kid laptop --valid-for 8h

A control plane believes a key from a file once it stands in its configuration:
  dpServer: {authn: {dpProxy: {dpToken: {validator: {publicKeys:
    [{mesh: default, kid: laptop, keyFile: key.pub}]}}}}}

Exit codes: 0 printed, 1 failed, 2 bad input";

/// Makes tokens, and keys that sign tokens.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// A token for a data plane proxy or agent of a mesh.
    #[command(after_help = EXAMPLES)]
    DataplaneToken(DataplaneArgs),
    /// A token for a user of the REST API.
    #[command(after_help = EXAMPLES)]
    UserToken(UserArgs),
    /// A token for whoever administers: it may write.
    #[command(after_help = EXAMPLES)]
    AdminToken(AdminArgs),
    /// A private key that signs tokens, as PEM.
    #[command(after_help = EXAMPLES)]
    SigningKey,
    /// The public part of a signing key, as PEM: for the configuration of control planes.
    #[command(after_help = EXAMPLES)]
    PublicKey(PublicKeyArgs),
}

#[derive(clap::Args, Debug)]
struct DataplaneArgs {
    /// The mesh whose names and VIPs it may have.
    #[arg(long, value_name = "NAME", default_value = "default")]
    mesh: String,
    /// Only for the proxy of this name: a node id `NAME`, `MESH.NAME`, or an agent with `--instance NAME`.
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,
    /// Only for a Dataplane whose tag has one of these values; may be given several times.
    #[arg(long = "tag", value_name = "TAG=VALUE[,VALUE]", value_parser = tag)]
    tags: Vec<(String, Vec<String>)>,
    #[command(flatten)]
    signing: Signing,
}

#[derive(clap::Args, Debug)]
struct UserArgs {
    /// Who it is.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// What the user belongs to; may be given several times. `mesh-system:admin` may write.
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    #[command(flatten)]
    signing: Signing,
}

#[derive(clap::Args, Debug)]
struct AdminArgs {
    #[command(flatten)]
    signing: Signing,
}

#[derive(clap::Args, Debug)]
struct PublicKeyArgs {
    /// The private key, as PEM.
    #[arg(long, value_name = "FILE")]
    signing_key_path: PathBuf,
}

/// How long, and with which key.
#[derive(clap::Args, Debug)]
struct Signing {
    /// How long it is believed: 24h, 90m, 30s.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    valid_for: Duration,
    /// Sign with this private key (PEM) instead of asking a control plane.
    #[arg(long, value_name = "FILE", requires = "kid")]
    signing_key_path: PathBuf,
    /// The name under which control planes have the public part of the key.
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
}

pub(super) fn run(args: Args) -> Outcome {
    let text = match args.what {
        What::DataplaneToken(DataplaneArgs { mesh, name, tags, signing }) => {
            let mut of = BTreeMap::<String, Vec<String>>::new();
            for (tag, values) in tags {
                of.entry(tag).or_default().extend(values);
            }
            let identity = DataplaneIdentity { mesh, name, tags: of };
            signing.key()?.dataplane(identity, signing.secs()).context("no token")?
        }
        What::UserToken(UserArgs { name, groups, signing }) => {
            let identity = UserIdentity { name, groups };
            signing.key()?.user(identity, signing.secs()).context("no token")?
        }
        What::AdminToken(AdminArgs { signing }) => {
            let identity = UserIdentity { name: ADMIN.into(), groups: vec![ADMIN.into()] };
            signing.key()?.user(identity, signing.secs()).context("no token")?
        }
        What::SigningKey => signing_key_pem().context("no key")?,
        What::PublicKey(PublicKeyArgs { signing_key_path: file }) => {
            let private = read(&file)?;
            public_key_pem(&private).with_context(|| unusable(&file)).or_exit(Code::BadInput)?
        }
    };
    table::print(&format!("{}\n", text.trim_end()));
    Ok(ExitCode::SUCCESS)
}

impl Signing {
    fn key(&self) -> Result<OfflineKey, Failure> {
        let (file, kid) = (&self.signing_key_path, self.kid.as_deref().unwrap_or_default());
        OfflineKey::parse(kid, &read(file)?).with_context(|| unusable(file)).or_exit(Code::BadInput)
    }

    fn secs(&self) -> u64 {
        self.valid_for.as_secs()
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {}", file.display()))
        .or_exit(Code::BadInput)
}

fn unusable(file: &Path) -> String {
    format!("{} cannot be used", file.display())
}

/// `kuma.io/service=web,api`
fn tag(text: &str) -> Result<(String, Vec<String>), anyhow::Error> {
    let (tag, values) = text
        .split_once('=')
        .filter(|(tag, values)| !tag.is_empty() && !values.is_empty())
        .ok_or_else(|| anyhow!("write it like kuma.io/service=web"))?;
    Ok((tag.to_owned(), values.split(',').map(str::to_owned).collect()))
}
