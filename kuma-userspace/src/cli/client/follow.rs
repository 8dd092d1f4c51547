//! Follows a list: first the whole, then every change. Keeps: a lost connection is made again, and what changed meanwhile
//! is told as if it had been seen; nothing that did not change is told. Called by get.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tokio::time::{sleep, timeout};

use super::events::{Decoder, Event};
use super::http::{Client, ClientError};
use super::kinds::{Scope, What};
use super::list::Item;

/// A server sends a comment at least every 15 seconds; after three of those it is gone.
const SILENCE: Duration = Duration::from_secs(45);
/// Rests before a connection is made again, doubled from the first to the last.
const FIRST_REST: Duration = Duration::from_millis(200);
const LAST_REST: Duration = Duration::from_secs(5);

/// What tells items of a list apart: mesh and name.
type Key = (String, String);

/// What is new.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::cli) enum Change {
    /// The list as it is when the following begins.
    Whole(Vec<Item>),
    Added(Item),
    Modified(Item),
    Deleted(Item),
    /// The connection is lost, for this reason, and will be made again.
    Lost(String),
    /// It is there again.
    Back,
}

/// A list that is followed.
pub(in crate::cli) struct Follow<'c> {
    client: &'c Client,
    path: String,
    picture: Picture,
    stream: Option<(Incoming, Decoder)>,
    changes: VecDeque<Change>,
    /// Since the last connection that gave the whole list.
    lost: bool,
    rest: Duration,
}

impl<'c> Follow<'c> {
    /// Follows everything of a kind, or what has this one name.
    pub(in crate::cli) fn new(client: &'c Client, what: What, scope: &Scope, only: Option<String>) -> Self {
        Self {
            client,
            path: format!("{}?watch=true", what.path(scope)),
            picture: Picture { only, ..Picture::default() },
            stream: None,
            changes: VecDeque::new(),
            lost: false,
            rest: FIRST_REST,
        }
    }

    /// Waits for the next change.
    ///
    /// # Errors
    /// The first connection fails, or the server will not be followed.
    pub(in crate::cli) async fn next(&mut self) -> Result<Change, ClientError> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Ok(change);
            }
            match self.step().await {
                Ok(()) => {}
                Err(error) if self.picture.known.is_some() && error.may_pass() => self.lose(&error).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Connects, or reads what has come.
    async fn step(&mut self) -> Result<(), ClientError> {
        let Some((body, decoder)) = &mut self.stream else {
            let response = self.client.open(&self.path).await?;
            let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
            if !kind.starts_with(b"text/event-stream") {
                let found = "a list that cannot be followed".to_owned();
                return Err(self.client.not_ours(found));
            }
            self.picture.begin();
            self.stream = Some((response.into_body(), Decoder::default()));
            return Ok(());
        };
        let broken = |source| ClientError::Broken { address: self.client.address().clone(), source };
        let frame = match timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(broken(error.into())),
            Ok(None) => return Err(broken("the server ended it".into())),
            Err(_elapsed) => return Err(broken(format!("silent for {} s", SILENCE.as_secs()).into())),
        };
        let events = decoder.push(frame.data_ref().map_or(&[], |data| data));
        for event in events.map_err(|error| self.client.not_ours(error.to_string()))? {
            let synced = event.name == "synced";
            let changes = self.picture.take(event).map_err(|found| self.client.not_ours(found))?;
            if synced && std::mem::take(&mut self.lost) {
                self.changes.push_back(Change::Back);
            }
            self.changes.extend(changes);
            self.rest = FIRST_REST;
        }
        Ok(())
    }

    async fn lose(&mut self, error: &ClientError) {
        self.stream = None;
        if !std::mem::replace(&mut self.lost, true) {
            self.changes.push_back(Change::Lost(error.to_string()));
            return;
        }
        sleep(self.rest).await;
        self.rest = (self.rest * 2).min(LAST_REST);
    }
}

/// What is known of the list. Pure.
#[derive(Default)]
struct Picture {
    /// Only this name counts.
    only: Option<String>,
    /// Nothing before the first whole list.
    known: Option<BTreeMap<Key, Item>>,
    /// A whole list on its way: everything since the connection was made.
    arriving: Option<BTreeMap<Key, Item>>,
}

