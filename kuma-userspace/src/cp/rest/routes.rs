//! Everything that is served, as one table: the router is made from it, and so is the document that describes it.
//! Keeps: no route without a description, and no description without a route. Called by rest.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};
use axum::{Router, middleware};

use super::asked::Asked;
use super::listing::{Cursor, Listing, SERVED, What};
use super::problem::Problem;
use super::query::ListQuery;
use super::tokens::{self, Token};
use super::watch::{MAX_WATCHES, Watch};
use super::{Api, etag, index, list, openapi, write};
use crate::cp::registry::Origin;
use crate::cp::tokens::ADMIN_SECRET;
use crate::model::kind::{ResourceKey, ResourceKind};

/// A method of a path.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: String,
    /// Unique among all.
    pub(super) id: String,
    pub(super) summary: String,
    /// What it gives, or for [`Method::Put`] and [`Method::Post`] takes: a name among the document's schemas.
    pub(super) schema: String,
    handler: MethodRouter<Api>,
}

/// What is done, and how it is described.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Method {
    /// One thing.
    Get,
    /// One of many things.
    Item,
    List,
    /// What only an admin may see.
    Secret,
    /// Makes a token.
    Post,
    Put,
    Delete,
}

pub(super) fn router(api: Api) -> Router {
    let routed = operations()
        .into_iter()
        .fold(Router::new(), |router, operation| router.route(&operation.path, operation.handler));
    let routed = routed
        .fallback(async || Problem::not_found("No such path: GET /openapi.json says what there is"))
        .with_state(api);
    // Around all of it, since the router says what is allowed only at its own edge.
    Router::new().fallback_service(routed).layer(middleware::map_response(in_our_shape))
}

/// The router's own answer to a method that a path has not is empty.
async fn in_our_shape(response: Response) -> Response {
    match response.headers().get(ALLOW) {
        Some(allowed) if response.status() == StatusCode::METHOD_NOT_ALLOWED => {
            Problem::method(allowed).into_response()
        }
        _ => response,
    }
}

/// The table.
pub(super) fn operations() -> Vec<Operation> {
    let mut all = index();
    all.extend(token_operations());
    for kind in SERVED {
        let schema = kind.word();
        let path = kind.path();
        if kind == ResourceKind::Mesh {
            all.extend(item(kind, "/meshes/{mesh}".to_owned()));
        } else if kind.is_global() {
            all.extend(item(kind, format!("/{path}/{{name}}")));
        } else {
            let of_mesh = format!("/meshes/{{mesh}}/{path}");
            all.extend(item(kind, format!("{of_mesh}/{{name}}")));
            let summary = format!("The {} of a mesh.", plural(kind));
            all.push(listed(What::Resources(kind), of_mesh, format!("list{schema}sOfMesh"), summary, schema));
        }
        let summary = format!("All {}.", plural(kind));
        all.push(listed(
            What::Resources(kind),
            format!("/{path}"),
            format!("list{}", plural(kind)),
            summary,
            schema,
        ));
    }
    let of_mesh = "/meshes/{mesh}/vips".to_owned();
    all.push(listed(What::Vips, "/vips".into(), "listVips".into(), "All VIPs.".into(), "Vip"));
    all.push(listed(What::Vips, of_mesh, "listVipsOfMesh".into(), "The VIPs of a mesh.".into(), "Vip"));
    let handler = routing::get(async |State(api): State<Api>, asked: Asked| get(&api, What::Vips, &asked));
    let path = "/meshes/{mesh}/vips/{name}";
    all.push(operation(Method::Item, path, "getVip", "A VIP, by who has it.", "Vip", handler));
    all
}

fn operation(
    method: Method,
    path: impl Into<String>,
    id: impl Into<String>,
    summary: impl Into<String>,
    schema: &str,
    handler: MethodRouter<Api>,
) -> Operation {
    let (path, id, summary) = (path.into(), id.into(), summary.into());
    Operation { method, path, id, summary, schema: schema.to_owned(), handler }
}

fn plural(kind: ResourceKind) -> String {
    plural_of(kind.word())
}

pub(super) fn plural_of(word: &str) -> String {
    if word.ends_with('h') || word.ends_with('s') { format!("{word}es") } else { format!("{word}s") }
}

/// What stands on its own.
fn index() -> Vec<Operation> {
    let get = |path: &str, id: &str, summary: &str, schema: &str, handler| {
        operation(Method::Get, path, id, summary, schema, handler)
    };
    vec![
        get("/", "getIndex", "Who answers, and in which version.", "Index", routing::get(index::index)),
        get(
            "/config",
            "getConfig",
            "The configuration in force, without secrets.",
            "Config",
            routing::get(index::config),
        ),
        get(
            "/who-am-i",
            "whoAmI",
            "Whom the control plane takes you for.",
            "User",
            routing::get(index::who_am_i),
        ),
        get(
            "/_resources",
            "getResourceTypes",
            "The kinds of resources.",
            "ResourceTypes",
            routing::get(index::resources),
        ),
        get(
            "/policies",
            "getPolicies",
            "The kinds that Kuma counts as policies.",
            "Policies",
            routing::get(index::policies),
        ),
        get(
            "/status",
            "getStatus",
            "How it goes: allocation, names, store, proxies and agents.",
            "Status",
            routing::get(index::status),
        ),
        get("/openapi.json", "getOpenApi", "This document.", "OpenApi", routing::get(openapi::answer)),
    ]
}

