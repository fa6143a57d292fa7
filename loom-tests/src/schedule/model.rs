//! The model: what the engine promises, written down plainly, one step after another.
//!
//! It is told what happens at the border of the engine, on both sides: a call is made, polled, dropped; a body starts, is
//! polled, ends, is dropped; a waker is called. From that it knows what each poll must give, which body must run,
//! and who must be woken. It has no atomics, no claims and no bits, and no idea of how the engine works.
//!
//! What does not fit is a [fault](Model::fault).

use std::collections::HashMap;
use std::sync::Arc;

use watershed::{TaskError, TaskErrorKind};

use super::world::{Failure, Flag, task_name, task_of};

pub(super) type RunId = usize;
pub(super) type CallId = usize;

/// A failure as every caller of the run sees it.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) kind: TaskErrorKind,
    /// In which run it was made, for failures and panics of tasks.
    pub(super) made_by: Option<RunId>,
    pub(super) transient: bool,
    /// The tasks that it came through, outermost first.
    pub(super) path: Vec<u16>,
    /// The text without the path.
    pub(super) text: String,
}

impl Failed {
    fn display(&self) -> Option<String> {
        match self.kind {
            TaskErrorKind::Cycle => Some(self.text.clone()),
            // Longer paths are shown in part.
            TaskErrorKind::Failed | TaskErrorKind::Panicked if self.path.len() < 12 => {
                let names: Vec<_> = self.path.iter().map(|key| task_name(*key)).collect();
                Some(format!("{} {}", names.join(" > "), self.text))
            }
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum State {
    /// Under way, or about to start for the callers that there are.
    Running,
    Value(u64),
    Failed(Failed),
    /// Dropped before it had an outcome.
    Gone,
}

#[derive(Debug)]
struct Run {
    key: u16,
    /// The one call of a run without memoization.
    private: Option<CallId>,
    state: State,
    /// Calls that have joined and not left.
    callers: Vec<CallId>,
    /// Calls of the body that are not over.
    calls: Vec<CallId>,
    started: bool,
    body: bool,
    polling: bool,
    /// The body is to be dropped.
    dropping: bool,
    /// The body wants a poll.
    woken: bool,
    /// In which step it was woken last.
    woken_in: usize,
    forgotten: bool,
    marked_transient: bool,
    /// The one call of a run without memoization has taken the value along.
    taken_out: bool,
    polls: usize,
    /// What the body returned, until it is dropped.
    result: Option<State>,
    /// What an error looked like to the first who saw it.
    seen: Option<String>,
}

impl Run {
    fn is_running(&self) -> bool {
        matches!(self.state, State::Running)
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Value(_) | State::Failed(_))
    }
}

#[derive(Clone, Copy, Debug)]
enum CallState {
    /// Not polled; a value that was there is taken.
    New {
        taken: Option<RunId>,
    },
    Joined(RunId),
    Over,
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    Outcome(RunId),
    Cancelled,
    Cycle(RunId),
    Run(RunId),
}

#[derive(Debug)]
struct Call {
    key: u16,
    private: bool,
    owner: Option<RunId>,
    state: CallState,
    expect: Expect,
    /// How often its run was polled when this poll of the call began.
    polls_before: usize,
    polling: bool,
    /// It was told of something since it was polled last, or may have been.
    must_wake: bool,
    /// Where that can be seen.
    flag: Option<Arc<Flag>>,
}

/// What a schedule came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Bodies started.
    pub starts: usize,
    /// Polls of bodies.
    pub polls: usize,
    /// Calls made.
    pub calls: usize,
    /// Bodies dropped unfinished.
    pub dropped: usize,
    /// Calls that ended with a value.
    pub values: usize,
    /// Calls that ended with a failure of a task.
    pub failures: usize,
    /// Calls that ended with a panic.
    pub panics: usize,
    /// Calls that were told that they would wait for themselves.
    pub cycles: usize,
    /// Calls that the end of the context ended.
    pub cancelled: usize,
    /// Results compared with what the graph alone says.
    pub pure: usize,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.starts += other.starts;
        self.polls += other.polls;
        self.calls += other.calls;
        self.dropped += other.dropped;
        self.values += other.values;
        self.failures += other.failures;
        self.panics += other.panics;
        self.cycles += other.cycles;
        self.cancelled += other.cancelled;
        self.pure += other.pure;
    }
}

