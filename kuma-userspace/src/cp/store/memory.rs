//! A store that forgets: for tests, and for a control plane that shall leave nothing behind.
//! Keeps: the same rules as the others, except that nothing survives the process. Called by cp::publish.

use std::collections::BTreeMap;

use super::{Loaded, Store, StoreError};
use crate::cp::allocator::Changes;
use crate::cp::record::Record;
use crate::model::resource::ServiceKey;

/// Records in memory.
#[derive(Debug, Default)]
pub struct Memory {
    records: BTreeMap<ServiceKey, Record>,
}

impl Memory {
    fn expect(&self, record: &Record) -> Result<(), StoreError> {
        let found = self.records.get(&record.service).map_or(0, |stored| stored.version);
        if found == record.version {
            return Ok(());
        }
        Err(StoreError::Conflict { service: record.service.clone(), expected: record.version, found })
    }
}

impl Store for Memory {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        Ok(Loaded { records: self.records.values().cloned().collect(), ..Loaded::default() })
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        changes.puts.iter().chain(&changes.deletes).try_for_each(|record| self.expect(record))?;
        for record in &changes.deletes {
            self.records.remove(&record.service);
        }
        for record in &changes.puts {
            let stored = Record { version: record.version + 1, ..record.clone() };
            self.records.insert(record.service.clone(), stored);
        }
        Ok(())
    }
}
