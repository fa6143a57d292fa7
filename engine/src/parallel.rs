//! Fan-out: many calls of one caller, on the threads of the runtime.
//!
//! [`Fan`] holds the calls, each counted at its slot, so that dropping the fan leaves them all at once. With a runtime it starts
//! *helpers*: tasks that drive slots for the callers counted there, are no callers themselves, and tell the fan's own waker when
//! the last of them is done or one has failed. The fan drives one call itself, on the caller's thread. So N calls make N - 1 tasks,
//! and the caller is woken once and not N times.
//!
//! If a helper goes away with its runtime, the fan falls back to polling all its calls itself: nobody hangs.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::context::Ctx;
use crate::error::TaskError;
use crate::run::{Caller, RawRun, block_on};
use crate::slot::SlotPtr;
use crate::task::{Call, Input, Key, Task};

#[cfg(any(feature = "tokio", loom))]
use helpers::Group;

/// Calls that run together.
struct Fan {
    calls: Vec<RawRun>,
    limit: usize,
    state: State,
    /// The calls must not run on the caller's thread alone: without a runtime they fail.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    // only `parallel` insists, and it comes with tokio
    insists: bool,
    /// In a model: where helpers go, for the model's own threads to poll.
    #[cfg(loom)]
    helpers: Option<Arc<std::sync::Mutex<Vec<helpers::Helper>>>>,
}

enum State {
    New,
    /// Polled here: which ones, and the next that is not started.
    Here {
        active: Vec<usize>,
        next: usize,
    },
    #[cfg(any(feature = "tokio", loom))]
    Helped {
        group: Arc<Group>,
        /// The call that is driven here.
        own: Option<usize>,
    },
    Over,
}

impl Fan {
    fn new(slots: Vec<SlotPtr>, limit: usize, insists: bool) -> Self {
        Self {
            calls: slots.into_iter().map(RawRun::new).collect(),
            limit: limit.max(1),
            state: State::New,
            insists,
            #[cfg(loom)]
            helpers: None,
        }
    }

    fn poll(&mut self, caller: Caller, cx: &mut Context<'_>) -> Poll<Result<(), TaskError>> {
        loop {
            let polled = match &mut self.state {
                State::New => match self.start(caller) {
                    Ok(()) => continue,
                    Err(error) => Poll::Ready(Err(error)),
                },
                State::Here { active, next } => {
                    Self::poll_here(&mut self.calls, self.limit, active, next, caller, cx)
                }
                #[cfg(any(feature = "tokio", loom))]
                State::Helped { group, own } => {
                    match Group::poll(group, own, &mut self.calls, caller, cx) {
                        Some(polled) => polled,
                        None => {
                            self.here();
                            continue;
                        }
                    }
                }
                State::Over => panic!("a fan-out was polled after it was ready"),
            };
            if polled.is_ready() {
                self.leave(caller);
            }
            return polled;
        }
    }

    /// Polls the calls on the caller's thread from now on.
    fn here(&mut self) {
        #[cfg(any(feature = "tokio", loom))]
        if let State::Helped { group, .. } = &self.state {
            group.stop();
            // Those that are left may be parked where only the fan's own call is counted, which then tells nobody of the end.
            group.dismiss();
        }
        self.state = State::Here {
            active: Vec::new(),
            next: 0,
        };
    }

    #[cfg(not(any(feature = "tokio", loom)))]
    fn start(&mut self, _: Caller) -> Result<(), TaskError> {
        self.here();
        Ok(())
    }

