//! What is told of the figures: JSON that other programs read, and Markdown tables.

use std::fmt::Write as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::measure::{Figures, Spread};
use crate::memory::Held;
use crate::{Kind, Workload, names};

/// One ratio.
#[derive(Clone, Debug)]
pub struct Row {
    /// The workload's name.
    pub workload: String,
    /// What it is, in a sentence.
    pub about: String,
    /// The other's name.
    pub peer: String,
    /// Not a peer: see [`Kind::Limit`].
    pub limit: bool,
    /// Nanoseconds of the engine.
    pub ours_ns: f64,
    /// Nanoseconds of the other.
    pub peer_ns: f64,
    /// Their time divided by ours, with its quartiles.
    pub ratio: Spread,
    /// The engine's allocations, and their bytes.
    pub allocs: (f64, f64),
    /// The other's.
    pub peer_allocs: (f64, f64),
    /// How many pairs.
    pub pairs: u64,
    /// What the engine has to reach by River's figures.
    pub goal_ns: Option<f64>,
}

impl Row {
    /// From what was measured.
    pub fn new(workload: &Workload, peer: &crate::Contender, figures: &Figures) -> Self {
        Self {
            workload: workload.name.clone(),
            about: workload.about.to_owned(),
            peer: peer.name.to_owned(),
            limit: peer.kind == Kind::Limit,
            ours_ns: figures.ours.ns.median,
            peer_ns: figures.theirs.ns.median,
            ratio: figures.ratio,
            allocs: (figures.ours.allocations, figures.ours.bytes),
            peer_allocs: (figures.theirs.allocations, figures.theirs.bytes),
            pairs: figures.pairs as u64,
            goal_ns: workload.goal_ns,
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "workload": self.workload,
            "about": self.about,
            "peer": self.peer,
            "limit": self.limit,
            "ours_ns": round(self.ours_ns),
            "peer_ns": round(self.peer_ns),
            "ratio": round(self.ratio.median),
            "ratio_low": round(self.ratio.low),
            "ratio_high": round(self.ratio.high),
            "allocs": round(self.allocs.0),
            "bytes": round(self.allocs.1),
            "peer_allocs": round(self.peer_allocs.0),
            "peer_bytes": round(self.peer_allocs.1),
            "pairs": self.pairs,
            "goal_ns": self.goal_ns,
        })
    }

    fn from_json(row: &Value) -> Option<Self> {
        let text = |key: &str| Some(row[key].as_str()?.to_owned());
        let number = |key: &str| row[key].as_f64();
        Some(Self {
            workload: text("workload")?,
            about: text("about")?,
            peer: text("peer")?,
            limit: row["limit"].as_bool()?,
            ours_ns: number("ours_ns")?,
            peer_ns: number("peer_ns")?,
            ratio: Spread {
                low: number("ratio_low")?,
                median: number("ratio")?,
                high: number("ratio_high")?,
            },
            allocs: (number("allocs")?, number("bytes")?),
            peer_allocs: (number("peer_allocs")?, number("peer_bytes")?),
            pairs: row["pairs"].as_u64()?,
            goal_ns: number("goal_ns"),
        })
    }
}

