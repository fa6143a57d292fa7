//! Observing a context: an [`Observer`] is told of each run and call, as it happens.
//!
//! Metrics and logs are built on it, and so is the record behind [`Ctx::report`](crate::Ctx::report). Set one with
//! [`Builder::observer`](crate::Builder::observer); for spans see the feature `tracing` and `Builder::tracing`.
//!
//! | told | when | before |
//! |---|---|---|
//! | [`Start`] | the slot is claimed for a run | the body is made |
//! | [`Finish`] | the body has ended, with a value, an error or a panic | anybody has the outcome |
//! | [`Cancel`] | the body was dropped unfinished | anybody can start it again |
//! | [`Join`] | a call that did not start the run is over: a hit, a wait, or it was dropped | it gives its outcome |

// What it owns: the events, who is told (`Watch`), and what is known of the latest run of each slot (`Cell`, at the slot's hub, so that slots are no
// larger; it is used again when the slot is).
//
// Where it hooks in: `start` and `finish` hold POLLING (S1, before S7), `cancel` DROPPING or POLLING (S6, S9, S11, before S10), `over` nothing.
//
// What it costs a context without observers: a hit nothing, since the slots of an observed context carry a flag in their word (OBSERVED) which
// the one test of a hit refuses with the same mask as ever, so that a hit there takes the way of any other call. Start, poll and end of a
// run test one byte of the context each.
//
// What it must never do: call an observer or a subscriber (user code) with a lock held, or let a panic of one through.

use std::any::TypeId;
use std::collections::HashMap;
use std::fmt;
#[cfg(feature = "tracing")]
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::context::{Builder, CorePtr};
use crate::error::{TaskError, TaskErrorKind};
use crate::report::Recorder;
use crate::slot::{self, SlotPtr, type_id};
use crate::stack;
use crate::task::{Input, Task};
#[cfg(feature = "tracing")]
use crate::trace;

/// Is told what happens to the runs and calls of a context. Set with [`Builder::observer`].
///
/// Every method has an empty body, so write those that you need. One observer may serve any number of contexts: give each an
/// `Arc` of it.
///
/// For each run, `on_start` is called once, and then once either `on_finish` or `on_cancel`. For each call that did not start
/// the run itself, `on_join` is called once, when it is over.
///
/// # Concurrency
/// Called by whichever thread does the thing, so from several at once. No lock of the engine is held. An observer may use the
/// context (through a handle that it gets elsewhere; one that it keeps would keep the context, which keeps the observer): look with
/// [`peek`](crate::Ctx::peek), call other tasks. It must not *wait* for the run that it is told of: the run goes on when the observer returns.
///
/// `on_finish` comes before anybody has the outcome. So who has awaited a call finds it counted.
///
/// # Panics
/// A panic in an observer ends there (the panic hook has shown it): the run, the caller and the other observers see nothing of it.
///
/// # Cost
/// In a context without observers, a hit costs nothing more and a run two tests of a byte. With any, a hit takes the way of a call that
/// waits (some 320 instructions more), each run makes two small allocations more, and each poll of a body reads the clock twice: a
/// request of some ten runs that wait for nothing takes about three times as long, and five times with a
/// [record](Builder::record), which is one or two microseconds a run. The events are built on the stack.
///
/// # Examples
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use watershed::observe::{Finish, Join, Observer};
/// use watershed::Ctx;
///
/// #[derive(Default)]
/// struct Count { runs: AtomicU64, hits: AtomicU64 }
/// impl Observer for Count {
///     fn on_finish(&self, _: &Finish<'_>) { self.runs.fetch_add(1, Relaxed); }
///     fn on_join(&self, call: &Join<'_>) { self.hits.fetch_add(u64::from(call.is_hit()), Relaxed); }
/// }
///
/// async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> { Ok(n * 2) }
///
/// let count = Arc::new(Count::default());
/// let ctx = Ctx::builder(()).observer(count.clone()).build();
/// ctx.run(double, 1).wait().unwrap();
/// ctx.run(double, 1).wait().unwrap();
/// assert_eq!((count.runs.load(Relaxed), count.hits.load(Relaxed)), (1, 1));
/// ```
pub trait Observer: Send + Sync + 'static {
    /// A run starts: its body is about to be made.
    fn on_start(&self, start: &Start<'_>) {
        let _ = start;
    }
    /// A call that did not start its run is over: it found the outcome there, waited for it, or was dropped before.
    fn on_join(&self, join: &Join<'_>) {
        let _ = join;
    }
    /// A run ended with a value, an error or a panic.
    fn on_finish(&self, finish: &Finish<'_>) {
        let _ = finish;
    }
    /// A run was dropped unfinished: its last caller left, or the context was closed.
    fn on_cancel(&self, cancel: &Cancel<'_>) {
        let _ = cancel;
    }
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn on_start(&self, start: &Start<'_>) {
        (**self).on_start(start);
    }
    fn on_join(&self, join: &Join<'_>) {
        (**self).on_join(join);
    }
    fn on_finish(&self, finish: &Finish<'_>) {
        (**self).on_finish(finish);
    }
    fn on_cancel(&self, cancel: &Cancel<'_>) {
        (**self).on_cancel(cancel);
    }
}

