//! What a list is asked for: how many, from where, which of them, once or for good. Kuma's parameters, and `watch`.
//! Keeps: every parameter that cannot be meant is reported, all at once. Pure. Called by rest::list.

use std::sync::Arc;

use super::listing::Cursor;
use super::problem::{Given, Parameter, Problem};

/// Items of a page, unless `size` says otherwise; Kuma's numbers.
pub(super) const PAGE: usize = 100;
pub(super) const MAX_PAGE: usize = 1000;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListQuery {
    pub(super) size: usize,
    pub(super) offset: Offset,
    pub(super) filter: Filter,
    pub(super) watch: bool,
}

/// Where a page begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offset {
    /// So many items are left out: a number that somebody thought of.
    Skip(usize),
    /// Behind this item: what `next` of the page before said. The item itself need not be there any more.
    After(Cursor),
}

/// Which items are meant; everything when empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// A part of the name.
    pub(super) name: Option<String>,
    pub(super) labels: Vec<(String, String)>,
}

impl Filter {
    pub(super) fn is_empty(&self) -> bool {
        self.name.is_none() && self.labels.is_empty()
    }
}

impl ListQuery {
    /// Reads the parameters of a URL. Those that Kuma does not know either are left alone.
    pub(super) fn read(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let mut query = Self { size: PAGE, offset: Offset::Skip(0), filter: Filter::default(), watch: false };
        let mut wrong = Vec::new();
        for (key, value) in pairs {
            if let Err(reason) = query.take(key, value) {
                wrong.push(Parameter::new(Given::Query, key, reason));
            }
        }
        if wrong.is_empty() {
            Ok(query)
        } else {
            Err(Problem::invalid("Could not retrieve resources", wrong))
        }
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "size" => self.size = size(value)?,
            "offset" => self.offset = offset(value)?,
            "name" => self.filter.name = (!value.is_empty()).then(|| value.to_owned()),
            "watch" => {
                self.watch = match value {
                    "true" | "1" | "" => true,
                    "false" | "0" => false,
                    _ => return Err(format!("{value:?} is neither true nor false")),
                }
            }
            "format" if !matches!(value, "" | "universal") => {
                return Err(format!("{value:?} is not served: leave it out for the Universal form"));
            }
            _ if key.starts_with("filter[") => {
                self.filter.labels.push((label(key)?.to_owned(), value.to_owned()));
            }
            _ => {}
        }
        Ok(())
    }
}

fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ 1..=MAX_PAGE) => Ok(size),
        Ok(size) if size > MAX_PAGE => {
            Err(format!("invalid page size of {size}. Maximum page size is {MAX_PAGE}"))
        }
        _ => Err("Invalid format".into()),
    }
}

/// A number, or what [`Cursor`] prints.
fn offset(text: &str) -> Result<Offset, String> {
    if let Some((mesh, name)) = text.split_once('/') {
        return Ok(Offset::After(Cursor { mesh: Arc::from(mesh), name: Arc::from(name) }));
    }
    text.parse().map(Offset::Skip).map_err(|_not_a_number| "Invalid format".into())
}

/// The label of `filter[labels.KEY]`; `label` was Kuma's earlier spelling.
fn label(key: &str) -> Result<&str, &'static str> {
    let inside = key.strip_prefix("filter[").unwrap_or_default();
    let Some(rest) = inside.strip_prefix("labels.").or_else(|| inside.strip_prefix("label.")) else {
        return Err("filters are only supported on labels: write filter[labels.KEY]=VALUE");
    };
    match rest.strip_suffix(']') {
        Some(label) if !label.is_empty() && !label.contains(']') => Ok(label),
        _ => Err("advanced filters are not supported"),
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<ListQuery, Problem> {
        let owned = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ListQuery::read(&owned.collect::<Vec<_>>())
    }

    #[test]
    fn kumas_parameters_are_read_and_strangers_are_left_alone() {
        let query = read(&[
            ("size", "1000"),
            ("offset", "default/redis"),
            ("name", "red"),
            ("filter[labels.kuma.io/zone]", "east"),
            ("filter[label.a]", "b"),
            ("gateway", "false"),
            ("format", "universal"),
            ("watch", "true"),
        ]);
        let labels = vec![("kuma.io/zone".to_owned(), "east".to_owned()), ("a".to_owned(), "b".to_owned())];
        let cursor = Cursor { mesh: "default".into(), name: "redis".into() };
        let want = ListQuery {
            size: 1000,
            offset: Offset::After(cursor),
            filter: Filter { name: Some("red".into()), labels },
            watch: true,
        };
        assert_eq!(query.unwrap(), want);
        let plain = read(&[("offset", "200")]).unwrap();
        assert_eq!((plain.size, plain.offset, plain.watch), (PAGE, Offset::Skip(200), false));
        assert!(plain.filter.is_empty());
    }

    #[test]
    fn every_parameter_that_cannot_be_meant_is_refused() {
        for (key, value) in [
            ("size", "0"),
            ("size", "1001"),
            ("size", "many"),
            ("offset", "-1"),
            ("watch", "maybe"),
            ("format", "kubernetes"),
            ("filter[status]", "x"),
            ("filter[labels.a", "x"),
            ("filter[labels.]", "x"),
            ("filter[labels.a][eq]", "x"),
        ] {
            let refused = read(&[(key, value)]).unwrap_err().into_response();
            assert_eq!(refused.status(), 400, "{key}={value}");
        }
    }
}
