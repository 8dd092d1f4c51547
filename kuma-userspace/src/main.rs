//! The one binary of kuma-dns: hands the command line to `cli` and turns its outcome into an exit code.

fn main() -> std::process::ExitCode {
    kuma_dns::cli::main()
}
