//! The OpenAPI document: made from the table of routes, and from the schemas beside it. Called by rest::routes.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::query::{MAX_PAGE, PAGE};
use super::routes::{self, Method, Operation};
use super::write;

/// What the answers look like, by name.
const SCHEMAS: &str = include_str!("schemas.json");

/// Made once: it does not change while the process lives.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

pub(super) async fn answer() -> Response {
    write::json(StatusCode::OK, DOCUMENT.clone())
}

fn document() -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for operation in routes::operations() {
        let verb = match operation.method {
            Method::Get | Method::Item | Method::List | Method::Secret => "get",
            Method::Post => "post",
            Method::Put => "put",
            Method::Delete => "delete",
        };
        let path = paths.entry(operation.path.clone()).or_insert_with(|| path_parameters(&operation.path));
        path.insert(verb.to_owned(), described(&operation));
    }
    let schemas: Value = serde_json::from_str(SCHEMAS).expect("a test reads it");
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "kuma-dns control plane",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Kuma's resources in Kuma's paths and shapes, and the virtual IPs made of them. Reading needs no \
                credential. Writing needs an admin: a request from the control plane's own machine, or an admin's token.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

/// The parts of a path that are names.
fn path_parameters(path: &str) -> Map<String, Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameter =
        |name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    let parameters: Vec<Value> = names.map(parameter).collect();
    let mut path = Map::new();
    if !parameters.is_empty() {
        path.insert("parameters".to_owned(), parameters.into());
    }
    path
}

fn described(operation: &Operation) -> Value {
    let Operation { method, id, summary, schema, .. } = operation;
    let mut described = json!({"operationId": id, "summary": summary});
    let (parameters, good) = match method {
        Method::Get | Method::Secret => (json!([]), json!({"200": answer_of("Here it is.", &named(schema))})),
        Method::Item => (json!([]), json!({"200": item(schema)})),
        Method::List => (list_parameters(), json!({"200": page(schema)})),
        Method::Post => {
            described["requestBody"] = json_body(schema);
            (json!([]), json!({"200": token()}))
        }
        Method::Put => {
            described["requestBody"] = body(schema);
            let created = done("It was not there before.");
            (conditions(), json!({"200": done("It was there before; now it is as given."), "201": created}))
        }
        Method::Delete => (conditions(), json!({"200": done("It is gone.")})),
    };
    let mut answers = good;
    for (status, what) in failures(*method, &operation.path) {
        answers[status] = answer_of(what, &named("Error"));
    }
    described["parameters"] = parameters;
    described["responses"] = answers;
    if is_for_admins(*method) {
        described["security"] = json!([{}, {"token": []}]);
    }
    described
}

fn is_for_admins(method: Method) -> bool {
    matches!(method, Method::Put | Method::Delete | Method::Post | Method::Secret)
}

fn failures(method: Method, path: &str) -> Vec<(&'static str, &'static str)> {
    let writes = matches!(method, Method::Put | Method::Delete);
    let (guarded, sends) = (is_for_admins(method), matches!(method, Method::Put | Method::Post));
    let mut failures = Vec::new();
    if writes || matches!(method, Method::List | Method::Post) {
        failures.push(("400", "Something in it is wrong; every wrong field is named."));
    }
    if guarded || path == "/who-am-i" {
        failures.push(("401", "A token is needed, or this one is nobody's."));
    }
    if guarded {
        failures.push(("403", "The token is not an admin's."));
    }
    if matches!(method, Method::Item | Method::Delete) || (method == Method::List && path.contains("{mesh}"))
    {
        failures.push(("404", "There is none."));
    }
    if writes {
        failures.push(("409", "A file gives this resource: it is changed there."));
        failures.push(("412", "The resource is not as the condition asks."));
    }
    if sends {
        failures.push(("408", "The body did not arrive in time."));
        failures.push(("413", "The body is too large."));
        failures.push(("415", "The body's type is not read."));
    }
    if matches!(method, Method::Post | Method::Secret) {
        failures.push(("500", "A key in the store cannot be used."));
    }
    if guarded || method == Method::List {
        failures.push(("503", "The store, or the number of watches, does not allow it now: come again."));
    }
    failures
}

