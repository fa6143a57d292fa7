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
//! | F4 | the run, when the function is ready | hands out the values, by key; then S7 |
//! | F5 | a key's body that sees DONE or FAILED | takes its value, or the error |
//! | F6 | a key's body that is dropped | takes back its edge, then its count (S8, S9) |

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, Wake, Waker};

use super::turn::{Entry, Place, collector};
use super::{Batch, id};
use crate::context::{CorePtr, Ctx, Fake, New};
use crate::cycle::Edges;
use crate::error::{BoxError, TaskError};
use crate::slot::{Attempt, Slot, SlotPtr, input};
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
    /// Written before `run`, and not again.
    crew: UnsafeCell<Option<Crew>>,
    /// By the keys' numbers. Written by the run before it is DONE; each cell is read by its key's body after that.
    values: UnsafeCell<Vec<UnsafeCell<Option<V>>>>,
}

/// Who waits for a batch.
struct Crew {
    /// Of the keys' bodies.
    wakers: Vec<Waker>,
    /// By the keys' numbers.
    edges: Edges,
}

// SAFETY: `crew` is written under the collector's lock before `run` is published (Release), and read by who saw `run`, or got the flight's
// waker from who did. `values` is written by the run, which is one at a time, before S7; a cell of it is touched by the body of its
// key after S0, which is one at a time as well. Values are Send and Sync, wakers and edges too.
unsafe impl<V: Send + Sync> Sync for Flight<V> {}
// SAFETY: as above.
unsafe impl<V: Send + Sync> Send for Flight<V> {}

/// A batch that was taken out of its collector, to be launched.
#[must_use]
pub(super) struct Launched<V> {
    flight: Arc<Flight<V>>,
    new: New,
}

impl<V: Send + Sync + 'static> Flight<V> {
    pub(super) fn new() -> Self {
        Self {
            run: AtomicPtr::new(std::ptr::null_mut()),
            crew: UnsafeCell::new(None),
            values: UnsafeCell::new(Vec::new()),
        }
    }

    /// F1.
    pub(super) fn prepare<B, S, K>(
        this: &Arc<Self>,
        core: CorePtr,
        entries: Vec<Option<Entry<K>>>,
        left: usize,
    ) -> Launched<V>
    where
        S: Send + Sync + 'static,
        B: Batch<S, K, Value = V>,
        K: Input,
    {
        let mut keys = Vec::with_capacity(left);
        let mut members = Vec::with_capacity(left);
        let mut wakers = Vec::with_capacity(left);
        let numbers = entries.len();
        for (at, entry) in entries.into_iter().enumerate() {
            if let Some(Entry { key, slot, waker }) = entry {
                keys.push(key);
                members.push((slot, at));
                wakers.push(waker);
            }
        }
        let mut slots = vec![None; numbers];
        for &(slot, at) in &members {
            slots[at] = Some(slot);
        }
        let cargo = Cargo {
            flight: this.clone(),
            keys,
            members,
            numbers,
        };
        let asked = Asked(Mutex::new(Some(cargo)));
        let new = core.new_private(fetch::<B, S, K>, asked, left);
        let edges = Edges::join(core, slots.into_iter(), new.slot());
        // SAFETY: nobody reads it before `run` is published below.
        unsafe { this.crew.write(|crew| *crew = Some(Crew { wakers, edges })) };
        // ORDER: Release; pairs with `run`: slot and crew are written.
        this.run.store(new.slot().as_ptr(), Ordering::Release);
        Launched {
            flight: this.clone(),
            new,
        }
    }

    /// The slot of the run, once it is launched.
    fn run(&self) -> Option<SlotPtr> {
        // ORDER: Acquire; pairs with `prepare`.
        let run = self.run.load(Ordering::Acquire);
        // SAFETY: it is a slot of the context, and whoever asks has a handle of that.
        unsafe { SlotPtr::from_raw(run) }
    }

    fn crew<R>(&self, f: impl FnOnce(&Crew) -> R) -> Option<R> {
        // SAFETY: the callers saw `run`, or the flight's waker; it is not written after that.
        unsafe { self.crew.read(|crew| crew.as_ref().map(f)) }
    }

    /// Wakes every key's body, and so every caller.
    fn wake_all(&self) {
        self.crew(|crew| {
            queue::scope(|| {
                for waker in &crew.wakers {
                    waker.wake_by_ref();
                }
            });
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
                return Poll::Ready(());
            }
            if w.is_closed() || w.callers() == 0 {
                // The keys' slots are closed as well, or no key is left.
                return Poll::Pending;
            }
            if !hops && (w.is_empty() || (w.is_idle() && !drove && run.is_woken())) {
                let (attempt, hop_ended) = match stack::place(waker) {
                    stack::Place::Hop => {
                        hops = true;
                        continue;
                    }
                    stack::Place::Base => stack::base(|| run.attempt(core, None)),
                    stack::Place::Nested => (run.attempt(core, None), false),
                };
                drove = matches!(attempt, Attempt::Driven(_)) && !hop_ended;
                continue;
            }
            if !registered {
                run.hub().follow(Waker::from(self.clone()));
                registered = true;
                continue;
            }
            if w.is_idle() {
                if !hops && run.is_woken() {
                    // It woke itself when nothing was registered yet.
                    self.wake_all();
                }
            } else if !run.contend(w) {
                continue;
            }
            if hops {
                stack::hop(run, None, core.strong());
            }
            // CANCEL: the body that waits leaves (F6) when it is dropped.
            return Poll::Pending;
        }
    }

    /// F5, after DONE was seen.
    fn take(&self, at: usize) -> Option<V> {
        // SAFETY: the run wrote it before S7, and does not write again.
        unsafe {
            self.values
                .read(|values| values.get(at).and_then(|cell| cell.write(Option::take)))
        }
    }
}

