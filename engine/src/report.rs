//! What happened in a context: who called whom, when it ran, who waited and how long, what was there already.
//!
//! [`Ctx::report`] gives a [`Report`] of a context that [records](crate::Builder::record): plain data, and its faces: a waterfall for the terminal,
//! graphs, a trace for Perfetto, a page for the browser. [`Ctx::waits`] gives [`Waits`]: who waits for whom at this moment, in any context.

// `Recorder` is an observer that the engine sets; a report is a copy of what it has. Its lock is its own and std's: it is taken by observers, outside of
// every lock of the engine, and no user code runs under it (inputs are written before).

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::context::Ctx;
use crate::observe::{self, Cancel, Finish, How, Join, Observer, Outcome, RunId, RunInfo, Start};
use crate::slot::SlotPtr;

mod graph;
mod json;
mod page;
mod text;
mod waits;

pub use waits::{WaitState, Waiting, Waits};

/// How many runs a record holds.
const RUNS: usize = 1 << 16;
/// How many pairs of caller and run a record holds.
const CALLS: usize = 1 << 18;
/// How much of an input is kept.
const INPUT_CHARS: usize = 200;

/// What happened in a context so far. Made by [`Ctx::report`].
///
/// Its `Display` is a waterfall for the terminal; the other forms are for [Mermaid](Self::to_mermaid), [Graphviz](Self::to_dot),
/// [Perfetto](Self::to_chrome_trace) and [a browser](Self::to_html).
///
/// Times are real ones, by `std`'s clock, also where tokio's is paused: they say what the machine did. (So a test with a paused clock
/// sees the order of things here, and no seconds that nobody waited.)
///
/// # Time saved by sharing
/// A task's [`saved`](TaskReport::saved) is, for each of its runs that ended, `(hits + joins) x elapsed`: how much longer its callers would have taken
/// together, had each of them run the task for itself. It is a sum over callers, not the time by which the request got faster.
///
/// # Bounds
/// A report holds the first 65,536 runs and the first 262,144 pairs of a caller and a run; what comes later is counted in [`omitted`](Self::omitted).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The runs, in the order of their starts.
    pub runs: Vec<RunReport>,
    /// When the report was made, counted from the making of the context.
    pub at: Duration,
    /// How many runs and calls found no room in the record.
    pub omitted: u64,
    /// Whether the context records at all.
    pub recorded: bool,
}

/// One run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunReport {
    /// Its number.
    pub id: RunId,
    /// The full type name of the task.
    pub task: &'static str,
    /// The input, if the task's are shown ([`Builder::record_input`](crate::Builder::record_input)); the number of keys, if it is a call of a batch function.
    pub input: Option<String>,
    /// The run whose body started it; none if it was started from outside.
    pub parent: Option<RunId>,
    /// How many runs are above it.
    pub depth: usize,
    /// If it is a call of a batch function: for how many keys.
    pub keys: Option<usize>,
    /// When it started, counted from the making of the context.
    pub started: Duration,
    /// When it ended, if it has.
    pub ended: Option<Duration>,
    /// How long its body was polled, without the polls of other bodies inside of those. Of a run under way: in the polls that are over.
    pub ran: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// The calls that shared it, by caller.
    pub calls: Vec<CallReport>,
}

/// The calls of one caller that shared one run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CallReport {
    /// The run whose body called; none for calls from outside.
    pub caller: Option<RunId>,
    /// How often the outcome was there already.
    pub hits: u64,
    /// How often it waited for the run until that ended.
    pub joins: u64,
    /// How often it waited and left before.
    pub left: u64,
    /// How long it waited, all together.
    pub waited: Duration,
    /// When the longest wait began, counted from the making of the context; zero if there was none.
    pub at: Duration,
    /// The longest wait.
    pub longest: Duration,
}