/// Tokens, at Kuma's paths.
fn token_operations() -> [Operation; 3] {
    let make = |of| {
        routing::post(async move |State(api): State<Api>, asked: Asked, body: Body| {
            tokens::make(api, of, asked, body).await
        })
    };
    [
        operation(
            Method::Post,
            "/tokens/dataplane",
            "makeDataplaneToken",
            "A token for a data plane proxy or an agent.",
            "DataplaneTokenRequest",
            make(Token::Dataplane),
        ),
        operation(
            Method::Post,
            "/tokens/user",
            "makeUserToken",
            "A token for a user of this API.",
            "UserTokenRequest",
            make(Token::User),
        ),
        operation(
            Method::Secret,
            format!("/global-secrets/{ADMIN_SECRET}"),
            "getAdminUserToken",
            "The administrator's token, made when it is first asked for.",
            "GlobalSecret",
            routing::get(tokens::admin),
        ),
    ]
}

/// Reading and writing one resource of a kind.
fn item(kind: ResourceKind, path: String) -> [Operation; 3] {
    let word = kind.word();
    let read = routing::get(async move |State(api): State<Api>, asked: Asked| {
        get(&api, What::Resources(kind), &asked)
    });
    let put = routing::put(async move |State(api): State<Api>, asked: Asked, body: Body| {
        write::put(api, key(kind, &asked), asked, body).await
    });
    let delete = routing::delete(async move |State(api): State<Api>, asked: Asked| {
        write::delete(api, key(kind, &asked), asked).await
    });
    [
        operation(Method::Item, path.clone(), format!("get{word}"), format!("A {word}."), word, read),
        operation(
            Method::Put,
            path.clone(),
            format!("put{word}"),
            format!("Creates or changes a {word}."),
            word,
            put,
        ),
        operation(Method::Delete, path, format!("delete{word}"), format!("Removes a {word}."), word, delete),
    ]
}

fn listed(what: What, path: String, id: String, summary: String, schema: &str) -> Operation {
    let handler =
        routing::get(async move |State(api): State<Api>, asked: Asked| list(&api, what, &asked).await);
    operation(Method::List, path, id, summary, schema, handler)
}

/// The key of the resource that the URL names. A Mesh's name is where others have their mesh.
fn key(kind: ResourceKind, asked: &Asked) -> ResourceKey {
    let names = &asked.names;
    let name = if kind == ResourceKind::Mesh { &names.mesh } else { &names.name };
    ResourceKey::new(kind, &names.mesh, name)
}

fn get(api: &Api, what: What, asked: &Asked) -> Result<Response, Problem> {
    let view = api.view();
    let (at, etag) = match what {
        What::Resources(kind) => {
            let key = key(kind, asked);
            let listed = view.catalog.entries.get(&key).filter(|listed| listed.origin == Origin::Store);
            let etag = listed.map(|listed| etag(listed.document.revision));
            (Cursor { mesh: key.mesh, name: key.name }, etag)
        }
        What::Vips => {
            let names = &asked.names;
            (Cursor { mesh: names.mesh.as_str().into(), name: names.name.as_str().into() }, None)
        }
    };
    let listing = Listing { what, mesh: None };
    let item = listing.at(&view, &at).ok_or_else(|| Problem::not_found("Could not retrieve a resource"))?;
    let mut body = Vec::new();
    item.write(&view, &mut body);
    let mut response = write::json(StatusCode::OK, body);
    if let Some(etag) = etag {
        response.headers_mut().insert(ETAG, etag);
    }
    Ok(response)
}

async fn list(api: &Api, what: What, asked: &Asked) -> Result<Response, Problem> {
    let query = ListQuery::read(&asked.query)?;
    let view = api.view();
    let mesh = Some(asked.names.mesh.as_str()).filter(|mesh| !mesh.is_empty());
    if mesh.is_some_and(|mesh| !view.has_mesh(mesh)) {
        return Err(Problem::not_found("Failed to retrieve Mesh"));
    }
    let listing = Listing { what, mesh: mesh.map(Into::into) };
    if query.watch {
        return watch(api, listing, query);
    }
    let page = list::page(&listing, &query, &view, &asked.base(), &asked.uri).await;
    Ok(write::json(StatusCode::OK, page))
}

fn watch(api: &Api, listing: Listing, query: ListQuery) -> Result<Response, Problem> {
    let permit = api.watches.clone().try_acquire_owned().map_err(|_full| {
        Problem::busy("Too many watches", format!("{MAX_WATCHES} watches are open, which is the limit"))
    })?;
    let watch = Watch::new(listing, query.filter, api.sources.clone(), api.drain.clone(), permit);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok((headers, watch.into_body()).into_response())
}
