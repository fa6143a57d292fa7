//! A call: the future that a caller awaits. It claims, polls, parks, and leaves.
//!
//! [`RawRun`] is the one core: it knows a slot and no types. [`Run`], [`HeldRun`] and [`RunFresh`] are faces over it that know the
//! value's type, and the fan-outs of [`crate::parallel`] hold it in lists. The rows (S1 ...) are those of [`crate::slot`].

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::context::{CorePtr, Ctx};
use crate::cycle::{self, EdgePtr};
use crate::error::TaskError;
use crate::held::Held;
use crate::observe::{self, Since};
use crate::slot::{SlotPtr, Start, Word};
use crate::stack::{self, Place};
use crate::wake::{Park, queue};

/// A caller of a slot, without types.
pub(crate) struct RawRun {
    slot: SlotPtr,
    park: Park,
    /// What the caller's body adds to the wait graph while it waits for a run that it did not start.
    edge: Option<EdgePtr>,
    /// This call is one of the slot's callers (S1, S2 ... S8).
    counted: bool,
    /// This call started the run, so the slot's starter stands for its edge.
    started: bool,
    /// The slot is known to this call alone and is never looked up.
    private: bool,
    /// What observers are still to be told of this call.
    since: Since,
}

/// Who calls: the context, and the body that does, if it is one.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) core: CorePtr,
    pub(crate) body: Option<SlotPtr>,
}

impl RawRun {
    pub(crate) fn new(slot: SlotPtr) -> Self {
        Self {
            slot,
            park: Park::default(),
            edge: None,
            counted: false,
            started: false,
            private: false,
            since: Since::NEVER,
        }
    }

    pub(crate) fn private(slot: SlotPtr) -> Self {
        Self {
            private: true,
            ..Self::new(slot)
        }
    }

    pub(crate) fn slot(&self) -> SlotPtr {
        self.slot
    }

    /// Counts this call without polling anything: a promise that it will (S2). For `spawn` and `parallel`.
    ///
    /// `origin`: the body that observers are to be told of, which need not wait itself.
    #[cfg(any(feature = "tokio", loom))]
    pub(crate) fn enlist(
        &mut self,
        caller: Caller,
        origin: Option<SlotPtr>,
    ) -> Result<(), TaskError> {
        // Counted already: the fan was polled again after something of the user's unwound.
        while !self.counted {
            let w = self.slot.look();
            if w.is_dead() {
                self.renew(caller);
            } else if w.is_terminal() {
                if w.is_observed() {
                    observe::over(caller.core, self.slot, origin, &mut self.since);
                }
                return Ok(());
            } else if w.is_closed() {
                return Err(caller.core.closed_error(self.slot.name()));
            } else {
                if w.is_empty() {
                    caller.core.check_start(self.slot, caller.body)?;
                }
                self.join_edge(caller, w)?;
                self.counted = self.slot.join(w);
                if !self.counted {
                    self.drop_edge(caller.core);
                } else if w.is_observed() {
                    self.joined(caller.core, origin, w);
                }
            }
        }
        Ok(())
    }

    /// For observers: this call, which has just been counted where it saw `seen`, did not start the run itself.
    #[cold]
    fn joined(&mut self, core: CorePtr, body: Option<SlotPtr>, seen: Word) {
        let promised = seen.is_empty() && seen.callers() == 0;
        self.since = observe::joined(core, self.slot, body, promised);
    }

    /// For observers: what they are told of this call is somebody else's to tell from now on.
    #[cfg(any(feature = "tokio", loom))]
    pub(crate) fn take_since(&mut self) -> Since {
        std::mem::replace(&mut self.since, Since::TOLD)
    }

    /// For observers: this call has started the run, and nobody had promised to.
    #[cfg(any(feature = "tokio", loom))]
    pub(crate) fn is_starter(&self) -> bool {
        self.started && self.since == Since::NEVER
    }

    /// For observers: the call is over.
    #[cold]
    fn over(&mut self, caller: Caller) {
        if !self.started || self.since != Since::NEVER {
            observe::over(caller.core, self.slot, caller.body, &mut self.since);
        }
    }

