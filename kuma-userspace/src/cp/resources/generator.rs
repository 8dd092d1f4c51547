//! Kuma's HostnameGenerator: names for MeshServices and their like. Keeps: a template that cannot be parsed is refused
//! before anything is used. Called by cp::resources.

use super::Draft;
use super::meta;
use crate::cp::template::Parsed;
use crate::cp::violation::{FieldPath, Object, Reader};
use crate::cp::yaml::Node;
use crate::model::kind::{HostnameGenerator, Meta, Resource, ResourceKind, Tags};

const SPEC_FIELDS: [&str; 3] = ["selector", "template", "extension"];
const SELECTORS: [&str; 3] = ["meshService", "meshExternalService", "meshMultiZoneService"];
/// Names that are there from the start, as in Kuma; a resource of the same name replaces one.
const DEFAULTS: [(&str, &str); 3] = [
    ("local-universal-mesh-service", "{{ .DisplayName }}.svc.mesh.local"),
    ("local-mesh-external-service", "{{ .DisplayName }}.extsvc.mesh.local"),
    ("synced-mesh-multi-zone-service", "{{ .DisplayName }}.mzsvc.mesh.local"),
];

pub(super) fn read(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let opened = meta::open(reader, draft, node, ResourceKind::HostnameGenerator, &["spec"]);
    let Some((object, meta)) = opened else { return };
    let path = FieldPath::Field(&FieldPath::Document, "spec");
    let example = "{selector: {meshService: {}}, template: '{{ .DisplayName }}.mesh'}";
    let Some(spec) = meta::spec(reader, &object, &path, example, &SPEC_FIELDS) else { return };
    if let Some(node) = spec.get("extension") {
        let problem = "extensions of other programs are not served here: leave it out";
        reader.report(node.line, &path.field("extension"), problem);
    }
    let [mesh_service, mesh_external_service, mesh_multi_zone_service] =
        read_selector(reader, draft, &spec, &path.field("selector"));
    let template_path = path.field("template");
    let template = spec.get("template").and_then(|node| {
        let text = reader.text(node, &template_path)?;
        if let Err(error) = Parsed::new(text) {
            reader.report(node.line, &template_path, format!("couldn't parse template: {error}"));
        }
        Some(text.into())
    });
    if spec.get("template").is_none() {
        reader.report(spec.line, &template_path, "must not be empty");
    }
    let (Some(meta), Some(template)) = (meta, template) else { return };
    draft.add(Resource::HostnameGenerator(HostnameGenerator {
        meta,
        mesh_service,
        mesh_external_service,
        mesh_multi_zone_service,
        template,
    }));
}

fn read_selector(
    reader: &mut Reader<'_>,
    draft: &mut Draft,
    spec: &Object<'_>,
    path: &FieldPath<'_>,
) -> [Option<Tags>; 3] {
    let object = spec.get("selector").and_then(|node| reader.object(node, path, &SELECTORS));
    let found = SELECTORS.map(|kind| {
        let path = path.field(kind);
        let selector = reader.object(object.as_ref()?.get(kind)?, &path, &["matchLabels"])?;
        Some(meta::tags(reader, draft, &selector, &path, "matchLabels"))
    });
    if found.iter().flatten().count() != 1 {
        let problem =
            "exact one selector (meshService, meshExternalService, meshMultiZoneService) must be defined";
        reader.report(spec.line, path, problem);
    }
    found
}

/// The generators that are there from the start; a resource of the same name replaces one.
pub(super) fn defaults() -> impl Iterator<Item = HostnameGenerator> {
    DEFAULTS.into_iter().enumerate().map(|(at, (name, template))| {
        let mut selectors = [None, None, None];
        selectors[at] = Some(Tags::new());
        let [mesh_service, mesh_external_service, mesh_multi_zone_service] = selectors;
        HostnameGenerator {
            meta: Meta { name: name.into(), ..Meta::default() },
            mesh_service,
            mesh_external_service,
            mesh_multi_zone_service,
            template: template.into(),
        }
    })
}
