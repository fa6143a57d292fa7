//! One slot: the run of one task for one input, from nobody's to a value that everybody reads.
//!
//! The body's future lives here and not in a caller's frame, so whichever caller is polled and finds it idle and
//! woken may poll it: no caller can stall the others, whether it is dropped or alive and never polled again.
//!
//! # The word
//! `phase:3 | CONTENDED | DEAD | CLOSED | OBSERVED | WOKEN | HOSTED | HUB | PENDED | callers`. *Callers* counts the calls that have joined and not left; it is kept in
//! every phase that is not terminal, also where there is no body, so that nobody who arrives meanwhile is forgotten.
//!
//! ```text
//!                     prime (claims without a count; so does a batch, from IDLE)
//!                   +-------------------------------+
//!                   |                               v
//!   join + start  +---------+  ready: publish   +------+   +--------+
//!  EMPTY|n -----> | POLLING | ----------------> | DONE | / | FAILED |   terminal; DEAD may still be added
//!    ^            +---------+                   +------+   +--------+
//!    |             |   ^  |
//!    |     pending |   |  | pending, and (nobody is left or CLOSED)
//!    |             v   |  |
//!    |            +------+|  claim: only if WOKEN, here or at the hub
//!    |            | IDLE ||
//!    |            +------+|
//!    |   last leaver | |  | closer (however many callers)
//!    |               v v  v
//!    |            +----------+
//!    +----------- | DROPPING |   the body is dropped here, outside every lock
//!     EMPTY|n'    +----------+   n' = who joined meanwhile: woken, they start afresh
//! ```
//!
//! # The table
//! Every loop starts from an Acquire load (S0), also after a compare-exchange that failed. *Wakes* goes through [`Hub`].
//!
//! | row | who | from → to | operation | pairs with | why, and what breaks when it is weaker | wakes |
//! |---|---|---|---|---|---|---|
//! | S0 | anybody | look | load Acquire | S7 | the outcome is read after it: Relaxed shows DONE before the value | |
//! | S1 | first caller, or a helper for callers that are counted | EMPTY\|n → POLLING\|n (+1) | CAS AcqRel | S10 | starting is claiming; Acquire: the old body is gone | |
//! | S2 | arrival | any live phase\|n → same\|n+1 | CAS AcqRel | | refused if DEAD (look up again) or CLOSED | |
//! | S3 | counted caller, helper | IDLE → POLLING, WOKEN cleared, after it saw WOKEN here or at the hub | CAS AcqRel, then H3 | S5 | Relaxed: two polls race for the body | |
//! | S4 | who will sleep and did not see IDLE\|HUB | w → w\|CONTENDED, also if it is set | CAS AcqRel, after it registered | S3, S5, S7, S10, S11 | not at all, or only when unset: a wake that the poller takes is lost on who sleeps, or the next one does not see the hub that it made | |
//! | S5 | poller, pending | POLLING → IDLE\|PENDED, with WOKEN if the body woke itself, HUB if there is one; CONTENDED cleared | CAS AcqRel | S3, S4 | Release: the body moves to the next poller; Acquire: sees who registered before S4 | if CONTENDED was set or others are counted, and WOKEN is set here or at the hub: everyone (S5a) |
//! | S6 | poller, pending, nobody left or CLOSED | POLLING → DROPPING | same CAS | | otherwise the body stays although nobody waits | by S10 |
//! | S7 | poller, ready | POLLING → DONE, FAILED (with DEAD if transient) | xor AcqRel, after the outcome is written and the body dropped | S0, S4 | Release: the outcome; Acquire: the hub of who registered | everyone, if anybody else is counted |
//! | S8 | leaver | n → n-1 | CAS AcqRel | | POLLING\|1 → POLLING\|0 is legal: the poller sees to it (S6) | |
//! | S9 | last leaver | IDLE\|1 → DROPPING\|0 | one CAS AcqRel | S5 | in two steps an arrival in between joins a body that goes away | by S10 |
//! | S10 | owner of DROPPING | DROPPING → EMPTY, CONTENDED, WOKEN, HOSTED cleared | and AcqRel, after the body is dropped | S1 | a plain store loses who joined meanwhile | everyone |
//! | S11 | closer | IDLE\|n → DROPPING\|n\|CLOSED, otherwise w → w\|CLOSED | CAS AcqRel | S4 | see below | everyone, always |
//! | S12 | forget | w → w\|DEAD | CAS AcqRel | | a flag, so nobody else meets a false phase | |
//! | S13 | prime | EMPTY\|n → POLLING\|n, then S7 | CAS AcqRel | S10 | writing without the claim races with a start | by S7 |
//! | S14 | a batch that has the value | IDLE\|n → POLLING\|n, WOKEN or not; the body is dropped, then S7 | CAS AcqRel | S5 | as S3 | by S7 |
//!
//! # Who notices when a row is weakened
//! Models in `loom-tests/tests` that were seen to fail with the row weakened as said; `.ci/mutants` weakens them again.
//!
//! | row | weakened | fails |
//! |---|---|---|
//! | S0 | Relaxed | `two_callers_one_key` |
//! | S1 | Relaxed | `last_caller_against_arrival`: never ends |
//! | S2, S12 | joins what is DEAD | `forget_against_run` |
//! | S3 | Relaxed | `wake_during_poll` |
//! | S3 | WOKEN not cleared | `own_wake` |
//! | S4 | left out; Relaxed; only when unset | `publish_against_park`; the same; `two_callers_one_key`, `three_callers` |
//! | S4 | not where HUB is not set | `own_wake` |
//! | S5 | without Release, without Acquire | `wake_during_poll`, `driver_dropped` |
//! | S5 | WOKEN not set | `own_wake` |
//! | S5a | no wake; only for CONTENDED; not for WOKEN | `two_callers_one_key`, `wake_during_poll`; `own_wake`; `own_wake` |
//! | S6 | the count, CLOSED not looked at | `helpers`; `close_against_spawn` |
//! | S7 | without Release, without Acquire; wakes only who contended | `publish_against_park`, `two_callers_one_key`; `wake_during_poll` |
//! | S8 | Relaxed | nothing: the Acquire look before it orders, and only the count is changed (kept: the same instruction on x86) |
//! | S9 | in two steps | `last_caller_against_arrival`, `driver_dropped`, `spawn_promise` |
//! | S9 | Relaxed | nothing, as S8 |
//! | S10 | a plain store; no wake; Relaxed | `last_caller_against_arrival`; for Relaxed it never ends |
//! | S11 | takes idle bodies Relaxed; wakes nobody | `cancel_against_publish`; `close_against_park` |
//! | S13 | without the claim | `prime_against_run`: crashes |
//! | S14 | without the claim; wakes nobody | `batch_drop_against_dispatch`; the same |
//!
//! # Invariants
//! * Body, starter and depth are touched by the holder of POLLING or DROPPING only; the outcome is written by the holder of
//!   POLLING and read by who saw DONE or FAILED.
//! * Who sees HUB sees the hub. Who sleeps without having seen IDLE with HUB goes through S4, so whoever moves the word next sees what it
//!   registered, and where. Who sees IDLE with HUB needs no more: the next wake goes through the hub's word.
//! * A body that woke itself needs no hub: the caller that polled it sees WOKEN and wakes itself, and S5a tells the others.
//! * DONE and FAILED never change (but for GONE, where nobody else looks for a value). A cancellation is never an outcome: a body that ends with its own context's cancellation
//!   is dropped as if it were pending (S6).
//! * No user code runs under a lock, and what it panics with is caught: in a body it is the outcome, elsewhere it ends there.
//!
//! # What a drop does
//! | dropped | then |
//! |---|---|
//! | a call that was never polled | nothing: it is not counted |
//! | a parked caller | its waker is taken back, S8; the last one: S9, the body is dropped before the drop returns |
//! | the caller that drives, between polls | as any other; whoever is polled next after a wake drives on |
//! | the context | S11 for every slot, then the memory with the last handle |

