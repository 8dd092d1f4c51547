//! The OpenAPI document is true: every path in it is there, and answers as it says.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Plane;
use super::any::seeds;

/// What the document must have at least: the paths that kumactl and our own client use.
const PATHS: [&str; 15] = [
    "/",
    "/config",
    "/meshes",
    "/meshes/{mesh}",
    "/meshes/{mesh}/meshservices",
    "/meshes/{mesh}/meshservices/{name}",
    "/meshservices",
    "/hostnamegenerators/{name}",
    "/zoneingresses",
    "/vips",
    "/meshes/{mesh}/vips",
    "/openapi.json",
    "/tokens/dataplane",
    "/tokens/user",
    "/global-secrets/admin-user-token",
];

/// A document and the way to its schemas.
struct Document(Value);

impl Document {
    /// Everything in which a value is not as a schema says.
    fn faults(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        if let Some(to) = schema["$ref"].as_str() {
            let schema =
                self.0.pointer(to.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{to} is missing"));
            return self.faults(schema, value, at, faults);
        }
        if let Some(wanted) = schema.get("const")
            && wanted != value
        {
            faults.push(format!("{at}: {value} is not {wanted}"));
        }
        if let Some(choices) = schema["enum"].as_array()
            && !choices.contains(value)
        {
            faults.push(format!("{at}: {value} is none of {choices:?}"));
        }
        let types = match &schema["type"] {
            Value::String(one) => vec![one.as_str()],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !types.is_empty() && !types.iter().any(|word| is_of(word, value)) {
            return faults.push(format!("{at}: {value} is no {types:?}"));
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if value.get(name).is_none() {
                faults.push(format!("{at}: {name} is missing"));
            }
        }
        for (name, value) in value.as_object().into_iter().flatten() {
            match schema["properties"].get(name) {
                Some(schema) => self.faults(schema, value, &format!("{at}.{name}"), faults),
                None if schema["additionalProperties"].is_object() => {
                    self.faults(&schema["additionalProperties"], value, &format!("{at}.{name}"), faults);
                }
                // A field that the schema does not tell of.
                None if schema["properties"].is_object() && schema.get("additionalProperties").is_none() => {
                    faults.push(format!("{at}.{name}: not described"));
                }
                None => {}
            }
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            self.faults(&schema["items"], item, &format!("{at}[{index}]"), faults);
        }
    }

    /// Does this operation answer like this?
    #[track_caller]
    fn check(&self, operation: &Value, answer: &harness::http::Answer, what: &str) {
        let described = &operation["responses"][answer.status.as_str()];
        assert!(described.is_object(), "{what}: {} is not described: {:?}", answer.status, answer.json());
        let mut faults = Vec::new();
        self.faults(&described["content"]["application/json"]["schema"], &answer.json(), "", &mut faults);
        assert!(faults.is_empty(), "{what}: {faults:#?}");
        assert_eq!(answer.header("content-type"), "application/json", "{what}");
    }
}

fn is_of(word: &str, value: &Value) -> bool {
    match word {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => panic!("{word} is no type of JSON"),
    }
}

/// Are the documented methods all that there are? Asked with one that is not.
fn check_allowed(plane: &mut Plane, other: &str, described: &Value, path: &str) {
    let request = hyper::Request::builder().method(other).uri(path).body(Default::default()).unwrap();
    let allowed = plane.http.send(request).unwrap().header("allow").to_ascii_lowercase();
    let allowed: BTreeSet<&str> = allowed.split(',').filter(|verb| *verb != "head").collect();
    let verbs = described.as_object().unwrap().keys().map(String::as_str);
    assert_eq!(allowed, verbs.filter(|key| *key != "parameters").collect(), "{path}");
}

/// A path that makes something of what is posted: text, or a refusal.
fn check_post(plane: &mut Plane, document: &Document, path: &str, described: &Value) {
    let operation = &described["post"];
    let body = json!({"mesh": "default", "name": "x", "validFor": "1h"});
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let name = schema["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
    let fields = &document.0["components"]["schemas"][name]["properties"];
    let fields = body.as_object().unwrap().iter().filter(|(field, _)| fields.get(*field).is_some());
    let good: Value = fields.map(|(field, value)| (field.clone(), value.clone())).collect();
    let answer = post(plane, path, &good, "application/json");
    assert_eq!(answer.status, 200, "{path}: {:?}", answer.json());
    assert!(operation["responses"]["200"]["content"]["text/plain"].is_object(), "{path}");
    assert_eq!(answer.header("content-type"), "text/plain", "{path}");
    assert_eq!(answer.header("cache-control"), "no-store", "{path}");
    for (body, kind, status) in [
        (json!({"validFor": "soon"}), "application/json", 400),
        (json!({"nothing": 1}), "application/json", 400),
        (good, "text/plain", 415),
    ] {
        let answer = post(plane, path, &body, kind);
        assert_eq!(answer.status, status, "{path}: {:?}", answer.json());
        document.check(operation, &answer, path);
    }
    check_allowed(plane, "PUT", described, path);
}

fn post(plane: &mut Plane, path: &str, body: &Value, kind: &str) -> harness::http::Answer {
    let request = hyper::Request::post(path).header("content-type", kind);
    plane.http.send(request.body(body.to_string().into()).unwrap()).unwrap()
}

#[test]
fn every_documented_path_answers_as_documented() {
    let mut plane = Plane::start();
    for (path, body) in seeds() {
        let answer = plane.put(&path, &body);
        assert_eq!(answer.status, 201, "{path}: {:?}", answer.json());
    }
    harness::wait::wait_until(super::SECS, "a VIP", || {
        plane.get("/meshes/default/vips/MeshService:x").status == 200
    });
    let document = Document(plane.item("/openapi.json"));
    assert_eq!(document.0["openapi"], "3.1.0");
    let paths = document.0["paths"].as_object().unwrap().clone();
    let known: BTreeSet<&str> = paths.keys().map(String::as_str).collect();
    assert!(PATHS.iter().all(|path| known.contains(path)), "{known:?}");

    for (template, described) in &paths {
        let mesh = if template == "/meshes/{mesh}" { "x" } else { "default" };
        let name = if template.contains("/vips/") { "MeshService:x" } else { "x" };
        let path = template.replace("{mesh}", mesh).replace("{name}", name);
        if described["post"].is_object() {
            check_post(&mut plane, &document, &path, described);
            continue;
        }
        let answer = plane.get(&path);
        assert_eq!(answer.status, 200, "{path}: {:?}", answer.json());
        document.check(&described["get"], &answer, &path);
        if described["get"]["responses"].get("404").is_some() {
            let missing = template
                .replace("{name}", "missing")
                .replace("{mesh}", if template.contains("{name}") { "default" } else { "missing" });
            document.check(&described["get"], &plane.get(&missing), &missing);
        }
        if described["put"].is_object() {
            document.check(&described["put"], &plane.put(&path, &answer.json()), &format!("PUT {path}"));
            document.check(
                &described["put"],
                &plane.put(&path, &json!({"type": "Nothing"})),
                &format!("PUT {path}"),
            );
        }
        // What is documented is all that there is.
        check_allowed(&mut plane, "POST", described, &path);
    }
    for (template, described) in paths.iter().filter(|(_, described)| described["delete"].is_object()) {
        let path = template
            .replace("{mesh}", if template == "/meshes/{mesh}" { "x" } else { "default" })
            .replace("{name}", "x");
        for _ in 0..2 {
            document.check(&described["delete"], &plane.delete(&path), &format!("DELETE {path}"));
        }
    }
}
