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
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    use tokio::runtime::Handle;
    use tokio::task::AbortHandle;
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use crate::TaskError;
    use crate::context::{CorePtr, Reason};

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
            let mut watcher = lock(&self.watcher);
            if watcher.core.is_some() {
                return Ok(());
            }
            let runtime = Handle::try_current().map_err(|_| {
                TaskError::no_runtime(
                    task,
                    "the deadline or the cancellation token of its context",
                )
            })?;
            watcher.core = Some(core);
            let watch = watch(
                Armed(self.watcher.clone()),
                self.deadline,
                self.token.clone(),
            );
            watcher.task = Some(runtime.spawn(watch).abort_handle());
            // The context may have been closed before the cell was full; then nobody empties it but us.
            if core.is_closed() {
                watcher.core = None;
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

    async fn watch(armed: Armed, deadline: Option<Instant>, token: Option<CancellationToken>) {
        let cancelled = async {
            match &token {
                Some(token) => token.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let reason = match deadline {
            None => {
                cancelled.await;
                Reason::Cancelled
            }
            Some(at) => match tokio::time::timeout_at(at, cancelled).await {
                Ok(()) => Reason::Cancelled,
                Err(_) => Reason::Deadline,
            },
        };
        // The handle is taken under the lock: who frees the context empties the cell before.
        let context = lock(&armed.0).core.take().map(CorePtr::strong);
        if let Some(context) = context {
            context.core().close(reason);
        }
    }

    /// The watcher's end of the cell. If its runtime goes first, the next call that waits starts another.
    struct Armed(Arc<Mutex<Watcher>>);

    impl Drop for Armed {
        fn drop(&mut self) {
            let mut watcher = lock(&self.0);
            watcher.core = None;
            watcher.task = None;
        }
    }
}
