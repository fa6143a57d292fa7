//! The body of a response: the context is open as long as it is.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::guard::Guard;

pin_project! {
    /// The body of a response from a [`ContextService`](super::ContextService). The context of the request closes when it has ended or is dropped.
    pub struct ContextBody<B, S> {
        // First: what a stream holds of its runs goes before the context.
        #[pin]
        inner: B,
        guard: Guard<S>,
    }
}

impl<B, S> ContextBody<B, S> {
    pub(super) fn new(inner: B, guard: Guard<S>) -> Self {
        Self { inner, guard }
    }
}

impl<B: Body, S> Body for ContextBody<B, S> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        // CANCEL: a body that is dropped takes the guard along, which closes the context.
        let polled = this.inner.as_mut().poll_frame(cx);
        match &polled {
            Poll::Ready(None) => this.guard.complete(),
            // Servers do not poll a body again that says so.
            Poll::Ready(Some(Ok(_))) if this.inner.is_end_stream() => this.guard.complete(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: fmt::Debug, S> fmt::Debug for ContextBody<B, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ContextBody").field(&self.inner).finish()
    }
}
