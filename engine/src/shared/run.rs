//! A run of the tier: who drives it, who waits for it, and what it leaves.
//!
//! A run is a run in a context of its own, whose state is the tier's. One *driver*, a task on the runtime, is the only caller of its root
//! slot, so no request's drop ends it and no request's task polls it: what a body finds in a task-local is never some request's. Everybody
//! else *asks*: looks in the map, and if there is a run under way waits until its outcome is there. When the body has ended the driver
//! moves the value out of the slot, so that the value keeps nothing of the run, and the context closes.
//!
//! | row | who | operation | pairs with | why |
//! |---|---|---|---|---|
//! | R1 | driver | store Release of the outcome, under the entry's lock | R2 | the outcome is written; and who has it and asks again finds the entry without this run |
//! | R2 | asker | load Acquire of the outcome, before and after it registered at the hub | R1 | registration and wake are ordered by the hub's word (H1, H5) |
//!
//! A run that is lost with its runtime leaves no outcome of its own: who waited asks again.

use std::future::Future;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use super::entry::Entry;
#[cfg(not(loom))]
use super::entry::TaskMeta;
use super::outcome::{Head, Outcome};
use super::tier::{Asked, Tier};
use crate::context::{CorePtr, Reason, Strong, User};
use crate::cycle::{self, EdgePtr};
use crate::error::{TaskError, TaskErrorKind};
use crate::run::{Caller, RawRun};
use crate::slot::SlotPtr;
use crate::sync::atomic::{AtomicPtr, AtomicU8, Ordering};
use crate::sync::{Arc, SeenArc};
use crate::wake::{Hub, Park};

/// A run, for those who wait for it.
pub(super) struct Running {
    pub(super) tier: Arc<Tier>,
    pub(super) entry: Arc<Entry>,
    /// In the tier's list of runs.
    pub(super) id: u64,
    pub(super) started: u64,
    /// The old value is there and given meanwhile.
    pub(super) refresh: bool,
    pub(super) root: SlotPtr,
    /// Keeps the root; not open.
    pub(super) context: Strong,
    outcome: AtomicPtr<Head>,
    hub: AtomicPtr<Hub>,
    ended_by: AtomicU8,
}

/// What ended the run from outside.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum EndedBy {
    Nobody = 0,
    #[cfg_attr(loom, allow(dead_code))] // no model has a timer
    TimeLimit = 1,
    Shutdown = 2,
    RuntimeGone = 3,
}

impl Running {
    pub(super) fn new(
        entry: Arc<Entry>,
        id: u64,
        started: u64,
        refresh: bool,
        prepared: &Prepared,
    ) -> Self {
        let hub = AtomicPtr::new(std::ptr::null_mut());
        // Made now: a hub that is made by who waits could be missed by the driver, which looks for one after it stored the outcome.
        Hub::get_or_make(&hub);
        Self {
            tier: prepared.tier.clone(),
            entry,
            id,
            started,
            refresh,
            root: prepared.root,
            context: prepared.user.core().strong(),
            outcome: AtomicPtr::new(std::ptr::null_mut()),
            hub,
            ended_by: AtomicU8::new(EndedBy::Nobody as u8),
        }
    }

    pub(super) fn hub(&self) -> &Hub {
        Hub::get_or_make(&self.hub)
    }

    /// R1.
    pub(super) fn set_outcome(&self, outcome: Outcome) {
        // ORDER: Release (R1).
        self.outcome.store(outcome.into_ptr(), Ordering::Release);
    }

