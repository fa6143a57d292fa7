//! Batches in the second tier: keys that requests ask for at the same time are fetched together, and each is kept with its time to live.
//!
//! A key is an entry of the tier like any task's input, of an inner task [`key`]: what is there, joined, refreshed, evicted and forgotten is
//! the tier's own. Its run (a context and a driver of its own) puts the key where keys gather. The run that opened a batch *leads* it: it lets the
//! executor go round once, so that every run that was started meanwhile has put its key in, and then calls the function in its own body.
//! The others wait at the batch. No request drives any of it, so no request's end shrinks or stalls it.
//!
//! A leader that is dropped before the function has answered (its time limit, a shutdown, its runtime's end) leaves nothing: those who wait put
//! their keys in again, which they may outlive. Each of them has an edge to the leader in the wait graph, as one run of a tier that waits for another.
//!
//! Locks: collectors, then nothing else; a collector's, then its batch's. No user code runs under them.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::{Batch, OfBatch, id};
use crate::context::{CorePtr, Ctx, Strong};
use crate::cycle::{self, EdgePtr};
use crate::error::TaskError;
use crate::slot::SlotPtr;
use crate::sync::{Arc, Mutex, lock};
use crate::task::Input;

/// The collectors of a tier, by batch function, and how many keys each takes.
#[derive(Default)]
pub(crate) struct Collectors {
    made: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    most: HashMap<TypeId, usize>,
}

impl Collectors {
    pub(crate) fn new(most: HashMap<TypeId, usize>) -> Self {
        Self {
            made: Mutex::default(),
            most,
        }
    }

    fn of<B, G, K>(&self) -> Arc<Collector<K, B::Value>>
    where
        G: Send + Sync + 'static,
        B: Batch<G, K>,
        K: Input,
    {
        let id = id::<B, G, K>();
        let made = lock(&self.made)
            .entry(id)
            .or_insert_with(|| {
                Arc::new(Collector::<K, B::Value> {
                    open: Mutex::new(None),
                    most: self.most.get(&id).copied().unwrap_or(usize::MAX),
                })
            })
            .clone();
        made.downcast()
            .unwrap_or_else(|_| unreachable!("it was made for this function"))
    }
}

/// Where the keys of one batch function gather in one tier.
struct Collector<K, V> {
    open: Mutex<Option<Arc<Flight<K, V>>>>,
    most: usize,
}

/// One batch.
struct Flight<K, V> {
    /// The run that leads it.
    leader: SlotPtr,
    /// Keeps the leader's slot while anybody has an edge to it.
    _context: Strong,
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    stage: Stage<V>,
    keys: Vec<K>,
    /// By the keys' numbers.
    wakers: Vec<Option<Waker>>,
}

enum Stage<V> {
    Gathers,
    Flies,
    /// By the keys' numbers; each is taken by its run.
    Found(Vec<Option<V>>),
    Failed(TaskError),
    /// The leader was dropped.
    Lost,
}

/// What a run is to do for its key.
enum Role<K, V> {
    Leads(Leader<K, V>),
    Waits(Place<K, V>),
}

/// The inner task of a key in a tier.
pub(crate) async fn key<B, G, K>(ctx: Ctx<G>, key: K) -> Result<Option<B::Value>, OfBatch>
where
    G: Send + Sync + 'static,
    B: Batch<G, K>,
    K: Input,
{
    loop {
        match put::<B, G, K>(&ctx, key.clone()) {
            Role::Leads(leader) => {
                yield_once().await;
                return leader.fetch::<B, G>(ctx).await.map_err(OfBatch);
            }
            Role::Waits(place) => {
                if let Some(outcome) = place.await {
                    return outcome.map_err(OfBatch);
                }
            }
        }
    }
}

/// Puts a key into the open batch, or opens one.
fn put<B, G, K>(ctx: &Ctx<G>, key: K) -> Role<K, B::Value>
where
    G: Send + Sync + 'static,
    B: Batch<G, K>,
    K: Input,
{
    let core = ctx.core();
    let (Some(tier), Some(slot)) = (core.tier(), ctx.body()) else {
        unreachable!("it is a run of a tier")
    };
    let collector = tier.collectors().of::<B, G, K>();
    let mut open = lock(&collector.open);
    if let Some(flight) = open.as_ref().cloned() {
        let mut state = lock(&flight.state);
        let at = state.keys.len();
        state.keys.push(key);
        state.wakers.push(None);
        if at + 1 >= collector.most {
            // The leader's round is under way.
            *open = None;
        }
        drop(state);
        drop(open);
        return Role::Waits(Place {
            flight,
            at,
            from: (core, slot),
            edge: None,
        });
    }
    let flight = Arc::new(Flight {
        leader: slot,
        _context: core.strong(),
        state: Mutex::new(State {
            stage: Stage::Gathers,
            keys: vec![key],
            wakers: vec![None],
        }),
    });
    if collector.most > 1 {
        *open = Some(flight.clone());
    }
    drop(open);
    Role::Leads(Leader { collector, flight })
}

