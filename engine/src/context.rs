//! The context: one unit of work. Its handles, its state, and how it ends.
//!
//! # Handles
//! `handles` counts two things in one word: every handle (low half) and those that the user made (high half). A body's handle knows its
//! slot and is not the user's; clones of it are bodies' handles too, so the user's number cannot rise from zero.
//!
//! | row | who | operation | pairs with | why |
//! |---|---|---|---|---|
//! | K1 | clone | add Relaxed | | the caller has a handle |
//! | K2 | drop of the only handle there is | load Acquire | K3 | nobody else can make one: it frees without another operation |
//! | K3 | drop | sub Release, the last one fence Acquire, then frees | K3 | what others did with the context is before its end |
//! | K4 | drop of the last handle of the user, with others left | CAS AcqRel: the user's number to 0, its own handle kept; close; K3 | | |
//!
//! # The handle that a body is given
//! It need not be counted while the poll that made the body is under way: whoever drives has a handle, so the context stays. So it is
//! *lent* (the slot's `lease`), and if the body ends in that poll, as most do, two operations on the contended word are spared. Otherwise
//! the poll ends by counting it, before the claim is given back. By induction every poll has a counted handle, or one that is lent by a
//! poll that has, further out or on another thread.
//!
//! | row | who | operation | pairs with | why |
//! |---|---|---|---|---|
//! | L1 | the poll that starts a body | load `HOME`, store `LENT`, both Relaxed | | the claim is held; not `HOME` if an earlier body's handle was moved elsewhere: this one is counted |
//! | L2 | drop inside the slot's own poll or drop | load Relaxed, store `HOME` Relaxed; if it was `COUNTED`: K3 | L3 | the poll is on this thread, and the handle is nobody else's |
//! | L3 | drop anywhere else | swap `HOME` AcqRel; if it was `COUNTED`: K3 | L4 | Release: what the handle was used for is before the end |
//! | L4 | the end of a poll | load Acquire; if it is still `LENT`: K1, then CAS `LENT` → `COUNTED` AcqRel, and if that fails K3 | L3 | Acquire: the handle that the poll relies on may be the next to go |
//!
//! `loom-tests/tests/lent_handle.rs` fails with any of L1 to L4 left out or weakened; `close_against_cancelled` with K5's fence left out.
//!
//! # The end
//! The reason is set once (K5), then every slot is closed (S11). A slot that is put in meanwhile is a matter of two words: who inserts
//! links the slot (T2), then looks at the reason (K6), and closes its own slot if there is one; the closer sets the reason, then
//! reads the links (T3). All four are SeqCst, so at least one of the two sees the other.
//!
//! Memory goes with the last handle of any kind; a [`Held`](crate::Held) is one.

use std::any::{Any, TypeId};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;

use crate::batch::{self, Batch};
use crate::cycle::Graph;
use crate::error::{TaskError, TaskErrorKind};
use crate::held::{Counted, HANDLE, HANDLES, Keeper};
use crate::links::Links;
use crate::observe::{self, Watch};
use crate::parallel::{BoxedCall, RunAll};
#[cfg(feature = "tokio")]
use crate::parallel::{Calls, Parallel, ParallelAll};
use crate::room::{Room, Taken};
use crate::run::{Caller, Run, RunFresh, value_of};
#[cfg(any(feature = "shared", loom))]
use crate::shared::{self, Tier};
use crate::slot::{self, Slot, SlotPtr, Word, meta, new_node, type_id};
#[cfg(any(feature = "shared", loom))]
use crate::sync::Arc;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering, fence};
#[cfg(feature = "tokio")]
use crate::sync::{free_made, get_or_make};
use crate::table::{Gap, Table};
#[cfg(feature = "tokio")]
use crate::task::Call;
use crate::task::{Input, Key, Task};
use crate::wake::{Hub, Park};

const USER: u64 = 1 << 32;

/// How deep tasks may start one another unless [`Builder::max_depth`] says otherwise.
const MAX_DEPTH: usize = 200_000;

/// The part of a context that does not depend on its state.
#[repr(C)]
pub(crate) struct Core {
    /// The handles, and how the context is freed. First: a [`Held`](crate::Held) knows no more of a context.
    counted: Counted,
    /// The state: beside this, or in the second tier.
    state: NonNull<()>,
    table: Table,
    seed: &'static SharedSeed,
    reason: AtomicU8,
    max_depth: u32,
    /// There is a deadline or a token to look at; see [`Links`].
    linked: bool,
    /// Somebody is told what happens; see [`crate::observe`].
    observed: bool,
    options: Option<Box<Options>>,
    graph: Mutex<Graph>,
    /// Who awaits [`Ctx::cancelled`].
    hub: AtomicPtr<Hub>,
    /// The runtime in which a body of this context was first pending. (std's: no model has a runtime.)
    #[cfg(feature = "tokio")]
    runtime: std::sync::atomic::AtomicPtr<tokio::runtime::Handle>,
    taken: Taken,
    /// The context is that of a run of the second tier: what its body calls is asked for there.
    #[cfg(any(feature = "shared", loom))]
    tier: Option<Arc<Tier>>,
}

/// What most contexts do not have.
#[derive(Default)]
pub(crate) struct Options {
    links: Links,
    pub(crate) watch: Watch,
    fakes: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    /// How many keys a batch takes, by batch function.
    max_batch: HashMap<TypeId, usize>,
}

/// A context with its state.
#[repr(C)]
struct CoreOf<S> {
    core: Core,
    /// Behind the core whatever `S` is: see `CorePtr::place`.
    room: Room,
    state: S,
}

/// A task's stand-in, as [`Builder::replace`] keeps it.
pub(crate) type Fake<S, In, T, E> =
    Box<dyn Fn(Ctx<S>, In) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send>> + Send + Sync>;

/// Why a context is closed; what `Core::reason` holds.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reason {
    Cancelled = 1,
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))] // deadlines come with tokio
    Deadline = 2,
    HandlesGone = 3,
    #[cfg(feature = "http")]
    RequestOver = 4,
}

const OPEN: u8 = 0;
/// `Reason::RequestOver`, which is there with the feature `http` only.
const REQUEST_OVER: u8 = 4;

/// A context by address; whoever holds one holds or borrows a handle, which keeps the memory.
#[derive(Clone, Copy)]
pub(crate) struct CorePtr(NonNull<Core>);

// SAFETY: a context is shared by design; its state, inputs, values and errors are Send and Sync (the bounds of `Ctx` and `Task`).
unsafe impl Send for CorePtr {}
// SAFETY: as above.
unsafe impl Sync for CorePtr {}

impl Deref for CorePtr {
    type Target = Core;
    #[inline(always)]
    fn deref(&self) -> &Core {
        // SAFETY: whoever holds a `CorePtr` holds or borrows a handle.
        unsafe { self.0.as_ref() }
    }
}

/// The slot whose body has a handle, and whether the handle was lent (then it is the one that the body was given).
#[derive(Clone, Copy)]
struct Owner(NonNull<Slot>);

const LENT_TAG: usize = 1;

// SAFETY: as for `SlotPtr`, which it is.
unsafe impl Send for Owner {}
// SAFETY: as above.
unsafe impl Sync for Owner {}

impl Owner {
    fn new(slot: SlotPtr, lent: bool) -> Self {
        // A slot's address is even: it is aligned to 8.
        let tagged = slot.as_ptr().map_addr(|at| at | usize::from(lent));
        // SAFETY: a slot is not at null.
        Self(unsafe { NonNull::new_unchecked(tagged) })
    }

    #[inline(always)]
    fn slot(self) -> SlotPtr {
        let slot = self.0.as_ptr().map_addr(|at| at & !LENT_TAG);
        // SAFETY: the address is that of the slot that `new` was given, which is not null.
        let slot = unsafe { NonNull::new_unchecked(slot) };
        // SAFETY: it came from a `SlotPtr` of the context whose handle this is.
        unsafe { SlotPtr::new(slot) }
    }

    #[inline(always)]
    fn is_lent(self) -> bool {
        self.0.addr().get() & LENT_TAG != 0
    }
}

/// A handle that does not keep the context open, without the state's type.
pub(crate) struct Strong(CorePtr);

impl Strong {
    pub(crate) fn core(&self) -> CorePtr {
        self.0
    }

    /// The handle, without saying whose.
    pub(crate) fn into_keeper(self) -> Keeper {
        let counted = std::mem::ManuallyDrop::new(self).0.0.cast();
        // SAFETY: the handle was this one's, and is not dropped.
        unsafe { Keeper::from_raw(counted) }
    }
}