#[derive(Debug, Default)]
pub(super) struct Model {
    runs: Vec<Run>,
    calls: Vec<Call>,
    /// What a new call of a key finds.
    table: HashMap<u16, RunId>,
    starts: HashMap<u16, usize>,
    closed: bool,
    /// Handles of the context's owner.
    users: usize,
    /// Something happened after which results are not a function of the graph.
    pub(super) perturbed: bool,
    step: usize,
    /// How many bodies are being polled inside one another.
    pub(super) nested: usize,
    /// How many destructors are running inside one another.
    destructors: usize,
    /// Bodies that must be polled before this step is over, and how often they were before.
    owed: Vec<(RunId, usize)>,
    /// Who awaits the end of the context.
    enders: Vec<Arc<Flag>>,
    pub(super) faults: Vec<String>,
    pub(super) stats: Stats,
    trace: bool,
}

impl Model {
    pub(super) fn new(trace: bool) -> Self {
        Self {
            trace,
            ..Self::default()
        }
    }

    pub(super) fn fault(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.trace(|| format!("FAULT {what}"));
        self.faults.push(what);
    }

    pub(super) fn trace(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{}", what());
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    pub(super) fn key_of(&self, run: RunId) -> u16 {
        self.runs[run].key
    }

    pub(super) fn is_over(&self, run: RunId) -> bool {
        self.runs[run].is_over()
    }

    // ------------------------------------------------------------------------------------------ calls

    pub(super) fn call(&mut self, key: u16, private: bool, owner: Option<RunId>) -> CallId {
        let id = self.calls.len();
        let taken = self
            .table
            .get(&key)
            .copied()
            .filter(|run| !private && matches!(self.runs[*run].state, State::Value(_)));
        self.calls.push(Call {
            key,
            private,
            owner,
            state: CallState::New { taken },
            expect: Expect::Cancelled,
            polls_before: 0,
            polling: false,
            must_wake: false,
            flag: None,
        });
        if let Some(owner) = owner {
            self.runs[owner].calls.push(id);
        }
        self.stats.calls += 1;
        self.trace(|| {
            format!("call {id} of {key} by run {owner:?}, private {private}, taken {taken:?}")
        });
        id
    }

    /// The call is polled with a waker that shows what it is told.
    pub(super) fn watch(&mut self, call: CallId, flag: &Arc<Flag>) {
        self.calls[call].flag = Some(Arc::clone(flag));
    }

    fn new_run(&mut self, key: u16, private: Option<CallId>) -> RunId {
        let id = self.runs.len();
        self.runs.push(Run {
            key,
            private,
            state: State::Running,
            callers: Vec::new(),
            calls: Vec::new(),
            started: false,
            body: false,
            polling: false,
            dropping: false,
            woken: true,
            woken_in: self.step,
            forgotten: false,
            marked_transient: false,
            taken_out: false,
            polls: 0,
            result: None,
            seen: None,
        });
        id
    }

    fn join(&mut self, call: CallId, run: RunId) -> Expect {
        self.calls[call].state = CallState::Joined(run);
        self.runs[run].callers.push(call);
        Expect::Run(run)
    }

    /// Whether `from` waits for `to`.
    fn waits(&self, from: RunId, to: RunId) -> bool {
        let mut seen = vec![from];
        let mut is_seen = vec![false; self.runs.len()];
        let mut next = 0;
        while next < seen.len() {
            let at = seen[next];
            next += 1;
            if at == to {
                return true;
            }
            for call in &self.runs[at].calls {
                if let CallState::Joined(run) = self.calls[*call].state
                    && self.runs[run].is_running()
                    && !std::mem::replace(&mut is_seen[run], true)
                {
                    seen.push(run);
                }
            }
        }
        false
    }

    pub(super) fn poll_begin(&mut self, id: CallId) {
        let call = &mut self.calls[id];
        call.polling = true;
        call.must_wake = false;
        let (key, private, owner, state) = (call.key, call.private, call.owner, call.state);
        let expect = match state {
            CallState::New { taken: Some(run) } => Expect::Outcome(run),
            CallState::New { taken: None } => {
                match self.table.get(&key).copied().filter(|_| !private) {
                    Some(run) if self.runs[run].is_over() => Expect::Outcome(run),
                    _ if self.closed => Expect::Cancelled,
                    Some(run) if owner.is_some_and(|owner| self.waits(run, owner)) => {
                        Expect::Cycle(run)
                    }
                    Some(run) => self.join(id, run),
                    None => {
                        let run = self.new_run(key, private.then_some(id));
                        if !private {
                            self.table.insert(key, run);
                        }
                        self.join(id, run)
                    }
                }
            }
            CallState::Joined(run) => Expect::Run(run),
            CallState::Over => unreachable!("a call is polled that is over"),
        };
        self.calls[id].expect = expect;
        if let Expect::Run(run) = expect {
            let it = &self.runs[run];
            self.calls[id].polls_before = it.polls;
            // Wakes made inside of something may come a little later; by the end of the step all have.
            let knows = !it.started || it.woken_in < self.step;
            // Who joins a body that woke itself leaves it to the next turn, its own included.
            let at_once = !it.started || matches!(state, CallState::Joined(_));
            let wants = it.is_running() && !it.polling && !it.dropping && it.woken && knows;
            if wants && at_once && !self.closed {
                self.owed.push((run, it.polls));
            }
        }
        self.trace(|| format!("poll call {id}: {expect:?}"));
    }

    /// What became of the poll. Gives the failure as the model knows it.
    pub(super) fn poll_end(
        &mut self,
        id: CallId,
        got: std::task::Poll<Result<(RunId, u64), &TaskError>>,
    ) -> Option<Failed> {
        use std::task::Poll;
        self.trace(|| format!("polled call {id}: {got:?}"));
        self.calls[id].polling = false;
        let expect = match self.calls[id].expect {
            Expect::Run(run) if self.runs[run].is_over() => Expect::Outcome(run),
            Expect::Run(run) if self.closed || !self.runs[run].is_running() => Expect::Cancelled,
            other => other,
        };
        let mut failed = None;
        match (expect, got) {
            (Expect::Run(run), Poll::Pending) => {
                let it = &self.runs[run];
                // Otherwise the base of the stack will drive it, or somebody does already.
                if it.woken && !it.polling && it.polls > self.calls[id].polls_before {
                    self.notify(vec![id]);
                }
                return None;
            }
            (Expect::Outcome(run), Poll::Ready(got)) => match (self.runs[run].state.clone(), got) {
                (State::Value(sum), Ok((by, its))) if (by, its) == (run, sum) => {
                    self.stats.values += 1;
                    self.runs[run].taken_out = self.calls[id].private;
                }
                (State::Failed(expected), Err(error)) => {
                    self.compare(run, &expected, error);
                    failed = Some(expected);
                }
                (state, got) => {
                    self.fault(format!(
                        "call {id}: run {run} is {state:?}, and it got {got:?}"
                    ));
                    failed = got.err().map(foreign);
                }
            },
            (Expect::Cancelled, Poll::Ready(Err(error)))
                if error.kind() == TaskErrorKind::Cancelled =>
            {
                self.stats.cancelled += 1;
                failed = Some(foreign(error));
            }
            (Expect::Cycle(run), Poll::Ready(Err(error)))
                if error.kind() == TaskErrorKind::Cycle =>
            {
                self.stats.cycles += 1;
                if let Some(owner) = self.calls[id].owner
                    && let Err(why) = self.check_path(run, owner, &error.to_string())
                {
                    self.fault(format!("call {id}: {why}"));
                }
                failed = Some(foreign(error));
            }
            (expect, Poll::Ready(got)) => {
                self.fault(format!("call {id}: expected {expect:?}, got {got:?}"));
                failed = got.err().map(foreign);
            }
            (expect, Poll::Pending) => {
                self.fault(format!("call {id}: expected {expect:?}, and it is pending"));
                return None;
            }
        }
        self.over(id);
        failed
    }

    fn over(&mut self, id: CallId) -> Option<RunId> {
        if let Some(owner) = self.calls[id].owner {
            self.runs[owner].calls.retain(|call| *call != id);
        }
        self.calls[id].flag = None;
        self.calls[id].must_wake = false;
        match std::mem::replace(&mut self.calls[id].state, CallState::Over) {
            CallState::Joined(run) => {
                self.runs[run].callers.retain(|call| *call != id);
                Some(run)
            }
            _ => None,
        }
    }

    fn compare(&mut self, run: RunId, expected: &Failed, error: &TaskError) {
        let text = error.to_string();
        match error.kind() {
            TaskErrorKind::Failed => self.stats.failures += 1,
            TaskErrorKind::Panicked => self.stats.panics += 1,
            _ => {}
        }
        if error.kind() != expected.kind {
            self.fault(format!(
                "run {run} failed with {expected:?}, a caller got {text}"
            ));
        }
        if error.kind() == TaskErrorKind::Failed {
            let made_by = error.downcast_ref::<Failure>().map(|failure| failure.run);
            if made_by != expected.made_by {
                self.fault(format!("run {run} failed with {expected:?}, a caller got the failure of run {made_by:?}"));
            }
        }
        if let Some(shown) = expected.display()
            && shown != text
        {
            self.fault(format!(
                "run {run} failed with \"{shown}\", a caller got \"{text}\""
            ));
        }
        match &self.runs[run].seen {
            None => self.runs[run].seen = Some(text),
            Some(seen) if *seen != text => {
                let what = format!("run {run} gave \"{seen}\" and \"{text}\"");
                self.fault(what);
            }
            Some(_) => {}
        }
    }

    /// The circle in the text is one in the graph: from `to` over those that it waits for to `from`, and round.
    fn check_path(&self, to: RunId, from: RunId, text: &str) -> Result<(), String> {
        let Some((_, path)) = text.split_once("would wait for itself: ") else {
            return Err(format!("no path in \"{text}\""));
        };
        let path = path.split(';').next().unwrap_or("");
        // A long path is shown in part.
        if path.contains(" more)") {
            return Ok(());
        }
        let names: Vec<_> = path.split(" > ").collect();
        let mut at = vec![to];
        for (index, name) in names.iter().enumerate() {
            let last = index + 1 == names.len();
            if last {
                at = if at.contains(&from) {
                    vec![to]
                } else {
                    Vec::new()
                };
            } else if index > 0 {
                let mut next = Vec::new();
                for run in at {
                    for call in &self.runs[run].calls {
                        if let CallState::Joined(run) = self.calls[*call].state
                            && self.runs[run].is_running()
                        {
                            next.push(run);
                        }
                    }
                }
                at = next;
            }
            at.retain(|run| task_name(self.runs[*run].key) == *name);
            if at.is_empty() {
                return Err(format!("nobody waits like \"{path}\""));
            }
        }
        Ok(())
    }

    /// The call is dropped.
    pub(super) fn leave(&mut self, id: CallId) {
        if let CallState::Over = self.calls[id].state {
            return;
        }
        self.trace(|| format!("drop call {id}"));
        let Some(run) = self.over(id) else { return };
        let it = &mut self.runs[run];
        if it.is_running() && it.callers.is_empty() && !it.polling {
            if it.body {
                it.dropping = true;
            } else {
                self.gone(run);
            }
        }
    }

    // ----------------------------------------------------------------------------------------- bodies

    /// A body is made. Gives the run and how many there were of this key.
    pub(super) fn body_start(&mut self, key: u16, private: Option<CallId>) -> (RunId, usize) {
        let starts = self.starts.entry(key).or_default();
        *starts += 1;
        let starts = *starts;
        self.stats.starts += 1;
        let found = match private {
            None => self.table.get(&key).copied(),
            Some(call) => match self.calls[call].state {
                CallState::Joined(run) => Some(run),
                _ => None,
            },
        };
        // One that was forgotten before it started is not in the table.
        let expected = |run: &Run| {
            run.key == key && run.is_running() && !run.started && run.private == private
        };
        let found = found
            .filter(|run| expected(&self.runs[*run]))
            .or_else(|| self.runs.iter().position(expected));
        let run = match found {
            Some(run) => run,
            None => {
                self.fault(format!("a body of {key} starts and nobody asked for it"));
                self.new_run(key, private)
            }
        };
        self.trace(|| format!("start run {run} of {key}"));
        let it = &mut self.runs[run];
        it.started = true;
        it.body = true;
        it.polling = true;
        (run, starts)
    }

    /// The task panicked before there was a body.
    pub(super) fn start_panicked(&mut self, run: RunId) {
        let it = &mut self.runs[run];
        it.body = false;
        let failed = panicked(it.key, run);
        self.publish(run, State::Failed(failed));
    }

    pub(super) fn body_poll_begin(&mut self, run: RunId) {
        self.stats.polls += 1;
        self.nested += 1;
        self.trace(|| format!("poll run {run}"));
        for call in &self.runs[run].calls {
            let call = &mut self.calls[*call];
            // Nobody knows whose wake, of those that it waits for, this poll comes of (it may have come for nothing, even). So from now on
            // any of them may have been told already, and is told again only after it is polled.
            call.must_wake |= call.flag.is_none();
        }
        let it = &mut self.runs[run];
        let first = it.polls == 0;
        it.polls += 1;
        it.woken = false;
        let wrong = !it.is_running() || it.result.is_some() || it.dropping || it.polling != first;
        it.polling = true;
        if wrong {
            let what = format!("run {run} is polled: {:?}", self.runs[run]);
            self.fault(what);
        }
    }

    pub(super) fn body_poll_pending(&mut self, run: RunId) {
        self.trace(|| format!("polled run {run}: pending"));
        let it = &mut self.runs[run];
        it.polling = false;
        if it.callers.is_empty() || self.closed {
            it.dropping = true;
        } else if it.woken {
            self.notify_callers(run);
        }
    }

    /// The body has ended, and will be dropped before anybody is told.
    pub(super) fn body_ends(&mut self, run: RunId, result: Result<u64, Failed>) {
        self.trace(|| format!("run {run} ends: {result:?}"));
        let it = &mut self.runs[run];
        it.result = Some(match result {
            Ok(sum) => State::Value(sum),
            Err(mut failed) => {
                if failed.kind != TaskErrorKind::Panicked || failed.made_by != Some(run) {
                    failed.path.insert(0, it.key);
                    failed.transient |= it.marked_transient;
                }
                State::Failed(failed)
            }
        });
    }

    pub(super) fn body_panicked(&mut self, run: RunId) {
        let key = self.runs[run].key;
        self.body_ends(run, Err(panicked(key, run)));
    }

    pub(super) fn mark_transient(&mut self, run: RunId) {
        self.runs[run].marked_transient = true;
    }

    /// A destructor runs; says whether it may call anything. Not while the context is being closed (some slots are, some are not yet), and not
    /// below many others: that is the tasks' own recursion.
    pub(super) fn enter_destructor(&mut self) -> bool {
        self.destructors += 1;
        self.destructors <= 8 && !self.closed
    }

    pub(super) fn leave_destructor(&mut self) {
        self.destructors -= 1;
    }

    /// The body is dropped; `panics`: with a panic.
    pub(super) fn body_dropped(&mut self, run: RunId, panics: bool) {
        self.trace(|| format!("dropped body of run {run}"));
        let it = &mut self.runs[run];
        let wrong = !std::mem::take(&mut it.body);
        if let Some(result) = it.result.take() {
            let was_panic = matches!(&result, State::Failed(f) if f.kind == TaskErrorKind::Panicked && f.made_by == Some(run));
            let result = if panics && !was_panic {
                State::Failed(panicked(it.key, run))
            } else {
                result
            };
            self.publish(run, result);
        } else {
            self.stats.dropped += 1;
            if !it.dropping {
                self.fault(format!(
                    "the body of run {run} is dropped, and somebody waits for it"
                ));
            }
            self.gone(run);
        }
        if wrong {
            self.fault(format!("the body of run {run} is dropped twice"));
        }
    }

    fn gone(&mut self, run: RunId) {
        let it = &mut self.runs[run];
        it.state = State::Gone;
        it.polling = false;
        let (key, private, forgotten) = (it.key, it.private, it.forgotten);
        let in_table = self.table.get(&key) == Some(&run);
        if in_table {
            self.table.remove(&key);
        }
        if self.runs[run].callers.is_empty() || self.closed {
            self.notify_callers(run);
            return;
        }
        // Who came while the body was dropped starts afresh.
        let next = self.new_run(key, private);
        self.runs[next].forgotten = forgotten;
        if in_table {
            self.table.insert(key, next);
        }
        let callers = std::mem::take(&mut self.runs[run].callers);
        for call in &callers {
            self.calls[*call].state = CallState::Joined(next);
        }
        self.runs[next].callers = callers;
        self.notify_callers(next);
    }

    fn publish(&mut self, run: RunId, outcome: State) {
        let it = &mut self.runs[run];
        it.polling = false;
        let keep = match &outcome {
            State::Failed(failed) if self.closed && failed.kind == TaskErrorKind::Cancelled => {
                return self.gone(run);
            }
            State::Failed(failed) => !failed.transient,
            _ => true,
        };
        it.state = outcome;
        let key = it.key;
        if !keep && self.table.get(&key) == Some(&run) {
            self.table.remove(&key);
        }
        self.notify_callers(run);
    }

    // ------------------------------------------------------------------------------------------ wakes

    /// The waker of a body is called.
    pub(super) fn wake(&mut self, run: RunId) {
        self.trace(|| format!("wake run {run}"));
        if self.becomes_woken(run) {
            self.notify_callers(run);
        }
    }

    /// False if somebody else sees to it.
    fn becomes_woken(&mut self, run: RunId) -> bool {
        let it = &mut self.runs[run];
        let news = it.is_running() && it.started && !it.woken;
        if news {
            it.woken = true;
            it.woken_in = self.step;
        }
        news
    }

    fn notify_callers(&mut self, run: RunId) {
        self.notify(self.runs[run].callers.clone());
    }

    /// Tells calls, and through them whoever waits for the bodies that made them. (A loop: chains are long.)
    fn notify(&mut self, mut calls: Vec<CallId>) {
        while let Some(id) = calls.pop() {
            let call = &mut self.calls[id];
            // One that is being polled finds out by itself; one that was told already need not be told again before it is polled.
            if call.polling || call.must_wake {
                continue;
            }
            call.must_wake = true;
            // If it was told for nothing, so was its owner.
            let told = call.flag.as_ref().is_some_and(|flag| flag.is_set());
            if let Some(owner) = call.owner
                && !told
            {
                self.trace(|| format!("call {id} wakes run {owner}"));
                if self.becomes_woken(owner) {
                    calls.extend(&self.runs[owner].callers);
                }
            }
        }
    }

    // ------------------------------------------------------------------------------- what else there is

    pub(super) fn peek(&self, key: u16) -> Option<State> {
        let run = &self.runs[*self.table.get(&key)?];
        run.is_over().then(|| run.state.clone())
    }

    pub(super) fn in_table(&self, key: u16) -> Option<RunId> {
        self.table.get(&key).copied()
    }

    /// Whether there is something to forget.
    pub(super) fn forget(&mut self, key: u16) -> bool {
        self.trace(|| format!("forget {key}"));
        let Some(run) = self.table.get(&key).copied() else {
            return false;
        };
        let it = &mut self.runs[run];
        if it.is_running() && !it.started {
            return false;
        }
        it.forgotten = true;
        self.table.remove(&key);
        true
    }

    /// The run that a primed value counts as, if it is taken.
    pub(super) fn prime(&mut self, key: u16, sum: u64) -> (RunId, bool) {
        let there = self.table.get(&key).copied();
        let run = match there {
            Some(run) if self.runs[run].is_running() && !self.runs[run].started => run,
            _ => self.new_run(key, None),
        };
        let taken = !self.closed && there.is_none_or(|there| there == run);
        self.trace(|| format!("prime {key} as run {run}: {taken}"));
        if taken {
            self.perturbed = true;
            self.runs[run].started = true;
            self.table.insert(key, run);
            self.publish(run, State::Value(sum));
        } else {
            self.runs[run].state = State::Gone;
        }
        (run, taken)
    }

    pub(super) fn user(&mut self) {
        self.users += 1;
    }

    pub(super) fn user_gone(&mut self) {
        self.users -= 1;
        if self.users == 0 {
            self.close();
        }
    }

    pub(super) fn await_end(&mut self, flag: &Arc<Flag>) {
        self.enders.push(Arc::clone(flag));
    }

    pub(super) fn awaits_no_more(&mut self, flag: &Arc<Flag>) {
        self.enders.retain(|its| !Arc::ptr_eq(its, flag));
    }

    pub(super) fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.trace(|| "close".to_owned());
        self.perturbed = true;
        for run in 0..self.runs.len() {
            let it = &mut self.runs[run];
            if !it.is_running() {
                continue;
            }
            if !it.started {
                self.gone(run);
            } else {
                if !it.polling {
                    it.dropping = true;
                }
                self.notify_callers(run);
            }
        }
    }