/// All runs of one task, added up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskReport {
    /// The full type name of the task.
    pub task: &'static str,
    /// How often it ran.
    pub runs: u64,
    /// How many of these failed or panicked.
    pub failed: u64,
    /// How many of these were dropped unfinished.
    pub cancelled: u64,
    /// How many calls found the outcome there.
    pub hits: u64,
    /// How many calls waited for a run of somebody else.
    pub joins: u64,
    /// How long the runs took from start to end.
    pub elapsed: Duration,
    /// How much of that their bodies were polled.
    pub ran: Duration,
    /// How long the calls that joined waited.
    pub waited: Duration,
    /// Time saved by sharing: see [`Report`].
    pub saved: Duration,
}

impl RunReport {
    /// The time from start to end; none while it has not ended.
    pub fn elapsed(&self) -> Option<Duration> {
        Some(self.ended?.saturating_sub(self.started))
    }

    /// The time in which it was under way and not polled: it waited for other runs, for I/O, or for somebody to poll it.
    /// None while it has not ended.
    pub fn waited(&self) -> Option<Duration> {
        Some(self.elapsed()?.saturating_sub(self.ran))
    }

    /// How many calls found the outcome there.
    pub fn hits(&self) -> u64 {
        self.calls.iter().map(|call| call.hits).sum()
    }

    /// How many calls waited for the run until it ended.
    pub fn joins(&self) -> u64 {
        self.calls.iter().map(|call| call.joins).sum()
    }

    /// Time saved by sharing: see [`Report`].
    pub fn saved(&self) -> Duration {
        let shared = u32::try_from(self.hits() + self.joins()).unwrap_or(u32::MAX);
        self.elapsed()
            .unwrap_or_default()
            .checked_mul(shared)
            .unwrap_or(Duration::MAX)
    }

    /// The last part of the task's name.
    pub fn name(&self) -> String {
        crate::error::short(self.task)
    }
}

impl Report {
    /// A value for the header `content-security-policy` of a response with [`to_html`](Self::to_html): the page's own script and styles, by their
    /// hashes, and nothing else. Scripts and styles are the same in every report of one version of this crate.
    ///
    /// A policy that is set for the whole server must let them through as well: browsers obey both.
    pub const CONTENT_SECURITY_POLICY: &'static str = page::POLICY;

    /// The run with this number.
    pub fn run(&self, id: RunId) -> Option<&RunReport> {
        let at = self.runs.binary_search_by_key(&id, |run| run.id).ok()?;
        self.runs.get(at)
    }

    /// The runs added up by task, those that took the longest first.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, TaskError};
    /// async fn user(_: Ctx<()>, id: u64) -> Result<u64, String> { Ok(id) }
    /// async fn page(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    ///     Ok(ctx.run(user, id).await? + ctx.run(user, id).await? + ctx.run(user, id + 1).await?)
    /// }
    ///
    /// let ctx = Ctx::builder(()).record(true).build();
    /// ctx.run(page, 1).wait().unwrap();
    /// let tasks = ctx.report().tasks();
    /// let user = tasks.iter().find(|task| task.name() == "user").unwrap();
    /// assert_eq!((user.runs, user.hits, user.failed), (2, 1, 0));
    /// ```
    pub fn tasks(&self) -> Vec<TaskReport> {
        let mut at = HashMap::new();
        let mut tasks: Vec<TaskReport> = Vec::new();
        for run in &self.runs {
            let at = *at.entry(run.task).or_insert_with(|| {
                tasks.push(TaskReport::new(run.task));
                tasks.len() - 1
            });
            tasks[at].add(run);
        }
        tasks.sort_by(|a, b| b.elapsed.cmp(&a.elapsed).then(a.task.cmp(b.task)));
        tasks
    }

    /// Time saved by sharing, of all tasks: see [`Report`].
    pub fn saved(&self) -> Duration {
        let saved = self.runs.iter().map(RunReport::saved);
        saved.fold(Duration::ZERO, Duration::saturating_add)
    }

    /// A [Mermaid](https://mermaid.js.org) flow chart of who called whom, by task: for a README or a pull request.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, TaskError};
    /// async fn user(_: Ctx<()>, id: u64) -> Result<u64, String> { Ok(id) }
    /// async fn page(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> { Ok(*ctx.run(user, id).await?) }
    ///
    /// let ctx = Ctx::builder(()).record(true).build();
    /// ctx.run(page, 1).wait().unwrap();
    /// assert!(ctx.report().to_mermaid().starts_with("flowchart LR"));
    /// ```
    pub fn to_mermaid(&self) -> String {
        graph::mermaid(self)
    }

