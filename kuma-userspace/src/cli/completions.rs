//! `kuma-dns completions`: prints a completion script for a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use super::outcome::Outcome;
use super::table;

/// Prints a shell's completion script.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kuma-dns completions bash > /usr/share/bash-completion/completions/kuma-dns
  kuma-dns completions zsh > /usr/share/zsh/site-functions/_kuma-dns
  kuma-dns completions fish > ~/.config/fish/completions/kuma-dns.fish")]
pub(super) struct Args {
    /// Which shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kuma-dns", &mut script);
    table::print(&String::from_utf8_lossy(&script));
    Ok(std::process::ExitCode::SUCCESS)
}
