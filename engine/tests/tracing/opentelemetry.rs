//! What arrives at OpenTelemetry.

use opentelemetry::trace::{SpanId, Status, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing::{Dispatch, info_span};
use tracing_subscriber::layer::SubscriberExt;
use watershed::{Ctx, Task, TaskError};

use crate::capture::runtime;
use crate::support::{Gate, poll_once, watched};

#[derive(Clone, Default)]
struct App {
    gate: Gate,
}

async fn user(ctx: Ctx<App>, id: u64) -> Result<u64, TaskError> {
    ctx.state().gate.passed().await;
    Ok(id)
}
async fn orders(ctx: Ctx<App>, id: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(user, id).await? * 10)
}
async fn flags(_: Ctx<App>, _: u64) -> Result<u64, String> {
    Err("no flags".into())
}
async fn page(ctx: Ctx<App>, id: u64) -> Result<u64, TaskError> {
    let (user, orders) = ctx.parallel((user.with(id), orders.with(id))).await?;
    let _ = ctx.run(flags, id).await;
    Ok(user + orders)
}

#[test]
fn a_request_is_one_trace_with_parents_links_and_statuses() {
    watched("OpenTelemetry", || {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
        let _in_force = tracing::dispatcher::set_default(&dispatch);
        runtime(&dispatch, 2).block_on(async {
            let ctx = Ctx::builder(App::default()).record_input(user).build();
            let request = info_span!("request");
            let mut call = request.in_scope(|| ctx.run(page, 7));
            assert!(request.in_scope(|| poll_once(&mut call)).is_pending());
            // Wherever the helper is by now, somebody joins somebody else's run of `user`.
            crate::support::until(|| {
                ctx.waits()
                    .runs
                    .iter()
                    .filter(|run| run.task.ends_with("::user"))
                    .any(|run| run.waited_by.len() == 2)
            })
            .await;
            ctx.state().gate.open();
            std::future::poll_fn(|cx| request.in_scope(|| std::pin::Pin::new(&mut call).poll(cx)))
                .await
                .unwrap();
        });
        provider.force_flush().unwrap();
        let spans = exporter.get_finished_spans().unwrap();
        let span = |name: &str| -> &SpanData {
            let mut found = spans.iter().filter(|span| span.name == name);
            let span = found
                .next()
                .unwrap_or_else(|| panic!("no {name} in {spans:#?}"));
            assert!(found.next().is_none(), "{name} twice");
            span
        };
        let id = |name: &str| span(name).span_context.span_id();
        assert_eq!(spans.len(), 5);
        let trace = span("request").span_context.trace_id();
        assert!(
            spans
                .iter()
                .all(|span| span.span_context.trace_id() == trace)
        );
        assert_eq!(span("request").parent_span_id, SpanId::INVALID);
        assert_eq!(span("page").parent_span_id, id("request"));
        for below in ["orders", "flags"] {
            assert_eq!(span(below).parent_span_id, id("page"), "{below}");
        }
        // Whichever of the two came first started it, and the other is linked to it.
        let (parent, other) = if span("user").parent_span_id == id("page") {
            ("page", "orders")
        } else {
            ("orders", "page")
        };
        assert_eq!(span("user").parent_span_id, id(parent));
        assert!(
            span(other)
                .links
                .iter()
                .any(|link| link.span_context.span_id() == id("user")),
            "{spans:#?}"
        );
        let joined = |span: &&SpanData| span.events.iter().any(|event| event.name == "joined");
        assert_eq!(
            spans
                .iter()
                .filter(joined)
                .map(|span| &*span.name)
                .collect::<Vec<_>>(),
            [other]
        );
        assert!(matches!(span("flags").status, Status::Error { .. }));
        assert!(matches!(span("user").status, Status::Unset));
        let attribute = |name: &str, key: &str| {
            let found = span(name)
                .attributes
                .iter()
                .find(|kv| kv.key.as_str() == key);
            found.map(|kv| kv.value.to_string())
        };
        assert_eq!(attribute("user", "outcome").as_deref(), Some("done"));
        assert_eq!(attribute("user", "input").as_deref(), Some("7"));
        assert_eq!(attribute("orders", "input"), None);
        assert_eq!(attribute("page", "depth").as_deref(), Some("0"));
        // A span lasts as long as its run.
        let (outer, inner) = (span("page"), span("orders"));
        assert!(outer.start_time <= inner.start_time && inner.end_time <= outer.end_time);
    });
}