use std::any::{Any, TypeId};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::task::{Context, Poll, Waker};

use crate::context::CorePtr;
use crate::cycle;
use crate::error::{TaskError, TaskErrorKind};
use crate::observe;
use crate::stack;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use crate::sync::cell::UnsafeCell;
use crate::wake::{Hub, PollWaker};

mod node;
#[cfg(any(feature = "shared", loom))]
pub(crate) use node::name;
pub(crate) use node::{input, meta, new_node, type_id, value, value_at, write, write_at};

const PHASE: usize = 0b111;
/// No body. Nobody's, or callers are counted that will start it (a promise, a hop, a restart).
const EMPTY: usize = 0;
/// Somebody holds the claim: the body is being made, polled, or its outcome written.
const POLLING: usize = 1;
/// A body that nobody polls.
const IDLE: usize = 2;
/// Somebody holds the claim to drop the body.
const DROPPING: usize = 3;
/// Terminal, with a value.
const DONE: usize = 4;
/// Terminal, with an error.
const FAILED: usize = 5;
/// Terminal, and the value was taken out: the run of a call without memoization, which only that call knows.
const GONE: usize = 6;
/// Set in the terminal phases and in no other.
const TERMINAL: usize = 4;
/// Somebody went to sleep without having seen IDLE with HUB; cleared by who leaves POLLING or DROPPING. Set: that one looks for a wake to pass on.
const CONTENDED: usize = 1 << 3;
/// Forgotten, or a transient failure: nobody new joins, lookups walk past. Never cleared.
const DEAD: usize = 1 << 4;
/// The context is closed: nobody starts or waits, the body goes. Never cleared.
const CLOSED: usize = 1 << 5;
/// The context has observers: a hit takes the long way, where they are told ([`crate::observe`]). Set when the slot is made, never cleared.
const OBSERVED: usize = 1 << 6;
/// The body woke itself in its last poll. Only in IDLE, and on the way from there to EMPTY.
const WOKEN: usize = 1 << 7;
/// The body was first polled in the context's runtime. From the end of that poll; cleared where a body may follow (S10).
const HOSTED: usize = 1 << 8;
/// The hub was there when this was set, so who sees it sees the hub. Never cleared.
const HUB: usize = 1 << 9;
/// There was a body that was pending. Never cleared.
const PENDED: usize = 1 << 10;
/// What is not there any more where another body may start. (It stays in DONE and FAILED, where nobody asks.)
const OF_BODY: usize = PHASE | CONTENDED | WOKEN | HOSTED;
/// One caller.
const ONE: usize = 1 << 11;

/// The part of a slot that does not depend on its types. The first cache line is what a hit reads.
#[repr(C, align(8))]
pub(crate) struct Slot {
    word: AtomicUsize,
    pub(crate) hash: u64,
    pub(crate) meta: &'static Meta,
    pub(crate) children: [AtomicPtr<Slot>; 4],
    hub: AtomicPtr<Hub>,
    /// The slot whose body started this run: the edge of the wait graph that a fresh start adds, reversed.
    pub(crate) starter: AtomicPtr<Slot>,
    /// The body while there is one (POLLING, IDLE, DROPPING), the error in FAILED; null otherwise.
    content: UnsafeCell<*mut ()>,
    pub(crate) waits: cycle::Waits,
    /// How many runs are above this one: it is below who started it and who waited when it started.
    depth: AtomicU32,
    /// The body called [`Ctx::transient`](crate::Ctx::transient).
    transient: AtomicBool,
    /// The body has started or joined another run; see [`crate::cycle`].
    has_called: AtomicBool,
    /// It lies in the context's [`Room`](crate::room::Room), and not in an allocation of its own.
    roomed: bool,
    /// Where the handle is that the body was given; see [`crate::context`].
    lease: AtomicU8,
}

