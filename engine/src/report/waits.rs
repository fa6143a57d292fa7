//! Who waits for whom now: the answer to "where does it hang?".
//!
//! A look at the slots and at the wait graph of [`crate::cycle`], which is there in every context; nothing is recorded for it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use crate::context::Ctx;
use crate::cycle;
use crate::error::short;
use crate::observe::{self, RunId};
use crate::slot::SlotPtr;

/// The runs of a context that have not ended, and who waits for them. Made by [`Ctx::waits`].
///
/// Its `Display` is a tree: those that are called from outside, and below each what it waits for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Waits {
    /// The runs, in no order.
    pub runs: Vec<Waiting>,
}

/// A run that has not ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Waiting {
    /// The full type name of the task.
    pub task: &'static str,
    /// Its number, if the context has an observer or records.
    pub run: Option<RunId>,
    /// Where it stands.
    pub state: WaitState,
    /// For how long it has been under way, if the context has an observer or records.
    pub since: Option<Duration>,
    /// Which runs (by their place in [`Waits::runs`]) its body waits for. If there are none, it waits for something that the
    /// engine does not know: I/O, a timer, a lock, a channel.
    pub waits_for: Vec<usize>,
    /// Which runs' bodies wait for it.
    pub waited_by: Vec<usize>,
    /// How many calls wait for it that are no body's: from a handler, by `spawn`.
    pub outside: usize,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitState {
    /// Somebody is counted on to start it, and has not: a spawned call that the runtime has not polled, say.
    NotStarted,
    /// Its body is being polled (or dropped) at this moment: if it stays so, the body blocks or loops.
    Polled,
    /// Its body is pending, and was not woken.
    Pending,
    /// Its body was woken and wants to be polled, but none of its callers has been. If it stays so, they are all kept and not polled: in a `select!` that looks
    /// elsewhere, on a thread that is blocked.
    Woken,
}

impl fmt::Display for WaitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "not started yet",
            Self::Polled => "being polled",
            Self::Pending => "pending",
            Self::Woken => "woken, but not polled since",
        })
    }
}

impl Waiting {
    fn name(&self) -> String {
        short(self.task)
    }
}

impl<S: Send + Sync + 'static> Ctx<S> {
    /// Who waits for whom in this context now: the answer to "where does it hang?".
    ///
    /// Works in every context, also one that records nothing. Inputs are not shown.
    ///
    /// # Concurrency
    /// A look: things move on meanwhile, so that what is shown need not all have been so at one moment. Calls that join a run wait for the look to end.
    ///
    /// # Cost
    /// A walk over all that the context has, finished runs too.
    ///
    /// # Examples
    /// ```
    /// use std::future::Future;
    /// use std::pin::pin;
    /// use std::task::{Context, Waker};
    /// use watershed::{Ctx, TaskError};
    ///
    /// async fn reply(_: Ctx<()>, _: ()) -> Result<(), TaskError> { std::future::pending().await }
    /// async fn page(ctx: Ctx<()>, _: ()) -> Result<(), TaskError> { ctx.run(reply, ()).await.copied() }
    ///
    /// let ctx = Ctx::new(());
    /// let mut call = pin!(ctx.run(page, ()));
    /// assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    /// assert_eq!(
    ///     ctx.waits().to_string(),
    ///     "page is pending, called from outside, and waits for\n  \
    ///        reply is pending, and waits for something outside of the context\n",
    /// );
    /// ```
    pub fn waits(&self) -> Waits {
        let core = self.core();
        let mut slots: Vec<SlotPtr> = Vec::new();
        let mut runs: Vec<Waiting> = Vec::new();
        let mut at: HashMap<*mut (), usize> = HashMap::new();
        core.each_slot(|slot| {
            let word = slot.look();
            if word.is_terminal() || (word.is_empty() && word.callers() == 0) {
                return;
            }
            let state = if word.is_empty() {
                WaitState::NotStarted
            } else if word.is_claimed() {
                WaitState::Polled
            } else if slot.wants_poll(word) {
                WaitState::Woken
            } else {
                WaitState::Pending
            };
            let watched = core.is_observed() && !word.is_empty();
            at.insert(slot.erased().as_ptr(), runs.len());
            slots.push(slot);
            runs.push(Waiting {
                task: slot.name(),
                run: watched.then(|| observe::run_id(slot)).flatten(),
                state,
                since: watched.then(|| observe::running_for(core, slot)).flatten(),
                waits_for: Vec::new(),
                waited_by: Vec::new(),
                outside: word.callers(),
            });
        });
        let mut pairs = HashSet::new();
        cycle::each_wait(core, &slots, |from, to| {
            let from = at.get(&from.erased().as_ptr());
            let to = at.get(&to.erased().as_ptr());
            if let (Some(&from), Some(&to)) = (from, to) {
                runs[to].outside = runs[to].outside.saturating_sub(1);
                // A body may wait for one run by several calls.
                if pairs.insert((from, to)) {
                    runs[from].waits_for.push(to);
                    runs[to].waited_by.push(from);
                }
            }
        });
        Waits { runs }
    }
}

/// How many lines are written.
const LINES: usize = 500;

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.runs.is_empty() {
            return f.write_str("nothing is under way\n");
        }
        let mut shown = vec![false; self.runs.len()];
        let mut lines = 0;
        let roots = |at: &usize| self.runs[*at].waited_by.is_empty();
        // Those that nobody waits for inside of the context, then what a cycle of leaked calls may have left.
        let order = (0..self.runs.len())
            .filter(roots)
            .chain((0..self.runs.len()).filter(|at| !roots(at)));
        let order: Vec<usize> = order.collect();
        for first in order {
            if shown[first] {
                continue;
            }
            let mut todo = vec![(first, 0)];
            while let Some((at, level)) = todo.pop() {
                if lines == LINES {
                    return writeln!(f, "(and so on: {} runs are under way)", self.runs.len());
                }
                lines += 1;
                let run = &self.runs[at];
                let again = std::mem::replace(&mut shown[at], true);
                write!(f, "{}{} ", "  ".repeat(level.min(40)), run.name())?;
                if again {
                    writeln!(f, "(see above)")?;
                    continue;
                }
                write!(f, "is {}", run.state)?;
                if let Some(since) = run.since {
                    write!(f, " ({} after its start)", super::time(since))?;
                }
                match run.outside {
                    0 => {}
                    1 => f.write_str(", called from outside")?,
                    n => write!(f, ", called from outside {n} times")?,
                }
                match run.waits_for.len() {
                    0 if run.state == WaitState::Pending => {
                        writeln!(f, ", and waits for something outside of the context")?;
                    }
                    0 => writeln!(f)?,
                    _ => writeln!(f, ", and waits for")?,
                }
                todo.extend(run.waits_for.iter().rev().map(|at| (*at, level + 1)));
            }
        }
        Ok(())
    }
}
