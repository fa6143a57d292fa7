//! How a batch runs: from the keys that gathered to a value in each key's slot.
//!
//! A [`Flight`] is what the bodies of a batch's keys share. Its run is a slot of the inner task [`fetch`], which no look-up finds. It has
//! one caller for each key's body that wants it, so it goes on while one does, and goes with the last; and each of them has an edge to it
//! in the wait graph, so a cycle through a batch is found.
//!
//! The bodies are counted, but none of them parks at the run: one waker, the flight's, stands there for all of them and passes a wake on
//! to every key's body, and so to every caller of every key. (A listener for each would cost four allocations a key.) Whichever of them
//! is polled then drives the run, as any caller of a slot does.
//!
//! | row | who | does |
//! |---|---|---|
//! | F1 | who launches, under the collector's lock | makes the run's slot with a count for each key, the edges, and lets the bodies see it |
//! | F2 | who launches | puts the slot into the context (K6), then drives it once; ended already: wakes all bodies |
//! | F3 | a key's body, polled | drives the run (S1, S3), or makes sure that the flight's waker is registered, looks again and waits (S4) |
//! | F4 | the run, when the function is ready | finds each value's key; then puts the values into the keys' slots (S14), as far as nobody polls them; then S7 |
//! | F5 | a key's body that sees DONE or FAILED, whoever launched | takes its value; or puts the error into all the keys' slots (S14) |
//! | F6 | a key's body that is dropped | takes back its edge, then its count (S8, S9), and says where its key is, for B7 |
//! | F7 | a key's body that comes to a batch under way again (B7) | its edge, with a search; then S2, if anybody else is counted: else the run is being dropped |

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Wake, Waker};

use super::turn::{Place, collector};
use super::{Batch, id};
use crate::context::{CorePtr, Ctx, Fake, New};
use crate::cycle::{self, EdgeCell, EdgePtr, forget_starter};
use crate::error::{BoxError, TaskError};
use crate::observe;
use crate::slot::{Attempt, Slot, SlotPtr, Start, input, write_at};
use crate::stack;
use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::sync::cell::UnsafeCell;
use crate::sync::{Arc, Mutex, lock};
use crate::task::Input;
use crate::wake::queue;

/// The outcome of a batch's run: the values are in the flight.
pub(crate) struct Fetched;

/// The error of a key's slot: that of its batch, as it is.
pub(crate) struct OfBatch(pub(crate) TaskError);

impl From<OfBatch> for BoxError {
    fn from(OfBatch(error): OfBatch) -> Self {
        Box::new(error)
    }
}

/// One batch, as its keys' bodies know it.
pub(super) struct Flight<V> {
    /// The slot of the run; null while keys gather.
    run: AtomicPtr<Slot>,
    /// By the keys' numbers. Written before `run`, and not again; edges and values in it have rules of their own.
    members: UnsafeCell<Vec<Member<V>>>,
    /// Held by who registers the flight's waker at the run.
    following: Mutex<()>,
}

/// One key of a batch, and who waits for it.
pub(super) struct Member<V> {
    /// The key's slot.
    pub(super) slot: SlotPtr,
    /// Of the slot's body.
    pub(super) waker: Waker,
    /// The body was dropped before the batch went.
    pub(super) left: bool,
    /// From the slot to the batch's run. Not used if it is the only one: then it has started the run.
    edge: EdgeCell,
    /// Written by the run before it is DONE, and taken by the slot's body after that, unless it was delivered.
    value: UnsafeCell<Option<V>>,
    /// The run has put the value into the slot.
    delivered: AtomicBool,
    /// The slot's body was dropped after the batch went; another may be there.
    gone: AtomicBool,
}

impl<V> Member<V> {
    pub(super) fn new(slot: SlotPtr, waker: Waker) -> Self {
        Self {
            slot,
            waker,
            left: false,
            edge: EdgeCell::new(slot),
            value: UnsafeCell::new(None),
            delivered: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        }
    }

    fn is_delivered(&self) -> bool {
        // ORDER: Relaxed; the slot's body is dropped by who has set it, and for wakes it is a hint.
        self.delivered.load(Relaxed)
    }
}

