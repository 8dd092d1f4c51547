//! Which source wins, and how each mistake is named.

use super::*;
use crate::cp::dns::Listen;
use crate::cp::store::postgres::TlsMode;

struct Given {
    dir: tempfile::TempDir,
    sources: Sources,
}

fn given(file: &str, environment: &[(&str, &str)], flags: &[(&'static str, &'static str, &str)]) -> Given {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cp.yaml");
    std::fs::write(&path, file).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let flags = flags.iter().map(|&(key, flag, value)| Flag { key, flag, value: value.into() }).collect();
    let sources = Sources { file: Some(path), environment, flags, data: "/data/default".into() };
    Given { dir, sources }
}

impl Given {
    fn load(&self) -> Configuration {
        load(&self.sources).unwrap()
    }

    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let said =
            load(&self.sources).unwrap_err().to_string().replace(self.dir.path().to_str().unwrap(), "");
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing in {said}");
        }
    }
}

#[test]
fn without_any_source_kumas_defaults_hold() {
    let found = load(&Sources { data: "/data/default".into(), ..Sources::default() }).unwrap();
    let listen = Listen { port: Some(DEFAULT_PORT), address: None };
    assert_eq!(found.settings, Settings { dns_server: listen, ..Settings::default() });
    assert_eq!(found.store, StoreConfig::Embedded("/data/default".into()));
    let DpServer { addr, transport, .. } = &found.dp_server;
    assert_eq!((addr.to_string().as_str(), transport), ("127.0.0.1:5678", &Transport::Plain));
    let http = found.api_server.http.unwrap().to_string();
    assert_eq!((http.as_str(), found.api_server.https.is_none()), ("0.0.0.0:5681", true));
    assert_eq!(given("# nothing yet\n", &[], &[]).load(), found);
    assert_eq!(given("dnsServer:\nstore: ~\n", &[], &[]).load(), found);
}

#[test]
fn a_configuration_as_json_says_the_same_and_no_secret() {
    let file = "store: {type: postgres, postgres: {host: db, password: hidden}}\n";
    let found = given(file, &[], &[]).load().to_json();
    assert_eq!((&found["store"]["postgres"]["host"], &found["dnsServer"]["ttl"]), (&"db".into(), &60.into()));
    assert!(!found.to_string().contains("hidden"), "{found}");
}

#[test]
fn the_environment_is_over_the_file_and_flags_are_over_both() {
    let found = given(
        "dnsServer: {domain: file, ttl: 10, port: 1053, CIDR6: \"\"}\nstore: {type: embedded, path: /a}\n",
        &[
            ("KUMA_DNS_SERVER_DOMAIN", "env"),
            ("KUMA_DNS_SERVER_TTL", "2m"),
            ("KUMA_DNS_SERVER_PORT", "2053"),
            ("KUMA_STORE_PATH", "/b"),
            ("KUMA_DNS_SERVER_SERVICE_VIP_ENABLED", "false"),
            ("KUMA_DP_SERVER_PORT", "6678"),
            ("KUMA_RUNTIME_KUBERNETES_PORT", "not our section"),
        ],
        &[("dnsServer.port", "--dns-server-port", "0"), ("dnsServer.domain", "--domain", "123")],
    )
    .load();
    assert_eq!(found.settings.domain.as_str(), "123");
    assert_eq!((found.settings.ttl_secs, found.settings.rest_secs), (120, 240));
    assert_eq!((found.settings.dns_server.port, found.settings.pools.v6), (None, None));
    assert!(!found.settings.service_vip_enabled);
    assert_eq!(found.store, StoreConfig::Embedded("/b".into()));
    assert_eq!(found.dp_server.addr.port(), 6678);
}

