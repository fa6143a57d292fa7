//! The real side: tasks that do what their plan says, calls and bodies that tell the [model](super::model) what happens to them,
//! and what a schedule acts on besides the context: events, wakers that bodies left behind, calls at the root.
//!
//! Nothing of the engine is entered, and nothing of it dropped, while one of the locks here is held.

use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use watershed::{Ctx, Held, HeldRun, Run, RunFresh, TaskError};

use super::model::{CallId, Failed, Model, RunId, State, own_failure};
use super::plan::{EVENTS, End, OnDrop, Plan, Program, Step};

/// After so many runs tasks do nothing any more, so that every schedule ends.
const MOST_RUNS: usize = 700;
/// How many calls at the root there may be at a time.
const MOST_ROOTS: usize = 24;
/// How many old wakers are kept to be called again.
const MOST_OLD_WAKERS: usize = 64;

// ------------------------------------------------------------------------ inputs, values and errors

/// An input. All keys of a task have the same hash.
#[derive(Clone, Debug)]
pub(super) struct Key {
    id: u16,
    /// The call that makes the slot, if the slot is its own.
    private: Option<CallId>,
    _alive: Arc<()>,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The keys of a chain are too many to be one path in the table.
        state.write_u16(if self.id < super::plan::CHAIN {
            0
        } else {
            self.id
        });
    }
}

/// A value that knows which run made it.
#[derive(Debug)]
pub(super) struct Value {
    run: RunId,
    sum: u64,
    /// Read through a pointer of its own: a late read is seen.
    again: Box<u64>,
    _alive: Arc<()>,
}

impl Value {
    pub(super) fn seen(&self) -> (RunId, u64) {
        assert_eq!(self.sum, *self.again, "a value is read that is gone");
        (self.run, self.sum)
    }
}

/// What a task fails with by itself.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) run: RunId,
    _alive: Arc<()>,
}

impl Failure {
    pub(super) fn text(run: RunId) -> String {
        format!("run {run} says no")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Self::text(self.run))
    }
}

impl std::error::Error for Failure {}

/// A waker that remembers, and that wakes another.
#[derive(Debug, Default)]
pub(super) struct Flag {
    set: AtomicBool,
    parent: Mutex<Option<Waker>>,
}

impl Flag {
    pub(super) fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    pub(super) fn clear(&self) {
        self.set.store(false, Ordering::Relaxed);
    }

    pub(super) fn set(&self) {
        self.set.store(true, Ordering::Relaxed);
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set();
        let parent = lock(&self.parent).clone();
        if let Some(parent) = parent {
            parent.wake();
        }
    }
}

/// A panic in between is the fault that will be reported, not the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ------------------------------------------------------------------------------------------ the world

/// The state of the context, and what the schedule acts on.
#[derive(Clone)]
pub(super) struct World(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) program: Program,
    /// How many polls may be nested where a task panics.
    most_nested: usize,
    model: Mutex<Model>,
    /// The owner's handle.
    main: Mutex<Option<Ctx<World>>>,
    /// Handles of bodies, with the run.
    stash: Mutex<Vec<(RunId, Ctx<World>)>>,
    roots: Mutex<Vec<Option<Root>>>,
    events: Mutex<Events>,
    helds: Mutex<Vec<(RunId, u64, Held<Value>)>>,
    /// Of calls that are over: nobody may keep a waker of theirs.
    old_flags: Mutex<Vec<Weak<Flag>>>,
    pub(super) keys: Arc<()>,
    pub(super) values: Arc<()>,
    pub(super) failures: Arc<()>,
}

#[derive(Default)]
struct Events {
    fired: [bool; EVENTS],
    waiting: Vec<(usize, RunId, Waker)>,
    /// Wakes that are due: an event has happened and nobody was told yet.
    due: Vec<(RunId, Waker)>,
    /// Wakers that were called, and may be again.
    old: Vec<(RunId, Waker)>,
}

/// A call at the root.
struct Root {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    flag: Arc<Flag>,
    polled: bool,
    /// Alive, and never polled again.
    frozen: bool,
    awaits_end: bool,
}

/// What a call at the root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Run,
    Held,
    Fresh,
    /// Awaits the end of the context.
    End,
}

