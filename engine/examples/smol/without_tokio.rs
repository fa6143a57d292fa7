//! `run`, `join!`, callers that go away, a time limit of one's own, and `wait`: what needs no tokio.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures::future::{join, join_all};
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;
use smol::{Executor, Timer};
use watershed::{Ctx, TaskError, TaskErrorKind};

struct App {
    queries: AtomicUsize,
    /// What happens to the body of `endless`.
    events: Sender<&'static str>,
}

fn app() -> (App, Receiver<&'static str>) {
    let (events, told) = smol::channel::unbounded();
    let queries = AtomicUsize::new(0);
    (App { queries, events }, told)
}

/// What a database would take its time for: smol's reactor wakes the body, whoever polls it.
async fn user(ctx: Ctx<App>, id: u64) -> Result<String, TaskError> {
    ctx.state().queries.fetch_add(1, Relaxed);
    Timer::after(Duration::from_millis(5)).await;
    Ok(format!("user {id}"))
}

async fn greeting(ctx: Ctx<App>, id: u64) -> Result<String, TaskError> {
    Ok(format!("Hello, {}!", ctx.run(user, id).await?))
}

async fn endless(ctx: Ctx<App>, _: ()) -> Result<(), TaskError> {
    struct OnDrop(Sender<&'static str>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            let _ = self.0.try_send("dropped");
        }
    }
    let _on_drop = OnDrop(ctx.state().events.clone());
    let _ = ctx.state().events.try_send("started");
    std::future::pending().await
}

async fn run(executor: &Executor<'static>) -> Result<(), TaskError> {
    // Both at once on this task; `user` runs once for the two of them.
    let ctx = Ctx::new(app().0);
    let (hello, name) = join(ctx.run(greeting, 1), ctx.run(user, 1)).await;
    assert_eq!(
        (hello?.as_str(), name?.as_str()),
        ("Hello, user 1!", "user 1")
    );
    assert_eq!(ctx.state().queries.load(Relaxed), 1);

    // A thousand callers, each a task of the executor and polled by any of its threads.
    let callers = (0..1_000).map(|_| {
        let ctx = ctx.clone();
        executor.spawn(async move { ctx.run(greeting, 2).await.map(String::len) })
    });
    for len in join_all(callers.collect::<Vec<_>>()).await {
        assert_eq!(len?, "Hello, user 2!".len());
    }
    assert_eq!(ctx.state().queries.load(Relaxed), 2);

    // A caller that is dropped leaves the run to the others: it is not started again.
    let (mut first, mut second) = (ctx.run(user, 3), ctx.run(user, 3));
    assert!(smol::future::poll_once(&mut first).await.is_none());
    assert!(smol::future::poll_once(&mut second).await.is_none());
    drop(first);
    assert_eq!(second.await?, "user 3");
    assert_eq!(ctx.state().queries.load(Relaxed), 3);

    // A task of the executor that is cancelled drops its caller, and as nobody else waits, the body goes too.
    let (app, told) = app();
    let ctx = Ctx::new(app);
    let task = executor.spawn({
        let ctx = ctx.clone();
        async move { ctx.run(endless, ()).await.copied() }
    });
    assert_eq!(told.recv().await, Ok("started"));
    task.cancel().await;
    assert_eq!(told.recv().await, Ok("dropped"));

    // A deadline, by whatever timer there is: `cancel` ends every run and every wait.
    let limit = async {
        Timer::after(Duration::from_millis(5)).await;
        ctx.cancel();
        std::future::pending().await
    };
    let error = ctx.run(endless, ()).or(limit).await.unwrap_err();
    assert_eq!(error.kind(), TaskErrorKind::Cancelled);
    assert_eq!(told.recv().await, Ok("started"));
    assert_eq!(told.recv().await, Ok("dropped"));
    Ok(())
}

pub(crate) fn main() {
    let executor = Arc::new(Executor::new());
    // Threads of the executor, until `stop` goes.
    let (stop, stopped) = smol::channel::bounded::<()>(1);
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (executor, stopped) = (executor.clone(), stopped.clone());
            std::thread::spawn(move || smol::block_on(executor.run(stopped.recv())))
        })
        .collect();
    smol::block_on(executor.run(run(&executor))).unwrap();

    // A thread without an executor.
    let ctx = Ctx::new(app().0);
    assert_eq!(ctx.run(greeting, 5).wait().unwrap(), "Hello, user 5!");

    drop(stop);
    for thread in threads {
        let _ = thread.join().expect("no thread panicked");
    }
    println!("run, join, 1,000 callers, cancelled callers, a time limit, wait: all without tokio");
}
