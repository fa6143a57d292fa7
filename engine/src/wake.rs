//! The hub of a slot: who is woken when the body is woken, and how.
//!
//! A body is polled with the hub's waker, or with one that makes the hub when it is cloned. A wake sets `WOKEN` and wakes everyone who is
//! parked; whoever is polled first claims the slot and polls the body. A body that wakes itself while it is polled needs none of that:
//! its poller takes the note ([`stack::wakes_itself`]) into the slot's word. The hub does not know its slot, so a
//! wake may come when the slot, its context and everything else is gone: it then finds nobody parked.
//!
//! * The first caller that parks is the *driver*; its waker is in a [`WakerCell`] and costs no allocation.
//! * All others wait on an event-listener [`Event`]. That crate calls and drops wakers while it holds its
//!   list's lock, so what is registered there is a [`Waiter`] of ours, never a user's waker.
//! * No user's waker is called, cloned or dropped inside a critical section or recursively: wakes
//!   collect in the [`queue`] of the thread, which its outermost user drains. A wake through 10,000 nested
//!   runs is a loop.
//!
//! # The hub's word
//!
//! | bit | set by | cleared by | what it says |
//! |---|---|---|---|
//! | `WOKEN` | a wake (H1), but for a body's own | the claimant, before it polls (H3) | the body wants a poll |
//! | `WAITERS` | a waiter, after it is listed with event-listener (H4) | never | `notify` may find somebody; without it `notify` is skipped |
//! | `DRIVER` | the caller that takes the driver's place (H5) | the same, after it took its waker back (H6) | the cell has an owner |
//!
//! All of them are read-modify-writes of one word, so a wake and a registration are ordered by it: either
//! the wake sees the registration, or whoever registers sees `WOKEN`. H3 and H4 are left out where a look shows that the bit is as it is
//! to be; the reasons are there.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use event_listener::{Event, EventListener};

use crate::observe;
use crate::stack;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use crate::sync::cell::UnsafeCell;
use crate::sync::{Arc, free_made, get_or_make};

const WOKEN: usize = 1;
const WAITERS: usize = 2;
const DRIVER: usize = 4;

/// Who is parked at one slot, and whether its body wants a poll.
pub(crate) struct Hub {
    word: AtomicUsize,
    driver: WakerCell,
    waiters: Event,
    /// What observers are to be told of the slot's run; made in a context that has any. (std's: no model has observers.)
    cell: std::sync::atomic::AtomicPtr<observe::Cell>,
    /// The runtime in which the body was started, if it is not the context's; owned by who holds the slot's claim.
    #[cfg(feature = "tokio")]
    runtime: UnsafeCell<Option<tokio::runtime::Handle>>,
}

// SAFETY: `runtime` is touched by the holder of the slot's claim only (`Hub::runtime`, `Hub::set_runtime`), and
// claims are ordered by the slot's word (S5 with S3); `WakerCell` and `Event` are Sync.
unsafe impl Sync for Hub {}
// SAFETY: a tokio handle, wakers and an event may all be dropped on any thread.
unsafe impl Send for Hub {}

impl Hub {
    fn new() -> Self {
        Self {
            word: AtomicUsize::new(0),
            driver: WakerCell::new(),
            waiters: Event::new(),
            cell: std::sync::atomic::AtomicPtr::new(std::ptr::null_mut()),
            #[cfg(feature = "tokio")]
            runtime: UnsafeCell::new(None),
        }
    }

    /// The hub behind `slot`, made by whoever needs it first.
    pub(crate) fn get_or_make(slot: &AtomicPtr<Hub>) -> &Hub {
        // ORDER: Acquire; pairs with the AcqRel below: the hub's fields are written before it is seen.
        let mut hub = slot.load(Ordering::Acquire);
        if hub.is_null() {
            let new = Arc::into_raw(Arc::new(Hub::new())).cast_mut();
            // ORDER: AcqRel; Release publishes the new hub, Acquire (also on failure) reads another's. A plain store
            // would lose the registrations made at the other's hub.
            match slot.compare_exchange(
                std::ptr::null_mut(),
                new,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => hub = new,
                Err(theirs) => {
                    // SAFETY: `new` came from `Arc::into_raw` above and nobody else has seen it.
                    drop(unsafe { Arc::from_raw(new) });
                    hub = theirs;
                }
            }
        }
        // SAFETY: a hub is never replaced and lives as long as its slot, which the caller borrows it from.
        unsafe { &*hub }
    }