impl<V: Send + Sync + 'static> Launched<V> {
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
            let waker = cx.waker().clone();
            let entry = Entry { key, slot, waker };
            let (place, launched) = collector::<B, S, K>(&this.ctx).put(core, entry);
            this.state = KeyState::Waits(place);
            for launched in launched.into_iter().flatten() {
                launched.launch(core, cx.waker());
            }
            // B1. Also if it went already: the sealed one before may have woken others only.
            cx.waker().wake_by_ref();
        }
        let KeyState::Waits(place) = &this.state else {
            panic!("a key's body was polled after it was ready");
        };
        let Some(run) = place.flight.run() else {
            return Poll::Pending;
        };
        if place.flight.fly(run, core, cx.waker()).is_pending() {
            return Poll::Pending;
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
        let KeyState::Waits(place) = std::mem::replace(&mut self.state, KeyState::Over) else {
            return;
        };
        let core = self.ctx.core();
        // CANCEL: the last caller of this key is gone, or the context is closed.
        if place.flight.run().is_none() {
            let entry = collector::<B, S, K>(&self.ctx).leave(&place);
            if entry.is_some() {
                return;
            }
        }
        if let Some(run) = place.flight.run() {
            // F6: the edge before the count, as any caller.
            place.flight.crew(|crew| crew.edges.leave(core, place.at));
            run.leave(core);
        }
    }
}

/// The input of a batch's run. Whoever clones it has it: that is the body.
struct Asked<K, V>(Mutex<Option<Cargo<K, V>>>);

