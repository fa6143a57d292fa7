//! The tier itself, without the type of its state: what is asked, what ends, what goes.
//!
//! # Generations
//! Everything that changes an entry happens under its lock: a run is put there, is taken out by its end, a value is put in or taken out, the
//! entry is removed. The end of a run changes the entry only if that very run is still there; `forget` and a removal take it out, so what
//! ends later is for those who wait for it and for nobody else. A removed entry is never used again: who finds one makes a new one.
//!
//! Locks: entry, then list of runs; entry, then nothing else. The bound's is never held together with an entry's. No user code runs under
//! any of them: inputs are cloned before (`Prepared`), outcomes are dropped after (`Retired`).

use std::any::TypeId;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ptr::NonNull;

use foldhash::SharedSeed;

use super::bound::Bound;
use super::clock::{Clock, nanos};
use super::entry::{Entry, TaskMeta, task_meta};
use super::map::Map;
use super::outcome::{NEVER, Outcome, Retired, pin};
use super::run::{Driver, EndedBy, Prepared, Running, SHUT_DOWN};
use super::{Policy, Stats};
use crate::batch::Collectors;
use crate::context::{hasher, seed};
use crate::cycle::Graph;
use crate::error::{TaskError, TaskErrorKind};
use crate::slot::SlotPtr;
use crate::stack;
use crate::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, SeenArc, lock};
use crate::task::{Input, Task};
use crate::wake::Hub;

/// A state of which nothing is known any more.
pub(crate) trait State: Send + Sync {}
impl<G: Send + Sync> State for G {}

/// A tier; the state is last, so that its type can be forgotten.
pub(crate) struct TierOf<G: ?Sized> {
    map: Map,
    bound: Mutex<Bound>,
    pub(super) clock: Clock,
    seed: &'static SharedSeed,
    defaults: Policy,
    policies: HashMap<TypeId, Policy>,
    max_depth: usize,
    graph: Mutex<Graph>,
    runs: Mutex<Runs>,
    /// Who waits for the last run to end.
    pub(super) idle: AtomicPtr<Hub>,
    counts: Counts,
    /// Where keys of batches gather.
    collectors: Collectors,
    /// In a model: the drivers, for the model's own threads to poll.
    #[cfg(loom)]
    pub(super) drivers: std::sync::Mutex<Vec<Driver>>,
    state: G,
}

pub(crate) type Tier = TierOf<dyn State>;

#[derive(Default)]
struct Runs {
    closed: bool,
    next: u64,
    live: HashMap<u64, SeenArc<Running>>,
}

#[derive(Default)]
struct Counts {
    started: AtomicU64,
    failed: AtomicU64,
    refreshed: AtomicU64,
    refresh_failed: AtomicU64,
    evicted: AtomicU64,
    waits: AtomicU64,
}