    /// The observers' part, made by whoever needs it first.
    pub(crate) fn cell(&self) -> &observe::Cell {
        get_or_make(&self.cell, observe::Cell::new)
    }

    /// Gives the slot's reference back.
    ///
    /// # Safety
    /// `hub` is null or the pointer that [`Hub::get_or_make`] stored, and the slot is being freed.
    pub(crate) unsafe fn release(hub: *mut Hub) {
        if !hub.is_null() {
            // SAFETY: the pointer came from `Arc::into_raw` and the slot owned that reference.
            drop(unsafe { Arc::from_raw(hub) });
        }
    }

    /// Whether the body wants a poll.
    pub(crate) fn is_woken(&self) -> bool {
        // ORDER: Relaxed; whoever acts on it goes through H3, and whoever sleeps has registered in this word (H4, H5): he sees a wake that came
        // before that, and one that comes after it sees him. A driver that registers again uses its cell only: if its waker was taken, C1 orders it
        // behind the wake that took it; if not, a wake is still to take it, and comes after this poll began.
        self.word.load(Ordering::Relaxed) & WOKEN != 0
    }

    /// H3: the claimant takes the wake, before it polls.
    pub(crate) fn take_woken(&self) {
        // ORDER: Relaxed; a wake that is not seen here stays for the next claimant.
        if self.word.load(Ordering::Relaxed) & WOKEN != 0 {
            // ORDER: AcqRel; Acquire pairs with H1: what the waker's thread did before the wake is seen by the body.
            // Release: the next wake that finds the bit clear is ordered behind this. A store would drop a wake that comes meanwhile.
            self.word.fetch_and(!WOKEN, Ordering::AcqRel);
        }
    }

    /// H1: the body's waker was called.
    fn wake(&self) {
        if stack::wakes_itself(std::ptr::from_ref(self).cast()) {
            // The body is about to return to its poller, who sees to it (S5, S5a).
            return;
        }
        // ORDER: AcqRel; Release publishes what the caller did before the wake to H3; Acquire pairs with H4, H5.
        let old = self.word.fetch_or(WOKEN, Ordering::AcqRel);
        if old & WOKEN == 0 {
            // Otherwise an earlier wake is not yet taken, and it has told or will tell everyone.
            self.notify(old);
        }
    }

    /// Wakes everyone who is parked, whatever the body wants.
    pub(crate) fn wake_all(&self) {
        // ORDER: AcqRel, and a read-modify-write: a registration (H4, H5) is either before it and seen, or after
        // it and then its owner's look at the slot sees what the caller of `wake_all` did.
        let old = self.word.fetch_or(0, Ordering::AcqRel);
        self.notify(old);
    }

    /// H5. False: somebody else has it.
    fn take_drivers_place(&self) -> bool {
        // ORDER: Relaxed; who finds it taken goes through H4.
        self.word.load(Ordering::Relaxed) & DRIVER == 0
            // ORDER: AcqRel (H5); either a wake sees DRIVER and goes to the cell, where C1 and C2 order it with us, or
            // the look that follows sees what the wake's side did.
            && self.word.fetch_or(DRIVER, Ordering::AcqRel) & DRIVER == 0
    }

    /// Registers `waker` as the driver's, for a hub at which nobody parks: whoever follows it comes by this way, one at a time. The caller
    /// looks at the slot again after this.
    pub(crate) fn follow(&self, waker: &Waker) {
        // ORDER: AcqRel (H5); as in `Park::register`. DRIVER stays.
        self.word.fetch_or(DRIVER, Ordering::AcqRel);
        self.driver.hold(waker);
    }

