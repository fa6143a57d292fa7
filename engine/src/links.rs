//! What closes a context from outside: its deadline and its token.
//!
//! One watcher task per context, on the tokio runtime, started by the first call that must wait; a context whose calls never
//! wait never has one. The watcher has no handle: it reaches the context through a cell that is emptied, under its lock, when
//! the context closes.

#[cfg(not(feature = "tokio"))]
pub(crate) use without::Links;

#[cfg(feature = "tokio")]
pub(crate) use with::Links;

#[cfg(not(feature = "tokio"))]
mod without {
    use crate::TaskError;
    use crate::context::{CorePtr, Reason};

    /// Nothing: deadlines and tokens come with the feature `tokio`.
    #[derive(Default)]
    pub(crate) struct Links;

    impl Links {
        pub(crate) fn any(&self) -> bool {
            false
        }
        pub(crate) fn due(&self) -> Option<Reason> {
            None
        }
        pub(crate) fn arm(&self, _: CorePtr, _: &'static str) -> Result<(), TaskError> {
            Ok(())
        }
        pub(crate) fn disarm(&self) {}
    }
}

#[cfg(feature = "tokio")]
mod with {
    use std::future::{Future, poll_fn};
    use std::panic::catch_unwind;
    use std::pin::pin;
    use std::sync::{Arc, Mutex, PoisonError};
    use std::task::Poll;
    use std::time::Duration;

    use tokio::runtime::Handle;
    use tokio::task::AbortHandle;
    use tokio::time::{Instant, Sleep};
    use tokio_util::sync::CancellationToken;

    use crate::TaskError;
    use crate::context::{CorePtr, Reason, Strong};

    #[derive(Default)]
    pub(crate) struct Links {
        deadline: Option<Instant>,
        token: Option<CancellationToken>,
        watcher: Arc<Mutex<Watcher>>,
    }

    // The lock is std's, and taken only by contexts that have a deadline or a token; tokio is in no model.
    #[derive(Default)]
    struct Watcher {
        /// Set while a watcher may close the context.
        core: Option<CorePtr>,
        task: Option<AbortHandle>,
    }

    fn lock(watcher: &Mutex<Watcher>) -> std::sync::MutexGuard<'_, Watcher> {
        watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Links {
        pub(crate) fn set_deadline(&mut self, after: Duration) {
            // More than the clock can say is no deadline.
            self.deadline = Instant::now().checked_add(after);
        }

        pub(crate) fn set_token(&mut self, token: CancellationToken) {
            self.token = Some(token);
        }

        pub(crate) fn any(&self) -> bool {
            self.deadline.is_some() || self.token.is_some()
        }

        /// Why the context should be closed by now.
        pub(crate) fn due(&self) -> Option<Reason> {
            if self
                .token
                .as_ref()
                .is_some_and(CancellationToken::is_cancelled)
            {
                Some(Reason::Cancelled)
            } else if self.deadline.is_some_and(|at| Instant::now() >= at) {
                Some(Reason::Deadline)
            } else {
                None
            }
        }

        /// Starts the watcher unless there is one.
        pub(crate) fn arm(&self, core: CorePtr, task: &'static str) -> Result<(), TaskError> {
            {
                let mut watcher = lock(&self.watcher);
                if watcher.core.is_some() {
                    return Ok(());
                }
                watcher.core = Some(core);
            }
            // From here on whoever drops `armed` empties the cell and wakes those who rely on it.
            let armed = Armed(self.watcher.clone());
            let no_runtime = || {
                TaskError::no_runtime(
                    task,
                    "the deadline or the cancellation token of its context",
                )
            };
            let runtime = Handle::try_current().map_err(|_| no_runtime())?;
            // A runtime without timers panics here, and better here than in the watcher.
            let timer = catch_unwind(|| self.deadline.map(tokio::time::sleep_until));
            let timer = timer.map_err(|payload| {
                crate::stack::discard(payload);
                no_runtime()
            })?;
            // Not under the lock: a runtime that is shut down drops the watcher inside `spawn`.
            let watch = watch(armed, timer, self.token.clone());
            let watching = runtime.spawn(watch).abort_handle();
            let mut watcher = lock(&self.watcher);
            if watcher.core.is_none() {
                drop(watcher);
                watching.abort();
                // Closed meanwhile, which the caller sees; or the runtime is gone.
                return if core.is_closed() {
                    Ok(())
                } else {
                    Err(no_runtime())
                };
            }
            watcher.task = Some(watching);
            drop(watcher);
            if core.is_closed() {
                // It was closed before the cell was full, so nobody has emptied it.
                self.disarm();
            }
            Ok(())
        }

        /// The context is closed: whatever the watcher does from now on, it does not reach it.
        pub(crate) fn disarm(&self) {
            let task = {
                let mut watcher = lock(&self.watcher);
                watcher.core = None;
                watcher.task.take()
            };
            if let Some(task) = task {
                task.abort();
            }
        }
    }

    async fn watch(armed: Armed, timer: Option<Sleep>, token: Option<CancellationToken>) {
        let mut timer = pin!(timer);
        let mut cancelled = pin!(token.as_ref().map(CancellationToken::cancelled));
        let reason = poll_fn(|cx| {
            if let Some(cancelled) = cancelled.as_mut().as_pin_mut()
                && cancelled.poll(cx).is_ready()
            {
                Poll::Ready(Reason::Cancelled)
            } else if let Some(timer) = timer.as_mut().as_pin_mut()
                && timer.poll(cx).is_ready()
            {
                Poll::Ready(Reason::Deadline)
            } else {
                Poll::Pending
            }
        })
        .await;
        if let Some(context) = armed.take() {
            context.core().close(reason);
        }
    }

    /// The watcher's end of the cell.
    struct Armed(Arc<Mutex<Watcher>>);

    impl Armed {
        /// Empties the cell. A handle of the context, if it is not closed yet.
        fn take(&self) -> Option<Strong> {
            let mut watcher = lock(&self.0);
            watcher.task = None;
            // The handle is taken under the lock: who frees the context empties the cell before.
            watcher.core.take().map(CorePtr::strong)
        }
    }

    impl Drop for Armed {
        fn drop(&mut self) {
            // The runtime goes before the context: those who wait look again, and start another watcher or say that they cannot.
            if let Some(context) = self.take() {
                context.core().wake_everyone();
            }
        }
    }
}