#[test]
fn every_mistake_is_named_where_it_was_made() {
    given(
        "dnsServer:\n  domian: mesh\n  CIDR: here\nstor: {}\ndpServer: {port: 0}\nstore: {type: postgress}\n",
        &[("KUMA_DNS_SERVER_TTL", "soon"), ("KUMA_DNS_SERVER_DOMIAN", "x"), ("KUMA_STORE_POSTGRES_HOST", "db")],
        &[("dnsServer.address", "--dns-server-address", "here")],
    )
    .refused(&[
        "8 mistakes",
        "/cp.yaml:2: dnsServer.domian: unknown field \"domian\": did you mean \"domain\"?",
        "/cp.yaml:3: dnsServer.CIDR: \"here\" is no CIDR",
        "/cp.yaml:4: stor: unknown field \"stor\": did you mean \"store\"?",
        "/cp.yaml:5: dpServer.port: 0 is not allowed",
        "/cp.yaml:6: store.type: \"postgress\" is no store: did you mean \"postgres\"?",
        "KUMA_DNS_SERVER_TTL: \"soon\" is not allowed",
        "KUMA_DNS_SERVER_DOMIAN: no setting has this name in the environment: did you mean \"KUMA_DNS_SERVER_DOMAIN\"?",
        "--dns-server-address: \"here\" is no IP address",
    ]);
}

#[test]
fn a_file_that_is_no_configuration_is_refused_with_its_line() {
    for (text, parts) in [
        ("dnsServer: [1\n", &["/cp.yaml:", "not readable as YAML"][..]),
        ("store: {}\n---\nservices: []\n", &["/cp.yaml:3", "a second document", "-f"]),
        (
            "- a\n",
            &[
                "/cp.yaml:1",
                "expected fields (dnsServer, store, general, dpServer, apiServer, diagnostics), found a list",
            ],
        ),
        ("services: []\n", &["/cp.yaml:1: services", "unknown field"]),
        ("store: embedded\n", &["/cp.yaml:1: store: expected fields (type, path, postgres)"]),
        ("store: {type: memory, path: /x}\n", &["/cp.yaml:1: store.path", "has no path"]),
        ("dnsServer: {ttl: 60, rest: 90}\n", &["/cp.yaml:1: dnsServer.rest", "two TTLs"]),
    ] {
        given(text, &[], &[]).refused(parts);
    }
    let missing = Sources { file: Some("/nowhere/cp.yaml".into()), ..Sources::default() };
    assert!(load(&missing).unwrap_err().to_string().starts_with("/nowhere/cp.yaml: cannot be read"));
}

#[test]
fn a_database_is_read_from_the_file_and_the_environment() {
    let file = "store: {type: postgres, postgres: {host: a, port: 1, user: b, password: c, dbName: d, tls: {mode: verifyCa}}}";
    let environment = [
        ("KUMA_STORE_POSTGRES_HOST", "db"),
        ("KUMA_STORE_POSTGRES_PORT", "5432"),
        ("KUMA_STORE_POSTGRES_PASSWORD", "123"),
        ("KUMA_STORE_POSTGRES_TLS_CA_PATH", "/ca.pem"),
    ];
    let StoreConfig::Postgres(found) = given(file, &environment, &[]).load().store else {
        panic!("postgres")
    };
    assert_eq!(found.to_string(), "database d at db:5432 as user b");
    assert_eq!(found.password, "123");
    assert_eq!((found.tls.mode, found.tls.ca), (TlsMode::VerifyCa, Some("/ca.pem".into())));
    let alone = given("store: {}", &environment[..2], &[("store.type", "--store-type", "postgres")]).load();
    let StoreConfig::Postgres(found) = alone.store else { panic!("postgres") };
    assert_eq!(found.to_string(), "database kuma at db:5432 as user kuma");
    given(
        "store: {type: postgres, path: /x, postgres: {port: 0, tls: {mode: verify, certPath: /c}}}",
        &[("KUMA_STORE_POSTGRES_HOTS", "db")],
        &[],
    )
    .refused(&[
        "/cp.yaml:1: store.path: a store of type postgres has no path",
        "/cp.yaml:1: store.postgres.port: 0 is not allowed",
        "/cp.yaml:1: store.postgres.tls.mode: \"verify\" is no TLS mode",
        "/cp.yaml:1: store.postgres.tls.certPath: a certificate and its key go together",
        "KUMA_STORE_POSTGRES_HOTS: no setting has this name in the environment: did you mean \"KUMA_STORE_POSTGRES_HOST\"?",
    ]);
    given("", &environment[..1], &[])
        .refused(&["KUMA_STORE_POSTGRES_HOST: this is for a store of type postgres"]);
}

