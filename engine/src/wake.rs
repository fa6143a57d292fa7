//! The hub of a slot: who is woken when the body is woken, and how.
//!
//! A body is always polled with the hub's waker. A wake sets `WOKEN` and wakes everyone who is
//! parked; whoever is polled first claims the slot and polls the body. The hub does not know its slot, so a
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
//! | `WOKEN` | a wake (H1); the poller that moves the stack's flag (H2) | the claimant, before it polls (H3) | the body wants a poll |
//! | `WAITERS` | a waiter, after it is listed with event-listener (H4) | never | `notify` may find somebody; without it `notify` is skipped |
//! | `DRIVER` | the caller that takes the driver's place (H5) | the same, after it took its waker back (H6) | the cell has an owner |
//!
//! All of them are read-modify-writes of one word, so a wake and a registration are ordered by it: either
//! the wake sees the registration, or whoever registers sees `WOKEN`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
#[cfg(feature = "tokio")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Wake, Waker};

use event_listener::{Event, EventListener};

use crate::observe;
use crate::stack;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use crate::sync::cell::UnsafeCell;
use crate::sync::{Arc, spin_hint};

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
    /// The runtime in which the body was started, if any; owned by who holds the slot's claim.
    #[cfg(feature = "tokio")]
    runtime: UnsafeCell<Option<tokio::runtime::Handle>>,
}

