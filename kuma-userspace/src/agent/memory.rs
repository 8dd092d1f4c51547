//! The last view in a file, so that an agent that was killed answers mesh names again before the control plane has spoken:
//! until then the nameservers of the host would say that they do not exist, and applications would remember that.
//! Keeps: only names whose VIPs the kernel still routes, and only as long as no VIP can have gone to another service: a freed
//! one rests two TTLs (invariant 2). Called by agent/mod.rs (recall, forget) and views (remember, confirm).

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::{debug, info, warn};

use crate::model::view::MeshView;
use crate::wire::view;

/// TTLs that a freed VIP rests.
const RESTING_TTLS: u32 = 2;

/// The file, in the folder of the agent's socket.
#[derive(Clone, Debug)]
pub struct Memory {
    file: PathBuf,
}

impl Memory {
    /// Nothing is read or written yet.
    pub fn new(socket: &Path) -> Self {
        Self { file: socket.with_file_name("view") }
    }

    /// What is left of the last view: names whose VIPs are all among `routed`, if it was current not long before `now`.
    pub fn recall(&self, name: &str, routed: &BTreeSet<IpAddr>, now: SystemTime) -> Option<MeshView> {
        let current = std::fs::metadata(&self.file).and_then(|metadata| metadata.modified()).ok()?;
        let view = match std::fs::read(&self.file).map(|body| view::decode_whole(&body)) {
            Ok(Ok(view)) => view,
            Ok(Err(error)) => {
                warn!(file = %self.file.display(), %error, "the remembered view is not readable, starting without it");
                return None;
            }
            Err(error) => {
                debug!(file = %self.file.display(), %error, "no view is remembered");
                return None;
            }
        };
        let rest = Duration::from_secs(view.header().ttl_secs.into()) * RESTING_TTLS;
        // A clock that went back says nothing about the age.
        let age = now.duration_since(current).ok()?;
        if view.name() != name || age > rest {
            info!(view = view.name(), age_secs = age.as_secs(), "the remembered view is not used any more");
            return None;
        }
        let view = view.retain_names(|addresses| addresses.iter().all(|vip| routed.contains(&vip)));
        info!(
            view = name,
            names = view.names().len(),
            age_secs = age.as_secs(),
            "answering from memory until a view comes"
        );
        Some(view)
    }

    /// Writes the view. It is as good as the moment of this call.
    pub fn remember(&self, view: &MeshView) {
        let fresh = self.file.with_extension("new");
        let written = std::fs::write(&fresh, view::encode_whole(view))
            .and_then(|()| std::fs::rename(&fresh, &self.file));
        self.tell(written);
    }

    /// The view that was written is still the control plane's.
    pub fn confirm(&self) {
        self.tell(
            File::options()
                .append(true)
                .open(&self.file)
                .and_then(|file| file.set_modified(SystemTime::now())),
        );
    }

    /// Nothing is to be remembered: the datapath goes as well.
    pub fn forget(&self) {
        if let Err(error) = std::fs::remove_file(&self.file) {
            debug!(file = %self.file.display(), %error, "no view was remembered");
        }
    }

    fn tell(&self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            warn!(file = %self.file.display(), %error, "cannot remember the view for the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Hostname;
    use crate::model::view::{Addresses, Changes, Header, Part, Port, Route};

    fn view() -> MeshView {
        let ranges = vec!["240.0.0.0/4".parse().unwrap()];
        let header = Header { domain: Hostname::parse("mesh").unwrap(), ttl_secs: 60, ranges };
        let part = |(name, last): (&'static str, u8)| {
            let addresses = Addresses { v4: Some([240, 0, 0, last].into()), v6: None };
            let route = Route { vip: IpAddr::from([240, 0, 0, last]), port: Port::new(80) };
            (name, Part::new(vec![Hostname::parse(name).unwrap()], addresses, vec![route]).unwrap())
        };
        let parts = Changes::adding([("one.mesh", 1), ("two.mesh", 2)].map(part));
        MeshView::new("default", header).with(parts).unwrap()
    }

    #[test]
    fn names_that_still_route_are_recalled_until_their_vips_may_have_gone_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new(&folder.path().join("agent.sock"));
        let (routed, now) = (BTreeSet::from([IpAddr::from([240, 0, 0, 1])]), SystemTime::now());
        assert!(memory.recall("default", &routed, now).is_none(), "nothing is remembered yet");
        memory.remember(&view());
        let after = |secs| SystemTime::now() + Duration::from_secs(secs);
        let recalled = memory.recall("default", &routed, after(100)).unwrap();
        assert_eq!(recalled.names().keys().map(Hostname::as_str).collect::<Vec<_>>(), ["one.mesh"]);
        assert!(memory.recall("default", &routed, after(121)).is_none(), "two TTLs are over");
        assert!(memory.recall("other", &routed, after(1)).is_none(), "another view");
        memory.confirm();
        memory.forget();
        assert!(memory.recall("default", &routed, after(0)).is_none());
    }
}
