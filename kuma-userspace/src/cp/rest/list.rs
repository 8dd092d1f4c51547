//! One page of a listing in Kuma's envelope: `total`, `items`, `next`.
//! Keeps: a page costs what it shows, and a filter what it looks through; neither holds a thread for long. Called by
//! rest::routes.

use axum::http::Uri;

use super::asked::Base;
use super::listing::{Cursor, Item, Listing, View};
use super::query::{Filter, ListQuery, Offset};

/// Items that are looked at, or written, before others get their turn on the thread.
const LOOKED_AT: usize = 4_096;
const WRITTEN: usize = 64;

/// The items of a page and what stands around them.
struct Page {
    /// The items, separated by commas.
    items: Vec<u8>,
    written: usize,
    /// Items that are meant, on all pages.
    total: usize,
    last: Option<Cursor>,
    more: bool,
}

/// The page as it is answered.
pub(super) async fn page(listing: &Listing, query: &ListQuery, view: &View, at: &Base, uri: &Uri) -> Vec<u8> {
    let page = collect(listing, query, view).await;
    let next = page.last.filter(|_| page.more).map(|last| next(at, uri, &last));
    let next = serde_json::to_string(&next).expect("a text is JSON");
    let mut out = format!("{{\"total\":{},\"items\":[", page.total).into_bytes();
    out.extend_from_slice(&page.items);
    out.extend_from_slice(format!("],\"next\":{next}}}").as_bytes());
    out
}

async fn collect(listing: &Listing, query: &ListQuery, view: &View) -> Page {
    let (mut skip, mut cursor) = match &query.offset {
        Offset::Skip(count) => (*count, None),
        Offset::After(cursor) => (0, Some(cursor.clone())),
    };
    let filtered = !query.filter.is_empty();
    let total = if filtered { 0 } else { listing.total(view) };
    let mut page = Page { items: Vec::new(), written: 0, total, last: None, more: false };
    if filtered {
        page.total = count(listing, &query.filter, view).await;
    }
    loop {
        let (mut looked_at, mut written) = (0, 0);
        for item in listing.walk(view, cursor.as_ref()) {
            if !item.is_meant(&query.filter) {
            } else if skip > 0 {
                skip -= 1;
            } else if page.written == query.size {
                page.more = true;
                return page;
            } else {
                page.push(&item, view);
                written += 1;
            }
            looked_at += 1;
            if looked_at == LOOKED_AT || written == WRITTEN {
                cursor = Some(item.cursor());
                break;
            }
        }
        if looked_at < LOOKED_AT && written < WRITTEN {
            return page;
        }
        tokio::task::yield_now().await;
    }
}

async fn count(listing: &Listing, filter: &Filter, view: &View) -> usize {
    let (mut total, mut cursor) = (0, None);
    loop {
        let mut looked_at = 0;
        for item in listing.walk(view, cursor.as_ref()) {
            total += usize::from(item.is_meant(filter));
            looked_at += 1;
            if looked_at == LOOKED_AT {
                cursor = Some(item.cursor());
                break;
            }
        }
        if looked_at < LOOKED_AT {
            return total;
        }
        tokio::task::yield_now().await;
    }
}

impl Page {
    fn push(&mut self, item: &Item<'_>, view: &View) {
        if self.written > 0 {
            self.items.push(b',');
        }
        item.write(view, &mut self.items);
        self.written += 1;
        self.last = Some(item.cursor());
    }
}

/// Where the next page is: this URL with another `offset`.
fn next(at: &Base, uri: &Uri, last: &Cursor) -> String {
    let others = uri.query().unwrap_or_default().split('&');
    let others = others.filter(|pair| !pair.is_empty() && pair.split('=').next() != Some("offset"));
    let offset = format!("offset={}", escape(&last.to_string()));
    let query: Vec<&str> = std::iter::once(offset.as_str()).chain(others).collect();
    format!("{at}{}?{}", uri.path(), query.join("&"))
}

/// Everything but what may stand in a query as it is.
fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:".contains(&b);
    text.bytes().fold(String::new(), |mut escaped, b| {
        if plain(b) {
            escaped.push(char::from(b));
        } else {
            escaped += &format!("%{b:02X}");
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_this_one_from_another_offset() {
        let at = Base { scheme: "http", host: "cp:5681".into() };
        let last = Cursor { mesh: "default".into(), name: "a b&ü".into() };
        let next = |uri: &str| next(&at, &uri.parse().unwrap(), &last);
        assert_eq!(next("/meshservices"), "http://cp:5681/meshservices?offset=default/a%20b%26%C3%BC");
        assert_eq!(
            next("/meshservices?size=2&offset=default/x&name=a"),
            "http://cp:5681/meshservices?offset=default/a%20b%26%C3%BC&size=2&name=a"
        );
    }
}
