//! The map of a tier: from task and input to entry.
//!
//! Outside of the models it is `papaya`. Nothing of it leaves this file: no guard lives across an await or is given to a caller, and what
//! runs under one is a comparison of inputs. An entry is matched by the whole input, so a full collision makes a path longer, never
//! wrong; a removal names the entry by its address, so it never takes a newer one of the same input.
//!
//! Freed entries drop their inputs wherever the last reader leaves; what such a destructor panics with ends in [`Entry`]'s own.

use super::entry::Entry;
use crate::sync::Arc;

#[cfg(loom)]
pub(super) use stand_in::Map;
#[cfg(not(loom))]
pub(super) use with_papaya::Map;

#[cfg(not(loom))]
mod with_papaya {
    use super::{Arc, Entry};
    use papaya::{Equivalent, HashMap};
    use std::hash::{BuildHasherDefault, Hash, Hasher};

    pub(in crate::shared) struct Map(HashMap<Stored, (), BuildHasherDefault<Hashed>>);

    /// An entry as the map's key; equal are entries of one task with equal inputs.
    struct Stored(Arc<Entry>);

    impl Hash for Stored {
        fn hash<H: Hasher>(&self, state: &mut H) {
            state.write_u64(self.0.hash);
        }
    }

    impl PartialEq for Stored {
        fn eq(&self, other: &Self) -> bool {
            self.0.is(&other.0)
        }
    }

    impl Eq for Stored {}

    /// What is looked for: a hash, and what tells whether an entry is it.
    struct Wanted<P>(u64, P);

    impl<P> Hash for Wanted<P> {
        #[inline]
        fn hash<H: Hasher>(&self, state: &mut H) {
            state.write_u64(self.0);
        }
    }

    impl<P: Fn(&Arc<Entry>) -> bool> Equivalent<Stored> for Wanted<P> {
        #[inline]
        fn equivalent(&self, stored: &Stored) -> bool {
            stored.0.hash == self.0 && self.1(&stored.0)
        }
    }

    /// Inputs are hashed before they come here.
    #[derive(Default)]
    struct Hashed(u64);

    impl Hasher for Hashed {
        fn write(&mut self, _: &[u8]) {
            unreachable!("a key is hashed by its number")
        }
        #[inline]
        fn write_u64(&mut self, hash: u64) {
            self.0 = hash;
        }
        #[inline]
        fn finish(&self) -> u64 {
            self.0
        }
    }

    impl Map {
        pub(in crate::shared) fn new() -> Self {
            Self(
                HashMap::builder()
                    .hasher(BuildHasherDefault::default())
                    .build(),
            )
        }

        /// Shows the entry with this hash that `is` accepts to `f`.
        #[inline(always)]
        pub(in crate::shared) fn find<R>(
            &self,
            hash: u64,
            is: impl Fn(&Arc<Entry>) -> bool,
            f: impl FnOnce(&Arc<Entry>) -> R,
        ) -> Option<R> {
            let guard = self.0.guard();
            let (stored, ()) = self.0.get_key_value(&Wanted(hash, is), &guard)?;
            Some(f(&stored.0))
        }

        /// The entry that is equal to `new`; `new` itself if there is none.
        pub(in crate::shared) fn find_or_insert(&self, new: &Arc<Entry>) -> Arc<Entry> {
            let guard = self.0.guard();
            loop {
                let wanted = Wanted(new.hash, |entry: &Arc<Entry>| entry.is(new));
                if let Some((stored, ())) = self.0.get_key_value(&wanted, &guard) {
                    return stored.0.clone();
                }
                if self.0.try_insert(Stored(new.clone()), (), &guard).is_ok() {
                    return new.clone();
                }
            }
        }

        /// Takes this very entry out.
        pub(in crate::shared) fn remove(&self, entry: &Arc<Entry>) {
            let guard = self.0.guard();
            let wanted = Wanted(entry.hash, |other: &Arc<Entry>| Arc::ptr_eq(entry, other));
            self.0.remove(&wanted, &guard);
        }

        /// The entries that `wanted` accepts.
        pub(in crate::shared) fn select(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<Arc<Entry>> {
            let guard = self.0.guard();
            let entries = self.0.keys(&guard);
            let wanted = entries.filter(|stored| wanted(&stored.0));
            wanted.map(|stored| stored.0.clone()).collect()
        }
    }
}

/// The stand-in for the models, which cannot see into papaya: a list under a lock.
#[cfg(loom)]
mod stand_in {
    use super::{Arc, Entry};
    use crate::sync::{Mutex, lock};

    pub(in crate::shared) struct Map(Mutex<Vec<Arc<Entry>>>);

    impl Map {
        pub(in crate::shared) fn new() -> Self {
            Self(Mutex::new(Vec::new()))
        }

        pub(in crate::shared) fn find<R>(
            &self,
            hash: u64,
            is: impl Fn(&Arc<Entry>) -> bool,
            f: impl FnOnce(&Arc<Entry>) -> R,
        ) -> Option<R> {
            let entries = lock(&self.0);
            let found = entries.iter().find(|entry| entry.hash == hash && is(entry));
            let found = found.cloned();
            drop(entries);
            found.map(|entry| f(&entry))
        }

        pub(in crate::shared) fn find_or_insert(&self, new: &Arc<Entry>) -> Arc<Entry> {
            let mut entries = lock(&self.0);
            let found = entries.iter().find(|entry| entry.is(new)).cloned();
            found.unwrap_or_else(|| {
                entries.push(new.clone());
                new.clone()
            })
        }

        pub(in crate::shared) fn remove(&self, entry: &Arc<Entry>) {
            let mut entries = lock(&self.0);
            let at = entries.iter().position(|other| Arc::ptr_eq(entry, other));
            let removed = at.map(|at| entries.swap_remove(at));
            drop(entries);
            drop(removed);
        }

        pub(in crate::shared) fn select(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<Arc<Entry>> {
            let entries = lock(&self.0);
            entries
                .iter()
                .filter(|entry| wanted(entry))
                .cloned()
                .collect()
        }
    }
}