// SAFETY: `members` is written under the collector's lock before `run` is published (Release), and read by who saw `run`, or got the
// flight's waker from who did. A member's `value` is written by the run, which is one at a time, before S7, and after S0 touched by the body
// of its slot, which is one at a time as well; its `edge` is guarded by the graph. Values are Send and Sync, and so are wakers.
unsafe impl<V: Send + Sync> Sync for Flight<V> {}
// SAFETY: as above.
unsafe impl<V: Send + Sync> Send for Flight<V> {}

/// What became of coming to a batch again (F7).
pub(super) enum Rejoin {
    /// The key's body waits for the run, or takes its value if that is over already.
    Joined(Option<EdgePtr>),
    /// The run waits for the body.
    Cycle(TaskError),
    /// There is nothing to wait for.
    No,
}

/// A batch that was taken out of its collector, to be launched.
#[must_use]
pub(super) struct Launched<K, V> {
    flight: Arc<Flight<V>>,
    new: New,
    /// Keys that nobody wants any more, to be dropped outside the lock.
    _left: Vec<K>,
}

impl<V: Send + Sync + 'static> Flight<V> {
    pub(super) fn new() -> Self {
        Self {
            run: AtomicPtr::new(std::ptr::null_mut()),
            members: UnsafeCell::new(Vec::new()),
            following: Mutex::new(()),
        }
    }

    /// F1.
    pub(super) fn prepare<B, S, K>(
        this: Arc<Self>,
        core: CorePtr,
        mut keys: Vec<K>,
        members: Vec<Member<V>>,
        wanted: usize,
    ) -> Launched<K, V>
    where
        S: Send + Sync + 'static,
        B: Batch<S, K, Value = V>,
        K: Input,
    {
        let mut left = Vec::new();
        if wanted < keys.len() {
            let all = std::mem::replace(&mut keys, Vec::with_capacity(wanted));
            for (key, member) in all.into_iter().zip(&members) {
                if member.left { &mut left } else { &mut keys }.push(key);
            }
        }
        let flight = this.clone();
        let asked = Asked(Mutex::new(Some(Cargo { flight, keys })));
        let new = core.new_private(fetch::<B, S, K>, asked, wanted);
        if core.is_observed() {
            observe::is_batch(new.slot(), wanted);
        }
        // SAFETY: nobody reads it before `run` is published below.
        unsafe { this.members.write(|place| *place = members) };
        if this.lone().is_none() {
            let members = this.members().iter().filter(|member| !member.left);
            // SAFETY: the members are not moved any more, and the flight is alive while any of its keys' bodies is: each takes its
            // own back when it is dropped (F6), and the run all of them when it ends (`Waits`).
            unsafe { EdgeCell::link(core, members.map(|member| &member.edge), new.slot()) };
        }
        // ORDER: Release; pairs with `run`: slot and members are written.
        this.run.store(new.slot().as_ptr(), Ordering::Release);
        Launched {
            flight: this,
            new,
            _left: left,
        }
    }

    /// The slot of the run, once it is launched.
    fn run(&self) -> Option<SlotPtr> {
        // ORDER: Acquire; pairs with `prepare`.
        let run = self.run.load(Ordering::Acquire);
        // SAFETY: it is a slot of the context, and whoever asks has a handle of that.
        unsafe { SlotPtr::from_raw(run) }
    }

    /// Empty before `run` is there.
    fn members(&self) -> &[Member<V>] {
        // SAFETY: the callers saw `run`, or have the flight's waker, or are in `prepare`; it is not written after that.
        let members: *const [Member<V>] =
            unsafe { self.members.read(|members| &raw const **members) };
        // SAFETY: as above.
        unsafe { &*members }
    }

    /// The slot of the only key: its body counts as who started the run, which costs no lock.
    fn lone(&self) -> Option<SlotPtr> {
        match self.members() {
            [member] => Some(member.slot),
            _ => None,
        }
    }

    /// For whom the run is started.
    fn start(&self) -> Start {
        match self.lone() {
            Some(slot) => Start::by_caller(Some(slot), false),
            // Named as who started it; all have their edges.
            None => {
                let first = self.members().iter().find(|member| !member.left);
                Start::by_helper(first.map(|member| member.slot))
            }
        }
    }

    /// Wakes every key's body, and so every caller.
    fn wake_all(&self) {
        queue::scope(|| {
            for member in self.members() {
                if !member.is_delivered() {
                    member.waker.wake_by_ref();
                }
            }
        });
    }

    /// F3: drives the run as far as it goes now. Ready: it is over.
    fn fly(self: &Arc<Self>, run: SlotPtr, core: CorePtr, waker: &Waker) -> Poll<()> {
        let mut drove = false;
        let mut registered = false;
        let mut hops = false;
        loop {
            let w = run.look();
            if w.is_terminal() {
                if w.is_failed() {
                    self.spread(run, core);
                }
                return Poll::Ready(());
            }
            if w.is_closed() || w.callers() == 0 {
                // The keys' slots are closed as well, or no key is wanted.
                return Poll::Pending;
            }
            if !hops && (w.is_empty() || (!drove && run.wants_poll(w))) {
                let attempt = || run.attempt_as(core, self.start());
                let (attempt, hop_ended) = match stack::place(waker) {
                    stack::Place::Hop => {
                        hops = true;
                        continue;
                    }
                    stack::Place::Base => stack::base(attempt),
                    stack::Place::Nested => (attempt(), false),
                };
                drove = matches!(attempt, Attempt::Driven(_)) && !hop_ended;
                continue;
            }
            if !registered {
                let waker = Waker::from(self.clone());
                // Two bodies may be here at once, and the hub's place is for one. No user code runs under this lock: the waker's is ours.
                let following = lock(&self.following);
                run.hub().follow(&waker);
                drop(following);
                registered = true;
                continue;
            }
            if !hops && run.wants_poll(w) {
                // It woke itself, or was woken when nothing was registered yet.
                self.wake_all();
            } else if !w.may_sleep() && !run.contend(w) {
                continue;
            }
            if hops {
                stack::hop(run, self.start(), core.strong());
            }
            // CANCEL: the body that waits leaves (F6) when it is dropped.
            return Poll::Pending;
        }
    }

    /// F5: a failure is that of every key that is still waited for.
    #[cold]
    fn spread(&self, run: SlotPtr, core: CorePtr) {
        let error = run.error();
        for member in self.members().iter().filter(|member| !member.left) {
            // ORDER: Relaxed; set before S10, and read after S3 (`claim_delivery`).
            let is = || !member.gone.load(Relaxed);
            member.slot.deliver_error(core, &error, is);
        }
    }

    /// Whether who comes for the key with this number may get it here: the run is neither over nor given up, or it has left the value here since
    /// nobody was there.
    pub(super) fn may_have(&self, at: usize) -> bool {
        !self.members()[at].is_delivered()
            && self.run().is_some_and(|run| {
                let w = run.look();
                w.is_done() || !w.is_terminal() && !w.is_closed() && w.callers() > 0
            })
    }

    /// F7: the key with this number is waited for again, by a new body of its slot.
    pub(super) fn rejoin(&self, at: usize, core: CorePtr) -> Rejoin {
        let Some(run) = self.run() else {
            return Rejoin::No;
        };
        let member = &self.members()[at];
        loop {
            let w = run.look();
            if w.is_done() {
                // The run found the old body being dropped, or this one being polled: so it has left the value here, if there is one.
                return Rejoin::Joined(None);
            }
            if w.is_terminal() || w.is_closed() || w.callers() == 0 {
                return Rejoin::No;
            }
            let edge = match cycle::join(core, member.slot, run, w) {
                Ok(edge) => edge,
                Err(error) => return Rejoin::Cycle(error),
            };
            if run.join(w) {
                // ORDER: Relaxed; see `spread`.
                member.gone.store(false, Relaxed);
                return Rejoin::Joined(Some(edge));
            }
            // Judged by a state that has passed.
            cycle::leave(core, edge);
        }
    }

    /// F5, after DONE was seen.
    fn take(&self, at: usize) -> Option<V> {
        // SAFETY: the run wrote it before S7, and does not write again.
        unsafe { self.members()[at].value.write(Option::take) }
    }

    /// F6: the body of the key with this number goes, unfinished.
    fn leave(&self, at: usize, run: SlotPtr, core: CorePtr) {
        let member = &self.members()[at];
        // ORDER: Relaxed; see `spread`.
        member.gone.store(true, Relaxed);
        if member.is_delivered() || run.look().is_terminal() {
            // The run takes all edges back when it ends.
            return;
        }
        // The edge before the count, as any caller.
        if self.lone().is_some() {
            forget_starter(core, member.slot, run);
        } else {
            EdgeCell::unlink(core, std::iter::once(&member.edge));
        }
        run.leave(core);
    }
}