    /// The next slot for the same input: this one is forgotten.
    #[cold]
    fn renew(&mut self, caller: Caller) {
        self.drop_edge(caller.core);
        // SAFETY: `meta` is of this slot's types, and the slot is of this context.
        self.slot = unsafe { (self.slot.meta.renew)(self.slot, caller.core) };
    }

    /// Says in the wait graph that the caller's body waits for the slot.
    fn join_edge(&mut self, caller: Caller, seen: Word) -> Result<(), TaskError> {
        if self.edge.is_none()
            && let Some(body) = caller.body
            // A call through the handle of a body that has ended (somebody kept it) is nobody's edge.
            && !body.look().is_terminal()
        {
            self.edge = Some(cycle::join(caller.core, body, self.slot, seen)?);
        }
        Ok(())
    }

    fn drop_edge(&mut self, core: CorePtr) {
        if let Some(edge) = self.edge.take() {
            cycle::leave(core, edge);
        }
    }

    /// The run is over: nothing is counted any more (S7), the rest is taken back.
    fn finish(&mut self, core: CorePtr) {
        self.drop_edge(core);
        if self.park.is_parked() {
            self.park.leave(self.slot.hub());
        }
        self.counted = false;
    }

    /// Leaves the run unfinished: edges, waker, count, in this order (S8, S9).
    #[cold]
    pub(crate) fn leave(&mut self, caller: Caller) {
        self.drop_edge(caller.core);
        if let (true, Some(body)) = (self.started, caller.body) {
            cycle::forget_starter(caller.core, body, self.slot);
        }
        if self.park.is_parked() {
            self.park.leave(self.slot.hub());
        }
        if self.since != Since::NEVER {
            self.over(caller);
        }
        if std::mem::take(&mut self.counted) {
            self.slot.leave(caller.core);
        }
    }