impl Clone for Strong {
    fn clone(&self) -> Self {
        self.0.strong()
    }
}

impl Drop for Strong {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl CorePtr {
    /// One more handle (K1).
    pub(crate) fn strong(self) -> Strong {
        self.retain(HANDLE);
        Strong(self)
    }

    /// L4: the poll that lent a body its handle ends, and the body has not. The claim on the slot is held.
    #[inline]
    pub(crate) fn settle(self, slot: SlotPtr) {
        if slot.is_lent() {
            self.count(slot);
        }
    }

    #[cold]
    fn count(self, slot: SlotPtr) {
        self.retain(HANDLE);
        if !slot.count_lease() {
            self.release();
        }
    }

    /// More handles (K1).
    fn retain(self, handles: u64) {
        self.counted.retain(handles);
    }

    /// One handle less (K3).
    fn release(self) {
        // SAFETY: the handle that goes is the caller's.
        unsafe { Counted::release(self.0.cast()) };
    }

    /// One handle of the user less.
    #[inline]
    fn release_user(self) {
        // ORDER: Acquire (K2); pairs with K3.
        let w = self.counted.handles.load(Ordering::Acquire);
        if w == USER | HANDLE && !self.linked {
            self.end();
        } else {
            self.release_one_of_many(w);
        }
    }

    #[cold]
    fn release_one_of_many(self, mut w: u64) {
        loop {
            let last = w / USER == 1;
            let to = w - USER - if last { 0 } else { HANDLE };
            // ORDER: AcqRel (K3, K4).
            match self
                .counted
                .handles
                .compare_exchange(w, to, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) if last => {
                    self.close(Reason::HandlesGone);
                    return self.release();
                }
                Ok(_) => return,
                Err(now) => w = now,
            }
        }
    }

    /// Ends every wait and every run that is under way, once.
    pub(crate) fn close(self, reason: Reason) {
        // ORDER: SeqCst (K5); see "The end" above. AcqRel would let the walk miss a slot whose inserter missed the reason.
        let first =
            self.reason
                .compare_exchange(OPEN, reason as u8, Ordering::SeqCst, Ordering::Relaxed);
        if first.is_err() {
            return;
        }
        // ORDER: SeqCst; makes K5 and T3 one order with T2 and K6 also where the accesses alone would not (loom has no
        // total order of SeqCst accesses). And with `Cancelled::poll`: its hub is seen here, or the reason there.
        fence(Ordering::SeqCst);
        if let Some(options) = &self.options {
            options.links.disarm();
        }
        // ORDER: Relaxed; one handle is this thread's own, so nobody else has a slot or can make one.
        if reason != Reason::HandlesGone
            || self.counted.handles.load(Ordering::Relaxed) & HANDLES > HANDLE
        {
            self.table.each(|slot| slot.close(self));
        }
        self.wake_hub();
    }

    /// The context's runtime, if it has one.
    #[cfg(feature = "tokio")]
    pub(crate) fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        // ORDER: Acquire; pairs with the making of it.
        let runtime = self.runtime.load(std::sync::atomic::Ordering::Acquire);
        // SAFETY: it lives as long as the context.
        unsafe { runtime.as_ref() }
    }

    /// Makes this the context's runtime, if it has none. Gives it back if the context has another.
    #[cfg(feature = "tokio")]
    pub(crate) fn set_runtime(
        &self,
        runtime: tokio::runtime::Handle,
    ) -> Result<(), tokio::runtime::Handle> {
        let home = get_or_make(&self.runtime, || runtime.clone());
        // An id might be given again when its runtime has ended; then the bodies that are sent there find it gone, as they would find their own.
        if home.id() == runtime.id() {
            Ok(())
        } else {
            Err(runtime)
        }
    }

    fn wake_hub(self) {
        // ORDER: Acquire; pairs with the making of the hub.
        let hub = self.hub.load(Ordering::Acquire);
        // SAFETY: the hub lives as long as the context.
        if let Some(hub) = unsafe { hub.as_ref() } {
            hub.wake_all();
        }
    }

    /// Wakes everyone who waits in the context: what they relied on is gone.
    #[cfg(feature = "tokio")]
    pub(crate) fn wake_everyone(self) {
        self.table.each(|slot| slot.wake_all());
        self.wake_hub();
    }

    /// A place in the context's room, if there is one left.
    #[inline(always)]
    pub(crate) fn place<T>(self) -> Option<NonNull<T>> {
        // SAFETY: it is in the same allocation (`CoreOf`).
        let room = unsafe { self.0.byte_add(std::mem::offset_of!(CoreOf<()>, room)) };
        // SAFETY: the room behind a core is its own, and stays as long.
        unsafe { self.taken.take(room.cast()) }
    }

    #[inline]
    fn end(self) {
        // SAFETY: this was the last handle, so nobody has the context, a slot or a borrow of either.
        unsafe { (self.counted.free)(self.0.cast()) };
    }

    /// The slot for an input, made if there is none.
    #[inline(never)]
    pub(crate) fn find_or_insert<S, F, In, K>(self, hash: u64, key: K) -> SlotPtr
    where
        S: Send + Sync + 'static,
        F: Task<S, In>,
        In: Input + Input<K>,
    {
        match self
            .table
            .find(hash, |slot| is::<S, F, In, K>(slot, &key, true))
        {
            Ok((slot, _)) => slot,
            Err(gap) => self.insert::<S, F, In, K>(gap, hash, key),
        }
    }

    fn insert<S, F, In, K>(self, gap: Gap<'_>, hash: u64, key: K) -> SlotPtr
    where
        S: Send + Sync + 'static,
        F: Task<S, In>,
        In: Input + Input<K>,
    {
        let input = In::from_key(key);
        #[cfg(any(feature = "shared", loom))]
        let new = if self.tier.is_some() {
            New::observed(self, shared::new_node::<S, F, In>(hash, input))
        } else {
            New::make::<S, F, In>(self, hash, input)
        };
        #[cfg(not(any(feature = "shared", loom)))]
        let new = New::make::<S, F, In>(self, hash, input);
        // SAFETY: the slot was just made for this type of input.
        let input = unsafe { slot::input::<In>(new.0) };
        match gap.insert(new.0, |slot| is::<S, F, In, In>(slot, input, true)) {
            Ok(()) => self.inserted(new),
            Err((theirs, _)) => theirs,
        }
    }

    /// The slot for a key; if there is none, the one that `make` makes. `same` compares the inputs of two slots.
    pub(crate) fn find_or_put<K>(
        self,
        hash: u64,
        key: K,
        is: impl Fn(SlotPtr, &K) -> bool,
        make: impl FnOnce(K) -> SlotPtr,
        same: impl Fn(SlotPtr, SlotPtr) -> bool,
    ) -> SlotPtr {
        match self.table.find(hash, |slot| is(slot, &key)) {
            Ok((slot, _)) => slot,
            Err(gap) => {
                let new = New(make(key));
                match gap.insert(new.0, |slot| same(slot, new.0)) {
                    Ok(()) => self.inserted(new),
                    Err((theirs, _)) => theirs,
                }
            }
        }
    }

    /// The value that is kept for a task under `()`, made if there is none: without running anything, so it is there at once.
    pub(crate) fn kept<S, F>(self, task: F, make: impl FnOnce() -> F::Value) -> SlotPtr
    where
        S: Send + Sync + 'static,
        F: Task<S, ()>,
    {
        let _ = task;
        let hash = self.hash::<S, F, (), ()>(&());
        let is = |slot| is::<S, F, (), ()>(slot, &(), false);
        let put = |()| {
            let value = make();
            let slot = new_node::<S, F, ()>(self, hash, ());
            // SAFETY: the slot is of these types, and nobody else has it.
            unsafe { slot::write::<S, F, ()>(slot, value) };
            slot.begin_done();
            slot
        };
        self.find_or_put(hash, (), |slot, ()| is(slot), put, |slot, _| is(slot))
    }

    /// The slot with this hash that `is` accepts, if it is DONE.
    #[cfg(any(feature = "shared", loom))]
    #[inline(always)]
    pub(crate) fn find_done(self, hash: u64, is: impl Fn(SlotPtr) -> bool) -> Option<SlotPtr> {
        self.table.find_done(hash, is)
    }

    #[cfg(any(feature = "shared", loom))]
    #[inline(always)]
    pub(crate) fn hash_for<S, F: Task<S, In>, In: Input<K>, K>(self, key: &K) -> u64 {
        self.hash::<S, F, In, K>(key)
    }

    /// The state.
    ///
    /// # Safety
    /// The context has a state of this type, and outlives `'c`.
    #[cfg(any(feature = "shared", loom))]
    pub(crate) unsafe fn state<'c, S>(self) -> &'c S {
        // SAFETY: whoever holds a `CorePtr` holds or borrows a handle.
        let core = unsafe { self.0.as_ref() };
        // SAFETY: the promise of the caller.
        unsafe { core.state.cast().as_ref() }
    }

    /// Puts a slot in that only the caller knows.
    #[cfg(any(feature = "shared", loom))]
    pub(crate) fn put_private(self, slot: SlotPtr) -> SlotPtr {
        self.link_private(New(slot))
    }

    /// A slot that no look-up finds, for that many callers. [`link_private`](Self::link_private) comes after.
    pub(crate) fn new_private<S, F, In>(self, task: F, input: In, callers: usize) -> New
    where
        S: Send + Sync + 'static,
        F: Task<S, In>,
        In: Input,
    {
        let _ = task;
        let new = New::make::<S, F, In>(self, 0, input);
        new.0.count(callers);
        new
    }

    /// Gives a private slot to the context.
    pub(crate) fn link_private(self, new: New) -> SlotPtr {
        self.table.push_private(new.0);
        self.inserted(new)
    }

    /// The tier, if the context is that of a run there.
    #[cfg(any(feature = "shared", loom))]
    pub(crate) fn tier(&self) -> Option<&Arc<Tier>> {
        // SAFETY: whoever holds a `CorePtr` holds or borrows a handle.
        unsafe { self.0.as_ref() }.tier.as_ref()
    }

    /// See [`Ctx::prime`].
    pub(crate) fn prime<S, F, In, K>(
        self,
        task: F,
        input: K,
        value: F::Value,
    ) -> Result<(), F::Value>
    where
        S: Send + Sync + 'static,
        F: Task<S, In>,
        In: Input<K>,
    {
        let _ = task;
        let hash = self.hash::<S, F, In, K>(&input);
        let slot = self.find_or_insert::<S, F, In, K>(hash, input);
        if !slot.claim_prime() {
            return Err(value);
        }
        slot.publish_primed(self, || {
            // SAFETY: the slot is of these types (`find_or_insert`), the claim is ours, and there was nothing.
            unsafe { slot::write::<S, F, In>(slot, value) };
        });
        Ok(())
    }

    /// The hash of an input of a task.
    #[inline(always)]
    pub(crate) fn hash_of<S, F: Task<S, In>, In: Input>(self, task: F, input: &In) -> u64 {
        let _ = task;
        self.hash::<S, F, In, In>(input)
    }

    /// What [`Builder::max_batch`] was told of the batch function with this identity.
    pub(crate) fn max_batch(self, batch: TypeId) -> usize {
        let options = self.options.as_ref();
        let most = options.and_then(|options| options.max_batch.get(&batch));
        most.copied().unwrap_or(usize::MAX)
    }

    /// K6, after T2.
    fn inserted(self, new: New) -> SlotPtr {
        let slot = new.0;
        std::mem::forget(new);
        // ORDER: SeqCst; see `close`.
        #[cfg(loom)]
        fence(Ordering::SeqCst);
        // ORDER: SeqCst (K6); see "The end" above.
        if self.reason.load(Ordering::SeqCst) != OPEN {
            slot.close(self);
        }
        slot
    }
}

