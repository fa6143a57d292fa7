//! Random operations on one context against a plain sequential model of it.
//!
//! `cargo +nightly fuzz run table` in the directory of the workspace.
//!
//! Two tasks of the same types share one body; what a run of it does (how often it yields, how many
//! events it waits for, how it ends) is part of the operation that starts it. Callers are polled by
//! hand and may be kept, polled or not, while anything else happens. After each operation the
//! result, the runs started, the bodies alive and the wakes are what the model says; at the end every
//! body, value, error and key has been dropped (once: the address sanitizer watches).
//!
//! All keys hash to one of two values, so nearly every path through the table is a collision.
//!
//! The model is one thread's: what several threads do to a slot is the loom models' question. A
//! body cannot panic here, since libFuzzer ends the process at the first panic.
#![no_main]

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use watershed::{Ctx, Held, HeldRun, Run, TaskError, TaskErrorKind};

const KEYS: u8 = 8;
const MOST_OPERATIONS: usize = 300;

// ---------------------------------------------------------------------------------- the operations

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Operation {
    /// Makes a caller. `polls` of 0 keeps it unpolled.
    Call {
        at: At,
        plan: Plan,
        polls: u8,
        held: bool,
    },
    /// Polls a caller that was kept.
    Poll {
        caller: u8,
        plan: Plan,
    },
    /// Drops a caller that was kept.
    Drop {
        caller: u8,
    },
    /// One more event for the body of a run, over or not.
    Fire {
        run: u8,
    },
    /// Wakes a body for nothing.
    Wake {
        run: u8,
    },
    Peek {
        at: At,
    },
    Prime {
        at: At,
    },
    Forget {
        at: At,
    },
    Cancel,
}

/// Which task, which input.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct At {
    right: bool,
    key: u8,
}

/// What a run does if the operation starts one.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Plan {
    yields: u8,
    events: u8,
    end: End,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Value,
    Failure,
    Transient,
}

impl Plan {
    /// Mostly short ones.
    fn yields(self) -> u8 {
        self.yields % 3
    }

    fn events(self) -> u8 {
        self.events % 3
    }
}

// ------------------------------------------------------------------------ inputs, values and errors

/// The two hashes there are.
#[derive(Clone, Debug)]
struct Key {
    id: u8,
    alive: Arc<()>,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(self.id % 2);
    }
}

/// A value that knows where it is from and that is counted.
#[derive(Debug)]
struct Value {
    id: usize,
    /// Read through a pointer of its own: a second drop or a late read is seen by the sanitizer.
    again: Box<usize>,
    _alive: Arc<()>,
}

impl Value {
    fn id(&self) -> usize {
        assert_eq!(self.id, *self.again);
        self.id
    }
}

#[derive(Debug)]
struct Failure {
    run: usize,
    _alive: Arc<()>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {} failed", self.run)
    }
}

impl std::error::Error for Failure {}

// ----------------------------------------------------------------------------------- the real world

/// The state of the context, and what its bodies tell the model.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    plan: Option<Plan>,
    runs: Vec<RunLog>,
    values: Arc<()>,
    failures: Arc<()>,
}

/// What a body has done so far. Outlives it, and so does its waker.
struct RunLog {
    plan: Plan,
    yielded: u8,
    fired: u8,
    polls: usize,
    woken: bool,
    /// It woke itself in its last poll.
    woke_itself: bool,
    waker: Option<Waker>,
    body_alive: bool,
}