/// Three decimals are more than any figure here deserves.
fn round(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// All that one run of `compare` has to say.
#[derive(Debug)]
pub struct Report {
    /// How it was called.
    pub command: String,
    /// The compiler.
    pub rustc: String,
    /// The ratios.
    pub rows: Vec<Row>,
    /// Name, bytes and allocations of a context that lives.
    pub memory: Vec<(String, f64, f64)>,
}

impl Report {
    /// From what was measured.
    pub fn new(command: String, rows: Vec<Row>, memory: &[Held]) -> Self {
        Self {
            command,
            rustc: rustc(),
            rows,
            memory: memory
                .iter()
                .map(|held| (held.name.to_owned(), held.bytes, held.allocations))
                .collect(),
        }
    }

    /// As `--json` writes it.
    pub fn to_json(&self) -> Value {
        let memory: Vec<_> = self
            .memory
            .iter()
            .map(|(who, bytes, allocations)| {
                json!({ "who": who, "bytes": round(*bytes), "allocs": round(*allocations) })
            })
            .collect();
        json!({
            "command": self.command,
            "rustc": self.rustc,
            "rows": self.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
            "memory": memory,
        })
    }

    /// What `--json` wrote; `None` if it did not.
    pub fn from_json(report: &Value) -> Option<Self> {
        let memory = |held: &Value| {
            let name = held["who"].as_str()?.to_owned();
            Some((name, held["bytes"].as_f64()?, held["allocs"].as_f64()?))
        };
        Some(Self {
            command: report["command"].as_str()?.to_owned(),
            rustc: report["rustc"].as_str()?.to_owned(),
            rows: report["rows"]
                .as_array()?
                .iter()
                .map(Row::from_json)
                .collect::<Option<_>>()?,
            memory: report["memory"]
                .as_array()?
                .iter()
                .map(memory)
                .collect::<Option<_>>()?,
        })
    }

    /// The workloads in their order, each with its rows.
    pub fn workloads(&self) -> impl Iterator<Item = &[Row]> {
        self.rows.chunk_by(|a, b| a.workload == b.workload)
    }

    /// The full table.
    pub fn table(&self) -> String {
        let mut out = String::from(
            "| workload | against | times faster (quartiles) | ours ns | theirs ns | allocs, bytes: ours | theirs | goal ns |\n\
             |---|---|--:|--:|--:|--:|--:|--:|\n",
        );
        for rows in self.workloads() {
            for (nth, row) in rows.iter().enumerate() {
                let first = |text: String| if nth == 0 { text } else { String::new() };
                let peer = if row.limit {
                    format!("*{}*", row.peer)
                } else {
                    row.peer.clone()
                };
                let _ = writeln!(
                    out,
                    "| {} | {} | {} ({}–{}) | {} | {} | {} | {} | {} |",
                    first(format!("`{}`", row.workload)),
                    peer,
                    times(row.ratio.median),
                    times(row.ratio.low),
                    times(row.ratio.high),
                    ns(row.ours_ns),
                    ns(row.peer_ns),
                    first(allocs(row.allocs)),
                    allocs(row.peer_allocs),
                    first(
                        row.goal_ns
                            .map(|goal| format!("{} {}", ns(goal), mark(ours_ns(rows) <= goal)))
                            .unwrap_or_default()
                    ),
                );
            }
        }
        out
    }

    /// Bytes of a context that lives.
    pub fn memory_table(&self) -> String {
        let mut out =
            String::from("| who | bytes | allocations | times ours |\n|---|--:|--:|--:|\n");
        let ours = self.memory.first().map_or(1.0, |(_, bytes, _)| *bytes);
        for (who, bytes, allocations) in &self.memory {
            let _ = writeln!(
                out,
                "| {who} | {} | {allocations:.1} | {:.2} |",
                grouped(*bytes),
                bytes / ours
            );
        }
        out
    }

    /// Where a peer is ahead, or the goal is not reached. Ratios whose quartiles lie on both sides of 1 are called even.
    pub fn not_won(&self) -> String {
        let mut out = String::from(
            "| workload | ours ns | ahead of it (times faster) | even with it | goal ns |\n|---|--:|---|---|--:|\n",
        );
        let mut found = false;
        for rows in self.workloads() {
            let list = |even: bool| {
                let mut peers: Vec<_> = rows
                    .iter()
                    .filter(|row| !row.limit && row.ratio.median < 1.0)
                    .filter(|row| (row.ratio.high >= 1.0) == even)
                    .collect();
                peers.sort_by(|a, b| a.ratio.median.total_cmp(&b.ratio.median));
                let peers = peers
                    .iter()
                    .map(|row| format!("{} {}", row.peer, times(row.ratio.median)));
                peers.collect::<Vec<_>>().join(", ")
            };
            let (ahead, even) = (list(false), list(true));
            let ours = ours_ns(rows);
            let missed = rows[0].goal_ns.filter(|goal| ours > *goal);
            if ahead.is_empty() && even.is_empty() && missed.is_none() {
                continue;
            }
            found = true;
            let _ = writeln!(
                out,
                "| `{}` | {} | {ahead} | {even} | {} |",
                rows[0].workload,
                ns(ours),
                missed.map(ns).unwrap_or_default(),
            );
        }
        if found {
            out
        } else {
            "None: no peer is ahead, and every goal is reached.\n".to_owned()
        }
    }

    /// The few rows that the README shows: each workload's best peer, and what else is named.
    pub fn summary(&self) -> String {
        let mut out = String::from(
            "| work | against | times faster | ours ns | allocations, ours / theirs |\n|---|---|--:|--:|--:|\n",
        );
        for (workload, work) in [
            (names::HIT, "a hit (30 keys)"),
            ("two_threads/one_key", "a hit of one key from two threads"),
            (names::SINGLE_TASK, "context, one run, drop"),
            (names::REQUEST, "a request of 13 runs and 30 calls"),
            (names::REQUEST_YIELD, "the same, each body waits once"),
            ("river/parallel_10", "ten tasks in parallel on tokio"),
            ("waiters/1000", "a thousand callers wait for one run, each"),
            ("miss/100k", "100,000 keys, each"),
        ] {
            let Some(rows) = self.workloads().find(|rows| rows[0].workload == workload) else {
                continue;
            };
            let ours = ours_ns(rows);
            let mut rows: Vec<_> = rows.iter().collect();
            rows.sort_by(|a, b| {
                (a.limit, a.ratio.median)
                    .partial_cmp(&(b.limit, b.ratio.median))
                    .unwrap()
            });
            let peers = rows.iter().filter(|row| !row.limit);
            let shown: Vec<_> = match workload {
                names::HIT => rows
                    .iter()
                    .filter(|row| {
                        row.limit
                            || [
                                names::QUICK_CACHE,
                                names::MUTEX_MAP,
                                names::DASHMAP,
                                names::MOKA,
                            ]
                            .contains(&&*row.peer)
                    })
                    .collect(),
                _ => peers
                    .take(2)
                    .chain(rows.iter().filter(|row| row.limit))
                    .collect(),
            };
            for (nth, row) in shown.into_iter().enumerate() {
                let first = |text: String| if nth == 0 { text } else { String::new() };
                let _ = writeln!(
                    out,
                    "| {} | {} | {} | {} | {} / {} |",
                    first(work.to_owned()),
                    if row.limit {
                        format!("*{}*", row.peer)
                    } else {
                        row.peer.clone()
                    },
                    times(row.ratio.median),
                    first(ns(ours)),
                    trimmed(row.allocs.0),
                    trimmed(row.peer_allocs.0),
                );
            }
        }
        out
    }
}

/// The engine's time: it was measured once for each of the others, and this is the middle.
pub fn ours_ns(rows: &[Row]) -> f64 {
    let mut all: Vec<_> = rows.iter().map(|row| row.ours_ns).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn mark(reached: bool) -> &'static str {
    if reached { "✓" } else { "✗" }
}

fn allocs((count, bytes): (f64, f64)) -> String {
    format!("{}, {}", trimmed(count), grouped(bytes))
}

fn trimmed(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// `8.3`, `67`, `0.65`.
pub fn times(ratio: f64) -> String {
    if ratio >= 20.0 {
        grouped(ratio)
    } else if ratio >= 3.0 {
        format!("{ratio:.1}")
    } else {
        format!("{ratio:.2}")
    }
}

/// `2.4`, `70`, `1,204`.
pub fn ns(ns: f64) -> String {
    if ns < 20.0 {
        format!("{ns:.1}")
    } else {
        grouped(ns)
    }
}

/// `12345` as `12,345`.
pub fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut out = String::from(if number <= -0.5 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The compiler on the path, which is the one that built this under cargo.
pub fn rustc() -> String {
    Command::new("rustc")
        .arg("--version")
        .output()
        .ok()
        .and_then(|out| String::from_utf8(out.stdout).ok())
        .map_or("unknown rustc".to_owned(), |text| text.trim().to_owned())
}

/// The versions of the peers, out of the lock file that they were built with.
pub fn versions() -> String {
    let lock = include_str!("../../Cargo.lock");
    [
        "async-graphql",
        "async-once-cell",
        "dashmap",
        "dataloader",
        "event-listener",
        "foldhash",
        "futures",
        "hashbrown",
        "moka",
        "papaya",
        "quick_cache",
        "singleflight-async",
        "tokio",
        "topcoat-core",
    ]
    .map(|name| {
        // Where there are two, the newest stands last and is the one named in our manifest.
        let version = lock
            .rsplit_once(&format!("name = \"{name}\"\nversion = \""))
            .and_then(|(_, rest)| rest.split('"').next());
        format!("{name} {}", version.unwrap_or("?"))
    })
    .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(workload: &str, peer: &str, ratio: f64) -> Row {
        Row {
            workload: workload.to_owned(),
            about: "work".to_owned(),
            peer: peer.to_owned(),
            limit: false,
            ours_ns: 10.0,
            peer_ns: 10.0 * ratio,
            ratio: Spread {
                low: ratio * 0.9,
                median: ratio,
                high: ratio * 1.05,
            },
            allocs: (2.0, 64.0),
            peer_allocs: (3.5, 128.0),
            pairs: 7,
            goal_ns: Some(12.0),
        }
    }

    #[test]
    fn a_report_survives_its_json() {
        let report = Report {
            command: "compare".to_owned(),
            rustc: "rustc".to_owned(),
            rows: vec![row("hit/x", "a", 2.0), row("hit/x", "b", 0.5)],
            memory: vec![("us".to_owned(), 100.0, 2.0)],
        };
        let again = Report::from_json(&report.to_json()).expect("it was just written");
        assert_eq!(report.to_json(), again.to_json());
        assert_eq!(report.table(), again.table());
    }

    #[test]
    fn a_peer_that_is_ahead_is_told() {
        let mut report = Report {
            command: String::new(),
            rustc: String::new(),
            rows: vec![row("hit/x", "slower", 2.0)],
            memory: vec![],
        };
        assert!(report.not_won().starts_with("None"));
        report.rows.push(row("hit/x", "faster", 0.5));
        report.rows.push(row("hit/x", "as fast", 0.99));
        let told = report.not_won();
        assert!(told.contains("| `hit/x` | 10.0 | faster 0.50 | as fast 0.99 |"));
        assert!(!told.contains("slower"));
    }

    #[test]
    fn versions_are_found() {
        assert!(!versions().contains('?'), "{}", versions());
    }
}