    fn notify(&self, word: usize) {
        if word & (WAITERS | DRIVER) == 0 {
            return;
        }
        queue::scope(|| {
            if word & DRIVER != 0
                && let Some(waker) = self.driver.take()
            {
                queue::push(queue::Item::Waker(waker));
            }
            if word & WAITERS != 0 {
                self.waiters.notify(usize::MAX);
            }
        });
    }

    /// A waker that holds a reference of the hub.
    ///
    /// # Safety
    /// `hub` came from [`Hub::get_or_make`] and its slot is alive.
    unsafe fn raw_waker(hub: *const Hub) -> RawWaker {
        RawWaker::new(hub.cast(), &HUB_VTABLE)
    }

    /// The runtime in which the body was started, if it was kept here.
    ///
    /// # Safety
    /// The caller holds the claim of the hub's slot as long as it uses the handle.
    #[cfg(feature = "tokio")]
    pub(crate) unsafe fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        // SAFETY: the claim is exclusive, and its holder writes the field only after a first poll (`set_runtime`).
        unsafe { self.runtime.read(Option::as_ref) }
    }

    /// Keeps a runtime for the later polls of the body.
    ///
    /// # Safety
    /// The caller holds the claim of the hub's slot.
    #[cfg(feature = "tokio")]
    pub(crate) unsafe fn set_runtime(&self, runtime: Option<tokio::runtime::Handle>) {
        // SAFETY: the claim is exclusive.
        let old = unsafe { self.runtime.write(|r| std::mem::replace(r, runtime)) };
        drop(old);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // SAFETY: this is the end of the hub, and only `cell` uses the place.
        unsafe { free_made(&self.cell) };
    }
}

static HUB_VTABLE: RawWakerVTable = RawWakerVTable::new(
    |hub| {
        // SAFETY: the waker that is cloned holds a reference (or stands for the slot's, see `PollWaker`).
        unsafe { Arc::increment_strong_count(hub.cast::<Hub>()) };
        RawWaker::new(hub, &HUB_VTABLE)
    },
    |hub| {
        // SAFETY: a waker that is woken by value owns its reference.
        let hub = unsafe { Arc::from_raw(hub.cast::<Hub>()) };
        hub.wake();
    },
    // SAFETY: the waker holds a reference while it is borrowed.
    |hub| unsafe { &*hub.cast::<Hub>() }.wake(),
    // SAFETY: a dropped waker owns its reference.
    |hub| drop(unsafe { Arc::from_raw(hub.cast::<Hub>()) }),
);

/// The waker of one poll, on the poller's stack.
///
/// While the slot has no hub, cloning makes one, and waking by reference only leaves a note, which the poller looks at when it releases
/// the claim. So a body that is ready at once, or does nothing but wake itself, never makes a hub.
pub(crate) struct PollWaker<'s> {
    slot: &'s AtomicPtr<Hub>,
    woken: AtomicBool,
}

impl<'s> PollWaker<'s> {
    pub(crate) fn new(slot: &'s AtomicPtr<Hub>) -> Self {
        Self {
            slot,
            woken: AtomicBool::new(false),
        }
    }

    /// Calls `f` with the waker to poll the body with.
    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(&Waker) -> R) -> R {
        // ORDER: Acquire; pairs with the making of the hub.
        let hub = self.slot.load(Ordering::Acquire);
        let raw = if hub.is_null() {
            RawWaker::new(std::ptr::from_ref(self).cast(), &STACK_VTABLE)
        } else {
            // SAFETY: the hub is the slot's.
            unsafe { Hub::raw_waker(hub) }
        };
        // SAFETY: `STACK_VTABLE` works on a `PollWaker` that outlives the borrow given to `f`, and a `Waker` cannot
        // be moved out of a borrow; a hub's waker stands for the slot's reference. Neither is dropped (ManuallyDrop).
        let waker = std::mem::ManuallyDrop::new(unsafe { Waker::from_raw(raw) });
        f(&waker)
    }

    /// Whether another thread woke the body by reference, while there was no hub.
    pub(crate) fn was_woken(&self) -> bool {
        // ORDER: Acquire; pairs with the Release of the store in `STACK_VTABLE`, which another thread may have done. After the poll nobody has
        // the waker.
        self.woken.load(Ordering::Acquire)
    }
}

