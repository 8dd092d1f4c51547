//! What the process says about itself while it runs: level, format, colour. Keeps: logs go to stderr, colour only to a
//! terminal and never against NO_COLOR. Called by cli once, before the subcommand.

use std::io::IsTerminal;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::outcome::{Code, Failure, OrExit};

/// Flags that say how to log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs and colour")]
pub(super) struct Logs {
    /// error, warn, info, debug, trace or off; or per module: `info,kuma_dns::dns=trace` [default: info for `up` and `control-plane`, else warn].
    #[arg(long, global = true, value_name = "LEVEL|FILTERS", env = "KUMA_DNS_LOG")]
    log: Option<String>,
    /// `json` prints one object a line, for log collectors.
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: Format,
    /// `auto` colours a terminal unless NO_COLOR is set.
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    color: Color,
}

/// How a log line looks.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Format {
    #[default]
    Text,
    Json,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

impl Logs {
    /// The format that was asked for.
    pub(super) fn format(&self) -> Format {
        self.log_format
    }

    /// Holds for everything that is printed through anstream.
    pub(super) fn choose_color(&self) {
        match self.color {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }

    /// Starts the subscriber; `level` is what was not said otherwise.
    pub(super) fn start(&self, level: LevelFilter) -> Result<(), Failure> {
        let said = self.log.clone().unwrap_or_else(|| level.to_string());
        let filter = Targets::from_str(&said)
            .map_err(|error| {
                anyhow::anyhow!(
                    "--log {:?}: {error}; for example `debug` or `info,kuma_dns::dns=trace`",
                    said
                )
            })
            .or_exit(Code::BadInput)?;
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
        let registry = tracing_subscriber::registry().with(filter);
        match self.log_format {
            Format::Text => registry.with(layer.with_ansi(self.colored())).init(),
            Format::Json => registry.with(layer.json().flatten_event(true)).init(),
        }
        Ok(())
    }

    fn colored(&self) -> bool {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => std::io::stderr().is_terminal() && !no_color,
        }
    }
}