    /// Polls the call. Ready with `Ok`: the slot is DONE.
    pub(crate) fn poll(
        &mut self,
        caller: Caller,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TaskError>> {
        // This poll of the call has polled the body: once is enough, unless a hop ended.
        let mut drove = false;
        let mut registered = false;
        // The base of this stack will drive the slot.
        let mut hops = false;
        loop {
            let w = self.slot.look();
            if !self.counted && w.is_dead() {
                if self.private {
                    unreachable!("a private slot is not forgotten");
                }
                self.renew(caller);
                continue;
            }
            if w.is_terminal() {
                if w.is_observed() {
                    self.over(caller);
                }
                self.finish(caller.core);
                return Poll::Ready(if w.is_done() {
                    Ok(())
                } else {
                    Err(self.slot.error())
                });
            }
            if w.is_closed() {
                let error = caller.core.closed_error(self.slot.name());
                self.leave(caller);
                return Poll::Ready(Err(error));
            }
            let may_start = w.is_empty() && !hops;
            let wants_poll = !hops && self.counted && self.slot.wants_poll(w);
            if may_start || (wants_poll && !drove) {
                if let Err(error) = self.drive(caller, cx, w, &mut drove, &mut hops) {
                    self.leave(caller);
                    return Poll::Ready(Err(error));
                }
                continue;
            }
            if !self.counted {
                // An unfinished run that somebody else started.
                if let Err(error) = self.join_edge(caller, w) {
                    self.leave(caller);
                    return Poll::Ready(Err(error));
                }
                self.counted = self.slot.join(w);
                if !self.counted {
                    // The slot moved, so the edge may lead elsewhere than it was judged (`cycle::join`).
                    self.drop_edge(caller.core);
                } else if w.is_observed() {
                    self.joined(caller.core, caller.body, w);
                }
                // A body that yields does so for this caller too. (A batch would go before who is yet to be polled has asked.)
                drove |= self.counted && w.has_yielded();
                continue;
            }
            if !registered {
                if !wants_poll {
                    self.park.register(self.slot.hub(), cx.waker());
                    registered = true;
                }
                // After that: whoever is to tell of a deadline may go at any time, and tells those whom he finds.
                if let Err(error) = caller.core.check_wait(|| self.slot.name()) {
                    self.leave(caller);
                    return Poll::Ready(Err(error));
                }
                if wants_poll {
                    // The body was woken while this call polled it: let the executor go round, and do not loop here. This call is polled
                    // again in any case, so it need not be registered.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            if wants_poll {
                // As above, but the wake came after that look.
                cx.waker().wake_by_ref();
            } else if !w.may_sleep() && !self.slot.contend(w) {
                continue;
            }
            // A wake from now on finds this call registered.
            if hops {
                stack::hop(
                    self.slot,
                    Start::by_helper(caller.body),
                    caller.core.strong(),
                );
            }
            // CANCEL: dropped from here on, `leave` takes back edge, waker and count.
            return Poll::Pending;
        }
    }

    /// Claims the slot in the state `w`, EMPTY or IDLE and woken, and polls its body once; or sees that it must hop.
    #[inline]
    fn drive(
        &mut self,
        caller: Caller,
        cx: &mut Context<'_>,
        w: Word,
        drove: &mut bool,
        hops: &mut bool,
    ) -> Result<(), TaskError> {
        let place = stack::place(cx.waker());
        if w.is_empty() && !self.counted {
            caller.core.check_start(self.slot, caller.body)?;
        }
        if let Place::Hop = place {
            if !self.counted {
                // The base starts the run, so this body's edge is not the starter's.
                self.join_edge(caller, w)?;
                self.counted = self.slot.join(w);
                if !self.counted {
                    self.drop_edge(caller.core);
                } else if w.is_observed() {
                    self.joined(caller.core, caller.body, w);
                }
                *hops = self.counted;
            } else {
                *hops = true;
            }
            return Ok(());
        }
        let start = if w.is_empty() {
            // This call's own count is not another's, but then it may wait with an edge: rather look once too often.
            let others = w.callers() > 0;
            let claimed = if self.counted {
                self.slot.claim_empty(w)
            } else {
                self.slot.join_and_claim(w)
            };
            if !claimed {
                return Ok(());
            }
            self.counted = true;
            self.started = true;
            Start::by_caller(caller.body, others)
        } else {
            if !self.slot.claim_idle(w) {
                return Ok(());
            }
            Start::NO
        };
        let starts = w.is_empty();
        let slot = self.slot;
        let any_hop_ended = match place {
            Place::Base => stack::base(|| slot.drive(caller.core, start, true)).1,
            _ => {
                let _ = slot.drive(caller.core, start, true);
                false
            }
        };
        *drove = !any_hop_ended;
        if starts && w.is_observed() {
            self.since = observe::drove(slot, self.since);
        }
        Ok(())
    }
}

/// A call of a task: a future of `Result<&T, TaskError>`. Made by [`Ctx::run`].
///
/// It does nothing until it is polled, except that a value which is there already is taken at once.
///
/// # Concurrency
/// All calls for one task and input in a context share one run, and the run is driven by whichever of them is polled. A call that is
/// kept but not polled stalls nobody.
///
/// # Cancel safety
/// * Dropped before the first poll: nothing happened.
/// * Dropped while it waits or drives: the run goes on for the other callers where it is. The last caller's drop drops the body before it
///   returns, and the next call starts afresh.
///
/// # Panics
/// When it is polled again after it was ready.
///
/// # Cost
/// At most 64 bytes, whatever the task.
///
/// # Examples
/// ```
/// use watershed::{Ctx, Run, TaskError};
/// async fn user(_: Ctx<()>, id: u64) -> Result<String, String> { Ok(format!("user {id}")) }
///
/// # futures::executor::block_on(async {
/// let ctx = Ctx::new(());
/// let calls: Vec<Run<'_, (), String>> = (1..=3).map(|id| ctx.run(user, id)).collect();   // nothing has run yet
/// let users: Vec<&String> = futures::future::try_join_all(calls).await?;
/// assert_eq!(users[2], "user 3");
/// # Ok::<(), TaskError>(()) }).unwrap();
/// ```
#[must_use = "a call does nothing unless it is awaited; `spawn` starts one in the background"]
pub struct Run<'a, S, T> {
    ctx: &'a Ctx<S>,
    /// The value with [`Stage::Value`], the slot with [`Stage::New`].
    target: NonNull<()>,
    stage: Stage,
    /// With [`Stage::Call`]. Left alone before the first poll: what a hit and a new call have in common is two registers.
    call: MaybeUninit<RawRun>,
    value: PhantomData<&'a T>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A hit: no slot needed any more.
    Value,
    /// Not polled yet.
    New,
    Call,
    Over,
}

// SAFETY: `target` is a `&T` or a slot of the context, which may both be used from any thread; the rest is Send.
unsafe impl<S, T: Sync> Send for Run<'_, S, T> where Ctx<S>: Sync {}
// SAFETY: as above; through a shared `Run` nothing but its `Debug` can be reached.
unsafe impl<S, T: Sync> Sync for Run<'_, S, T> where Ctx<S>: Sync {}

// The value is behind a reference and the slot's parts are shared by address, so nothing here is pinned.
impl<S, T> Unpin for Run<'_, S, T> {}

impl<'a, S: Send + Sync + 'static, T: 'static> Run<'a, S, T> {
    #[inline(always)]
    pub(crate) fn hit(ctx: &'a Ctx<S>, value: &'a T) -> Self {
        Self::new(ctx, NonNull::from(value).cast(), Stage::Value)
    }