impl World {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }

    fn value(&self, id: usize) -> Value {
        Value {
            id,
            again: Box::new(id),
            _alive: Arc::clone(&self.log().values),
        }
    }

    /// Wakes a body with the waker that it was polled with last.
    fn wake(&self, run: usize) {
        let waker = {
            let log = &mut self.log().runs[run];
            log.woken = true;
            log.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Says when a body is gone, whichever way it went.
struct Body {
    world: World,
    run: usize,
}

impl Drop for Body {
    fn drop(&mut self) {
        self.world.log().runs[self.run].body_alive = false;
    }
}

async fn left(ctx: Ctx<World>, key: Key) -> Result<Value, Failure> {
    body(ctx, key).await
}

async fn right(ctx: Ctx<World>, key: Key) -> Result<Value, Failure> {
    body(ctx, key).await
}

async fn body(ctx: Ctx<World>, key: Key) -> Result<Value, Failure> {
    let world = ctx.state().clone();
    let (run, plan) = {
        let mut log = world.log();
        let plan = log.plan.take().expect("this operation starts no run");
        log.runs.push(RunLog {
            plan,
            yielded: 0,
            fired: 0,
            polls: 0,
            woken: false,
            woke_itself: false,
            waker: None,
            body_alive: true,
        });
        (log.runs.len() - 1, plan)
    };
    let _body = Body {
        world: world.clone(),
        run,
    };
    let failures = Arc::clone(&world.log().failures);

    poll_fn(|cx| {
        let mut log = world.log();
        let log = &mut log.runs[run];
        log.polls += 1;
        log.woken = false;
        log.woke_itself = false;
        log.waker = Some(cx.waker().clone());
        if log.yielded < plan.yields() {
            log.yielded += 1;
            log.woken = true;
            log.woke_itself = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if log.fired < plan.events() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;

    assert!(Arc::strong_count(&key.alive) > 1);
    match plan.end {
        End::Value => Ok(world.value(run)),
        End::Failure => Err(Failure {
            run,
            _alive: failures,
        }),
        End::Transient => Err(ctx.transient(Failure {
            run,
            _alive: failures,
        })),
    }
}

/// A waker that remembers that it was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

enum Future<'a> {
    Borrowed(Run<'a, World, Value>),
    Owned(HeldRun<'a, World, Value>),
}

enum Got<'a> {
    Borrowed(&'a Value),
    Owned(Held<Value>),
}

impl Got<'_> {
    fn id(&self) -> usize {
        match self {
            Self::Borrowed(value) => value.id(),
            Self::Owned(value) => value.id(),
        }
    }
}

/// A call that was made and is not over.
struct Caller<'a> {
    future: Future<'a>,
    at: (bool, u8),
    /// The value that was there when the call was made: it is taken then, whatever is forgotten later.
    taken: Option<usize>,
    /// The run that its first poll joined or started.
    run: Option<usize>,
    waker: Arc<Flag>,
}

impl<'a> Caller<'a> {
    fn poll(&mut self) -> Poll<Result<Got<'a>, TaskError>> {
        self.waker.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.waker));
        let mut cx = Context::from_waker(&waker);
        match &mut self.future {
            Future::Borrowed(run) => Pin::new(run)
                .poll(&mut cx)
                .map(|done| done.map(Got::Borrowed)),
            Future::Owned(run) => Pin::new(run).poll(&mut cx).map(|done| done.map(Got::Owned)),
        }
    }

    fn woken(&self) -> bool {
        self.waker.0.load(Ordering::Relaxed)
    }
}

// ---------------------------------------------------------------------------------------- the model

/// What is stored for a task and a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Running(usize),
    Value(usize),
    Failure(usize),
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unfinished,
    Value,
    Failure,
    /// The last caller left, or the context was cancelled.
    Gone,
}

/// What a caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Pending,
    Value(usize),
    Failure(usize),
    Cancelled,
}

#[derive(Default)]
struct Model {
    table: HashMap<(bool, u8), Entry>,
    runs: Vec<ModelRun>,
    cancelled: bool,
    values: usize,
}

struct ModelRun {
    at: (bool, u8),
    state: State,
    callers: usize,
    /// Forgotten: it finishes for its own callers and is not stored.
    forgotten: bool,
}

