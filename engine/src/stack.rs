//! What this thread is inside of: how deep polls and drops are nested, and what is put off until the
//! stack is short again.
//!
//! Tasks call tasks, so polling one may poll a chain of them, and dropping one may drop a chain. Both would
//! recurse as deep as the chain is long. Instead:
//!
//! * **Polls hop.** A call that is polled where the stack is nearly used up (or [`NESTED`] polls deep, on a stack that is not ample) does not poll
//!   its slot: it parks as any caller does, leaves a [`Hop`] behind and is pending. The poll at the bottom of this stack, the
//!   *base*, drives the hops once its own body has returned, newest first. Each hop that ends wakes the body that waits for
//!   it, which is an older hop: so a chain of any length is driven in one go, on a short stack.
//! * A hop needs the base to run again, so it is only taken where every poll between base and call was made with the waker
//!   that its body was given. Where another waker shows (a `FuturesUnordered`, a nested `block_on`) a new
//!   base begins, on fresh stack if need be.
//! * **Drops queue.** Below [`NESTED_DROPS`] bodies that are being dropped, the next waits for the outermost.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(any(feature = "shared", loom))]
use std::ptr::NonNull;
use std::task::{Poll, Waker};

use crate::BoxError;
use crate::context::{CorePtr, Strong};
#[cfg(any(feature = "shared", loom))]
use crate::held::Counted;
use crate::slot::{Attempt, Slot, SlotPtr, Start};

/// How many polls may be nested before the next one hops, unless the stack is ample.
const NESTED: u32 = if cfg!(loom) { 4 } else { 128 };
/// How many bodies may be dropped inside one another.
const NESTED_DROPS: u32 = 16;
/// Stack that a poll must find: room for a body with large locals in a debug build, and what it calls.
#[cfg(not(loom))]
const RED_ZONE_BYTES: usize = 192 * 1024;
/// Stack that is ample: half of what threads have by default. While there is more, polls nest, since a hop costs each level above it a hub.
#[cfg(not(loom))]
const AMPLE_BYTES: usize = 1024 * 1024;
/// Fresh stack for a base that would not find that.
#[cfg(not(loom))]
const FRESH_STACK_BYTES: usize = 2 * 1024 * 1024;

/// Where this thread is.
struct Nest {
    /// Polls between the base and here; 0 outside of any poll.
    polls: Cell<u32>,
    /// The waker that the innermost poll gave to its body; null outside of any poll.
    waker: Cell<*const Waker>,
    /// The body of the innermost poll has woken itself.
    woken: Cell<bool>,
    /// The slot whose body the innermost poll, or drop, is of; null outside of any.
    slot: Cell<*const Slot>,
    /// Where the base's hops begin in the list.
    first_hop: Cell<usize>,
    /// How long the list of hops is.
    hops: Cell<usize>,
}

crate::sync::local! {
    static NEST: Nest = Nest {
        polls: Cell::new(0),
        waker: Cell::new(std::ptr::null()),
        woken: Cell::new(false),
        slot: Cell::new(std::ptr::null()),
        first_hop: Cell::new(0),
        hops: Cell::new(0),
    };
}
crate::sync::local! {
    static HOPS: RefCell<Vec<Hop>> = RefCell::new(Vec::new());
}
crate::sync::local! {
    static DROPS: RefCell<Drops> = RefCell::new(Drops { nested: 0, later: Vec::new() });
}

/// A slot that the base of this stack is to drive.
struct Hop {
    slot: SlotPtr,
    /// For whom it is started, if it is to be.
    start: Start,
    /// Keeps the slot's memory.
    context: Strong,
}

struct Drops {
    nested: u32,
    later: Vec<Later>,
}

/// A drop that is put off.
enum Later {
    Body(SlotPtr, Strong),
    Error(BoxError),
    /// What nobody has a handle of any more, and how it is freed.
    #[cfg(any(feature = "shared", loom))]
    Kept(NonNull<Counted>, FreeKept),
}

#[cfg(any(feature = "shared", loom))]
type FreeKept = unsafe fn(NonNull<Counted>);

impl Later {
    fn go(self) {
        match self {
            Later::Body(slot, context) => {
                slot.drop_body_here(context.core());
                drop(context);
            }
            Later::Error(error) => contain(|| drop(error)),
            #[cfg(any(feature = "shared", loom))]
            // SAFETY: the promise of `free_kept`.
            Later::Kept(kept, free) => unsafe { free(kept) },
        }
    }
}

/// Where a call that wants to poll its slot may do so.
pub(crate) enum Place {
    /// Here, inside the poll of another body.
    Nested,
    /// Here, as a new base; [`base`] does it.
    Base,
    /// Not here: [`hop`].
    Hop,
}

