//! The spans themselves.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tracing::dispatcher::with_default;
use tracing::{Dispatch, Span, info_span};
use watershed::{Ctx, Task, TaskError};

use crate::capture::{Capture, runtime};
use crate::heap;
use crate::support::{Gate, now, poll_once, until, watched};

#[derive(Clone, Default)]
struct App {
    gate: Gate,
    /// The spans in which bodies found themselves.
    inside: Arc<Mutex<Vec<Option<tracing::Id>>>>,
}

impl App {
    fn note(&self) {
        self.inside.lock().unwrap().push(Span::current().id());
    }
}

async fn leaf(ctx: Ctx<App>, n: u64) -> Result<u64, String> {
    ctx.state().note();
    Ok(n)
}
async fn middle(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    ctx.state().note();
    let n = *ctx.run(leaf, n).await?;
    ctx.state().note();
    Ok(n)
}
async fn gated(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    ctx.state().note();
    ctx.state().gate.passed().await;
    ctx.state().note();
    tracing::info!("inside of gated");
    Ok(n)
}
async fn fails(_: Ctx<App>, _: u64) -> Result<u64, String> {
    Err("a secret".into())
}
async fn panics(_: Ctx<App>, _: u64) -> Result<u64, String> {
    panic!("as it must")
}

/// Every span that was entered was left, and every run's is closed.
fn balanced(seen: &crate::capture::Seen) {
    for span in &seen.spans {
        assert_eq!(span.entered, span.exited, "{span:?}");
        assert!(span.closed || span.target != "watershed", "{span:?}");
    }
}

#[test]
fn a_run_has_a_span_below_that_of_its_caller_with_task_depth_and_outcome() {
    let (capture, dispatch) = Capture::new();
    with_default(&dispatch, || {
        let ctx = Ctx::new(App::default());
        let request = info_span!("request");
        request.in_scope(|| now(ctx.run(middle, 1)).unwrap());
        request.in_scope(|| now(ctx.run(fails, 1)).unwrap_err());
        request.in_scope(|| now(ctx.run(panics, 1)).unwrap_err());
        // A span ends with its run, and not with the context.
        let seen = capture.seen();
        let open = |span: &&crate::capture::Span| span.target == "watershed" && !span.closed;
        assert_eq!(seen.spans.iter().filter(open).count(), 0, "{seen:#?}");
    });
    let seen = capture.seen();
    let (middle, span) = seen.run("middle");
    assert_eq!(span.name, "task");
    assert_eq!(span.parent, Some(seen.own("request")));
    assert!(span.fields["task"].ends_with("::middle"), "{span:?}");
    assert_eq!(
        (&*span.fields["depth"], &*span.fields["outcome"]),
        ("0", "done")
    );
    let (_, span) = seen.run("leaf");
    assert_eq!(span.parent, Some(middle));
    assert_eq!(
        (&*span.fields["depth"], &*span.fields["outcome"]),
        ("1", "done")
    );
    assert_eq!(seen.run("fails").1.fields["outcome"], "failed");
    assert_eq!(seen.run("fails").1.fields["otel.status_code"], "ERROR");
    assert_eq!(seen.run("panics").1.fields["outcome"], "panicked");
    balanced(&seen);
    // Neither inputs nor errors.
    let all = format!("{seen:?}");
    assert!(!all.contains("input") && !all.contains("a secret"), "{all}");
}