    /// A graph of who called whom, by task, in the language of Graphviz: `dot -Tsvg`. As [`to_mermaid`](Self::to_mermaid) otherwise.
    pub fn to_dot(&self) -> String {
        graph::dot(self)
    }

    /// The trace event format of Chrome, as JSON: open it at <https://ui.perfetto.dev> or in `chrome://tracing`.
    ///
    /// Each run is a slice, each wait of a call for somebody else's run another, below its caller.
    pub fn to_chrome_trace(&self) -> String {
        json::chrome_trace(self)
    }

    /// One page, complete in itself, that shows the waterfall, the graph and the tasks: for a debug route of a server.
    ///
    /// It loads nothing, from nowhere. It has a script and styles of its own inside, so serve it with
    /// [`CONTENT_SECURITY_POLICY`](Self::CONTENT_SECURITY_POLICY), which allows those and nothing else. It follows the browser's choice of light
    /// and dark. What it shows is escaped, so inputs may hold anything.
    ///
    /// # Cost
    /// Some 100 bytes for each run and 36 kB.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// use watershed::report::Report;
    /// async fn user(_: Ctx<()>, id: u64) -> Result<u64, String> { Ok(id) }
    ///
    /// let ctx = Ctx::builder(()).record(true).build();
    /// ctx.run(user, 7).wait().unwrap();
    /// let headers = [
    ///     ("content-type", "text/html; charset=utf-8"),
    ///     ("content-security-policy", Report::CONTENT_SECURITY_POLICY),
    /// ];
    /// let body = ctx.report().to_html();
    /// assert!(body.starts_with("<!doctype html>"));
    /// # let _ = headers;
    /// ```
    pub fn to_html(&self) -> String {
        page::html(self)
    }
}

impl TaskReport {
    fn new(task: &'static str) -> Self {
        Self {
            task,
            runs: 0,
            failed: 0,
            cancelled: 0,
            hits: 0,
            joins: 0,
            elapsed: Duration::ZERO,
            ran: Duration::ZERO,
            waited: Duration::ZERO,
            saved: Duration::ZERO,
        }
    }

    fn add(&mut self, run: &RunReport) {
        self.runs += u64::from(run.outcome != Outcome::Primed);
        self.failed += u64::from(matches!(run.outcome, Outcome::Failed(_)));
        self.cancelled += u64::from(matches!(run.outcome, Outcome::Left | Outcome::Closed));
        self.hits += run.hits();
        self.joins += run.joins();
        self.elapsed += run.elapsed().unwrap_or_default();
        self.ran += run.ran;
        self.waited += run.calls.iter().map(|call| call.waited).sum::<Duration>();
        self.saved = self.saved.saturating_add(run.saved());
    }

    /// The last part of the task's name.
    pub fn name(&self) -> String {
        crate::error::short(self.task)
    }
}

impl<S: Send + Sync + 'static> Ctx<S> {
    /// What happened in this context so far, if it [records](crate::Builder::record); an empty report otherwise.
    ///
    /// # Concurrency
    /// May be called at any time, also from a task. Runs under way are in it without an end.
    ///
    /// # Cost
    /// A copy of the record, which waits meanwhile; and a look at each slot if a run is under way.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, TaskError};
    /// async fn user(_: Ctx<()>, id: u64) -> Result<u64, String> { Ok(id) }
    /// async fn page(ctx: Ctx<()>, id: u64) -> Result<u64, TaskError> {
    ///     Ok(*ctx.run(user, id).await? + *ctx.run(user, id).await?)
    /// }
    ///
    /// let ctx = Ctx::builder(()).record(true).build();
    /// ctx.run(page, 1).wait().unwrap();
    /// let report = ctx.report();
    /// assert_eq!(report.runs.len(), 2);
    /// assert_eq!(report.runs[1].parent, Some(report.runs[0].id));
    /// assert_eq!(report.runs[1].hits(), 1);
    /// println!("{report}");
    /// ```
    pub fn report(&self) -> Report {
        match self.core().watch() {
            Some(watch) => match watch.recorder() {
                Some(recorder) => {
                    let mut report = recorder.report(watch.now());
                    report.add_what_ran_so_far(|f| self.core().each_slot(f));
                    report
                }
                None => Report::empty(watch.now()),
            },
            None => Report::empty(Duration::ZERO),
        }
    }
}