/// The number of a run in its context: 1, 2, .. in the order of their starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(u64);

impl RunId {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    fn of(id: u64) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One run, as the events name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunInfo {
    /// Its number in the context.
    pub id: RunId,
    /// The full type name of the task.
    pub task: &'static str,
    /// The run whose body started it; none if it was started from outside.
    pub parent: Option<RunId>,
    /// How many runs are above it.
    pub depth: usize,
    /// If it is a call of a batch function: for how many keys. (Each of those has a run of its own, of the same name, which waits for this one.)
    pub keys: Option<usize>,
}

/// A run starts; see [`Observer::on_start`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Start<'a> {
    /// Which run.
    pub run: RunInfo,
    /// When, counted from the making of the context. (By the clock of the machine: `std`'s, also where tokio's is paused.)
    pub at: Duration,
    /// The input, if the task's are shown ([`Builder::record_input`]); the number of keys, if it is a call of a batch function.
    pub input: Option<&'a dyn fmt::Debug>,
}

/// A run ended; see [`Observer::on_finish`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Finish<'a> {
    /// Which run.
    pub run: RunInfo,
    /// When, counted from the making of the context.
    pub at: Duration,
    /// The time since its start.
    pub elapsed: Duration,
    /// The part of it in which its body was being polled, without the polls of other bodies inside of those. The rest it waited.
    pub ran: Duration,
    /// The error that its callers get; none if there is a value.
    pub error: Option<&'a TaskError>,
}

impl Finish<'_> {
    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        match self.error {
            None => Outcome::Done,
            Some(error) => Outcome::Failed(error.kind()),
        }
    }
}

/// A run was dropped unfinished; see [`Observer::on_cancel`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Cancel<'a> {
    /// Which run.
    pub run: RunInfo,
    /// When, counted from the making of the context.
    pub at: Duration,
    /// The time since its start.
    pub elapsed: Duration,
    /// As in [`Finish::ran`].
    pub ran: Duration,
    /// The context was closed. Otherwise the last caller has left.
    pub context_closed: bool,
    phantom: std::marker::PhantomData<&'a ()>,
}

impl Cancel<'_> {
    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        if self.context_closed {
            Outcome::Closed
        } else {
            Outcome::Left
        }
    }
}

/// A call that did not start its run is over; see [`Observer::on_join`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Join<'a> {
    /// The run that it shared; none if it left before there was one. (A value that was put in by [`prime`](crate::Ctx::prime) has
    /// a number too, of which no start was told.)
    pub run: Option<RunId>,
    /// The full type name of the task.
    pub task: &'static str,
    /// The run whose body called; none for a call from outside.
    pub caller: Option<RunId>,
    /// What came of it.
    pub how: How,
    /// When it ended, counted from the making of the context; none for a hit, which does not look at the clock.
    pub at: Option<Duration>,
    /// How long it waited; nothing for a hit. (Told in steps of 64 ns.)
    pub waited: Duration,
    phantom: std::marker::PhantomData<&'a ()>,
}

impl Join<'_> {
    /// The outcome was there already.
    pub fn is_hit(&self) -> bool {
        self.how == How::Hit
    }
}

/// What came of a call that did not start its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum How {
    /// The outcome was there already.
    Hit,
    /// It waited for a run that somebody else had started, until that ended.
    Waited,
    /// It was dropped, or ended by the end of the context, before the run ended.
    Left,
}

