//! The feature `tracing`: a span for each run. The only file that knows the crate, but for the type of a span.
//!
//! Everything here calls the subscriber, which is user code: no lock is held, and the callers contain its panics.

use std::fmt;

use tracing::field::{Empty, display};
use tracing::{Level, Span};

use crate::context::Options;
use crate::observe::{How, Join, Outcome, RunInfo};

/// The target of spans and events.
const TARGET: &str = "watershed";

/// Whether a context that is being made gets spans: as its builder says, otherwise as the subscriber does now.
pub(crate) fn decide(mut options: Option<Box<Options>>) -> Option<Box<Options>> {
    let said = options.as_ref().and_then(|options| options.watch.tracing);
    let spans = said.unwrap_or_else(|| tracing::span_enabled!(target: TARGET, Level::INFO));
    if spans || options.is_some() {
        options.get_or_insert_default().watch.tracing = Some(spans);
    }
    options
}

/// Below which span a run's is.
pub(crate) enum Parent<'a> {
    /// That of the call which starts it, now.
    Current,
    /// That of a call which left the starting to others.
    Span(&'a Span),
    /// None: nobody knows any more.
    Root,
}

/// The last part of a task's name, written without an allocation.
struct Short(&'static str);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Generic arguments keep their paths here: cutting those would need a buffer.
        let path = self.0.split('<').next().unwrap_or(self.0);
        let start = path.rfind("::").map_or(0, |at| at + 2);
        f.write_str(&self.0[start..])
    }
}

/// The span of a run; none if the subscriber does not want it.
pub(crate) fn span_of(
    run: &RunInfo,
    input: Option<&dyn fmt::Debug>,
    parent: Parent<'_>,
) -> Option<Span> {
    macro_rules! span {
        ($($parent:tt)*) => {
            tracing::span!(
                target: TARGET,
                $($parent)*
                Level::INFO,
                "task",
                task = run.task,
                otel.name = display(Short(run.task)),
                otel.status_code = Empty,
                run = run.id.get(),
                depth = run.depth as u64,
                input = input.map(debug),
                outcome = Empty,
            )
        };
    }
    let span = match parent {
        Parent::Current => span!(),
        Parent::Span(parent) => span!(parent: parent,),
        Parent::Root => span!(parent: None,),
    };
    (!span.is_disabled()).then_some(span)
}

/// The span in which this is called.
pub(crate) fn current() -> Span {
    Span::current()
}

/// This thread goes on inside of the span. (By hand, for a guard would borrow it.)
pub(crate) fn enter(span: &Span) {
    span.with_subscriber(|(id, subscriber)| subscriber.enter(id));
}

/// This thread leaves the span.
pub(crate) fn exit(span: &Span) {
    span.with_subscriber(|(id, subscriber)| subscriber.exit(id));
}

/// The run of a span ended.
pub(crate) fn record_outcome(span: &Span, outcome: Outcome) {
    span.record("outcome", display(outcome));
    if let Outcome::Failed(_) = outcome {
        span.record("otel.status_code", "ERROR");
    }
}

/// A call in the span `caller` waits for the run of the other.
pub(crate) fn follows(caller: &Span, run: &Span) {
    caller.follows_from(run);
}

/// A call that waited for the run of somebody else is over.
pub(crate) fn joined(join: &Join<'_>) {
    if join.how == How::Hit {
        return;
    }
    tracing::event!(
        target: TARGET,
        Level::DEBUG,
        task = join.task,
        run = join.run.map(|run| run.get()),
        waited_us = u64::try_from(join.waited.as_micros()).unwrap_or(u64::MAX),
        left = join.how == How::Left,
        "joined",
    );
}

/// A request was answered with an error, and this is why.
#[cfg(feature = "http")]
pub(crate) fn failed(error: &dyn fmt::Display) {
    tracing::event!(target: TARGET, Level::ERROR, error = %error, "request failed");
}
