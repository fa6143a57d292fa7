//! The waterfall for a terminal.

use std::collections::HashMap;
use std::fmt;

use super::{Report, RunReport, time};
use crate::observe::{Outcome, RunId};

/// How many runs are drawn; the others are in the table of tasks.
const ROWS: usize = 200;
/// How wide the bars are.
const BAR: usize = 40;
/// How wide the names may be.
const NAME: usize = 36;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.recorded {
            return f.write_str(
                "nothing was recorded; make the context with `Ctx::builder(..).record(true)`\n",
            );
        }
        let end = self.end();
        let tasks = self.tasks();
        let runs: u64 = tasks.iter().map(|task| task.runs).sum();
        writeln!(
            f,
            "{runs} {} of {} {} in {}; {} saved by sharing",
            if runs == 1 { "run" } else { "runs" },
            tasks.len(),
            if tasks.len() == 1 { "task" } else { "tasks" },
            time(end),
            time(self.saved()),
        )?;
        if self.omitted > 0 {
            writeln!(
                f,
                "{} runs and calls found no room in the record",
                self.omitted
            )?;
        }
        let order = order(self);
        for (run, level) in order.iter().take(ROWS) {
            self.row(f, run, *level, end)?;
        }
        if order.len() > ROWS {
            writeln!(f, "(and {} runs more)", order.len() - ROWS)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<NAME$} {:>7} {:>7} {:>7} {:>7} {:>9} {:>9} {:>9}",
            "task", "runs", "hits", "joins", "failed", "elapsed", "ran", "saved"
        )?;
        for task in &tasks {
            writeln!(
                f,
                "{:<NAME$} {:>7} {:>7} {:>7} {:>7} {:>9} {:>9} {:>9}",
                cut(&task.name(), NAME),
                task.runs,
                task.hits,
                task.joins,
                task.failed,
                time(task.elapsed),
                time(task.ran),
                time(task.saved),
            )?;
        }
        Ok(())
    }
}

impl Report {
    /// When the last thing in the report happened; its own time if something is under way.
    pub(super) fn end(&self) -> std::time::Duration {
        let mut end = std::time::Duration::ZERO;
        for run in &self.runs {
            end = end.max(run.ended.unwrap_or(self.at));
            for call in &run.calls {
                end = end.max(call.at + call.longest);
            }
        }
        end
    }

    fn row(
        &self,
        f: &mut fmt::Formatter<'_>,
        run: &RunReport,
        level: usize,
        end: std::time::Duration,
    ) -> fmt::Result {
        let mut name = "  ".repeat(level.min(8));
        name.push_str(&run.name());
        if let Some(input) = &run.input {
            name.push_str(&format!("({})", printable(input)));
        }
        write!(f, "{:<NAME$} |", cut(&name, NAME))?;
        let at = |time: std::time::Duration| {
            let part = time.as_secs_f64() / end.as_secs_f64().max(1e-9);
            ((part * BAR as f64) as usize).min(BAR - 1)
        };
        let (from, to) = (at(run.started), at(run.ended.unwrap_or(self.at)));
        let mark = match run.outcome {
            Outcome::Failed(_) => '!',
            Outcome::Left | Outcome::Closed => 'x',
            Outcome::Running => '>',
            _ => '#',
        };
        for column in 0..BAR {
            let c = if column == to && mark != '#' {
                mark
            } else if (from..=to).contains(&column) {
                '#'
            } else {
                ' '
            };
            write!(f, "{c}")?;
        }
        f.write_str("| ")?;
        match run.elapsed() {
            Some(elapsed) => write!(f, "{:>8}", time(elapsed))?,
            None => write!(f, "{:>8}", time(self.at.saturating_sub(run.started)))?,
        }
        if run.outcome != Outcome::Done {
            write!(f, " {}", run.outcome)?;
        }
        for (n, what) in [(run.hits(), "hit"), (run.joins(), "join")] {
            if n > 0 {
                write!(f, ", {n} {what}{}", if n == 1 { "" } else { "s" })?;
            }
        }
        writeln!(f)
    }
}

/// The runs below those that started them, each with its level.
pub(super) fn order(report: &Report) -> Vec<(&RunReport, usize)> {
    let mut below: HashMap<Option<RunId>, Vec<&RunReport>> = HashMap::new();
    for run in &report.runs {
        // A parent that found no room in the record is nobody's.
        let parent = run
            .parent
            .filter(|id| *id < run.id && report.run(*id).is_some());
        below.entry(parent).or_default().push(run);
    }
    let mut out = Vec::with_capacity(report.runs.len());
    let push = |todo: &mut Vec<_>, parent: Option<RunId>, level: usize| {
        if let Some(runs) = below.get(&parent) {
            todo.extend(runs.iter().rev().map(|run| (*run, level)));
        }
    };
    let mut todo = Vec::new();
    push(&mut todo, None, 0);
    while let Some((run, level)) = todo.pop() {
        out.push((run, level));
        push(&mut todo, Some(run.id), level + 1);
    }
    out
}

/// At most `width` characters of a text.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width - 1).collect();
    cut.push('…');
    cut
}

/// What a terminal shows as it stands.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
