//! The state of a request in these tests, the tasks, and what is told of what happens.

use std::fmt::Debug;
use std::sync::Arc;

use http::StatusCode;
use tokio::sync::{Mutex, mpsc};
use watershed::http::{ContextLayer, End};
use watershed::{Ctx, Shared, TaskError};

use crate::support::{Gate, HUNG};

/// What happened, in that order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// A body runs.
    Started(&'static str),
    /// A body was dropped, finished or not.
    Gone(&'static str),
    /// A request is over.
    Over(Option<StatusCode>, bool),
    /// A context was freed.
    Freed,
    /// What a test says.
    Said(String),
}

/// What the server has.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) gate: Gate,
    pub(crate) shared: Shared<Global>,
    told: mpsc::UnboundedSender<Event>,
    /// What comes, and what has come.
    events: Arc<Mutex<(mpsc::UnboundedReceiver<Event>, Vec<Event>)>>,
}

/// The state of the second tier.
pub(crate) struct Global {
    gate: Gate,
    told: mpsc::UnboundedSender<Event>,
}

impl App {
    pub(crate) fn new() -> App {
        let (told, events) = mpsc::unbounded_channel();
        let gate = Gate::new();
        App {
            shared: Shared::new(Global {
                gate: gate.clone(),
                told: told.clone(),
            }),
            gate,
            told,
            events: Arc::new(Mutex::new((events, Vec::new()))),
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        let _ = self.told.send(event);
    }

    pub(crate) async fn next(&self) -> Event {
        let mut events = self.events.lock().await;
        let event = tokio::time::timeout(HUNG / 2, events.0.recv()).await;
        let Ok(event) = event else {
            panic!("nothing comes after {:?}", events.1);
        };
        events.1.extend(event.clone());
        event.unwrap()
    }

    /// What was told and not read yet.
    pub(crate) async fn rest(&self) -> Vec<Event> {
        let mut events = self.events.lock().await;
        std::iter::from_fn(|| events.0.try_recv().ok()).collect()
    }

    /// What comes until a context is freed.
    pub(crate) async fn until_freed(&self) -> Vec<Event> {
        let mut events = Vec::new();
        while events.last() != Some(&Event::Freed) {
            events.push(self.next().await);
        }
        events
    }

    /// The next events must be these.
    pub(crate) async fn expect<const N: usize>(&self, expected: [Event; N]) {
        for event in expected {
            assert_eq!(self.next().await, event);
        }
    }

    /// The layer of most tests.
    pub(crate) fn layer(&self) -> ContextLayer<Req> {
        let (app, ends) = (self.clone(), self.clone());
        ContextLayer::new(move |parts| Req {
            name: parts
                .headers
                .get("name")
                .map_or("nobody", |name| name.to_str().unwrap())
                .to_owned(),
            app: app.clone(),
        })
        .on_end(move |ctx, end| {
            assert!(ctx.is_cancelled(), "the context is closed by now");
            ends.over(end);
        })
    }

    pub(crate) fn over(&self, end: &End) {
        self.tell(Event::Over(end.status, end.complete));
    }
}

/// The state of a request.
pub(crate) struct Req {
    pub(crate) name: String,
    pub(crate) app: App,
}

impl AsRef<Shared<Global>> for Req {
    fn as_ref(&self) -> &Shared<Global> {
        &self.app.shared
    }
}

impl Drop for Req {
    fn drop(&mut self) {
        self.app.tell(Event::Freed);
    }
}

/// Tells when a body starts and when it is gone.
pub(crate) struct Body<'a>(&'static str, &'a mpsc::UnboundedSender<Event>);

impl Body<'_> {
    pub(crate) fn of<'a>(name: &'static str, app: &'a App) -> Body<'a> {
        Body::new(name, &app.told)
    }

    fn new<'a>(name: &'static str, told: &'a mpsc::UnboundedSender<Event>) -> Body<'a> {
        let _ = told.send(Event::Started(name));
        Body(name, told)
    }
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        let _ = self.1.send(Event::Gone(self.0));
    }
}

// --- tasks -----------------------------------------------------------------------------------------

/// Ready at once.
pub(crate) async fn double(ctx: Ctx<Req>, n: u64) -> Result<u64, TaskError> {
    let _body = Body::of("double", &ctx.state().app);
    Ok(n * 2)
}

/// Waits at the gate.
pub(crate) async fn gated(ctx: Ctx<Req>, n: u64) -> Result<u64, TaskError> {
    let _body = Body::of("gated", &ctx.state().app);
    ctx.state().app.gate.passed().await;
    Ok(n * 2)
}

/// Who asked, after the gate.
pub(crate) async fn who(ctx: Ctx<Req>, _: ()) -> Result<String, TaskError> {
    let _body = Body::of("who", &ctx.state().app);
    ctx.state().app.gate.passed().await;
    Ok(ctx.state().name.clone())
}

/// Waits for ever.
pub(crate) async fn never(ctx: Ctx<Req>, _: ()) -> Result<String, TaskError> {
    let _body = Body::of("never", &ctx.state().app);
    std::future::pending().await
}

/// A task of the second tier that waits at the gate.
pub(crate) async fn global(ctx: Ctx<Global>, n: u64) -> Result<u64, TaskError> {
    let _body = Body::new("global", &ctx.state().told);
    ctx.state().gate.passed().await;
    Ok(n * 3)
}

#[derive(Debug)]
pub(crate) struct NoSuch(pub(crate) u64);

impl std::fmt::Display for NoSuch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no such thing: secret {}", self.0)
    }
}

impl std::error::Error for NoSuch {}

pub(crate) async fn finds_nothing(_: Ctx<Req>, n: u64) -> Result<u64, NoSuch> {
    Err(NoSuch(n))
}

pub(crate) async fn fails(_: Ctx<Req>, _: ()) -> Result<u64, String> {
    Err("secret: the password of the database".into())
}

pub(crate) async fn panics(_: Ctx<Req>, _: ()) -> Result<u64, String> {
    panic!("secret, as it must")
}