impl Model {
    /// A poll of a caller; `log` is how the bodies stood before it.
    fn poll(
        &mut self,
        at: (bool, u8),
        joined: &mut Option<usize>,
        plan: Plan,
        log: &Log,
    ) -> Outcome {
        let (run, first_poll) = match *joined {
            Some(run) => (run, false),
            None => match self.table.get(&at) {
                Some(&Entry::Value(id)) => return Outcome::Value(id),
                Some(&Entry::Failure(run)) => return Outcome::Failure(run),
                Some(&Entry::Running(run)) => {
                    self.runs[run].callers += 1;
                    *joined = Some(run);
                    if log.runs[run].woke_itself && !self.cancelled {
                        // Who joins a body that woke itself leaves it to the next turn.
                        return Outcome::Pending;
                    }
                    (run, false)
                }
                None if self.cancelled => return Outcome::Cancelled,
                None => {
                    let run = self.runs.len();
                    self.runs.push(ModelRun {
                        at,
                        state: State::Unfinished,
                        callers: 1,
                        forgotten: false,
                    });
                    self.table.insert(at, Entry::Running(run));
                    *joined = Some(run);
                    (run, true)
                }
            },
        };
        match self.runs[run].state {
            State::Value => return Outcome::Value(run),
            State::Failure => return Outcome::Failure(run),
            State::Gone => {
                assert!(self.cancelled, "a run is gone that has a caller");
                return Outcome::Cancelled;
            }
            State::Unfinished => {}
        }

        // The body is polled if it was woken, and finishes if it has nothing to wait for.
        let (plan, yielded, fired) = if first_poll {
            (plan, 0, 0)
        } else {
            let log = &log.runs[run];
            if !log.woken {
                return Outcome::Pending;
            }
            (log.plan, log.yielded, log.fired)
        };
        if yielded < plan.yields() || fired < plan.events() {
            return Outcome::Pending;
        }
        let entry = match plan.end {
            End::Value => {
                self.values += 1;
                self.runs[run].state = State::Value;
                Some(Entry::Value(run))
            }
            End::Failure | End::Transient => {
                self.runs[run].state = State::Failure;
                (plan.end == End::Failure).then_some(Entry::Failure(run))
            }
        };
        if !self.runs[run].forgotten {
            match entry {
                Some(entry) => self.table.insert(at, entry),
                None => self.table.remove(&at),
            };
        }
        match self.runs[run].state {
            State::Value => Outcome::Value(run),
            _ => Outcome::Failure(run),
        }
    }

    /// A caller goes that had joined a run.
    fn leave(&mut self, run: usize) {
        let run = &mut self.runs[run];
        run.callers -= 1;
        if run.callers == 0 && run.state == State::Unfinished {
            run.state = State::Gone;
            if !run.forgotten {
                self.table.remove(&run.at);
            }
        }
    }

    fn forget(&mut self, at: (bool, u8)) -> bool {
        match self.table.remove(&at) {
            Some(Entry::Running(run)) => {
                self.runs[run].forgotten = true;
                true
            }
            entry => entry.is_some(),
        }
    }

    fn cancel(&mut self) {
        self.cancelled = true;
        self.table
            .retain(|_, entry| !matches!(entry, Entry::Running(_)));
        for run in &mut self.runs {
            if run.state == State::Unfinished {
                run.state = State::Gone;
            }
        }
    }

    fn unfinished(&self, run: usize) -> bool {
        self.runs[run].state == State::Unfinished
    }
}

fn outcome(got: &Poll<Result<Got<'_>, TaskError>>) -> Outcome {
    match got {
        Poll::Pending => Outcome::Pending,
        Poll::Ready(Ok(value)) => Outcome::Value(value.id()),
        Poll::Ready(Err(error)) => failure(error),
    }
}

fn failure(error: &TaskError) -> Outcome {
    match error.kind() {
        TaskErrorKind::Failed => {
            let failure = error.downcast_ref::<Failure>().expect("the cause is kept");
            Outcome::Failure(failure.run)
        }
        TaskErrorKind::Cancelled => Outcome::Cancelled,
        other => panic!("no run here ends as {other:?}: {error}"),
    }
}

// ------------------------------------------------------------------------------------- one execution

/// One context, its callers and the model, side by side.
struct Play<'a> {
    ctx: &'a Ctx<World>,
    world: World,
    keys: Arc<()>,
    model: Model,
    callers: Vec<Caller<'a>>,
    /// Values as callers got them: read again at the end.
    got: Vec<(usize, Got<'a>)>,
    primed: usize,
}