impl World {
    pub(super) fn new(program: Program, most_nested: usize, trace: bool) -> Self {
        let world = Self(Arc::new(Inner {
            program,
            most_nested,
            model: Mutex::new(Model::new(trace)),
            main: Mutex::default(),
            stash: Mutex::default(),
            roots: Mutex::default(),
            events: Mutex::default(),
            helds: Mutex::default(),
            old_flags: Mutex::default(),
            keys: Arc::default(),
            values: Arc::default(),
            failures: Arc::default(),
        }));
        world.model().user();
        *lock(&world.0.main) = Some(Ctx::new(world.clone()));
        world
    }

    /// Whether a task that is to panic does.
    fn may_panic(&self) -> bool {
        let mut model = self.model();
        let may = model.nested <= self.0.most_nested;
        model.perturbed |= !may;
        may
    }

    pub(super) fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.0.model)
    }

    fn key(&self, id: u16, private: Option<CallId>) -> Key {
        Key {
            id,
            private,
            _alive: Arc::clone(&self.0.keys),
        }
    }

    fn value(&self, run: RunId, sum: u64) -> Value {
        Value {
            run,
            sum,
            again: Box::new(sum),
            _alive: Arc::clone(&self.0.values),
        }
    }

    fn failure(&self, run: RunId) -> TaskError {
        TaskError::new(Failure {
            run,
            _alive: Arc::clone(&self.0.failures),
        })
    }

    // --------------------------------------------------------------------------------- calls at the root

    /// Makes a call, without polling it. Through the owner's handle, or through one that a body left which has ended.
    pub(super) fn new_root(&self, key: u16, kind: Kind, through_stash: bool) {
        if lock(&self.0.roots).iter().flatten().count() >= MOST_ROOTS {
            return;
        }
        let stashed = || {
            let stash = lock(&self.0.stash);
            let (_, ctx) = stash.iter().find(|(run, _)| self.model().is_over(*run))?;
            Some((ctx.clone(), false))
        };
        let main = || Some((lock(&self.0.main).clone()?, true));
        let found = if through_stash {
            stashed().or_else(main)
        } else {
            main().or_else(stashed)
        };
        let Some((ctx, is_user)) = found else { return };
        if is_user {
            self.model().user();
        }
        let handle = Handle {
            ctx,
            world: self.clone(),
            is_user,
        };
        let flag = Arc::new(Flag::default());
        let mut future: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin({
            let flag = Arc::clone(&flag);
            async move {
                let handle = handle;
                let world = &handle.world;
                if kind == Kind::End {
                    let ended = handle.ctx.cancelled();
                    pause().await;
                    world.model().await_end(&flag);
                    let awaits = AwaitsEnd { world, flag };
                    ended.await;
                    drop(awaits);
                    let mut model = world.model();
                    if !model.is_closed() {
                        model.fault("the context is said to be closed and is not");
                    }
                    return;
                }
                let call = Tracked::new(&handle.ctx, world, key, kind, None);
                world.model().watch(call.id, &flag);
                drop(flag);
                pause().await;
                let _ = call.await;
            }
        });
        // Makes the call, and stops before it polls it.
        let made = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(made.is_pending());
        let root = Root {
            future,
            flag,
            polled: false,
            frozen: false,
            awaits_end: kind == Kind::End,
        };
        let mut roots = lock(&self.0.roots);
        match roots.iter_mut().find(|root| root.is_none()) {
            Some(place) => *place = Some(root),
            None => roots.push(Some(root)),
        }
    }

    /// Polls a call at the root; with a waker that its last poll did not have, if `new_waker`.
    pub(super) fn poll_root(&self, at: usize, new_waker: bool) {
        let Some(mut root) = self.take_root(at, |root| !root.frozen) else {
            return;
        };
        root.polled = true;
        root.flag.clear();
        let waker = Waker::from(Arc::clone(&root.flag));
        let waker = if new_waker {
            // Another waker to `will_wake`, and the same flag behind it.
            let outer = Flag::default();
            *lock(&outer.parent) = Some(waker);
            Waker::from(Arc::new(outer))
        } else {
            waker
        };
        let polled = root.future.as_mut().poll(&mut Context::from_waker(&waker));
        drop(waker);
        if polled.is_pending() {
            lock(&self.0.roots)[at] = Some(root);
        } else {
            self.is_over(&root.flag);
        }
    }

    /// Between two steps nobody has the flag any more.
    fn is_over(&self, flag: &Arc<Flag>) {
        lock(&self.0.old_flags).push(Arc::downgrade(flag));
    }

    /// How many wakers are kept of calls that are over.
    pub(super) fn kept_wakers(&self) -> usize {
        let flags = std::mem::take(&mut *lock(&self.0.old_flags));
        flags.iter().filter(|flag| flag.strong_count() > 0).count()
    }

    /// Polls every call at the root that is not being polled.
    fn poll_roots(&self) {
        for at in 0..self.places() {
            self.poll_root(at, false);
        }
    }

    pub(super) fn drop_root(&self, at: usize) {
        if let Some(root) = self.take_root(at, |_| true) {
            self.is_over(&root.flag);
        }
    }

    pub(super) fn freeze_root(&self, at: usize) {
        if let Some(Some(root)) = lock(&self.0.roots).get_mut(at) {
            root.frozen = true;
        }
    }

    /// None while it is being polled.
    fn take_root(&self, at: usize, which: impl FnOnce(&Root) -> bool) -> Option<Root> {
        let mut roots = lock(&self.0.roots);
        let place = roots.get_mut(at)?;
        if place.as_ref().is_some_and(which) {
            place.take()
        } else {
            None
        }
    }

    /// The places of calls that an executor would poll.
    pub(super) fn woken_roots(&self) -> Vec<usize> {
        let roots = lock(&self.0.roots);
        let ready = |root: &Root| !root.frozen && (!root.polled || root.flag.is_set());
        (0..roots.len())
            .filter(|at| roots[*at].as_ref().is_some_and(ready))
            .collect()
    }

    /// Who awaits the end of the context and is not frozen.
    pub(super) fn enders(&self) -> usize {
        lock(&self.0.roots)
            .iter()
            .flatten()
            .filter(|root| !root.frozen && root.awaits_end)
            .count()
    }

    pub(super) fn places(&self) -> usize {
        lock(&self.0.roots).len()
    }

    /// Calls that are not over and not frozen.
    pub(super) fn unfinished_roots(&self) -> usize {
        lock(&self.0.roots)
            .iter()
            .flatten()
            .filter(|root| !root.frozen)
            .count()
    }

    // --------------------------------------------------------------------------------- events and wakers

    /// Lets an event happen, without telling anybody.
    pub(super) fn fire(&self, event: usize) {
        let mut events = lock(&self.0.events);
        events.fired[event] = true;
        let (due, waiting) = std::mem::take(&mut events.waiting)
            .into_iter()
            .partition(|(of, ..)| *of == event);
        let _: &Vec<_> = &due;
        events.waiting = waiting;
        events
            .due
            .extend(due.into_iter().map(|(_, run, waker)| (run, waker)));
    }

    pub(super) fn due(&self) -> usize {
        lock(&self.0.events).due.len()
    }

    /// Tells one of those who are to be told.
    pub(super) fn deliver(&self, at: usize) {
        let (run, waker) = lock(&self.0.events).due.remove(at);
        self.model().wake(run);
        waker.wake_by_ref();
        let mut events = lock(&self.0.events);
        if events.old.len() < MOST_OLD_WAKERS {
            events.old.push((run, waker));
        } else {
            drop(events);
            waker.wake();
        }
    }

    /// The first event that somebody waits for.
    pub(super) fn awaited(&self) -> Option<usize> {
        lock(&self.0.events)
            .waiting
            .first()
            .map(|(event, ..)| *event)
    }

    /// Calls a waker for nothing: one that waits, or an old one, whose body may be long gone.
    pub(super) fn wake_for_nothing(&self, which: usize) {
        let found = {
            let events = lock(&self.0.events);
            let wakers = events.waiting.len() + events.old.len();
            if wakers == 0 {
                return;
            }
            let which = which % wakers;
            match events.waiting.get(which) {
                Some((_, run, waker)) => (*run, waker.clone()),
                None => events.old[which - events.waiting.len()].clone(),
            }
        };
        self.model().wake(found.0);
        found.1.wake();
    }

    // ---------------------------------------------------------------------------------------- the context

    /// Calls `f` with a handle, if one is left.
    pub(super) fn with_ctx(&self, f: impl FnOnce(&Ctx<World>)) {
        let ctx = lock(&self.0.main).clone();
        if let Some(ctx) = ctx {
            self.model().user();
            f(&ctx);
            drop(Handle {
                ctx,
                world: self.clone(),
                is_user: true,
            });
        }
    }

    pub(super) fn drop_main(&self) {
        let main = lock(&self.0.main).take();
        drop(main.map(|ctx| Handle {
            ctx,
            world: self.clone(),
            is_user: true,
        }));
    }

    pub(super) fn cancel(&self, ctx: &Ctx<World>) {
        self.model().close();
        ctx.cancel();
        if !ctx.is_cancelled() {
            self.model().fault("cancelled, and it does not say so");
        }
    }

    /// Between two steps: whether the context is there.
    pub(super) fn anybody_has_a_handle(&self) -> bool {
        lock(&self.0.main).is_some()
            || !lock(&self.0.stash).is_empty()
            || !lock(&self.0.helds).is_empty()
            || lock(&self.0.roots).iter().any(Option::is_some)
    }

    pub(super) fn clear_stash(&self) {
        let stash = std::mem::take(&mut *lock(&self.0.stash));
        drop(stash);
    }

    /// Reads what was held, and lets go of it.
    pub(super) fn clear_helds(&self) {
        let helds = std::mem::take(&mut *lock(&self.0.helds));
        for (run, sum, held) in &helds {
            if held.seen() != (*run, *sum) {
                self.model().fault("a held value is another");
            }
        }
    }

    /// Calls every waker that is left, and drops it.
    pub(super) fn clear_wakers(&self) {
        let events = std::mem::take(&mut *lock(&self.0.events));
        for (run, waker) in events.due.into_iter().chain(events.old) {
            self.model().wake(run);
            waker.wake();
        }
        for (_, run, waker) in events.waiting {
            self.model().wake(run);
            waker.wake_by_ref();
        }
    }

    pub(super) fn peek(&self, ctx: &Ctx<World>, id: u16) {
        let expected = self.model().peek(id);
        let key = self.key(id, None);
        let got = match task_of(id) {
            0 => ctx.peek(node::<0>, &key),
            1 => ctx.peek(node::<1>, &key),
            2 => ctx.peek(node::<2>, &key),
            _ => ctx.peek(large, &key),
        };
        let run = self.model().in_table(id);
        let right = match (&expected, &got) {
            (None, None) => true,
            (Some(State::Value(sum)), Some(Ok(value))) => {
                Some(value.seen()) == run.map(|run| (run, *sum))
            }
            (Some(State::Failed(failed)), Some(Err(error))) => failed.kind == error.kind(),
            _ => false,
        };
        if !right {
            self.model()
                .fault(format!("peek of {id}: expected {expected:?}, got {got:?}"));
        }
    }

    pub(super) fn forget(&self, ctx: &Ctx<World>, id: u16) {
        let key = self.key(id, None);
        let expected = self.model().forget(id);
        let got = match task_of(id) {
            0 => ctx.forget(node::<0>, &key),
            1 => ctx.forget(node::<1>, &key),
            2 => ctx.forget(node::<2>, &key),
            _ => ctx.forget(large, &key),
        };
        if got != expected {
            self.model()
                .fault(format!("forget of {id}: expected {expected}, got {got}"));
        }
    }

    pub(super) fn prime(&self, ctx: &Ctx<World>, id: u16) {
        let sum = mix(u64::from(id)) ^ 1;
        let (run, expected) = self.model().prime(id, sum);
        let key = self.key(id, None);
        let value = self.value(run, sum);
        let got = match task_of(id) {
            0 => ctx.prime(node::<0>, key, value),
            1 => ctx.prime(node::<1>, key, value),
            2 => ctx.prime(node::<2>, key, value),
            _ => ctx.prime(large, key, value),
        };
        if got.is_ok() != expected {
            self.model()
                .fault(format!("prime of {id}: expected {expected}"));
        }
        if let Err(back) = got
            && back.seen() != (run, sum)
        {
            self.model().fault("prime gives another value back");
        }
    }
}

