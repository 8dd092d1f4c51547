//! A made-up history of services that come and go. Pure: the number of a change says everything.
//! Called by the store's writer and by those who check what it left.

use std::collections::BTreeMap;

use kuma_dns::cp::store::documents::{Expected, Write};
use kuma_dns::model::resource::ServiceKey;

use crate::documents::{delete, put};

/// How many services there ever are.
const SERVICES: u64 = 40;

/// The services that are wanted after change `number`: each comes and goes at a pace of its own.
pub fn wanted(number: u64) -> BTreeMap<ServiceKey, ()> {
    let there = |service: &u64| !(number / (service % 7 + 1)).is_multiple_of(3);
    let key = |service: u64| (ServiceKey::new("default", &format!("service-{service}")), ());
    (0..SERVICES).filter(there).map(key).collect()
}

/// The documents that are there after change `number`, name and body: one for each service, all with the number in it.
pub fn documents(number: u64) -> BTreeMap<String, String> {
    let entry = |key: ServiceKey| (key.service.to_string(), format!("{{\"change\":{number}}}"));
    wanted(number).into_keys().map(entry).collect()
}

/// What makes those out of whatever was there.
pub fn writes(number: u64) -> Vec<Write> {
    let there = documents(number);
    let each = |name: String| match there.get(&name) {
        Some(body) => put(&name, body, Expected::Any),
        None => delete(&name, Expected::Any),
    };
    (0..SERVICES).map(|service| each(format!("service-{service}"))).collect()
}