static STACK_VTABLE: RawWakerVTable = RawWakerVTable::new(
    |this| {
        // SAFETY: the waker is borrowed from the poll in which `this` lives.
        let this = unsafe { &*this.cast::<PollWaker<'_>>() };
        let hub: *const Hub = Hub::get_or_make(this.slot);
        // SAFETY: the hub was made by `Arc::into_raw` and the slot holds a reference.
        unsafe { Arc::increment_strong_count(hub) };
        // SAFETY: as above; the reference just taken is the new waker's.
        unsafe { Hub::raw_waker(hub) }
    },
    |_| unreachable!("the waker of a poll is only lent"),
    |this| {
        // SAFETY: the waker is borrowed from the poll in which `this` lives.
        let this = unsafe { &*this.cast::<PollWaker<'_>>() };
        if !stack::wakes_itself(std::ptr::from_ref(this).cast()) {
            // ORDER: Release; pairs with the Acquire of `was_woken`. Two stores may race, of the same value.
            this.woken.store(true, Ordering::Release);
        }
    },
    |_| {},
);

/// How one caller is parked at a hub: nowhere, as the driver, or as a waiter. With [`Park::leave`] it is not any more, which must
/// come before it is dropped.
#[derive(Default)]
pub(crate) struct Park {
    waiter: Option<Arc<Waiter>>,
    driver: bool,
}

/// A caller in event-listener's list: its waker, and what event-listener wakes in place of that.
pub(crate) struct Waiter {
    cell: WakerCell,
    /// The owner's, who is the [`Park`]. It holds a count of the waiter, until the owner takes it out.
    listener: UnsafeCell<Option<EventListener>>,
}

// SAFETY: `listener` is touched through the one `Park` that has the waiter, which is borrowed mutably then; the cell is Sync.
unsafe impl Sync for Waiter {}
// SAFETY: a listener may go to another thread, and so may the cell.
unsafe impl Send for Waiter {}

impl Waiter {
    /// What event-listener wakes in place of the caller's waker. This one is not counted, its clones are.
    fn borrowed_waker(self: &Arc<Self>) -> std::mem::ManuallyDrop<Waker> {
        let raw = RawWaker::new(Arc::as_ptr(self).cast(), &WAITER_VTABLE);
        // SAFETY: `WAITER_VTABLE` works on a pointer that came out of an `Arc<Waiter>`; the borrowed one is not dropped.
        std::mem::ManuallyDrop::new(unsafe { Waker::from_raw(raw) })
    }
}

/// All of these are called under the lock of event-listener's list, so none of them does more than count and queue.
static WAITER_VTABLE: RawWakerVTable = RawWakerVTable::new(
    |waiter| {
        // SAFETY: the waker that is cloned has a count, or is borrowed from who has one.
        unsafe { Arc::increment_strong_count(waiter.cast::<Waiter>()) };
        RawWaker::new(waiter, &WAITER_VTABLE)
    },
    |waiter| {
        // SAFETY: a waker that is woken by value owns its count.
        let waiter = unsafe { Arc::from_raw(waiter.cast::<Waiter>()) };
        queue::push(queue::Item::Waiter(waiter));
    },
    |waiter| {
        // SAFETY: as for a clone.
        unsafe { Arc::increment_strong_count(waiter.cast::<Waiter>()) };
        // SAFETY: the count just taken.
        let waiter = unsafe { Arc::from_raw(waiter.cast::<Waiter>()) };
        queue::push(queue::Item::Waiter(waiter));
    },
    // SAFETY: a dropped waker owns its count.
    |waiter| drop(unsafe { Arc::from_raw(waiter.cast::<Waiter>()) }),
);

impl Park {
    /// Registers `waker` to be woken by the hub. The caller looks at the slot again after this.
    pub(crate) fn register(&mut self, hub: &Hub, waker: &Waker) {
        if self.driver {
            hub.driver.hold(waker);
            return;
        }
        let waiter = match &self.waiter {
            Some(waiter) => {
                waiter.cell.hold(waker);
                waiter
            }
            None => {
                if hub.take_drivers_place() {
                    self.driver = true;
                    hub.driver.hold(waker);
                    return;
                }
                self.waiter.insert(Arc::new(Waiter {
                    cell: WakerCell::with(waker.clone()),
                    listener: UnsafeCell::new(None),
                }))
            }
        };
        queue::scope(|| {
            let in_place_of_waker = waiter.borrowed_waker();
            // SAFETY: this is the owner's borrow.
            unsafe {
                waiter
                    .listener
                    .write(|listener| listen(listener, hub, &in_place_of_waker))
            };
        });
        Self::listed(hub);
    }

    fn listed(hub: &Hub) {
        // ORDER: Acquire; pairs with the AcqRel below, and by way of it with every wake that came before the bit and did not notify. One that
        // comes after it notifies: event-listener's `notify` takes the lock of the list, which orders it with `listen`: it finds the listener, or the look that
        // follows sees what was before it.
        if hub.word.load(Ordering::Acquire) & WAITERS == 0 {
            // ORDER: AcqRel (H4), after the listener is in the list: either a wake sees WAITERS and notifies, or the
            // look that follows sees what the waker's side did.
            hub.word.fetch_or(WAITERS, Ordering::AcqRel);
        }
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.driver || self.waiter.is_some()
    }

    /// Takes the waker back. For the driver before it gives up its place, or it would take its successor's.
    pub(crate) fn leave(&mut self, hub: &Hub) {
        if std::mem::take(&mut self.driver) {
            let waker = hub.driver.take_back();
            // ORDER: AcqRel (H6); Release: whoever takes the place (H5) comes after the cell is empty.
            hub.word.fetch_and(!DRIVER, Ordering::AcqRel);
            stack::contain(|| drop(waker));
        }
        if let Some(waiter) = self.waiter.take() {
            // SAFETY: this was the owner.
            let listener = unsafe { waiter.listener.write(Option::take) };
            // A notified listener passes its notification on when it is dropped, so this may wake.
            queue::scope(|| drop(listener));
            stack::contain(|| {
                // With nobody else on its way to it, the waker goes with its cell.
                if Arc::strong_count(&waiter) > 1 {
                    drop(waiter.cell.take_back());
                }
                drop(waiter);
            });
        }
    }
}

/// A listener is in the hub's list when this returns, with `waker`.
fn listen(listener: &mut Option<EventListener>, hub: &Hub, waker: &Waker) {
    loop {
        let listening = listener.get_or_insert_with(|| hub.waiters.listen());
        match Pin::new(listening).poll(&mut Context::from_waker(waker)) {
            Poll::Pending => return,
            Poll::Ready(()) => *listener = None,
        }
    }
}

/// A place for one waker: one caller, the *owner*, puts it in; anybody takes it out.
///
/// The state is `turn | FULL`. A waker lies in two words, which only the owner writes, and only while the cell is empty; a taker reads
/// them first and then takes what it read with a compare-exchange, which fails if the cell was emptied and filled again meanwhile,
/// since each filling counts the turn up.
///
/// | | who | from → to | operation | why |
/// |---|---|---|---|---|
/// | C0 | anybody | look | load Acquire | pairs with C1: the words of a full cell are written; with C2: the owner finds them read. An owner that finds its waker there needs no more: who takes it will wake it, and that wake comes after this poll began |
/// | C1 | owner | empty → full, next turn | swap AcqRel, after it wrote the words | Release: publishes them to C0. Acquire, and a read-modify-write: either C2 finds the waker, or the owner's next look sees what the taker did before C2 |
/// | C2 | taker | full → empty; empty → the same | CAS AcqRel | Release: the words are read, and see C1. Acquire, and a write also where there is nothing to take: see C1 |
///
/// The `atomic-waker` crate clones and drops wakers in a critical section, so a waker that panics there leaves it locked for good. Here
/// there is none: what is put in is the caller's clone, and what is taken out is dropped by who took it.
pub(crate) struct WakerCell<W: TwoWords = Words> {
    state: AtomicUsize,
    words: W,
}

/// Where the two words of a waker lie.
pub(crate) trait TwoWords {
    fn new(data: *mut (), vtable: *mut RawWakerVTable) -> Self;
    fn read(&self) -> (*mut (), *mut RawWakerVTable);
    fn write(&self, data: *mut (), vtable: *mut RawWakerVTable);
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $($atomic:ident)::+) => {
        $(#[$doc])*
        pub(crate) struct $name {
            data: $($atomic)::+<()>,
            vtable: $($atomic)::+<RawWakerVTable>,
        }

        impl TwoWords for $name {
            fn new(data: *mut (), vtable: *mut RawWakerVTable) -> Self {
                Self { data: $($atomic)::+::new(data), vtable: $($atomic)::+::new(vtable) }
            }
            #[inline]
            fn read(&self) -> (*mut (), *mut RawWakerVTable) {
                // ORDER: Relaxed, as the stores; the cell's state publishes them, and says whether they were read in one turn.
                (self.data.load(Ordering::Relaxed), self.vtable.load(Ordering::Relaxed))
            }
            #[inline]
            fn write(&self, data: *mut (), vtable: *mut RawWakerVTable) {
                self.data.store(data, Ordering::Relaxed);
                self.vtable.store(vtable, Ordering::Relaxed);
            }
        }
    };
}

words! {
    /// The words of every cell. They are `std`'s also in a model of the engine, which would otherwise have five times as many executions; the
    /// model of the cell alone has its own.
    Words: std::sync::atomic::AtomicPtr
}

#[cfg(loom)]
words! {
    /// Words that a model follows.
    Followed: loom::sync::atomic::AtomicPtr
}

/// For the model of the cell.
#[cfg(loom)]
pub mod model {
    use super::{Followed, Waker, WakerCell};

    /// A cell whose words the model follows.
    pub struct Cell(WakerCell<Followed>);

    impl Default for Cell {
        fn default() -> Self {
            Self(WakerCell::new())
        }
    }

    impl Cell {
        /// Puts the waker in. For one thread only.
        pub fn hold(&self, waker: &Waker) {
            self.0.hold(waker);
        }

        /// Takes the waker out.
        pub fn take(&self) -> Option<Waker> {
            self.0.take()
        }
    }

    impl std::fmt::Debug for Cell {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Cell")
        }
    }
}

const FULL: usize = 1;
/// One turn.
const TURN: usize = 2;

impl<W: TwoWords> WakerCell<W> {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicUsize::new(0),
            words: W::new(std::ptr::null_mut(), std::ptr::null_mut()),
        }
    }

    /// A cell with a waker in it.
    fn with(waker: Waker) -> Self {
        let (data, vtable) = into_words(waker);
        Self {
            state: AtomicUsize::new(FULL),
            words: W::new(data, vtable),
        }
    }

    /// Sees to it that `waker`, or one that wakes the same task, is in the cell. For the owner only.
    pub(crate) fn hold(&self, waker: &Waker) {
        // ORDER: Acquire (C0); pairs with C2: who took the last one has read the words.
        let mut state = self.state.load(Ordering::Acquire);
        let mut old = None;
        if state & FULL != 0 {
            // The owner wrote them. If somebody takes the waker now, it wakes the task that polls here, after this poll began.
            let (data, vtable) = self.words.read();
            if std::ptr::eq(data, waker.data()) && std::ptr::eq(vtable, waker.vtable()) {
                return;
            }
        }
        // Before the cell is touched, since it may panic.
        let new = waker.clone();
        if state & FULL != 0 {
            old = self.take();
            state &= !FULL;
        }
        let (data, vtable) = into_words(new);
        // The cell is empty, so nobody keeps what he reads there now (C2).
        self.words.write(data, vtable);
        // ORDER: AcqRel (C1); see the table. Nobody else fills the cell, so nothing is overwritten.
        self.state
            .swap(state.wrapping_add(TURN) | FULL, Ordering::AcqRel);
        stack::contain(|| drop(old));
    }

    /// Takes the waker out. For anybody.
    pub(crate) fn take(&self) -> Option<Waker> {
        // ORDER: Acquire (C0); pairs with C1: the words.
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            // If they are of another turn than `state`, C2 fails.
            let (data, vtable) = self.words.read();
            // ORDER: AcqRel (C2); see the table. On failure Acquire, as the first load.
            match self.state.compare_exchange(
                state,
                state & !FULL,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) if state & FULL == 0 => return None,
                Ok(_) => {
                    // SAFETY: the cell was full in this turn from the look to the exchange, so both words are of the waker that was put
                    // in then (`hold`, `with`): a vtable is `'static`.
                    let vtable = unsafe { &*vtable };
                    // SAFETY: as above, and who empties the cell has the waker.
                    return Some(unsafe { Waker::new(data, vtable) });
                }
                Err(now) => state = now,
            }
        }
    }

    /// Takes the waker out, if nobody has. For the owner, or the last to have the cell.
    fn take_back(&self) -> Option<Waker> {
        // ORDER: Acquire (C0); pairs with C2: the words are read, so the next owner may write them. Nobody else fills the cell.
        if self.state.load(Ordering::Acquire) & FULL == 0 {
            return None;
        }
        self.take()
    }
}

