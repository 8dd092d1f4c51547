//! The last view on disk, so that an agent answers mesh names and routes VIPs from its first moment on, also while there is no
//! control plane. A view may be old: the control plane gives addresses that nobody has had first and lets freed ones rest,
//! so what is remembered leads to the wrong service only where a pool is used up; how old it is, is in the status.
//! Keeps: what is read is what was written as a whole. Called by agent/mod.rs (recall, forget) and by its [`Writer`].

mod file;
mod writer;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{debug, info, warn};

use self::file::FileError;
pub(super) use self::writer::Writer;
use crate::model::view::MeshView;

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    file: PathBuf,
}

/// A view that an earlier agent wrote down.
pub(super) struct Recalled {
    pub(super) view: Arc<MeshView>,
    /// When the control plane stood by it last.
    pub(super) confirmed: SystemTime,
}

impl Memory {
    /// Nothing is read or written yet.
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file }
    }

    /// The last view of this name.
    pub(super) fn recall(&self, name: &str) -> Option<Recalled> {
        let confirmed = std::fs::metadata(&self.file).and_then(|metadata| metadata.modified()).ok()?;
        let view = match file::read(&self.file) {
            Ok(view) => view,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(file = %self.file.display(), error, "the remembered view is not readable, starting without it");
                return None;
            }
        };
        if view.name() != name {
            info!(
                remembered = view.name(),
                wanted = name,
                "the remembered view is another one, starting without it"
            );
            return None;
        }
        let (names, age_secs) = (view.names().len(), age_secs(confirmed, SystemTime::now()));
        info!(view = name, names, age_secs, "serving the remembered view until the control plane speaks");
        Some(Recalled { view: Arc::new(view), confirmed })
    }

    /// Nothing is to be remembered.
    pub(super) fn forget(&self) {
        if let Err(error) = std::fs::remove_file(&self.file) {
            debug!(file = %self.file.display(), %error, "no view was remembered");
        }
    }

    /// Writes the view. It is as good as the moment of this call.
    fn remember(&self, view: &MeshView) {
        self.tell(file::write(&self.file, view));
    }

    /// The view that was written is still the control plane's.
    fn confirm(&self) {
        let confirmed = File::options().append(true).open(&self.file);
        let confirmed = confirmed.and_then(|file| file.set_modified(SystemTime::now()));
        self.tell(confirmed.map_err(|source| FileError::Io { verb: "date", source }));
    }

    fn tell(&self, outcome: Result<(), FileError>) {
        if let Err(error) = outcome {
            let error = &error as &dyn std::error::Error;
            warn!(file = %self.file.display(), error, "cannot remember the view for the next start");
        }
    }
}

/// How long ago that was. A clock that went back says nothing.
pub(super) fn age_secs(confirmed: SystemTime, now: SystemTime) -> u64 {
    now.duration_since(confirmed).map_or(0, |age| age.as_secs())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::name::Hostname;
    use crate::model::view::{Addresses, Changes, Header, Part, Port, Route};

    pub(super) fn view(name: &str) -> MeshView {
        let ranges = vec!["240.0.0.0/4".parse().unwrap()];
        let header = Header { domain: Hostname::parse("mesh").unwrap(), ttl_secs: 60, ranges };
        let part = |(name, last): (&'static str, u8)| {
            let addresses = Addresses { v4: Some([240, 0, 0, last].into()), v6: None };
            let route = Route { vip: [240, 0, 0, last].into(), port: Port::new(80) };
            (name, Part::new(vec![Hostname::parse(name).unwrap()], addresses, vec![route]).unwrap())
        };
        let parts = Changes::adding([("one.mesh", 1), ("two.mesh", 2)].map(part));
        MeshView::new(name, header).with(parts).unwrap()
    }

    #[test]
    fn a_view_is_recalled_with_its_age_however_old_it_is_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new(folder.path().join("not/there/yet/view"));
        assert!(memory.recall("default").is_none(), "nothing is remembered yet");
        memory.remember(&view("default"));
        let long_ago = SystemTime::now() - Duration::from_secs(1_000_000);
        File::options().append(true).open(&memory.file).unwrap().set_modified(long_ago).unwrap();
        let recalled = memory.recall("default").unwrap();
        assert_eq!(*recalled.view, view("default"));
        assert!(age_secs(recalled.confirmed, SystemTime::now()) >= 1_000_000);
        assert!(memory.recall("other").is_none(), "another view");
        memory.confirm();
        assert!(age_secs(memory.recall("default").unwrap().confirmed, SystemTime::now()) < 1_000);
        memory.forget();
        assert!(memory.recall("default").is_none());
    }
}