/// While it is there, the end of the context must set the flag.
struct AwaitsEnd<'w> {
    world: &'w World,
    flag: Arc<Flag>,
}

impl Drop for AwaitsEnd<'_> {
    fn drop(&mut self) {
        self.world.model().awaits_no_more(&self.flag);
    }
}

/// A handle of the context whose end the model knows.
struct Handle {
    ctx: Ctx<World>,
    world: World,
    is_user: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.is_user {
            self.world.model().user_gone();
        }
    }
}

// --------------------------------------------------------------------------------------------- calls

/// A call that tells the model.
pub(super) struct Tracked<'a> {
    id: CallId,
    world: World,
    real: Option<Real<'a>>,
}

enum Real<'a> {
    Run(Run<'a, World, Value>),
    Held(HeldRun<'a, World, Value>),
    Fresh(RunFresh<'a, World, Value>),
}

/// An error, and what the model knows of it.
pub(super) struct Fail {
    error: TaskError,
    known: Failed,
}

impl<'a> Tracked<'a> {
    fn new(ctx: &'a Ctx<World>, world: &World, id: u16, kind: Kind, owner: Option<RunId>) -> Self {
        let private = kind == Kind::Fresh;
        let call = world.model().call(id, private, owner);
        let key = world.key(id, private.then_some(call));
        macro_rules! of {
            ($task:expr) => {
                match kind {
                    Kind::Fresh => Real::Fresh(ctx.run_fresh($task, key)),
                    Kind::Held => Real::Held(ctx.run($task, key).held()),
                    _ => Real::Run(ctx.run($task, key)),
                }
            };
        }
        let real = match task_of(id) {
            0 => of!(node::<0>),
            1 => of!(node::<1>),
            2 => of!(node::<2>),
            _ => of!(large),
        };
        Self {
            id: call,
            world: world.clone(),
            real: Some(real),
        }
    }
}

impl Future for Tracked<'_> {
    type Output = Result<u64, Fail>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.world.model().poll_begin(this.id);
        let mut held = None;
        let polled = match this.real.as_mut().expect("polled after it was ready") {
            Real::Run(run) => Pin::new(run).poll(cx).map_ok(Value::seen),
            Real::Held(run) => Pin::new(run).poll(cx).map_ok(|value| {
                let seen = value.seen();
                held = Some((seen.0, seen.1, value));
                seen
            }),
            Real::Fresh(run) => Pin::new(run).poll(cx).map_ok(|value| value.seen()),
        };
        if polled.is_ready() {
            drop(this.real.take());
        }
        lock(&this.world.0.helds).extend(held);
        let known = this.world.model().poll_end(
            this.id,
            match &polled {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(seen)) => Poll::Ready(Ok(*seen)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            },
        );
        polled.map(|got| match got {
            Ok((_, sum)) => Ok(sum),
            Err(error) => Err(Fail {
                error,
                known: known.expect("the model knows every error"),
            }),
        })
    }
}

