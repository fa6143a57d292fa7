//! An entry: what the tier knows of one task and input.
//!
//! Readers look at its [`Place`]; everything that changes an entry goes through its lock, which is held for a few stores and under which
//! no user code runs. The lock's content is the run under way. An entry that was removed stays so: whoever finds it in the map meanwhile
//! takes it out and makes another.

use std::any::TypeId;
use std::mem::ManuallyDrop;

use super::outcome::{Outcome, Place, Seen};
use super::run::Running;
use crate::context::CorePtr;
use crate::slot::{SlotPtr, name, new_node, type_id};
use crate::stack;
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, SeenArc};
use crate::task::{Input, Task};

/// An entry, of which the map's readers know the hash and the task; the input is last, so that its type can be forgotten.
pub(super) struct EntryOf<I: ?Sized> {
    pub(super) hash: u64,
    pub(super) task: &'static TaskMeta,
    pub(super) place: Place,
    /// How often it was hit of late, up to [`HOT`]; see [`super::bound`].
    hits: AtomicU8,
    /// Where the bound has it; changed under its lock only.
    pub(super) queued: AtomicU8,
    removed: AtomicBool,
    /// The run under way.
    pub(super) run: Mutex<Option<SeenArc<Running>>>,
    input: ManuallyDrop<I>,
}

pub(super) type Entry = EntryOf<dyn AnyInput>;

/// An entry's lock, held.
pub(super) type Lock<'e> = MutexGuard<'e, Option<SeenArc<Running>>>;

/// More hits than this are not counted: a hot entry is read only.
pub(super) const HOT: u8 = 3;

/// What an entry does with its input.
pub(super) trait AnyInput: Send + Sync {
    /// # Safety
    /// The other one is of the same type.
    unsafe fn is(&self, other: &dyn AnyInput) -> bool;
    /// A new entry for an equal input.
    fn renew(&self, hash: u64, task: &'static TaskMeta) -> Arc<Entry>;
}

impl<In: Input> AnyInput for In {
    unsafe fn is(&self, other: &dyn AnyInput) -> bool {
        // SAFETY: the promise of the caller.
        *self == *unsafe { &*std::ptr::from_ref(other).cast::<In>() }
    }

    fn renew(&self, hash: u64, task: &'static TaskMeta) -> Arc<Entry> {
        Entry::make(hash, task, self.clone())
    }
}

impl Entry {
    /// The task is one that takes an `In`.
    pub(super) fn make<In: Input>(hash: u64, task: &'static TaskMeta, input: In) -> Arc<Self> {
        Arc::new(EntryOf {
            hash,
            task,
            place: Place::new(),
            hits: AtomicU8::new(0),
            queued: AtomicU8::new(0),
            removed: AtomicBool::new(false),
            run: Mutex::new(None),
            input: ManuallyDrop::new(input),
        })
    }

    /// # Safety
    /// The task takes an `In`.
    #[inline(always)]
    pub(super) unsafe fn input<In>(&self) -> &In {
        // SAFETY: the promise of the caller: the entry was made with one.
        unsafe { &*std::ptr::from_ref::<dyn AnyInput>(&*self.input).cast::<In>() }
    }

    #[inline(always)]
    pub(super) fn is_of(&self, task: &'static TaskMeta) -> bool {
        std::ptr::eq(self.task, task) || self.task.type_id == task.type_id
    }

    /// Whether the other one is of the same task, with an equal input.
    pub(super) fn is(&self, other: &Self) -> bool {
        // SAFETY: entries of one task have inputs of one type.
        self.hash == other.hash && self.is_of(other.task) && unsafe { self.input.is(&*other.input) }
    }

    /// What there is that may be given at this time, for who has the lock (of which `_lock` is the proof). What is given up under it is a
    /// count, and never the last one.
    pub(super) fn outcome_at(&self, _lock: &Lock<'_>, now: u64) -> Option<Outcome> {
        let live = |seen: Option<Seen<'_>>| {
            seen.filter(|seen| now < seen.expires())
                .map(|seen| seen.take())
        };
        // SAFETY: the lock is held.
        unsafe { self.place.look_locked(live) }
    }

    pub(super) fn renew(&self) -> Arc<Self> {
        self.input.renew(self.hash, self.task)
    }

    #[inline(always)]
    pub(super) fn mark_hit(&self) {
        // ORDER: Relaxed, both; a guess at how hot it is. Two hits at once may count as one.
        let hits = self.hits.load(Ordering::Relaxed);
        if hits < HOT {
            self.hits.store(hits + 1, Ordering::Relaxed);
        }
    }

    pub(super) fn hits(&self) -> u8 {
        // ORDER: Relaxed; as above.
        self.hits.load(Ordering::Relaxed)
    }

    pub(super) fn set_hits(&self, hits: u8) {
        // ORDER: Relaxed; as above.
        self.hits.store(hits, Ordering::Relaxed);
    }

    pub(super) fn is_removed(&self) -> bool {
        // ORDER: Acquire; set under the entry's lock, and read under it, or under the bound's by who pushes the entry there: the one
        // that removes it goes to the bound after it has set this.
        self.removed.load(Ordering::Acquire)
    }

    /// For who has the entry's lock.
    pub(super) fn set_removed(&self) {
        // ORDER: Release; as above.
        self.removed.store(true, Ordering::Release);
    }
}

impl<I: ?Sized> Drop for EntryOf<I> {
    fn drop(&mut self) {
        // SAFETY: this is the input's end, and it is not used after it.
        stack::contain(|| unsafe { ManuallyDrop::drop(&mut self.input) });
    }
}

/// What the entries of a task know to do.
pub(crate) struct TaskMeta {
    /// As in the `Meta` of its slots.
    pub(super) type_id: TypeId,
    pub(super) name: fn() -> &'static str,
    /// The slot of a run of its own, in that context; clones the input, so it may unwind.
    pub(super) root: unsafe fn(CorePtr, &Entry) -> SlotPtr,
    /// Moves the value out.
    pub(super) take: unsafe fn(SlotPtr) -> Outcome,
}

/// What the entries of a task know to do.
pub(super) const fn task_meta<G, F, In>() -> &'static TaskMeta
where
    G: Send + Sync + 'static,
    F: Task<G, In>,
    In: Input,
{
    const {
        &TaskMeta {
            type_id: type_id::<G, F, In>(),
            name: name::<G, F, In>,
            root: root::<G, F, In>,
            take: take::<G, F, In>,
        }
    }
}

/// # Safety
/// The entry is of this task.
unsafe fn root<G, F, In>(core: CorePtr, entry: &Entry) -> SlotPtr
where
    G: Send + Sync + 'static,
    F: Task<G, In>,
    In: Input,
{
    // SAFETY: the promise of the caller.
    let input = unsafe { entry.input::<In>() }.clone();
    new_node::<G, F, In>(core, entry.hash, input)
}

/// # Safety
/// The slot is of this task, was seen DONE, and only the caller knows it.
unsafe fn take<G, F, In>(slot: SlotPtr) -> Outcome
where
    G: Send + Sync + 'static,
    F: Task<G, In>,
    In: Input,
{
    // SAFETY: the promise of the caller.
    let value = unsafe { slot.take_value() };
    // SAFETY: it is the task's, and not in the slot any more.
    Outcome::value(unsafe { value.cast::<F::Value>().read() })
}
