//! The command line teaches, keeps its exit codes and prints what programs can read. Through the binary, without a kernel.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::process::{Command, Output};

use harness::binaries;

const SUBCOMMANDS: [&str; 11] = [
    "up",
    "control-plane",
    "exec",
    "status",
    "vips",
    "get",
    "apply",
    "delete",
    "cleanup",
    "install",
    "completions",
];

/// Runs the binary for an instance that nobody else uses, with its places in a folder of its own.
fn run(args: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let instance = format!("cli-{}", std::process::id());
    let mut command = Command::new(binaries::kuma_dns().unwrap());
    command.env("KUMA_DNS_INSTANCE", instance).args(args);
    if !args.is_empty() {
        command.arg("--run-dir").arg(folder.path()).arg("--data").arg(folder.path().join("data"));
    }
    command.output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_of_every_subcommand_shows_examples_and_exit_codes() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    for part in SUBCOMMANDS.into_iter().chain(["Exit codes:", "KUMA_DNS_INSTANCE", "/var/lib/kuma-dns"]) {
        assert!(out(&help).contains(part), "{part:?} is missing in:\n{}", out(&help));
    }
    for subcommand in SUBCOMMANDS {
        let help = run(&[subcommand, "--help"]);
        assert!(help.status.success(), "{}", err(&help));
        assert!(out(&help).contains("Examples:"), "{subcommand} shows no example:\n{}", out(&help));
        assert!(!out(&help).contains('\x1b'), "no colour into a pipe");
    }
}

#[test]
fn a_wrong_flag_is_code_2_and_suggests_the_right_one() {
    let output = run(&["up", "--fil", "mesh.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("--file"), "{}", err(&output));
    assert_eq!(run(&[]).status.code(), Some(2), "no subcommand");
    for args in [
        &["exec"][..],
        &["up", "-f", "x.yaml", "--dns-port", "0"],
        &["up", "-f", "x.yaml", "--dns-port", "70000"],
        &["exec", "--wait", "soon", "--", "true"],
        &["status", "-o", "yaml"],
        &["install"],
        &["install", "dns"],
        &["status", "--instance", "../etc"],
        &["status", "--log", "nonsense=nonsense"],
        &["completions", "tcsh"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
        assert!(err(&output).starts_with("error: "), "{args:?}: {}", err(&output));
    }
}

#[test]
fn without_an_agent_the_commands_say_so_with_code_3() {
    for args in [&["status"][..], &["vips"], &["exec", "--wait", "0s", "--", "true"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", err(&output));
        let said = err(&output);
        assert!(said.starts_with("error: no agent of instance cli-"), "{args:?}: {said}");
        assert!(said.contains("kuma-dns up"), "{args:?} names the next step: {said}");
    }
    let status = run(&["status", "-o", "json"]);
    assert_eq!(status.status.code(), Some(3));
    let json: serde_json::Value = serde_json::from_str(&out(&status)).unwrap();
    assert_eq!(json["ready"], false, "{json}");
}

#[test]
fn completions_are_scripts_their_shells_can_read() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        assert!(out(&output).contains("cleanup"), "{shell} completes subcommands");
    }
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), run(&["completions", "bash"]).stdout).unwrap();
    let checked = Command::new("bash").arg("-n").arg(script.path()).status().unwrap();
    assert!(checked.success(), "bash -n");
}

#[test]
fn an_error_is_one_block_without_rust_in_it() {
    let output = run(&["up", "-f", "/no/such/mesh.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    let said = err(&output);
    assert!(said.starts_with("error: ") && said.contains("/no/such/mesh.yaml"), "{said}");
    for noise in ["Error {", "Os {", "Some(", "panicked", "RUST_BACKTRACE", "\x1b"] {
        assert!(!said.contains(noise), "{noise:?} in {said}");
    }
    let json = run(&["--log-format", "json", "up", "-f", "/no/such/mesh.yaml"]);
    let event: serde_json::Value = serde_json::from_str(&err(&json)).unwrap();
    assert!(
        event["message"].as_str().is_some_and(|message| message.contains("/no/such/mesh.yaml")),
        "{event}"
    );
    let colored = run(&["--color", "always", "up", "-f", "/no/such/mesh.yaml"]);
    assert!(err(&colored).contains("\x1b["), "colour when it is asked for");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for args in [&["completions", "bash"][..], &["--help"], &["status", "-o", "json"]] {
        let mut command = Command::new("sh");
        command.args(["-c", "\"$@\" | true", "sh"]).arg(binaries::kuma_dns().unwrap()).args(args);
        let said = err(&command.output().unwrap());
        assert!(!said.contains("panicked"), "{args:?}: {said}");
    }
}

#[test]
fn cleanup_of_an_instance_that_never_was_is_done_at_once() {
    let output = run(&["cleanup"]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(out(&output).contains("nothing to remove"), "{}", out(&output));
}