    #[cfg(any(feature = "tokio", loom))]
    fn start(&mut self, caller: Caller) -> Result<(), TaskError> {
        let unfinished = self
            .calls
            .iter()
            .filter(|call| !call.slot().look().is_terminal())
            .count();
        if self.limit == 1 || unfinished < 2 {
            self.here();
            return Ok(());
        }
        #[cfg(loom)]
        if let Some(helpers) = self.helpers.clone() {
            return self.start_with(caller, |helper| helpers.lock().unwrap().push(helper));
        }
        #[cfg(feature = "tokio")]
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Not awaited and never aborted: a helper ends when its slots do, or when nobody needs it any more.
            return self.start_with(caller, |helper| drop(runtime.spawn(helper)));
        }
        if self.insists {
            let task = self.calls[0].slot().name();
            return Err(TaskError::no_runtime(task, "parallel calls"));
        }
        self.here();
        Ok(())
    }

    #[cfg(any(feature = "tokio", loom))]
    fn start_with(
        &mut self,
        caller: Caller,
        spawn: impl Fn(helpers::Helper),
    ) -> Result<(), TaskError> {
        for call in &mut self.calls {
            call.enlist(caller, caller.body)?;
        }
        let (group, own) = Group::start(&self.calls, self.limit, caller, spawn);
        self.state = State::Helped { group, own };
        Ok(())
    }

    fn poll_here(
        calls: &mut [RawRun],
        limit: usize,
        active: &mut Vec<usize>,
        next: &mut usize,
        caller: Caller,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TaskError>> {
        let mut at = 0;
        loop {
            if at == active.len() {
                if active.len() == limit || *next == calls.len() {
                    break;
                }
                active.push(*next);
                *next += 1;
            }
            match calls[active[at]].poll(caller, cx) {
                Poll::Pending => at += 1,
                Poll::Ready(Ok(())) => {
                    active.swap_remove(at);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        if active.is_empty() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Leaves every call that is not over.
    fn leave(&mut self, caller: Caller) {
        let state = std::mem::replace(&mut self.state, State::Over);
        if let State::Over = state {
            return;
        }
        #[cfg(any(feature = "tokio", loom))]
        let group = match &state {
            State::Helped { group, .. } if !group.is_done() => Some(group),
            _ => None,
        };
        #[cfg(any(feature = "tokio", loom))]
        if let Some(group) = group {
            group.stop();
        }
        for call in &mut self.calls {
            call.leave(caller);
        }
        #[cfg(any(feature = "tokio", loom))]
        if let Some(group) = group {
            group.dismiss();
        }
    }
}

/// A call of any task, for lists of different ones. Made by [`Call::boxed`]; run by [`Ctx::run_all`].
///
/// Cloning counts a reference. It belongs to no context, so a router may keep it; [`Ctx::run_all`] has an example.
pub struct BoxedCall<S> {
    make: Arc<MakeSlot<S>>,
    task: fn() -> &'static str,
}

type MakeSlot<S> = dyn Fn(&Ctx<S>) -> SlotPtr + Send + Sync;

impl<S: Send + Sync + 'static> BoxedCall<S> {
    pub(crate) fn slot(&self, ctx: &Ctx<S>) -> SlotPtr {
        (self.make)(ctx)
    }
}

impl<S> Clone for BoxedCall<S> {
    fn clone(&self) -> Self {
        Self {
            make: self.make.clone(),
            task: self.task,
        }
    }
}

impl<S> fmt::Debug for BoxedCall<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxedCall")
            .field("task", &(self.task)())
            .finish_non_exhaustive()
    }
}

impl<S, F, In, K> Call<S, F, In, K>
where
    S: Send + Sync + 'static,
    F: Task<S, In, Future: Send>,
    In: Input<K>,
    K: Key<In>,
{
    /// Hides the types of the call, for a list of different ones.
    ///
    /// See [`Ctx::run_all`] for an example.
    pub fn boxed(self) -> BoxedCall<S> {
        let input = In::from_key(self.input);
        BoxedCall {
            make: Arc::new(move |ctx| ctx.slot_of_input::<F, In>(input.clone())),
            task: std::any::type_name::<F>,
        }
    }
}

/// Blocks the thread until the calls are done; see [`Run::wait`](crate::Run::wait).
macro_rules! wait {
    ($output:ty) => {
        /// Blocks the thread until the calls are done; see [`Run::wait`](crate::Run::wait).
        ///
        /// # Errors
        /// As awaiting them.
        pub fn wait(self) -> Result<$output, TaskError> {
            block_on(self)
        }
    };
}

/// A list of calls that run together: a future of `Result<(), TaskError>`. Made by [`Ctx::run_all`], where there is an example.
///
/// # Cancel safety
/// Dropped, it leaves all its calls; see [`Run`](crate::Run).
#[must_use = "calls do nothing unless they are awaited"]
pub struct RunAll<'a, S> {
    ctx: &'a Ctx<S>,
    fan: Fan,
}