/// What `Slot::lease` holds. There is no lent handle.
const HOME: u8 = 0;
/// It is out, and not counted: the poll that started the body is under way.
const LENT: u8 = 1;
/// It is out, and one of the context's handles.
const COUNTED: u8 = 2;

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() <= 104);

/// What the types of a slot know to do.
pub(crate) struct Meta {
    /// Of task, input, value and error together.
    pub(crate) type_id: TypeId,
    pub(crate) name: fn() -> &'static str,
    /// The body only waits for a run of the second tier, which has the same name.
    pub(crate) stands: bool,
    /// Makes the body. It may unwind: the input is cloned and the task called.
    pub(crate) start: unsafe fn(SlotPtr, CorePtr) -> NonNull<Body>,
    /// Finds or makes the slot for an equal input.
    pub(crate) renew: unsafe fn(SlotPtr, CorePtr) -> SlotPtr,
    pub(crate) value: unsafe fn(SlotPtr) -> NonNull<()>,
    pub(crate) drop_value: unsafe fn(SlotPtr),
    /// Frees the memory and drops the input.
    pub(crate) free: unsafe fn(SlotPtr),
}

/// A future, behind what its type knows to do.
#[repr(C)]
pub(crate) struct Body {
    /// When it returns ready, the body is gone and the value, if any, is in the slot.
    pub(crate) poll: PollBody,
    pub(crate) drop: unsafe fn(NonNull<Body>),
}

pub(crate) type PollBody =
    unsafe fn(NonNull<Body>, SlotPtr, &mut Context<'_>) -> Poll<Result<(), TaskError>>;

/// A slot, by address.
///
/// It is made from the memory of a slot in a context, and whoever holds one holds or borrows a handle of that
/// context, which keeps the memory. So it is safe to look through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotPtr(NonNull<Slot>);

// SAFETY: a slot is shared between threads by design: its fields are atomics, or cells that belong to who holds a
// claim (see the invariants); inputs, values, errors and bodies are Send and Sync as the bounds of `Task` and `run` ask.
unsafe impl Send for SlotPtr {}
// SAFETY: as above.
unsafe impl Sync for SlotPtr {}

impl SlotPtr {
    /// # Safety
    /// `slot` is a slot with its whole node, and stays one as long as the new pointer and its copies are used.
    pub(crate) unsafe fn new(slot: NonNull<Slot>) -> Self {
        Self(slot)
    }

    #[inline(always)]
    pub(crate) fn erased(self) -> NonNull<()> {
        self.0.cast()
    }

    pub(crate) fn as_ptr(self) -> *mut Slot {
        self.0.as_ptr()
    }

    /// # Safety
    /// As for [`SlotPtr::new`], if it is not null.
    pub(crate) unsafe fn from_raw(slot: *mut Slot) -> Option<Self> {
        NonNull::new(slot).map(Self)
    }
}

impl Deref for SlotPtr {
    type Target = Slot;
    #[inline(always)]
    fn deref(&self) -> &Slot {
        // SAFETY: the promise of `SlotPtr::new`.
        unsafe { self.0.as_ref() }
    }
}

/// The word as somebody saw it.
#[derive(Clone, Copy)]
pub(crate) struct Word(usize);

impl Word {
    #[inline(always)]
    pub(crate) fn is_done(self) -> bool {
        self.0 & PHASE == DONE
    }
    /// The test of a hit that nobody is to be told of.
    #[inline(always)]
    pub(crate) fn is_done_and_alive(self) -> bool {
        self.0 & (PHASE | DEAD | OBSERVED) == DONE
    }
    pub(crate) fn is_failed(self) -> bool {
        self.0 & PHASE == FAILED
    }
    #[inline(always)]
    pub(crate) fn is_terminal(self) -> bool {
        self.0 & TERMINAL != 0
    }
    #[inline(always)]
    pub(crate) fn is_dead(self) -> bool {
        self.0 & DEAD != 0
    }
    pub(crate) fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }
    pub(crate) fn is_empty(self) -> bool {
        self.0 & PHASE == EMPTY
    }
    pub(crate) fn is_idle(self) -> bool {
        self.0 & PHASE == IDLE
    }
    /// Who sleeps on what it saw here is found by whoever moves the slot on, without S4: its registration is at a hub that was there before.
    pub(crate) fn may_sleep(self) -> bool {
        self.0 & (PHASE | HUB) == IDLE | HUB
    }
    /// The body woke itself in its last poll, and nobody has polled it since.
    pub(crate) fn has_yielded(self) -> bool {
        self.0 & WOKEN != 0
    }
    /// Whoever observes the context is to be told.
    #[inline(always)]
    pub(crate) fn is_observed(self) -> bool {
        self.0 & OBSERVED != 0
    }
    /// Whether somebody polls or drops the body.
    pub(crate) fn is_claimed(self) -> bool {
        matches!(self.0 & PHASE, POLLING | DROPPING)
    }
    pub(crate) fn callers(self) -> usize {
        self.0 / ONE
    }
    #[inline]
    fn with_one_more(self) -> usize {
        // A million callers of one run on 32 bits: as with `Arc`'s counts, there is no going on from there.
        if cfg!(not(target_pointer_width = "64")) && self.0 > usize::MAX / 2 {
            std::process::abort();
        }
        self.0 + ONE
    }
}

/// What became of trying to drive a slot for the callers that are counted there.
pub(crate) enum Attempt {
    /// It is DONE or FAILED.
    Finished,
    /// It was driven here.
    Driven(Poll<()>),
    /// Somebody else holds the claim, or the body does not want a poll.
    NotNow,
    /// Nobody is counted, or the context is closed.
    NobodyLeft,
}