impl Drop for Tracked<'_> {
    fn drop(&mut self) {
        self.world.model().leave(self.id);
    }
}

// ---------------------------------------------------------------------------------------------- tasks

/// Which of the tasks a key belongs to.
pub(super) fn task_of(key: u16) -> usize {
    usize::from(key % 4)
}

/// Its name in an error.
pub(super) fn task_name(key: u16) -> &'static str {
    ["node<0>", "node<1>", "node<2>", "large"][task_of(key)]
}

fn node<const TASK: u8>(ctx: Ctx<World>, key: Key) -> Body {
    Body::start(ctx, &key)
}

/// A task whose body does not fit into its slot.
fn large(ctx: Ctx<World>, key: Key) -> Large {
    Large {
        body: Body::start(ctx, &key),
        _room: [0; 40],
    }
}

struct Large {
    body: Body,
    _room: [u64; 40],
}

impl Future for Large {
    type Output = Result<Value, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.body).poll(cx)
    }
}

type Inside = Pin<Box<dyn Future<Output = Result<u64, Fail>> + Send>>;

/// A body that tells the model.
struct Body {
    run: RunId,
    world: World,
    plan: Arc<Plan>,
    inside: Option<Inside>,
    ctx: Ctx<World>,
}

impl Body {
    fn start(ctx: Ctx<World>, key: &Key) -> Self {
        let world = ctx.state().clone();
        let (run, starts, tired) = {
            let mut model = world.model();
            let (run, starts) = model.body_start(key.id, key.private);
            (run, starts, model.runs() > MOST_RUNS)
        };
        let plan = if tired {
            world.model().perturbed = true;
            world.0.program.idle()
        } else {
            world.0.program.plan(key.id)
        };
        if plan.panics_at_start && world.may_panic() {
            world.model().start_panicked(run);
            panics(run);
        }
        Self {
            run,
            inside: Some(Box::pin(inside(
                ctx.clone(),
                world.clone(),
                key.id,
                run,
                starts,
                Arc::clone(&plan),
            ))),
            world,
            plan,
            ctx,
        }
    }
}

