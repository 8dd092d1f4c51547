//! Whatever is sent as a resource: it is taken, or refused with a field. Never a panic, never silence.

use std::cell::RefCell;

use harness::plane::Place;
use hyper::Request;
use proptest::collection::{btree_map, vec};
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::{FILE, mesh_service};

/// Requests of one run.
const CASES: u32 = 400;

/// Words that mean something to the reader of resources.
const WORDS: [&str; 20] = [
    "type",
    "mesh",
    "name",
    "labels",
    "spec",
    "selector",
    "ports",
    "port",
    "targetPort",
    "appProtocol",
    "match",
    "endpoints",
    "address",
    "networking",
    "inbound",
    "tags",
    "conf",
    "host",
    "template",
    "kuma.io/service",
];

/// Good resources to begin with, and where each is put.
pub(super) fn seeds() -> Vec<(String, Value)> {
    let of = |path: &str, body: Value| (format!("/meshes/default/{path}/x"), body);
    vec![
        of("meshservices", mesh_service("x", 80)),
        of(
            "dataplanes",
            json!({"type": "Dataplane", "mesh": "default", "name": "x", "networking": {"address": "127.0.0.1",
            "inbound": [{"port": 1, "tags": {"kuma.io/service": "x"}}]}}),
        ),
        of(
            "external-services",
            json!({"type": "ExternalService", "mesh": "default", "name": "x",
            "tags": {"kuma.io/service": "x"}, "networking": {"address": "example.com:80"}}),
        ),
        of(
            "virtual-outbounds",
            json!({"type": "VirtualOutbound", "mesh": "default", "name": "x",
            "selectors": [{"match": {"kuma.io/service": "*"}}],
            "conf": {"host": "{{.s}}.v.mesh", "port": "80", "parameters": [{"name": "s", "tagKey": "kuma.io/service"}]}}),
        ),
        of(
            "meshexternalservices",
            json!({"type": "MeshExternalService", "mesh": "default", "name": "x",
            "spec": {"match": {"type": "HostnameGenerator", "port": 1}, "endpoints": [{"address": "192.0.2.1", "port": 1}]}}),
        ),
        of(
            "meshmultizoneservices",
            json!({"type": "MeshMultiZoneService", "mesh": "default", "name": "x",
            "spec": {"selector": {"meshService": {"matchLabels": {"a": "b"}}}, "ports": [{"port": 1}]}}),
        ),
        (
            "/hostnamegenerators/x".to_owned(),
            json!({"type": "HostnameGenerator", "name": "x",
            "spec": {"selector": {"meshService": {}}, "template": "{{ .DisplayName }}.x.mesh"}}),
        ),
        (
            "/zoneingresses/x".to_owned(),
            json!({"type": "ZoneIngress", "name": "x", "zone": "x",
            "networking": {"address": "192.0.2.1", "port": 1}, "availableServices": [{"mesh": "default", "tags": {"kuma.io/service": "y"}}]}),
        ),
        (
            "/meshes/x".to_owned(),
            json!({"type": "Mesh", "name": "x", "meshServices": {"mode": "Everywhere"}}),
        ),
    ]
}

/// Any JSON, with words that are known as often as others.
fn anything() -> BoxedStrategy<Value> {
    let word = prop_oneof![proptest::sample::select(&WORDS[..]).prop_map(str::to_owned), "\\PC{0,12}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        "[{}.|a-z \"]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        let map = btree_map(word.clone(), inner.clone(), 0..5);
        prop_oneof![vec(inner, 0..5).prop_map(Value::from), map.prop_map(|map| map.into_iter().collect())]
    })
    .boxed()
}

/// Every place in a value, as pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            places(value, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), found);
        }),
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, value)| places(value, &format!("{at}/{index}"), found));
        }
        _ => {}
    }
}

/// A good resource with something else in one or two places, or anything at all.
fn requests() -> BoxedStrategy<(String, Value)> {
    let seed = proptest::sample::select(seeds());
    let changed = (seed.clone(), vec((any::<proptest::sample::Index>(), anything()), 1..3)).prop_map(
        |((path, mut body), changes)| {
            for (place, value) in changes {
                let mut all = Vec::new();
                places(&body, "", &mut all);
                *body.pointer_mut(&all[place.index(all.len())]).unwrap() = value;
            }
            (path, body)
        },
    );
    prop_oneof![4 => changed, 1 => (seed, anything()).prop_map(|((path, _), body)| (path, body))].boxed()
}

#[test]
fn any_json_is_taken_or_refused_with_a_field() {
    let place = Place::new(FILE).unwrap();
    let mut process = place.start(&[], &[]).unwrap();
    let http = RefCell::new(place.http().unwrap());
    for (path, body) in seeds() {
        let answer = http.borrow_mut().put(&path, &body).unwrap();
        assert!(answer.status.is_success(), "{path}: {:?}", answer.json());
    }
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&requests(), |(path, body)| {
        let answer = http.borrow_mut().put(&path, &body).unwrap();
        let error = answer.json();
        let status = answer.status.as_u16();
        proptest::prop_assert!(matches!(status, 200 | 201 | 400), "{status} {error}");
        let fields = error["invalid_parameters"].as_array();
        let named = fields.is_some_and(|fields| {
            fields.iter().all(|one| {
                one["field"].is_string() && one["reason"].as_str().is_some_and(|text| !text.is_empty())
            })
        });
        proptest::prop_assert!(status != 400 || named, "{error}");
        Ok(())
    });
    assert!(process.ended().is_none(), "{}", process.said());
    outcome.unwrap();
    // Bytes that are no JSON at all.
    let config = Config { cases: CASES / 4, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&vec(any::<u8>(), 0..200), |bytes| {
        let request = Request::put(&seeds()[0].0).header("content-type", "application/json");
        let answer = http.borrow_mut().send(request.body(bytes.into()).unwrap()).unwrap();
        proptest::prop_assert_eq!(answer.status, 400);
        proptest::prop_assert!(answer.json()["invalid_parameters"][0]["reason"].is_string());
        Ok(())
    });
    outcome.unwrap();
    assert!(process.ended().is_none() && !process.said().contains("panicked"), "{}", process.said());
}
