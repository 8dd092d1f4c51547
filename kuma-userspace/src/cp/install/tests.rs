//! ConfigMaps in every way of writing, and what is refused with which place. The shapes of real clusters: tests/data/install.

use proptest::prelude::*;

use super::*;

const FILE: &str = "coredns.yaml";

fn forward() -> Forward {
    let domain = Hostname::parse("mesh").unwrap();
    Forward { domain, to: "10.96.0.20:5653".parse().unwrap(), service: "cp in ns".into() }
}

fn patched(text: &str) -> Patched {
    let once = patch(Path::new(FILE), text, &forward()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let twice = patch(Path::new(FILE), &once.text, &forward()).unwrap();
    assert_eq!(twice.text, once.text, "twice is once");
    assert!(twice.configmaps.iter().all(|target| !target.changed));
    once
}

fn refused(text: &str) -> String {
    patch(Path::new(FILE), text, &forward()).unwrap_err().to_string()
}

fn configmap(name: &str, data: &str) -> String {
    format!("kind: ConfigMap\nmetadata:\n  name: {name}\n{data}")
}

#[test]
fn a_corefile_is_changed_in_the_way_it_is_written() {
    for (data, want) in [
        (
            "data:\n  Corefile: |  # ours\n   . {\n   }\n\n  x: y\n",
            "data:\n  Corefile: |  # ours\n   . {\n   }\n   mesh:53 {\n",
        ),
        (
            "data:\n  Corefile: |2-\n    . {\n    }\n",
            "data:\n  Corefile: |2-\n    . {\n    }\n    mesh:53 {\n",
        ),
        ("data:\n  'Corefile': '. {\n\n    }'\n  a: b\n", "data:\n  'Corefile': \". {\\n}\\nmesh:53 {"),
        ("data: {Corefile: '. {}', a: b}\n", "data: {Corefile: "),
        ("data:\n  \"Corefile\": |+\n    . {\n    }\n\n\n", "    }\n    mesh:53 {\n"),
        ("data:\r\n  Corefile: |\r\n    . {\r\n    }\r\n  a: b\r\n", "    }\r\n    mesh:53 {\r\n"),
    ] {
        let text = configmap("coredns", &data.replace(". {}", ". {\n\n }"));
        let new = patched(&text).text;
        assert!(new.contains(want), "{new}");
    }
}

#[test]
fn a_key_that_is_missing_is_put_where_it_belongs() {
    for (data, want) in [
        ("", "kind: ConfigMap\ndata:\n  stubDomains: |\n    {\"mesh\": [\"10.96.0.20:5653\"]}\nmetadata:\n"),
        ("data: {}\n", "data: {\"stubDomains\": \"{\\\"mesh\\\": [\\\"10.96.0.20:5653\\\"]}\\n\"}\n"),
        (
            "data:\n    # why\n    a: b\n",
            "data:\n    stubDomains: |\n      {\"mesh\": [\"10.96.0.20:5653\"]}\n    # why\n    a: b\n",
        ),
        (
            "data: {\"a\": \"b\"}\n",
            "data: {\"stubDomains\": \"{\\\"mesh\\\": [\\\"10.96.0.20:5653\\\"]}\\n\",\"a\": \"b\"}\n",
        ),
        ("data: {a: b,\n  c: d}\n", "data: {\"stubDomains\": "),
    ] {
        let new = patched(&configmap("kube-dns", data)).text;
        assert!(new.contains(want), "{new}");
    }
}

#[test]
fn stub_domains_keep_their_look() {
    for (before, after) in [
        ("{}", "{\"mesh\": [\"10.96.0.20:5653\"]}"),
        ("{ }", "{\"mesh\": [\"10.96.0.20:5653\"]}"),
        ("{\"a\":[\"1.1.1.1\"]}", "{\"a\":[\"1.1.1.1\"], \"mesh\": [\"10.96.0.20:5653\"]}"),
        ("{\"Mesh.\":[\"1.1.1.1\", \"]\"], \"b\":[]}", "{\"Mesh.\":[\"10.96.0.20:5653\"], \"b\":[]}"),
        ("{\"mesh\":  [ \"10.96.0.20:5653\" ]}", "{\"mesh\":  [ \"10.96.0.20:5653\" ]}"),
    ] {
        assert_eq!(stub_domains::patch(before, &forward()).unwrap(), after);
    }
}

#[test]
fn what_is_not_understood_is_refused_with_file_line_and_key() {
    let corefile = |data: &str| configmap("coredns", data);
    for (text, parts) in [
        ("a: [1\n".to_owned(), &["coredns.yaml:"][..]),
        (configmap("other", "data:\n  a: b\n"), &["coredns.yaml: no ConfigMap of CoreDNS or kube-dns"]),
        (corefile("data:\n  Corefile: 5\n"), &["coredns.yaml:5: data.Corefile", "found 5"]),
        (corefile("data:\n  Corefile: >\n    . {\n    }\n"), &["coredns.yaml:5: data.Corefile"]),
        (
            corefile("data:\n  Corefile: |\n    . {\n    }\n    mesh {\n      hosts\n    }\n"),
            &["coredns.yaml:8: data.Corefile: line 3 of the Corefile", "\"hosts\"", "--domain"],
        ),
        (corefile("data:\n  Corefile: a\n  Corefile: b\n"), &["coredns.yaml:6: data.Corefile", "twice"]),
        (
            corefile(
                "  labels:\n    addonmanager.kubernetes.io/mode: Reconcile\ndata:\n  Corefile: |\n    . {\n    }\n",
            ),
            &["coredns.yaml:5: data.Corefile", "coredns-custom"],
        ),
        (
            configmap("kube-dns", "data:\n  stubDomains: |\n    {\"a\": \"b\"}\n"),
            &["coredns.yaml:5: data.stubDomains", "no object of domains"],
        ),
        (
            configmap("kube-dns", "data:\n  stubDomains: '{'\n"),
            &["data.stubDomains: it is no JSON (line 1 of it)"],
        ),
        (
            configmap("kube-dns", "data:\n  stubDomains: '{\"mesh\": [], \"mesh.\": []}'\n"),
            &["data.stubDomains: it names \"mesh.\" twice"],
        ),
    ] {
        let said = refused(&text);
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing in {said}");
        }
    }
}

proptest! {
    /// Any text gives an answer or a refusal, and what is patched once stays as it is.
    #[test]
    fn no_text_is_too_odd(corefile in "([.a-z\"{}#,:\\\\ \n\t-]|mesh|import|\\(s\\)| \\{\n|\n\\}\n){0,40}", style in 0..4_usize) {
        let literal = || format!("|\n{}", corefile.lines().map(|line| format!("    {line}\n")).collect::<String>());
        let value = match style {
            0 => literal(),
            1 => format!("{}\n", serde_json::Value::from(corefile.as_str())),
            2 => format!("'{}'\n", corefile.replace('\'', "''").replace('\n', "\n\n    ")),
            _ => corefile.clone(),
        };
        let text = configmap("coredns", &format!("data:\n  Corefile: {value}"));
        if let Ok(once) = patch(Path::new(FILE), &text, &forward()) {
            let twice = patch(Path::new(FILE), &once.text, &forward()).map_err(|error| TestCaseError::fail(format!("{error}\n{}", once.text)))?;
            prop_assert_eq!(twice.text, once.text);
        }
        let _answer_or_refusal = stub_domains::patch(&corefile, &forward());
    }
}