#[test]
fn a_run_that_is_left_or_closed_says_so() {
    let (capture, dispatch) = Capture::new();
    with_default(&dispatch, || {
        let ctx = Ctx::new(App::default());
        let mut call = ctx.run(gated, 1);
        assert!(poll_once(&mut call).is_pending());
        drop(call);
        let mut call = ctx.run(gated, 2);
        assert!(poll_once(&mut call).is_pending());
        ctx.cancel();
    });
    let seen = capture.seen();
    let outcomes: Vec<_> = seen
        .runs("gated")
        .iter()
        .map(|(_, span)| span.fields["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["left", "cancelled"]);
    balanced(&seen);
}

#[test]
fn an_input_is_recorded_only_of_a_task_that_shows_it() {
    let (capture, dispatch) = Capture::new();
    with_default(&dispatch, || {
        let ctx = Ctx::builder(App::default()).record_input(leaf).build();
        now(ctx.run(middle, 4_711)).unwrap();
    });
    let seen = capture.seen();
    assert_eq!(seen.run("leaf").1.fields["input"], "4711");
    assert_eq!(seen.run("middle").1.fields.get("input"), None);
}

#[test]
fn a_body_is_polled_inside_of_its_own_span_and_the_caller_finds_its_own_again() {
    let (capture, dispatch) = Capture::new();
    let app = App::default();
    with_default(&dispatch, || {
        let ctx = Ctx::new(app.clone());
        let request = info_span!("request");
        request.in_scope(|| {
            now(ctx.run(middle, 1)).unwrap();
            assert_eq!(Span::current().id(), request.id());
        });
    });
    let inside = app.inside.lock().unwrap().clone();
    let [before, leaf, after] = &inside[..] else {
        panic!("{inside:?}")
    };
    assert!(before.is_some() && before == after && leaf.is_some() && leaf != before);
    balanced(&capture.seen());
}

#[test]
fn whoever_drives_a_run_is_inside_of_the_runs_span_and_not_of_a_request_that_is_over() {
    let (capture, dispatch) = Capture::new();
    let app = App::default();
    with_default(&dispatch, || {
        let ctx = Ctx::new(app.clone());
        let over = info_span!("over");
        let mut starter = ctx.run(gated, 1);
        assert!(over.in_scope(|| poll_once(&mut starter)).is_pending());
        let other = info_span!("other");
        let mut driver = ctx.run(gated, 1);
        assert!(other.in_scope(|| poll_once(&mut driver)).is_pending());
        drop(starter);
        drop(over);
        app.gate.open();
        // On another thread even, which has nothing but the subscriber.
        let dispatch = dispatch.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| with_default(&dispatch, || other.in_scope(|| now(driver).unwrap())));
        });
    });
    let inside = app.inside.lock().unwrap().clone();
    let [first, last] = &inside[..] else {
        panic!("{inside:?}")
    };
    assert!(first.is_some() && first == last);
    let seen = capture.seen();
    let (gated, span) = seen.run("gated");
    assert_eq!(span.parent, Some(seen.own("over")));
    // What the body tells is told of the run.
    let told = seen
        .events
        .iter()
        .find(|told| told.fields["message"].contains("inside"));
    assert_eq!(told.unwrap().span, Some(gated));
    // Entered by the starter once, and by the driver once: the request that is over was not.
    assert_eq!(
        (span.entered, seen.spans[seen.own("over")].entered),
        (2, 1),
        "polled by the one, polled by the other"
    );
    balanced(&seen);
}

#[test]
fn who_joined_is_told_how_long_it_waited_and_linked_to_the_run() {
    let (capture, dispatch) = Capture::new();
    let app = App::default();
    with_default(&dispatch, || {
        async fn joins(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
            Ok(*ctx.run(gated, n).await?)
        }
        let ctx = Ctx::new(app.clone());
        let mut first = ctx.run(gated, 1);
        assert!(poll_once(&mut first).is_pending());
        let mut second = ctx.run(joins, 1);
        let mut left = ctx.run(gated, 1);
        assert!(poll_once(&mut second).is_pending());
        assert!(
            info_span!("left")
                .in_scope(|| poll_once(&mut left))
                .is_pending()
        );
        info_span!("dropped_in").in_scope(|| drop(left));
        app.gate.open();
        now(second).unwrap();
        now(first).unwrap();
        // A hit is no news.
        now(ctx.run(gated, 1)).unwrap();
    });
    let seen = capture.seen();
    let (gated, span) = seen.run("gated");
    let (joins, caller) = seen.run("joins");
    assert_eq!(caller.follows, [gated]);
    assert_eq!(seen.spans[seen.own("left")].follows, [gated]);
    assert_eq!(span.parent, None);
    let told: Vec<_> = seen
        .events
        .iter()
        .filter(|told| told.target == "watershed")
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(
        (told[0].span, &*told[0].fields["left"]),
        (Some(seen.own("dropped_in")), "true")
    );
    assert_eq!(
        (told[1].span, &*told[1].fields["left"]),
        (Some(joins), "false")
    );
    for told in told {
        assert!(told.fields["task"].ends_with("::gated"));
        assert_eq!(told.fields["run"], "1");
        told.fields["waited_us"].parse::<u64>().unwrap();
    }
    balanced(&seen);
}