impl Slot {
    #[inline(always)]
    pub(crate) fn new(hash: u64, meta: &'static Meta, roomed: bool) -> Self {
        Self {
            word: AtomicUsize::new(EMPTY),
            hash,
            meta,
            children: Default::default(),
            hub: AtomicPtr::new(std::ptr::null_mut()),
            starter: AtomicPtr::new(std::ptr::null_mut()),
            content: UnsafeCell::new(std::ptr::null_mut()),
            waits: cycle::Waits::new(),
            depth: AtomicU32::new(0),
            transient: AtomicBool::new(false),
            has_called: AtomicBool::new(false),
            roomed,
            lease: AtomicU8::new(HOME),
        }
    }

    /// For a slot that nobody else has seen yet.
    pub(crate) fn set_observed(&self) {
        // ORDER: Relaxed; T2 publishes the slot.
        self.word.store(OBSERVED, Ordering::Relaxed);
    }

    /// Counts callers before anybody else has the slot: they will leave as any caller does.
    pub(crate) fn count(&self, callers: usize) {
        // ORDER: Relaxed, as the store; the slot is published after this.
        let flags = self.word.load(Ordering::Relaxed);
        self.word.store(flags + callers * ONE, Ordering::Relaxed);
    }

    /// DONE from the start, for a slot whose value was written before anybody else has it.
    pub(crate) fn begin_done(&self) {
        // ORDER: Relaxed; the slot is published after this.
        self.word.store(DONE, Ordering::Relaxed);
    }

    /// L1, for who holds the claim. False: the handle must be counted.
    #[inline]
    pub(crate) fn lend(&self) -> bool {
        // ORDER: Relaxed, as the store: the claim is held. An earlier body's handle that is given back meanwhile is no matter.
        if self.lease.load(Ordering::Relaxed) != HOME {
            return false;
        }
        self.lease.store(LENT, Ordering::Relaxed);
        true
    }

    #[inline]
    pub(crate) fn is_lent(&self) -> bool {
        // ORDER: Acquire (L4); pairs with L3: not lent any more, it may have been given back on another thread.
        self.lease.load(Ordering::Acquire) == LENT
    }