impl<K, V: Send + Sync + 'static> Launched<K, V> {
    /// F2.
    pub(super) fn launch(self, core: CorePtr, waker: &Waker) {
        let run = core.link_private(self.new);
        if self.flight.fly(run, core, waker).is_ready() {
            // Before anybody was registered.
            self.flight.wake_all();
        }
    }
}

impl<V: Send + Sync + 'static> Wake for Flight<V> {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

/// The inner task of a key. Its body waits for the key's batch.
pub(super) fn key<B, S, K>(ctx: Ctx<S>, key: K) -> KeyBody<B, S, K>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    KeyBody {
        ctx,
        state: KeyState::New(key),
    }
}

/// See [`key`].
pub(super) struct KeyBody<B, S, K>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    ctx: Ctx<S>,
    state: KeyState<K, B::Value>,
}

enum KeyState<K, V> {
    New(K),
    Waits(Place<V>),
    Over,
}

// Nothing in it is pinned.
impl<B, S, K> Unpin for KeyBody<B, S, K>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
}

impl<B, S, K> Future for KeyBody<B, S, K>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    type Output = Result<Option<B::Value>, OfBatch>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let core = this.ctx.core();
        if let KeyState::New(_) = this.state {
            let new = std::mem::replace(&mut this.state, KeyState::Over);
            let (KeyState::New(key), Some(slot)) = (new, this.ctx.body()) else {
                unreachable!("it is new, and a body's handle")
            };
            let may_be_parked = slot.has_hub();
            let member = Member::new(slot, cx.waker().clone());
            let (place, launched) = match collector::<B, S, K>(&this.ctx).put(core, key, member) {
                Ok(put) => put,
                Err(error) => return Poll::Ready(Err(OfBatch(error))),
            };
            this.state = KeyState::Waits(place);
            let [sealed, full] = launched;
            if let Some(sealed) = sealed {
                sealed.launch(core, cx.waker());
            }
            if let Some(full) = full {
                full.launch(core, cx.waker());
            }
            if may_be_parked {
                // B1.
                cx.waker().wake_by_ref();
            }
        }
        let KeyState::Waits(place) = &mut this.state else {
            panic!("a key's body was polled after it was ready");
        };
        let Some(run) = place.flight.run() else {
            return Poll::Pending;
        };
        if place.flight.fly(run, core, cx.waker()).is_pending() {
            return Poll::Pending;
        }
        if let Some(edge) = place.edge.take() {
            cycle::leave(core, edge);
        }
        let outcome = if run.look().is_done() {
            Ok(place.flight.take(place.at))
        } else {
            Err(OfBatch(run.error()))
        };
        this.state = KeyState::Over;
        Poll::Ready(outcome)
    }
}