/// A slot that is not in the table yet: freed if `Eq` of an input unwinds, or if somebody else was first.
pub(crate) struct New(SlotPtr);

impl New {
    pub(crate) fn slot(&self) -> SlotPtr {
        self.0
    }

    #[inline]
    fn make<S, F, In>(core: CorePtr, hash: u64, input: In) -> Self
    where
        S: Send + Sync + 'static,
        F: Task<S, In>,
        In: Input,
    {
        Self::observed(core, new_node::<S, F, In>(core, hash, input))
    }

    /// A slot of a context that is observed says so.
    #[inline]
    fn observed(core: CorePtr, slot: SlotPtr) -> Self {
        if core.observed {
            slot.set_observed();
        }
        Self(slot)
    }
}

impl Drop for New {
    fn drop(&mut self) {
        // SAFETY: it was not linked, so nobody else has it.
        unsafe { self.0.free(None) };
    }
}

/// Whether the slot is the one for this task and input. If it `stands` for one of the second tier it has the same id and the same place for the
/// input, but not for the value.
#[inline(always)]
fn is<S, F, In, K>(slot: SlotPtr, key: &K, stands: bool) -> bool
where
    S: Send + Sync + 'static,
    F: Task<S, In>,
    In: Input + Input<K>,
{
    let mine = meta::<S, F, In>();
    // The same address is the same type; a copy of the constant elsewhere in the program is not the same address.
    if !std::ptr::eq(slot.meta, mine)
        && (slot.meta.type_id != mine.type_id || (slot.meta.stands && !stands))
    {
        return false;
    }
    // SAFETY: the slot is of these types, as its id says.
    let input = unsafe { slot::input::<In>(slot) };
    Input::<K>::is(input, key)
}

/// The value of a slot that is the one for this task.
///
/// # Safety
/// The slot has the id of these types, was seen DONE, and lives for `'c`.
#[inline(always)]
unsafe fn value_in<'c, S, F, In>(slot: SlotPtr) -> &'c F::Value
where
    S: Send + Sync + 'static,
    F: Task<S, In> + 'c,
    In: Input,
{
    if slot.meta.stands {
        // SAFETY: the promise of the caller; whatever the slot's layout, its `Meta` gives a value of this type.
        unsafe { value_of(slot) }
    } else {
        // SAFETY: the slot has the layout of these types; the rest is the promise of the caller.
        unsafe { slot::value::<S, F, In>(slot) }
    }
}

/// Takes the 64 bits that a `TypeId` gives to a hasher; they are well mixed already.
struct TypeSeed(u64);

impl Hasher for TypeSeed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 ^= n;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// What hashes are seeded with.
#[inline(always)]
pub(crate) fn seed() -> &'static SharedSeed {
    // A model must see the same order of slots in every execution.
    if cfg!(loom) {
        SharedSeed::global_fixed()
    } else {
        SharedSeed::global_random()
    }
}

/// A hasher for inputs of a task: seeded by the process and by the types.
#[inline(always)]
pub(crate) fn hasher<S, F: Task<S, In>, In: 'static>(
    seed: &'static SharedSeed,
) -> FoldHasher<'static> {
    let mut types = TypeSeed(0);
    type_id::<S, F, In>().hash(&mut types);
    FoldHasher::with_seed(types.finish(), seed)
}

impl Core {
    #[inline(always)]
    fn new(
        options: Option<Box<Options>>,
        state: NonNull<()>,
        max_depth: usize,
        free: unsafe fn(NonNull<Counted>),
    ) -> Self {
        // Before the table: what may unwind in between would have it made elsewhere and copied.
        let seed = seed();
        Self {
            counted: Counted {
                handles: AtomicU64::new(USER | HANDLE),
                free,
            },
            state,
            table: Table::new(),
            seed,
            reason: AtomicU8::new(OPEN),
            max_depth: u32::try_from(max_depth).unwrap_or(u32::MAX),
            linked: options.as_ref().is_some_and(|o| o.links.any()),
            observed: options.as_ref().is_some_and(|o| o.watch.is_active()),
            options,
            graph: Mutex::new(Graph::default()),
            hub: AtomicPtr::new(std::ptr::null_mut()),
            #[cfg(feature = "tokio")]
            runtime: std::sync::atomic::AtomicPtr::new(std::ptr::null_mut()),
            taken: Taken::new(),
            #[cfg(any(feature = "shared", loom))]
            tier: None,
        }
    }

    #[inline(always)]
    fn hasher<S, F: Task<S, In>, In: 'static>(&self) -> FoldHasher<'static> {
        hasher::<S, F, In>(self.seed)
    }

    #[inline(always)]
    fn hash<S, F: Task<S, In>, In: Input<K>, K>(&self, key: &K) -> u64 {
        let mut hasher = self.hasher::<S, F, In>();
        In::hash_key(key, &mut hasher);
        hasher.finish()
    }

    #[inline(always)]
    pub(crate) fn is_observed(&self) -> bool {
        self.observed
    }