// SAFETY: `runtime` is touched by the holder of the slot's claim only (`Hub::with_runtime`, `Hub::set_runtime`), and
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
        // ORDER: Acquire; pairs with the AcqRel below.
        let mut cell = self.cell.load(Ordering::Acquire);
        if cell.is_null() {
            let new = Box::into_raw(Box::new(observe::Cell::new()));
            // ORDER: AcqRel; Release publishes the new cell, Acquire (also on failure) reads another's.
            match self.cell.compare_exchange(
                std::ptr::null_mut(),
                new,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => cell = new,
                Err(theirs) => {
                    // SAFETY: `new` came out of a box just now and nobody else has seen it.
                    drop(unsafe { Box::from_raw(new) });
                    cell = theirs;
                }
            }
        }
        // SAFETY: a cell is never replaced and goes with the hub.
        unsafe { &*cell }
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
        // before that, and one that comes after it sees him. A driver that registers again writes its cell only: there C1 (also where it
        // fails, hence Acquire) orders it behind the wake that took its waker.
        self.word.load(Ordering::Relaxed) & WOKEN != 0
    }

    /// H3: the claimant takes the wake, before it polls.
    pub(crate) fn take_woken(&self) {
        // ORDER: AcqRel; Acquire pairs with H1: what the waker's thread did before the wake is seen by the body.
        // Release: the next wake that finds the bit clear is ordered behind this. A store would drop a wake that comes meanwhile.
        self.word.fetch_and(!WOKEN, Ordering::AcqRel);
    }

    /// H2: the poller moves the wake that the body left on the stack.
    pub(crate) fn set_woken(&self) {
        // ORDER: AcqRel; as H1. Whoever is parked is told by the release of the claim (S5a).
        self.word.fetch_or(WOKEN, Ordering::AcqRel);
    }

    /// H1: the body's waker was called.
    fn wake(&self) {
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

    /// Registers `waker` as the driver's, for a hub at which nobody parks: whoever follows it comes by this way, with wakers of
    /// one kind. The caller looks at the slot again after this.
    pub(crate) fn follow(&self, waker: Waker) {
        // ORDER: AcqRel (H5); as in `Park::register`. DRIVER stays.
        self.word.fetch_or(DRIVER, Ordering::AcqRel);
        if !self.driver.holds(&waker) {
            // Two at once: the second finds the cell taken, and wakes.
            self.driver.set(waker);
        }
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

    /// Calls `f` inside the runtime in which the body was started, if it was started in one.
    ///
    /// # Safety
    /// The caller holds the claim of the hub's slot.
    pub(crate) unsafe fn with_runtime<R>(&self, f: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tokio")]
        {
            // SAFETY: the claim is exclusive, so nobody writes the field meanwhile.
            let handle = unsafe { self.runtime.read(Option::clone) };
            // It panics on a thread that is going down; the body then finds out by itself.
            let enter = || handle.as_ref().map(tokio::runtime::Handle::enter);
            let _entered = catch_unwind(AssertUnwindSafe(enter));
            f()
        }
        #[cfg(not(feature = "tokio"))]
        f()
    }

    /// Keeps the runtime of this thread for the later polls of the body.
    ///
    /// # Safety
    /// The caller holds the claim of the hub's slot.
    pub(crate) unsafe fn set_runtime(&self) {
        #[cfg(feature = "tokio")]
        {
            let handle = tokio::runtime::Handle::try_current().ok();
            // SAFETY: the claim is exclusive.
            let old = unsafe { self.runtime.write(|r| std::mem::replace(r, handle)) };
            drop(old);
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let cell = *self.cell.get_mut();
        if !cell.is_null() {
            // SAFETY: it came out of a box (`cell`), and this is its end.
            drop(unsafe { Box::from_raw(cell) });
        }
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
/// While the slot has no hub, cloning makes one, and waking by reference only sets a flag here, which the
/// poller moves into the hub before it releases the claim. So a body that is ready at once never makes a hub.
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

    /// Whether the body woke itself by reference while there was no hub.
    pub(crate) fn was_woken(&self) -> bool {
        // ORDER: Acquire; pairs with the Release of the swap in `STACK_VTABLE`, which another thread may have done.
        self.woken.swap(false, Ordering::AcqRel)
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
        // ORDER: AcqRel; a swap since loom lets a load read a value that a store racing with a read-modify-write has overwritten.
        this.woken.swap(true, Ordering::AcqRel);
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

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        queue::push(queue::Item::Waiter(self));
    }
}

impl Park {
    /// Registers `waker` to be woken by the hub. The caller looks at the slot again after this.
    pub(crate) fn register(&mut self, hub: &Hub, waker: &Waker) {
        if self.driver {
            if !hub.driver.holds(waker) {
                hub.driver.set(waker.clone());
            }
            return;
        }
        let waiter = match &self.waiter {
            Some(waiter) => {
                if !waiter.cell.holds(waker) {
                    waiter.cell.set(waker.clone());
                }
                waiter
            }
            None => {
                if hub.take_drivers_place() {
                    self.driver = true;
                    hub.driver.set(waker.clone());
                    return;
                }
                self.waiter.insert(Arc::new(Waiter {
                    cell: WakerCell::with(waker.clone()),
                    listener: UnsafeCell::new(None),
                }))
            }
        };
        let in_place_of_waker = Waker::from(waiter.clone());
        queue::scope(|| {
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
        // ORDER: AcqRel (H4), after the listener is in the list: either a wake sees WAITERS and notifies, or the
        // look that follows sees what the waker's side did. It stands for the fence that event-listener's docs promise.
        hub.word.fetch_or(WAITERS, Ordering::AcqRel);
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.driver || self.waiter.is_some()
    }

    /// Takes the waker back. For the driver before it gives up its place, or it would take its successor's.
    pub(crate) fn leave(&mut self, hub: &Hub) {
        if std::mem::take(&mut self.driver) {
            let waker = hub.driver.take();
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
                    drop(waiter.cell.take());
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

/// A place for one waker: one caller sets it, anybody takes it.
///
/// | | who | from → to | ordering | why |
/// |---|---|---|---|---|
/// | C1 | owner | `FREE` → `SETTING` | CAS Acquire | pairs with C4: the taker is done with the cell |
/// | C2 | owner | `SETTING` → `FREE` | CAS Release | publishes the waker to C3; fails if C3 came meanwhile: the owner then takes and wakes it |
/// | C3 | taker | + `TAKING` | or AcqRel | from `FREE`: the cell is the taker's; otherwise somebody else sees to it |
/// | C4 | taker | `TAKING` → `FREE` | and Release | publishes the empty cell to C1, C3 |
///
/// The `atomic-waker` crate has the same shape, but clones and drops wakers in its critical section, so a
/// waker that panics there leaves it locked for good.
pub(crate) struct WakerCell {
    state: AtomicUsize,
    waker: UnsafeCell<Option<Waker>>,
}

const FREE: usize = 0;
const SETTING: usize = 1;
const TAKING: usize = 2;

// SAFETY: the cell is touched by whoever moved `state` from FREE (C1, C3), one at a time; wakers are Send and Sync.
unsafe impl Sync for WakerCell {}
// SAFETY: as above.
unsafe impl Send for WakerCell {}

impl WakerCell {
    pub(crate) fn new() -> Self {
        Self::holding(None)
    }

    /// A cell with a waker in it.
    fn with(waker: Waker) -> Self {
        Self::holding(Some(waker))
    }

    fn holding(waker: Option<Waker>) -> Self {
        Self {
            state: AtomicUsize::new(FREE),
            waker: UnsafeCell::new(waker),
        }
    }

    /// Enters the cell as its owner; `None` if it is being taken.
    fn owner<R>(&self, f: impl FnOnce(&mut Option<Waker>) -> R) -> Option<R> {
        // ORDER: Acquire (C1); pairs with C2, C4.
        self.state
            .compare_exchange(FREE, SETTING, Ordering::Acquire, Ordering::Acquire)
            .ok()?;
        // SAFETY: `state` is SETTING by this thread, so the cell is ours until C2.
        let result = unsafe { self.waker.write(f) };
        // ORDER: AcqRel (C2); Release publishes the waker to C3. On failure Acquire, for the take that follows.
        if self
            .state
            .compare_exchange(SETTING, FREE, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            // A taker came meanwhile and left it to us. Nobody else enters while both bits are set.
            // SAFETY: as above.
            let waker = unsafe { self.waker.write(Option::take) };
            // ORDER: AcqRel; Release as C4.
            self.state.swap(FREE, Ordering::AcqRel);
            if let Some(waker) = waker {
                queue::scope(|| queue::push(queue::Item::Waker(waker)));
            }
        }
        Some(result)
    }

    /// Whether the waker in the cell wakes the same task.
    pub(crate) fn holds(&self, waker: &Waker) -> bool {
        self.owner(|cell| cell.as_ref().is_some_and(|w| w.will_wake(waker)))
            .unwrap_or(false)
    }

    /// Puts `waker` in, or wakes it if somebody is taking. For the owner only.
    pub(crate) fn set(&self, waker: Waker) {
        let mut new = Some(waker);
        let old = self.owner(|cell| std::mem::replace(cell, new.take()));
        drop(old);
        if let Some(waker) = new {
            // The caller comes round again at once; the taker is between C3 and C4.
            spin_hint();
            queue::scope(|| queue::push(queue::Item::Waker(waker)));
        }
    }

    /// Takes the waker out. For anybody.
    pub(crate) fn take(&self) -> Option<Waker> {
        // ORDER: AcqRel (C3); Acquire pairs with C2; Release: an owner that finds TAKING in C2 wakes after us.
        if self.state.fetch_or(TAKING, Ordering::AcqRel) != FREE {
            return None;
        }
        // SAFETY: `state` was FREE and is TAKING by this thread, so the cell is ours until C4.
        let waker = unsafe { self.waker.write(Option::take) };
        // ORDER: Release (C4); AcqRel on x86 is the same instruction.
        self.state.fetch_and(!TAKING, Ordering::AcqRel);
        waker
    }
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
