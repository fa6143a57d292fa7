//! An observer that feeds the `metrics` facade: runs, hits, joins, failures, and how long runs ran and waited, for each task.
//!
//! ```sh
//! cargo run --example metrics
//! ```
//!
//! A server installs an exporter (Prometheus, StatsD ..) in place of the recorder at the end of this file, makes one observer, and gives
//! every request's context a clone of the `Arc`.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use watershed::observe::{Cancel, Finish, How, Join, Observer, Outcome};
use watershed::{Ctx, Task, TaskError};

/// Counts what happens, by task.
struct Metrics;

impl Observer for Metrics {
    fn on_finish(&self, finish: &Finish<'_>) {
        let task = finish.run.task;
        counter!("task_runs_total", "task" => task).increment(1);
        if let Outcome::Failed(kind) = finish.outcome() {
            counter!("task_failures_total", "task" => task, "kind" => format!("{kind:?}"))
                .increment(1);
        }
        // The part in which the body was polled, and the part in which it waited for I/O or for other runs.
        histogram!("task_run_seconds", "task" => task).record(finish.ran);
        histogram!("task_wait_seconds", "task" => task).record(finish.elapsed - finish.ran);
    }

    fn on_join(&self, join: &Join<'_>) {
        match join.how {
            How::Hit => counter!("task_hits_total", "task" => join.task).increment(1),
            How::Waited => {
                counter!("task_joins_total", "task" => join.task).increment(1);
                histogram!("task_join_seconds", "task" => join.task).record(join.waited);
            }
            // It was dropped before there was an outcome.
            _ => {}
        }
    }

    fn on_cancel(&self, cancel: &Cancel<'_>) {
        counter!("task_cancelled_total", "task" => cancel.run.task).increment(1);
    }
}

struct App;

async fn user(_: Ctx<App>, id: u64) -> Result<u64, TaskError> {
    tokio::time::sleep(Duration::from_millis(2)).await; // a query
    Ok(id)
}

async fn orders(ctx: Ctx<App>, id: u64) -> Result<u64, TaskError> {
    let user = *ctx.run(user, id).await?;
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(user * 2)
}

async fn flags(ctx: Ctx<App>, id: u64) -> Result<u64, TaskError> {
    ctx.run(user, id).await?; // there by now: a hit
    if id.is_multiple_of(3) {
        return Err(TaskError::new("the flag service is down"));
    }
    Ok(id)
}

async fn page(ctx: Ctx<App>, id: u64) -> Result<u64, TaskError> {
    let (user, orders) = ctx.parallel((user.with(id), orders.with(id))).await?;
    // A page without flags is still a page.
    let flags = ctx.run(flags, id).await.copied().unwrap_or(0);
    Ok(user + orders + flags)
}

#[tokio::main]
async fn main() -> Result<(), TaskError> {
    let recorder = recorder::install();
    let observer = Arc::new(Metrics);
    for id in 1..=30 {
        let ctx = Ctx::builder(App).observer(observer.clone()).build();
        if id % 10 == 0 {
            // A client that goes away.
            let _ = tokio::time::timeout(Duration::from_millis(1), ctx.run(page, id)).await;
        } else {
            ctx.run(page, id).await?;
        }
    }
    print!("{recorder}");
    Ok(())
}

/// What an exporter would do: keeps the sums, and prints them.
mod recorder {
    use std::collections::BTreeMap;
    use std::fmt;
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
        SharedString, Unit,
    };

    #[derive(Default)]
    struct Sum(Mutex<(u64, f64)>);

    impl CounterFn for Sum {
        fn increment(&self, by: u64) {
            self.0.lock().unwrap().0 += by;
        }
        fn absolute(&self, value: u64) {
            self.0.lock().unwrap().0 = value;
        }
    }

    impl HistogramFn for Sum {
        fn record(&self, value: f64) {
            let mut sum = self.0.lock().unwrap();
            sum.0 += 1;
            sum.1 += value;
        }
    }

    #[derive(Default, Clone)]
    pub(crate) struct Sums(Arc<Mutex<BTreeMap<String, Arc<Sum>>>>);

    impl Sums {
        fn get(&self, key: &Key) -> Arc<Sum> {
            let labels: Vec<String> = key
                .labels()
                .map(|label| {
                    // The last part of a task's name is enough here.
                    let value = label.value().rsplit("::").next().unwrap_or_default();
                    format!("{}=\"{value}\"", label.key())
                })
                .collect();
            let name = format!("{}{{{}}}", key.name(), labels.join(","));
            self.0.lock().unwrap().entry(name).or_default().clone()
        }
    }

    impl Recorder for Sums {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.get(key))
        }
        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }
        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(self.get(key))
        }
    }

    pub(crate) fn install() -> Sums {
        let sums = Sums::default();
        metrics::set_global_recorder(sums.clone()).expect("it is the first");
        sums
    }

    impl fmt::Display for Sums {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for (name, sum) in self.0.lock().unwrap().iter() {
                let (count, seconds) = *sum.0.lock().unwrap();
                match name.contains("_seconds") {
                    true => writeln!(
                        f,
                        "{name} {count} times, {:.3} ms each",
                        seconds * 1e3 / count as f64
                    )?,
                    false => writeln!(f, "{name} {count}")?,
                }
            }
            Ok(())
        }
    }
}
