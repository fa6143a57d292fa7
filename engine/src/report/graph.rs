//! The graph of tasks, for Mermaid and for Graphviz.

use std::fmt::Write;

use super::{Edges, Report, TaskReport, time};

/// Lines of a node's label.
fn label(task: &TaskReport) -> [String; 2] {
    let runs = if task.runs == 1 { "run" } else { "runs" };
    let mut second = format!("{} {runs}, {}", task.runs, time(task.elapsed));
    if task.failed > 0 {
        let _ = write!(second, ", {} failed", task.failed);
    }
    if task.cancelled > 0 {
        let _ = write!(second, ", {} dropped", task.cancelled);
    }
    [task.name(), second]
}

/// Text inside of a quoted label: Mermaid reads HTML and its own entities there, so what could be markup is written as a number.
fn mermaid_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | ' ' | '_' | ',' | '.' => out.push(c),
            c if !c.is_ascii() && c.is_alphanumeric() => out.push(c),
            c if c.is_control() => out.push(' '),
            c => {
                let _ = write!(out, "#{};", u32::from(c));
            }
        }
    }
    out
}

pub(super) fn mermaid(report: &Report) -> String {
    let Edges { nodes, edges } = Edges::of(report);
    let mut out = String::from("flowchart LR\n");
    if edges.iter().any(|edge| edge.from.is_none()) {
        out.push_str("    outside([\"outside\"])\n");
    }
    for (at, task) in nodes.iter().enumerate() {
        let [name, runs] = label(task);
        let (name, runs) = (mermaid_text(&name), mermaid_text(&runs));
        let _ = writeln!(out, "    t{at}[\"{name}<br/>{runs}\"]");
    }
    for edge in &edges {
        let from = edge
            .from
            .map_or("outside".to_owned(), |at| format!("t{at}"));
        // A dotted line where nothing was started.
        let line = if edge.runs > 0 { "-->" } else { "-.->" };
        let label = mermaid_text(&edge.label());
        let _ = writeln!(out, "    {from} {line}|\"{label}\"| t{}", edge.to);
    }
    for (at, task) in nodes.iter().enumerate() {
        if task.failed > 0 {
            let _ = writeln!(out, "    style t{at} stroke:#c0392b,stroke-width:2px");
        }
    }
    out
}

/// Text inside of quotes.
fn dot_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn dot(report: &Report) -> String {
    let Edges { nodes, edges } = Edges::of(report);
    let mut out = String::from(
        "digraph watershed {\n    rankdir=LR;\n    node [shape=box, fontname=\"sans-serif\"];\n    edge [fontname=\"sans-serif\", fontsize=10];\n",
    );
    if edges.iter().any(|edge| edge.from.is_none()) {
        out.push_str("    outside [shape=plaintext];\n");
    }
    for (at, task) in nodes.iter().enumerate() {
        let [name, runs] = label(task);
        let color = if task.failed > 0 {
            ", color=\"#c0392b\""
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "    t{at} [label=\"{}\\n{}\"{color}];",
            dot_text(&name),
            dot_text(&runs)
        );
    }
    for edge in &edges {
        let from = edge
            .from
            .map_or("outside".to_owned(), |at| format!("t{at}"));
        let style = if edge.runs > 0 { "" } else { ", style=dashed" };
        let _ = writeln!(
            out,
            "    {from} -> t{} [label=\"{}\"{style}];",
            edge.to,
            dot_text(&edge.label())
        );
    }
    out.push_str("}\n");
    out
}
