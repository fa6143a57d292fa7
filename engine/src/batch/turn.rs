//! How keys gather, and when they go.
//!
//! Each batch function has one [`Collector`] in a context, which is kept in the table as a value under the function's type. A key's body
//! puts its key in with its first poll and then waits. The callers of keys say when to go ([`Turn`]).
//!
//! | row | who | does | why |
//! |---|---|---|---|
//! | B1 | a key's body, first poll | puts in key, slot and waker; opens a batch if none is open. If somebody may be parked at the slot already, it wakes itself | a caller that hopped, or was there before, has looked too early: it comes round again, to B2 |
//! | B2 | a caller whose poll of the key is pending | sees a batch open: notes its number and wakes itself, once a poll. If the slot has other callers it wakes them too | one that slept while the body was polled has looked too early as well |
//! | B3 | a caller that is polled again, the number still open | takes the batch out and launches it (`flight.rs`) | |
//! | B4 | a key's body that fills the batch (B1) | launches it | nobody can add to it |
//! | B5 | a key's body that is dropped before B3 | marks its key as left; the batch is not open any more if it was the last | nobody wants it |
//! | B6 | `forget_loaded` | marks the slot DEAD (EMPTY too, if a batch under way fetches the key for nobody) and the open batch sealed; the next B1 launches that and opens another | the same key may come again, and a batch has it once |
//! | B7 | a key's body, first poll, whose key is in a batch under way that its earlier callers have all left (F6) | waits for that batch again, as one of its callers, instead of B1 | a key in flight is joined, not asked for again |
//!
//! B1, B3, B5, B6 and B7 are under the collector's lock, under which there is no user code; it is taken before the wait graph's. So a key is in an open batch,
//! or its body sees the flight that has it, and a number that was closed does not come back.
//!
//! # Every caller asks for its own second poll
//! If only the first did, the others would depend on that one being polled again: a call that is kept and not polled would stall them. A
//! wake that the executor has seen already costs little. So whichever caller is polled twice launches, and it is enough that one is.
//!
//! # Nobody misses that a batch is open
//! A caller that is counted at a slot looks for an open batch after each poll that is pending. It has then seen the slot IDLE, so what
//! the body has done by then too; or it has seen POLLING and slept. In that case its count is in the slot's word before whoever
//! polls the body releases it, and that one, if it is a caller of a key, sees the count after it (B2) and wakes it. If that one is none (a hop), somebody was
//! parked before the poll, so there was a hub (B1).
//!
//! # Why the second poll
//! Executors poll what was woken in the order of the wakes. When a caller that wakes itself is polled again, whatever was awake with it
//! has been polled, and has asked for its keys, or waits for something else.
//!
//! A caller cannot know in its first poll that it is alone: the next branch of a `join!` may be an async block that has not been polled, and there is
//! nothing of it anywhere, no call and no body that could be counted. So the second poll is the earliest that there is without a timer, also for a
//! lone call.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::marker::PhantomData;
use std::task::{Context, Waker};

use super::flight::{AsItIs, Flight, Launched, Member, Rejoin};
use super::{Batch, OfBatch, id};
use crate::context::{CorePtr, Ctx};
use crate::cycle::EdgePtr;
use crate::error::TaskError;
use crate::slot::{SlotPtr, value_at};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};
use crate::task::Input;

/// Where the keys of one batch function gather in one context.
pub(super) struct Collector<B, S, K>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    /// The number of the batch that is open, or 0. Changed under the lock.
    open: AtomicU64,
    state: Mutex<State<K, B::Value>>,
    /// How many keys a batch takes.
    most: usize,
    types: PhantomData<fn(B, S)>,
}

struct State<K, V> {
    /// The number of the newest batch.
    newest: u64,
    open: Option<Open<K, V>>,
    /// Keys of batches under way whose bodies are gone (F6), by their slots' hashes; and some of batches that have ended since. (Of two keys with one hash
    /// the later: the other is asked for again.)
    adrift: HashMap<u64, Adrift<V>, BuildHasherDefault<AsItIs>>,
    /// With so many of them, those that have ended are looked for.
    sweep: usize,
}

/// A key that a batch under way fetches for nobody.
struct Adrift<V> {
    slot: SlotPtr,
    flight: Arc<Flight<V>>,
    at: usize,
}

impl<K, V> State<K, V> {
    fn take_adrift(&mut self, slot: SlotPtr) -> Option<Adrift<V>> {
        let there = self.adrift.get(&slot.hash)?;
        if there.slot != slot {
            return None;
        }
        self.adrift.remove(&slot.hash)
    }
}

