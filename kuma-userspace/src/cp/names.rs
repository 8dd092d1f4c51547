//! Names of services under the mesh domain. Pure: the same services give the same names, in whatever order they come.
//! Keeps: a name belongs to one service of its mesh. A service's own name (`<tag>.<domain>`) goes before an alias (the
//! same with `_` as `.`); within each the service that sorts first by its bytes has it. Called by cp::publish.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::name::{Hostname, NameError};

/// Who is called what, in one mesh.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// Names by service; a service without one is absent.
    pub by_service: BTreeMap<String, BTreeSet<Hostname>>,
    pub conflicts: Vec<Conflict>,
}

/// Two services of a mesh wanted one name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Conflict {
    pub name: Hostname,
    pub winner: String,
    pub loser: String,
}

/// The service's own name: its tag under the domain.
///
/// # Errors
/// A tag that is no DNS name.
pub fn canonical(service: &str, domain: &Hostname) -> Result<Hostname, NameError> {
    Hostname::parse(&format!("{service}.{domain}"))
}

/// The alias with dots, where it is another name and a valid one (`a__b` has none: it would hold an empty label).
pub(super) fn dotted(service: &str, domain: &Hostname) -> Option<Hostname> {
    let alias = service.contains('_').then(|| service.replace('_', "."))?;
    canonical(&alias, domain).ok()
}

/// The names of all services of one mesh.
pub fn of_mesh<'a>(domain: &Hostname, services: impl IntoIterator<Item = &'a str>) -> Names {
    let services: BTreeSet<&str> = services.into_iter().collect();
    let own = services.iter().filter_map(|service| Some((*service, canonical(service, domain).ok()?)));
    let aliases = services.iter().filter_map(|service| Some((*service, dotted(service, domain)?)));
    let mut owners: BTreeMap<Hostname, &str> = BTreeMap::new();
    let mut names = Names::default();
    for (service, name) in own.chain(aliases) {
        match owners.get(&name) {
            None => {
                names.by_service.entry(service.to_owned()).or_default().insert(name.clone());
                owners.insert(name, service);
            }
            Some(winner) if *winner == service => {}
            Some(winner) => {
                let (winner, loser) = ((*winner).to_owned(), service.to_owned());
                names.conflicts.push(Conflict { name, winner, loser });
            }
        }
    }
    names.conflicts.sort();
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mesh() -> Hostname {
        Hostname::parse("mesh").unwrap()
    }

    fn names_of(names: &Names, service: &str) -> Vec<String> {
        names.by_service.get(service).into_iter().flatten().map(ToString::to_string).collect()
    }

    #[test]
    fn a_service_has_its_tag_and_the_dotted_alias_as_names() {
        let names = of_mesh(&mesh(), ["echo-server_echo-example_svc_1010", "redis"]);
        let echo = names_of(&names, "echo-server_echo-example_svc_1010");
        assert_eq!(
            echo,
            ["echo-server.echo-example.svc.1010.mesh", "echo-server_echo-example_svc_1010.mesh"]
        );
        assert_eq!(names_of(&names, "redis"), ["redis.mesh"]);
        assert!(names.conflicts.is_empty());
    }

    #[test]
    fn an_own_name_goes_before_an_alias_and_the_conflict_names_both() {
        let names = of_mesh(&mesh(), ["a_b", "a.b"]);
        assert_eq!(names_of(&names, "a.b"), ["a.b.mesh"]);
        assert_eq!(names_of(&names, "a_b"), ["a_b.mesh"]);
        let name = Hostname::parse("a.b.mesh").unwrap();
        assert_eq!(names.conflicts, [Conflict { name, winner: "a.b".into(), loser: "a_b".into() }]);
    }

    #[test]
    fn names_that_differ_only_in_case_are_one_name() {
        let names = of_mesh(&mesh(), ["redis", "Redis"]);
        assert_eq!(names_of(&names, "Redis"), ["redis.mesh"]);
        assert!(names_of(&names, "redis").is_empty());
        assert_eq!(names.conflicts.len(), 1);
    }

    #[test]
    fn an_alias_that_is_no_name_is_left_out() {
        let names = of_mesh(&mesh(), ["a__b", "_a", "a_"]);
        assert_eq!(names_of(&names, "a__b"), ["a__b.mesh"]);
        assert_eq!(names_of(&names, "_a"), ["_a.mesh"]);
        assert_eq!(names_of(&names, "a_"), ["a_.mesh"]);
    }

    proptest! {
        #[test]
        fn any_order_of_the_same_services_gives_the_same_names(
            mut services in proptest::collection::vec("[ab._A]{1,5}", 0..40),
            seed in any::<u64>(),
        ) {
            let first = of_mesh(&mesh(), services.iter().map(String::as_str));
            let len = services.len().max(1);
            services.rotate_left(usize::try_from(seed % len as u64).unwrap());
            services.reverse();
            services.extend(services.clone().into_iter().take(3));
            prop_assert_eq!(first, of_mesh(&mesh(), services.iter().map(String::as_str)));
        }

        #[test]
        fn no_name_belongs_to_two_services(services in proptest::collection::vec("[ab._A]{1,5}", 0..40)) {
            let names = of_mesh(&mesh(), services.iter().map(String::as_str));
            let all: Vec<_> = names.by_service.values().flatten().collect();
            let distinct: BTreeSet<_> = all.iter().collect();
            prop_assert_eq!(all.len(), distinct.len());
        }
    }
}