impl<'a> Play<'a> {
    fn key(&self, at: At) -> ((bool, u8), Key) {
        let id = at.key % KEYS;
        (
            (at.right, id),
            Key {
                id,
                alive: Arc::clone(&self.keys),
            },
        )
    }

    fn step(&mut self, operation: Operation) {
        let ctx = self.ctx;
        match operation {
            Operation::Call {
                at,
                plan,
                polls,
                held,
            } => {
                let (at, key) = self.key(at);
                let run = if at.0 {
                    ctx.run(right, key)
                } else {
                    ctx.run(left, key)
                };
                let future = if held {
                    Future::Owned(run.held())
                } else {
                    Future::Borrowed(run)
                };
                let taken = match self.model.table.get(&at) {
                    Some(&Entry::Value(id)) => Some(id),
                    _ => None,
                };
                self.callers.push(Caller {
                    future,
                    at,
                    taken,
                    run: None,
                    waker: Arc::default(),
                });
                for _ in 0..polls % 3 {
                    if self.poll(self.callers.len() - 1, plan) {
                        break;
                    }
                }
            }
            Operation::Poll { caller, plan } => {
                if !self.callers.is_empty() {
                    self.poll(usize::from(caller) % self.callers.len(), plan);
                }
            }
            Operation::Drop { caller } => {
                if !self.callers.is_empty() {
                    let caller = self
                        .callers
                        .swap_remove(usize::from(caller) % self.callers.len());
                    let run = caller.run;
                    drop(caller);
                    if let Some(run) = run {
                        self.model.leave(run);
                    }
                }
            }
            Operation::Fire { run } | Operation::Wake { run } => {
                let runs = self.model.runs.len();
                if runs > 0 {
                    let run = usize::from(run) % runs;
                    if matches!(operation, Operation::Fire { .. }) {
                        let log = &mut self.world.log().runs[run];
                        log.fired = log.fired.saturating_add(1);
                    }
                    self.world.wake(run);
                }
            }
            Operation::Peek { at } => {
                let (at, key) = self.key(at);
                let there = if at.0 {
                    ctx.peek(right, &key)
                } else {
                    ctx.peek(left, &key)
                };
                let there = there.map(|done| match done {
                    Ok(value) => Entry::Value(value.id()),
                    Err(error) => match failure(&error) {
                        Outcome::Failure(run) => Entry::Failure(run),
                        other => panic!("peek shows {other:?}"),
                    },
                });
                let stored = self.model.table.get(&at).copied();
                let expected = stored.filter(|entry| !matches!(entry, Entry::Running(_)));
                assert_eq!(there, expected, "peek");
            }
            Operation::Prime { at } => {
                let (at, key) = self.key(at);
                // Ids of primed values are from the top, those of runs from the bottom.
                let id = usize::MAX - self.primed;
                self.primed += 1;
                let value = self.world.value(id);
                let done = if at.0 {
                    ctx.prime(right, key, value)
                } else {
                    ctx.prime(left, key, value)
                };
                match done {
                    Ok(()) => {
                        let old = self.model.table.insert(at, Entry::Value(id));
                        assert_eq!(old, None, "primed over what was there");
                        self.model.values += 1;
                    }
                    Err(back) => {
                        assert_eq!(back.id(), id, "prime gives another value back");
                        // Into a cancelled context it may be refused or not.
                        assert!(
                            self.model.table.contains_key(&at) || self.model.cancelled,
                            "prime refused for nothing"
                        );
                    }
                }
            }
            Operation::Forget { at } => {
                let (at, key) = self.key(at);
                let done = if at.0 {
                    ctx.forget(right, &key)
                } else {
                    ctx.forget(left, &key)
                };
                assert_eq!(done, self.model.forget(at), "forget");
            }
            Operation::Cancel => {
                ctx.cancel();
                assert!(ctx.is_cancelled());
                if !self.model.cancelled {
                    for caller in &self.callers {
                        if caller.run.is_some_and(|run| self.model.unfinished(run)) {
                            assert!(caller.woken(), "a caller sleeps in a cancelled context");
                        }
                    }
                }
                self.model.cancel();
            }
        }
        self.check();
    }

