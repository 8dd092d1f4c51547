//! Kuma's VirtualOutbound: names made up from tags. Keeps: Kuma's rules, and both templates rendered once with made-up
//! values, so that what cannot work is refused before anything is used. Called by cp::resources.

use std::sync::Arc;

use super::meta;
use super::{Draft, required};
use crate::cp::template::Parsed;
use crate::cp::violation::{FieldPath, Object, Reader};
use crate::cp::yaml::Node;
use crate::model::kind::{Resource, ResourceKind, SERVICE_TAG, Tags, VirtualOutbound};
use crate::model::name::Hostname;

const CONF_FIELDS: [&str; 3] = ["host", "port", "parameters"];
/// Values for the trial, as in Kuma.
const TRIAL_HOST: &str = "dummy";
const TRIAL_PORT: &str = "1";

pub(super) fn read(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let opened = meta::open(reader, draft, node, ResourceKind::VirtualOutbound, &["selectors", "conf"]);
    let Some((object, meta)) = opened else { return };
    let root = FieldPath::Document;
    let selectors = read_selectors(reader, draft, &object, &root.field("selectors"));
    let path = root.field("conf");
    let Some(node) = object.get("conf") else {
        return reader.report(object.line, &path, "has to be defined");
    };
    let Some(conf) = reader.object(node, &path, &CONF_FIELDS) else { return };
    let parameters = read_parameters(reader, &conf, &path.field("parameters"));
    let host = read_template(reader, &conf, &path, "host", |text| trial_host(text, &parameters));
    let port = read_template(reader, &conf, &path, "port", |text| trial_port(text, &parameters));
    let (Some(meta), Some(host), Some(port)) = (meta, host, port) else { return };
    let selectors = selectors.into();
    draft.add(Resource::VirtualOutbound(VirtualOutbound { meta, selectors, host, port, parameters }));
}

fn read_selectors(
    reader: &mut Reader<'_>,
    draft: &mut Draft,
    object: &Object<'_>,
    path: &FieldPath<'_>,
) -> Vec<Tags> {
    let items = object.get("selectors").map_or(&[][..], |node| reader.list(node, path));
    if items.is_empty() {
        reader.report(object.line, path, "must have at least one element");
    }
    let mut selectors = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        let Some(selector) = reader.object(item, &path, &["match"]) else { continue };
        let tags = meta::tags(reader, draft, &selector, &path, "match");
        if selector
            .get("match")
            .is_none_or(|node| matches!(&node.value, crate::cp::yaml::Value::Map(map) if map.is_empty()))
        {
            reader.report(item.line, &path.field("match"), "must have at least one tag");
        }
        selectors.push(tags);
    }
    selectors
}

fn read_parameters(reader: &mut Reader<'_>, conf: &Object<'_>, path: &FieldPath<'_>) -> Tags {
    let mut parameters: Vec<(&str, &str)> = Vec::new();
    let items = conf.get("parameters").map_or(&[][..], |node| reader.list(node, path));
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        let Some(object) = reader.object(item, &path, &["name", "tagKey"]) else { continue };
        let name_path = path.field("name");
        let Some(name) = required(reader, &object, &path, "name", "service") else { continue };
        let Some(text) = reader.text(name, &name_path) else { continue };
        if !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            let problem = format!("{text:?} must consist of alphanumeric characters");
            reader.report(name.line, &name_path, problem);
        }
        let tag_path = path.field("tagKey");
        let tag = match object.get("tagKey") {
            Some(node) => reader.text(node, &tag_path).filter(|tag| {
                let valid = tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:".contains(&b));
                if !valid {
                    reader.report(node.line, &tag_path, format!("{tag:?} must be a valid tag name"));
                }
                valid
            }),
            None => Some(text),
        };
        let Some(tag) = tag else { continue };
        if parameters.iter().any(|(known, _)| *known == text) {
            let problem = format!("parameter {text:?} is given twice: keep one of them");
            reader.report(name.line, &name_path, problem);
        }
        parameters.push((text, tag));
    }
    if !parameters.iter().any(|(_, tag)| *tag == SERVICE_TAG) {
        let problem = format!("must contain a parameter with {SERVICE_TAG} as a tagKey");
        reader.report(conf.line, path, problem);
    }
    parameters.into_iter().collect()
}

fn read_template(
    reader: &mut Reader<'_>,
    conf: &Object<'_>,
    path: &FieldPath<'_>,
    field: &'static str,
    trial: impl FnOnce(&str) -> Result<(), String>,
) -> Option<Arc<str>> {
    let path = path.field(field);
    let Some(node) = conf.get(field) else {
        reader.report(conf.line, &path, "has to be defined");
        return None;
    };
    // A port may stand there as a number.
    let text = match &node.value {
        crate::cp::yaml::Value::Number(number) => number.as_str(),
        _ => reader.text(node, &path)?,
    };
    if let Err(error) = trial(text) {
        reader.report(node.line, &path, format!("template pre evaluation failed with error='{error}'"));
        return None;
    }
    Some(text.into())
}

fn trial(text: &str, parameters: &Tags, value: &str) -> Result<String, String> {
    let values = parameters.names().map(|name| (name, value)).collect();
    Parsed::new(text)?.with_parameters(&values)
}

fn trial_host(text: &str, parameters: &Tags) -> Result<(), String> {
    let host = trial(text, parameters, TRIAL_HOST)?;
    Hostname::parse(&host).map(|_| ()).map_err(|error| error.to_string())
}

fn trial_port(text: &str, parameters: &Tags) -> Result<(), String> {
    let port = trial(text, parameters, TRIAL_PORT)?;
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("{port:?} is no port: it must be a number from 1 to 65535")),
        Ok(_) => Ok(()),
    }
}