    #[inline(always)]
    pub(crate) fn call(ctx: &'a Ctx<S>, slot: SlotPtr) -> Self {
        Self::new(ctx, slot.erased(), Stage::New)
    }

    #[inline(always)]
    pub(crate) fn is_hit(&self) -> bool {
        self.stage == Stage::Value
    }

    pub(crate) fn ctx(&self) -> &'a Ctx<S> {
        self.ctx
    }

    #[inline(always)]
    fn new(ctx: &'a Ctx<S>, target: NonNull<()>, stage: Stage) -> Self {
        Self {
            ctx,
            target,
            stage,
            call: MaybeUninit::uninit(),
            value: PhantomData,
        }
    }

    /// Gives the value as [`Held<T>`]: owned and `'static`, for what outlives the borrow of the context, such as a handler's
    /// answer. It keeps the context's memory.
    ///
    /// # Cancel safety
    /// As the call itself.
    ///
    /// # Examples
    /// ```
    /// use watershed::{Ctx, Held};
    /// async fn name(_: Ctx<()>, id: u64) -> Result<String, String> { Ok(format!("user {id}")) }
    ///
    /// let held: Held<String> = {
    ///     let ctx = Ctx::new(());
    ///     ctx.run(name, 7).held().wait().unwrap()
    /// };                                                   // the context is closed, the value is still there
    /// assert_eq!(*held, "user 7");
    /// ```
    pub fn held(self) -> HeldRun<'a, S, T> {
        HeldRun(self)
    }

    /// Blocks the thread until the call is done, for threads that have no executor.
    ///
    /// This thread drives the run if nobody else does. On a thread that runs async tasks this blocks them all; a body that needs
    /// one of them may then never end.
    ///
    /// # Errors
    /// As awaiting the call.
    ///
    /// # Examples
    /// ```
    /// use watershed::Ctx;
    /// async fn answer(_: Ctx<()>, _: ()) -> Result<u64, String> { Ok(42) }
    /// assert_eq!(*Ctx::new(()).run(answer, ()).wait().unwrap(), 42);
    /// ```
    pub fn wait(self) -> Result<&'a T, TaskError> {
        block_on(self)
    }
}

impl<'a, S: Send + Sync + 'static, T: 'static> Future for Run<'a, S, T> {
    type Output = Result<&'a T, TaskError>;