impl<B, S, K> Drop for KeyBody<B, S, K>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    fn drop(&mut self) {
        let KeyState::Waits(mut place) = std::mem::replace(&mut self.state, KeyState::Over) else {
            return;
        };
        let core = self.ctx.core();
        if let Some(edge) = place.edge.take() {
            cycle::leave(core, edge);
        }
        // CANCEL: the last caller of this key is gone, or the context is closed.
        if place.flight.run().is_none() && collector::<B, S, K>(&self.ctx).leave(&place) {
            return;
        }
        if let (Some(run), Some(slot)) = (place.flight.run(), self.ctx.body()) {
            place.flight.leave(place.at, run, core);
            collector::<B, S, K>(&self.ctx).drift(core, slot, place);
        }
    }
}

/// The input of a batch's run. Whoever clones it has it: that is the body.
struct Asked<K, V>(Mutex<Option<Cargo<K, V>>>);

/// What a batch's run needs.
struct Cargo<K, V> {
    flight: Arc<Flight<V>>,
    keys: Vec<K>,
}

impl<K, V> Clone for Asked<K, V> {
    /// Takes what is in it: the body is the only one that asks, once, and keys and flight are not to be kept with the slot.
    fn clone(&self) -> Self {
        Self(Mutex::new(lock(&self.0).take()))
    }
}