/// Where the call that is polled with `waker` may poll its slot.
#[inline]
pub(crate) fn place(waker: &Waker) -> Place {
    NEST.with(|nest| {
        if nest.polls.get() == 0 {
            return Place::Base;
        }
        // SAFETY: the poll that set it is still on this stack (`enter` restores it on the way out).
        let outer = unsafe { &*nest.waker.get() };
        if !outer.will_wake(waker) {
            return Place::Base;
        }
        if has_room(nest.polls.get()) {
            Place::Nested
        } else {
            Place::Hop
        }
    })
}

/// Whether one more poll may be nested in so many.
#[cfg(not(loom))]
#[inline]
fn has_room(polls: u32) -> bool {
    let needs = if polls < NESTED {
        RED_ZONE_BYTES
    } else {
        AMPLE_BYTES
    };
    // Unknown on an exotic platform: the count alone bounds the nesting then.
    stacker::remaining_stack().map_or(polls < NESTED, |bytes| bytes > needs)
}

// loom runs its threads on small stacks of its own, which `stacker` does not know: the count bounds the nesting.
#[cfg(loom)]
fn has_room(polls: u32) -> bool {
    polls < NESTED
}

/// What no other living thread has: an address in this one's own storage.
#[inline(always)]
pub(crate) fn thread() -> usize {
    NEST.with(|nest| std::ptr::from_ref(nest).addr())
}

/// Whether the innermost poll, or drop, of a body on this thread is of this slot's.
#[inline]
pub(crate) fn is_inside(slot: SlotPtr) -> bool {
    NEST.with(|nest| std::ptr::eq(nest.slot.get(), slot.as_ptr()))
}

/// Notes a wake by the waker with this data, if the innermost poll of a body on this thread was given that waker: the
/// poller looks at the note when the body returns ([`enter`]).
#[inline]
pub(crate) fn wakes_itself(data: *const ()) -> bool {
    NEST.try_with(|nest| {
        // SAFETY: null, or the poll that set it is still on this stack (`enter` restores it on the way out).
        let waker = unsafe { nest.waker.get().as_ref() };
        let itself = waker.is_some_and(|waker| std::ptr::eq(waker.data(), data));
        if itself {
            nest.woken.set(true);
        }
        itself
    })
    .unwrap_or(false)
}

/// Calls `f`, which polls the body of `slot` with `waker`, or drops it, one level deeper. Also says whether the body woke itself.
#[inline]
pub(crate) fn enter<R>(slot: SlotPtr, waker: &Waker, f: impl FnOnce() -> R) -> (R, bool) {
    let restore = NEST.with(|nest| {
        let polls = nest.polls.get();
        nest.polls.set(polls + 1);
        Restore {
            polls,
            waker: nest.waker.replace(waker),
            woken: nest.woken.replace(false),
            slot: nest.slot.replace(slot.as_ptr()),
        }
    });
    let result = f();
    let woken = NEST.with(|nest| nest.woken.get());
    drop(restore);
    (result, woken)
}

struct Restore {
    polls: u32,
    waker: *const Waker,
    woken: bool,
    slot: *const Slot,
}

impl Drop for Restore {
    #[inline]
    fn drop(&mut self) {
        NEST.with(|nest| {
            nest.polls.set(self.polls);
            nest.waker.set(self.waker);
            nest.woken.set(self.woken);
            nest.slot.set(self.slot);
        });
    }
}

/// Calls `f`, which drives a slot, as a base, and then drives what hopped. Says whether any hop ended.
#[inline]
pub(crate) fn base<R>(f: impl FnOnce() -> R) -> (R, bool) {
    if NEST.with(|nest| nest.polls.get()) > 0 {
        return base_inside(f);
    }
    let result = f();
    (result, drive_hops())
}

/// A base inside the poll of another body.
#[cold]
fn base_inside<R>(f: impl FnOnce() -> R) -> (R, bool) {
    let (restore, outer) = NEST.with(|nest| {
        let restore = Restore {
            polls: nest.polls.replace(0),
            waker: nest.waker.replace(std::ptr::null()),
            woken: nest.woken.get(),
            slot: nest.slot.get(),
        };
        (restore, OuterBase(nest.first_hop.replace(nest.hops.get())))
    });
    let result = fresh(|| {
        let result = f();
        (result, drive_hops())
    });
    drop(outer);
    drop(restore);
    result
}

/// Where the hops of the base further out begin.
struct OuterBase(usize);

impl Drop for OuterBase {
    fn drop(&mut self) {
        NEST.with(|nest| nest.first_hop.set(self.0));
    }
}

#[cfg(not(loom))]
fn fresh<R>(f: impl FnOnce() -> R) -> R {
    stacker::maybe_grow(RED_ZONE_BYTES, FRESH_STACK_BYTES, f)
}
#[cfg(loom)]
fn fresh<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Leaves `slot` to the base of this stack. The caller is counted there and parked.
pub(crate) fn hop(slot: SlotPtr, start: Start, context: Strong) {
    HOPS.with(|hops| {
        hops.borrow_mut().push(Hop {
            slot,
            start,
            context,
        });
    });
    NEST.with(|nest| nest.hops.set(nest.hops.get() + 1));
}