impl Report {
    /// Of the runs under way the record knows the start only.
    fn add_what_ran_so_far(&mut self, each_slot: impl FnOnce(&mut dyn FnMut(SlotPtr))) {
        if self.runs.iter().all(|run| run.ended.is_some()) {
            return;
        }
        each_slot(&mut |slot| {
            if let Some((id, ran)) = observe::ran_so_far(slot)
                && let Ok(at) = self.runs.binary_search_by_key(&id, |run| run.id)
                // It may have ended since the record was copied, or started.
                && self.runs[at].ended.is_none()
            {
                let run = &mut self.runs[at];
                run.ran = ran.min(self.at.saturating_sub(run.started));
            }
        });
    }

    fn empty(at: Duration) -> Self {
        Self {
            runs: Vec::new(),
            at,
            omitted: 0,
            recorded: false,
        }
    }
}

/// Writes down what happens.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Record>);

#[derive(Default)]
struct Record {
    /// By number; a run may be told before one with a smaller number.
    runs: Vec<Option<RunReport>>,
    /// Where the calls of a caller are in its run's list.
    calls: HashMap<(RunId, Option<RunId>), usize>,
    omitted: u64,
}

impl Record {
    fn run(&mut self, id: RunId) -> Option<&mut RunReport> {
        let at = usize::try_from(id.get()).ok()?.checked_sub(1)?;
        self.runs.get_mut(at)?.as_mut()
    }

    fn add(&mut self, run: RunReport) {
        let Some(at) = usize::try_from(run.id.get())
            .ok()
            .and_then(|id| id.checked_sub(1))
            .filter(|at| *at < RUNS)
        else {
            self.omitted += 1;
            return;
        };
        if self.runs.len() <= at {
            self.runs.resize_with(at + 1, || None);
        }
        self.runs[at] = Some(run);
    }

    fn end(&mut self, id: RunId, at: Duration, ran: Duration, outcome: Outcome) {
        if let Some(run) = self.run(id) {
            run.ended = Some(at);
            run.ran = ran;
            run.outcome = outcome;
        }
    }

    fn join(&mut self, join: &Join<'_>) {
        let began = join.at.unwrap_or_default().saturating_sub(join.waited);
        let Some(id) = join.run else { return };
        let (known, room) = (self.calls.len(), self.calls.len() < CALLS);
        let at = self.calls.get(&(id, join.caller)).copied();
        let Some(run) = self.run(id).filter(|_| at.is_some() || room) else {
            self.omitted += 1;
            return;
        };
        let _ = known;
        let new = run.calls.len();
        let call = match at {
            Some(at) => &mut run.calls[at],
            None => {
                run.calls.push(CallReport {
                    caller: join.caller,
                    hits: 0,
                    joins: 0,
                    left: 0,
                    waited: Duration::ZERO,
                    at: began,
                    longest: Duration::ZERO,
                });
                &mut run.calls[new]
            }
        };
        match join.how {
            How::Hit => call.hits += 1,
            How::Waited => call.joins += 1,
            How::Left => call.left += 1,
        }
        call.waited += join.waited;
        if join.waited > call.longest {
            call.longest = join.waited;
            call.at = began;
        }
        if at.is_none() {
            self.calls.insert((id, join.caller), new);
        }
    }
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, at: Duration) -> Report {
        let record = self.lock();
        Report {
            runs: record.runs.iter().flatten().cloned().collect(),
            at,
            omitted: record.omitted,
            recorded: true,
        }
    }

    fn new_run(run: &RunInfo, input: Option<String>, started: Duration) -> RunReport {
        RunReport {
            id: run.id,
            task: run.task,
            input,
            keys: run.keys,
            parent: run.parent,
            depth: run.depth,
            started,
            ended: None,
            ran: Duration::ZERO,
            outcome: Outcome::Running,
            calls: Vec::new(),
        }
    }

    /// A value was put in.
    pub(crate) fn primed(&self, run: RunInfo, at: Duration) {
        let run = RunReport {
            ended: Some(at),
            outcome: Outcome::Primed,
            ..Self::new_run(&run, None, at)
        };
        self.lock().add(run);
    }
}