/// Panics without the hook's message.
fn panics(run: RunId) -> ! {
    resume_unwind(Box::new(format!("run {run}")))
}

impl Future for Body {
    type Output = Result<Value, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.world.model().body_poll_begin(this.run);
        let Some(future) = &mut this.inside else {
            this.world.model().nested -= 1;
            this.world.model().fault("a body is polled that has ended");
            return Poll::Pending;
        };
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        this.world.model().nested -= 1;
        match polled {
            Err(payload) => {
                let planned = format!("run {}", this.run);
                let message = payload.downcast_ref::<String>();
                if message != Some(&planned) {
                    this.world
                        .model()
                        .fault(format!("a panic that no task made: {message:?}"));
                }
                this.inside = None;
                this.world.model().body_panicked(this.run);
                resume_unwind(payload);
            }
            Ok(Poll::Pending) => {
                this.world.model().body_poll_pending(this.run);
                Poll::Pending
            }
            Ok(Poll::Ready(result)) => {
                this.inside = None;
                Poll::Ready(match result {
                    Ok(sum) => {
                        this.world.model().body_ends(this.run, Ok(sum));
                        Ok(this.world.value(this.run, sum))
                    }
                    Err(Fail { error, known }) => {
                        this.world.model().body_ends(this.run, Err(known));
                        Err(error)
                    }
                })
            }
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let may_call = self.world.model().enter_destructor();
        match self.plan.on_drop {
            OnDrop::Calls(key) if may_call => {
                let mut call = Tracked::new(&self.ctx, &self.world, key, Kind::Run, Some(self.run));
                let _ = Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop()));
            }
            OnDrop::PollsRoots if may_call => self.world.poll_roots(),
            _ => {}
        }
        self.world.model().leave_destructor();
        drop(self.inside.take());
        let panics_now = self.plan.on_drop == OnDrop::Panics && self.world.may_panic();
        self.world.model().body_dropped(self.run, panics_now);
        if panics_now {
            panics(self.run);
        }
    }
}

