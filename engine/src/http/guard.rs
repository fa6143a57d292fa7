//! The end of a request: whoever has the guard (the future of the response, then its body) ends the context by dropping it.

use std::sync::Arc;

use ::http::StatusCode;

use super::layer::Settings;
use crate::{Ctx, stack};

/// How a request ended; see [`ContextLayer::on_end`](super::ContextLayer::on_end).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct End {
    /// The status of the response; none if there was none: the client went, or the handler panicked, before.
    pub status: Option<StatusCode>,
    /// The whole body was given to the server. (Whether the client has read it, nobody knows.)
    pub complete: bool,
}

/// Ends the context of a request, once.
pub(super) struct Guard<S> {
    ctx: Option<Ctx<S>>,
    settings: Arc<Settings<S>>,
    end: End,
    /// Nobody reads the body of the response: the request is a HEAD.
    headless: bool,
}

impl<S> Guard<S> {
    pub(super) fn new(ctx: Ctx<S>, settings: Arc<Settings<S>>, headless: bool) -> Self {
        Self {
            ctx: Some(ctx),
            settings,
            end: End {
                status: None,
                complete: false,
            },
            headless,
        }
    }

    pub(super) fn settings(&self) -> &Settings<S> {
        &self.settings
    }

    /// There is a response; nothing is to be sent of an `empty` one.
    pub(super) fn responded(&mut self, status: StatusCode, empty: bool) {
        self.end.status = Some(status);
        self.end.complete = empty || self.headless;
    }

    /// The last of the body was given out.
    pub(super) fn complete(&mut self) {
        self.end.complete = true;
        self.end();
    }

    fn end(&mut self) {
        let Some(ctx) = self.ctx.take() else { return };
        let settings = &*self.settings;
        if !settings.linger {
            ctx.close_for_request(settings.on_end.is_some());
        }
        if let Some(on_end) = &settings.on_end {
            // May be inside of a drop, where a panic would end the process.
            stack::contain(|| on_end(&ctx, &self.end));
        }
    }
}

impl<S> Drop for Guard<S> {
    fn drop(&mut self) {
        self.end();
    }
}
