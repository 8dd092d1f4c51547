//! What can be listed, by the words that people use: singular, plural, with Kuma's dashes or without. Pure.
//! Called by get and delete, and by list (where it is).

use super::address::segment;
use crate::model::kind::{ResourceKey, ResourceKind};

/// How alike two words must be (Jaro-Winkler, 0 to 1) for one to be suggested instead of the other.
const ALIKE: f64 = 0.8;

/// What is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cli) enum What {
    /// VIPs, as the services that they stand for.
    Services,
    Vips,
    Resources(ResourceKind),
}

/// Words for what is no resource.
const OWN: [(&str, What); 2] = [("services", What::Services), ("vips", What::Vips)];

/// Which meshes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::cli) enum Scope {
    All,
    Mesh(String),
}

impl What {
    /// Everything, by the word that help shows.
    pub(in crate::cli) fn all() -> impl Iterator<Item = (String, Self)> {
        let own = OWN.iter().map(|(word, what)| ((*word).to_owned(), *what));
        own.chain(shown().map(|kind| (plural(kind), Self::Resources(kind))))
    }

    /// The kind of this word.
    ///
    /// # Errors
    /// It is unknown; the message has the nearest word.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, String> {
        let word = plain(text);
        let found = Self::all().find(|(known, _)| *known == word || singular(known) == word);
        if let Some((_, what)) = found {
            return Ok(what);
        }
        let known: Vec<String> = Self::all().map(|(known, _)| known).collect();
        let score = |known: &str| strsim::jaro_winkler(&word, known);
        let nearest = known.iter().map(|known| (score(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
        Err(match nearest {
            Some((likeness, nearest)) if likeness >= ALIKE => {
                format!("{text:?} is no kind: did you mean {nearest:?}?")
            }
            _ => format!("{text:?} is no kind: use one of {}", known.join(", ")),
        })
    }

    /// One of it, for messages.
    pub(in crate::cli) fn singular(self) -> &'static str {
        match self {
            Self::Services => "service",
            Self::Vips => "VIP",
            Self::Resources(kind) => kind.word(),
        }
    }

    /// Does a mesh mean nothing to it?
    pub(in crate::cli) fn is_global(self) -> bool {
        matches!(self, Self::Resources(kind) if kind.is_global())
    }

    /// Where the list is.
    pub(super) fn path(self, scope: &Scope) -> String {
        let last = match self {
            Self::Services | Self::Vips => "vips",
            Self::Resources(kind) => kind.path(),
        };
        match scope {
            Scope::Mesh(mesh) if !self.is_global() => format!("/meshes/{}/{last}", segment(mesh)),
            _ => format!("/{last}"),
        }
    }
}

/// Where a resource is.
pub(super) fn path(key: &ResourceKey) -> String {
    let scope = if key.kind.is_global() { Scope::All } else { Scope::Mesh(key.mesh.to_string()) };
    format!("{}/{}", What::Resources(key.kind).path(&scope), segment(&key.name))
}

/// How a resource is called in what is printed: `meshservice/redis`.
pub(super) fn shown_name(key: &ResourceKey) -> String {
    format!("{}/{}", key.kind.word().to_lowercase(), key.name)
}

/// Kinds that REST shows.
fn shown() -> impl Iterator<Item = ResourceKind> {
    let hidden = |kind: &ResourceKind| matches!(kind, ResourceKind::Secret | ResourceKind::Service);
    ResourceKind::ALL.into_iter().filter(move |kind| !hidden(kind))
}

/// In lower case and without dashes.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).collect()
}

fn plural(kind: ResourceKind) -> String {
    plain(kind.path())
}

fn singular(plural: &str) -> &str {
    // Meshes and ingresses end in a hiss; services and dataplanes in a silent e.
    let hiss = plural.strip_suffix("es").filter(|stem| stem.ends_with("sh") || stem.ends_with("ss"));
    hiss.or_else(|| plural.strip_suffix('s')).unwrap_or(plural)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_many_spellings_and_one_meaning() {
        for (words, want) in [
            (&["service", "services"][..], What::Services),
            (&["vip", "vips", "VIPs"], What::Vips),
            (&["mesh", "meshes", "Mesh"], What::Resources(ResourceKind::Mesh)),
            (&["dataplane", "dataplanes"], What::Resources(ResourceKind::Dataplane)),
            (
                &["zoneingress", "zoneingresses", "zone-ingress", "zone-ingresses", "ZoneIngress"],
                What::Resources(ResourceKind::ZoneIngress),
            ),
            (
                &["external-service", "external-services", "externalservices"],
                What::Resources(ResourceKind::ExternalService),
            ),
            (&["virtual-outbounds", "virtualoutbound"], What::Resources(ResourceKind::VirtualOutbound)),
            (&["MeshService", "meshservices"], What::Resources(ResourceKind::MeshService)),
            (&["hostnamegenerator"], What::Resources(ResourceKind::HostnameGenerator)),
        ] {
            for word in words {
                assert_eq!(What::parse(word), Ok(want), "{word}");
            }
        }
        for kind in shown() {
            assert_eq!(What::parse(kind.word()), Ok(What::Resources(kind)));
            assert_eq!(What::parse(kind.path()), Ok(What::Resources(kind)));
        }
    }

    #[test]
    fn an_unknown_kind_gets_a_suggestion() {
        assert!(What::parse("meshservcies").unwrap_err().contains("did you mean \"meshservices\"?"));
        let far = What::parse("pods").unwrap_err();
        assert!(far.contains("services, vips, meshes, dataplanes"), "{far}");
        assert!(What::parse("secrets").is_err(), "they are never shown");
    }

    #[test]
    fn paths_are_kumas() {
        let mesh = Scope::Mesh("default".into());
        let at = |what: What, scope: &Scope| what.path(scope);
        assert_eq!(at(What::Vips, &mesh), "/meshes/default/vips");
        assert_eq!(at(What::Services, &Scope::All), "/vips");
        assert_eq!(
            at(What::Resources(ResourceKind::ExternalService), &mesh),
            "/meshes/default/external-services"
        );
        assert_eq!(at(What::Resources(ResourceKind::Mesh), &mesh), "/meshes");
        let key = ResourceKey::new(ResourceKind::MeshService, "a b", "redis");
        assert_eq!(path(&key), "/meshes/a%20b/meshservices/redis");
        assert_eq!(path(&ResourceKey::new(ResourceKind::ZoneIngress, "x", "z")), "/zoneingresses/z");
        assert_eq!(shown_name(&key), "meshservice/redis");
    }
}