#[test]
fn xds_is_tls_beyond_loopback_unless_it_is_told_outright() {
    let files = |section| Transport::Tls(Files { certificate: "/c".into(), key: "/k".into(), section });
    for (dp_server, general, transport, warns) in [
        ("{}", "", Transport::Plain, false),
        ("{address: \"::1\"}", "", Transport::Plain, false),
        ("{address: 10.0.0.1}", "", Transport::Issued, false),
        ("{tlsMode: always}", "", Transport::Issued, false),
        ("{address: 0.0.0.0, tlsMode: never}", "", Transport::Plain, true),
        ("{tlsMode: never}", "general: {tlsCertFile: /c, tlsKeyFile: /k}", Transport::Plain, false),
        ("{}", "general: {tlsCertFile: /c, tlsKeyFile: /k}", files("general"), false),
        (
            "{tlsCertFile: /c, tlsKeyFile: /k}",
            "general: {tlsCertFile: /x, tlsKeyFile: /y}",
            files("dpServer"),
            false,
        ),
    ] {
        let found = given(&format!("dpServer: {dp_server}\n{general}\n"), &[], &[]).load();
        assert_eq!(found.dp_server.transport, transport, "{dp_server} {general}");
        assert_eq!(!found.warnings().is_empty(), warns, "{dp_server} {general}");
    }
    given(
        "dpServer: {address: here, tlsMode: on, tlsCertFile: /c}\n",
        &[("KUMA_GENERAL_TLS_KEY_FILE", "/k"), ("KUMA_API_SERVER_HTTP_PORTS", "1")],
        &[],
    )
    .refused(&[
        "/cp.yaml:1: dpServer.address: \"here\" is no IP address",
        "/cp.yaml:1: dpServer.tlsMode: \"on\" is no TLS mode: use one of auto, always, never",
        "/cp.yaml:1: dpServer.tlsCertFile: a certificate and its key go together",
        "KUMA_GENERAL_TLS_KEY_FILE: a certificate and its key go together",
        "KUMA_API_SERVER_HTTP_PORTS: no setting has this name in the environment: did you mean \"KUMA_API_SERVER_HTTP_PORT\"?",
    ]);
    given("dpServer: {tlsMode: never, tlsCertFile: /c, tlsKeyFile: /k}\n", &[], &[])
        .refused(&["/cp.yaml:1: dpServer.tlsCertFile: with `tlsMode: never` nobody uses a certificate"]);
}