    /// R2.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        // ORDER: Acquire (R2).
        let outcome = NonNull::new(self.outcome.load(Ordering::Acquire))?;
        // SAFETY: the run has a handle of it until it is dropped.
        Some(unsafe { Outcome::clone_ptr(outcome) })
    }

    pub(super) fn name(&self) -> &'static str {
        self.root.name()
    }

    /// Ends the run: its context is closed, so that the body is dropped, and the driver sees why.
    pub(super) fn end(&self, by: EndedBy) {
        // ORDER: Relaxed, both; read by who found the context closed, which comes after. The first reason stays.
        let _ = self.ended_by.compare_exchange(
            EndedBy::Nobody as u8,
            by as u8,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        self.context.core().close(match by {
            EndedBy::TimeLimit => Reason::Deadline,
            _ => Reason::Cancelled,
        });
    }

    fn is_ended_by(&self, by: EndedBy) -> bool {
        // ORDER: Relaxed; see `end`.
        self.ended_by.load(Ordering::Relaxed) == by as u8
    }

    /// Whether the run was lost with its runtime.
    pub(super) fn is_lost(&self) -> bool {
        self.is_ended_by(EndedBy::RuntimeGone)
    }

    /// The error of a run that came to no outcome of its own.
    fn closed_error(&self, error: TaskError) -> TaskError {
        let task = self.name();
        if self.is_ended_by(EndedBy::TimeLimit) {
            let why = "was not done within its time limit; give its policy more time, or the task less to do";
            TaskError::closed(task, TaskErrorKind::DeadlineExceeded, why)
        } else if self.is_ended_by(EndedBy::Shutdown) {
            TaskError::closed(task, TaskErrorKind::Cancelled, SHUT_DOWN)
        } else if self.is_ended_by(EndedBy::RuntimeGone) {
            let why = "was dropped with the tokio runtime that it ran on; keep that runtime until its work is done";
            TaskError::closed(task, TaskErrorKind::Cancelled, why)
        } else {
            error
        }
    }
}

pub(super) const SHUT_DOWN: &str =
    "was refused: the shared tier was shut down; it gives what it has and runs nothing more";

impl Drop for Running {
    fn drop(&mut self) {
        // ORDER: Relaxed, both; nobody else has the run.
        let outcome = NonNull::new(self.outcome.load(Ordering::Relaxed));
        // SAFETY: the handle was this run's (R1).
        drop(outcome.map(|outcome| unsafe { Outcome::from_ptr(outcome) }));
        let hub = self.hub.load(Ordering::Relaxed);
        // SAFETY: the hub goes with its owner.
        unsafe { Hub::release(hub) };
    }
}

/// A context with a root slot, not started.
pub(super) struct Prepared {
    pub(super) tier: Arc<Tier>,
    pub(super) user: User,
    pub(super) root: SlotPtr,
}

impl Prepared {
    /// Clones the input, so it may unwind.
    pub(super) fn new(tier: &Arc<Tier>, entry: &Entry) -> Self {
        let user = User::in_tier(tier.clone(), tier.max_depth());
        // SAFETY: the entry is of its own task.
        let root = unsafe { (entry.task.root)(user.core(), entry) };
        let root = user.core().put_private(root);
        Self {
            tier: tier.clone(),
            user,
            root,
        }
    }

    /// The task that is to run on the runtime.
    pub(super) fn driver(self, run: SeenArc<Running>) -> Driver {
        let mut call = RawRun::private(self.root);
        let caller = Caller {
            core: self.user.core(),
            body: None,
        };
        // Counted now, so that the body knows that it is not the first who is there (`cycle::depth`). A context that was closed
        // already (a shutdown) is seen by the first poll.
        let _ = call.enlist(caller, None);
        Driver {
            call,
            run: Some(run),
            #[cfg(not(loom))]
            limit: None,
            user: self.user,
        }
    }
}

/// Drives one run to its end. The only caller of its root.
pub(super) struct Driver {
    call: RawRun,
    /// Until it has ended.
    run: Option<SeenArc<Running>>,
    #[cfg(not(loom))]
    pub(super) limit: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Keeps the context open. Last: `call` leaves before.
    user: User,
}