impl<W: TwoWords> Drop for WakerCell<W> {
    fn drop(&mut self) {
        // What the cell is part of is counted by std's `Arc`, of which a model does not learn that the others are done: it must not guess.
        let waker = if cfg!(loom) {
            self.take()
        } else {
            self.take_back()
        };
        drop(waker);
    }
}

/// The two words of a waker, which is whoever's who puts them together again.
fn into_words(waker: Waker) -> (*mut (), *mut RawWakerVTable) {
    let waker = std::mem::ManuallyDrop::new(waker);
    let vtable = std::ptr::from_ref(waker.vtable()).cast_mut();
    (waker.data().cast_mut(), vtable)
}

/// The wakes of this thread that are to be made once nothing of ours is entered any more.
pub(crate) mod queue {
    use super::{Arc, RefCell, VecDeque, Waiter, Waker};
    use crate::stack;

    pub(crate) enum Item {
        Waker(Waker),
        Waiter(Arc<Waiter>),
    }

    struct Wakes {
        /// Somebody on this thread will drain.
        entered: bool,
        items: VecDeque<Item>,
    }

    crate::sync::local! {
        static WAKES: RefCell<Wakes> = RefCell::new(Wakes { entered: false, items: VecDeque::new() });
    }

    /// Where wakes go on a thread whose locals are gone already. (No model has such a thread.)
    static LATE: std::sync::Mutex<VecDeque<Item>> = std::sync::Mutex::new(VecDeque::new());

