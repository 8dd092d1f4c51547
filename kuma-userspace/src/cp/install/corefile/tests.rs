//! What a Corefile may look like, and what is refused with which words.

use super::*;
use crate::model::name::Hostname;

const ROOT: &str = ".:53 {\n    errors\n    forward . /etc/resolv.conf\n}\n";

fn forward() -> Forward {
    let domain = Hostname::parse("mesh").unwrap();
    Forward {
        domain,
        to: "10.96.0.20:5653".parse().unwrap(),
        service: "kuma-control-plane in kuma-system".into(),
    }
}

#[track_caller]
fn patched(text: &str) -> String {
    let once = patch(text, &forward()).unwrap();
    assert_eq!(patch(&once, &forward()).unwrap(), once, "twice is once");
    once
}

#[test]
fn our_block_stands_behind_everything_else_and_is_found_again() {
    let once = patched(ROOT);
    let (before, ours) = once.split_at(ROOT.len());
    assert_eq!(before, ROOT);
    assert!(
        ours.starts_with("mesh:53 {\n    # kuma-dns:")
            && ours.ends_with("    forward . 10.96.0.20:5653\n}\n"),
        "{ours}"
    );
    let moved = Forward { to: "[fd00::7]:5653".parse().unwrap(), ..forward() };
    let new = patch(&once, &moved).unwrap();
    assert_eq!(new, once.replace("10.96.0.20:5653", "[fd00::7]:5653"));
}

#[test]
fn what_stands_behind_our_block_stays_there() {
    let text = format!("{}# the end\ncorp:53 {{\n\twhoami\n}}\n\n", patched(ROOT));
    assert_eq!(patched(&text), text);
}

#[test]
fn our_block_listens_where_the_block_of_the_root_does() {
    for (text, want) in [
        (".:8053 {\n  errors\n}\n", "\nmesh:8053 {\n  #"),
        (". {\n  errors\n}\ncorp:5353 {\n}\n", "\nmesh:53 {\n"),
        ("dns://.:5353 {\n\terrors\n}\n", "\nmesh:5353 {\n\t#"),
        ("a:1053 b.:1053 {\n}\n", "\nmesh:1053 {\n    #"),
        ("tls://.:853 {\n}\n", "\nmesh:53 {\n"),
        (".:53 .:5300 {\n}\n", "\nmesh:53 {\n"),
    ] {
        assert!(patched(text).contains(want), "{}", patched(text));
    }
    let cached = patched(".:53 {\n  bind 169.254.20.10 10.96.0.10\n  cache 30\n}\n");
    assert!(cached.contains("install dns` writes this block\n  bind 169.254.20.10 10.96.0.10\n"), "{cached}");
}

#[test]
fn a_block_of_kumactl_is_taken_over_wherever_it_stands() {
    for block in [
        "mesh:53 {\n        errors\n        cache 3\n        forward . 10.0.0.1:5653\n    }",
        "MESH. {\n  proxy . 1.2.3.4\n}",
    ] {
        let text = format!("{block}\n{ROOT}");
        let new = patched(&text);
        assert!(new.starts_with("mesh:53 {\n") && new.ends_with(&format!("\n}}\n{ROOT}")), "{new}");
        assert!(!new.contains("10.0.0.1") && !new.contains("1.2.3.4"), "{new}");
    }
}

#[test]
fn comments_quotes_and_braces_in_words_are_no_grammar() {
    let text = "# mesh:53 {\n.:53 { # {\n  log \"}\" {$VAR}\n  template IN A \"a \\\" } b\" {\n    answer \"{{ .Name }}\"\n  }\n  health{\n  errors#1\n}\n";
    assert!(patched(text).starts_with(text));
}

#[test]
fn what_is_not_understood_is_refused_with_its_line() {
    for (text, line, part) in [
        ("\n", None, "is empty"),
        (".:53 {\n  log \"x\n}\n", Some(2), "quote is not closed"),
        (".:53 {\n  health {\n  }\n", Some(1), "is not closed"),
        (".:53 {\n}\n}\n", Some(3), "without a block"),
        (".:53\nforward . 8.8.8.8\n", Some(1), "has no braces"),
        (".:53 {\n}\nmesh:53 corp:53 {\n}\n", Some(3), "a block of its own"),
        (".:53 {\n}\nmesh {\n  hosts\n}\n", Some(3), "\"hosts\""),
        ("mesh {\n}\nmesh:53 {\n}\n", Some(3), "a second block"),
        (".:53 {\n  bind lo {\n    except 127.0.0.1\n  }\n}\n", Some(2), "`bind`"),
        ("a:53 {\n}\nb:54 {\n}\n", None, "several ports: 53, 54"),
    ] {
        let error = patch(text, &forward()).unwrap_err();
        assert_eq!(error.line(), line, "{text:?}: {error}");
        assert!(error.to_string().contains(part), "{text:?}: {error}");
    }
}

#[test]
fn an_imported_file_is_our_block_alone_unless_a_neighbour_serves_the_domain() {
    let own = fragment(&["corp:8053 {\n  errors\n}\n", "# nothing yet\n"], &forward()).unwrap();
    assert!(own.starts_with("mesh:8053 {\n") && own.ends_with("}\n"), "{own}");
    let taken = fragment(&["mesh:53 {\n  forward . 10.0.0.1\n}\n"], &forward()).unwrap_err();
    assert!(matches!(taken, CorefileError::Foreign { line: 1, .. }), "{taken}");
}
