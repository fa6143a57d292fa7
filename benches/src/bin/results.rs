//! Writes the figures into the texts: what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` in `benches/RESULTS.md` and
//! `README.md` is made from `benches/results/*.json`. `.ci/results` measures first and then runs this.

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    match results::write() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("results: {problem}");
            std::process::ExitCode::from(2)
        }
    }
}

#[cfg(not(loom))]
mod results {
    use std::error::Error;
    use std::fmt::Write as _;
    use std::fs;
    use std::path::Path;

    use serde_json::Value;
    use watershed_benches::memory;
    use watershed_benches::report::{Report, grouped, versions};

    type Fallible<T> = Result<T, Box<dyn Error>>;

    pub(super) fn write() -> Fallible<()> {
        let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
        let json = |file: &str| -> Fallible<Value> {
            let file = benches.join(file);
            let text = fs::read_to_string(&file)
                .map_err(|problem| format!("{}: {problem}", file.display()))?;
            Ok(serde_json::from_str(&text)?)
        };
        let report = Report::from_json(&json("results/compare.json")?)
            .ok_or("results/compare.json is not what `compare --json` writes")?;
        let load = json("results/load.json")?;
        let batch = json("results/batch.json")?;
        let counts = json("instructions.json")?;

        rewrite(
            &benches.join("RESULTS.md"),
            &[
                ("made with", made_with(&report)),
                ("table", report.table()),
                ("not won", report.not_won()),
                ("load", load_table(&load)?),
                ("batches", batch_table(&batch)?),
                ("memory", memory_text(&report)),
                ("instructions", instructions(&counts)?),
            ],
        )?;
        rewrite(
            &benches.join("../README.md"),
            &[("bench table", report.summary())],
        )
    }

    fn made_with(report: &Report) -> String {
        let pairs = report.rows.iter().map(|row| row.pairs);
        format!(
            "* {}, release profile; {}.\n* `{}`: {} ratios, each the median of {} to {} pairs.\n",
            report.rustc,
            versions(),
            report.command.trim_end_matches(" -- "),
            report.rows.len(),
            pairs.clone().min().unwrap_or(0),
            pairs.max().unwrap_or(0),
        )
    }

    fn memory_text(report: &Report) -> String {
        format!(
            "{} contexts at once, each with {} values of eight bytes; a context:\n\n{}",
            grouped(memory::CONTEXTS as f64),
            memory::KEYS,
            report.memory_table()
        )
    }

    fn load_table(load: &Value) -> Fallible<String> {
        let rows = load["rows"].as_array().ok_or("no rows in load.json")?;
        let number = |row: &Value, key: &str| -> Fallible<f64> {
            Ok(row[key].as_f64().ok_or(format!("no {key} in load.json"))?)
        };
        let first = rows.first().ok_or("no rows in load.json")?;
        let requests: f64 = rows
            .iter()
            .map(|row| number(row, "requests"))
            .sum::<Fallible<f64>>()?;
        let mut out = format!(
            "{} connections; latencies at {} requests a second for each; {} requests in all.\n\n\
             | way | most requests a second | p50 ms | p99 ms | p99.9 ms | server's CPU µs a request | peak memory MiB |\n\
             |---|--:|--:|--:|--:|--:|--:|\n",
            load["connections"],
            grouped(number(first, "rate")?),
            grouped(requests),
        );
        for row in rows {
            let ms = |key: &str| number(row, key).map(|us| us / 1e3);
            writeln!(
                out,
                "| {} | {} | {:.2} | {:.2} | {:.2} | {} | {:.1} |",
                row["way"].as_str().ok_or("no way in load.json")?,
                grouped(number(row, "per_second")?),
                ms("p50_us")?,
                ms("p99_us")?,
                ms("p999_us")?,
                grouped(number(row, "cpu_us")?),
                number(row, "peak_kib")? / 1024.0,
            )?;
        }
        Ok(out)
    }

    fn batch_table(batch: &Value) -> Fallible<String> {
        let rows = batch["rows"].as_array().ok_or("no rows in batch.json")?;
        let mut out = format!(
            "Medians of {} pairs.\n\n\
             | work | side | time, µs | ratio to watershed | to the first result, µs | batches |\n\
             |---|---|--:|--:|--:|--:|\n",
            batch["pairs"],
        );
        let mut before = "";
        for row in rows {
            let text = |key: &str| row[key].as_str().ok_or(format!("no {key} in batch.json"));
            let number = |key: &str| row[key].as_f64().ok_or(format!("no {key} in batch.json"));
            let work = text("work")?;
            let ratio = row["ratio"].as_f64();
            writeln!(
                out,
                "| {} | {} | {:.2} | {} | {:.2} | {} |",
                if work == before { "" } else { work },
                text("side")?,
                number("us")?,
                ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
                number("first_us")?,
                number("batches")?,
            )?;
            before = work;
        }
        Ok(out)
    }

    fn instructions(counts: &Value) -> Fallible<String> {
        let mut out = String::from("| path | instructions |\n|---|--:|\n");
        let all = counts["instructions"]
            .as_object()
            .ok_or("no instructions in instructions.json")?;
        for (path, count) in all {
            let count = count.as_f64().ok_or("a count is not a number")?;
            writeln!(out, "| {path} | {} |", grouped(count))?;
        }
        Ok(out)
    }

    /// Puts each text between its two marks.
    fn rewrite(file: &Path, texts: &[(&str, String)]) -> Fallible<()> {
        let mut all = fs::read_to_string(file)?;
        for (name, text) in texts {
            let (begin, end) = (
                format!("<!-- begin {name} -->\n"),
                format!("<!-- end {name} -->"),
            );
            let from = all.find(&begin).map(|at| at + begin.len());
            let to = all.find(&end);
            match from.zip(to) {
                Some((from, to)) if from <= to => {
                    all.replace_range(from..to, &format!("\n{}\n\n", text.trim()));
                }
                _ => return Err(format!("{}: no marks for {name}", file.display()).into()),
            }
        }
        fs::write(file, all)?;
        Ok(())
    }
}