/// Any function of a sum whose results do not add up by chance.
pub(super) fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n ^ (n >> 27)
}

/// What a failure that is caught adds.
pub(super) const CAUGHT: u64 = 0xc0de;

async fn inside(
    ctx: Ctx<World>,
    world: World,
    key: u16,
    run: RunId,
    starts: usize,
    plan: Arc<Plan>,
) -> Result<u64, Fail> {
    let ctx = &ctx;
    let world = &world;
    let call = |key: u16| Tracked::new(ctx, world, key, Kind::Run, Some(run));
    let mut sum = mix(u64::from(key));
    let mut kept = Vec::new();
    let mut fold = |got: Result<u64, Fail>, catch: bool| -> Result<(), Fail> {
        match got {
            Ok(its) => sum = sum.wrapping_add(mix(its)),
            Err(_) if catch => sum = sum.wrapping_add(mix(CAUGHT)),
            Err(fail) => return Err(fail),
        }
        Ok(())
    };
    for step in &plan.steps {
        match step {
            Step::Event(event) => wait_for(world, *event, run).await,
            Step::Yield { times, by_clone } => {
                for _ in 0..*times {
                    let mut yielded = false;
                    poll_fn(|cx| {
                        if yielded {
                            return Poll::Ready(());
                        }
                        yielded = true;
                        world.model().wake(run);
                        wake(cx, *by_clone);
                        Poll::Pending
                    })
                    .await;
                }
            }
            Step::Call { key, fresh, catch } => {
                let got = if *fresh {
                    Tracked::new(ctx, world, *key, Kind::Fresh, Some(run)).await
                } else {
                    call(*key).await
                };
                fold(got, *catch)?;
            }
            Step::Join {
                keys,
                own_wakers,
                early,
                catch,
            } => {
                let calls = keys.iter().map(|key| call(*key)).collect();
                for got in join(world, calls, *own_wakers, *early).await {
                    fold(got, *catch)?;
                }
            }
            Step::Race { keys } => {
                let mut calls: Vec<_> = keys.iter().map(|key| call(*key)).collect();
                if !calls.is_empty() {
                    let first = poll_fn(|cx| {
                        for call in &mut calls {
                            if let Poll::Ready(got) = Pin::new(call).poll(cx) {
                                return Poll::Ready(got);
                            }
                        }
                        Poll::Pending
                    })
                    .await;
                    fold(first, true)?;
                }
            }
            Step::Keep(key) => {
                let mut call = call(*key);
                match poll_once(&mut call).await {
                    Poll::Ready(got) => fold(got, true)?,
                    Poll::Pending => kept.push(call),
                }
            }
            Step::PollAndDrop(key) => {
                let _ = poll_once(call(*key)).await;
            }
            Step::Peek(key) => world.peek(ctx, *key),
            Step::Forget(key) => world.forget(ctx, *key),
            Step::Prime(key) => world.prime(ctx, *key),
            Step::Stash => lock(&world.0.stash).push((run, ctx.clone())),
            Step::WakeSelf => {
                poll_fn(|cx| {
                    world.model().wake(run);
                    wake(cx, run.is_multiple_of(2));
                    Poll::Ready(())
                })
                .await;
            }
            Step::MarkTransient => {
                if starts == 1 {
                    world.model().mark_transient(run);
                    ctx.transient(());
                }
            }
            Step::PollRoot(at) if *at >= 200 => world.poll_roots(),
            Step::PollRoot(at) => world.poll_root(usize::from(*at) % MOST_ROOTS, *at > 100),
            Step::DropRoot(at) => world.drop_root(usize::from(*at) % MOST_ROOTS),
            Step::Cancel => world.cancel(ctx),
            Step::DropMain => world.drop_main(),
        }
    }
    for call in kept {
        fold(call.await, true)?;
    }
    let fail = || Fail {
        error: world.failure(run),
        known: own_failure(run),
    };
    let transient = |fail: Fail| {
        world.model().mark_transient(run);
        Fail {
            error: ctx.transient(fail.error),
            known: fail.known,
        }
    };
    match plan.end {
        End::Value => Ok(sum),
        End::Fails => Err(fail()),
        End::FailsTransiently => Err(transient(fail())),
        End::FailsUntil(times) if starts < times => Err(transient(fail())),
        End::FailsUntil(_) => Ok(sum),
        End::Panics if world.may_panic() => panics(run),
        End::Panics => Ok(sum),
    }
}

