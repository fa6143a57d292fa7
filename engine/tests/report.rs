//! The report: what it says of a context, in each of its forms, and what may be in it.
#![cfg(not(loom))]

mod support;

use std::time::{Duration, Instant};

use support::{Gate, both_runtimes, everywhere, now, poll_once};
use watershed::observe::Outcome;
use watershed::report::{Report, RunReport};
use watershed::{Ctx, TaskError, TaskErrorKind};

#[derive(Clone, Default)]
struct App {
    gate: Gate,
}

async fn base(_: Ctx<App>, n: u64) -> Result<u64, String> {
    Ok(n)
}
async fn left(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(base, n).await? + 1)
}
async fn right(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(base, n).await? + 2)
}
async fn diamond(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    Ok(*ctx.run(left, n).await? + *ctx.run(right, n).await?)
}
async fn gated(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    ctx.state().gate.passed().await;
    Ok(n)
}
async fn fails(_: Ctx<App>, _: u64) -> Result<u64, String> {
    Err("a secret".into())
}
async fn panics(_: Ctx<App>, _: u64) -> Result<u64, String> {
    panic!("as it must")
}

fn recorded() -> Ctx<App> {
    Ctx::builder(App::default()).record(true).build()
}

fn run<'r>(report: &'r Report, name: &str) -> &'r RunReport {
    let mut found = report.runs.iter().filter(|run| run.name() == name);
    let run = found
        .next()
        .unwrap_or_else(|| panic!("no {name} in {report:?}"));
    assert!(found.next().is_none(), "{name} twice in {report:?}");
    run
}

#[test]
fn a_diamond_is_four_runs_and_one_hit() {
    let ctx = recorded();
    assert_eq!(*now(ctx.run(diamond, 1)).unwrap(), 5);
    let report = ctx.report();
    assert_eq!(report.runs.len(), 4);
    let [diamond, left, right, base] =
        ["diamond", "left", "right", "base"].map(|name| run(&report, name));
    assert_eq!((diamond.parent, diamond.depth), (None, 0));
    assert_eq!((left.parent, left.depth), (Some(diamond.id), 1));
    assert_eq!((right.parent, right.depth), (Some(diamond.id), 1));
    assert_eq!((base.parent, base.depth), (Some(left.id), 2));
    assert!(report.runs.iter().all(|run| run.outcome == Outcome::Done));
    assert_eq!((base.hits(), base.joins()), (1, 0));
    assert_eq!(base.calls[0].caller, Some(right.id));
    assert!(diamond.calls.is_empty());
    // One inside of the other.
    for (outer, inner) in [(diamond, left), (diamond, right), (left, base)] {
        assert!(outer.started <= inner.started && inner.ended <= outer.ended);
    }
    assert!(left.ended.unwrap() <= right.started);
    // Own time only: the polls of those below are theirs.
    let ran: Duration = report.runs.iter().map(|run| run.ran).sum();
    assert!(ran <= diamond.elapsed().unwrap());
    assert_eq!(base.saved(), base.elapsed().unwrap());
    assert_eq!(report.saved(), base.saved());
    let tasks = report.tasks();
    assert_eq!(tasks.iter().map(|task| task.runs).sum::<u64>(), 4);
    assert_eq!(tasks.iter().map(|task| task.hits).sum::<u64>(), 1);
}