    /// Polls a caller; true if it is over.
    fn poll(&mut self, index: usize, plan: Plan) -> bool {
        let caller = &mut self.callers[index];
        let before = {
            let mut log = self.world.log();
            log.plan = Some(plan);
            caller
                .run
                .map(|run| (log.runs[run].polls, log.runs[run].woken))
        };
        let was_unfinished = caller.run.is_some_and(|run| self.model.unfinished(run));
        let expected = match caller.taken {
            Some(id) => Outcome::Value(id),
            None => {
                let log = self.world.log();
                self.model.poll(caller.at, &mut caller.run, plan, &log)
            }
        };
        let got = caller.poll();
        assert_eq!(outcome(&got), expected, "{:?} polled", caller.at);
        self.world.log().plan = None;

        if let (Some((polls, true)), Some(run), true) = (before, caller.run, was_unfinished) {
            let after = self.world.log().runs[run].polls;
            assert!(
                after > polls,
                "a caller was polled, the body was woken and was not polled"
            );
        }
        if got.is_pending() {
            return false;
        }
        let caller = self.callers.swap_remove(index);
        if let Some(run) = caller.run {
            self.model.leave(run);
        }
        drop(caller);
        if let (Outcome::Value(id), Poll::Ready(Ok(value))) = (expected, got) {
            self.got.push((id, value));
        }
        true
    }

    /// What holds between two operations.
    fn check(&self) {
        let log = self.world.log();
        assert_eq!(log.runs.len(), self.model.runs.len(), "runs started");
        for (run, (real, model)) in log.runs.iter().zip(&self.model.runs).enumerate() {
            assert_eq!(
                real.body_alive,
                model.state == State::Unfinished,
                "the body of run {run} which is {:?}",
                model.state
            );
        }
        assert_eq!(
            Arc::strong_count(&log.values) - 1,
            self.model.values,
            "values alive"
        );
        for caller in &self.callers {
            let Some(run) = caller.run else { continue };
            let due = match self.model.runs[run].state {
                State::Unfinished => log.runs[run].woken,
                _ => true,
            };
            assert!(
                !due || caller.woken(),
                "a caller sleeps through what run {run} did"
            );
        }
    }
}

/// Plays it all; what is returned outlives the context.
fn play(
    ctx: &Ctx<World>,
    world: &World,
    keys: &Arc<()>,
    operations: Vec<Operation>,
) -> Vec<(usize, Held<Value>)> {
    let mut play = Play {
        ctx,
        world: world.clone(),
        keys: Arc::clone(keys),
        model: Model::default(),
        callers: Vec::new(),
        got: Vec::new(),
        primed: 0,
    };
    for operation in operations.into_iter().take(MOST_OPERATIONS) {
        play.step(operation);
    }

    // Those who wait go first: the last caller of a run takes its body along.
    play.callers.clear();
    let bodies = world.log().runs.iter().filter(|run| run.body_alive).count();
    assert_eq!(bodies, 0, "a body outlives its callers");

    // A borrow lasts as long as the context, an owned value longer.
    let mut owned = Vec::new();
    for (id, value) in play.got {
        assert_eq!(value.id(), id);
        if let Got::Owned(value) = value {
            owned.push((id, value));
        }
    }
    owned
}

fuzz_target!(|operations: Vec<Operation>| {
    let world = World::default();
    let keys = Arc::new(());
    let ctx = Ctx::new(world.clone());
    let owned = play(&ctx, &world, &keys, operations);
    drop(ctx);
    for (id, value) in owned {
        assert_eq!(value.id(), id);
    }

    // The context is gone. A late wake finds nothing to do harm to.
    let runs = world.log().runs.len();
    for run in 0..runs {
        world.wake(run);
    }
    let log = std::mem::take(&mut *world.log());
    assert_eq!(Arc::strong_count(&log.values), 1, "a value was not dropped");
    assert_eq!(
        Arc::strong_count(&log.failures),
        1,
        "an error was not dropped"
    );
    assert_eq!(Arc::strong_count(&keys), 1, "a key was not dropped");
    assert_eq!(
        Arc::strong_count(&world.0),
        1,
        "the state of the context was not dropped"
    );
});