/// Lets whatever is awake be polled first.
fn yield_once() -> impl Future<Output = ()> {
    let mut yielded = false;
    poll_fn(move |cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// The batch of the run that opened it. Dropped before it has ended it, it leaves nothing to those who wait.
struct Leader<K, V> {
    collector: Arc<Collector<K, V>>,
    flight: Arc<Flight<K, V>>,
}

impl<K: Input, V: Send + Sync + 'static> Leader<K, V> {
    /// Calls the function, hands out what it gives, and gives what is for the leader's own key, which is the first.
    async fn fetch<B, G>(self, ctx: Ctx<G>) -> Result<Option<V>, TaskError>
    where
        G: Send + Sync + 'static,
        B: Batch<G, K, Value = V>,
    {
        let keys = self.close();
        let slot = self.flight.leader;
        let mut asks = pin!(ask::<B, G, K>(ctx, slot, keys));
        let found = poll_fn(|cx| {
            // Caught here, and not with the leader's body: it is the panic of every key.
            let polled = catch_unwind(AssertUnwindSafe(|| asks.as_mut().poll(cx)));
            polled.unwrap_or_else(|payload| {
                Poll::Ready(Err(TaskError::panicked(slot.name(), payload)))
            })
        })
        .await;
        match found {
            Ok(mut found) => {
                let own = found.first_mut().and_then(Option::take);
                self.end(Stage::Found(found));
                Ok(own)
            }
            Err(error) => {
                self.end(Stage::Failed(error.clone()));
                Err(error)
            }
        }
    }
}

impl<K, V> Leader<K, V> {
    /// Nobody puts a key in any more; gives those that are in.
    fn close(&self) -> Vec<K> {
        let mut open = lock(&self.collector.open);
        let is = |open: &Arc<Flight<K, V>>| Arc::ptr_eq(open, &self.flight);
        let was_open = if open.as_ref().is_some_and(is) {
            open.take()
        } else {
            None
        };
        let mut state = lock(&self.flight.state);
        if let Stage::Gathers = state.stage {
            state.stage = Stage::Flies;
        }
        let keys = std::mem::take(&mut state.keys);
        drop(state);
        drop(open);
        drop(was_open);
        keys
    }

    fn end(&self, stage: Stage<V>) {
        let mut state = lock(&self.flight.state);
        let old = std::mem::replace(&mut state.stage, stage);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        drop(old);
        // They are hubs', so nothing of the user is called here.
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn has_ended(&self) -> bool {
        let state = lock(&self.flight.state);
        !matches!(state.stage, Stage::Gathers | Stage::Flies)
    }
}

impl<K, V> Drop for Leader<K, V> {
    fn drop(&mut self) {
        if !self.has_ended() {
            // CANCEL: lost. Keys are dropped outside the lock.
            drop(self.close());
            self.end(Stage::Lost);
        }
    }
}

/// Calls the function and finds each key's value. Everything of the user's is in here.
///
/// A key that was forgotten while it gathered may be there twice, for an old run and a new one, and there is one value each time: so the second is asked
/// for in another round.
async fn ask<B, G, K>(
    ctx: Ctx<G>,
    slot: SlotPtr,
    keys: Vec<K>,
) -> Result<Vec<Option<B::Value>>, TaskError>
where
    G: Send + Sync + 'static,
    B: Batch<G, K>,
    K: Input,
{
    let mut values: Vec<Option<B::Value>> = keys.iter().map(|_| None).collect();
    for (at, keys) in rounds(keys) {
        let function = super::flight::function::<B, G, K>();
        let found = match function.fetch(ctx.clone(), keys).await {
            Ok(found) => found,
            Err(error) => {
                return Err(TaskError::returned(slot.name(), error, slot.is_transient()));
            }
        };
        for (k, value) in found {
            match at.get(&k) {
                // Of several for one key the first counts.
                Some(&at) => drop(match &mut values[at] {
                    Some(_) => Some(value),
                    none => none.replace(value),
                }),
                None => drop(prime(&ctx, key::<B, G, K>, k, value)),
            }
        }
    }
    Ok(values)
}

/// The keys in lists that have each once, nearly always one; and where each is.
fn rounds<K: Input>(keys: Vec<K>) -> Vec<(HashMap<K, usize>, Vec<K>)> {
    let mut rounds = vec![(HashMap::with_capacity(keys.len()), Vec::new())];
    for (number, key) in keys.into_iter().enumerate() {
        let free = rounds.iter().position(|(at, _)| !at.contains_key(&key));
        let round = free.unwrap_or_else(|| {
            rounds.push((HashMap::new(), Vec::new()));
            rounds.len() - 1
        });
        let (at, list) = &mut rounds[round];
        at.insert(key.clone(), number);
        list.push(key);
    }
    rounds
}

/// A value that was not asked for is kept.
fn prime<G, F, K, V>(ctx: &Ctx<G>, task: F, key: K, value: V) -> Result<(), Option<V>>
where
    G: Send + Sync + 'static,
    F: crate::Task<G, K, Value = Option<V>>,
    K: Input + crate::Key<K>,
{
    ctx.prime(task, key, Some(value))
}

/// A key's place in a batch that another run leads: ready when that has ended; with nothing, if it was lost.
struct Place<K, V> {
    flight: Arc<Flight<K, V>>,
    at: usize,
    from: (CorePtr, SlotPtr),
    edge: Option<EdgePtr>,
}

impl<K, V> Unpin for Place<K, V> {}

impl<K, V> Future for Place<K, V> {
    type Output = Option<Result<Option<V>, TaskError>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.edge.is_none() {
            let (core, slot) = this.from;
            match cycle::wait(core, slot, this.flight.leader) {
                Ok(edge) => this.edge = Some(edge),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let mut state = lock(&this.flight.state);
        let outcome = match &mut state.stage {
            Stage::Gathers | Stage::Flies => {
                // CANCEL: dropped from here on, the edge is taken back; the key is asked for all the same.
                let old = state.wakers[this.at].replace(cx.waker().clone());
                drop(state);
                drop(old);
                return Poll::Pending;
            }
            Stage::Found(found) => Some(Ok(found[this.at].take())),
            Stage::Failed(error) => Some(Err(error.clone())),
            Stage::Lost => None,
        };
        drop(state);
        Poll::Ready(outcome)
    }
}

impl<K, V> Drop for Place<K, V> {
    fn drop(&mut self) {
        if let Some(edge) = self.edge.take() {
            cycle::leave(self.from.0, edge);
        }
    }
}