    /// What holds between two steps.
    pub(super) fn settle(&mut self) {
        self.step += 1;
        let mut faults = Vec::new();
        for (run, polls) in self.owed.drain(..) {
            let it = &self.runs[run];
            if it.is_running() && it.polls <= polls {
                faults.push(format!(
                    "run {run} wanted a poll, a caller was polled, and the body was not"
                ));
            }
        }
        for (id, run) in self.runs.iter().enumerate() {
            if run.body && (run.polling || run.dropping || !run.is_running()) {
                faults.push(format!("the body of run {id} is there: {run:?}"));
            }
            if run.is_running() && run.callers.is_empty() {
                faults.push(format!("run {id} runs for nobody"));
            }
        }
        for (id, call) in self.calls.iter().enumerate() {
            if call.must_wake
                && let Some(flag) = &call.flag
                && !flag.is_set()
            {
                faults.push(format!("call {id} sleeps: {call:?}"));
            }
        }
        if self.closed && self.enders.iter().any(|flag| !flag.is_set()) {
            faults.push("somebody who awaits the end of the context sleeps".to_owned());
        }
        for fault in faults {
            self.fault(fault);
        }
    }

    /// How a run ended: with which sum, or with which failure, made in which run.
    pub(super) fn outcome(
        &self,
        run: RunId,
    ) -> Option<Result<u64, (TaskErrorKind, Option<RunId>)>> {
        match &self.runs[run].state {
            State::Value(sum) => Some(Ok(*sum)),
            State::Failed(failed) => Some(Err((failed.kind, failed.made_by))),
            State::Running | State::Gone => None,
        }
    }

    /// Values that the context keeps.
    pub(super) fn values(&self) -> usize {
        self.runs
            .iter()
            .filter(|run| !run.taken_out && matches!(run.state, State::Value(_)))
            .count()
    }

    /// Bodies that there are.
    pub(super) fn bodies(&self) -> usize {
        self.runs.iter().filter(|run| run.body).count()
    }
}

/// The panic of the task itself.
fn panicked(key: u16, run: RunId) -> Failed {
    Failed {
        kind: TaskErrorKind::Panicked,
        made_by: Some(run),
        transient: false,
        path: vec![key],
        text: format!("panicked: run {run}"),
    }
}

/// An error that the engine made in the call.
fn foreign(error: &TaskError) -> Failed {
    Failed {
        kind: error.kind(),
        made_by: None,
        transient: false,
        path: Vec::new(),
        text: error.to_string(),
    }
}

/// The failure that a body makes itself.
pub(super) fn own_failure(run: RunId) -> Failed {
    Failed {
        kind: TaskErrorKind::Failed,
        made_by: Some(run),
        transient: false,
        path: Vec::new(),
        text: format!("failed: {}", Failure::text(run)),
    }
}

const _: fn(u16) -> usize = task_of;