impl<'a, S: Send + Sync + 'static> RunAll<'a, S> {
    pub(crate) fn new(ctx: &'a Ctx<S>, slots: Vec<SlotPtr>) -> Self {
        Self {
            ctx,
            fan: Fan::new(slots, usize::MAX, false),
        }
    }

    wait!(());
}

impl<S: Send + Sync + 'static> Future for RunAll<'_, S> {
    type Output = Result<(), TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let caller = self.ctx.caller();
        self.fan.poll(caller, cx)
    }
}

impl<S> Drop for RunAll<'_, S> {
    fn drop(&mut self) {
        // CANCEL: leaves every call.
        self.fan.leave(self.ctx.caller());
    }
}

impl<S> fmt::Debug for RunAll<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunAll")
            .field("calls", &self.fan.calls.len())
            .finish()
    }
}

#[cfg(feature = "tokio")]
pub use typed::{Calls, Parallel, ParallelAll};

#[cfg(feature = "tokio")]
pub(crate) use helpers::spawn;

/// The fan-outs that know their values' types; they insist on a runtime.
#[cfg(feature = "tokio")]
mod typed {
    use std::marker::PhantomData;

    use super::*;
    use crate::run::value_of;

    mod sealed {
        pub trait Sealed {}
    }

    /// A tuple of one to twelve calls, each made by [`Task::with`], for [`Ctx::parallel`].
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not a tuple of calls that `Ctx<{S}>` can run in parallel",
        label = "not a tuple of calls",
        note = "write `(task.with(input), other.with(input))`; one call alone is `(task.with(input),)`"
    )]
    pub trait Calls<S: Send + Sync + 'static>: sealed::Sealed {
        /// The values of the calls, in their order.
        type Values;
        #[doc(hidden)]
        fn into_slots(self, ctx: &Ctx<S>) -> Slots;
    }

    /// The slots of some calls. Of no use outside.
    pub struct Slots(pub(super) Vec<SlotPtr>);

    impl fmt::Debug for Slots {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_tuple("Slots").field(&self.0.len()).finish()
        }
    }

    /// Up to twelve calls in parallel: a future of a tuple of references. Made by [`Ctx::parallel`], where there is an example.
    ///
    /// # Cancel safety
    /// Dropped, it leaves all its calls; see [`Run`](crate::Run).
    #[must_use = "calls do nothing unless they are awaited"]
    pub struct Parallel<'a, S, V> {
        ctx: &'a Ctx<S>,
        fan: Fan,
        values: PhantomData<fn() -> V>,
    }

    impl<'a, S: Send + Sync + 'static, V> Parallel<'a, S, V> {
        pub(crate) fn new(ctx: &'a Ctx<S>, slots: Slots) -> Self {
            Self {
                ctx,
                fan: Fan::new(slots.0, usize::MAX, true),
                values: PhantomData,
            }
        }
    }

    impl<S, V> Drop for Parallel<'_, S, V> {
        fn drop(&mut self) {
            // CANCEL: leaves every call.
            self.fan.leave(self.ctx.caller());
        }
    }

    impl<S, V> fmt::Debug for Parallel<'_, S, V> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Parallel")
                .field("calls", &self.fan.calls.len())
                .finish()
        }
    }

    macro_rules! tuples {
        ($($call:ident: $task:ident $input:ident $key:ident $value:ident $at:tt,)+) => {
            impl<$($task, $input, $key,)+ S> sealed::Sealed for ($(Call<S, $task, $input, $key>,)+) {}

            impl<S, $($task, $input, $key,)+> Calls<S> for ($(Call<S, $task, $input, $key>,)+)
            where
                S: Send + Sync + 'static,
                $($task: Task<S, $input, Future: Send>, $input: Input<$key>, $key: Key<$input>,)+
            {
                type Values = ($($task::Value,)+);

                fn into_slots(self, ctx: &Ctx<S>) -> Slots {
                    let ($($call,)+) = self;
                    Slots(vec![$(ctx.slot_of($call)),+])
                }
            }

            impl<'a, S, $($value: 'static,)+> Future for Parallel<'a, S, ($($value,)+)>
            where
                S: Send + Sync + 'static,
            {
                type Output = Result<($(&'a $value,)+), TaskError>;

                fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                    let caller = self.ctx.caller();
                    let this = &mut *self;
                    this.fan.poll(caller, cx).map_ok(|()| {
                        // SAFETY: every slot is DONE, was made for a task with this value, and lives as long as the context.
                        ($(unsafe { value_of::<$value>(this.fan.calls[$at].slot()) },)+)
                    })
                }
            }

            impl<'a, S, $($value: 'static,)+> Parallel<'a, S, ($($value,)+)>
            where
                S: Send + Sync + 'static,
            {
                wait!(($(&'a $value,)+));
            }
        };
    }

    tuples!(a: A IA KA VA 0,);
    tuples!(a: A IA KA VA 0, b: B IB KB VB 1,);
    tuples!(a: A IA KA VA 0, b: B IB KB VB 1, c: C IC KC VC 2,);
    tuples!(a: A IA KA VA 0, b: B IB KB VB 1, c: C IC KC VC 2, d: D ID KD VD 3,);
    tuples!(a: A IA KA VA 0, b: B IB KB VB 1, c: C IC KC VC 2, d: D ID KD VD 3, e: E IE KE VE 4,);
    tuples!(a: A IA KA VA 0, b: B IB KB VB 1, c: C IC KC VC 2, d: D ID KD VD 3, e: E IE KE VE 4, f: F IF KF VF 5,);
    tuples!(a: A IA KA VA 0, b: B IB KB VB 1, c: C IC KC VC 2, d: D ID KD VD 3, e: E IE KE VE 4, f: F IF KF VF 5, g: G IG KG VG 6,);
    tuples!(a: A IA KA VA 0, b: B IB KB VB 1, c: C IC KC VC 2, d: D ID KD VD 3, e: E IE KE VE 4, f: F IF KF VF 5, g: G IG KG VG 6, h: H IH KH VH 7,);
    tuples!(a: A IA KA VA 0, b: B IB KB VB 1, c: C IC KC VC 2, d: D ID KD VD 3, e: E IE KE VE 4, f: F IF KF VF 5, g: G IG KG VG 6, h: H IH KH VH 7, i: I II KI VI 8,);
    tuples!(a: A IA KA VA 0, b: B IB KB VB 1, c: C IC KC VC 2, d: D ID KD VD 3, e: E IE KE VE 4, f: F IF KF VF 5, g: G IG KG VG 6, h: H IH KH VH 7, i: I II KI VI 8, j: J IJ KJ VJ 9,);
    tuples!(a: A IA KA VA 0, b: B IB KB VB 1, c: C IC KC VC 2, d: D ID KD VD 3, e: E IE KE VE 4, f: F IF KF VF 5, g: G IG KG VG 6, h: H IH KH VH 7, i: I II KI VI 8, j: J IJ KJ VJ 9, k: K IK KK VK 10,);
    tuples!(a: A IA KA VA 0, b: B IB KB VB 1, c: C IC KC VC 2, d: D ID KD VD 3, e: E IE KE VE 4, f: F IF KF VF 5, g: G IG KG VG 6, h: H IH KH VH 7, i: I II KI VI 8, j: J IJ KJ VJ 9, k: K IK KK VK 10, l: L IL KL VL 11,);

    /// Any number of calls of one task in parallel: a future of a `Vec` of references. Made by [`Ctx::parallel_all`].
    ///
    /// # Cancel safety
    /// Dropped, it leaves all its calls; see [`Run`](crate::Run).
    #[must_use = "calls do nothing unless they are awaited"]
    pub struct ParallelAll<'a, S, T> {
        ctx: &'a Ctx<S>,
        fan: Fan,
        value: PhantomData<fn() -> T>,
    }

    impl<'a, S: Send + Sync + 'static, T: 'static> ParallelAll<'a, S, T> {
        pub(crate) fn new(ctx: &'a Ctx<S>, slots: Vec<SlotPtr>, limit: usize) -> Self {
            Self {
                ctx,
                fan: Fan::new(slots, limit, true),
                value: PhantomData,
            }
        }

        wait!(Vec<&'a T>);
    }

    impl<'a, S: Send + Sync + 'static, T: 'static> Future for ParallelAll<'a, S, T> {
        type Output = Result<Vec<&'a T>, TaskError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            let caller = self.ctx.caller();
            let this = &mut *self;
            this.fan.poll(caller, cx).map_ok(|()| {
                let calls = this.fan.calls.iter();
                // SAFETY: every slot is DONE, was made for a task with this value, and lives as long as the context.
                calls.map(|call| unsafe { value_of(call.slot()) }).collect()
            })
        }
    }

    impl<S, T> Drop for ParallelAll<'_, S, T> {
        fn drop(&mut self) {
            // CANCEL: leaves every call.
            self.fan.leave(self.ctx.caller());
        }
    }

    impl<S, T> fmt::Debug for ParallelAll<'_, S, T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("ParallelAll")
                .field("calls", &self.fan.calls.len())
                .field("limit", &self.fan.limit)
                .finish()
        }
    }
}

