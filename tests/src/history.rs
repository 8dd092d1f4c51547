//! A made-up history of services that come and go. Pure: the number of a change says everything.
//! Called by the store's writer and by those who check what it left.

use std::collections::BTreeMap;

use kuma_dns::model::resource::ServiceKey;

/// The services that are wanted after change `number`: each comes and goes at a pace of its own.
pub fn wanted(number: u64) -> BTreeMap<ServiceKey, ()> {
    let there = |service: &u64| !(number / (service % 7 + 1)).is_multiple_of(3);
    let key = |service: u64| (ServiceKey::new("default", &format!("service-{service}")), ());
    (0..40).filter(there).map(key).collect()
}
