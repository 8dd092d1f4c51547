//! What commands print: tables for people and JSON for programs on stdout, what is told beside on stderr. Keeps: a reader
//! that goes away early (`| head`) is no failure. Called by every subcommand.

use std::io::Write;

use anyhow::Context;
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// How to print.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum OutputFormat {
    #[default]
    Table,
    Json,
}

/// A table without lines, as wide as its content.
pub(super) fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

/// Prints text with its colours, if stdout is to have any.
pub(super) fn print(text: &str) {
    // Only a closed pipe can refuse this, and then nobody reads.
    let _ = writeln!(anstream::stdout(), "{}", text.trim_end());
}

/// Tells a person something on stderr; nobody there to read it is no failure either.
pub(super) fn tell(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", text.trim_end());
}

/// Prints one JSON document.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot write this as JSON")?;
    print(&text);
    Ok(())
}