/// A batch that gathers.
struct Open<K, V> {
    flight: Arc<Flight<V>>,
    number: u64,
    keys: Vec<K>,
    /// Who waits for each of the keys.
    members: Vec<Member<V>>,
    /// How many of them still do.
    wanted: usize,
    /// One of its keys was forgotten (B6).
    sealed: bool,
}

/// What a key's body has when it has put its key in.
pub(super) struct Place<V> {
    pub(super) flight: Arc<Flight<V>>,
    /// The number of the batch.
    pub(super) number: u64,
    /// The number of the key in it.
    pub(super) at: usize,
    /// To the run, if the key's body came back to it (B7).
    pub(super) edge: Option<EdgePtr>,
}

/// A batch to launch, out of the lock.
type ToLaunch<K, V> = Option<Launched<K, V>>;

/// What putting a key in comes to: the key's place, and the batch before if it was sealed, and this one if it is full. Or that the batch
/// which fetches the key already waits for this body.
type Put<K, V> = Result<(Place<V>, [ToLaunch<K, V>; 2]), TaskError>;

/// The collector of a batch function; made if there is none.
pub(super) fn collector<B, S, K>(ctx: &Ctx<S>) -> &Collector<B, S, K>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    let core = ctx.core();
    let slot = core.kept(keep::<B, S, K>, || Collector {
        open: AtomicU64::new(0),
        state: Mutex::new(State {
            newest: 0,
            open: None,
            adrift: HashMap::default(),
            sweep: 16,
        }),
        most: core.max_batch(id::<B, S, K>()),
        types: PhantomData,
    });
    // SAFETY: the slot is of this task (`kept`), was DONE before it was seen, and lives as long as the context.
    unsafe { value_at(slot, keep::<B, S, K>) }
}

/// The inner task under which a collector is kept. It never runs.
fn keep<B, S, K>(_: Ctx<S>, (): ()) -> std::future::Pending<Result<Collector<B, S, K>, OfBatch>>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    std::future::pending()
}

impl<B, S, K> Collector<B, S, K>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    /// B1: puts a key in. Also what is to be launched: the batch before, if it was sealed, and this one, if it is full. Or B7.
    pub(super) fn put(&self, core: CorePtr, key: K, member: Member<B::Value>) -> Put<K, B::Value> {
        let mut state = lock(&self.state);
        if !state.adrift.is_empty() {
            // It may be the last to have values: it is dropped outside the lock, and so is the key.
            let slot = member.slot;
            if let Some(was) = state.take_adrift(slot) {
                match was.flight.rejoin(was.at, core) {
                    Rejoin::No => {
                        drop(state);
                        drop(was);
                        return self.put(core, key, member);
                    }
                    Rejoin::Cycle(error) => {
                        state.adrift.insert(slot.hash, was);
                        drop(state);
                        return Err(error);
                    }
                    Rejoin::Joined(edge) => {
                        drop(state);
                        let place = Place {
                            flight: was.flight,
                            number: 0,
                            at: was.at,
                            edge,
                        };
                        return Ok((place, [None, None]));
                    }
                }
            }
        }
        let sealed = match &state.open {
            Some(open) if open.sealed => self.take(core, &mut state),
            _ => None,
        };
        if state.open.is_none() {
            state.newest += 1;
            let number = state.newest;
            state.open = Some(Open {
                flight: Arc::new(Flight::new()),
                number,
                keys: Vec::new(),
                members: Vec::new(),
                wanted: 0,
                sealed: false,
            });
            // ORDER: Release; pairs with the look in `Turn`: not for the lock's data, but who sees the body's slot IDLE sees this.
            self.open.store(number, Ordering::Release);
        }
        let Some(open) = &mut state.open else {
            unreachable!("it was opened above")
        };
        let place = Place {
            flight: open.flight.clone(),
            number: open.number,
            at: open.members.len(),
            edge: None,
        };
        open.keys.push(key);
        open.members.push(member);
        open.wanted += 1;
        let full = if open.wanted >= self.most {
            self.take(core, &mut state)
        } else {
            None
        };
        drop(state);
        Ok((place, [sealed, full]))
    }

    /// F6, the end of it: the key at this place is being fetched for nobody, unless somebody comes again.
    pub(super) fn drift(&self, core: CorePtr, slot: SlotPtr, place: Place<B::Value>) {
        if core.is_closed() || !place.flight.may_have(place.at) {
            return;
        }
        let mut state = lock(&self.state);
        if slot.look().is_dead() {
            // Nobody new finds it, and the next slot for this key has the same hash.
            return drop((state, place));
        }
        let mut ended = Vec::new();
        if state.adrift.len() >= state.sweep {
            let over = |_: &u64, it: &mut Adrift<_>| !it.flight.may_have(it.at);
            ended.extend(state.adrift.extract_if(over));
            state.sweep = 2 * state.adrift.len() + 16;
        }
        let flight = place.flight;
        let at = place.at;
        let same = state.adrift.insert(slot.hash, Adrift { slot, flight, at });
        drop(state);
        // These may have values, which are dropped outside the lock.
        drop((ended, same));
    }

    /// Closes the open batch and makes its flight ready, under the lock: from here on its keys' bodies see the run.
    fn take(&self, core: CorePtr, state: &mut State<K, B::Value>) -> ToLaunch<K, B::Value> {
        let open = state.open.take()?;
        // ORDER: Release; as in `put`.
        self.open.store(0, Ordering::Release);
        Some(Flight::prepare::<B, S, K>(
            open.flight,
            core,
            open.keys,
            open.members,
            open.wanted,
        ))
    }

    /// B5: the body that has this place is dropped. False if the batch has gone.
    pub(super) fn leave(&self, place: &Place<B::Value>) -> bool {
        let mut state = lock(&self.state);
        let open = match &mut state.open {
            Some(open) if open.number == place.number => open,
            _ => return false,
        };
        open.members[place.at].left = true;
        open.wanted -= 1;
        if open.wanted == 0 {
            // ORDER: Release; as in `put`.
            self.open.store(0, Ordering::Release);
            let nobodys = state.open.take();
            // Keys are dropped outside the lock.
            drop(state);
            drop(nobodys);
        }
        true
    }

    /// B6.
    pub(super) fn forget(&self, slot: SlotPtr) -> bool {
        let mut state = lock(&self.state);
        let was = state.take_adrift(slot);
        let forgot = match &was {
            Some(was) if was.flight.may_have(was.at) => slot.forget_left(),
            _ => slot.forget(),
        };
        if let (true, Some(open)) = (forgot, &mut state.open) {
            open.sealed = true;
        }
        drop(state);
        // It may be the last to have values.
        drop(was);
        forgot
    }
}