/// How a run ended, if it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It has not ended.
    Running,
    /// There is a value.
    Done,
    /// There is an error of this kind.
    Failed(TaskErrorKind),
    /// Its last caller left, and it was dropped.
    Left,
    /// The context was closed, and it was dropped.
    Closed,
    /// Nothing ran: the value was put in by [`prime`](crate::Ctx::prime).
    Primed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed(TaskErrorKind::Panicked) => "panicked",
            Self::Failed(TaskErrorKind::Cycle) => "cycle",
            Self::Failed(TaskErrorKind::TooDeep) => "too deep",
            Self::Failed(TaskErrorKind::Cancelled) => "failed: cancelled",
            Self::Failed(TaskErrorKind::DeadlineExceeded) => "failed: deadline",
            Self::Failed(TaskErrorKind::NoRuntime) => "failed: no runtime",
            Self::Failed(_) => "failed",
            Self::Left => "left",
            Self::Closed => "cancelled",
            Self::Primed => "primed",
        })
    }
}

impl<S: Send + Sync + 'static> Builder<S> {
    /// Tells `observer` of the runs and calls of this context; see [`Observer`]. May be called several times: they are told in that order.
    ///
    /// # Cost
    /// See [`Observer`], which has an example too.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.options.watch.observers.push(Box::new(observer));
        self
    }

    /// Keeps a record of the context, for [`Ctx::report`](crate::Ctx::report).
    ///
    /// # Cost
    /// As an [`Observer`], and a lock and some 150 bytes for each run. The record is bounded: see [`Report`](crate::report::Report).
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn user(_: Ctx<()>, id: u64) -> Result<u64, String> { Ok(id) }
    /// let ctx = Ctx::builder(()).record(true).build();
    /// ctx.run(user, 7).wait().unwrap();
    /// println!("{}", ctx.report());
    /// # assert!(ctx.report().to_string().contains("user"));
    /// ```
    pub fn record(mut self, record: bool) -> Self {
        self.options.watch.recorder = record.then(Recorder::default);
        self
    }

    /// Shows the inputs of a task to observers, in the report and in spans. Those of other tasks are never shown: they may be secrets.
    ///
    /// The input is written by its `Debug`, and only if somebody looks. The report keeps its first 200 characters.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn user(_: Ctx<()>, id: u64) -> Result<u64, String> { Ok(id) }
    /// let ctx = Ctx::builder(()).record(true).record_input(user).build();
    /// ctx.run(user, 7).wait().unwrap();
    /// assert_eq!(ctx.report().runs[0].input.as_deref(), Some("7"));
    /// ```
    pub fn record_input<F, In>(mut self, task: F) -> Self
    where
        F: Task<S, In>,
        In: Input + fmt::Debug,
    {
        let _ = task;
        let write: WriteInput = |slot, f| {
            // SAFETY: it is called for slots of this type only (`Watch::input`).
            unsafe { slot::input::<In>(slot) }.fmt(f)
        };
        self.options
            .watch
            .inputs
            .insert(type_id::<S, F, In>(), write);
        self
    }
}

#[cfg(feature = "tracing")]
impl<S: Send + Sync + 'static> Builder<S> {
    /// Whether the runs of this context have `tracing` spans. Unless this is called, they have if the subscriber in force wants spans of
    /// target `watershed` and level `INFO` when the context is made.
    ///
    /// # The spans
    /// Each run has a span `task` of level `INFO` and target `watershed`, with the fields `task` (the full type name), `run` (its number), `depth`,
    /// `outcome` (recorded at the end) and, only if the task [shows](Self::record_input) it, `input`. For OpenTelemetry it is
    /// named after the task, and a failure sets its status; neither the error nor its message is recorded.
    ///
    /// * It is a child of the span in which the call was polled that started the run; so of the caller's run, or of the request's
    ///   span. The same for runs started by [`spawn`](crate::Ctx::spawn) and [`parallel`](crate::Ctx::parallel), on whatever thread.
    /// * The body is made, polled and dropped inside of its span, whoever drives it: not inside of the span of the caller that started it and may be gone.
    /// * A call that joins the run of somebody else makes the span it is in follow from the run's, and leaves an event `joined` of
    ///   level `DEBUG` there when it is over, with the task, the run's number, `waited_us`, and `left` if it did not wait to the end. A hit leaves nothing.
    ///
    /// # What else goes with a run, and what does not
    /// * The tokio runtime: a body that was started inside of one is always polled inside of it.
    /// * Task-locals and thread-locals do not: a body sees those of whoever polls it, which may be another caller each time, or a thread of the runtime.
    ///   Put what a task needs into its input, or into the state of the context.
    ///
    /// # Cost
    /// Where the subscriber wants no spans, one look at it for each context. Otherwise as an [`Observer`], and what the subscriber does.
    ///
    /// # Examples
    /// ```
    /// use tracing::Span;
    /// use watershed::Ctx;
    ///
    /// async fn in_a_span(_: Ctx<()>, _: ()) -> Result<bool, String> {
    ///     Ok(Span::current().metadata().is_some_and(|span| span.target() == "watershed"))
    /// }
    ///
    /// tracing::subscriber::with_default(tracing_subscriber::registry(), || {
    ///     let ctx = Ctx::new(());                                   // nothing to be set
    ///     assert_eq!(ctx.run(in_a_span, ()).wait().unwrap(), &true);
    ///     let ctx = Ctx::builder(()).tracing(false).build();        // not this one
    ///     assert_eq!(ctx.run(in_a_span, ()).wait().unwrap(), &false);
    /// });
    /// ```
    pub fn tracing(mut self, spans: bool) -> Self {
        self.options.watch.tracing = Some(spans);
        self
    }
}

