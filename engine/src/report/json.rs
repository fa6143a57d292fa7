//! The trace for Perfetto, and what the page reads: JSON, written by hand, since it is all that a serializer would be needed for.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

use super::{Edges, Report, text};

/// A string of JSON that may also stand inside of a `<script>`: no `<`, `>` or `&`, and no line separator.
pub(super) fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '<' | '>' | '&' | '\'' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

/// The parts of an object, from its fields.
macro_rules! object {
    ($out:expr, $($name:literal: $write:expr),+ $(,)?) => {{
        $out.push('{');
        let mut _first = true;
        $(
            if !std::mem::replace(&mut _first, false) { $out.push(','); }
            $out.push_str(concat!("\"", $name, "\":"));
            #[allow(clippy::redundant_closure_call)]
            ($write)($out);
        )+
        $out.push('}');
    }};
}

fn number(value: impl std::fmt::Display) -> impl FnOnce(&mut String) {
    move |out| {
        let _ = write!(out, "{value}");
    }
}

fn text(value: &str) -> impl FnOnce(&mut String) + '_ {
    move |out| string(out, value)
}

/// On which line of the trace each thing is drawn: slices of one line must lie inside of one another or apart.
#[derive(Default)]
struct Lines(Vec<Vec<Duration>>);

impl Lines {
    /// The line `from` is on, if there is room inside of what is open there; another with room otherwise.
    fn place(&mut self, first: Option<usize>, from: Duration, to: Duration) -> usize {
        let fits = |open: &mut Vec<Duration>| {
            while open.last().is_some_and(|end| *end <= from) {
                open.pop();
            }
            open.last().is_none_or(|end| *end >= to)
        };
        let mut at = first.filter(|at| fits(&mut self.0[*at]));
        if at.is_none() {
            // A slice that belongs to none of those that are open: an empty line.
            at = self.0.iter_mut().position(|open| {
                fits(open);
                open.is_empty()
            });
        }
        let at = at.unwrap_or_else(|| {
            self.0.push(Vec::new());
            self.0.len() - 1
        });
        self.0[at].push(to);
        at
    }
}

pub(super) fn chrome_trace(report: &Report) -> String {
    /// A slice of the trace.
    struct Slice {
        from: Duration,
        to: Duration,
        /// Of the run in the report; and of the call in it, for a wait.
        run: usize,
        call: Option<usize>,
    }
    let mut slices = Vec::new();
    for (at, run) in report.runs.iter().enumerate() {
        let ended = run.ended.unwrap_or(report.at).max(run.started);
        slices.push(Slice {
            from: run.started,
            to: ended,
            run: at,
            call: None,
        });
        for (n, call) in run.calls.iter().enumerate() {
            if call.longest > Duration::ZERO {
                slices.push(Slice {
                    from: call.at,
                    to: call.at + call.longest,
                    run: at,
                    call: Some(n),
                });
            }
        }
    }
    // What contains another comes first.
    slices.sort_by(|a, b| {
        a.from
            .cmp(&b.from)
            .then(b.to.cmp(&a.to))
            .then(a.call.cmp(&b.call))
    });
    let mut lines = Lines::default();
    let mut line_of = HashMap::new();
    let mut out = String::from("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[");
    let out_ref = &mut out;
    object!(out_ref,
        "ph": text("M"), "name": text("process_name"), "pid": number(1), "tid": number(0),
        "args": |out: &mut String| object!(out, "name": text("watershed")),
    );
    for slice in &slices {
        let run = &report.runs[slice.run];
        let call = slice.call.map(|n| &run.calls[n]);
        let above = match call {
            Some(call) => call.caller,
            None => run.parent,
        };
        let first = above.and_then(|id| line_of.get(&id).copied());
        let line = lines.place(first, slice.from, slice.to);
        if call.is_none() {
            line_of.insert(run.id, line);
        }
        let name = match call {
            Some(_) => format!("waits for {}", run.name()),
            None => run.name(),
        };
        out_ref.push_str(",\n");
        object!(out_ref,
            "ph": text("X"),
            "name": text(&name),
            "cat": text(if call.is_some() { "wait" } else { "run" }),
            "pid": number(1),
            "tid": number(line + 1),
            "ts": number(micros(slice.from)),
            "dur": number(micros(slice.to.saturating_sub(slice.from))),
            "args": |out: &mut String| match call {
                Some(call) => object!(out,
                    "run": number(run.id.get()),
                    "calls": number(call.joins + call.left),
                    "waited_us": number(micros(call.waited)),
                ),
                None => object!(out,
                    "run": number(run.id.get()),
                    "task": text(run.task),
                    "input": text(run.input.as_deref().unwrap_or("")),
                    "outcome": text(&run.outcome.to_string()),
                    "ran_us": number(micros(run.ran)),
                    "hits": number(run.hits()),
                    "joins": number(run.joins()),
                    "depth": number(run.depth),
                ),
            },
        );
    }
    out.push_str("]}\n");
    out
}

/// What the page reads. Times are in microseconds.
pub(super) fn page_data(report: &Report) -> String {
    let graph = Edges::of(report);
    let mut task_at = HashMap::new();
    for (at, task) in graph.nodes.iter().enumerate() {
        task_at.insert(task.task, at);
    }
    let mut out = String::new();
    let out_ref = &mut out;
    object!(out_ref,
        "at": number(micros(report.at)),
        "end": number(micros(report.end())),
        "omitted": number(report.omitted),
        "recorded": number(report.recorded),
        "tasks": |out: &mut String| list(out, &graph.nodes, |out, task| object!(out,
            "name": text(&task.name()),
            "full": text(task.task),
            "runs": number(task.runs),
            "failed": number(task.failed),
            "cancelled": number(task.cancelled),
            "hits": number(task.hits),
            "joins": number(task.joins),
            "elapsed": number(micros(task.elapsed)),
            "ran": number(micros(task.ran)),
            "waited": number(micros(task.waited)),
            "saved": number(micros(task.saved)),
        )),
        "edges": |out: &mut String| list(out, &graph.edges, |out, edge| object!(out,
            "from": number(edge.from.map_or(-1, |at| at as i64)),
            "to": number(edge.to),
            "runs": number(edge.runs),
            "hits": number(edge.hits),
            "joins": number(edge.joins),
        )),
        "runs": |out: &mut String| list(out, &text::order(report), |out, (run, level)| {
            // A list and not an object: there may be thousands.
            let _ = write!(
                out,
                "[{},{},{},{},{},{},{},",
                run.id.get(),
                task_at[run.task],
                run.parent.map_or(0, |id| id.get()),
                level,
                micros(run.started),
                run.ended.map_or(-1.0, micros),
                micros(run.ran),
            );
            string(out, &run.outcome.to_string());
            out.push(',');
            match &run.input {
                Some(input) => string(out, input),
                None => out.push_str("null"),
            }
            out.push(',');
            list(out, &run.calls, |out, call| {
                let _ = write!(
                    out,
                    "[{},{},{},{},{},{},{}]",
                    call.caller.map_or(0, |id| id.get()),
                    call.hits,
                    call.joins,
                    call.left,
                    micros(call.waited),
                    micros(call.at),
                    micros(call.longest),
                );
            });
            out.push(']');
        }),
    );
    out
}

fn list<T>(out: &mut String, items: &[T], write: impl Fn(&mut String, &T)) {
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}
