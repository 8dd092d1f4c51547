//! A store whose calls are counted and timed. Called by cp in front of the real one.

use std::time::Instant;

use tokio::sync::watch;

use super::meters::{Call, Meters};
use crate::cp::allocator::Changes;
use crate::cp::store::{Loaded, Recent, Store, StoreError};

pub(in crate::cp) struct Metered {
    inner: Box<dyn Store>,
    meters: Meters,
}

impl Metered {
    pub(in crate::cp) fn new(inner: Box<dyn Store>, meters: Meters) -> Self {
        Self { inner, meters }
    }

    fn timed<T>(
        &mut self,
        call: Call,
        work: impl FnOnce(&mut dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let outcome = work(self.inner.as_mut());
        self.meters.stored(call, began.elapsed(), &outcome);
        outcome
    }
}

impl Store for Metered {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.timed(Call::Read, |store| store.load())
    }

    fn recent(&mut self) -> Result<Option<Recent>, StoreError> {
        self.timed(Call::Read, |store| store.recent())
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        self.timed(Call::Commit, |store| store.commit(changes))
    }

    fn news(&self) -> Option<watch::Receiver<u64>> {
        self.inner.news()
    }
}