type WriteInput = fn(SlotPtr, &mut fmt::Formatter<'_>) -> fmt::Result;

/// An input that may be shown.
struct ShownInput(SlotPtr, WriteInput);

impl fmt::Debug for ShownInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.1)(self.0, f)
    }
}

/// What is shown for the input of a batch.
struct Keys(usize);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} key{s}", self.0)
    }
}

/// Who watches a context.
pub(crate) struct Watch {
    observers: Vec<Box<dyn Observer>>,
    recorder: Option<Recorder>,
    inputs: HashMap<TypeId, WriteInput>,
    /// Not set: as the subscriber wants it when the context is made.
    #[cfg(feature = "tracing")]
    pub(crate) tracing: Option<bool>,
    /// When the context was made, if anybody watches it.
    epoch: Option<Instant>,
    /// How many runs have started.
    runs: AtomicU64,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            observers: Vec::new(),
            recorder: None,
            inputs: HashMap::new(),
            #[cfg(feature = "tracing")]
            tracing: None,
            epoch: None,
            runs: AtomicU64::new(0),
        }
    }
}

impl Watch {
    pub(crate) fn is_active(&self) -> bool {
        #[cfg(feature = "tracing")]
        if self.tracing == Some(true) {
            return true;
        }
        !self.observers.is_empty() || self.recorder.is_some()
    }

