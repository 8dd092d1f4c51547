//! Lists and single items, page by page. Keeps: an item that moves between two pages is there once; a server that leads in
//! circles is noticed. Called by get and delete.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::address::segment;
use super::http::{Client, ClientError};
use super::kinds::{Scope, What};

/// Items of a page: the most that Kuma gives.
const PAGE: usize = 1_000;

/// One of what was listed, as the server sent it.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::cli) struct Item(pub(in crate::cli) Value);

impl Item {
    /// What tells it from the others of its list.
    pub(super) fn key(&self) -> (String, String) {
        (self.text("/mesh").to_owned(), self.name().to_owned())
    }

    /// Its own name.
    pub(super) fn name(&self) -> &str {
        self.text("/name")
    }

    /// A text at a JSON pointer; empty when there is none.
    pub(super) fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// A list at a JSON pointer; empty when there is none.
    pub(super) fn list(&self, pointer: &str) -> &[Value] {
        self.0.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Value>,
    #[serde(default)]
    next: Option<String>,
}

/// Everything of a kind, in order of mesh and name.
pub(in crate::cli) async fn all(
    client: &Client,
    what: What,
    scope: &Scope,
) -> Result<Vec<Item>, ClientError> {
    let mut path = format!("{}?size={PAGE}", what.path(scope));
    let mut found = BTreeMap::new();
    loop {
        let answer = client.get(&path).await?;
        let page: Page = client.json(&answer.body)?;
        let before = found.len();
        found.extend(page.items.into_iter().map(Item).map(|item| (item.key(), item)));
        let Some(next) = page.next else { break };
        path = match client.address().path_of(&next) {
            Some(next) if found.len() > before => next,
            _ => return Err(client.not_ours(format!("its next page is {next}"))),
        };
    }
    Ok(found.into_values().collect())
}

/// One of a kind; nothing when there is none of this name.
pub(in crate::cli) async fn one(
    client: &Client,
    what: What,
    scope: &Scope,
    name: &str,
) -> Result<Option<Item>, ClientError> {
    let path = format!("{}/{}", what.path(scope), segment(name));
    match client.get(&path).await {
        Ok(answer) => client.json(&answer.body).map(|value| Some(Item(value))),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}
