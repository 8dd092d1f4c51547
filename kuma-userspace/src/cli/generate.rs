//! `kuma-dns generate`: tokens, by the control plane or offline with a signing key from a file; and such keys. Kuma's flags.
//! Keeps: a token or key goes to stdout and nowhere else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{self, Flags};
use super::outcome::{Code, Failure, OrExit, Outcome};
use super::{duration, table};
use crate::cp::tokens::{
    ADMIN, ADMIN_SECRET, DataplaneIdentity, OfflineKey, UserIdentity, public_key_pem, signing_key_pem,
};

/// Printed below `kuma-dns generate --help`.
const EXAMPLES: &str = "\
Examples:
  kuma-dns generate dataplane-token --mesh default --valid-for 720h > token
  kuma-dns generate admin-token > admin.token
  kuma-dns generate user-token --name ops --group mesh-system:admin --valid-for 8h \\
      --address https://cp.example:5682 --ca-cert-file ca.pem --token-file admin.token

A control plane signs them with keys of its own, for who asks on its machine or
shows an admin's token. Without a control plane, with a key from a file:
  kuma-dns generate signing-key > key.pem
  kuma-dns generate public-key --signing-key-path key.pem > key.pub
  kuma-dns generate dataplane-token --mesh default --valid-for 720h \\
      --signing-key-path key.pem --kid laptop > token

Control planes believe such a key once it stands in their configuration:
  dpServer: {authn: {dpProxy: {dpToken: {validator: {publicKeys:
    [{mesh: default, kid: laptop, keyFile: key.pub}]}}}}}

Exit codes: 0 printed; 1 failed; 2 bad input; 3 no control plane answers;
4 not allowed";

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
    /// Only for the proxy of this name: a node id `NAME` or `MESH.NAME`, or an agent, whose name is that of
    /// `kuma-dns agent --name`, and with `up` that of `--instance`.
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,
    /// Only for a Dataplane whose tag has one of these values; may be given several times.
    #[arg(long = "tag", value_name = "TAG=VALUE[,VALUE]", value_parser = tag)]
    tags: Vec<(String, Vec<String>)>,
    /// How long it is believed: 24h, 90m, 30s.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    valid_for: Duration,
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
    /// How long it is believed: 24h, 90m, 30s.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    valid_for: Duration,
    #[command(flatten)]
    signing: Signing,
}

#[derive(clap::Args, Debug)]
struct AdminArgs {
    /// How long it is believed: 24h, 90m, 30s. [default: the control plane's own token for its administrator]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    valid_for: Option<Duration>,
    #[command(flatten)]
    signing: Signing,
}

#[derive(clap::Args, Debug)]
struct PublicKeyArgs {
    /// The private key, as PEM.
    #[arg(long, value_name = "FILE")]
    signing_key_path: PathBuf,
}

/// Who signs it: a control plane, unless there is a key.
#[derive(clap::Args, Debug)]
struct Signing {
    /// Sign with this private key (PEM) instead of asking a control plane.
    #[arg(long, value_name = "FILE", requires_all = ["kid", "valid_for"])]
    signing_key_path: Option<PathBuf>,
    /// The name under which control planes have the public part of the key.
    #[arg(long, value_name = "NAME", requires = "signing_key_path")]
    kid: Option<String>,
    #[command(flatten)]
    server: Flags,
}

pub(super) fn run(args: Args) -> Outcome {
    let text = match args.what {
        What::DataplaneToken(args) => dataplane_token(args)?,
        What::UserToken(UserArgs { name, groups, valid_for, signing }) => {
            user_token(UserIdentity { name, groups }, valid_for, &signing)?
        }
        What::AdminToken(AdminArgs { valid_for: Some(valid_for), signing }) => {
            let identity = UserIdentity { name: ADMIN.into(), groups: vec![ADMIN.into()] };
            user_token(identity, valid_for, &signing)?
        }
        What::AdminToken(AdminArgs { valid_for: None, signing }) => {
            let client = signing.server.client()?;
            client::block_on(async { Ok(client.global_secret(ADMIN_SECRET).await?) })?
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

fn dataplane_token(args: DataplaneArgs) -> Result<String, Failure> {
    let DataplaneArgs { mesh, name, tags: given, valid_for, signing } = args;
    let mut tags = BTreeMap::<String, Vec<String>>::new();
    for (tag, values) in given {
        tags.entry(tag).or_default().extend(values);
    }
    if let Some(key) = signing.key()? {
        let identity = DataplaneIdentity { mesh, name, tags };
        return Ok(key.dataplane(identity, valid_for.as_secs()).context("no token")?);
    }
    let request = json!({
        "type": "dataplane", "mesh": mesh, "name": name, "tags": tags, "validFor": go_duration(valid_for),
    });
    signing.ask("/tokens/dataplane", &request)
}

fn user_token(identity: UserIdentity, valid_for: Duration, signing: &Signing) -> Result<String, Failure> {
    if let Some(key) = signing.key()? {
        return Ok(key.user(identity, valid_for.as_secs()).context("no token")?);
    }
    let UserIdentity { name, groups } = identity;
    let request = json!({"name": name, "groups": groups, "validFor": go_duration(valid_for)});
    signing.ask("/tokens/user", &request)
}

impl Signing {
    /// The key from a file, if there is one.
    fn key(&self) -> Result<Option<OfflineKey>, Failure> {
        let Some(file) = &self.signing_key_path else { return Ok(None) };
        let kid = self.kid.as_deref().unwrap_or_default();
        let key = OfflineKey::parse(kid, &read(file)?).with_context(|| unusable(file));
        key.or_exit(Code::BadInput).map(Some)
    }

    /// Asks the control plane.
    fn ask(&self, path: &str, request: &Value) -> Result<String, Failure> {
        let client = self.server.client()?;
        client::block_on(async { Ok(client.post(path, request.to_string().into()).await?) })
    }
}

/// As Kuma reads it.
fn go_duration(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
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