/// What runs on the runtime's threads.
#[cfg(any(feature = "tokio", loom))]
mod helpers {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::{Caller, RawRun, SlotPtr, TaskError};
    use crate::context::{CorePtr, Strong};
    use crate::observe::{self, Since};
    use crate::slot::Attempt;
    use crate::stack;
    use crate::sync::Arc;
    use crate::sync::atomic::{AtomicUsize, Ordering};
    use crate::wake::{Park, WakerCell, queue};

    /// A call was left undone by its helper, or its slot was given up.
    const GONE: usize = 1;
    /// A call has failed.
    const BROKEN: usize = 2;
    /// Nobody waits for the group any more.
    const STOPPED: usize = 4;
    /// One unfinished call.
    const ONE: usize = 8;

    /// What a fan and its helpers share.
    pub(super) struct Group {
        /// Unfinished calls and flags.
        state: AtomicUsize,
        /// The next of `slots` that nobody drives yet; the last one is the fan's own to begin with.
        next: AtomicUsize,
        /// The slots that were unfinished at the start.
        slots: Vec<SlotPtr>,
        /// Which of the fan's calls each of them belongs to.
        calls: Vec<usize>,
        parent: Option<SlotPtr>,
        waker: WakerCell,
        context: Strong,
    }

    impl Group {
        /// Starts helpers for the calls, which are counted. Also gives the index (in `calls`) of the one to drive here.
        pub(super) fn start(
            calls: &[RawRun],
            limit: usize,
            caller: Caller,
            spawn: impl Fn(Helper),
        ) -> (Arc<Self>, Option<usize>) {
            // By their place among the calls: two of them may be for one slot.
            let unfinished = |&at: &usize| !calls[at].slot().look().is_terminal();
            let calls_of_slots: Vec<usize> = (0..calls.len()).filter(unfinished).collect();
            let slots: Vec<SlotPtr> = calls_of_slots.iter().map(|&at| calls[at].slot()).collect();
            let helpers = limit.min(slots.len()).saturating_sub(1);
            // A call that had ended before is not driven by anybody, but it may be the one that failed.
            let broken = calls.iter().any(|call| call.slot().look().is_failed());
            let group = Arc::new(Self {
                state: AtomicUsize::new(slots.len() * ONE + if broken { BROKEN } else { 0 }),
                next: AtomicUsize::new(helpers),
                slots,
                calls: calls_of_slots,
                parent: caller.body,
                waker: WakerCell::new(),
                context: caller.core.strong(),
            });
            for at in 0..helpers {
                spawn(Helper {
                    group: group.clone(),
                    at: Some(at),
                    park: Park::default(),
                });
            }
            let own = group.calls.last().copied();
            (group, own)
        }