    /// Who watches the context, if anybody does.
    pub(crate) fn watch(&self) -> Option<&Watch> {
        let options = self.options.as_ref()?;
        self.observed.then_some(&options.watch)
    }

    /// Calls `f` for each slot.
    pub(crate) fn each_slot(&self, f: impl FnMut(SlotPtr)) {
        self.table.each(f);
    }

    pub(crate) fn graph(&self) -> &Mutex<Graph> {
        // All runs of the second tier may wait for each other, so they share one.
        #[cfg(any(feature = "shared", loom))]
        if let Some(tier) = &self.tier {
            return tier.graph();
        }
        &self.graph
    }

    pub(crate) fn fakes(&self) -> Option<&HashMap<TypeId, Box<dyn Any + Send + Sync>>> {
        self.options.as_ref().map(|options| &options.fakes)
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        // ORDER: Acquire; pairs with K5. What a call may do is decided by its slot's word, not by this.
        self.reason.load(Ordering::Acquire) != OPEN
    }

    /// The error of a call that the end of the context ended.
    #[cold]
    pub(crate) fn closed_error(&self, task: &'static str) -> TaskError {
        // ORDER: Acquire; pairs with K5, and CLOSED was seen.
        let reason = self.reason.load(Ordering::Acquire);
        if reason == Reason::Deadline as u8 {
            let why = "was not done by the context's deadline; give the context more time, or the task less to do";
            TaskError::closed(task, TaskErrorKind::DeadlineExceeded, why)
        } else if reason == Reason::Cancelled as u8 {
            let why = "was cancelled with its context; call it in a context that is not cancelled";
            TaskError::closed(task, TaskErrorKind::Cancelled, why)
        } else if cfg!(feature = "http") && reason == REQUEST_OVER {
            let why = "was cancelled: its request is over, answered or left by the client; \
                       let the layer `linger`, or run it in the second tier";
            TaskError::closed(task, TaskErrorKind::Cancelled, why)
        } else {
            let why = "was cancelled: the last handle that the context's owner held is gone; \
                       keep a `Ctx` of the owner until the work is done";
            TaskError::closed(task, TaskErrorKind::Cancelled, why)
        }
    }
}

/// A user's handle without the state's type: it keeps the context open.
#[cfg(any(feature = "shared", loom))]
pub(crate) struct User(CorePtr);

#[cfg(any(feature = "shared", loom))]
impl User {
    /// A new context for a run of the second tier. Its state is the tier's.
    pub(crate) fn in_tier(tier: Arc<Tier>, max_depth: usize) -> Self {
        let core = std::mem::ManuallyDrop::new(Ctx::make((), None, max_depth)).core;
        // SAFETY: it was just made, and nobody else has it.
        let mine = unsafe { &mut *core.0.as_ptr() };
        // The state lives as long as the tier, which the context keeps.
        mine.state = tier.state();
        mine.tier = Some(tier);
        Self(core)
    }

    pub(crate) fn core(&self) -> CorePtr {
        self.0
    }
}

#[cfg(any(feature = "shared", loom))]
impl Drop for User {
    fn drop(&mut self) {
        self.0.release_user();
    }
}

impl CorePtr {
    /// Whether a run may start: how deep it would be, and whether the time is up.
    #[inline]
    pub(crate) fn check_start(self, slot: SlotPtr, body: Option<SlotPtr>) -> Result<(), TaskError> {
        if let Some(body) = body
            && body.depth() >= self.max_depth
        {
            return Err(TaskError::too_deep(slot.name(), self.max_depth as usize));
        }
        if self.linked {
            self.check_links();
            if self.is_closed() {
                return Err(self.closed_error(slot.name()));
            }
        }
        Ok(())
    }

    /// Whether a call may wait: a context with a deadline or a token must be told when they come.
    #[inline]
    pub(crate) fn check_wait(self, task: impl FnOnce() -> &'static str) -> Result<(), TaskError> {
        if !self.linked {
            return Ok(());
        }
        self.check_links();
        self.arm(task())
    }

    /// Closes the context if its deadline has passed or its token was cancelled.
    #[cold]
    fn check_links(self) {
        if let Some(options) = &self.options
            && let Some(reason) = options.links.due()
        {
            self.close(reason);
        }
    }

    #[cold]
    fn arm(self, task: &'static str) -> Result<(), TaskError> {
        match &self.options {
            Some(options) if !self.is_closed() => options.links.arm(self, task),
            _ => Ok(()),
        }
    }
}

/// A context: one unit of work, such as a web request. Every task runs at most once in it for each input.
///
/// A handle; clones are handles of the same context. A task gets one as its first argument.
///
/// # Concurrency
/// Calls may come from any number of threads. A value that is there is found without a lock, a count or an allocation.
///
/// # The end
/// The context closes when the last handle that *you* made goes, or by [`cancel`](Ctx::cancel), its deadline or its token: bodies are
/// dropped, and calls that wait return an error. Handles that tasks were given do not keep it open. Its memory goes with the last handle
/// of any kind. (So neither a value nor the state may hold a handle of the same context, yours or a body's, nor a
/// [`Held`](crate::Held) of it: that would be a loop, and the context would stay for good.)
///
/// # Examples
/// ```
/// use watershed::{Ctx, TaskError};
///
/// struct App { greeting: &'static str }
///
/// async fn name(_: Ctx<App>, id: u64) -> Result<String, std::io::Error> { Ok(format!("user {id}")) }
/// async fn greet(ctx: Ctx<App>, id: u64) -> Result<String, TaskError> {
///     let name = ctx.run(name, id).await?;                    // &String, shared with everyone in this context
///     Ok(format!("{}, {name}", ctx.state().greeting))
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let ctx = Ctx::new(App { greeting: "Hello" });              // one per request
/// assert_eq!(ctx.run(greet, 42).await?, "Hello, user 42");    // runs greet and name
/// assert_eq!(ctx.run(name, 42).await?, "user 42");            // already there
/// # Ok::<(), TaskError>(()) }).unwrap();
/// ```
pub struct Ctx<S> {
    core: CorePtr,
    /// The slot whose body has this handle; none for the user's.
    body: Option<Owner>,
    state: PhantomData<S>,
}

const _: () = assert!(size_of::<Ctx<()>>() == 2 * size_of::<usize>());