fn count(counter: &AtomicU64) {
    // ORDER: Relaxed; a number for people.
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What an ask comes to.
pub(super) enum Asked {
    Found(Outcome),
    /// A run under way; with its driver if it was started by this ask.
    Waits(SeenArc<Running>, Option<Driver>),
}

/// What a look in the map comes to.
pub(super) enum Looked {
    Hit(Outcome),
    /// A hit, and it is for the caller to start a refresh.
    Stale(Outcome, Arc<Entry>),
    Nothing,
}

pub(super) struct Settings {
    pub(super) defaults: Policy,
    pub(super) policies: HashMap<TypeId, Policy>,
    pub(super) max_entries: usize,
    pub(super) max_depth: usize,
    /// How many keys a batch takes, by batch function.
    pub(super) max_batch: HashMap<TypeId, usize>,
}

impl Tier {
    pub(super) fn make<G: Send + Sync + 'static>(state: G, settings: Settings) -> Arc<Self> {
        Arc::new(TierOf {
            map: Map::new(),
            bound: Mutex::new(Bound::new(settings.max_entries)),
            clock: Clock::new(),
            seed: seed(),
            defaults: settings.defaults,
            policies: settings.policies,
            max_depth: settings.max_depth,
            graph: Mutex::new(Graph::default()),
            runs: Mutex::new(Runs::default()),
            idle: AtomicPtr::new(std::ptr::null_mut()),
            counts: Counts::default(),
            collectors: Collectors::new(settings.max_batch),
            #[cfg(loom)]
            drivers: std::sync::Mutex::default(),
            state,
        })
    }

    /// The state, as an address.
    pub(crate) fn state(&self) -> NonNull<()> {
        NonNull::from(&self.state).cast()
    }

    pub(crate) fn graph(&self) -> &Mutex<Graph> {
        &self.graph
    }

    pub(crate) fn collectors(&self) -> &Collectors {
        &self.collectors
    }

    pub(super) fn max_depth(&self) -> usize {
        self.max_depth
    }

    #[inline(always)]
    pub(super) fn hash<G, F: Task<G, In>, In: Input<K>, K>(&self, key: &K) -> u64 {
        let mut hasher = hasher::<G, F, In>(self.seed);
        In::hash_key(key, &mut hasher);
        hasher.finish()
    }

    /// The path of a hit: no lock, no allocation, one count.
    #[inline(always)]
    pub(super) fn look(&self, hash: u64, is: impl Fn(&Arc<Entry>) -> bool) -> Looked {
        self.map
            .find(hash, is, |entry| self.look_at(entry))
            .unwrap_or(Looked::Nothing)
    }

    #[inline(always)]
    fn look_at(&self, entry: &Arc<Entry>) -> Looked {
        entry.place.look(&pin(), |seen| {
            let Some(seen) = seen else {
                return Looked::Nothing;
            };
            let at = seen.check_at();
            if at != NEVER {
                let now = self.clock.now();
                if now >= at {
                    if now >= seen.expires() {
                        return Looked::Nothing;
                    }
                    // On a thread without a runtime it is left to the next hit.
                    if Self::check_runtime(entry).is_ok() && seen.claim_refresh(at) {
                        return Looked::Stale(seen.take(), entry.clone());
                    }
                }
            }
            entry.mark_hit();
            Looked::Hit(seen.take())
        })
    }

    /// What is there for `entry`, or for the one in the map that is equal to it; if there is nothing, a run that is under way or that is
    /// to be started. `from` is the body that asks, if it is one of a tier's.
    pub(super) fn ask(
        tier: &Arc<Self>,
        entry: &mut Arc<Entry>,
        from: Option<SlotPtr>,
    ) -> Result<Asked, TaskError> {
        let mut prepared = None;
        loop {
            let found = tier.map.find_or_insert(entry);
            match tier.look_at(&found) {
                Looked::Hit(outcome) => return Ok(Asked::Found(outcome)),
                Looked::Stale(outcome, stale) => {
                    Self::refresh(tier, &stale);
                    return Ok(Asked::Found(outcome));
                }
                Looked::Nothing => {}
            }
            let mut run = lock(&found.run);
            if found.is_removed() {
                drop(run);
                // Whoever removed it is about to do this.
                tier.map.remove(&found);
                if Arc::ptr_eq(entry, &found) {
                    *entry = found.renew();
                }
                continue;
            }
            if let Some(running) = run.as_ref().cloned() {
                drop(run);
                count(&tier.counts.waits);
                *entry = found;
                return Ok(Asked::Waits(running, None));
            }
            let now = tier.clock.now();
            if let Some(outcome) = found.outcome_at(&run, now) {
                return Ok(Asked::Found(outcome));
            }
            let Some(ready) = prepared.take() else {
                drop(run);
                // A vacant entry that was put in for nothing goes again.
                let prepare = || {
                    if from.is_some_and(|from| from.depth() as usize >= tier.max_depth) {
                        let task = (found.task.name)();
                        return Err(TaskError::too_deep(task, tier.max_depth));
                    }
                    Self::check_runtime(&found)?;
                    Ok(Prepared::new(tier, &found))
                };
                let vacant = Vacant(tier, &found);
                prepared = Some(prepare()?);
                std::mem::forget(vacant);
                continue;
            };
            let started = match tier.register(&found, now, false, &ready) {
                Ok(started) => started,
                Err(error) => {
                    drop(run);
                    drop(Vacant(tier, &found));
                    return Err(error);
                }
            };
            *run = Some(started.clone());
            drop(run);
            *entry = found;
            let driver = ready.driver(started.clone());
            return Ok(Asked::Waits(started, Some(driver)));
        }
    }

    /// Puts a new run on the list, unless the tier is shut down.
    fn register(
        &self,
        entry: &Arc<Entry>,
        now: u64,
        refresh: bool,
        prepared: &Prepared,
    ) -> Result<SeenArc<Running>, TaskError> {
        let mut runs = lock(&self.runs);
        if runs.closed {
            let task = (entry.task.name)();
            return Err(TaskError::closed(task, TaskErrorKind::Cancelled, SHUT_DOWN));
        }
        let id = runs.next;
        runs.next += 1;
        let run = SeenArc::new(Running::new(entry.clone(), id, now, refresh, prepared));
        runs.live.insert(id, run.clone());
        drop(runs);
        count(&self.counts.started);
        Ok(run)
    }

    /// Starts a refresh, if it can be started. The old value stays and is given meanwhile.
    #[cold]
    pub(super) fn refresh(tier: &Arc<Self>, entry: &Arc<Entry>) {
        let mut prepared = None;
        // The clone of the input may unwind; the value is there all the same.
        stack::contain(|| {
            if Self::check_runtime(entry).is_ok() {
                prepared = Some(Prepared::new(tier, entry));
            }
        });
        let Some(prepared) = prepared else {
            return count(&tier.counts.refresh_failed);
        };
        let mut run = lock(&entry.run);
        if entry.is_removed() || run.is_some() {
            drop(run);
            return drop(prepared);
        }
        let Ok(started) = tier.register(entry, tier.clock.now(), true, &prepared) else {
            drop(run);
            return drop(prepared);
        };
        *run = Some(started.clone());
        drop(run);
        Self::spawn(tier, prepared.driver(started));
    }

    #[cfg(not(loom))]
    fn check_runtime(entry: &Entry) -> Result<(), TaskError> {
        let there = tokio::runtime::Handle::try_current();
        there
            .map(drop)
            .map_err(|_| TaskError::no_runtime((entry.task.name)(), "a run of the shared tier"))
    }

    #[cfg(loom)]
    fn check_runtime(_: &Entry) -> Result<(), TaskError> {
        Ok(())
    }

    /// Gives a driver to the runtime. The caller holds no lock: a runtime that is shut down drops it here.
    #[cfg(not(loom))]
    pub(super) fn spawn(tier: &Arc<Self>, mut driver: Driver) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // It was there a moment ago.
            return drop(driver);
        };
        if let Some(limit) = tier
            .policy(driver.task())
            .time_limit
            .filter(|t| !t.is_zero())
        {
            // A runtime without timers panics here: then there is no limit that could be kept, and no run.
            let timer = std::panic::catch_unwind(|| Box::pin(tokio::time::sleep(limit)));
            match timer {
                Ok(timer) => driver.limit = Some(timer),
                Err(payload) => {
                    stack::discard(payload);
                    return driver.fail_without_timer();
                }
            }
        }
        // Never aborted and not awaited: the run's outcome is in its entry.
        drop(runtime.spawn(driver));
    }

    #[cfg(loom)]
    pub(super) fn spawn(tier: &Arc<Self>, driver: Driver) {
        tier.drivers.lock().unwrap().push(driver);
    }

    fn policy(&self, task: &TaskMeta) -> Effective {
        let own = self.policies.get(&task.type_id);
        let of = |field: fn(&Policy) -> Option<std::time::Duration>| {
            let own = own.and_then(field);
            own.or_else(|| field(&self.defaults))
        };
        Effective {
            ttl: of(|p| p.ttl).map_or(0, nanos),
            refresh_after: of(|p| p.refresh_after).map_or(0, nanos),
            failure_ttl: of(|p| p.failure_ttl).map_or(0, nanos),
            #[cfg(not(loom))]
            time_limit: of(|p| p.time_limit),
            jitter: own
                .and_then(|p| p.jitter)
                .or(self.defaults.jitter)
                .unwrap_or(DEFAULT_JITTER),
        }
    }

    /// Until when a value that is there now may be given.
    fn set_times(&self, outcome: &Outcome, entry: &Entry, policy: &Effective, now: u64) {
        // ORDER: Relaxed; any number that differs from run to run will do.
        let turn = self.counts.started.load(Ordering::Relaxed);
        let early = |span: u64| {
            let share = policy.jitter.clamp(0.0, 1.0) * fraction(entry.hash ^ turn.rotate_left(32));
            span - (span as f64 * share) as u64
        };
        let at = |span: u64| match span {
            0 => NEVER,
            span => now.saturating_add(early(span)),
        };
        outcome.set_times(at(policy.refresh_after), at(policy.ttl));
    }

    /// The end of a run, by its driver.
    pub(super) fn finish(&self, run: &SeenArc<Running>, outcome: Result<Outcome, TaskError>) {
        let entry = &run.entry;
        let now = self.clock.now();
        let policy = self.policy(entry.task);
        let mut kept = None;
        let well = outcome.is_ok();
        let outcome = match outcome {
            Ok(value) => {
                self.set_times(&value, entry, &policy, now);
                kept = Some(value.clone());
                value
            }
            Err(error) => {
                let keeps = policy.failure_ttl > 0
                    && !error.is_transient()
                    && matches!(
                        error.kind(),
                        TaskErrorKind::Failed | TaskErrorKind::Panicked
                    );
                count(&self.counts.failed);
                if run.refresh {
                    count(&self.counts.refresh_failed);
                }
                let failure = Outcome::error(error);
                failure.set_times(NEVER, now.saturating_add(policy.failure_ttl));
                if keeps {
                    kept = Some(failure.clone());
                }
                failure
            }
        };
        let mut end = End::default();
        // Before anybody sees the outcome: who has it does not find the run in the numbers.
        let idle = {
            let mut runs = lock(&self.runs);
            end.listed = runs.live.remove(&run.id);
            runs.live.is_empty()
        };
        let mut current = lock(&entry.run);
        if current
            .as_ref()
            .is_some_and(|current| SeenArc::ptr_eq(current, run))
        {
            end.run = current.take();
            let old = entry.outcome_at(&current, now);
            match (kept, old) {
                (Some(new), None) => {
                    end.retired = entry.place.swap(Some(new));
                    end.put = true;
                }
                (Some(new), Some(_)) if !new.is_failed() => {
                    end.retired = entry.place.swap(Some(new));
                    end.put = true;
                }
                (unkept, Some(old)) => {
                    // A failed refresh. The next one comes when a failure would be forgotten.
                    old.refresh_at(now.saturating_add(policy.failure_ttl));
                    end.dropped = [unkept, Some(old)];
                }
                (None, None) => {
                    end.retired = entry.place.swap(None);
                    entry.set_removed();
                    end.removed = true;
                }
            }
        }
        run.set_outcome(outcome);
        drop(current);
        if end.removed {
            self.take_out(entry);
        }
        if end.put {
            if run.refresh && well {
                count(&self.counts.refreshed);
            }
            self.put(entry);
        }
        drop(end);
        run.hub().wake_all();
        if idle {
            self.wake_idle();
        }
    }

    fn wake_idle(&self) {
        // ORDER: Acquire; pairs with the making of the hub. Who waits looks at the list of runs, under its lock, after that.
        let hub = self.idle.load(Ordering::Acquire);
        // SAFETY: the hub lives as long as the tier.
        if let Some(hub) = unsafe { hub.as_ref() } {
            hub.wake_all();
        }
    }

    /// An entry has a value now; others may have to go for it.
    fn put(&self, entry: &Arc<Entry>) {
        let now = self.clock.now();
        let pin = pin();
        let gone = lock(&self.bound).put(entry, now, &pin);
        drop(pin);
        for victim in &gone.victims {
            self.evict(victim, None);
        }
        for expired in &gone.expired {
            self.evict(expired, Some(now));
        }
    }

    /// The bound has let an entry go; `expired_by`: because what it has is of no use since then.
    fn evict(&self, entry: &Arc<Entry>, expired_by: Option<u64>) {
        let run = lock(&entry.run);
        let retired = match expired_by {
            // Refreshed meanwhile: back it goes.
            Some(now) if entry.outcome_at(&run, now).is_some() => {
                drop(run);
                return self.put(entry);
            }
            _ => entry.place.swap(None),
        };
        // With a run under way it stays, for those who ask meanwhile; the end of the run puts it in again.
        let remove = run.is_none() && !entry.is_removed();
        if remove {
            entry.set_removed();
        }
        drop(run);
        if retired.is_some() && expired_by.is_none() {
            count(&self.counts.evicted);
        }
        if remove {
            self.map.remove(entry);
        }
        drop(retired);
    }

    /// An entry that was removed goes out of the map and the bound.
    fn take_out(&self, entry: &Arc<Entry>) {
        self.map.remove(entry);
        let gone = lock(&self.bound).forget(entry);
        drop(gone);
    }

    /// Lets the next call run again.
    pub(super) fn forget(&self, entry: &Arc<Entry>) -> bool {
        let now = self.clock.now();
        let mut run = lock(&entry.run);
        if entry.is_removed() {
            return false;
        }
        let under_way = run.take();
        let retired = entry.place.swap(None);
        entry.set_removed();
        drop(run);
        self.take_out(entry);
        let there = retired
            .as_ref()
            .is_some_and(|old| old.head().is_there_at(now));
        there || under_way.is_some()
    }

    pub(crate) fn forget_input<G, F, In, Q>(&self, input: &Q) -> bool
    where
        G: Send + Sync + 'static,
        F: Task<G, In>,
        In: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.find::<G, F, In, Q, _>(input, Arc::clone)
            .is_some_and(|entry| self.forget(&entry))
    }

    pub(super) fn forget_task(&self, task: TypeId) -> usize {
        let entries = self.map.select(|entry| entry.task.type_id == task);
        entries.iter().filter(|entry| self.forget(entry)).count()
    }

    fn find<G, F, In, Q, R>(&self, input: &Q, f: impl FnOnce(&Arc<Entry>) -> R) -> Option<R>
    where
        G: Send + Sync + 'static,
        F: Task<G, In>,
        In: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut hasher = hasher::<G, F, In>(self.seed);
        input.hash(&mut hasher);
        let is = |entry: &Arc<Entry>| {
            // SAFETY: the entry is of this task.
            entry.is_of(task_meta::<G, F, In>()) && unsafe { entry.input::<In>() }.borrow() == input
        };
        self.map.find(hasher.finish(), is, f)
    }

    /// What is there, if it may be given.
    pub(super) fn peek<G, F, In, Q>(&self, input: &Q) -> Option<Outcome>
    where
        G: Send + Sync + 'static,
        F: Task<G, In>,
        In: Input + Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.find::<G, F, In, Q, _>(input, |entry| {
            entry.place.look(&pin(), |seen| {
                let seen = seen?;
                let expires = seen.expires();
                (expires == NEVER || self.clock.now() < expires).then(|| seen.take())
            })
        })?
    }

    pub(crate) fn prime<G, F, In, K>(&self, key: K, value: F::Value) -> Result<(), F::Value>
    where
        G: Send + Sync + 'static,
        F: Task<G, In>,
        In: Input<K>,
    {
        let hash = self.hash::<G, F, In, K>(&key);
        let mut entry = Entry::make(hash, task_meta::<G, F, In>(), In::from_key(key));
        loop {
            let found = self.map.find_or_insert(&entry);
            let now = self.clock.now();
            let run = lock(&found.run);
            if found.is_removed() {
                drop(run);
                self.map.remove(&found);
                if Arc::ptr_eq(&entry, &found) {
                    entry = found.renew();
                }
                continue;
            }
            if run.is_some() || found.outcome_at(&run, now).is_some() {
                return Err(value);
            }
            let outcome = Outcome::value(value);
            self.set_times(&outcome, &found, &self.policy(found.task), now);
            let retired = found.place.swap(Some(outcome));
            drop(run);
            drop(retired);
            self.put(&found);
            return Ok(());
        }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.bound).len()
    }

    pub(super) fn stats(&self) -> Stats {
        // ORDER: Relaxed; numbers for people.
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts;
        Stats {
            entries: self.len(),
            running: lock(&self.runs).live.len(),
            started: of(&counts.started),
            failed: of(&counts.failed),
            refreshed: of(&counts.refreshed),
            refresh_failed: of(&counts.refresh_failed),
            evicted: of(&counts.evicted),
            waits: of(&counts.waits),
        }
    }

    /// Nothing new starts from now on.
    pub(super) fn shut(&self) {
        lock(&self.runs).closed = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        lock(&self.runs).live.is_empty()
    }

    /// Ends the runs that are under way; gives them.
    pub(super) fn end_runs(&self) -> Vec<SeenArc<Running>> {
        let mut runs: Vec<_> = lock(&self.runs).live.values().cloned().collect();
        runs.sort_by_key(|run| run.id);
        for run in &runs {
            run.end(EndedBy::Shutdown);
        }
        runs
    }
}

