//! From errors to statuses.

use ::http::StatusCode;

use crate::{TaskError, TaskErrorKind};

impl TaskError {
    /// The HTTP status of a failure that nothing else is known of.
    ///
    /// | kind | status |
    /// |---|---|
    /// | [`DeadlineExceeded`](TaskErrorKind::DeadlineExceeded) | 504 Gateway Timeout |
    /// | [`Cancelled`](TaskErrorKind::Cancelled) | 503 Service Unavailable: the server is going down. (Or the client is gone, and nobody sees it.) |
    /// | every other | 500 Internal Server Error |
    ///
    /// What the task failed *with* says more: ask [`downcast_ref`](TaskError::downcast_ref) first, in
    /// [`ContextLayer::errors`](crate::http::ContextLayer::errors) or in a response of your own.
    ///
    /// # Examples
    /// ```
    /// use watershed::TaskError;
    /// assert_eq!(TaskError::new("no such table").status(), 500);
    /// ```
    pub fn status(&self) -> StatusCode {
        match self.kind() {
            TaskErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            TaskErrorKind::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