impl<S: Send + Sync + 'static> Ctx<S> {
    /// Makes a context. Tasks read its state with [`state`](Ctx::state).
    ///
    /// # Cost
    /// One allocation of some 960 bytes and the state; the first slots lie in it too.
    pub fn new(state: S) -> Self {
        Self::make(state, None, MAX_DEPTH)
    }

    /// Makes a context with a deadline, a cancellation token, stand-ins for tasks, or somebody who watches it.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use watershed::Ctx;
    /// async fn user(_: Ctx<()>, id: u64) -> Result<u64, String> { Ok(id) }
    ///
    /// let ctx = Ctx::builder(()).deadline(Duration::from_secs(2)).record(true).build();
    /// ctx.run(user, 7).wait().unwrap();
    /// assert_eq!(ctx.report().runs.len(), 1);
    /// ```
    pub fn builder(state: S) -> Builder<S> {
        Builder {
            state,
            options: Box::default(),
            max_depth: MAX_DEPTH,
        }
    }

    fn make(state: S, options: Option<Box<Options>>, max_depth: usize) -> Self {
        #[cfg(feature = "tracing")]
        let options = crate::trace::decide(options);
        let options = options.map(|mut options| {
            options.watch.begin();
            options
        });
        let context = Box::leak(Box::<CoreOf<S>>::new_uninit()).as_mut_ptr();
        // Part by part: the room is not written, and the core is written in its place and not copied there.
        let core = context.cast::<Core>(); // the first field
        // SAFETY: it is a place for a context, so this is one for a state.
        let place = unsafe { &raw mut (*context).state };
        // SAFETY: as above.
        unsafe { place.write(state) };
        // SAFETY: a field of a place is not null.
        let state = unsafe { NonNull::new_unchecked(place) }.cast();
        // SAFETY: as for the state.
        unsafe { core.write(Core::new(options, state, max_depth, Self::free)) };
        Self {
            // SAFETY: it came out of a box.
            core: CorePtr(unsafe { NonNull::new_unchecked(context.cast()) }),
            body: None,
            state: PhantomData,
        }
    }

    /// # Safety
    /// It is a context that was made with this state, and nobody has a handle any more.
    unsafe fn free(counted: NonNull<Counted>) {
        let core = CorePtr(counted.cast());
        let context = counted.cast::<CoreOf<S>>();
        if core.observed {
            observe::end(core);
        }
        // SAFETY: nobody has a handle, so nobody has a slot.
        unsafe { core.table.free(core) };
        // ORDER: Relaxed; nobody else is there.
        let hub = core.hub.load(Ordering::Relaxed);
        // SAFETY: the hub goes with its owner.
        unsafe { Hub::release(hub) };
        #[cfg(feature = "tokio")]
        // SAFETY: the runtime goes with its owner, and only `set_runtime` uses the place.
        unsafe {
            free_made(&core.runtime);
        }
        crate::stack::contain(|| {
            // SAFETY: it came out of a box (`make`), and this is its end.
            drop(unsafe { Box::from_raw(context.as_ptr()) });
        });
    }

    /// The handle that the body of `slot` gets.
    #[inline]
    pub(crate) fn of_body(core: CorePtr, slot: SlotPtr) -> Self {
        let lent = slot.lend();
        if !lent {
            core.retain(HANDLE);
        }
        Self {
            core,
            body: Some(Owner::new(slot, lent)),
            state: PhantomData,
        }
    }

    /// The state that the context was made with. Tasks read it; for what changes in it, use what may be shared (atomics, locks).
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn greeting(ctx: Ctx<String>, name: String) -> Result<String, std::io::Error> {
    ///     Ok(format!("{}, {name}!", ctx.state()))
    /// }
    /// let ctx = Ctx::new("Hello".to_owned());
    /// assert_eq!(ctx.run(greeting, "Ada").wait().unwrap(), "Hello, Ada!");
    /// ```
    #[inline]
    pub fn state(&self) -> &S {
        // SAFETY: the context was made with a state of this type, and this handle keeps it (or the tier that has it).
        unsafe { self.core.state.cast().as_ref() }
    }

    /// Calls a task: runs it for this input, or joins the run that is under way, or takes what is there.
    ///
    /// The input is what the task takes, or a borrowed form of it: `&str` for a `String` allocates on a miss only.
    ///
    /// # Concurrency
    /// One run for all callers; whoever is polled drives it. See [`Run`].
    ///
    /// # Cancel safety
    /// The call may be dropped at any time; the run goes on while anybody wants it. See [`Run`].
    ///
    /// # Errors
    /// * [`Failed`](TaskErrorKind::Failed): the task returned an error; all callers get the same one, and it is kept until
    ///   [`forget`](Ctx::forget), unless it was marked [`transient`](Ctx::transient).
    /// * [`Panicked`](TaskErrorKind::Panicked): as `Failed`.
    /// * [`Cancelled`](TaskErrorKind::Cancelled), [`DeadlineExceeded`](TaskErrorKind::DeadlineExceeded): the context was closed
    ///   before there was a value. Never kept; an error of this kind that a body passes on from another context is, as any failure.
    /// * [`Cycle`](TaskErrorKind::Cycle): the call would wait for itself.
    /// * [`TooDeep`](TaskErrorKind::TooDeep): see [`Builder::max_depth`].
    /// * [`NoRuntime`](TaskErrorKind::NoRuntime): the context has a deadline or a token, the call must wait, and there is no tokio
    ///   runtime to wait in.
    ///
    /// # Panics
    /// If `Hash`, `Eq` or `Clone` of the input panics in the look-up; nothing is changed then.
    ///
    /// # Cost
    /// A hit allocates nothing, takes no lock and touches no count. A run that is ready at once makes one allocation, or two if its
    /// body is larger than some 190 bytes; one that waits makes one more. (The first few slots lie in the context's own allocation, if the
    /// thread that made it makes them.)
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn length(_: Ctx<()>, text: String) -> Result<usize, String> { Ok(text.len()) }
    ///
    /// let ctx = Ctx::new(());
    /// let first: &usize = ctx.run(length, "river").wait().unwrap();
    /// let again = ctx.run(length, "river").wait().unwrap();
    /// assert!(std::ptr::eq(first, again));
    /// ```
    #[inline]
    pub fn run<F, In, K>(&self, task: F, input: K) -> Run<'_, S, F::Value>
    where
        F: Task<S, In, Future: Send>,
        In: Input<K>,
        K: Key<In>,
    {
        let _ = task;
        // Named first, for rustc: it walks what a task leads to depth first, and this is the shortest way to the body.
        // Otherwise a path of some 700 tasks overflows its stack.
        let _ = meta::<S, F, In>();
        let core = self.core;
        let hash = core.hash::<S, F, In, K>(&input);
        let hit = core
            .table
            .find_done(hash, |slot| is::<S, F, In, K>(slot, &input, false));
        match hit {
            Some(slot) => {
                // SAFETY: the slot has the layout of these types (`is`) and was seen DONE.
                Run::hit(self, unsafe { slot::value::<S, F, In>(slot) })
            }
            // Or it stands for one of the second tier: then its `Meta` gives the value (`Run::poll_call`).
            None => Run::call(self, core.find_or_insert::<S, F, In, K>(hash, input)),
        }
    }

    /// Takes a task's value from the second tier that the state holds: one run for all requests. See [`Shared`](crate::Shared).
    ///
    /// The tier is asked once in this context; then it is the same `&T` for the rest of it, even if a refresh comes meanwhile. The task
    /// is one of the tier's state, `async fn(Ctx<G>, In)`: it cannot see this request's.
    ///
    /// # Concurrency
    /// As [`Shared::run`](crate::Shared::run), and as [`run`](Ctx::run) within the context.
    ///
    /// # Cancel safety
    /// The call may be dropped at any time, and so may the context; the run of the tier goes on.
    ///
    /// # Errors
    /// As [`Shared::run`](crate::Shared::run); kept for this context. And [`Cancelled`](TaskErrorKind::Cancelled),
    /// [`DeadlineExceeded`](TaskErrorKind::DeadlineExceeded) when this context is closed before there was a value.
    ///
    /// # Cost
    /// The first call in a context that finds the value in the tier makes three allocations; the next ones are hits as those of [`run`](Ctx::run).
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Shared};
    ///
    /// struct Global { base: u64 }
    /// struct Request { shared: Shared<Global>, user: u64 }
    /// impl AsRef<Shared<Global>> for Request {
    ///     fn as_ref(&self) -> &Shared<Global> { &self.shared }
    /// }
    /// async fn price(ctx: Ctx<Global>, item: u64) -> Result<u64, String> { Ok(ctx.state().base + item) }
    /// async fn page(ctx: Ctx<Request>, item: u64) -> Result<String, watershed::TaskError> {
    ///     let price = ctx.run_shared(price, item).await?;          // &u64, one run for all requests
    ///     Ok(format!("user {} pays {price}", ctx.state().user))
    /// }
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let shared = Shared::builder(Global { base: 100 }).build();  // one per server
    /// let ctx = Ctx::new(Request { shared: shared.clone(), user: 7 });   // one per request
    /// assert_eq!(ctx.run(page, 5).await?, "user 7 pays 105");
    /// # Ok::<(), watershed::TaskError>(()) }).unwrap();
    /// ```
    #[cfg(any(feature = "shared", loom))]
    #[inline]
    pub fn run_shared<F, In, K, G>(&self, task: F, input: K) -> Run<'_, S, F::Value>
    where
        S: AsRef<shared::Shared<G>>,
        G: Send + Sync + 'static,
        F: Task<G, In, Future: Send>,
        In: Input<K>,
        K: Key<In>,
    {
        let _ = task;
        let _ = meta::<G, F, In>(); // as in `run`
        shared::run_shared::<S, G, F, In, K>(self, input)
    }

    /// Runs a task without memoization and gives its value owned: for tasks with effects, which must run at every call.
    ///
    /// Takes part in cycle detection, cancellation and depth as [`run`](Ctx::run) does. The tasks that it calls are memoized as ever.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the body is dropped at once; see [`RunFresh`].
    ///
    /// # Errors
    /// As [`run`](Ctx::run).
    ///
    /// # Cost
    /// The slot and the input stay until the context ends.
    ///
    /// # Examples
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// use watershed::Ctx;
    /// async fn send(ctx: Ctx<AtomicU32>, _: ()) -> Result<u32, String> {
    ///     Ok(ctx.state().fetch_add(1, Ordering::Relaxed))
    /// }
    /// let ctx = Ctx::new(AtomicU32::new(0));
    /// assert_eq!(ctx.run_fresh(send, ()).wait().unwrap(), 0);
    /// assert_eq!(ctx.run_fresh(send, ()).wait().unwrap(), 1);
    /// ```
    pub fn run_fresh<F, In, K>(&self, task: F, input: K) -> RunFresh<'_, S, F::Value>
    where
        F: Task<S, In, Future: Send>,
        In: Input<K>,
        K: Key<In>,
    {
        let _ = task;
        let _ = meta::<S, F, In>(); // as in `run`
        let new = New::make::<S, F, In>(self.core, 0, In::from_key(input));
        RunFresh::new(self, self.core.link_private(new))
    }

    /// Starts a run on the tokio runtime, or joins the one under way, and does not wait. It runs to its end while the context is open,
    /// whoever else comes and goes. How it ends is seen by those who call the task.
    ///
    /// # Concurrency
    /// As [`run`](Ctx::run). The run counts as wanted from this call on, before the runtime has polled it.
    ///
    /// # Errors
    /// * [`NoRuntime`](TaskErrorKind::NoRuntime): there is no tokio runtime on this thread.
    /// * [`Cancelled`](TaskErrorKind::Cancelled), [`DeadlineExceeded`](TaskErrorKind::DeadlineExceeded): the context is closed.
    ///
    /// # Panics
    /// As [`run`](Ctx::run).
    ///
    /// # Cost
    /// As [`run`](Ctx::run), and a task of the runtime.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn slow(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n + 1) }
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let ctx = Ctx::new(());
    /// ctx.spawn(slow, 1)?;                            // starts now
    /// assert_eq!(*ctx.run(slow, 1).await?, 2);        // joins it
    /// # Ok::<(), watershed::TaskError>(()) }).unwrap();
    /// ```
    #[cfg(feature = "tokio")]
    pub fn spawn<F, In, K>(&self, task: F, input: K) -> Result<(), TaskError>
    where
        F: Task<S, In, Future: Send>,
        In: Input<K>,
        K: Key<In>,
    {
        let _ = task;
        let hash = self.core.hash::<S, F, In, K>(&input);
        let slot = self.core.find_or_insert::<S, F, In, K>(hash, input);
        crate::parallel::spawn(self.caller(), slot)
    }

    /// Runs up to twelve calls in parallel: each on the runtime's threads, the last one on the caller's own.
    ///
    /// # Concurrency
    /// As [`run`](Ctx::run): what is there already is taken, and a run that is under way is joined.
    ///
    /// # Cancel safety
    /// Dropped, all its calls are dropped; see [`Run`].
    ///
    /// # Errors
    /// The first error comes at once, and the other calls are dropped: a run that nobody else wants is dropped, and nothing of it is kept.
    /// [`NoRuntime`](TaskErrorKind::NoRuntime) if more than one call has to run and there is no tokio runtime on this thread.
    ///
    /// # Panics
    /// As [`run`](Ctx::run), for any of the inputs.
    ///
    /// # Cost
    /// As [`run`](Ctx::run) for each call, and a task of the runtime for each one that has to run, but the last.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Task};
    /// async fn user(_: Ctx<()>, id: u64) -> Result<String, String> { Ok(format!("user {id}")) }
    /// async fn orders(_: Ctx<()>, id: u64) -> Result<Vec<u64>, String> { Ok(vec![id; 3]) }
    ///
    /// # tokio::runtime::Builder::new_multi_thread().build().unwrap().block_on(async {
    /// let ctx = Ctx::new(());
    /// let (who, list) = ctx.parallel((user.with(7), orders.with(7))).await?;
    /// assert_eq!((who.as_str(), list.len()), ("user 7", 3));
    /// # Ok::<(), watershed::TaskError>(()) }).unwrap();
    /// ```
    #[cfg(feature = "tokio")]
    pub fn parallel<C: Calls<S>>(&self, calls: C) -> Parallel<'_, S, C::Values> {
        Parallel::new(self, calls.into_slots(self))
    }

    /// Runs any number of calls of one task, at most `limit` at a time (0 counts as 1), on the runtime's threads and the caller's own.
    /// The values come in the order of the calls.
    ///
    /// # Cancel safety, Errors
    /// As [`parallel`](Ctx::parallel). With a limit of 1 no runtime is needed.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Task};
    /// async fn item(_: Ctx<()>, id: u64) -> Result<u64, String> { Ok(id * 10) }
    ///
    /// # tokio::runtime::Builder::new_multi_thread().build().unwrap().block_on(async {
    /// let ctx = Ctx::new(());
    /// let items = ctx.parallel_all((1..=5).map(|id| item.with(id)), 3).await?;
    /// assert_eq!(items, [&10, &20, &30, &40, &50]);
    /// # Ok::<(), watershed::TaskError>(()) }).unwrap();
    /// ```
    #[cfg(feature = "tokio")]
    pub fn parallel_all<F, In, K>(
        &self,
        calls: impl IntoIterator<Item = Call<S, F, In, K>>,
        limit: usize,
    ) -> ParallelAll<'_, S, F::Value>
    where
        F: Task<S, In, Future: Send>,
        In: Input<K>,
        K: Key<In>,
    {
        let slots = calls.into_iter().map(|call| self.slot_of(call)).collect();
        ParallelAll::new(self, slots, limit)
    }

    /// Runs a list of different calls together; their values are hits afterwards. A router may keep such a list for each route.
    ///
    /// They run on the threads of the tokio runtime if there is one, and concurrently on the caller's own otherwise.
    ///
    /// # Cancel safety, Errors
    /// As [`parallel`](Ctx::parallel), but no runtime is needed.
    ///
    /// # Examples
    /// ```
    /// use watershed::{BoxedCall, Ctx, Task};
    /// async fn user(_: Ctx<()>, id: u64) -> Result<String, String> { Ok(format!("user {id}")) }
    /// async fn flags(_: Ctx<()>, _: ()) -> Result<Vec<u8>, String> { Ok(vec![1]) }
    ///
    /// let route: Vec<BoxedCall<()>> = vec![user.with(7).boxed(), flags.with(()).boxed()];
    /// let ctx = Ctx::new(());
    /// ctx.run_all(route.iter().cloned()).wait().unwrap();
    /// assert_eq!(ctx.peek(user, &7).unwrap().unwrap(), "user 7");
    /// ```
    pub fn run_all(&self, calls: impl IntoIterator<Item = BoxedCall<S>>) -> RunAll<'_, S> {
        RunAll::new(
            self,
            calls.into_iter().map(|call| call.slot(self)).collect(),
        )
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn slot_of<F, In, K>(&self, call: Call<S, F, In, K>) -> SlotPtr
    where
        F: Task<S, In, Future: Send>,
        In: Input<K>,
    {
        let _ = meta::<S, F, In>(); // as in `run`
        let hash = self.core.hash::<S, F, In, K>(&call.input);
        self.core.find_or_insert::<S, F, In, K>(hash, call.input)
    }

    pub(crate) fn slot_of_input<F, In>(&self, input: In) -> SlotPtr
    where
        F: Task<S, In, Future: Send>,
        In: Input,
    {
        let hash = self.core.hash::<S, F, In, In>(&input);
        self.core.find_or_insert::<S, F, In, In>(hash, input)
    }

    /// The slot of a call of a task whose type cannot be named.
    pub(crate) fn slot_for<F, In, K>(&self, task: F, input: K) -> SlotPtr
    where
        F: Task<S, In>,
        In: Input<K>,
        K: Key<In>,
    {
        let _ = task;
        let hash = self.core.hash::<S, F, In, K>(&input);
        self.core.find_or_insert::<S, F, In, K>(hash, input)
    }

    /// The slot for an input of a task whose type cannot be named, if there is one.
    pub(crate) fn look_up_for<F, In, Q>(&self, task: F, input: &Q) -> Option<SlotPtr>
    where
        F: Task<S, In>,
        In: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let _ = task;
        self.look_up::<F, In, Q>(input).map(|(slot, _)| slot)
    }

    fn look_up<F, In, Q>(&self, input: &Q) -> Option<(SlotPtr, Word)>
    where
        F: Task<S, In>,
        In: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut hasher = self.core.hasher::<S, F, In>();
        input.hash(&mut hasher);
        let is = |slot: SlotPtr| {
            slot.meta.type_id == type_id::<S, F, In>() && {
                // SAFETY: the slot is of these types, as its id says.
                let its = unsafe { slot::input::<In>(slot) };
                its.borrow() == input
            }
        };
        self.core.table.find(hasher.finish(), is).ok()
    }

    /// What is there for this input now: the value, the error, or nothing. Runs nothing and waits for nothing.
    ///
    /// Not an edge between tasks: two may look at each other's values.
    ///
    /// # Panics
    /// If `Hash` or `Eq` of the input panics in the look-up; nothing is changed then.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n * 2) }
    ///
    /// let ctx = Ctx::new(());
    /// assert!(ctx.peek(double, &2).is_none());
    /// ctx.run(double, 2).wait().unwrap();
    /// assert_eq!(ctx.peek(double, &2).unwrap().unwrap(), &4);
    /// ```
    pub fn peek<F, In, Q>(&self, task: F, input: &Q) -> Option<Result<&F::Value, TaskError>>
    where
        F: Task<S, In>,
        In: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let _ = task;
        let (slot, word) = self.look_up::<F, In, Q>(input)?;
        if word.is_done() {
            // SAFETY: the slot is of these types (`look_up`), and `word` says DONE.
            Some(Ok(unsafe { value_in::<S, F, In>(slot) }))
        } else if word.is_failed() {
            Some(Err(slot.error()))
        } else {
            None
        }
    }

    /// Lets the next call run again. True if there was a value, an error or a run under way to forget.
    ///
    /// Borrows taken before stay valid: the old value stays in memory until the context ends. A run under way finishes for its own
    /// callers and does not touch the newer one.
    ///
    /// # Panics
    /// If `Hash` or `Eq` of the input panics in the look-up; nothing is changed then.
    ///
    /// # Cost
    /// What is forgotten stays in memory until the context ends.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n * 2) }
    ///
    /// let ctx = Ctx::new(());
    /// let old = ctx.run(double, 2).wait().unwrap();
    /// assert!(ctx.forget(double, &2));
    /// assert!(!ctx.forget(double, &2));
    /// assert!(ctx.peek(double, &2).is_none());
    /// assert_eq!(old, &4);
    /// ```
    pub fn forget<F, In, Q>(&self, task: F, input: &Q) -> bool
    where
        F: Task<S, In>,
        In: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let _ = task;
        let found = self.look_up::<F, In, Q>(input);
        let forgotten = found.is_some_and(|(slot, _)| slot.forget());
        #[cfg(any(feature = "shared", loom))]
        if let Some(tier) = self.core.tier() {
            return tier.forget_input::<S, F, In, Q>(input) || forgotten;
        }
        forgotten
    }

    /// Puts a value in, as if the task had run.
    ///
    /// # Errors
    /// Gives the value back if there is one already, an error, or a run under way, or if the context is closed.
    ///
    /// # Panics
    /// If `Hash` or `Eq` of the input panics in the look-up; nothing is changed then.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n * 2) }
    ///
    /// let ctx = Ctx::new(());
    /// assert_eq!(ctx.prime(double, 2, 5), Ok(()));
    /// assert_eq!(ctx.prime(double, 2, 6), Err(6));
    /// assert_eq!(ctx.run(double, 2).wait().unwrap(), &5);
    /// ```
    pub fn prime<F, In, K>(&self, task: F, input: K, value: F::Value) -> Result<(), F::Value>
    where
        F: Task<S, In>,
        In: Input<K>,
        K: Key<In>,
    {
        #[cfg(any(feature = "shared", loom))]
        if let Some(tier) = self.core.tier() {
            let _ = task;
            return tier.prime::<S, F, In, K>(input, value);
        }
        self.core.prime(task, input, value)
    }

    /// Marks the failure that this body is about to return: the callers that wait now share it, and it is not kept; the next call runs again.
    ///
    /// Gives the error back, so that it fits into `map_err`. A task that passes the error on as a [`TaskError`] is not kept either. Without
    /// effect when the body succeeds after all, or through a handle that is not a body's own.
    ///
    /// # Examples
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// use watershed::Ctx;
    ///
    /// async fn flaky(ctx: Ctx<AtomicU32>, _: ()) -> Result<u32, String> {
    ///     match ctx.state().fetch_add(1, Ordering::Relaxed) {
    ///         0 => Err("try later".to_owned()).map_err(|e| ctx.transient(e)),
    ///         n => Ok(n),
    ///     }
    /// }
    /// let ctx = Ctx::new(AtomicU32::new(0));
    /// assert!(ctx.run(flaky, ()).wait().is_err());
    /// assert_eq!(ctx.run(flaky, ()).wait().unwrap(), &1);
    /// ```
    pub fn transient<E>(&self, error: E) -> E {
        if let Some(owner) = self.body {
            owner.slot().mark_transient();
        }
        error
    }

    /// Closes the context: calls that wait, and later calls that would have to run or wait, return
    /// [`Cancelled`](TaskErrorKind::Cancelled). Bodies are dropped before this returns, one that is being polled when its poll returns (and, if several
    /// threads close the context at once or this is itself inside of a drop, when the last of them returns). Values that are there are still given.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, TaskErrorKind};
    /// async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n * 2) }
    ///
    /// let ctx = Ctx::new(());
    /// ctx.run(double, 1).wait().unwrap();
    /// ctx.cancel();
    /// assert_eq!(ctx.run(double, 1).wait().unwrap(), &2);
    /// assert_eq!(ctx.run(double, 2).wait().unwrap_err().kind(), TaskErrorKind::Cancelled);
    /// ```
    pub fn cancel(&self) {
        self.core.close(Reason::Cancelled);
    }

    /// Whether the context is closed: cancelled, past its deadline, or without a handle of its owner. For bodies that compute long without
    /// awaiting anything.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn sum(ctx: Ctx<()>, list: Vec<u64>) -> Result<u64, String> {
    ///     let mut sum = 0;
    ///     for n in list {
    ///         if ctx.is_cancelled() {
    ///             return Err("nobody wants it any more".into());
    ///         }
    ///         sum += n;
    ///     }
    ///     Ok(sum)
    /// }
    /// assert_eq!(Ctx::new(()).run(sum, vec![1, 2]).wait().unwrap(), &3);
    /// ```
    pub fn is_cancelled(&self) -> bool {
        if self.core.linked {
            self.core.check_links();
        }
        self.core.is_closed()
    }

    /// Waits until the context is closed.
    ///
    /// In a context with a deadline or a token this needs a tokio runtime (with its timers enabled) to be told; without one only
    /// [`cancel`](Ctx::cancel) ends it.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let ctx = Ctx::new(());
    /// let (waits, ()) = (ctx.cancelled(), ctx.cancel());
    /// waits.await;
    /// assert!(ctx.is_cancelled());
    /// # });
    /// ```
    pub fn cancelled(&self) -> Cancelled<'_, S> {
        Cancelled {
            ctx: self,
            park: Park::default(),
        }
    }
}