/// Drives the hops above the base's mark, newest first. A hop is driven again when something that hopped while it
/// was driven has ended: each repetition is paid by an end, so this ends too.
#[inline]
fn drive_hops() -> bool {
    let (first, hops) = NEST.with(|nest| (nest.first_hop.get(), nest.hops.get()));
    hops > first && drive_hops_from(first)
}

#[cold]
fn drive_hops_from(first: usize) -> bool {
    let length = || NEST.with(|nest| nest.hops.get());
    let pop = || {
        let hop = HOPS.with(|hops| {
            let mut hops = hops.borrow_mut();
            if hops.len() > first { hops.pop() } else { None }
        })?;
        NEST.with(|nest| nest.hops.set(nest.hops.get() - 1));
        Some(hop)
    };
    let mut any_ended = false;
    // Hops that left others behind.
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut next = pop();
    while let Some(hop) = next {
        let below = length();
        let ended = match hop.slot.attempt_as(hop.context.core(), hop.start) {
            Attempt::Finished | Attempt::Driven(Poll::Ready(())) => true,
            Attempt::Driven(Poll::Pending) => {
                if length() > below {
                    waiting.push(Waiting {
                        hop,
                        below,
                        again: false,
                    });
                }
                false
            }
            Attempt::NotNow | Attempt::NobodyLeft => false,
        };
        if ended {
            any_ended = true;
            if let Some(outer) = waiting.last_mut() {
                outer.again = true;
            }
        }
        // The hop whose inner ones are all done now, if any of them ended; otherwise the newest.
        let done = length();
        next = loop {
            match waiting.pop_if(|outer| outer.below >= done) {
                Some(outer) if outer.again => break Some(outer.hop),
                Some(_) => {}
                None => break pop(),
            }
        };
    }
    any_ended
}

/// A hop that waits for hops above it in the list.
struct Waiting {
    hop: Hop,
    /// How long the list is when they are all done.
    below: usize,
    /// One of them ended.
    again: bool,
}

/// Drops the body of a slot whose claim for dropping is held, now or when the outermost drop of this thread ends.
pub(crate) fn drop_body(slot: SlotPtr, core: CorePtr) {
    nested_drop(
        slot,
        |slot| slot.drop_body_here(core),
        |slot| Later::Body(slot, core.strong()),
    );
}

/// Drops the error in a `TaskError`, which may hold another `TaskError`.
pub(crate) fn drop_error(error: BoxError) {
    nested_drop(error, drop, Later::Error);
}

/// Frees a value of the second tier, which may hold another one, or whose destructor may make others go.
///
/// # Safety
/// Nobody has a handle of it any more, `free` frees it, and this is done once.
#[cfg(any(feature = "shared", loom))]
pub(crate) unsafe fn free_kept(kept: NonNull<Counted>, free: FreeKept) {
    nested_drop(
        kept,
        // SAFETY: the promise of the caller.
        |kept| unsafe { free(kept) },
        |kept| Later::Kept(kept, free),
    );
}

fn nested_drop<T>(what: T, now: impl FnOnce(T), later: impl FnOnce(T) -> Later) {
    let mut what = Some(what);
    // The locals are gone if the thread is going down; then there is nothing to wait for.
    let outermost = DROPS.try_with(|drops| {
        let mut drops = drops.borrow_mut();
        if drops.nested >= NESTED_DROPS
            && let Some(what) = what.take()
        {
            drops.later.push(later(what));
            return false;
        }
        drops.nested += 1;
        drops.nested == 1
    });
    let Some(what) = what else { return };
    let _leave = outermost.ok().map(LeaveDrop);
    now(what);
}

/// Leaves a drop, also when it unwinds; the outermost does what was put off.
struct LeaveDrop(bool);

impl Drop for LeaveDrop {
    fn drop(&mut self) {
        if self.0 {
            drop_later();
        }
        let _ = DROPS.try_with(|drops| drops.borrow_mut().nested -= 1);
    }
}

/// Does the drops that were put off on this thread.
pub(crate) fn drop_later() {
    while let Ok(Some(later)) = DROPS.try_with(|drops| drops.borrow_mut().later.pop()) {
        later.go();
    }
}

/// Calls `f` with enough stack for a poll.
pub(crate) fn with_room<R>(f: impl FnOnce() -> R) -> R {
    fresh(f)
}

/// Calls user code that must not unwind into ours: what it panics with has been shown by the panic hook and ends here.
pub(crate) fn contain(f: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
        discard(payload);
    }
}

/// Drops the payload of a panic. If its destructor panics too, with something that is not text and so may have a destructor
/// of the same kind, that is leaked.
pub(crate) fn discard(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload)))
        && !second.is::<&'static str>()
        && !second.is::<String>()
    {
        std::mem::forget(second);
    }
}