// No look-up comes where these are.
impl<K, V> PartialEq for Asked<K, V> {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}
impl<K, V> Eq for Asked<K, V> {}
impl<K, V> Hash for Asked<K, V> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// The inner task of a batch's run.
fn fetch<B, S, K>(ctx: Ctx<S>, asked: Asked<K, B::Value>) -> Fetch<B, S, K>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    let cargo = lock(&asked.0).take();
    let Some(Cargo { flight, keys }) = cargo else {
        unreachable!("a batch runs once: when its callers are gone it has no others")
    };
    let core = ctx.core();
    // Also if the function unwinds.
    let waits = Waits { flight, core };
    let fake = core.fakes().and_then(|fakes| {
        fakes
            .get(&id::<B, S, K>())?
            .downcast_ref::<Fake<S, Vec<K>, B::Found, B::Error>>()
    });
    let found = match fake {
        Some(fake) => Finding::Fake(fake(ctx, keys)),
        None => Finding::Own(function::<B, S, K>().fetch(ctx, keys)),
    };
    Fetch { found, waits }
}

/// A batch function that may be made out of nothing.
pub(super) struct Plain<B>(B);

impl<B> Plain<B> {
    pub(super) const CHECKED: () = assert!(
        size_of::<B>() == 0,
        "a batch function must not capture: its type is its identity, so two captures of one closure would share their values. \
         Pass what it needs in its keys or in the state of the context"
    );
}

/// A batch function, for a key that was put in by a call which was given one.
pub(super) fn function<B: Batch<S, K>, S, K>() -> B {
    let () = Plain::<B>::CHECKED;
    // SAFETY: a batch function has no bytes (asserted above), is Copy, and one was given to the call that put the first key in.
    unsafe { NonNull::<B>::dangling().read() }
}

/// See [`fetch`].
struct Fetch<B, S, K>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    found: Finding<B::Future, Stand<B::Found, B::Error>>,
    waits: Waits<B::Value>,
}

/// The future of a stand-in.
type Stand<M, E> = Pin<Box<dyn Future<Output = Result<M, E>> + Send>>;

enum Finding<O, F> {
    Own(O),
    Fake(F),
}

impl<B, S, K> Future for Fetch<B, S, K>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    type Output = Result<Fetched, B::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: nothing is moved out of it; `found` is pinned below as it is here, and has no `Drop` of ours.
        let this = unsafe { self.get_unchecked_mut() };
        let found = match &mut this.found {
            // SAFETY: see above.
            Finding::Own(own) => unsafe { Pin::new_unchecked(own) }.poll(cx),
            Finding::Fake(fake) => fake.as_mut().poll(cx),
        };
        found.map_ok(|found| {
            let Waits { flight, core } = &this.waits;
            hand_out::<B, S, K>(*core, flight, found);
            Fetched
        })
    }
}

/// The edges of those who wait for a batch, while its body is there.
struct Waits<V: Send + Sync + 'static> {
    flight: Arc<Flight<V>>,
    /// The body lies in that context's memory, or in a box that it owns.
    core: CorePtr,
}

impl<V: Send + Sync + 'static> Drop for Waits<V> {
    fn drop(&mut self) {
        if self.flight.lone().is_none() {
            let edges = self.flight.members().iter().map(|member| &member.edge);
            EdgeCell::unlink(self.core, edges);
        }
    }
}