impl<S> Ctx<S> {
    pub(crate) fn core(&self) -> CorePtr {
        self.core
    }

    /// The request whose context this is is over: closes it, whoever has handles. If nobody else has, the end of this one does, unless `now`.
    #[cfg(feature = "http")]
    pub(crate) fn close_for_request(&self, now: bool) {
        // ORDER: Relaxed; if this is the only handle, nobody else can make one, and otherwise it does not matter whose go meanwhile.
        if now || self.core.counted.handles.load(Ordering::Relaxed) != USER | HANDLE {
            self.core.close(Reason::RequestOver);
        }
    }

    /// The slot whose body has this handle.
    pub(crate) fn body(&self) -> Option<SlotPtr> {
        self.body.map(Owner::slot)
    }

    #[inline]
    pub(crate) fn caller(&self) -> Caller {
        Caller {
            core: self.core,
            body: self.body.map(Owner::slot),
        }
    }
}

impl<S> Clone for Ctx<S> {
    fn clone(&self) -> Self {
        self.core.retain(if self.body.is_some() {
            HANDLE
        } else {
            USER | HANDLE
        });
        Self {
            core: self.core,
            body: self.body.map(|owner| Owner::new(owner.slot(), false)),
            state: PhantomData,
        }
    }
}

impl<S> Drop for Ctx<S> {
    #[inline]
    fn drop(&mut self) {
        match self.body {
            None => self.core.release_user(),
            Some(owner) if owner.is_lent() => {
                if owner.slot().give_back() {
                    self.core.release();
                }
            }
            Some(_) => self.core.release(),
        }
    }
}