/// What a batch's run needs.
struct Cargo<K, V> {
    flight: Arc<Flight<V>>,
    keys: Vec<K>,
    /// The slots of the keys, in their order, with the keys' numbers.
    members: Vec<(SlotPtr, usize)>,
    /// How many numbers there are.
    numbers: usize,
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
async fn fetch<B, S, K>(ctx: Ctx<S>, asked: Asked<K, B::Value>) -> Result<Fetched, B::Error>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    let cargo = lock(&asked.0).take();
    drop(asked);
    let Some(Cargo {
        flight,
        keys,
        members,
        numbers,
    }) = cargo
    else {
        unreachable!("a batch runs once: when its callers are gone it has no others")
    };
    let core = ctx.core();
    // However the body ends.
    let waits = Waits {
        flight: &flight,
        core,
    };
    let fake = core.fakes().and_then(|fakes| {
        fakes
            .get(&id::<B, S, K>())?
            .downcast_ref::<Fake<S, Vec<K>, B::Found, B::Error>>()
    });
    let found = match fake {
        Some(fake) => fake(ctx.clone(), keys).await?,
        None => {
            const {
                assert!(
                    size_of::<B>() == 0,
                    "a batch function must not capture: its type is its identity, so two captures of one closure would share their values. \
                     Pass what it needs in its keys or in the state of the context"
                );
            }
            // SAFETY: a batch function has no bytes (asserted above), is Copy, and one was given to the call that put the first key in.
            let batch = unsafe { NonNull::<B>::dangling().read() };
            batch.fetch(ctx.clone(), keys).await?
        }
    };
    hand_out::<B, S, K>(&ctx, &flight, &members, numbers, found);
    drop(waits);
    Ok(Fetched)
}

/// The edges of those who wait for a batch.
struct Waits<'f, V: Send + Sync + 'static> {
    flight: &'f Arc<Flight<V>>,
    core: CorePtr,
}

impl<V: Send + Sync + 'static> Drop for Waits<'_, V> {
    fn drop(&mut self) {
        self.flight.crew(|crew| crew.edges.leave_all(self.core));
    }
}

/// F4.
fn hand_out<B, S, K>(
    ctx: &Ctx<S>,
    flight: &Flight<B::Value>,
    members: &[(SlotPtr, usize)],
    numbers: usize,
    found: B::Found,
) where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    let mut values: Vec<Option<B::Value>> = Vec::new();
    values.resize_with(numbers, || None);
    let mut index = Index::new(members);
    for (k, value) in found {
        let hash = ctx.core().hash_of(key::<B, S, K>, &k);
        // SAFETY: a member is a slot of the task `key` with this key, and lives as long as the context.
        let is = |slot| unsafe { input::<K>(slot) } == &k;
        match index.find(hash, is) {
            Some(at) => {
                let value_of = &mut values[at];
                if value_of.is_none() {
                    *value_of = Some(value);
                }
            }
            None => {
                let refused = ctx.prime(key::<B, S, K>, k, Some(value));
                drop(refused);
            }
        }
    }
    let values = values.into_iter().map(UnsafeCell::new).collect();
    // SAFETY: the run's claim is held, and nobody reads before S7.
    unsafe { flight.values.write(|cells| *cells = values) };
}

/// Finds keys among those that were asked for.
struct Index<'m> {
    members: &'m [(SlotPtr, usize)],
    /// Where the next key is if the function keeps the order.
    next: usize,
    /// The first member with a hash; made when a key is not where it was expected.
    first: Option<HashMap<u64, usize, BuildHasherDefault<AsItIs>>>,
    /// The next member with the same hash.
    same: Vec<usize>,
}

/// So few keys are compared one by one.
const FEW: usize = 8;

impl<'m> Index<'m> {
    fn new(members: &'m [(SlotPtr, usize)]) -> Self {
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
        let fits = |at: usize| members[at].0.hash == hash && is(members[at].0);
        if self.next < members.len() && fits(self.next) {
            self.next += 1;
            return Some(members[self.next - 1].1);
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
        let at = found?;
        self.next = at + 1;
        Some(members[at].1)
    }

    fn first_with(&mut self, hash: u64) -> Option<usize> {
        let (members, same) = (self.members, &mut self.same);
        let first = self.first.get_or_insert_with(|| {
            let mut first =
                HashMap::with_capacity_and_hasher(members.len(), BuildHasherDefault::default());
            *same = vec![NONE; members.len()];
            for (at, (slot, _)) in members.iter().enumerate().rev() {
                if let Some(other) = first.insert(slot.hash, at) {
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
struct AsItIs(u64);

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