impl Observer for Recorder {
    fn on_start(&self, start: &Start<'_>) {
        // The run is written down whatever its input does: `Debug` is the user's.
        self.lock().add(Self::new_run(&start.run, None, start.at));
        if let Some(input) = start.input {
            let mut text = Limited(String::new(), INPUT_CHARS);
            // An error is the limit's, or the user's: what there is by then is kept.
            let _ = write!(text, "{input:?}");
            if let Some(run) = self.lock().run(start.run.id) {
                run.input = Some(text.0);
            }
        }
    }

    fn on_join(&self, join: &Join<'_>) {
        self.lock().join(join);
    }

    fn on_finish(&self, finish: &Finish<'_>) {
        let outcome = finish.outcome();
        self.lock()
            .end(finish.run.id, finish.at, finish.ran, outcome);
    }

    fn on_cancel(&self, cancel: &Cancel<'_>) {
        let outcome = cancel.outcome();
        self.lock()
            .end(cancel.run.id, cancel.at, cancel.ran, outcome);
    }
}

/// Takes so many characters, and then an ellipsis.
struct Limited(String, usize);

impl Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.1 == 0 {
                self.0.push('…');
                return Err(fmt::Error);
            }
            self.0.push(c);
            self.1 -= 1;
        }
        Ok(())
    }
}

/// A time for people: three digits and a unit.
fn time(duration: Duration) -> String {
    let ns = duration.as_nanos() as f64;
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = match value {
        _ if unit == "ns" => 0,
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// Who called whom, by task: the graphs of all faces.
struct Edges {
    /// Tasks, in the order of their first runs; the first is "outside", if anything was called from there.
    nodes: Vec<TaskReport>,
    edges: Vec<Edge>,
}

/// The calls of one task by another.
struct Edge {
    /// None: from outside.
    from: Option<usize>,
    to: usize,
    runs: u64,
    hits: u64,
    joins: u64,
}

impl Edges {
    fn of(report: &Report) -> Self {
        let mut nodes: Vec<TaskReport> = Vec::new();
        let mut at: HashMap<&'static str, usize> = HashMap::new();
        for run in &report.runs {
            let at = *at.entry(run.task).or_insert_with(|| {
                nodes.push(TaskReport::new(run.task));
                nodes.len() - 1
            });
            nodes[at].add(run);
        }
        let mut edges: Vec<Edge> = Vec::new();
        let mut known: HashMap<(Option<usize>, usize), usize> = HashMap::new();
        let mut edge = |from: Option<RunId>, to: usize, add: &dyn Fn(&mut Edge)| {
            let from = from.and_then(|id| at.get(report.run(id)?.task).copied());
            let at = *known.entry((from, to)).or_insert_with(|| {
                edges.push(Edge {
                    from,
                    to,
                    runs: 0,
                    hits: 0,
                    joins: 0,
                });
                edges.len() - 1
            });
            add(&mut edges[at]);
        };
        for run in &report.runs {
            let to = at[run.task];
            if run.outcome != Outcome::Primed {
                edge(run.parent, to, &|edge| edge.runs += 1);
            }
            for call in &run.calls {
                edge(call.caller, to, &|edge| {
                    edge.hits += call.hits;
                    edge.joins += call.joins + call.left;
                });
            }
        }
        Self { nodes, edges }
    }
}

impl Edge {
    /// `2 runs, 5 hits`.
    fn label(&self) -> String {
        let mut parts = Vec::new();
        for (n, one, many) in [
            (self.runs, "run", "runs"),
            (self.joins, "join", "joins"),
            (self.hits, "hit", "hits"),
        ] {
            if n > 0 {
                parts.push(format!("{n} {}", if n == 1 { one } else { many }));
            }
        }
        parts.join(", ")
    }
}