impl<S> fmt::Debug for Ctx<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx")
            .field("task", &self.body.map(|owner| owner.slot().name()))
            .field("closed", &self.core.is_closed())
            .finish_non_exhaustive()
    }
}

/// Waits until a context is closed. Made by [`Ctx::cancelled`].
///
/// # Cancel safety
/// May be dropped at any time.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Cancelled<'a, S> {
    ctx: &'a Ctx<S>,
    park: Park,
}

impl<S: Send + Sync + 'static> Future for Cancelled<'_, S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let core = self.ctx.core;
        // Without a runtime nobody tells of a deadline; said in the docs.
        let _ = core.check_wait(|| "cancelled");
        if core.is_closed() {
            return Poll::Ready(());
        }
        self.park.register(Hub::get_or_make(&core.hub), cx.waker());
        // ORDER: SeqCst; pairs with the fence in `close`: the hub is seen there, or the reason here.
        fence(Ordering::SeqCst);
        if core.is_closed() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<S> Drop for Cancelled<'_, S> {
    fn drop(&mut self) {
        if self.park.is_parked() {
            self.park.leave(Hub::get_or_make(&self.ctx.core.hub));
        }
    }
}

impl<S> fmt::Debug for Cancelled<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancelled").field(self.ctx).finish()
    }
}

