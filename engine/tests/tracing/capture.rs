//! A subscriber that writes everything down.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

#[derive(Clone, Debug, Default)]
pub(crate) struct Span {
    pub(crate) name: &'static str,
    pub(crate) target: String,
    pub(crate) parent: Option<usize>,
    pub(crate) fields: BTreeMap<&'static str, String>,
    pub(crate) follows: Vec<usize>,
    pub(crate) entered: usize,
    pub(crate) exited: usize,
    pub(crate) closed: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) span: Option<usize>,
    pub(crate) target: String,
    pub(crate) fields: BTreeMap<&'static str, String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) spans: Vec<Span>,
    pub(crate) events: Vec<Told>,
}

/// Keeps what it is told; a clone shares it.
#[derive(Clone, Default)]
pub(crate) struct Capture(Arc<Mutex<Seen>>);

/// Where a span is in the list. (The registry uses its own numbers again.)
struct At(usize);

impl Capture {
    /// A subscriber with a new capture.
    pub(crate) fn new() -> (Self, Dispatch) {
        let capture = Self::default();
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(capture.clone()));
        (capture, dispatch)
    }

    pub(crate) fn seen(&self) -> Seen {
        self.0.lock().unwrap().clone()
    }
}

impl Seen {
    /// The spans of the runs of this task.
    pub(crate) fn runs(&self, task: &str) -> Vec<(usize, &Span)> {
        let is = |span: &Span| {
            span.target == "watershed"
                && span
                    .fields
                    .get("otel.name")
                    .is_some_and(|name| name == task)
        };
        self.spans
            .iter()
            .enumerate()
            .filter(|(_, span)| is(span))
            .collect()
    }

    /// The span of the one run of this task.
    pub(crate) fn run(&self, task: &str) -> (usize, &Span) {
        let runs = self.runs(task);
        assert_eq!(runs.len(), 1, "{task} in {self:#?}");
        runs[0]
    }

    /// Where the span with this name is, which the test made itself.
    pub(crate) fn own(&self, name: &str) -> usize {
        let at = self.spans.iter().position(|span| span.name == name);
        at.unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }
}

struct Fields<'a>(&'a mut BTreeMap<&'static str, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_new_span(&self, attrs: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let span = ctx.span(id).unwrap();
        let parent = span
            .parent()
            .map(|parent| parent.extensions().get::<At>().unwrap().0);
        let mut new = Span {
            name: attrs.metadata().name(),
            target: attrs.metadata().target().to_owned(),
            parent,
            ..Span::default()
        };
        attrs.record(&mut Fields(&mut new.fields));
        let mut seen = self.0.lock().unwrap();
        span.extensions_mut().insert(At(seen.spans.len()));
        seen.spans.push(new);
    }
    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        let at = at(&ctx, id);
        values.record(&mut Fields(&mut self.0.lock().unwrap().spans[at].fields));
    }
    fn on_follows_from(&self, id: &Id, follows: &Id, ctx: Context<'_, S>) {
        let (at, follows) = (at(&ctx, id), self::at(&ctx, follows));
        self.0.lock().unwrap().spans[at].follows.push(follows);
    }
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut told = Told {
            span: ctx
                .event_span(event)
                .map(|span| span.extensions().get::<At>().unwrap().0),
            target: event.metadata().target().to_owned(),
            fields: BTreeMap::new(),
        };
        event.record(&mut Fields(&mut told.fields));
        self.0.lock().unwrap().events.push(told);
    }
    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        let at = at(&ctx, id);
        self.0.lock().unwrap().spans[at].entered += 1;
    }
    fn on_exit(&self, id: &Id, ctx: Context<'_, S>) {
        let at = at(&ctx, id);
        self.0.lock().unwrap().spans[at].exited += 1;
    }
    fn on_close(&self, id: Id, ctx: Context<'_, S>) {
        let at = at(&ctx, &id);
        self.0.lock().unwrap().spans[at].closed = true;
    }
}

fn at<S: Subscriber + for<'a> LookupSpan<'a>>(ctx: &Context<'_, S>, id: &Id) -> usize {
    ctx.span(id).unwrap().extensions().get::<At>().unwrap().0
}

/// A runtime whose threads have the subscriber.
pub(crate) fn runtime(dispatch: &Dispatch, threads: usize) -> tokio::runtime::Runtime {
    let dispatch = dispatch.clone();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        // For as long as the thread lives.
        .on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&dispatch)))
        .build()
        .unwrap()
}