/// F4.
fn hand_out<B, S, K>(core: CorePtr, flight: &Flight<B::Value>, found: B::Found)
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    let members = flight.members();
    let mut index = Index::new(members);
    for (k, value) in found {
        let hash = core.hash_of(key::<B, S, K>, &k);
        // SAFETY: a member is a slot of the task `key` with this key, and lives as long as the context.
        let is = |slot| unsafe { input::<K>(slot) } == &k;
        match index.find(hash, is) {
            Some(at) => {
                let mut value = Some(value);
                // SAFETY: the run's claim is held, and nobody reads before S7.
                unsafe {
                    members[at].value.write(|place| {
                        if place.is_none() {
                            std::mem::swap(place, &mut value);
                        }
                    });
                }
                // A second one for the same key.
                drop(value);
            }
            None => drop(core.prime(key::<B, S, K>, k, Some(value))),
        }
    }
    // From here on there is no code of the user.
    for member in members.iter().filter(|member| !member.left) {
        // SAFETY: the run's claim is held, and nobody reads before S7.
        let mut value = unsafe { member.value.write(Option::take) };
        let claimed = || {
            // ORDER: Relaxed; read by the destructor of the slot's body, and by who comes to the slot after S7. Not before it is claimed: a body
            // that is being dropped meanwhile must not take its value for delivered (`may_have`).
            member.delivered.store(true, Relaxed);
        };
        let delivered = member.slot.deliver(core, claimed, || {
            // SAFETY: a member is a slot of the task `key`, its claim is held (`deliver`), and body and value are not there.
            unsafe { write_at(member.slot, key::<B, S, K>, value.take()) };
        });
        if !delivered {
            // Its body is being polled, or dropped; who is there after S7 looks here.
            // SAFETY: as above.
            unsafe { member.value.write(|place| *place = value) };
        }
    }
}

/// Finds keys among those that were asked for.
struct Index<'m, V> {
    members: &'m [Member<V>],
    /// Where the next key is if the function keeps the order.
    next: usize,
    /// The first member with a hash; made when a key is not where it was expected.
    first: Option<HashMap<u64, usize, BuildHasherDefault<AsItIs>>>,
    /// The next member with the same hash.
    same: Vec<usize>,
}

/// So few keys are compared one by one.
const FEW: usize = 8;

impl<'m, V> Index<'m, V> {
    fn new(members: &'m [Member<V>]) -> Self {
        Self {
            members,
            next: 0,
            first: None,
            same: Vec::new(),
        }
    }

    /// The number of the key with this hash that `is` accepts.
    fn find(&mut self, hash: u64, is: impl Fn(SlotPtr) -> bool) -> Option<usize> {
        let members = self.members;
        let fits = |at: usize| {
            let Member { slot, left, .. } = &members[at];
            !left && slot.hash == hash && is(*slot)
        };
        if self.next < members.len() && fits(self.next) {
            self.next += 1;
            return Some(self.next - 1);
        }
        let found = if members.len() <= FEW {
            (0..members.len()).find(|&at| fits(at))
        } else {
            let mut next = self.first_with(hash);
            loop {
                match next {
                    Some(at) if fits(at) => break Some(at),
                    Some(at) => next = self.same.get(at).copied().filter(|at| *at != NONE),
                    None => break None,
                }
            }
        };
        self.next = found? + 1;
        found
    }

    fn first_with(&mut self, hash: u64) -> Option<usize> {
        let (members, same) = (self.members, &mut self.same);
        let first = self.first.get_or_insert_with(|| {
            let mut first =
                HashMap::with_capacity_and_hasher(members.len(), BuildHasherDefault::default());
            *same = vec![NONE; members.len()];
            for (at, member) in members.iter().enumerate().rev() {
                if let Some(other) = first.insert(member.slot.hash, at) {
                    same[at] = other;
                }
            }
            first
        });
        first.get(&hash).copied()
    }
}

const NONE: usize = usize::MAX;

/// A hash is not hashed again.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed")
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}