        /// The next slot that nobody drives yet.
        fn take(&self) -> Option<usize> {
            // ORDER: Relaxed; the number is all there is to it: slots and counts were there before the helpers.
            if self.state.load(Ordering::Relaxed) & (STOPPED | BROKEN) != 0 {
                return None;
            }
            // The last one is the fan's own from the start.
            let mine = |at: &usize| at + 1 < self.slots.len();
            // ORDER: Relaxed; as above. Most fans have a helper for each slot, and nothing to take.
            let at = self.next.load(Ordering::Relaxed);
            // ORDER: Relaxed; as above.
            mine(&at)
                .then(|| self.next.fetch_add(1, Ordering::Relaxed))
                .filter(mine)
        }

        fn finished(&self, slot: SlotPtr) {
            let w = slot.look();
            let old = if w.is_done() {
                // ORDER: AcqRel; pairs with the fan's look, after C1: either it sees this, or its waker is in the cell.
                self.state.fetch_sub(ONE, Ordering::AcqRel)
            } else {
                let flag = if w.is_failed() { BROKEN } else { GONE };
                // ORDER: AcqRel; as above.
                self.state.fetch_or(flag, Ordering::AcqRel);
                ONE
            };
            if old / ONE == 1 {
                self.wake();
            }
        }

        fn wake(&self) {
            queue::scope(|| {
                if let Some(waker) = self.waker.take() {
                    queue::push(queue::Item::Waker(waker));
                }
            });
        }