#[test]
fn failures_panics_and_cancellations_are_in_the_report_and_errors_are_not_quoted() {
    let ctx = recorded();
    now(ctx.run(fails, 1)).unwrap_err();
    now(ctx.run(fails, 1)).unwrap_err();
    now(ctx.run(panics, 1)).unwrap_err();
    let mut call = ctx.run(gated, 1);
    assert!(poll_once(&mut call).is_pending());
    drop(call);
    let mut call = ctx.run(gated, 2);
    assert!(poll_once(&mut call).is_pending());
    assert_eq!(ctx.report().runs[3].outcome, Outcome::Running);
    assert_eq!(ctx.report().runs[3].ended, None);
    ctx.cancel();
    let report = ctx.report();
    let outcomes: Vec<Outcome> = report.runs.iter().map(|run| run.outcome).collect();
    assert_eq!(
        outcomes,
        [
            Outcome::Failed(TaskErrorKind::Failed),
            Outcome::Failed(TaskErrorKind::Panicked),
            Outcome::Left,
            Outcome::Closed,
        ]
    );
    assert_eq!(run(&report, "fails").hits(), 1);
    assert!(report.runs.iter().all(|run| run.ended.is_some()));
    let task = |name: &str| {
        report
            .tasks()
            .into_iter()
            .find(|task| task.name() == name)
            .unwrap()
    };
    assert_eq!((task("fails").failed, task("panics").failed), (1, 1));
    assert_eq!((task("gated").runs, task("gated").cancelled), (2, 2));
    for text in all_forms(&report) {
        assert!(!text.contains("a secret"), "{text}");
    }
}

#[test]
fn who_joined_is_there_with_its_wait() {
    both_runtimes(|| async {
        let ctx = recorded();
        let mut first = ctx.run(gated, 1);
        assert!(poll_once(&mut first).is_pending());
        async fn waits(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
            Ok(*ctx.run(gated, n).await?)
        }
        let mut second = ctx.run(waits, 1);
        assert!(poll_once(&mut second).is_pending());
        ctx.state().gate.open();
        second.await.unwrap();
        first.await.unwrap();
        let report = ctx.report();
        let (waits, gated) = (run(&report, "waits"), run(&report, "gated"));
        assert_eq!(gated.parent, None);
        let [call] = &gated.calls[..] else {
            panic!("{report:?}")
        };
        assert_eq!(
            (call.caller, call.joins, call.hits, call.left),
            (Some(waits.id), 1, 0, 0)
        );
        assert!(call.at >= waits.started && call.at + call.longest <= waits.ended.unwrap());
        assert_eq!(call.waited, call.longest);
    });
}

#[test]
fn a_run_under_way_says_how_long_it_was_polled_so_far() {
    async fn works(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2) {}
        ctx.state().gate.passed().await;
        Ok(n)
    }
    async fn waits(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        Ok(*ctx.run(works, n).await?)
    }
    everywhere(|| async {
        let ctx = recorded();
        let mut call = ctx.run(waits, 1);
        assert!(poll_once(&mut call).is_pending());
        let so_far = ctx.report();
        let (inner, outer) = (run(&so_far, "works"), run(&so_far, "waits"));
        assert_eq!((inner.outcome, inner.ended), (Outcome::Running, None));
        assert!(inner.ran >= Duration::from_millis(2), "{inner:?}");
        // The time of the body inside of it is not its own.
        assert!(outer.ran > Duration::ZERO && outer.ran < inner.ran);
        // A copy: it does not change, and the next one goes on from there.
        ctx.state().gate.open();
        call.await.unwrap();
        let whole = ctx.report();
        assert!(run(&whole, "works").ran >= inner.ran);
        assert!(so_far.tasks().iter().any(|task| task.ran == inner.ran));
    });
}

#[cfg(feature = "tokio")]
#[test]
fn spawned_and_parallel_runs_are_below_who_wanted_them() {
    async fn fans(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        use watershed::Task;
        ctx.spawn(base, 100)?;
        let all = ctx.parallel_all((0..n).map(|n| left.with(n)), 3).await?;
        Ok(all.into_iter().sum())
    }
    both_runtimes(|| async {
        let ctx = recorded();
        ctx.run(fans, 6).await.unwrap();
        ctx.run(base, 100).await.unwrap();
        let report = ctx.report();
        let fans = run(&report, "fans");
        for below in report.runs.iter().filter(|run| run.name() == "left") {
            assert_eq!((below.parent, below.depth), (Some(fans.id), 1));
        }
        let spawned = report.runs.iter().filter(|run| run.parent == Some(fans.id));
        assert_eq!(spawned.count(), 7);
        assert_eq!(report.runs.len(), 14);
        assert!(report.runs.iter().all(|run| run.outcome == Outcome::Done));
    });
}