    // A hit must be seen through by the optimiser, or the call is built in memory for nothing.
    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.stage == Stage::Value {
            self.stage = Stage::Over;
            // SAFETY: the stage was `Value` (`hit`).
            return Poll::Ready(Ok(unsafe { self.target.cast::<T>().as_ref() }));
        }
        self.poll_call(cx)
    }
}

impl<'a, S, T> Run<'a, S, T> {
    /// The slot that it waits for, after a poll that was pending.
    pub(crate) fn waits_for(&self) -> Option<SlotPtr> {
        // SAFETY: the stage is `Call`.
        (self.stage == Stage::Call).then(|| unsafe { self.call.assume_init_ref() }.slot)
    }

    #[inline(never)]
    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Result<&'a T, TaskError>> {
        if self.stage == Stage::New {
            // SAFETY: the stage is `New` (`call`), and the slot lives as long as the context.
            let slot = unsafe { SlotPtr::new(self.target.cast()) };
            self.call.write(RawRun::new(slot));
            self.stage = Stage::Call;
        }
        assert!(
            self.stage == Stage::Call,
            "a `Run` was polled after it was ready"
        );
        // SAFETY: the stage is `Call`.
        let raw = unsafe { self.call.assume_init_mut() };
        let Poll::Ready(outcome) = raw.poll(self.ctx.caller(), cx) else {
            return Poll::Pending;
        };
        let slot = raw.slot();
        self.stage = Stage::Over;
        // SAFETY: the stage was `Call` and is not any more.
        unsafe { self.call.assume_init_drop() };
        // SAFETY: the slot is DONE, was made by `run` for a task with this value, and lives as long as the context.
        Poll::Ready(outcome.map(|()| unsafe { value_of(slot) }))
    }

    /// Leaves an unfinished call.
    #[cold]
    #[inline(never)]
    fn abandon(&mut self) {
        // SAFETY: the stage is `Call` (`drop`).
        let raw = unsafe { self.call.assume_init_mut() };
        // CANCEL: waiting or driving, it leaves; see the type's docs.
        raw.leave(self.ctx.caller());
        // SAFETY: as above, and this is the end of the call.
        unsafe { self.call.assume_init_drop() };
    }
}

/// # Safety
/// The slot was seen DONE, its value is a `T`, and its context outlives `'a`.
pub(crate) unsafe fn value_of<'a, T>(slot: SlotPtr) -> &'a T {
    // SAFETY: the promise of the caller.
    let value: NonNull<()> = unsafe { (slot.meta.value)(slot) };
    // SAFETY: as above.
    unsafe { value.cast::<T>().as_ref() }
}

impl<S, T> Drop for Run<'_, S, T> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.stage == Stage::Call {
            self.abandon();
        }
    }
}

impl<S, T> fmt::Debug for Run<'_, S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, task) = match self.stage {
            Stage::Value => ("a hit", None),
            Stage::New => {
                // SAFETY: the stage is `New`.
                let slot = unsafe { SlotPtr::new(self.target.cast()) };
                ("not polled", Some(slot.name()))
            }
            Stage::Call => {
                // SAFETY: the stage is `Call`.
                let raw = unsafe { self.call.assume_init_ref() };
                ("waiting", Some(raw.slot.name()))
            }
            Stage::Over => ("over", None),
        };
        let mut out = f.debug_struct("Run");
        if let Some(task) = task {
            out.field("task", &task);
        }
        out.field("state", &state).finish()
    }
}

/// A call that gives [`Held<T>`]. Made by [`Run::held`], where there is an example.
///
/// # Cancel safety
/// As [`Run`].
#[must_use = "a call does nothing unless it is awaited"]
pub struct HeldRun<'a, S, T>(Run<'a, S, T>);

impl<S: Send + Sync + 'static, T: 'static> HeldRun<'_, S, T> {
    /// Blocks the thread until the call is done; see [`Run::wait`].
    ///
    /// # Errors
    /// As awaiting the call.
    pub fn wait(self) -> Result<Held<T>, TaskError> {
        block_on(self)
    }
}

