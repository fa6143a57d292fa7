//! What observers, the record and its report see of batches.

use std::sync::{Arc, Mutex};

use futures::future::{join_all, try_join_all};
use watershed::observe::{Cancel, Finish, Join, Observer, Outcome, Start};
use watershed::{Ctx, TaskError};

use super::support::poll_once;
use super::{App, doubles, gated, squares};

/// What was told, by number: started, ended, with how many keys.
#[derive(Default)]
struct Told {
    started: Mutex<Vec<(u64, Option<usize>)>>,
    finished: Mutex<Vec<u64>>,
    cancelled: Mutex<Vec<u64>>,
    joined: Mutex<usize>,
}

impl Observer for Told {
    fn on_start(&self, start: &Start<'_>) {
        let run = (start.run.id.get(), start.run.keys);
        self.started.lock().unwrap().push(run);
    }
    fn on_finish(&self, finish: &Finish<'_>) {
        self.finished.lock().unwrap().push(finish.run.id.get());
    }
    fn on_cancel(&self, cancel: &Cancel<'_>) {
        self.cancelled.lock().unwrap().push(cancel.run.id.get());
    }
    fn on_join(&self, _: &Join<'_>) {
        *self.joined.lock().unwrap() += 1;
    }
}

fn observed() -> (Arc<Told>, Ctx<App>) {
    let told = Arc::new(Told::default());
    let ctx = Ctx::builder(App::default()).observer(told.clone());
    (told, ctx.build())
}

fn sorted(numbers: &Mutex<Vec<u64>>) -> Vec<u64> {
    let mut numbers = numbers.lock().unwrap().clone();
    numbers.sort_unstable();
    numbers
}

/// A key's run ends by what the batch puts into its slot: it is told as any other end, once.
#[tokio::test]
async fn each_key_and_each_batch_start_and_end_once() {
    let (told, ctx) = observed();
    let all = join_all((0..5).map(|k| ctx.load(squares, k))).await;
    assert!(all.iter().all(Result::is_ok));
    let lone = ctx.load(doubles, 7).await;
    assert!(lone.is_ok());
    let started = told.started.lock().unwrap().clone();
    assert_eq!(started.len(), 5 + 1 + 1 + 1, "{started:?}");
    let batches: Vec<_> = started.iter().filter_map(|(_, keys)| *keys).collect();
    assert_eq!(batches, [5, 1]);
    let mut ids: Vec<_> = started.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    assert_eq!(sorted(&told.finished), ids);
    assert_eq!(sorted(&told.cancelled), []);
    assert_eq!(*told.joined.lock().unwrap(), 0);
    // A hit, and a call that joins.
    assert!(ctx.load(squares, 1).await.is_ok());
    assert_eq!(*told.joined.lock().unwrap(), 1);
    let both = join_all([9, 9].map(|k| ctx.load(squares, k))).await;
    assert!(both.iter().all(Result::is_ok));
    assert_eq!(*told.joined.lock().unwrap(), 2);
}

#[tokio::test]
async fn a_failure_is_told_of_each_key() {
    async fn fails(_: Ctx<App>, _: Vec<u64>) -> Result<Vec<(u64, u64)>, String> {
        Err("no".to_owned())
    }
    let (told, ctx) = observed();
    let all = join_all((0..4).map(|k| ctx.load(fails, k))).await;
    assert!(all.iter().all(Result::is_err));
    assert_eq!(sorted(&told.finished), [1, 2, 3, 4, 5]);
}

#[test]
fn keys_that_are_left_are_told_as_cancelled() {
    let (told, ctx) = observed();
    let mut both = join_all([1, 2].map(|k| ctx.load(gated, k)));
    assert!(poll_once(&mut both).is_pending());
    assert!(poll_once(&mut both).is_pending());
    drop(both);
    assert_eq!(sorted(&told.cancelled), [1, 2, 3]);
    assert_eq!(sorted(&told.finished), []);
}

#[tokio::test]
async fn the_report_has_keys_and_their_batch_below_who_asked() {
    async fn page(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let all = try_join_all((0..n).map(|k| ctx.load(squares, k))).await?;
        Ok(all.into_iter().flatten().sum())
    }
    let ctx = Ctx::builder(App::default()).record(true).build();
    ctx.run(page, 3).await.unwrap();
    let report = ctx.report();
    assert_eq!(report.runs.len(), 5);
    let page = &report.runs[0];
    let of_page = |run: &&watershed::report::RunReport| run.parent == Some(page.id);
    assert_eq!(report.runs.iter().filter(of_page).count(), 3);
    let batch = report.runs.iter().find(|run| run.keys.is_some()).unwrap();
    assert_eq!(
        (batch.keys, batch.input.as_deref()),
        (Some(3), Some("3 keys"))
    );
    let parent = report.run(batch.parent.unwrap()).unwrap();
    assert_eq!(
        (parent.name(), parent.parent),
        ("squares".to_owned(), Some(page.id))
    );
    assert!(report.runs.iter().all(|run| run.outcome == Outcome::Done));
    let text = report.to_string();
    assert!(text.contains("squares(3 keys)"), "{text}");
}