#[test]
fn a_context_that_does_not_record_says_how_to() {
    let ctx = Ctx::new(App::default());
    now(ctx.run(diamond, 1)).unwrap();
    let report = ctx.report();
    assert!(report.runs.is_empty() && !report.recorded);
    assert!(report.to_string().contains("record(true)"));
    for text in all_forms(&report) {
        assert!(!text.is_empty());
    }
}

#[test]
fn a_value_that_was_put_in_is_in_the_report_without_a_run() {
    let ctx = recorded();
    ctx.prime(base, 1, 7).unwrap();
    now(ctx.run(left, 1)).unwrap();
    let report = ctx.report();
    let base = run(&report, "base");
    assert_eq!((base.outcome, base.hits()), (Outcome::Primed, 1));
    let task = report
        .tasks()
        .into_iter()
        .find(|task| task.name() == "base");
    assert_eq!(task.unwrap().runs, 0);
}

#[test]
fn the_record_is_bounded_and_says_what_it_left_out() {
    let ctx = recorded();
    for n in 0..70_000 {
        now(ctx.run(base, n)).unwrap();
    }
    now(ctx.run(base, 1)).unwrap();
    now(ctx.run(base, 69_999)).unwrap();
    let report = ctx.report();
    assert_eq!(report.runs.len(), 1 << 16);
    // A hit of a run that is not in the record is not either.
    assert_eq!(report.omitted, 70_000 - (1 << 16) + 1);
    assert_eq!(report.runs[1].hits(), 1);
}

/// Everything that a report can be written as.
fn all_forms(report: &Report) -> Vec<String> {
    vec![
        report.to_string(),
        report.to_mermaid(),
        report.to_dot(),
        report.to_chrome_trace(),
        report.to_html(),
    ]
}

#[test]
fn the_waterfall_has_a_line_for_each_run_and_each_task() {
    let ctx = Ctx::builder(App::default())
        .record(true)
        .record_input(left)
        .build();
    now(ctx.run(diamond, 1)).unwrap();
    let text = ctx.report().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("4 runs of 4 tasks in "), "{text}");
    let names: Vec<&str> = lines[1..5]
        .iter()
        .map(|line| line.split('|').next().unwrap().trim_end())
        .collect();
    assert_eq!(names, ["diamond", "  left(1)", "    base", "  right"]);
    assert!(lines[1..5].iter().all(|line| line.contains('#')), "{text}");
    assert!(lines[3].ends_with(", 1 hit"), "{text}");
    assert_eq!(lines.len(), 1 + 4 + 1 + 1 + 4, "{text}");
}

#[test]
fn the_graphs_have_a_node_for_each_task_and_an_edge_for_each_pair() {
    let ctx = recorded();
    for n in 0..3 {
        now(ctx.run(diamond, n)).unwrap();
    }
    let report = ctx.report();
    let mermaid = report.to_mermaid();
    assert!(mermaid.starts_with("flowchart LR\n"));
    assert_eq!(mermaid.matches("<br/>").count(), 4);
    // outside > diamond, diamond > left and right, left > base, and right > base by hits only.
    assert_eq!(mermaid.matches("-->").count(), 4, "{mermaid}");
    assert_eq!(mermaid.matches("-.->").count(), 1, "{mermaid}");
    assert!(mermaid.contains("|\"3 hits\"|"), "{mermaid}");
    let dot = report.to_dot();
    assert!(dot.starts_with("digraph watershed {") && dot.ends_with("}\n"));
    assert_eq!(dot.matches(" -> ").count(), 5, "{dot}");
    assert_eq!(dot.matches("style=dashed").count(), 1, "{dot}");
}