/// A [`Collector`] without its types, for the callers of keys.
trait Collects: Send + Sync {
    /// The number of the batch that is open, or 0.
    fn open(&self) -> u64;
    /// B3: launches the batch with this number, if it is open.
    fn go(&self, core: CorePtr, number: u64, waker: &Waker);
}

impl<B, S, K> Collects for Collector<B, S, K>
where
    S: Send + Sync + 'static,
    B: Batch<S, K>,
    K: Input,
{
    fn open(&self) -> u64 {
        // ORDER: Acquire; pairs with `put`: see "Nobody misses that a batch is open".
        self.open.load(Ordering::Acquire)
    }

    fn go(&self, core: CorePtr, number: u64, waker: &Waker) {
        let launched = {
            let mut state = lock(&self.state);
            match &state.open {
                Some(open) if open.number == number => self.take(core, &mut state),
                _ => None,
            }
        };
        if let Some(launched) = launched {
            launched.launch(core, waker);
        }
    }
}

/// One caller's part in when its batch goes.
pub(super) struct Turn<'a> {
    collector: Option<&'a dyn Collects>,
    /// The open batch that it saw last.
    saw: u64,
}

impl<'a> Turn<'a> {
    /// For a caller that does not wait.
    #[inline(always)]
    pub(super) fn none() -> Self {
        Self {
            collector: None,
            saw: 0,
        }
    }

    pub(super) fn of<B, S, K>(collector: &'a Collector<B, S, K>) -> Self
    where
        S: Send + Sync + 'static,
        B: Batch<S, K>,
        K: Input,
    {
        Self {
            collector: Some(collector),
            saw: 0,
        }
    }

    /// B3, before the caller polls its keys.
    #[inline(always)]
    pub(super) fn begin(&mut self, core: CorePtr, cx: &mut Context<'_>) {
        if self.saw != 0 {
            self.second(core, cx);
        }
    }

    #[inline(never)]
    fn second(&mut self, core: CorePtr, cx: &mut Context<'_>) {
        let saw = std::mem::take(&mut self.saw);
        if let Some(collector) = self.collector
            && collector.open() == saw
        {
            collector.go(core, saw, cx.waker());
        }
    }

    /// B2, after the caller has polled its keys, if any is pending. True if a batch is open.
    pub(super) fn end(&mut self, cx: &mut Context<'_>) -> bool {
        let open = self.collector.map_or(0, Collects::open);
        self.saw = open;
        if open != 0 {
            cx.waker().wake_by_ref();
        }
        open != 0
    }
}

/// B2: wakes the other callers of a key.
pub(super) fn tell_others(slot: SlotPtr) {
    if slot.look().callers() > 1 {
        slot.wake_all();
    }
}