fn named(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn answer_of(description: &str, schema: &Value) -> Value {
    json!({"description": description, "content": {"application/json": {"schema": schema}}})
}

fn etag() -> Value {
    json!({"ETag": {"description": "The revision, for If-Match; status is no part of it.", "schema": {"type": "string"}}})
}

fn item(schema: &str) -> Value {
    let mut item = answer_of("Here it is.", &named(schema));
    if schema != "Vip" {
        item["headers"] = etag();
    }
    item
}

fn page(schema: &str) -> Value {
    let page = json!({
        "type": "object",
        "required": ["total", "items", "next"],
        "properties": {
            "total": {"type": "integer", "minimum": 0},
            "items": {"type": "array", "items": named(schema)},
            "next": {"type": ["string", "null"], "format": "uri"},
        },
    });
    let mut answer = answer_of("A page; with `watch` the whole list and then every change.", &page);
    answer["content"]["text/event-stream"] = json!({
        "schema": {
            "type": "string",
            "description": "Events `put` (data: the item) and `delete` (data: type, mesh and name). First a `put` of each \
                item, then `synced`, then what changes. A comment line when nothing else was sent for ten seconds.",
        },
    });
    answer
}

fn body(schema: &str) -> Value {
    let content = json!({"schema": named(schema)});
    json!({"required": true, "content": {"application/json": content, "application/yaml": content}})
}

fn json_body(schema: &str) -> Value {
    json!({"required": true, "content": {"application/json": {"schema": named(schema)}}})
}

fn token() -> Value {
    json!({"description": "The token.", "content": {"text/plain": {"schema": {"type": "string"}}}})
}

fn done(description: &str) -> Value {
    let mut done = answer_of(description, &json!({"type": "object"}));
    done["headers"] = etag();
    done["headers"]["kuma-dns-outcome"] = json!({
        "description": "What a PUT did.",
        "schema": {"type": "string", "enum": ["created", "configured", "unchanged"]},
    });
    done
}

fn parameter(place: &str, name: &str, description: &str, schema: &Value) -> Value {
    json!({"name": name, "in": place, "required": false, "description": description, "schema": schema})
}

fn list_parameters() -> Value {
    let text = json!({"type": "string"});
    let size = json!({"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": PAGE});
    json!([
        parameter("query", "size", "Items of a page.", &size),
        parameter(
            "query",
            "offset",
            "Where the page begins: what `next` says, or a number of items to leave out.",
            &text
        ),
        parameter("query", "name", "Only items with this in their name.", &text),
        parameter("query", "filter[labels.KEY]", "Only items with this value of the label KEY.", &text),
        parameter(
            "query",
            "watch",
            "Go on with every change.",
            &json!({"type": "boolean", "default": false})
        ),
    ])
}

fn conditions() -> Value {
    let text = json!({"type": "string"});
    json!([
        parameter("header", "If-Match", "Only if the revision is still this one (ETag).", &text),
        parameter("header", "If-None-Match", "`*`: only if there is none yet.", &text),
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every `$ref` below a value.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(to)) = fields.get("$ref") {
                    found.insert(to.clone());
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_schema_that_is_named_is_there_and_every_one_that_is_there_is_named() {
        let document = document();
        let mut named = BTreeSet::new();
        references(&document, &mut named);
        let there = document["components"]["schemas"].as_object().unwrap().keys();
        let there: BTreeSet<String> = there.map(|name| format!("#/components/schemas/{name}")).collect();
        assert_eq!(named, there);
    }

    #[test]
    fn every_operation_has_a_name_of_its_own() {
        let ids: Vec<String> = routes::operations().into_iter().map(|operation| operation.id).collect();
        let unique: BTreeSet<&String> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "{ids:?}");
    }
}