/// Makes a context with more than a state. Made by [`Ctx::builder`], where there is an example.
#[must_use = "`build` makes the context"]
pub struct Builder<S> {
    state: S,
    pub(crate) options: Box<Options>,
    max_depth: usize,
}

impl<S: Send + Sync + 'static> Builder<S> {
    /// Closes the context when this much time has passed since now: calls that wait, and later ones that would have to, return
    /// [`DeadlineExceeded`](TaskErrorKind::DeadlineExceeded). Zero: at once.
    ///
    /// The clock is tokio's, and so is the timer: a call that must wait needs a tokio runtime with its timers enabled, or it returns
    /// [`NoRuntime`](TaskErrorKind::NoRuntime).
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use watershed::{Ctx, TaskErrorKind};
    /// async fn never(_: Ctx<()>, _: ()) -> Result<(), String> { std::future::pending().await }
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let ctx = Ctx::builder(()).deadline(Duration::from_millis(5)).build();
    /// let error = ctx.run(never, ()).await.unwrap_err();
    /// assert_eq!(error.kind(), TaskErrorKind::DeadlineExceeded);
    /// # });
    /// ```
    #[cfg(feature = "tokio")]
    pub fn deadline(mut self, after: std::time::Duration) -> Self {
        self.options.links.set_deadline(after);
        self
    }

    /// Closes the context when the token is cancelled: one token may end all requests of a server that shuts down.
    ///
    /// A call that must wait needs a tokio runtime, or it returns [`NoRuntime`](TaskErrorKind::NoRuntime). The token is not cancelled by the
    /// end of the context.
    ///
    /// # Examples
    /// ```
    /// use tokio_util::sync::CancellationToken;
    /// use watershed::{Ctx, TaskErrorKind};
    /// async fn never(_: Ctx<()>, _: ()) -> Result<(), String> { std::future::pending().await }
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let server = CancellationToken::new();
    /// let ctx = Ctx::builder(()).cancellation(server.clone()).build();
    /// let (end, _) = tokio::join!(ctx.run(never, ()), async { server.cancel() });
    /// assert_eq!(end.unwrap_err().kind(), TaskErrorKind::Cancelled);
    /// # });
    /// ```
    #[cfg(feature = "tokio")]
    pub fn cancellation(mut self, token: tokio_util::sync::CancellationToken) -> Self {
        self.options.links.set_token(token);
        self
    }

    /// How deep tasks may start one another; deeper calls return [`TooDeep`](TaskErrorKind::TooDeep). 200,000 unless set; a run that nobody's body
    /// started has depth 0, and zero allows nothing below it.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, TaskError, TaskErrorKind};
    /// async fn leaf(_: Ctx<()>, n: u64) -> Result<u64, TaskError> { Ok(n) }
    /// async fn page(ctx: Ctx<()>, n: u64) -> Result<u64, TaskError> { Ok(*ctx.run(leaf, n).await?) }
    ///
    /// let ctx = Ctx::builder(()).max_depth(0).build();
    /// assert_eq!(ctx.run(page, 1).wait().unwrap_err().kind(), TaskErrorKind::TooDeep);
    /// ```
    pub fn max_depth(mut self, tasks: usize) -> Self {
        self.max_depth = tasks;
        self
    }

    /// Puts `fake` in the place of a task in this context: for tests. It may capture; the types are the task's. The last one of a task holds.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn rate(_: Ctx<()>, _currency: u32) -> Result<f64, String> { Err("no network in tests".into()) }
    ///
    /// let fixed = 1.25;
    /// let ctx = Ctx::builder(()).replace(rate, move |_, _| async move { Ok(fixed) }).build();
    /// assert_eq!(ctx.run(rate, 978).wait().unwrap(), &1.25);
    /// # let twice = Ctx::builder(()).replace(rate, |_, _| async { Ok(1.0) }).replace(rate, |_, _| async { Ok(2.0) }).build();
    /// # assert_eq!(twice.run(rate, 978).wait().unwrap(), &2.0);
    /// ```
    pub fn replace<F, In, Fake, Fut>(mut self, task: F, fake: Fake) -> Self
    where
        F: Task<S, In>,
        In: Input,
        Fake: Fn(Ctx<S>, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<F::Value, F::Error>> + Send + 'static,
    {
        let _ = task;
        let fake: self::Fake<S, In, F::Value, F::Error> =
            Box::new(move |ctx, input| Box::pin(fake(ctx, input)));
        self.options
            .fakes
            .insert(type_id::<S, F, In>(), Box::new(fake));
        self
    }

    /// How many keys of [`load`](Ctx::load) this function gets at once, at most: what has more becomes several batches, which run at the
    /// same time. Without it there is no limit; 0 counts as 1.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn squares(_: Ctx<()>, of: Vec<u64>) -> Result<Vec<(u64, u64)>, String> {
    ///     assert!(of.len() <= 2);
    ///     Ok(of.into_iter().map(|n| (n, n * n)).collect())
    /// }
    /// let ctx = Ctx::builder(()).max_batch(squares, 2).build();
    /// let found = ctx.load_many(squares, [1, 2, 3, 4, 5]).wait().unwrap();
    /// assert_eq!(found[4], Some(&25));
    /// ```
    pub fn max_batch<B, K>(mut self, batch: B, keys: usize) -> Self
    where
        B: Batch<S, K>,
        K: Input,
    {
        let _ = batch;
        let id = batch::id::<B, S, K>();
        self.options.max_batch.insert(id, keys.max(1));
        self
    }

    /// Makes the context.
    pub fn build(self) -> Ctx<S> {
        Ctx::make(self.state, Some(self.options), self.max_depth)
    }
}

impl<S> fmt::Debug for Builder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("replaced", &self.options.fakes.len())
            .field("max_depth", &self.max_depth)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Core, Ctx};

    async fn one(_: Ctx<()>, _: u64) -> Result<u64, String> {
        Ok(1)
    }
    async fn two(_: Ctx<()>, _: u64) -> Result<u64, String> {
        Ok(2)
    }

    fn hash<F: crate::Task<(), u64>>(core: &Core, _: F, input: u64) -> u64 {
        core.hash::<(), F, u64, u64>(&input)
    }

    /// Otherwise they would stand in each other's way in the table. (The type of the seed has no other user.)
    #[test]
    fn tasks_with_equal_inputs_have_different_hashes() {
        let ctx = Ctx::new(());
        let core = &*ctx.core;
        assert_ne!(hash(core, one, 7), hash(core, two, 7));
        assert_ne!(hash(core, one, 7), hash(core, one, 8));
        assert_eq!(hash(core, one, 7), hash(&Ctx::new(()).core, one, 7));
    }

    /// The bits of a `TypeId` reach the seed in either form that `Hash` may write them in.
    #[test]
    fn a_seed_takes_bytes_and_words() {
        use super::TypeSeed;
        use std::hash::Hasher;
        let seed = |f: fn(&mut TypeSeed)| {
            let mut seed = TypeSeed(0);
            f(&mut seed);
            seed.finish()
        };
        assert_ne!(seed(|s| s.write(&[1, 2])), seed(|s| s.write(&[2, 1])));
        assert_ne!(seed(|s| s.write_u64(1)), seed(|s| s.write_u64(2)));
    }
}