    /// L4. False: it was given back meanwhile, elsewhere.
    pub(crate) fn count_lease(&self) -> bool {
        // ORDER: AcqRel (L4); Acquire pairs with L3.
        self.lease
            .compare_exchange(LENT, COUNTED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    pub(crate) fn is_roomed(&self) -> bool {
        self.roomed
    }

    /// S0.
    #[inline(always)]
    pub(crate) fn look(&self) -> Word {
        // ORDER: Acquire; pairs with S7: the outcome is written before DONE or FAILED is seen.
        Word(self.word.load(Ordering::Acquire))
    }

    #[inline]
    fn change(&self, from: Word, to: usize) -> bool {
        // ORDER: AcqRel, in every row of the table that is a CAS; the reasons are there. On failure Relaxed: whoever fails looks again (S0).
        self.word
            .compare_exchange(from.0, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// S1, by a caller that is not counted yet: it starts the run.
    #[inline]
    pub(crate) fn join_and_claim(&self, seen: Word) -> bool {
        debug_assert!(seen.is_empty() && !seen.is_closed());
        self.change(seen, seen.with_one_more() | POLLING)
    }

    /// S1, for callers that are counted.
    pub(crate) fn claim_empty(&self, seen: Word) -> bool {
        debug_assert!(seen.is_empty() && !seen.is_closed());
        self.change(seen, seen.0 | POLLING)
    }

    /// S3.
    pub(crate) fn claim_idle(&self, seen: Word) -> bool {
        debug_assert!(seen.is_idle());
        self.change(seen, seen.0 & !(PHASE | WOKEN) | POLLING)
    }

    /// S2.
    pub(crate) fn join(&self, seen: Word) -> bool {
        debug_assert!(!seen.is_terminal() && !seen.is_closed());
        self.change(seen, seen.with_one_more())
    }

    /// S4; true if the caller may sleep.
    pub(crate) fn contend(&self, seen: Word) -> bool {
        self.change(seen, seen.0 | CONTENDED)
    }

    /// S13: the claim of [`prime`](crate::Ctx::prime). Refused unless nothing is there and nothing runs.
    pub(crate) fn claim_prime(&self) -> bool {
        loop {
            let w = self.look();
            if !w.is_empty() || w.is_closed() || w.is_dead() {
                return false;
            }
            if self.claim_empty(w) {
                return true;
            }
        }
    }

    /// S12; true if there was something to forget.
    pub(crate) fn forget(&self) -> bool {
        loop {
            let w = self.look();
            if w.is_empty() || w.is_dead() {
                return false;
            }
            if self.change(w, w.0 | DEAD) {
                return true;
            }
        }
    }

    /// S12, for what a batch fetches although there is no body any more.
    pub(crate) fn forget_left(&self) -> bool {
        loop {
            let w = self.look();
            if w.is_dead() {
                return false;
            }
            if self.change(w, w.0 | DEAD) {
                return true;
            }
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        (self.meta.name)()
    }

    pub(crate) fn depth(&self) -> u32 {
        // ORDER: Relaxed; written before the body exists (`drive`), and read by what the body started.
        self.depth.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_transient(&self) {
        // ORDER: Relaxed; the body calls this before it returns, and the poller that reads it polled that body.
        self.transient.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_called(&self) -> bool {
        // ORDER: Relaxed; see `set_has_called`.
        self.has_called.load(Ordering::Relaxed)
    }

    pub(crate) fn set_has_called(&self) {
        // ORDER: Relaxed; set before the run that is started or joined can itself join, which is under the lock of the graph, and
        // read under that lock.
        self.has_called.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_transient(&self) -> bool {
        // ORDER: Relaxed; see `mark_transient`.
        self.transient.load(Ordering::Relaxed)
    }

    pub(crate) fn hub(&self) -> &Hub {
        Hub::get_or_make(&self.hub)
    }

    fn hub_if_made(&self) -> Option<&Hub> {
        // ORDER: Acquire; pairs with the making of the hub.
        let hub = self.hub.load(Ordering::Acquire);
        // SAFETY: the hub lives as long as the slot.
        unsafe { hub.as_ref() }
    }

    /// Whether the slot, seen as `seen`, has a body that wants a poll and that nobody polls.
    pub(crate) fn wants_poll(&self, seen: Word) -> bool {
        seen.is_idle() && (seen.0 & WOKEN != 0 || self.hub_if_made().is_some_and(Hub::is_woken))
    }

    /// Somebody may be parked here.
    pub(crate) fn has_hub(&self) -> bool {
        self.hub_if_made().is_some()
    }

    pub(crate) fn wake_all(&self) {
        if let Some(hub) = self.hub_if_made() {
            hub.wake_all();
        }
    }

    /// The error of a slot that was seen FAILED.
    pub(crate) fn error(&self) -> TaskError {
        debug_assert!(self.look().is_failed());
        // SAFETY: FAILED was seen with Acquire (S0), pairing with S7, so the error is written; FAILED is terminal.
        let error = unsafe { self.content.read(|content| *content) };
        // SAFETY: as above; the slot keeps its own.
        unsafe { TaskError::clone_raw(error) }
    }

    /// # Safety
    /// The caller holds POLLING or DROPPING, or is the last to have the slot.
    unsafe fn set_content(&self, new: *mut ()) -> *mut () {
        // SAFETY: the promise of the caller: the cell is its own.
        unsafe {
            self.content
                .write(|content| std::mem::replace(content, new))
        }
    }

    /// # Safety
    /// As for [`Slot::set_content`]; the slot is not FAILED.
    pub(crate) unsafe fn take_body(&self) -> Option<NonNull<Body>> {
        // SAFETY: the promise of the caller.
        NonNull::new(unsafe { self.set_content(std::ptr::null_mut()) }.cast())
    }

    /// # Safety
    /// As for [`Slot::take_body`].
    unsafe fn body(&self) -> Option<NonNull<Body>> {
        // SAFETY: the promise of the caller.
        NonNull::new(unsafe { self.content.read(|content| *content) }.cast())
    }
}

/// What a poll of a body comes to; the error is what it panicked with.
type Polled = std::thread::Result<Poll<Result<(), TaskError>>>;

/// What a claim to start knows of who starts. (Two words, so that it goes in registers.)
#[derive(Clone, Copy)]
pub(crate) struct Start {
    by: By,
    /// The body that starts the run, or for which it is started.
    parent: Option<SlotPtr>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// The body is there.
    Nobody,
    /// A caller whose body, if it has one, waits for this run from now on, and who is alone here.
    Caller,
    /// The same, but other callers are counted already.
    CallerAmongOthers,
    /// A helper or the driver of a hop: the callers' edges are in the wait graph already.
    Helper,
}

impl Start {
    /// The body is there.
    pub(crate) const NO: Self = Self {
        by: By::Nobody,
        parent: None,
    };

    /// For a caller: its body, if it has one, waits for this run from now on.
    pub(crate) fn by_caller(body: Option<SlotPtr>, others: bool) -> Self {
        let by = if others {
            By::CallerAmongOthers
        } else {
            By::Caller
        };
        Self { by, parent: body }
    }

    /// For callers whose edges are in the wait graph already; `parent`: for whom it is started.
    pub(crate) fn by_helper(parent: Option<SlotPtr>) -> Self {
        Self {
            by: By::Helper,
            parent,
        }
    }
}

impl SlotPtr {
    /// L2, L3: the handle that the body was given goes. True: it was counted.
    #[inline]
    pub(crate) fn give_back(self) -> bool {
        if stack::is_inside(self) {
            // ORDER: Relaxed (L2); only this thread's poll may change it while the handle is there.
            let counted = self.lease.load(Ordering::Relaxed) == COUNTED;
            self.lease.store(HOME, Ordering::Relaxed);
            counted
        } else {
            // ORDER: AcqRel (L3); Release pairs with L4, or with K3 if it was counted.
            self.lease.swap(HOME, Ordering::AcqRel) == COUNTED
        }
    }

    /// S8, S9: one caller leaves. Its waker and its edges are taken back before.
    pub(crate) fn leave(self, core: CorePtr) {
        loop {
            let w = self.look();
            if w.is_terminal() {
                return;
            }
            if w.is_idle() && w.callers() == 1 {
                if self.change(w, ((w.0 - ONE) & !PHASE) | DROPPING) {
                    stack::drop_body(self, core);
                    return;
                }
            } else if self.change(w, w.0 - ONE) {
                return;
            }
        }
    }

    /// S11: the context is closed.
    pub(crate) fn close(self, core: CorePtr) {
        loop {
            let w = self.look();
            if w.is_terminal() || w.is_closed() {
                return;
            }
            if w.is_idle() {
                // The closer takes it itself: a caller that is alive but never polled again must not keep a body.
                if self.change(w, (w.0 & !PHASE) | DROPPING | CLOSED) {
                    stack::drop_body(self, core);
                    break;
                }
            } else if self.change(w, w.0 | CLOSED) {
                break;
            }
        }
        self.wake_all();
    }

    /// Drives the slot for the callers that are counted, if it can be driven now.
    #[cfg(any(feature = "tokio", loom))]
    pub(crate) fn attempt(self, core: CorePtr, parent: Option<SlotPtr>) -> Attempt {
        self.attempt_as(core, Start::by_helper(parent))
    }

    /// As [`attempt`](Self::attempt); `start` says for whom, if it is to be started.
    pub(crate) fn attempt_as(self, core: CorePtr, start: Start) -> Attempt {
        loop {
            let w = self.look();
            if w.is_terminal() {
                return Attempt::Finished;
            }
            if w.is_closed() || w.callers() == 0 {
                return Attempt::NobodyLeft;
            }
            if w.is_empty() {
                if self.claim_empty(w) {
                    return Attempt::Driven(self.drive(core, start, false));
                }
            } else if self.wants_poll(w) {
                if self.claim_idle(w) {
                    return Attempt::Driven(self.drive(core, Start::NO, false));
                }
            } else {
                return Attempt::NotNow;
            }
        }
    }

    /// Polls the body once, for who moved the word to POLLING; `counted` if that is a caller itself. Ready: the slot is
    /// DONE or FAILED, or the context is closed. The claim is given back in any case.
    #[inline]
    pub(crate) fn drive(self, core: CorePtr, start: Start, counted: bool) -> Poll<()> {
        // The one place where a run of a context without observers asks for them.
        if core.is_observed() {
            self.drive_as::<true>(core, start, counted)
        } else {
            self.drive_as::<false>(core, start, counted)
        }
    }

    fn drive_as<const OBSERVED: bool>(
        self,
        core: CorePtr,
        start: Start,
        counted: bool,
    ) -> Poll<()> {
        let claim = Claim {
            slot: self,
            core,
            counted,
        };
        let Start { by, parent } = start;
        let fresh = by != By::Nobody;
        let body = match by {
            // SAFETY: the claim is ours.
            By::Nobody => unsafe { self.body() },
            By::Caller | By::CallerAmongOthers | By::Helper => {
                let edge = parent.filter(|_| by != By::Helper);
                let edge = edge.map_or(std::ptr::null_mut(), SlotPtr::as_ptr);
                // ORDER: Release; read under the lock of the wait graph, by searches that come after a join of this run's body.
                self.starter.store(edge, Ordering::Release);
                let pended = self.look().0 & PENDED != 0;
                if pended {
                    // SAFETY: the claim is ours.
                    unsafe { self.forget_runtime() };
                }
                // After an earlier run, somebody who judged that one may be on his way.
                let depth = if by != By::Caller || pended {
                    cycle::depth(core, parent, self)
                } else {
                    parent.map_or(0, |parent| parent.depth() + 1)
                };
                // ORDER: Relaxed; see `depth`.
                self.depth.store(depth, Ordering::Relaxed);
                if let Some(parent) = parent {
                    parent.set_has_called();
                }
                // ORDER: Relaxed; see `mark_transient`, `set_has_called`.
                self.transient.store(false, Ordering::Relaxed);
                self.has_called.store(false, Ordering::Relaxed);
                if OBSERVED {
                    observe::start(core, self, parent, by != By::Helper);
                }
                // SAFETY: `meta` is of this slot's types, and the claim is ours.
                let made = catch_unwind(AssertUnwindSafe(|| unsafe {
                    (self.meta.start)(self, core)
                }));
                match made {
                    Ok(body) => {
                        // SAFETY: the claim is ours.
                        unsafe { self.set_content(body.as_ptr().cast()) };
                        Some(body)
                    }
                    Err(payload) => {
                        if OBSERVED {
                            observe::polled(core, self);
                        }
                        return claim.panicked::<OBSERVED>(payload);
                    }
                }
            }
        };
        let Some(body) = body else {
            unreachable!("IDLE has a body")
        };
        if let Some(hub) = self.hub_if_made() {
            hub.take_woken();
        }
        let waker = PollWaker::new(&self.hub);
        // For a fresh one `start` has said so: making the body counts as a part of its first poll.
        if OBSERVED && !fresh {
            observe::poll(core, self);
        }
        let (polled, woken) = if fresh {
            self.poll_body(body, &waker)
        } else {
            // SAFETY: the claim is ours.
            unsafe { self.poll_body_again(core, body, &waker) }
        };
        if OBSERVED {
            observe::polled(core, self);
        }
        match polled {
            Ok(Poll::Ready(outcome)) => claim.finish::<OBSERVED>(outcome),
            Ok(Poll::Pending) => claim.release(woken || waker.was_woken(), fresh),
            Err(payload) => claim.panicked::<OBSERVED>(payload),
        }
    }

    /// Polls the body, for who holds the claim. Also says whether the body woke itself.
    #[inline(always)]
    fn poll_body(self, body: NonNull<Body>, waker: &PollWaker<'_>) -> (Polled, bool) {
        waker.with(|waker| {
            stack::enter(self, waker, || {
                catch_unwind(AssertUnwindSafe(|| {
                    // SAFETY: the body is alive and the claim on it is ours.
                    let poll = unsafe { body.as_ref().poll };
                    // SAFETY: as above; the function is of the body's type.
                    unsafe { poll(body, self, &mut Context::from_waker(waker)) }
                }))
            })
        })
    }

    /// The same, after the first time.
    ///
    /// # Safety
    /// The caller holds the claim.
    #[inline(never)] // the first time is the faster for not having this in its way
    unsafe fn poll_body_again(
        self,
        core: CorePtr,
        body: NonNull<Body>,
        waker: &PollWaker<'_>,
    ) -> (Polled, bool) {
        // SAFETY: the promise of the caller.
        unsafe { self.in_runtime(Some(core), || self.poll_body(body, waker)) }
    }

    /// Drops the body, for who moved the word to DROPPING, and S10.
    pub(crate) fn drop_body_here(self, core: CorePtr) {
        if core.is_observed() {
            observe::poll(core, self);
        }
        // SAFETY: DROPPING is a claim, and ours.
        unsafe { self.drop_body_in_runtime(Some(core)) };
        if core.is_observed() {
            observe::polled(core, self);
            observe::cancel(core, self);
        }
        // ORDER: AcqRel (S10); Release: the body is gone before S1 starts another. And a read-modify-write: who joined
        // meanwhile stays counted.
        self.word.fetch_and(!OF_BODY, Ordering::AcqRel);
        self.wake_all();
    }

    /// Drops the body, if there is one, where it was polled. What it panics with ends here.
    ///
    /// # Safety
    /// The caller holds POLLING or DROPPING, or is the last to have the slot, which is neither DONE nor FAILED.
    unsafe fn drop_body_in_runtime(self, core: Option<CorePtr>) {
        // SAFETY: the promise of the caller.
        let Some(body) = (unsafe { self.take_body() }) else {
            return;
        };
        let drop = || {
            // As a poll: a destructor may call tasks, whose bodies have destructors.
            let _ = stack::enter(self, Waker::noop(), || {
                stack::contain(|| {
                    // SAFETY: the body was alive and in nobody else's hands.
                    let drop = unsafe { body.as_ref().drop };
                    // SAFETY: as above; it is not used after this.
                    unsafe { drop(body) };
                });
            });
        };
        // SAFETY: the promise of the caller.
        unsafe { self.in_runtime(core, drop) };
    }

    /// Calls `f` inside the runtime in which the body was started, if it was started in one. `core`: the slot's context, unless there is none.
    ///
    /// # Safety
    /// The caller holds POLLING or DROPPING, or is the last to have the slot.
    unsafe fn in_runtime<R>(self, core: Option<CorePtr>, f: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tokio")]
        {
            let handle = if self.look().0 & HOSTED != 0 {
                core.as_ref().and_then(|core| core.runtime())
            } else {
                // SAFETY: the promise of the caller.
                self.hub_if_made().and_then(|hub| unsafe { hub.runtime() })
            };
            // It panics on a thread that is going down; the body then finds out by itself.
            let enter = || handle.map(tokio::runtime::Handle::enter);
            let _entered = catch_unwind(AssertUnwindSafe(enter));
            f()
        }
        #[cfg(not(feature = "tokio"))]
        {
            let _ = core;
            f()
        }
    }

    /// Keeps the runtime of this thread for the later polls of the body, after its first. Gives HOSTED if that is the context's.
    ///
    /// # Safety
    /// The caller holds the claim.
    unsafe fn keep_runtime(self, core: CorePtr) -> usize {
        #[cfg(feature = "tokio")]
        {
            let here = tokio::runtime::Handle::try_current().ok();
            let foreign = match here.map(|here| core.set_runtime(here)) {
                Some(Ok(())) => return HOSTED,
                Some(Err(here)) => Some(here),
                None => None,
            };
            let hub = match &foreign {
                Some(_) => Some(self.hub()),
                None => self.hub_if_made(),
            };
            if let Some(hub) = hub {
                // SAFETY: the promise of the caller.
                unsafe { hub.set_runtime(foreign) };
            }
        }
        let _ = core;
        0
    }

    /// What [`keep_runtime`](Self::keep_runtime) kept for an earlier body is not this one's.
    ///
    /// # Safety
    /// The caller holds the claim.
    #[cold]
    unsafe fn forget_runtime(self) {
        #[cfg(feature = "tokio")]
        if let Some(hub) = self.hub_if_made() {
            // SAFETY: the promise of the caller.
            unsafe { hub.set_runtime(None) };
        }
    }

    /// Puts in the value that `write` writes, for who holds the claim of S13.
    pub(crate) fn publish_primed(self, core: CorePtr, write: impl FnOnce()) {
        let claim = Claim {
            slot: self,
            core,
            counted: false,
        };
        write();
        if core.is_observed() {
            observe::primed(core, self);
        }
        claim.publish(DONE);
    }

    /// S14: puts in the value that `write` writes, for callers whose body only waits for it; or S13, if nobody is left. `claimed` is called
    /// before the body is dropped. False if somebody holds the claim, or if it is over.
    pub(crate) fn deliver(self, core: CorePtr, claimed: impl Fn(), write: impl FnOnce()) -> bool {
        let claim = || {
            claimed();
            true
        };
        if let Some(claim) = self.claim_delivery(core, claim) {
            write();
            if core.is_observed() {
                observe::finish(core, self, None);
            }
            claim.publish(DONE);
            return true;
        }
        let primes = self.claim_prime();
        if primes {
            claimed();
            self.publish_primed(core, write);
        }
        primes
    }

    /// S14, with an error, if the body is the one that is meant. Not if nobody is left.
    pub(crate) fn deliver_error(self, core: CorePtr, error: &TaskError, is: impl FnOnce() -> bool) {
        if let Some(claim) = self.claim_delivery(core, is) {
            let _ = claim.fail(error.clone());
        }
    }

    /// Takes the claim of a body that nobody polls, and drops the body, if it is the one that is meant: `is` looks when nobody can change that.
    ///
    /// Nothing is called but its destructor, where it is: neither runtime nor stack are seen to.
    fn claim_delivery(self, core: CorePtr, is: impl FnOnce() -> bool) -> Option<Claim> {
        let seen = loop {
            let w = self.look();
            if !w.is_idle() {
                return None;
            }
            if self.claim_idle(w) {
                break w;
            }
        };
        let claim = Claim {
            slot: self,
            core,
            counted: false,
        };
        if !is() {
            // As a poll that was pending.
            let _ = claim.release(seen.has_yielded(), false);
            return None;
        }
        // SAFETY: the claim is ours.
        if let Some(body) = unsafe { self.take_body() } {
            // SAFETY: the body was alive and in nobody else's hands.
            let drop = unsafe { body.as_ref().drop };
            // SAFETY: as above; it is not used after this.
            unsafe { drop(body) };
        }
        Some(claim)
    }

    /// Drops what the slot holds and frees it.
    ///
    /// # Safety
    /// Nobody else has the slot any more, and it is not used after this.
    pub(crate) unsafe fn free(self, core: Option<CorePtr>) {
        let w = self.look();
        if w.is_done() {
            // SAFETY: DONE has a value, which nobody reads any more.
            stack::contain(|| unsafe { (self.meta.drop_value)(self) });
        } else if w.is_failed() {
            // SAFETY: nobody else has the slot.
            let error = unsafe { self.set_content(std::ptr::null_mut()) };
            // SAFETY: FAILED has an error, and it is taken once.
            let error = unsafe { TaskError::from_raw(error) };
            stack::contain(|| drop(error));
        } else {
            // SAFETY: nobody else has the slot; claims end before their holder's handle of the context goes.
            unsafe { self.drop_body_in_runtime(core) };
        }
        // ORDER: Relaxed; the last handle's Acquire fence is before this.
        let hub = self.hub.load(Ordering::Relaxed);
        // SAFETY: the slot goes, with its reference.
        unsafe { Hub::release(hub) };
        // SAFETY: nobody uses the slot any more.
        stack::contain(|| unsafe { (self.meta.free)(self) });
    }

    /// Takes the value out, for a call without memoization.
    ///
    /// # Safety
    /// The slot was seen DONE and only the caller knows it.
    pub(crate) unsafe fn take_value(self) -> NonNull<()> {
        // ORDER: AcqRel; who looks at this slot after (a search, a hop, the closer, `free`) is not interested in the value.
        self.word.fetch_xor(DONE ^ GONE, Ordering::AcqRel);
        // SAFETY: the value was written before DONE was seen.
        unsafe { (self.meta.value)(self) }
    }
}

/// POLLING, held. Whichever way the poll ends, the claim is given back: by `finish`, by `release`, or here.
struct Claim {
    slot: SlotPtr,
    core: CorePtr,
    /// The holder is one of the slot's callers.
    counted: bool,
}

impl Claim {
    /// The body panicked, or the making of it.
    #[cold]
    #[inline(never)]
    fn panicked<const OBSERVED: bool>(self, payload: Box<dyn Any + Send>) -> Poll<()> {
        let error = TaskError::panicked(self.slot.name(), payload);
        self.finish::<OBSERVED>(Err(error))
    }

    /// The body ended: it is dropped, and the outcome is for everybody. (The value, if any, is in the slot.)
    #[inline]
    fn finish<const OBSERVED: bool>(self, outcome: Result<(), TaskError>) -> Poll<()> {
        let slot = self.slot;
        // A body that returned is gone (`TypedBody::poll`); one that panicked is there. A second panic adds nothing to the first.
        // SAFETY: the claim is ours.
        unsafe { slot.drop_body_in_runtime(Some(self.core)) };
        self.core.settle(slot);
        match outcome {
            Ok(()) => {
                if OBSERVED {
                    observe::finish(self.core, slot, None);
                }
                self.publish(DONE);
            }
            Err(error) => return self.fail(error),
        }
        Poll::Ready(())
    }

    #[cold]
    fn fail(self, error: TaskError) -> Poll<()> {
        let slot = self.slot;
        if self.core.is_closed()
            && matches!(
                error.kind(),
                TaskErrorKind::Cancelled | TaskErrorKind::DeadlineExceeded
            )
        {
            // The context's own cancellation is never an outcome: S6 and S10 in one, for the body is gone already.
            let core = self.core;
            std::mem::forget(self);
            stack::contain(|| drop(error));
            if core.is_observed() {
                observe::cancel(core, slot);
            }
            loop {
                let w = slot.look();
                if slot.change(w, (w.0 & !OF_BODY) | CLOSED) {
                    slot.wake_all();
                    return Poll::Ready(());
                }
            }
        }
        if self.core.is_observed() {
            observe::finish(self.core, slot, Some(&error));
        }
        let transient = error.is_transient();
        // SAFETY: the claim is ours and the body is gone.
        unsafe { slot.set_content(error.into_raw()) };
        self.publish(if transient { FAILED | DEAD } else { FAILED });
        Poll::Ready(())
    }

    /// S7.
    #[inline]
    fn publish(self, outcome: usize) {
        let slot = self.slot;
        let counted = usize::from(self.counted);
        std::mem::forget(self);
        let old = if outcome & DEAD == 0 {
            // ORDER: AcqRel (S7); Release pairs with S0: outcome and body's end are before it. Acquire pairs with S4: the hub
            // and the registration of whoever sleeps.
            Word(slot.word.fetch_xor(POLLING ^ outcome, Ordering::AcqRel))
        } else {
            loop {
                let w = slot.look();
                if slot.change(w, (w.0 & !PHASE) | outcome) {
                    break w;
                }
            }
        };
        if old.callers() > counted {
            slot.wake_all();
        }
    }

    /// The body is pending: S5 or S6.
    fn release(self, woken: bool, first: bool) -> Poll<()> {
        let Claim {
            slot,
            core,
            counted,
        } = self;
        std::mem::forget(self);
        core.settle(slot);
        let hosted = if first {
            // SAFETY: the claim is still ours.
            unsafe { slot.keep_runtime(core) }
        } else {
            0
        };
        let woken = if woken { WOKEN } else { 0 };
        loop {
            let w = slot.look();
            let goes = w.callers() == 0 || w.is_closed();
            let phase = if goes { DROPPING } else { IDLE };
            let has_hub = if slot.hub_if_made().is_some() { HUB } else { 0 };
            let stays = w.0 & !(PHASE | CONTENDED);
            if !slot.change(w, stays | phase | woken | hosted | has_hub | PENDED) {
                continue;
            }
            let others = w.0 & CONTENDED != 0 || w.callers() > usize::from(counted);
            if goes {
                stack::drop_body(slot, core);
            } else if others && (woken != 0 || slot.hub_if_made().is_some_and(Hub::is_woken)) {
                // S5a: somebody saw POLLING and slept, perhaps after the wake; or somebody is parked, and the body woke itself.
                slot.wake_all();
            }
            return Poll::Pending;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Only if the engine itself unwound. Nobody may hang for that.
        let claim = Claim {
            slot: self.slot,
            core: self.core,
            counted: self.counted,
        };
        let error = TaskError::panicked(self.slot.name(), Box::new("the engine unwound"));
        let _ = claim.finish::<true>(Err(error));
    }
}