        /// Every call was driven to its end, so every helper has ended or will without being told.
        pub(super) fn is_done(&self) -> bool {
            // ORDER: Relaxed; whoever counted down last does not look at the group again but for `take`, which finds nothing.
            self.state.load(Ordering::Relaxed) == 0
        }

        /// Nobody waits for the group any more. Helpers end at their next look.
        pub(super) fn stop(&self) {
            // ORDER: AcqRel; Release, for the helper that looks after it registered (`dismiss`).
            self.state.fetch_or(STOPPED, Ordering::AcqRel);
        }

        /// After [`stop`](Self::stop): wakes the helpers that are parked. Their slots' callers do not know of them, so nobody else will.
        pub(super) fn dismiss(&self) {
            for slot in &self.slots {
                slot.hub().wake_all();
            }
        }

        fn is_stopped(&self) -> bool {
            // ORDER: Acquire; pairs with `stop`, by way of the hub's word: a helper registers there, then looks here.
            self.state.load(Ordering::Acquire) & STOPPED != 0
        }

        /// Polls the fan's own calls and looks after the others. `None`: the helpers are not to be relied on any more.
        pub(super) fn poll(
            self: &Arc<Self>,
            own: &mut Option<usize>,
            calls: &mut [RawRun],
            caller: Caller,
            cx: &mut Context<'_>,
        ) -> Option<Poll<Result<(), TaskError>>> {
            while let Some(at) = *own {
                match calls[at].poll(caller, cx) {
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                    Poll::Ready(Ok(())) => {
                        // ORDER: AcqRel; as in `finished`.
                        self.state.fetch_sub(ONE, Ordering::AcqRel);
                        *own = self.take().map(|at| self.calls[at]);
                    }
                }
            }
            let mut registered = false;
            loop {
                // ORDER: Acquire; pairs with `finished`: the values of the finished slots.
                let state = self.state.load(Ordering::Acquire);
                if state & BROKEN != 0 {
                    let failed = calls.iter().find(|call| call.slot().look().is_failed());
                    return failed.map(|call| Poll::Ready(Err(call.slot().error())));
                }
                if state & GONE != 0 {
                    return None;
                }
                if state / ONE == 0 {
                    return Some(Poll::Ready(Ok(())));
                }
                if registered {
                    // CANCEL: dropped here, the fan leaves every call.
                    return Some(Poll::Pending);
                }
                if let Err(error) = caller.core.check_wait(|| calls[0].slot().name()) {
                    return Some(Poll::Ready(Err(error)));
                }
                self.waker.hold(cx.waker());
                registered = true;
            }
        }
    }