#[test]
fn a_call_that_joins_before_the_run_has_started_is_linked_when_it_does() {
    let (capture, dispatch) = Capture::new();
    let app = App::default();
    app.gate.open();
    let _in_force = tracing::dispatcher::set_default(&dispatch);
    crate::support::current_thread().block_on(async {
        let ctx = Ctx::new(app.clone());
        info_span!("first").in_scope(|| ctx.spawn(gated, 1).unwrap());
        info_span!("second").in_scope(|| ctx.spawn(gated, 1).unwrap());
        // The runtime has polled neither.
        assert_eq!(capture.seen().runs("gated").len(), 0);
        until(|| ctx.peek(gated, &1).is_some()).await;
    });
    let seen = capture.seen();
    let (gated, span) = seen.run("gated");
    assert_eq!(span.parent, Some(seen.own("first")));
    assert_eq!(seen.spans[seen.own("second")].follows, [gated]);
}

#[test]
fn spawned_and_parallel_runs_are_below_the_span_that_wanted_them() {
    async fn fans(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        ctx.spawn(leaf, 100)?;
        let calls = (gated.with(n), gated.with(n + 1), gated.with(n + 2));
        let (a, b, c) = ctx.parallel(calls).await?;
        Ok(a + b + c)
    }
    watched("spans on several threads", || {
        for threads in [1, 4] {
            let (capture, dispatch) = Capture::new();
            let app = App::default();
            app.gate.open();
            let _in_force = tracing::dispatcher::set_default(&dispatch);
            runtime(&dispatch, threads).block_on(async {
                let ctx = Ctx::new(app.clone());
                let request = info_span!("request");
                let mut call = ctx.run(fans, 1);
                std::future::poll_fn(|cx| request.in_scope(|| Pin::new(&mut call).poll(cx)))
                    .await
                    .unwrap();
                drop(call);
                // From no body, outside of the span by the time it runs.
                info_span!("spawner").in_scope(|| ctx.spawn(middle, 7).unwrap());
                let both = info_span!("both");
                let calls = (gated.with(50), gated.with(51));
                let mut parallel = ctx.parallel(calls);
                std::future::poll_fn(|cx| both.in_scope(|| Pin::new(&mut parallel).poll(cx)))
                    .await
                    .unwrap();
                until(|| ctx.peek(middle, &7).is_some() && ctx.peek(leaf, &100).is_some()).await;
            });
            let seen = capture.seen();
            let (fans, span) = seen.run("fans");
            assert_eq!(span.parent, Some(seen.own("request")));
            let (spawned, both) = (seen.own("spawner"), seen.own("both"));
            let (middle, span) = seen.run("middle");
            assert_eq!(span.parent, Some(spawned));
            let mut parents: Vec<_> = seen
                .runs("gated")
                .iter()
                .map(|(_, span)| span.parent)
                .collect();
            parents.sort();
            assert_eq!(
                parents,
                [Some(fans), Some(fans), Some(fans), Some(both), Some(both)]
            );
            let mut parents: Vec<_> = seen
                .runs("leaf")
                .iter()
                .map(|(_, span)| span.parent)
                .collect();
            parents.sort();
            assert_eq!(parents, [Some(fans), Some(middle)]);
            balanced(&seen);
        }
    });
}