#[test]
fn a_token_is_needed_beyond_loopback_unless_it_is_told_outright() {
    for (dp_server, needed, warns) in [
        ("{}", false, false),
        ("{address: 10.0.0.1}", true, false),
        ("{authn: {dpProxy: {type: dpToken}}}", true, false),
        ("{address: 10.0.0.1, authn: {dpProxy: {type: none}}}", false, true),
        ("{address: 10.0.0.1, authn: {dpProxy: {type: \"\"}}}", true, false),
    ] {
        let found = given(&format!("dpServer: {dp_server}\n"), &[], &[]).load();
        assert_eq!(found.dp_server.tokens().is_some(), needed, "{dp_server}");
        assert_eq!(!found.warnings().is_empty(), warns, "{dp_server}");
    }
    let validator = |keys: &str| {
        format!("dpServer: {{authn: {{dpProxy: {{dpToken: {{validator: {{publicKeys: {keys}}}}}}}}}}}\n")
    };
    given(
        &validator("[{mesh: default, key: x}, {mesh: b, kid: c}, {mesh: b, kid: c, keyFile: /nowhere}]"),
        &[],
        &[],
    )
    .refused(&[
        "/cp.yaml:1: dpServer.authn.dpProxy.dpToken.validator.publicKeys[0].kid: must be given",
        "publicKeys[1]: give one of key (PEM) and keyFile",
        "publicKeys[2].keyFile: \"/nowhere\" cannot be read",
    ]);
    given(
        &validator("[{mesh: default, kid: a, key: hello}]"),
        &[("KUMA_DP_SERVER_AUTHN_DP_PROXY_TYPE", "token")],
        &[],
    )
    .refused(&[
        "publicKeys[0].key: it is no RSA public key",
        "KUMA_DP_SERVER_AUTHN_DP_PROXY_TYPE: \"token\" is no way to tell who",
    ]);
    let public = crate::cp::tokens::public_key_pem(&crate::cp::tokens::signing_key_pem().unwrap()).unwrap();
    let key = format!("[{{mesh: default, kid: a, key: {}}}]", serde_json::Value::from(public.as_str()));
    let found = given(&validator(&key), &[("KUMA_DP_SERVER_AUTHN_DP_PROXY_TYPE", "dpToken")], &[]).load();
    assert_eq!(&*found.dp_server.tokens().unwrap().public_keys[0].pem, public.as_str());
    assert_eq!(given(&found.to_string(), &[], &[]).load(), found, "{found}");
}

#[test]
fn what_is_printed_can_be_read_again() {
    for file in [
        "",
        "dnsServer: {CIDR: \"fd00::/64\", port: 0, address: \"::1\"}\nstore: {type: memory}\n",
        "store: {type: postgres, postgres: {host: db, tls: {mode: verifyFull, caPath: /a, certPath: /b, keyPath: /c}}}",
        "dnsServer: {CIDR6: \"\", ttl: 5m, rest: 1h, domain: \"123\"}\nstore: {path: \"/a b#c\"}\ndpServer: {port: 7}\n",
        "dpServer: {address: \"::\", tlsMode: never}\napiServer: {http: {port: 0}, https: {interface: \"::1\"}}\n",
        "dpServer: {tlsCertFile: /a, tlsKeyFile: /b}\ngeneral: {tlsCertFile: /c, tlsKeyFile: /d}\napiServer: {authn: {localhostIsAdmin: false}}\n",
        "diagnostics: {serverPort: 0}\n",
        "diagnostics: {serverPort: 1, address: \"::\"}\n",
        "general: {tlsCertFile: /c, tlsKeyFile: /d}\napiServer: {https: {port: 1, tlsCertFile: /e, tlsKeyFile: /f}}\n",
    ] {
        let found = given(file, &[], &[]).load();
        assert_eq!(given(&found.to_string(), &[], &[]).load(), found, "{found}");
    }
}

#[test]
fn the_example_says_the_defaults_and_every_key_and_name() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/control-plane.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    for key in KEYS {
        let shown = format!("{}: ", key.name.rsplit('.').next().unwrap());
        let mut lines = text.lines().map(|line| line.trim_start_matches([' ', '#']));
        assert!(lines.any(|line| line.starts_with(&shown)), "{}", key.path());
        let mut short = key.env.match_indices('_').map(|(at, _)| format!("…{}", &key.env[at..]));
        assert!(
            key.env.is_empty() || text.contains(key.env) || short.any(|name| text.contains(&name)),
            "{}",
            key.env
        );
    }
    let data = PathBuf::from("/var/lib/kuma-dns/default");
    let example = load(&Sources { file: Some(path), data: data.clone(), ..Sources::default() }).unwrap();
    assert_eq!(example, load(&Sources { data, ..Sources::default() }).unwrap());
}