impl Driver {
    /// What the run is of.
    #[cfg(not(loom))]
    pub(super) fn task(&self) -> &'static TaskMeta {
        // Before the first poll, so there is a run.
        self.run.as_ref().map_or_else(
            || unreachable!("a driver that has ended"),
            |run| run.entry.task,
        )
    }

    /// The run has a time limit, and there is no timer to keep it.
    #[cfg(not(loom))]
    pub(super) fn fail_without_timer(mut self) {
        if let Some(run) = self.run.take() {
            let error =
                TaskError::no_runtime(run.name(), "the time limit of a run of the shared tier");
            run.tier.finish(&run, Err(error));
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(run) = &this.run else {
            return Poll::Ready(());
        };
        #[cfg(not(loom))]
        if let Some(limit) = &mut this.limit
            && limit.as_mut().poll(cx).is_ready()
        {
            run.end(EndedBy::TimeLimit);
            this.limit = None;
        }
        let caller = Caller {
            core: this.user.core(),
            body: None,
        };
        let Poll::Ready(outcome) = this.call.poll(caller, cx) else {
            return Poll::Pending;
        };
        let outcome = match outcome {
            // SAFETY: the slot is of the entry's task, is DONE, and private.
            Ok(()) => Ok(unsafe { (run.entry.task.take)(this.call.slot()) }),
            Err(error) => Err(run.closed_error(error)),
        };
        if let Some(run) = this.run.take() {
            run.tier.finish(&run, outcome);
        }
        Poll::Ready(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let caller = Caller {
            core: self.user.core(),
            body: None,
        };
        let run = self.run.take();
        // CANCEL: with a run, the runtime goes away and the run is unfinished. Nobody drives it any more: the body is dropped, and who
        // waits is told.
        if let Some(run) = &run {
            run.end(EndedBy::RuntimeGone);
        }
        self.call.leave(caller);
        if let Some(run) = run {
            let error = run.closed_error(TaskError::new("the run was dropped"));
            run.tier.finish(&run, Err(error));
        }
    }
}

/// A call of the tier: what a caller awaits, without types.
pub(super) struct Ask {
    tier: Arc<Tier>,
    /// For this task and input; in the map once it was polled, or equal to one that is.
    entry: Arc<Entry>,
    /// The body that asks, if it is one of a run of a tier.
    from: Option<(CorePtr, SlotPtr)>,
    waits: Option<Waits>,
    /// Runs that were lost with their runtime while this waited.
    lost: u32,
}

struct Waits {
    run: SeenArc<Running>,
    edge: Option<EdgePtr>,
    park: Park,
}

impl Ask {
    pub(super) fn new(
        tier: Arc<Tier>,
        entry: Arc<Entry>,
        from: Option<(CorePtr, SlotPtr)>,
    ) -> Self {
        Self {
            tier,
            entry,
            from,
            waits: None,
            lost: 0,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        (self.entry.task.name)()
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Outcome, TaskError>> {
        let mut registered = false;
        loop {
            if let Some(waits) = &mut self.waits {
                if let Some(outcome) = waits.run.outcome() {
                    let lost = waits.run.is_lost();
                    self.leave();
                    if lost && self.lost == 0 {
                        // Once more, on the runtime of who asks; but not for ever on one that drops whatever it is given.
                        self.lost += 1;
                        continue;
                    }
                    return Poll::Ready(Ok(outcome));
                }
                if registered {
                    // CANCEL: dropped from here on, `leave` takes back edge and waker; the run goes on.
                    return Poll::Pending;
                }
                waits.park.register(waits.run.hub(), cx.waker());
                registered = true;
                continue;
            }
            let body = self.from.map(|(_, body)| body);
            match Tier::ask(&self.tier, &mut self.entry, body) {
                Err(error) => return Poll::Ready(Err(error)),
                Ok(Asked::Found(outcome)) => return Poll::Ready(Ok(outcome)),
                Ok(Asked::Waits(run, driver)) => {
                    // Before the run starts: it is to be deeper than who waits for it.
                    let edge = match self.from {
                        Some((core, body)) => cycle::wait(core, body, run.root).map(Some),
                        None => Ok(None),
                    };
                    if let Some(driver) = driver {
                        Tier::spawn(&self.tier, driver);
                    }
                    self.waits = Some(Waits {
                        run,
                        edge: match edge {
                            Ok(edge) => edge,
                            Err(error) => return Poll::Ready(Err(error)),
                        },
                        park: Park::default(),
                    });
                }
            }
        }
    }

    /// Waits no more.
    fn leave(&mut self) {
        let Some(mut waits) = self.waits.take() else {
            return;
        };
        if let (Some(edge), Some((core, _))) = (waits.edge.take(), self.from) {
            cycle::leave(core, edge);
        }
        if waits.park.is_parked() {
            waits.park.leave(waits.run.hub());
        }
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        self.leave();
    }
}