impl<G: ?Sized> Drop for TierOf<G> {
    fn drop(&mut self) {
        // ORDER: Relaxed; nobody else is there.
        let hub = self.idle.load(Ordering::Relaxed);
        // SAFETY: the hub goes with its owner.
        unsafe { Hub::release(hub) };
    }
}

/// A policy with the defaults filled in, in nanoseconds; zero is never, or not at all.
struct Effective {
    ttl: u64,
    refresh_after: u64,
    failure_ttl: u64,
    #[cfg(not(loom))]
    time_limit: Option<std::time::Duration>,
    jitter: f64,
}

/// How much earlier than asked for a value may expire, unless the policy says otherwise.
const DEFAULT_JITTER: f64 = 0.1;

/// A number from 0 up to 1, spread evenly.
fn fraction(seed: u64) -> f64 {
    // A finaliser with full avalanche, so that keys with similar hashes are spread too.
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// What the end of a run leaves to be dropped without a lock.
#[derive(Default)]
struct End {
    run: Option<SeenArc<Running>>,
    listed: Option<SeenArc<Running>>,
    retired: Option<Retired>,
    dropped: [Option<Outcome>; 2],
    put: bool,
    removed: bool,
}

/// An entry that may have been put in for nothing; taken out when this is dropped, if it has nothing.
struct Vacant<'a>(&'a Tier, &'a Arc<Entry>);

impl Drop for Vacant<'_> {
    fn drop(&mut self) {
        let Self(tier, entry) = *self;
        let now = tier.clock.now();
        let run = lock(&entry.run);
        if run.is_some() || entry.is_removed() || entry.outcome_at(&run, now).is_some() {
            return;
        }
        let retired = entry.place.swap(None);
        entry.set_removed();
        drop(run);
        tier.take_out(entry);
        drop(retired);
    }
}