    /// Drives slots of a group on the runtime, one after another.
    pub(crate) struct Helper {
        group: Arc<Group>,
        at: Option<usize>,
        park: Park,
    }

    impl Future for Helper {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let this = &mut *self;
            while let Some(at) = this.at {
                let slot = this.group.slots[at];
                let core = this.group.context.core();
                let stopped = || this.group.is_stopped();
                if drive(slot, core, this.group.parent, stopped, &mut this.park, cx).is_pending() {
                    return Poll::Pending;
                }
                this.unpark(slot);
                this.group.finished(slot);
                this.at = this.group.take();
            }
            Poll::Ready(())
        }
    }

    impl Helper {
        fn unpark(&mut self, slot: SlotPtr) {
            if self.park.is_parked() {
                self.park.leave(slot.hub());
            }
        }
    }

    impl Drop for Helper {
        fn drop(&mut self) {
            if let Some(at) = self.at {
                // CANCEL: the runtime goes away. The fan's caller drives on, and so may anybody else at the slot.
                let slot = self.group.slots[at];
                self.unpark(slot);
                // ORDER: AcqRel; as in `finished`.
                self.group.state.fetch_or(GONE, Ordering::AcqRel);
                self.group.wake();
            }
        }
    }

    /// Drives one slot for the callers that are counted there: a poller that is no caller. Ready when there is nothing left to do.
    fn drive(
        slot: SlotPtr,
        core: CorePtr,
        parent: Option<SlotPtr>,
        stopped: impl Fn() -> bool,
        park: &mut Park,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut drove = false;
        let mut registered = false;
        loop {
            if stopped() {
                return Poll::Ready(());
            }
            let w = slot.look();
            let may_drive = !drove || !w.is_idle();
            if may_drive {
                let (attempt, hop_ended) = stack::base(|| slot.attempt(core, parent));
                match attempt {
                    Attempt::Finished | Attempt::NobodyLeft => return Poll::Ready(()),
                    Attempt::Driven(_) => {
                        drove = !hop_ended;
                        continue;
                    }
                    Attempt::NotNow => {}
                }
            }
            if !registered {
                park.register(slot.hub(), cx.waker());
                registered = true;
                continue;
            }
            let w = slot.look();
            if slot.wants_poll(w) {
                // The body woke itself.
                cx.waker().wake_by_ref();
            } else if w.is_terminal() || w.is_empty() || (!w.may_sleep() && !slot.contend(w)) {
                continue;
            }
            return Poll::Pending;
        }
    }

    /// Starts or joins a run in the background. It is counted before this returns.
    #[cfg(feature = "tokio")]
    pub(crate) fn spawn(caller: Caller, slot: SlotPtr) -> Result<(), TaskError> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|_| TaskError::no_runtime(slot.name(), "a run in the background"))?;
        if let Some(spawned) = promise(caller.core, slot, caller.body)? {
            drop(runtime.spawn(spawned));
        }
        Ok(())
    }

    /// Counts a caller for [`spawn`]; nothing if the run is over.
    pub(crate) fn promise(
        core: CorePtr,
        slot: SlotPtr,
        origin: Option<SlotPtr>,
    ) -> Result<Option<Spawned>, TaskError> {
        let mut call = RawRun::new(slot);
        // The body that spawns does not wait, so it is not the caller.
        call.enlist(Caller { core, body: None }, origin)?;
        if call.slot().look().is_terminal() {
            return Ok(None);
        }
        let since = call.take_since();
        Ok(Some(Spawned {
            call,
            since,
            origin,
            context: core.strong(),
        }))
    }

    /// A caller that nobody awaits.
    pub(crate) struct Spawned {
        call: RawRun,
        /// What observers are to be told of the call, which does not know on whose behalf it waits.
        since: Since,
        origin: Option<SlotPtr>,
        context: Strong,
    }

    impl Spawned {
        fn caller(&self) -> Caller {
            Caller {
                core: self.context.core(),
                body: None,
            }
        }

        /// For observers: the call is over.
        fn over(&mut self) {
            let (core, slot) = (self.context.core(), self.call.slot());
            if slot.look().is_observed() && !self.call.is_starter() {
                observe::over(core, slot, self.origin, &mut self.since);
            }
        }
    }

    impl Future for Spawned {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let caller = self.caller();
            let polled = self.call.poll(caller, cx).map(drop);
            if polled.is_ready() {
                self.over();
            }
            polled
        }
    }

    impl Drop for Spawned {
        fn drop(&mut self) {
            self.over();
            // CANCEL: an ordinary leave; others go on with the same run.
            let caller = self.caller();
            self.call.leave(caller);
        }
    }
}

