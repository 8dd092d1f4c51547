//! `kuma-dns get`: what a control plane has, as a table, JSON or YAML; once, or followed.

use std::io::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use clap::ValueEnum;
use serde_json::json;

use super::client::{self, Change, Client, Flags, Follow, Item, Scope, Table, What};
use super::outcome::{Code, Failure, Outcome};
use super::table;
use crate::model::resource::DEFAULT_MESH;

/// Printed below `kuma-dns get --help`.
const EXAMPLES: &str = "\
Examples:
  kuma-dns get services
  kuma-dns get vips -A -w
  kuma-dns get meshservice redis -m shop -o yaml
  kuma-dns get dataplanes -o json | jq -r '.items[].networking.address'
  kuma-dns get external-services --address https://cp.example:5682 --ca-cert-file ca.pem

Kinds, in singular or plural, with dashes or without:
  services, vips                 what has a virtual IP, and where it leads
  meshes, dataplanes, zoneingresses, externalservices, virtualoutbounds,
  meshservices, meshexternalservices, meshmultizoneservices,
  hostnamegenerators             Kuma's resources

With -w the whole list comes first, then every change until Ctrl-C; a lost
connection is made again. JSON is then one object a line: {\"event\", \"item\"}.

Exit codes: 0 printed; 1 no such resource, or failed; 2 bad usage; 3 no control
plane answers; 4 not allowed";

/// Shows what a control plane has: services, virtual IPs, resources.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// What to show: `services`, `vips`, or a kind of resource.
    #[arg(value_name = "KIND", value_parser = What::parse)]
    what: What,
    /// Only the one of this name.
    name: Option<String>,
    /// The mesh to look into.
    #[arg(short, long, value_name = "MESH", default_value = DEFAULT_MESH)]
    mesh: String,
    /// All meshes.
    #[arg(short = 'A', long, conflicts_with = "mesh")]
    all_meshes: bool,
    /// `table` for people; `json` as the server sends it; `yaml` as `apply -f` takes it.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Output,
    /// Go on with every change.
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    server: Flags,
}

/// How to print.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Output {
    #[default]
    Table,
    Json,
    Yaml,
}

/// What is asked for.
struct Asked {
    what: What,
    scope: Scope,
    name: Option<String>,
    output: Output,
}

pub(super) fn run(args: Args) -> Outcome {
    let Args { what, name, mesh, all_meshes, output, watch, server } = args;
    let scope = if all_meshes { Scope::All } else { Scope::Mesh(mesh) };
    if all_meshes && name.is_some() && !watch && !what.is_global() {
        let wrong = anyhow!("a name is of one mesh: say which with -m instead of -A");
        return Err(Failure::new(Code::BadInput, wrong));
    }
    let client = server.client()?;
    let asked = Asked { what, scope, name, output };
    client::block_on(async {
        match (watch, &asked.name) {
            (true, _) => follow(&client, &asked).await,
            (false, Some(name)) => one(&client, &asked, name).await,
            (false, None) => list(&client, &asked).await,
        }
    })
}

async fn one(client: &Client, asked: &Asked, name: &str) -> Outcome {
    let Some(item) = client::one(client, asked.what, &asked.scope, name).await? else {
        return Err(client::absent(asked.what, &asked.scope, name, client).into());
    };
    match asked.output {
        Output::Table => table::print(&Table::new(asked.what, &[], now_secs()).whole(&[], &[item])),
        Output::Json => table::print_json(&item.0)?,
        Output::Yaml => client::print_yaml(&[item])?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, asked: &Asked) -> Outcome {
    let items = client::all(client, asked.what, &asked.scope).await?;
    match asked.output {
        Output::Table if items.is_empty() => table::tell(&nothing(asked, client)),
        Output::Table => table::print(&Table::new(asked.what, &[], now_secs()).whole(&[], &items)),
        Output::Json => {
            let total = items.len();
            let items: Vec<_> = items.into_iter().map(|item| item.0).collect();
            table::print_json(&json!({ "total": total, "items": items, "next": null }))?;
        }
        Output::Yaml => client::print_yaml(&items)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn nothing(asked: &Asked, client: &Client) -> String {
    let word = asked.what.singular();
    match &asked.scope {
        Scope::Mesh(mesh) if !asked.what.is_global() => {
            format!("no {word} in mesh {mesh:?} at {}; -A shows all meshes", client.address())
        }
        _ => format!("no {word} at {}", client.address()),
    }
}

/// Until the reader of stdout goes away or a signal comes.
async fn follow(client: &Client, asked: &Asked) -> Outcome {
    let mut printer = Printer { output: asked.output, table: Table::new(asked.what, &["EVENT"], now_secs()) };
    let mut follow = Follow::new(client, asked.what, &asked.scope, asked.name.clone());
    loop {
        let printed = match follow.next().await? {
            Change::Whole(items) => printer.whole(&items)?,
            Change::Added(item) => printer.change("ADDED", &item)?,
            Change::Modified(item) => printer.change("MODIFIED", &item)?,
            Change::Deleted(item) => printer.change("DELETED", &item)?,
            Change::Lost(why) => {
                table::tell(&format!("kuma-dns: {why}: trying again"));
                continue;
            }
            Change::Back => {
                table::tell(&format!("kuma-dns: {} is there again", client.address()));
                continue;
            }
        };
        if write!(anstream::stdout(), "{printed}").is_err() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// What changes look like.
struct Printer {
    output: Output,
    table: Table,
}

impl Printer {
    fn whole(&mut self, items: &[Item]) -> anyhow::Result<String> {
        if self.output == Output::Table {
            self.table.at(now_secs());
            return Ok(self.table.whole(&["ADDED"], items));
        }
        items.iter().map(|item| self.change("ADDED", item)).collect()
    }

    fn change(&mut self, event: &str, item: &Item) -> anyhow::Result<String> {
        let object = || json!({ "event": event, "item": item.0 });
        Ok(match self.output {
            Output::Table => {
                self.table.at(now_secs());
                self.table.line(&[event], item)
            }
            Output::Json => format!("{}\n", object()),
            Output::Yaml => format!("---\n{}", client::yaml(&object())?),
        })
    }
}

/// Seconds of the Unix epoch.
fn now_secs() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}