    pub(crate) fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_ref()
    }

    /// The context is about to be made.
    pub(crate) fn begin(&mut self) {
        if self.is_active() {
            self.epoch = Some(Instant::now());
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.epoch.map_or(Duration::ZERO, |epoch| epoch.elapsed())
    }

    fn next_id(&self) -> u64 {
        // ORDER: Relaxed; the number is all there is to it.
        self.runs.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn input(&self, slot: SlotPtr) -> Option<ShownInput> {
        if self.inputs.is_empty() {
            return None;
        }
        let write = self.inputs.get(&slot.meta.type_id)?;
        Some(ShownInput(slot, *write))
    }

    /// Tells everybody. An observer that panics is alone with it.
    fn tell(&self, tell: impl Fn(&dyn Observer)) {
        if let Some(recorder) = &self.recorder {
            // Not the user's, but it writes inputs, which is.
            stack::contain(|| tell(recorder));
        }
        for observer in &self.observers {
            stack::contain(|| tell(&**observer));
        }
    }
}

/// What is known of the latest run of a slot.
///
/// Written by the holder of the slot's claim, and read by callers, who may come a run too late: each field is true of some run of the slot.
pub(crate) struct Cell {
    id: AtomicU64,
    parent: AtomicU64,
    started_ns: AtomicU64,
    ran_ns: AtomicU64,
    /// How many keys a batch was asked for; 0: it is none.
    keys: AtomicUsize,
    /// When the poll that is going on began.
    polled_ns: AtomicU64,
    /// What `INNER_NS` was then.
    outer_ns: AtomicU64,
    /// It was told that the run started, and not yet that it ended.
    running: AtomicBool,
    /// Who is to be called its starter when somebody else starts it for them.
    origin: Mutex<Option<Origin>>,
    /// The run was started for whom that was.
    promised: AtomicBool,
    /// Its outcome was told. Never cleared: a run that ends so is the slot's last.
    finished: AtomicBool,
    #[cfg(feature = "tracing")]
    spans: Mutex<Spans>,
}

/// The spans of a cell. The subscriber is user code, so it is called with the lock given back.
#[cfg(feature = "tracing")]
#[derive(Default)]
struct Spans {
    /// The run's.
    run: Option<Arc<tracing::Span>>,
    /// Those of calls that have joined before the run had one.
    joined: Vec<tracing::Span>,
}

/// A promise to start a run, by a call that leaves the starting to others.
struct Origin {
    parent: u64,
    #[cfg(feature = "tracing")]
    span: Option<tracing::Span>,
}

impl Cell {
    pub(crate) fn new() -> Self {
        Self {
            id: AtomicU64::new(0),
            parent: AtomicU64::new(0),
            started_ns: AtomicU64::new(0),
            ran_ns: AtomicU64::new(0),
            keys: AtomicUsize::new(0),
            polled_ns: AtomicU64::new(0),
            outer_ns: AtomicU64::new(0),
            running: AtomicBool::new(false),
            origin: Mutex::new(None),
            promised: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            #[cfg(feature = "tracing")]
            spans: Mutex::default(),
        }
    }

    fn take_origin(&self) -> Option<Origin> {
        self.origin
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Drops it. It may hold a span, which is somebody else's code.
    fn forget_origin(&self) {
        let origin = self.take_origin();
        stack::contain(move || {
            let _gone = origin;
        });
    }

    #[cfg(feature = "tracing")]
    fn spans(&self) -> MutexGuard<'_, Spans> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(feature = "tracing")]
    fn span(&self) -> Option<Arc<tracing::Span>> {
        self.spans().run.clone()
    }

    /// The run's span, and those that follow from it so far.
    #[cfg(feature = "tracing")]
    fn set_span(&self, span: &Arc<tracing::Span>) -> Vec<tracing::Span> {
        let mut spans = self.spans();
        spans.run = Some(span.clone());
        std::mem::take(&mut spans.joined)
    }

    /// A call joins the run. False if it is too late for that: the outcome was told.
    #[cfg(feature = "tracing")]
    fn join_span(&self) -> bool {
        let mut caller = Some(trace::current());
        let run = {
            let mut spans = self.spans();
            // ORDER: Relaxed; set before the span is taken, under the lock.
            if spans.run.is_none() && self.finished.load(Ordering::Relaxed) {
                return false;
            }
            if spans.run.is_none() {
                spans.joined.extend(caller.take());
            }
            spans.run.clone()
        };
        if let (Some(caller), Some(run)) = (caller, run) {
            trace::follows(&caller, &run);
        }
        true
    }

    fn info(&self, slot: SlotPtr) -> Option<RunInfo> {
        // ORDER: Relaxed, here and below; written under the claim, and read under it or as a hint (see the type).
        Some(RunInfo {
            id: RunId::of(self.id.load(Ordering::Relaxed))?,
            task: slot.name(),
            parent: RunId::of(self.parent.load(Ordering::Relaxed)),
            depth: slot.depth() as usize,
            keys: match self.keys.load(Ordering::Relaxed) {
                0 => None,
                keys => Some(keys),
            },
        })
    }

    /// The end of the run: who, since when, and how much of it ran. None if it was told already.
    fn over(&self, slot: SlotPtr, at: Duration) -> Option<(RunInfo, Duration, Duration)> {
        // ORDER: Relaxed; under the claim.
        if !self.running.swap(false, Ordering::Relaxed) {
            return None;
        }
        // ORDER: Relaxed; as above.
        let started = Duration::from_nanos(self.started_ns.load(Ordering::Relaxed));
        // ORDER: Relaxed; as above.
        let ran = Duration::from_nanos(self.ran_ns.load(Ordering::Relaxed));
        let elapsed = at.saturating_sub(started);
        Some((self.info(slot)?, elapsed, ran.min(elapsed)))
    }
}

fn cell<'c>(slot: SlotPtr) -> &'c Cell {
    // SAFETY: the cell is the hub's, which lives as long as the slot; those who come here hold a handle of the context.
    unsafe { &*std::ptr::from_ref(slot.hub().cell()) }
}

/// The number of the latest run of a body's slot; 0: there is none.
fn id_of(body: Option<SlotPtr>) -> u64 {
    body.and_then(run_id).map_or(0, RunId::get)
}

/// The number of the latest run of a slot.
pub(crate) fn run_id(slot: SlotPtr) -> Option<RunId> {
    // ORDER: Relaxed; see `Cell`.
    RunId::of(cell(slot).id.load(Ordering::Relaxed))
}

/// For how long the latest run of a slot has been under way.
pub(crate) fn running_for(core: CorePtr, slot: SlotPtr) -> Option<Duration> {
    let cell = cell(slot);
    // ORDER: Relaxed; see `Cell`.
    let started = cell
        .running
        .load(Ordering::Relaxed)
        .then(|| Duration::from_nanos(cell.started_ns.load(Ordering::Relaxed)))?;
    Some(core.watch()?.now().saturating_sub(started))
}

/// The run of a slot that is under way, and for how long its body was polled so far, in the polls that are over.
pub(crate) fn ran_so_far(slot: SlotPtr) -> Option<(RunId, Duration)> {
    let cell = cell(slot);
    // ORDER: Relaxed, here and below; see `Cell`.
    let id = cell
        .running
        .load(Ordering::Relaxed)
        .then(|| run_id(slot))??;
    Some((
        id,
        Duration::from_nanos(cell.ran_ns.load(Ordering::Relaxed)),
    ))
}

/// A call leaves the starting of an empty slot to others: `body` is who is to be named.
#[cold]
pub(crate) fn promise(core: CorePtr, slot: SlotPtr, body: Option<SlotPtr>) {
    let parent = id_of(body);
    let mut new = Some(Origin {
        parent,
        #[cfg(feature = "tracing")]
        span: core
            .watch()
            .filter(|watch| watch.tracing == Some(true))
            .map(|_| trace::current()),
    });
    #[cfg(not(feature = "tracing"))]
    let _ = core;
    {
        let cell = cell(slot);
        let mut origin = cell.origin.lock().unwrap_or_else(PoisonError::into_inner);
        if origin.is_none() {
            *origin = new.take();
        }
    }
    // One that is not needed goes here, outside of the lock: its span calls the subscriber.
}

/// The run of this slot, which nobody else has yet, will be that of a batch.
#[cold]
pub(crate) fn is_batch(slot: SlotPtr, keys: usize) {
    // ORDER: Relaxed; the slot is published after this.
    cell(slot).keys.store(keys, Ordering::Relaxed);
}

/// A run starts, for the body of `parent` if there is one, which is about to be made. `direct`: inside the poll of the call that
/// starts it.
#[cold]
#[inline(never)]
pub(crate) fn start(core: CorePtr, slot: SlotPtr, parent: Option<SlotPtr>, direct: bool) {
    let Some(watch) = core.watch() else { return };
    let cell = cell(slot);
    // Who promised was first, whoever starts it.
    let origin = cell.take_origin();
    let parent_id = origin
        .as_ref()
        .map_or_else(|| id_of(parent), |origin| origin.parent);
    let at = watch.now();
    // ORDER: Relaxed, here and below; under the claim, see `Cell`.
    cell.parent.store(parent_id, Ordering::Relaxed);
    cell.started_ns.store(nanos(at), Ordering::Relaxed);
    cell.ran_ns.store(0, Ordering::Relaxed);
    cell.id.store(watch.next_id(), Ordering::Relaxed);
    cell.promised.store(origin.is_some(), Ordering::Relaxed);
    cell.running.store(true, Ordering::Relaxed);
    let Some(run) = cell.info(slot) else { return };
    let shown = watch.input(slot);
    let keys = run.keys.map(Keys);
    let input = match &keys {
        Some(keys) => Some(keys as &dyn fmt::Debug),
        None => shown.as_ref().map(|shown| shown as &dyn fmt::Debug),
    };
    #[cfg(feature = "tracing")]
    if watch.tracing == Some(true) {
        stack::contain(|| {
            let promised_in = origin.and_then(|origin| origin.span);
            let span = match &promised_in {
                Some(parent) => trace::span_of(&run, input, trace::Parent::Span(parent)),
                None if direct => trace::span_of(&run, input, trace::Parent::Current),
                None => match parent.and_then(|parent| self::cell(parent).span()) {
                    Some(parent) => trace::span_of(&run, input, trace::Parent::Span(&parent)),
                    None => trace::span_of(&run, input, trace::Parent::Root),
                },
            };
            let Some(span) = span.map(Arc::new) else {
                return;
            };
            for joined in cell.set_span(&span) {
                trace::follows(&joined, &span);
            }
            if let (true, Some(promised_in)) = (direct, promised_in) {
                let caller = trace::current();
                if caller.id() != promised_in.id() {
                    trace::follows(&caller, &span);
                }
            }
        });
    }
    #[cfg(not(feature = "tracing"))]
    let _ = direct;
    watch.tell(|observer| observer.on_start(&Start { run, at, input }));
    poll(core, slot);
}

/// A call has started a run: as its starter, or, if somebody else had promised to, as one who waits: since it joined him, or since now.
#[cold]
pub(crate) fn drove(slot: SlotPtr, since: Since) -> Since {
    let cell = cell(slot);
    // ORDER: Relaxed, here and below; written by this thread, or of a later run, and then this call's own is over.
    if since == Since::STARTER || !cell.promised.load(Ordering::Relaxed) {
        return Since::NEVER;
    }
    if since != Since::NEVER {
        return since;
    }
    Since::new(Duration::from_nanos(
        cell.started_ns.load(Ordering::Relaxed),
    ))
}

thread_local! {
    /// Time that bodies took which were polled inside of the poll that is going on here.
    static INNER_NS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// The body of a slot is about to be polled or dropped.
#[cold]
#[inline(never)]
pub(crate) fn poll(core: CorePtr, slot: SlotPtr) {
    let Some(watch) = core.watch() else { return };
    let cell = cell(slot);
    #[cfg(feature = "tracing")]
    if let Some(span) = cell.span() {
        stack::contain(|| trace::enter(&span));
    }
    // ORDER: Relaxed, here and below; under the claim.
    cell.outer_ns.store(INNER_NS.replace(0), Ordering::Relaxed);
    cell.polled_ns.store(nanos(watch.now()), Ordering::Relaxed);
}

/// It was polled or dropped, or made.
#[cold]
#[inline(never)]
pub(crate) fn polled(core: CorePtr, slot: SlotPtr) {
    let Some(watch) = core.watch() else { return };
    let cell = cell(slot);
    // ORDER: Relaxed, here and below; under the claim.
    let all = nanos(watch.now()).saturating_sub(cell.polled_ns.load(Ordering::Relaxed));
    let outer = cell.outer_ns.load(Ordering::Relaxed);
    let inner = INNER_NS.replace(outer.saturating_add(all));
    cell.ran_ns
        .fetch_add(all.saturating_sub(inner), Ordering::Relaxed);
    #[cfg(feature = "tracing")]
    if let Some(span) = cell.span() {
        stack::contain(|| trace::exit(&span));
    }
}

/// A run ended.
#[cold]
pub(crate) fn finish(core: CorePtr, slot: SlotPtr, error: Option<&TaskError>) {
    let Some(watch) = core.watch() else { return };
    let at = watch.now();
    let cell = cell(slot);
    let Some((run, elapsed, ran)) = cell.over(slot, at) else {
        return;
    };
    // ORDER: Relaxed; see `Cell::join_span`.
    cell.finished.store(true, Ordering::Relaxed);
    let finish = Finish {
        run,
        at,
        elapsed,
        ran,
        error,
    };
    watch.tell(|observer| observer.on_finish(&finish));
    #[cfg(feature = "tracing")]
    end_span(cell, finish.outcome());
}

/// A run was dropped unfinished.
#[cold]
pub(crate) fn cancel(core: CorePtr, slot: SlotPtr) {
    let Some(watch) = core.watch() else { return };
    let at = watch.now();
    let cell = cell(slot);
    let Some((run, elapsed, ran)) = cell.over(slot, at) else {
        return;
    };
    // One that came too late for this run is not for the next.
    cell.forget_origin();
    let cancel = Cancel {
        run,
        at,
        elapsed,
        ran,
        context_closed: core.is_closed(),
        phantom: std::marker::PhantomData,
    };
    watch.tell(|observer| observer.on_cancel(&cancel));
    #[cfg(feature = "tracing")]
    end_span(cell, cancel.outcome());
}

/// The context goes, and with it what never ended, since its callers were leaked.
#[cold]
#[inline(never)]
pub(crate) fn end(core: CorePtr) {
    core.each_slot(|slot| {
        if !slot.look().is_terminal() {
            cancel(core, slot);
        }
    });
}

#[cfg(feature = "tracing")]
fn end_span(cell: &Cell, outcome: Outcome) {
    stack::contain(|| {
        let span = cell.spans().run.take();
        if let Some(span) = span {
            trace::record_outcome(&span, outcome);
        }
    });
}

/// A value was put in.
#[cold]
pub(crate) fn primed(core: CorePtr, slot: SlotPtr) {
    let Some(watch) = core.watch() else { return };
    let cell = cell(slot);
    let at = watch.now();
    // ORDER: Relaxed; under the claim.
    cell.id.store(watch.next_id(), Ordering::Relaxed);
    cell.parent.store(0, Ordering::Relaxed);
    if let (Some(run), Some(recorder)) = (cell.info(slot), watch.recorder()) {
        recorder.primed(run, at);
    }
}

/// Since when a call waits for a run that it did not start: five bytes, as many as [`RawRun`](crate::run) has to spare.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since([u8; 5]);

/// A step of the time in a [`Since`], which so reaches 19 hours.
const STEP_NS: u64 = 64;

impl Since {
    /// It does not wait, or nobody watches.
    pub(crate) const NEVER: Self = Self([0; 5]);
    /// It is to be named as who started the run, though others will start it for it.
    const STARTER: Self = Self([255, 255, 255, 255, 254]);
    /// What came of the call was told, or is not the call's to tell.
    pub(crate) const TOLD: Self = Self([255; 5]);

    fn new(now: Duration) -> Self {
        let steps = (nanos(now) / STEP_NS).clamp(1, (1 << 39) - 1);
        let [a, b, c, d, e, ..] = steps.to_le_bytes();
        Self([a, b, c, d, e])
    }

    /// None if this is no time.
    fn time(self) -> Option<Duration> {
        let [a, b, c, d, e] = self.0;
        let steps = u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]);
        (1..1 << 39)
            .contains(&steps)
            .then(|| Duration::from_nanos(steps * STEP_NS))
    }
}

/// A call was counted at a run that it did not start. `promised`: nobody has started it, and nobody else was before.
#[cold]
pub(crate) fn joined(core: CorePtr, slot: SlotPtr, body: Option<SlotPtr>, promised: bool) -> Since {
    if promised {
        promise(core, slot, body);
        return Since::STARTER;
    }
    let Some(watch) = core.watch() else {
        return Since::NEVER;
    };
    #[cfg(feature = "tracing")]
    if watch.tracing == Some(true) {
        let mut in_time = true;
        stack::contain(|| in_time = cell(slot).join_span());
        if !in_time {
            // As good as a hit.
            return Since::NEVER;
        }
    }
    Since::new(watch.now())
}

/// A call that did not start its run is over, if it was not told.
#[cold]
pub(crate) fn over(core: CorePtr, slot: SlotPtr, body: Option<SlotPtr>, since: &mut Since) {
    let since = std::mem::replace(since, Since::TOLD);
    if since == Since::TOLD {
        return;
    }
    let word = slot.look();
    if since == Since::STARTER {
        if word.is_empty() {
            // A promise that is not kept.
            cell(slot).forget_origin();
        }
        return;
    }
    let Some(watch) = core.watch() else { return };
    let is_over = word.is_terminal();
    let (how, at, waited) = match since.time() {
        None if is_over => (How::Hit, None, Duration::ZERO),
        None => return,
        Some(began) => {
            let how = if is_over { How::Waited } else { How::Left };
            let at = watch.now();
            (how, Some(at), at.saturating_sub(began))
        }
    };
    let join = Join {
        run: run_id(slot),
        task: slot.name(),
        caller: body.and_then(run_id),
        how,
        at,
        waited,
        phantom: std::marker::PhantomData,
    };
    watch.tell(|observer| observer.on_join(&join));
    #[cfg(feature = "tracing")]
    if watch.tracing == Some(true) {
        stack::contain(|| trace::joined(&join));
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_kept_in_steps_and_never_taken_for_a_mark() {
        for ns in [0, 1, 63, 64, 1_000_000, 3_600_000_000_000, u64::MAX] {
            let since = Since::new(Duration::from_nanos(ns));
            assert!(since != Since::NEVER && since != Since::TOLD && since != Since::STARTER);
            let told = nanos(since.time().unwrap());
            assert!(
                ns >= 3_600_000_000_001 || told.abs_diff(ns) <= STEP_NS,
                "{ns}"
            );
        }
        for mark in [Since::NEVER, Since::STARTER, Since::TOLD] {
            assert_eq!(mark.time(), None);
        }
    }
}