#[test]
fn the_chrome_trace_is_valid_json_whose_slices_nest() {
    let ctx = recorded();
    now(ctx.run(diamond, 1)).unwrap();
    let mut first = ctx.run(gated, 1);
    let mut second = ctx.run(gated, 1);
    assert!(poll_once(&mut first).is_pending());
    assert!(poll_once(&mut second).is_pending());
    ctx.state().gate.open();
    now(second).unwrap();
    now(first).unwrap();
    let trace = ctx.report().to_chrome_trace();
    let trace: serde_json::Value = serde_json::from_str(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let slices: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
    let of = |cat: &str| slices.iter().filter(|slice| slice["cat"] == cat).count();
    assert_eq!((of("run"), of("wait")), (5, 1));
    assert!(
        slices
            .iter()
            .any(|slice| slice["name"] == "waits for gated")
    );
    let ends = |slice: &serde_json::Value| {
        let from = slice["ts"].as_f64().unwrap();
        (from, from + slice["dur"].as_f64().unwrap())
    };
    for a in &slices {
        for b in &slices {
            if a["tid"] != b["tid"] {
                continue;
            }
            let ((a0, a1), (b0, b1)) = (ends(a), ends(b));
            let near = 1e-6;
            let apart = a1 <= b0 + near || b1 <= a0 + near;
            let nested =
                (a0 <= b0 + near && b1 <= a1 + near) || (b0 <= a0 + near && a1 <= b1 + near);
            assert!(apart || nested, "{a} {b}");
        }
    }
}

/// Types whose names hold what markup is made of.
mod hostile {
    use super::{App, Ctx};
    use std::fmt;

    #[derive(Clone, PartialEq, Eq, Hash)]
    pub(super) struct Text(pub(super) &'static str);
    impl fmt::Debug for Text {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }
    #[derive(Clone, PartialEq, Eq, Hash, Debug)]
    pub(super) struct Panics;
    #[derive(Clone, PartialEq, Eq, Hash)]
    pub(super) struct DebugPanics;
    impl fmt::Debug for DebugPanics {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("begun")?;
            panic!("Debug's")
        }
    }
    pub(super) async fn shown(_: Ctx<App>, _: Text) -> Result<u64, String> {
        Ok(0)
    }
    pub(super) async fn shows_badly(_: Ctx<App>, _: DebugPanics) -> Result<u64, String> {
        Ok(0)
    }
    /// Its name has `<`, `>` and `&`.
    #[allow(clippy::extra_unused_type_parameters)]
    pub(super) async fn generic<T: 'static>(_: Ctx<App>, _: Text) -> Result<u64, String> {
        Ok(0)
    }
}

const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror=alert(1)> \"'`]|}]);--> \u{2028}\u{7} \\n ${x} é 漢 #quot; %% & &amp;";

