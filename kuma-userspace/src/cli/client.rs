//! What `get`, `apply`, `delete`, `generate` and `status --address` have in common: which control plane, with which rights, and how it is
//! spoken to over REST. In reading order: [`address`], [`connect`], [`http`], [`refusal`] (what the server says when it does
//! not do it), [`kinds`], [`list`], [`follow`] with [`events`], [`columns`] and [`document`] (what is printed); [`input`],
//! [`batch`] with [`progress`].
//! Keeps: every question has a deadline; an error names the address and the next step.

mod address;
mod batch;
mod columns;
mod connect;
mod document;
mod events;
mod follow;
mod http;
mod input;
mod kinds;
mod list;
mod progress;
mod refusal;

use std::path::PathBuf;

use anyhow::{Context, anyhow};

use super::outcome::{Code, Failure, OrExit};

pub(super) use self::address::Address;
pub(super) use self::batch::{IfAbsent, Work, each};
pub(super) use self::columns::Table;
pub(super) use self::document::{print_yaml, yaml};
pub(super) use self::follow::{Change, Follow};
pub(super) use self::http::Client;
pub(super) use self::input::{Given, read};
pub(super) use self::kinds::{Scope, What};
pub(super) use self::list::{Item, all, one};

/// Longest token that is read.
const MAX_TOKEN_BYTES: usize = 64 << 10;

/// Flags that name the control plane.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Which control plane")]
pub(super) struct Flags {
    /// The control plane's REST server: `http://HOST:PORT` or `https://HOST:PORT`.
    #[arg(long, value_name = "URL", env = "KUMA_DNS_ADDRESS", default_value_t)]
    address: Address,
    #[command(flatten)]
    rights: Rights,
}

impl Flags {
    /// Reads the files and makes a client; nothing is connected yet.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.rights.client(&self.address)
    }
}

/// Flags that say who asks, and whom to believe.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Which control plane")]
pub(super) struct Rights {
    /// A file with the token that says who asks; needed to change something from another machine.
    #[arg(long, value_name = "FILE", env = "KUMA_DNS_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) that an https server must be signed by, instead of those that the system trusts.
    #[arg(long, value_name = "FILE", env = "KUMA_DNS_CA_CERT_FILE")]
    ca_cert_file: Option<PathBuf>,
}

impl Rights {
    /// Reads the files and makes a client of this server; nothing is connected yet.
    pub(super) fn client(&self, address: &Address) -> Result<Client, Failure> {
        let token = self.token().or_exit(Code::BadInput)?;
        let trust = connect::trust(address, self.ca_cert_file.as_deref()).or_exit(Code::BadInput)?;
        if token.is_some() && !address.is_private() {
            tracing::warn!("the token goes to {address} without encryption: use https");
        }
        Ok(Client::new(address.clone(), token, trust))
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(file) = &self.token_file else { return Ok(None) };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read --token-file {}", file.display()))?;
        let token = text.trim();
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(anyhow!(
                "--token-file {} holds no token: one word without spaces is expected",
                file.display()
            ));
        }
        Ok(Some(token.to_owned()))
    }
}

/// Runs a conversation on this thread.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(work)
}

/// Why a resource of this name cannot be shown or removed.
pub(super) fn absent(what: What, scope: &Scope, name: &str, client: &Client) -> anyhow::Error {
    let (word, address) = (what.singular(), client.address());
    match scope {
        Scope::Mesh(mesh) if !what.is_global() => {
            anyhow!("no {word} {name:?} in mesh {mesh:?} at {address}: name another mesh with -m")
        }
        _ => anyhow!("no {word} {name:?} at {address}"),
    }
}
