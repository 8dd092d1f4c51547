//! The resources that `apply` and `delete` are given: files, folders, stdin. Keeps: read and checked as the control plane
//! does it, every mistake at once, before anything is sent. Called by apply and delete.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use hyper::body::Bytes;

use super::kinds::shown_name;
use crate::cli::outcome::{Code, Failure, OrExit};
use crate::cp::registry::given::{self, Input};
use crate::cp::yaml::MAX_FILE_BYTES;
use crate::model::kind::ResourceKey;

/// A resource to work on.
pub(in crate::cli) struct Given {
    pub(super) key: ResourceKey,
    /// As JSON.
    pub(super) body: Bytes,
    /// Where it stands; nowhere when it was named on the command line.
    place: Option<String>,
}

impl Given {
    /// One that is only named.
    pub(in crate::cli) fn named(key: ResourceKey) -> Self {
        Self { key, body: Bytes::new(), place: None }
    }

    /// How it is called.
    pub(in crate::cli) fn shown(&self) -> String {
        shown_name(&self.key)
    }

    /// Which one a message is about, with a colon behind it.
    pub(super) fn told(&self) -> String {
        let name = self.shown();
        self.place.as_ref().map_or_else(|| format!("{name}: "), |place| format!("{place}: {name}: "))
    }
}

/// Reads and checks all of them; `-` is stdin.
pub(in crate::cli) fn read(paths: &[PathBuf]) -> Result<Vec<Given>, Failure> {
    let mut inputs = Vec::with_capacity(paths.len());
    for path in paths {
        inputs.push(if path == Path::new("-") {
            Input::Text { name: "stdin".into(), text: stdin().or_exit(Code::BadInput)? }
        } else {
            Input::Path(path.clone())
        });
    }
    let given = given::read(&inputs).or_exit(Code::BadInput)?;
    let resource = |given: given::Given| Given {
        place: Some(given.place.to_string()),
        body: Bytes::copy_from_slice(given.body.as_bytes()),
        key: given.key,
    };
    Ok(given.into_iter().map(resource).collect())
}

fn stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_string(&mut text).context("cannot read stdin")?;
    anyhow::ensure!(
        text.len() as u64 <= MAX_FILE_BYTES,
        "stdin has more than {MAX_FILE_BYTES} bytes: split it"
    );
    Ok(text)
}