impl Picture {
    /// Takes an event; an error is what is wrong with it.
    fn take(&mut self, event: Event) -> Result<Vec<Change>, String> {
        match event.name.as_str() {
            "synced" => Ok(self.synced()),
            "put" | "delete" => {
                let item = serde_json::from_str(&event.data).map(Item);
                let item = item.map_err(|error| format!("its event {} has {error}", event.name))?;
                if self.only.as_deref().is_some_and(|name| item.name() != name) {
                    return Ok(Vec::new());
                }
                Ok(self.changed(event.name == "put", item).into_iter().collect())
            }
            // What a later server may tell.
            _ => Ok(Vec::new()),
        }
    }

    fn changed(&mut self, is_put: bool, item: Item) -> Option<Change> {
        let key = item.key();
        let (is_live, map) = match (&mut self.known, &mut self.arriving) {
            (Some(known), None) => (true, known),
            (_, arriving) => (false, arriving.get_or_insert_default()),
        };
        if !is_put {
            let known = map.remove(&key);
            return known.filter(|_| is_live).map(Change::Deleted);
        }
        let before = map.insert(key, item.clone());
        match before {
            _ if !is_live => None,
            None => Some(Change::Added(item)),
            Some(before) if before == item => None,
            Some(_) => Some(Change::Modified(item)),
        }
    }

    /// The list is whole: what is different from what was known is told.
    fn synced(&mut self) -> Vec<Change> {
        let now = self.arriving.take().unwrap_or_default();
        let Some(before) = self.known.replace(now) else {
            return vec![Change::Whole(self.all().cloned().collect())];
        };
        let mut changes = Vec::new();
        for item in self.all() {
            match before.get(&item.key()) {
                None => changes.push(Change::Added(item.clone())),
                Some(before) if before == item => {}
                Some(_) => changes.push(Change::Modified(item.clone())),
            }
        }
        let now = self.known.as_ref();
        let gone = before.into_iter().filter(|(key, _)| now.is_none_or(|now| !now.contains_key(key)));
        changes.extend(gone.map(|(_, item)| Change::Deleted(item)));
        changes
    }

    fn all(&self) -> impl Iterator<Item = &Item> {
        self.known.iter().flat_map(BTreeMap::values)
    }

    /// The next event is the first of a new connection.
    fn begin(&mut self) {
        self.arriving = Some(BTreeMap::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(name: &str, port: u16) -> Item {
        Item(json!({"type": "X", "mesh": "m", "name": name, "port": port}))
    }

    fn event(name: &str, item: &Item) -> Event {
        Event { name: name.into(), data: item.0.to_string() }
    }

    fn synced() -> Event {
        Event { name: "synced".into(), data: "{}".into() }
    }

    fn picture_of(items: &[Item]) -> Picture {
        let mut picture = Picture::default();
        picture.begin();
        for item in items {
            assert_eq!(picture.take(event("put", item)), Ok(vec![]), "nothing before it is whole");
        }
        assert_eq!(picture.take(synced()), Ok(vec![Change::Whole(items.to_vec())]));
        picture
    }

    #[test]
    fn what_did_not_change_is_not_told() {
        let mut picture = picture_of(&[item("a", 1)]);
        for (event, want) in [
            (event("put", &item("a", 1)), vec![]),
            (event("put", &item("a", 2)), vec![Change::Modified(item("a", 2))]),
            (event("put", &item("b", 1)), vec![Change::Added(item("b", 1))]),
            (event("delete", &item("a", 0)), vec![Change::Deleted(item("a", 2))]),
            (event("delete", &item("a", 0)), vec![]),
            (event("later", &item("a", 0)), vec![]),
        ] {
            assert_eq!(picture.take(event), Ok(want));
        }
        assert!(picture.take(Event { name: "put".into(), data: "{".into() }).is_err());
    }

    #[test]
    fn what_changed_while_nobody_listened_is_told_after_the_next_whole_list() {
        let mut picture = picture_of(&[item("a", 1), item("b", 1), item("c", 1)]);
        picture.begin();
        for again in [item("a", 1), item("b", 2), item("d", 1)] {
            assert_eq!(picture.take(event("put", &again)), Ok(vec![]));
        }
        let want =
            vec![Change::Modified(item("b", 2)), Change::Added(item("d", 1)), Change::Deleted(item("c", 1))];
        assert_eq!(picture.take(synced()), Ok(want));
    }

    #[test]
    fn one_name_can_be_followed_alone() {
        let mut picture = Picture { only: Some("b".into()), ..Picture::default() };
        picture.begin();
        assert_eq!(picture.take(event("put", &item("a", 1))), Ok(vec![]));
        assert_eq!(picture.take(synced()), Ok(vec![Change::Whole(vec![])]));
        assert_eq!(picture.take(event("put", &item("b", 1))), Ok(vec![Change::Added(item("b", 1))]));
    }
}
