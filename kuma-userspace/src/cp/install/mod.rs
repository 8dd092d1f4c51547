//! Tells a cluster's own DNS where mesh names are answered: patches the ConfigMap of CoreDNS or kube-dns as text. Pure.
//!
//! Reading order: [`configmap`] (which ConfigMaps of the input, what they say), [`corefile`] and [`stub_domains`] (what to
//! write into them), [`place`] (where it stands).
//!
//! Keeps: everything foreign stays octet by octet, and the result is read back to prove it; patched twice is patched
//! once; what is not understood is refused with file, line and key. Called by cli/install.

mod configmap;
mod corefile;
mod place;
mod stub_domains;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use self::configmap::{ConfigMap, Kind};
use super::violation::{FieldPath, Invalid, Reader};
use super::yaml::{self, Node};
use crate::model::name::Hostname;

/// What the cluster's DNS must do.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Names under this domain ...
    pub domain: Hostname,
    /// ... are asked of the control plane's DNS server here,
    pub to: SocketAddr,
    /// which is called so in comments: `kuma-control-plane in kuma-system`.
    pub service: String,
}

/// The input with every ConfigMap of it patched.
#[derive(Debug)]
pub struct Patched {
    pub text: String,
    pub configmaps: Vec<Target>,
}

/// A ConfigMap of the input and what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub name: String,
    /// Where in it the domain is forwarded: `Corefile`.
    pub key: String,
    pub changed: bool,
}

/// Patches every ConfigMap of CoreDNS or kube-dns in `text`, YAML or JSON; `file` names it in messages.
///
/// # Errors
/// All that is not understood, with its place.
pub fn patch(file: &Path, text: &str, forward: &Forward) -> Result<Patched, Invalid> {
    let mut violations = Vec::new();
    let mut reader = Reader { file: Arc::from(file), violations: &mut violations };
    let patched = patch_all(&mut reader, text, forward);
    Invalid::check(violations)?;
    Ok(patched.expect("whoever gives up has reported why"))
}

fn patch_all(reader: &mut Reader<'_>, text: &str, forward: &Forward) -> Option<Patched> {
    let mut text = text.to_owned();
    let (mut configmaps, mut number) = (Vec::new(), 0);
    loop {
        let documents = read(reader, &text)?;
        let found = configmap::find(reader, &documents)?;
        if number == 0 && found.is_empty() {
            reader.report(
                0,
                &FieldPath::Document,
                "no ConfigMap of CoreDNS or kube-dns is in it: print one with \
                 `kubectl -n kube-system get configmap coredns -o yaml` (or kube-dns)",
            );
        }
        let Some(configmap) = found.get(number) else {
            return Some(Patched { text, configmaps });
        };
        let (target, new) = patch_one(reader, &text, &documents, configmap, forward)?;
        configmaps.push(target);
        text = new;
        number += 1;
    }
}

fn read(reader: &mut Reader<'_>, text: &str) -> Option<Vec<Node>> {
    let read = yaml::parse(text);
    read.map_err(|error| reader.report(error.line, &FieldPath::Document, error.problem)).ok()
}

fn patch_one(
    reader: &mut Reader<'_>,
    text: &str,
    documents: &[Node],
    configmap: &ConfigMap<'_>,
    forward: &Forward,
) -> Option<(Target, String)> {
    let key = configmap.kind.key();
    let data = FieldPath::Document.field("data");
    let path = data.field(key);
    let mut refuse = |line, problem: String| {
        reader.report(line, &path, format!("{problem} (ConfigMap {})", configmap.name));
    };
    if let Some(line) = configmap.managed {
        refuse(
            line,
            "the cluster's addon manager writes this ConfigMap back (label addonmanager.kubernetes.io/mode: Reconcile): \
             patch coredns-custom, which it imports"
                .into(),
        );
        return None;
    }
    let (field, old) = (configmap.value(key), configmap.text(key));
    let line = field.map_or(configmap.line, |field| field.line);
    if let (Some(field), None) = (field, old) {
        refuse(line, format!("expected a text, found {}", field.node.value.describe()));
        return None;
    }
    let old = old.unwrap_or("");
    let written = field.and_then(|field| place::written(text, field));
    let wanted = match configmap.kind {
        Kind::CoreDns => corefile::patch(old, forward).map_err(|error| {
            let line = match (&written, error.line()) {
                (Some(place::Written::Literal { first_line, .. }), Some(at)) => first_line + at as u64 - 1,
                _ => line,
            };
            refuse(line, error.to_string());
        }),
        Kind::CoreDnsCustom => corefile::fragment(&configmap.neighbours(key), forward)
            .map_err(|error| refuse(line, error.to_string())),
        Kind::KubeDns => stub_domains::patch(old, forward).map_err(|error| refuse(line, error.to_string())),
    }
    .ok()?;
    let target = Target { name: configmap.name.to_owned(), key: key.to_owned(), changed: wanted != old };
    if !target.changed {
        return Some((target, text.to_owned()));
    }
    let new = match (field, &written) {
        (Some(_), Some(written)) => Some(place::replaced(text, written, &wanted)),
        (Some(_), None) => None,
        (None, _) => configmap.inserted(text, key, &wanted),
    };
    let proven = new.filter(|new| configmap::only_differs_in(text, documents, new, configmap, &wanted));
    if proven.is_none() {
        refuse(
            line,
            format!(
                "{key} is written in a way that cannot be changed in place: print the ConfigMap with `kubectl get -o yaml`"
            ),
        );
    }
    Some((target, proven?))
}

#[cfg(test)]
mod tests;