    fn late() -> std::sync::MutexGuard<'static, VecDeque<Item>> {
        LATE.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds a wake. Inside a [`scope`] only.
    pub(crate) fn push(item: Item) {
        let mut item = Some(item);
        let _ = WAKES.try_with(|wakes| wakes.borrow_mut().items.extend(item.take()));
        if item.is_some() {
            late().extend(item);
        }
    }

    /// Calls `f`, then makes the wakes that it added, unless a caller further out will.
    pub(crate) fn scope<R>(f: impl FnOnce() -> R) -> R {
        let outermost =
            WAKES.try_with(|wakes| !std::mem::replace(&mut wakes.borrow_mut().entered, true));
        let drain = Drain(outermost.unwrap_or(true));
        let result = f();
        drop(drain);
        result
    }

    /// Drains when it is dropped, so also when `f` unwinds.
    struct Drain(bool);

    impl Drop for Drain {
        fn drop(&mut self) {
            if !self.0 {
                return;
            }
            drain();
            let _ = WAKES.try_with(|wakes| wakes.borrow_mut().entered = false);
        }
    }

    /// Makes the wakes that wait on this thread.
    pub(crate) fn drain() {
        loop {
            let item = WAKES
                .try_with(|wakes| wakes.borrow_mut().items.pop_front())
                .unwrap_or_else(|_| late().pop_front());
            match item {
                None => return,
                // A waker that panics must not keep the others asleep.
                Some(Item::Waker(waker)) => stack::contain(|| waker.wake()),
                Some(Item::Waiter(waiter)) => {
                    if let Some(waker) = waiter.cell.take() {
                        stack::contain(|| waker.wake());
                    }
                }
            }
        }
    }
}