#[test]
fn names_and_inputs_are_escaped_in_every_form() {
    let ctx = Ctx::builder(App::default())
        .record(true)
        .record_input(hostile::shown)
        .record_input(hostile::generic::<&'static [Option<u8>; 3]>)
        .build();
    now(ctx.run(hostile::shown, hostile::Text(HOSTILE))).unwrap();
    now(ctx.run(
        hostile::generic::<&'static [Option<u8>; 3]>,
        hostile::Text(HOSTILE),
    ))
    .unwrap();
    let report = ctx.report();
    assert_eq!(report.runs[0].input.as_deref(), Some(HOSTILE));
    let html = report.to_html();
    assert!(
        !html.contains("<script>alert") && !html.contains("<img"),
        "{html}"
    );
    // One script for the data, one for the page.
    assert_eq!(
        html.matches("</script>").count(),
        html.matches("<script").count()
    );
    let data = page_data(&html);
    assert_eq!(data["runs"][0][8], HOSTILE);
    assert_eq!(data["tasks"][1]["name"], "generic<&[Option<u8>; 3]>");
    let trace: serde_json::Value = serde_json::from_str(&report.to_chrome_trace()).unwrap();
    assert_eq!(trace["traceEvents"][1]["args"]["input"], HOSTILE);
    let mermaid = report.to_mermaid();
    assert!(
        mermaid.contains("generic#60;#38;#91;Option#60;u8#62;#59; 3#93;#62;"),
        "{mermaid}"
    );
    // Graphviz reads a quoted text up to the next quote that no backslash is before.
    for line in report.to_dot().lines() {
        let quotes = line
            .replace("\\\\", "")
            .replace("\\\"", "")
            .matches('"')
            .count();
        assert!(quotes % 2 == 0, "{line}");
    }
    // The terminal gets no control characters.
    assert!(
        report
            .to_string()
            .chars()
            .all(|c| c == '\n' || !c.is_control())
    );
}

/// The data inside of a page.
fn page_data(html: &str) -> serde_json::Value {
    let start = html.find("<script type=\"application/json\"").unwrap();
    let text = &html[start..];
    let text = &text[text.find('>').unwrap() + 1..];
    serde_json::from_str(&text[..text.find("</script>").unwrap()]).unwrap()
}

#[test]
fn a_debug_that_panics_or_never_ends_costs_the_input_and_nothing_else() {
    let ctx = Ctx::builder(App::default())
        .record(true)
        .record_input(hostile::shows_badly)
        .record_input(hostile::shown)
        .build();
    now(ctx.run(hostile::shows_badly, hostile::DebugPanics)).unwrap();
    let long: &'static str = "x".repeat(10_000).leak();
    now(ctx.run(hostile::shown, hostile::Text(long))).unwrap();
    let report = ctx.report();
    assert_eq!(report.runs[0].outcome, Outcome::Done);
    assert_eq!(report.runs[0].input, None);
    assert_eq!(report.runs[1].input.as_ref().unwrap().chars().count(), 201);
    let _ = hostile::Panics;
}

#[test]
fn the_page_loads_nothing_and_holds_every_run() {
    let ctx = recorded();
    for n in 0..500 {
        now(ctx.run(diamond, n)).unwrap();
    }
    let html = ctx.report().to_html();
    assert!(html.starts_with("<!doctype html>"));
    // The name of a namespace, and a reference into the page itself, load nothing.
    let text = html
        .replace("http://www.w3.org/2000/svg", "")
        .replace("url(#tip)", "");
    for outside in [
        "http:", "https:", "src=", "href=", "@import", "url(", "fetch(",
    ] {
        assert!(!text.contains(outside), "{outside}");
    }
    assert!(html.contains("prefers-color-scheme"));
    assert_eq!(page_data(&html)["runs"].as_array().unwrap().len(), 2_000);
    assert!(html.len() < 60_000 + 2_000 * 300, "{} bytes", html.len());
}

/// Standard Base64.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .chain(&[0; 3][chunk.len()..])
            .fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        for at in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * at) & 63]);
            text.push(if at > chunk.len() { '=' } else { digit });
        }
    }
    text
}

/// What stands between two tags, of which there must be one pair each.
fn inside<'h>(html: &'h str, open: &str, close: &str) -> &'h str {
    let (_, rest) = html.split_once(open).unwrap();
    assert!(!rest.contains(open), "one {open}");
    rest.split_once(close).unwrap().0
}

#[test]
fn the_policy_of_the_page_allows_its_script_and_styles_and_nothing_else() {
    use sha2::{Digest, Sha256};
    assert_eq!(
        [base64(b"M"), base64(b"Ma"), base64(b"Man")],
        ["TQ==", "TWE=", "TWFu"]
    );
    let source = |text: &str| format!("'sha256-{}'", base64(&Sha256::digest(text)));
    // Whatever is in the report.
    let ctx = Ctx::builder(App::default())
        .record(true)
        .record_input(hostile::shown)
        .build();
    now(ctx.run(hostile::shown, hostile::Text(HOSTILE))).unwrap();
    now(ctx.run(diamond, 1)).unwrap();
    for html in [recorded().report().to_html(), ctx.report().to_html()] {
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; base-uri 'none'; form-action 'none'",
            source(inside(&html, "<script>", "</script>")),
            source(inside(&html, "<style>", "</style>")),
        );
        assert_eq!(Report::CONTENT_SECURITY_POLICY, policy);
        // A policy by hashes lets no attribute with styles or code through.
        for attribute in ["style=", "onclick=", "onload=", "onerror="] {
            let tags = html
                .split('<')
                .filter(|tag| !tag.starts_with("script") && !tag.starts_with("pre"));
            assert!(
                tags.filter_map(|tag| tag.split('>').next())
                    .all(|tag| !tag.contains(attribute)),
                "{attribute}"
            );
        }
    }
}
