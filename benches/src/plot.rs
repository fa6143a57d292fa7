//! The charts, as SVG. They have their own light ground, so that they can be read in a dark page as well.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::names;
use crate::report::{Report, Row, ns, ours_ns, times};

const GROUND: RGBColor = RGBColor(0xF7, 0xF7, 0xF5);
const INK: RGBColor = RGBColor(0x2B, 0x2F, 0x36);
const FAINT: RGBColor = RGBColor(0xD9, 0xDA, 0xD6);
const OURS: RGBColor = RGBColor(0x1F, 0x6F, 0xB2);
const PEER: RGBColor = RGBColor(0x8A, 0x93, 0x9E);
const AHEAD: RGBColor = RGBColor(0xC8, 0x4B, 0x31);
const LIMIT: RGBColor = RGBColor(0xB5, 0x8B, 0x1E);

type Done = Result<(), Box<dyn Error>>;

/// Writes them all into a directory, which is made if it is not there. Charts whose workloads were not measured are left out.
///
/// # Errors
///
/// If a file cannot be written.
pub fn write(report: &Report, dir: &Path) -> Done {
    fs::create_dir_all(dir)?;
    overview(report, &dir.join("overview.svg"))?;
    for (file, title, workload) in [
        ("hit.svg", "A hit among 30 keys", names::HIT),
        (
            "context.svg",
            "A context, one run, drop",
            names::SINGLE_TASK,
        ),
        (
            "request.svg",
            "A request: 13 runs, 30 calls",
            names::REQUEST,
        ),
        (
            "request_yield.svg",
            "A request: 13 runs that wait once, 30 calls",
            names::REQUEST_YIELD,
        ),
        (
            "waiters.svg",
            "A thousand callers wait for one run: each caller",
            "waiters/1000",
        ),
    ] {
        if let Some(rows) = report.workloads().find(|rows| rows[0].workload == workload) {
            bars(rows, title, &dir.join(file))?;
        }
    }
    parallel(report, &dir.join("parallel.svg"))
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

fn at(style: TextStyle<'static>, h: HPos, v: VPos) -> TextStyle<'static> {
    style.pos(Pos::new(h, v))
}

/// One line for each workload, a dot for each of the others: how many times faster the engine is.
fn overview(report: &Report, path: &Path) -> Done {
    let workloads: Vec<_> = report.workloads().collect();
    if workloads.is_empty() {
        return Ok(());
    }
    const LINE: i32 = 19;
    const TOP: i32 = 66;
    const LEFT: i32 = 220;
    const WIDTH: i32 = 900;
    let height = TOP + LINE * workloads.len() as i32 + 36;
    let root = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    root.fill(&GROUND)?;

    let (low, high) = (0.1f64, 2_000.0f64);
    let x = |ratio: f64| {
        let part = (ratio.clamp(low, high) / low).ln() / (high / low).ln();
        LEFT + (part * f64::from(WIDTH - LEFT - 24)) as i32
    };
    root.draw(&Text::new(
        "How many times faster than each of the others",
        (16, 12),
        text(20),
    ))?;
    let mut legend = 420;
    for (name, colour, filled) in [
        ("a peer", OURS, true),
        ("a peer that is ahead", AHEAD, true),
        ("a limit, or bare work", LIMIT, false),
    ] {
        dot(&root, (legend, 45), colour, filled)?;
        root.draw(&Text::new(
            name,
            (legend + 10, 45),
            at(text(13), HPos::Left, VPos::Center),
        ))?;
        legend += 30 + 8 * name.len() as i32;
    }
    let bottom = height - 30;
    for tick in [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0,
    ] {
        let line = if tick == 1.0 {
            INK.stroke_width(2)
        } else {
            FAINT.stroke_width(1)
        };
        root.draw(&PathElement::new(
            vec![(x(tick), TOP - 4), (x(tick), bottom)],
            line,
        ))?;
        root.draw(&Text::new(
            format!("{tick}"),
            (x(tick), bottom + 6),
            at(text(12), HPos::Center, VPos::Top),
        ))?;
    }
    for (nth, rows) in workloads.iter().enumerate() {
        let y = TOP + LINE * nth as i32 + LINE / 2;
        root.draw(&Text::new(
            rows[0].workload.clone(),
            (LEFT - 12, y),
            at(text(13), HPos::Right, VPos::Center),
        ))?;
        root.draw(&PathElement::new(
            vec![(LEFT, y), (WIDTH - 24, y)],
            FAINT.stroke_width(1),
        ))?;
        // The limits lie below the peers.
        for limits in [true, false] {
            for row in rows.iter().filter(|row| row.limit == limits) {
                let colour = match row {
                    Row { limit: true, .. } => LIMIT,
                    row if row.ratio.median < 1.0 => AHEAD,
                    _ => OURS,
                };
                dot(&root, (x(row.ratio.median), y), colour, !row.limit)?;
            }
        }
    }
    root.present()?;
    Ok(())
}

fn dot(
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    place: (i32, i32),
    colour: RGBColor,
    filled: bool,
) -> Done {
    let style = if filled {
        colour.mix(0.8).filled()
    } else {
        colour.stroke_width(2)
    };
    root.draw(&Circle::new(place, 4, style))?;
    Ok(())
}

/// A bar for each contender of one workload, the time on a logarithmic scale.
fn bars(rows: &[Row], title: &str, path: &Path) -> Done {
    const LINE: i32 = 30;
    const TOP: i32 = 50;
    const LEFT: i32 = 290;
    const WIDTH: i32 = 820;
    struct Bar<'a> {
        name: &'a str,
        ns: f64,
        said: String,
        colour: RGBColor,
    }
    let mut all: Vec<_> = rows
        .iter()
        .map(|row| Bar {
            name: &row.peer,
            // By the ratio: it is what was measured in pairs.
            ns: ours_ns(rows) * row.ratio.median,
            said: format!(
                "{} ns, {}",
                ns(ours_ns(rows) * row.ratio.median),
                if row.ratio.median >= 1.0 {
                    format!("{} times ours", times(row.ratio.median))
                } else {
                    format!("{:.2} of ours", row.ratio.median)
                }
            ),
            colour: if row.limit { LIMIT } else { PEER },
        })
        .collect();
    all.push(Bar {
        name: names::WATERSHED,
        ns: ours_ns(rows),
        said: format!("{} ns", ns(ours_ns(rows))),
        colour: OURS,
    });
    all.sort_by(|a, b| a.ns.total_cmp(&b.ns));

    let height = TOP + LINE * all.len() as i32 + 40;
    let root = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    root.fill(&GROUND)?;
    root.draw(&Text::new(title.to_owned(), (16, 12), text(20)))?;
    let (low, high) = (all[0].ns / 2.0, all[all.len() - 1].ns);
    let x = |ns: f64| {
        let part = (ns / low).ln() / (high / low).ln();
        // Room for what stands behind the longest bar.
        LEFT + (part * f64::from(WIDTH - LEFT - 190)) as i32
    };
    for (nth, bar) in all.iter().enumerate() {
        let y = TOP + LINE * nth as i32;
        root.draw(&Rectangle::new(
            [(LEFT, y + 4), (x(bar.ns), y + LINE - 4)],
            bar.colour.filled(),
        ))?;
        root.draw(&Text::new(
            bar.name.to_owned(),
            (LEFT - 10, y + LINE / 2),
            at(text(14), HPos::Right, VPos::Center),
        ))?;
        root.draw(&Text::new(
            bar.said.clone(),
            (x(bar.ns) + 8, y + LINE / 2),
            at(text(13), HPos::Left, VPos::Center),
        ))?;
    }
    root.draw(&Text::new(
        "time of one, on a logarithmic scale; gold: a limit, or bare work",
        (LEFT, height - 26),
        text(12),
    ))?;
    root.present()?;
    Ok(())
}

/// `river/parallel_..`: the time a task, over the number of tasks.
fn parallel(report: &Report, path: &Path) -> Done {
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = vec![(names::WATERSHED.to_owned(), vec![])];
    for rows in report.workloads() {
        let Some(count) = rows[0].workload.strip_prefix("river/parallel_") else {
            continue;
        };
        let count: f64 = count.parse()?;
        lines[0].1.push((count, ours_ns(rows) / count));
        for row in rows {
            let point = (count, ours_ns(rows) * row.ratio.median / count);
            match lines.iter_mut().find(|(name, _)| *name == row.peer) {
                Some((_, points)) => points.push(point),
                None => lines.push((row.peer.clone(), vec![point])),
            }
        }
    }
    if lines[0].1.len() < 2 {
        return Ok(());
    }
    let most = |pick: fn(&(f64, f64)) -> f64| {
        let all = lines.iter().flat_map(|(_, points)| points.iter().map(pick));
        all.fold(0.0, f64::max)
    };
    let (right, top) = (most(|point| point.0), most(|point| point.1));
    let root = SVGBackend::new(path, (820, 420)).into_drawing_area();
    root.fill(&GROUND)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Trivial tasks in parallel on tokio: the time a task",
            text(20),
        )
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((1.0..right * 1.05).log_scale(), 0.0..top * 1.05)?;
    chart
        .configure_mesh()
        .x_desc("tasks")
        .y_desc("ns a task")
        .y_label_formatter(&|y| format!("{y:.0}"))
        .axis_style(INK)
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .label_style(text(13))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()?;
    let colours = [
        OURS,
        PEER,
        RGBColor(0x5B, 0x8C, 0x5A),
        RGBColor(0x8E, 0x6B, 0xA8),
        LIMIT,
        AHEAD,
    ];
    for ((name, points), colour) in lines.into_iter().zip(colours.into_iter().cycle()) {
        let width = if name == names::WATERSHED { 3 } else { 2 };
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(width)).point_size(3))?
            .label(name)
            .legend(move |(x, y)| {
                PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(3))
            });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(GROUND.filled())
        .border_style(FAINT)
        .label_font(text(13))
        .draw()?;
    root.present()?;
    Ok(())
}