fn wake(cx: &Context<'_>, by_clone: bool) {
    if by_clone {
        let waker = cx.waker().clone();
        waker.wake();
    } else {
        cx.waker().wake_by_ref();
    }
}

/// Is pending once, and wakes nobody.
async fn pause() {
    let mut paused = false;
    poll_fn(|_| {
        if std::mem::replace(&mut paused, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

async fn wait_for(world: &World, event: usize, run: RunId) {
    poll_fn(|cx| {
        let waker = cx.waker().clone();
        let mut events = lock(&world.0.events);
        if events.fired[event] {
            drop(events);
            return Poll::Ready(());
        }
        let place = events
            .waiting
            .iter_mut()
            .find(|(its, by, _)| (*its, *by) == (event, run));
        let old = match place {
            Some((.., old)) => Some(std::mem::replace(old, waker)),
            None => {
                events.waiting.push((event, run, waker));
                None
            }
        };
        drop(events);
        drop(old);
        Poll::Pending
    })
    .await;
}

/// Waits for all calls, or for the first error. With wakers of their own only those calls are polled that were woken.
async fn join(
    world: &World,
    calls: Vec<Tracked<'_>>,
    own_wakers: bool,
    early: bool,
) -> Vec<Result<u64, Fail>> {
    let mut results: Vec<Option<Result<u64, Fail>>> = calls.iter().map(|_| None).collect();
    let mut calls: Vec<_> = calls
        .into_iter()
        .map(|call| {
            let flag = Arc::new(Flag::default());
            flag.set();
            if own_wakers {
                world.model().watch(call.id, &flag);
            }
            Some((call, flag))
        })
        .collect();
    poll_fn(|cx| {
        let mut pending = false;
        for (place, result) in calls.iter_mut().zip(&mut results) {
            let Some((call, flag)) = place else { continue };
            let polled = if !own_wakers {
                Pin::new(call).poll(cx)
            } else if flag.is_set() {
                flag.clear();
                *lock(&flag.parent) = Some(cx.waker().clone());
                let waker = Waker::from(Arc::clone(flag));
                Pin::new(call).poll(&mut Context::from_waker(&waker))
            } else {
                Poll::Pending
            };
            match polled {
                Poll::Pending => pending = true,
                Poll::Ready(got) => {
                    *place = None;
                    if early && got.is_err() {
                        *result = Some(got);
                        return Poll::Ready(());
                    }
                    *result = Some(got);
                }
            }
        }
        if pending {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    results.into_iter().flatten().collect()
}
