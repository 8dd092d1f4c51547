//! `install dns` on the ConfigMaps of real clusters: each has its golden answer, and patched twice is patched once.
//! Through the binary, without a cluster.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use harness::binaries;

fn data() -> PathBuf {
    binaries::top().join("tests/data/install")
}

fn install(file: &Path, stdin: &str, flags: &[&str]) -> Output {
    let mut command = Command::new(binaries::kuma_dns().unwrap());
    command.args(["install", "dns", "-f"]).arg(file).args(flags);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Whoever reads a file does not wait for stdin.
    let _closed = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

#[test]
fn every_shape_of_a_real_cluster_has_its_golden_answer_and_twice_is_once() {
    let mut shapes = 0;
    for entry in data().read_dir().unwrap() {
        let input = entry.unwrap().path();
        let name = input.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.contains(".in.") {
            continue;
        }
        shapes += 1;
        let golden = std::fs::read_to_string(input.with_file_name(name.replace(".in.", ".out."))).unwrap();
        let once = install(&input, "", &["--address", "10.96.0.20"]);
        assert!(once.status.success(), "{name}: {}", text(&once.stderr));
        assert_eq!(text(&once.stdout), golden, "{name}");
        assert!(
            text(&once.stderr).contains("now forwards mesh to 10.96.0.20:5653"),
            "{}",
            text(&once.stderr)
        );
        let twice = install(Path::new("-"), &golden, &["--address", "10.96.0.20"]);
        assert_eq!(text(&twice.stdout), golden, "{name}, twice");
        assert!(text(&twice.stderr).contains("forwards already mesh"), "{}", text(&twice.stderr));
    }
    assert!(shapes >= 9, "only {shapes} shapes in {}", data().display());
}

#[test]
fn flags_choose_domain_address_port_and_the_name_in_the_comment() {
    let flags = [
        "--address",
        "fd00::7",
        "--port",
        "53",
        "--domain",
        "Svc.Mesh.",
        "--namespace",
        "ops",
        "--name",
        "cp",
    ];
    let output = install(&data().join("coredns-kubeadm.in.yaml"), "", &flags);
    let said = text(&output.stdout);
    for part in ["    svc.mesh:53 {\n", "answered by cp in ops;", "forward . [fd00::7]:53\n"] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
}

#[test]
fn a_mistake_is_code_2_and_prints_no_configmap() {
    let good = data().join("coredns-kubeadm.in.yaml");
    let cases: [(&Path, &[&str], &[&str]); 7] = [
        (&good, &[], &["--address is missing", "kubectl -n kuma-system get service kuma-control-plane"]),
        (&good, &["--address", "cp.example.com"], &["cp.example.com"]),
        (&good, &["--address", "127.0.0.1"], &["127.0.0.1", "ClusterIP"]),
        (&good, &["--address", "10.0.0.1", "--port", "0"], &["1 to 65535"]),
        (&good, &["--address", "10.0.0.1", "--domain", "a..b"], &["--domain", "a..b"]),
        (&good, &["--address", "10.0.0.1", "--namespace", "a b"], &["--namespace", "a b"]),
        (Path::new("/nowhere/coredns.yaml"), &["--address", "10.0.0.1"], &["/nowhere/coredns.yaml"]),
    ];
    for (file, flags, parts) in cases {
        let output = install(file, "", flags);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(output.stdout.is_empty(), "{flags:?}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing in:\n{said}");
        }
    }
    let foreign = "kind: ConfigMap\nmetadata:\n  name: coredns\ndata:\n  Corefile: |\n    mesh:53 {\n      hosts\n    }\n";
    let output = install(Path::new("-"), foreign, &["--address", "10.0.0.1"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.starts_with("error: stdin:6: data.Corefile: line 1 of the Corefile"), "{said}");
}