#[test]
fn runs_that_are_driven_from_the_base_of_the_stack_are_below_their_own_callers() {
    fn chain(
        ctx: Ctx<App>,
        n: u64,
    ) -> Pin<Box<dyn Future<Output = Result<u64, TaskError>> + Send>> {
        Box::pin(async move {
            let here = Span::current().id();
            let below = match n {
                0 => 0,
                n => *ctx.run(chain, n - 1).await? + 1,
            };
            // Whoever goes on with it.
            assert_eq!(Span::current().id(), here);
            Ok(below)
        })
    }
    watched("a deep chain of spans", || {
        let (capture, dispatch) = Capture::new();
        with_default(&dispatch, || {
            let ctx = Ctx::new(App::default());
            assert_eq!(*ctx.run(chain, 1_000).wait().unwrap(), 1_000);
        });
        let seen = capture.seen();
        let mut above = None;
        for (depth, (at, span)) in seen.runs("chain").into_iter().enumerate() {
            assert_eq!(
                (span.parent, span.fields["depth"].parse()),
                (above, Ok(depth))
            );
            above = Some(at);
        }
        assert_eq!(seen.spans.len(), 1_001);
        balanced(&seen);
    });
}

#[test]
fn the_drop_of_a_body_is_inside_of_its_span() {
    struct Notes(App);
    impl Drop for Notes {
        fn drop(&mut self) {
            self.0.note();
        }
    }
    async fn guarded(ctx: Ctx<App>, _: ()) -> Result<(), TaskError> {
        let _guard = Notes(ctx.state().clone());
        ctx.state().note();
        ctx.state().gate.passed().await;
        Ok(())
    }
    let (_, dispatch) = Capture::new();
    let app = App::default();
    with_default(&dispatch, || {
        let ctx = Ctx::new(app.clone());
        let mut call = ctx.run(guarded, ());
        assert!(poll_once(&mut call).is_pending());
        drop(call);
    });
    let inside = app.inside.lock().unwrap();
    assert!(
        inside.len() == 2 && inside[0].is_some() && inside[0] == inside[1],
        "{inside:?}"
    );
}

#[test]
fn nobody_who_listens_costs_no_allocation() {
    let allocations = |ctx: &Ctx<()>| {
        now(ctx.run(double, 0)).unwrap();
        let before = heap::allocations();
        for n in 1..=100 {
            assert_eq!(*now(ctx.run(double, n)).unwrap(), n * 2);
            assert_eq!(*now(ctx.run(double, n)).unwrap(), n * 2);
        }
        heap::allocations() - before
    };
    async fn double(_: Ctx<()>, n: u64) -> Result<u64, String> {
        Ok(n * 2)
    }
    /// Wants nothing.
    struct Deaf;
    impl tracing::Subscriber for Deaf {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            false
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
            panic!("nobody asked")
        }
        fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {}
        fn enter(&self, _: &tracing::Id) {}
        fn exit(&self, _: &tracing::Id) {}
    }
    // A slot for each run at most (the first ones lie in the context), and nothing for a hit.
    let silent = allocations(&Ctx::new(()));
    assert!(silent <= 100, "{silent}");
    with_default(&Dispatch::new(Deaf), || {
        assert_eq!(allocations(&Ctx::new(())), silent);
    });
    let (capture, dispatch) = Capture::new();
    with_default(&dispatch, || {
        // Said so, whoever listens.
        assert_eq!(
            allocations(&Ctx::builder(()).tracing(false).build()),
            silent
        );
        // It would be seen.
        assert!(allocations(&Ctx::builder(()).tracing(true).build()) > silent);
    });
    assert_eq!(capture.seen().spans.len(), 101);
}

#[test]
fn a_context_made_before_anybody_listened_can_ask_for_spans() {
    let early = Ctx::new(App::default());
    let asked = Ctx::builder(App::default()).tracing(true).build();
    let (capture, dispatch) = Capture::new();
    with_default(&dispatch, || {
        now(early.run(leaf, 1)).unwrap();
        assert!(capture.seen().spans.is_empty());
        now(asked.run(leaf, 1)).unwrap();
        assert_eq!(capture.seen().runs("leaf").len(), 1);
    });
}

#[test]
fn a_subscriber_that_panics_costs_the_span_and_nothing_else() {
    struct Bad;
    impl tracing::Subscriber for Bad {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
            panic!("the subscriber's")
        }
        fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {}
        fn enter(&self, _: &tracing::Id) {}
        fn exit(&self, _: &tracing::Id) {}
    }
    with_default(&Dispatch::new(Bad), || {
        let ctx = Ctx::new(App::default());
        assert_eq!(*now(ctx.run(middle, 3)).unwrap(), 3);
    });
}