/// For the models: what needs a runtime, with the model's own threads in its place.
#[cfg(loom)]
pub mod model {
    use std::future::Future;

    use super::helpers;
    use super::{Arc, BoxedCall, Ctx, RunAll};
    use crate::TaskError;

    /// A future that drives calls of others.
    pub type Driver = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

    /// What [`Ctx::spawn`] gives to the runtime; nothing if the run is over.
    ///
    /// # Errors
    /// As `spawn`.
    pub fn spawn<S: Send + Sync + 'static>(
        ctx: &Ctx<S>,
        call: &BoxedCall<S>,
    ) -> Result<Option<Driver>, TaskError> {
        let spawned = helpers::promise(ctx.core(), call.slot(ctx), ctx.caller().body)?;
        Ok(spawned.map(|spawned| Box::pin(spawned) as Driver))
    }

    /// Where the helpers of a fan are found after its first poll.
    #[derive(Default, Clone)]
    pub struct Helpers(Arc<std::sync::Mutex<Vec<helpers::Helper>>>);

    impl Helpers {
        /// The helpers that were made so far.
        pub fn take(&self) -> Vec<Driver> {
            let mut helpers = self.0.lock().unwrap();
            let drivers = helpers.drain(..);
            drivers.map(|helper| Box::pin(helper) as Driver).collect()
        }
    }

    impl std::fmt::Debug for Helpers {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Helpers")
        }
    }

    /// As [`Ctx::run_all`] on a runtime, at most `limit` at a time.
    pub fn run_all<'a, S: Send + Sync + 'static>(
        ctx: &'a Ctx<S>,
        calls: &[BoxedCall<S>],
        limit: usize,
    ) -> (RunAll<'a, S>, Helpers) {
        let mut all = ctx.run_all(calls.iter().cloned());
        let helpers = Helpers::default();
        all.fan.limit = limit.max(1);
        all.fan.helpers = Some(helpers.0.clone());
        (all, helpers)
    }
}
