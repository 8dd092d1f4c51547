//! How a command ends: its exit code, and the one readable block that an error becomes.
//! Keeps: `error: …`, one cause a line, nothing twice, no Debug output. Called by every subcommand.

use std::process::ExitCode;

use super::logs::Format;
use super::table;

/// What a subcommand returns.
pub(super) type Outcome = Result<ExitCode, Failure>;

/// The documented exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Code {
    Failed = 1,
    BadInput = 2,
    NotReady = 3,
    NotSupported = 4,
    CannotRun = 126,
    NoSuchCommand = 127,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// An error and the exit code it ends the process with.
#[derive(Debug)]
pub(super) struct Failure {
    code: Code,
    error: anyhow::Error,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { code: Code::Failed, error }
    }
}

/// Gives an error its exit code: `check(&files).or_exit(Code::BadInput)?`.
pub(super) trait OrExit<T> {
    /// The error ends the process with `code`.
    fn or_exit(self, code: Code) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, code: Code) -> Result<T, Failure> {
        self.map_err(|error| Failure { code, error: error.into() })
    }
}

impl Failure {
    /// An error in words of our own.
    pub(super) fn new(code: Code, error: anyhow::Error) -> Self {
        Self { code, error }
    }

    /// The exit code it stands for.
    pub(super) fn code(&self) -> Code {
        self.code
    }

    /// What went wrong.
    pub(super) fn error(&self) -> &anyhow::Error {
        &self.error
    }

    /// Prints the error to stderr, as a block for people or as one event for log collectors, and gives the exit code.
    pub(super) fn report(&self, format: Format) -> ExitCode {
        match format {
            Format::Text => table::tell(&render(&self.error)),
            Format::Json => tracing::error!("{:#}", self.error),
        }
        self.code.into()
    }
}

/// Prints what clap has to say: help and version to stdout with code 0, a usage error to stderr with code 2.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    let code = if error.use_stderr() { Code::BadInput.into() } else { ExitCode::SUCCESS };
    // A closed pipe (`kuma-dns --help | head -1`) is no failure of ours.
    let _ = error.print();
    code
}

/// The error, then its causes, each on a line of its own; a cause that its parent already quotes is left out.
fn render(error: &anyhow::Error) -> String {
    let mut text = format!("\x1b[1;31merror:\x1b[0m {}\n", indented(&error.to_string()));
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if said.contains(&cause) {
            continue;
        }
        text.push_str(&format!("  because: {}\n", indented(&cause)));
        said.push_str(&cause);
    }
    text
}

/// Later lines stand below the first one's text.
fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn an_error_is_one_block_with_its_causes_and_nothing_twice() {
        let cause = std::io::Error::from_raw_os_error(2);
        let error = anyhow::Error::new(cause).context("cannot read mesh.yaml").context("cannot start");
        let text = anstream_free(&render(&error));
        assert_eq!(
            text,
            "error: cannot start\n  because: cannot read mesh.yaml\n  because: No such file or directory (os error 2)\n"
        );
        let quoted = anyhow!("disk is full").context("cannot write: disk is full");
        assert_eq!(anstream_free(&render(&quoted)), "error: cannot write: disk is full\n");
    }

    fn anstream_free(text: &str) -> String {
        text.replace("\x1b[1;31m", "").replace("\x1b[0m", "")
    }
}