impl<S: Send + Sync + 'static, T: 'static> Future for HeldRun<'_, S, T> {
    type Output = Result<Held<T>, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ctx = self.0.ctx;
        Pin::new(&mut self.0)
            .poll(cx)
            // SAFETY: the value lives in the context's memory, which the handle keeps.
            .map_ok(|value| unsafe { Held::new(ctx.core().strong(), NonNull::from(value)) })
    }
}

impl<S, T> fmt::Debug for HeldRun<'_, S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeldRun").field(&self.0).finish()
    }
}

/// A call without memoization: a future of `Result<T, TaskError>`. Made by [`Ctx::run_fresh`], where there is an example.
///
/// # Cancel safety
/// Dropped before it is ready, its body is dropped before the drop returns. Effects that the body has had by then stay.
///
/// # Panics
/// When it is polled again after it was ready.
#[must_use = "a call does nothing unless it is awaited"]
pub struct RunFresh<'a, S, T> {
    ctx: &'a Ctx<S>,
    raw: Option<RawRun>,
    value: PhantomData<fn() -> T>,
}

impl<S, T> Unpin for RunFresh<'_, S, T> {}

impl<'a, S: Send + Sync + 'static, T> RunFresh<'a, S, T> {
    pub(crate) fn new(ctx: &'a Ctx<S>, slot: SlotPtr) -> Self {
        Self {
            ctx,
            raw: Some(RawRun::private(slot)),
            value: PhantomData,
        }
    }

    /// Blocks the thread until the call is done; see [`Run::wait`].
    ///
    /// # Errors
    /// As awaiting the call.
    pub fn wait(self) -> Result<T, TaskError> {
        block_on(self)
    }
}

impl<S: Send + Sync + 'static, T> Future for RunFresh<'_, S, T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(raw) = &mut this.raw else {
            panic!("a `RunFresh` was polled after it was ready");
        };
        let Poll::Ready(outcome) = raw.poll(this.ctx.caller(), cx) else {
            return Poll::Pending;
        };
        let slot = raw.slot();
        this.raw = None;
        Poll::Ready(outcome.map(|()| {
            // SAFETY: the slot is DONE and known to this call alone.
            let value = unsafe { slot.take_value() };
            // SAFETY: its value is a `T` (`run_fresh`), and it is not in the slot any more.
            unsafe { value.cast::<T>().read() }
        }))
    }
}

impl<S, T> Drop for RunFresh<'_, S, T> {
    fn drop(&mut self) {
        if let Some(raw) = &mut self.raw {
            // CANCEL: the only caller leaves, so the body goes (S9).
            raw.leave(self.ctx.caller());
        }
    }
}

impl<S, T> fmt::Debug for RunFresh<'_, S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunFresh")
            .field("task", &self.raw.as_ref().map(|raw| raw.slot.name()))
            .finish()
    }
}

/// Drives a future on this thread, which sleeps while it is pending.
pub(crate) fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    // What is ready at once needs no waker.
    let mut cx = Context::from_waker(Waker::noop());
    // The synchronous part of a task may wait for one that waits for one ...
    let mut poll = |cx: &mut Context<'_>| stack::with_room(|| Pin::new(&mut future).poll(cx));
    if let Poll::Ready(output) = poll(&mut cx) {
        return output;
    }
    let unpark = Arc::new(Unpark {
        thread: std::thread::current(),
        woken: AtomicBool::new(false),
    });
    let waker = Waker::from(unpark.clone());
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = poll(&mut cx) {
            return output;
        }
        // This may be inside of a wake or a drop that others on this thread wait for: nobody else would go on with them.
        queue::drain();
        stack::with_room(stack::drop_later);
        // ORDER: Acquire; pairs with the Release of `wake`. The flag is ours, so nobody else's `unpark` is taken for a wake,
        // and ours is not lost if somebody else on this thread used it up.
        while !unpark.woken.swap(false, Ordering::Acquire) {
            std::thread::park();
        }
    }
}

struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // ORDER: Release; pairs with the Acquire of `block_on`.
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
