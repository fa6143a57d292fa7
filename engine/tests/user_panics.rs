//! Panics in user code: body, its destructor, `Hash`, `Eq`, `Clone` and `Drop` of input, value, error
//! and state, wakers. Nothing hangs, nothing is dropped twice, nothing leaks but what panicked, and
//! the other tasks go on.
#![cfg(not(loom))]

mod support;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use support::{
    Count, CountingWaker, Drops, Gate, Token, everywhere, now, poll_once, poll_with, watched,
};
use watershed::{Ctx, TaskError, TaskErrorKind};

// --- parts -----------------------------------------------------------------------------------------

/// Goes off once, where it is asked.
#[derive(Default)]
struct Fuse(AtomicBool);

impl Fuse {
    fn light(&self) {
        self.0.store(true, SeqCst);
    }

    fn is_lit(&self) -> bool {
        self.0.load(SeqCst)
    }

    /// Panics if lit, unless the thread panics already.
    fn ask(&self, what: &str) {
        if !thread::panicking() && self.0.swap(false, SeqCst) {
            panic!("fuse in {what}");
        }
    }
}

#[derive(Default)]
struct Fuses {
    hash: Fuse,
    eq: Fuse,
    clone: Fuse,
    key_drop: Fuse,
    value_drop: Fuse,
    error_drop: Fuse,
    body_drop: Fuse,
    state_drop: Fuse,
}

#[derive(Clone, Default)]
struct App {
    runs: Count,
    gate: Gate,
    bodies: Drops,
    keys: Drops,
    values: Drops,
    fuses: Arc<Fuses>,
}

impl App {
    fn key(&self, n: u64) -> Key {
        Key {
            n,
            _token: self.keys.token(),
            fuses: self.fuses.clone(),
        }
    }

    fn value(&self, n: u64) -> Value {
        Value {
            n,
            _token: self.values.token(),
            fuses: self.fuses.clone(),
        }
    }

    /// All that was made is gone.
    #[track_caller]
    fn all_gone(&self) {
        assert_eq!(self.bodies.live(), 0, "bodies");
        assert_eq!(self.keys.live(), 0, "keys");
        assert_eq!(self.values.live(), 0, "values");
    }
}

struct Key {
    n: u64,
    _token: Token,
    fuses: Arc<Fuses>,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fuses.hash.ask("hash");
        self.n.hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.fuses.eq.ask("eq");
        self.n == other.n
    }
}

impl Eq for Key {}

impl Clone for Key {
    fn clone(&self) -> Key {
        self.fuses.clone.ask("clone");
        Key {
            n: self.n,
            _token: self._token.clone(),
            fuses: self.fuses.clone(),
        }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.fuses.key_drop.ask("the drop of a key");
    }
}

struct Value {
    n: u64,
    _token: Token,
    fuses: Arc<Fuses>,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.fuses.value_drop.ask("the drop of a value");
    }
}

struct Fault {
    _token: Token,
    fuses: Arc<Fuses>,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fault")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fault")
    }
}

impl Error for Fault {}

impl Drop for Fault {
    fn drop(&mut self) {
        self.fuses.error_drop.ask("the drop of an error");
    }
}

async fn by_key(ctx: Ctx<App>, key: Key) -> Result<Value, TaskError> {
    let _body = ctx.state().bodies.token();
    ctx.state().runs.add();
    Ok(ctx.state().value(key.n))
}

async fn faulty(ctx: Ctx<App>, _: u64) -> Result<Value, Fault> {
    Err(Fault {
        _token: ctx.state().values.token(),
        fuses: ctx.state().fuses.clone(),
    })
}

async fn plain(ctx: Ctx<App>, n: u64) -> Result<Value, TaskError> {
    Ok(ctx.state().value(n))
}

fn caught<T>(work: impl FnOnce() -> T) -> thread::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
}

/// The call gave no value: it panicked, or says that something panicked.
#[track_caller]
fn panicked<T>(got: thread::Result<Result<T, TaskError>>) {
    match got {
        Ok(Ok(_)) => panic!("a value"),
        Ok(Err(error)) => assert_eq!(error.kind(), TaskErrorKind::Panicked, "{error}"),
        Err(_) => {}
    }
}

// --- bodies ----------------------------------------------------------------------------------------

/// R23: every caller of a body that panics returns.
#[test]
fn a_panic_on_the_first_poll_is_an_error_for_every_caller_and_kept() {
    async fn at_once(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let _body = ctx.state().bodies.token();
        ctx.state().runs.add();
        panic!("first poll of {n}")
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let app = ctx.state();
        let (mut a, mut b) = (ctx.run(at_once, 1), ctx.run(at_once, 1));
        let (a, b) = futures::join!(&mut a, &mut b);
        let later = ctx.run(at_once, 1).await;
        for error in [a, b, later].map(Result::unwrap_err) {
            assert_eq!(error.kind(), TaskErrorKind::Panicked);
            assert!(error.to_string().contains("at_once"), "{error}");
            assert!(error.to_string().contains("first poll of 1"), "{error}");
        }
        assert_eq!((app.runs.get(), app.bodies.live()), (1, 0));
        assert_eq!(ctx.run(plain, 1).await.unwrap().n, 1);
    });
}

#[test]
fn a_panic_on_a_later_poll_wakes_every_caller() {
    async fn later(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let _body = ctx.state().bodies.token();
        ctx.state().runs.add();
        ctx.state().gate.passed().await;
        panic!("later poll of {n}")
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let app = ctx.state();
        let mut calls: Vec<_> = (0..4).map(|_| ctx.run(later, 1)).collect();
        let wakers: Vec<_> = (0..4).map(|_| CountingWaker::pair()).collect();
        for (call, (_, waker)) in calls.iter_mut().zip(&wakers) {
            assert!(poll_with(call, waker).is_pending());
        }
        app.gate.open();
        assert!(wakers.iter().all(|(counter, _)| counter.wakes() > 0));
        for call in calls {
            let error = call.await.unwrap_err();
            assert_eq!(error.kind(), TaskErrorKind::Panicked);
        }
        assert_eq!((app.runs.get(), app.bodies.live()), (1, 0));
        // R33: forgotten, it runs again.
        assert!(ctx.forget(later, &1));
        ctx.run(later, 1).await.unwrap_err();
        assert_eq!(app.runs.get(), 2);
    });
}

/// The driver panics in its poll while others are parked: they are told, by its release.
#[test]
fn a_panic_while_others_are_parked_wakes_them() {
    async fn on_second(ctx: Ctx<App>, _: u64) -> Result<u64, TaskError> {
        support::yields(1).await;
        ctx.state().runs.add();
        panic!("second poll")
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let (mut driver, mut waiter) = (ctx.run(on_second, 1), ctx.run(on_second, 1));
        assert!(poll_once(&mut driver).is_pending());
        // The body woke itself, so it is polled by whoever comes again first.
        assert!(poll_once(&mut waiter).is_pending());
        let polled = poll_once(&mut waiter);
        assert!(matches!(polled, Poll::Ready(Err(e)) if e.kind() == TaskErrorKind::Panicked));
        let polled = poll_once(&mut driver);
        assert!(matches!(polled, Poll::Ready(Err(e)) if e.kind() == TaskErrorKind::Panicked));
        assert_eq!(ctx.state().runs.get(), 1);
    });
}

#[test]
fn a_panic_before_the_future_exists_is_an_error() {
    fn no_future(ctx: Ctx<App>, key: Key) -> std::future::Ready<Result<u64, TaskError>> {
        ctx.state().runs.add();
        panic!("no future for {}", key.n)
    }
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        for _ in 0..2 {
            let error = ctx.run(no_future, app.key(1)).await.unwrap_err();
            assert_eq!(error.kind(), TaskErrorKind::Panicked);
            assert!(error.to_string().contains("no future for 1"), "{error}");
        }
        let fresh = ctx.run_fresh(no_future, app.key(2)).await.unwrap_err();
        assert_eq!(fresh.kind(), TaskErrorKind::Panicked);
        assert_eq!(app.runs.get(), 2);
        drop(ctx);
        app.all_gone();
    });
}

/// A body with a destructor that may panic.
struct Body {
    ctx: Ctx<App>,
    n: u64,
    waits: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _token: Token,
}

impl Future for Body {
    type Output = Result<Value, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(waits) = &mut self.waits {
            std::task::ready!(waits.as_mut().poll(cx));
        }
        Poll::Ready(Ok(self.ctx.state().value(self.n)))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.ctx.state().fuses.body_drop.ask("the drop of a body");
    }
}

fn ends_badly(ctx: Ctx<App>, n: u64) -> Body {
    ctx.state().runs.add();
    let gate = ctx.state().gate.clone();
    let waits = async move { gate.passed().await };
    Body {
        n,
        waits: (n > 0).then(|| Box::pin(waits) as _),
        _token: ctx.state().bodies.token(),
        ctx,
    }
}

#[test]
fn a_panic_in_the_drop_of_a_finished_body_is_an_error_for_every_caller() {
    everywhere(|| async {
        for n in [0, 1] {
            let app = App::default();
            let ctx = Ctx::new(app.clone());
            let (mut a, mut b) = (ctx.run(ends_badly, n), ctx.run(ends_badly, n));
            if n == 1 {
                assert!(poll_once(&mut a).is_pending());
                assert!(poll_once(&mut b).is_pending());
            }
            app.fuses.body_drop.light();
            app.gate.open();
            let (a, b) = futures::join!(a, b);
            for ended in [a, b, ctx.run(ends_badly, n).await] {
                let error = ended.map(|v| v.n).unwrap_err();
                assert_eq!(error.kind(), TaskErrorKind::Panicked);
                assert!(error.to_string().contains("drop of a body"), "{error}");
            }
            assert!(!app.fuses.body_drop.is_lit());
            assert_eq!((app.runs.get(), app.values.live()), (1, 0));
            assert!(ctx.forget(ends_badly, &n));
            assert_eq!(ctx.run(ends_badly, n).await.unwrap().n, n);
            drop(ctx);
            app.all_gone();
        }
    });
}

#[test]
fn a_panic_in_the_drop_of_a_body_that_was_left_lets_the_next_caller_start_afresh() {
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        let mut call = ctx.run(ends_badly, 1);
        assert!(poll_once(&mut call).is_pending());
        app.fuses.body_drop.light();
        let _ = caught(|| drop(call));
        assert!(!app.fuses.body_drop.is_lit());
        assert_eq!(app.bodies.live(), 0);
        app.gate.open();
        assert_eq!(ctx.run(ends_badly, 1).await.unwrap().n, 1);
        drop(ctx);
        app.all_gone();
    });
}

#[test]
fn a_panic_in_the_drop_of_one_body_does_not_keep_the_others_at_cancel_and_close() {
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        let mut calls: Vec<_> = (1..=5).map(|n| ctx.run(ends_badly, n)).collect();
        for call in &mut calls {
            assert!(poll_once(call).is_pending());
        }
        app.fuses.body_drop.light();
        let _ = caught(|| ctx.cancel());
        assert!(!app.fuses.body_drop.is_lit());
        assert_eq!(app.bodies.live(), 0);
        assert!(ctx.is_cancelled());
        for call in calls {
            let ended = call.await.map(|v| v.n).unwrap_err();
            assert_eq!(ended.kind(), TaskErrorKind::Cancelled);
        }
        drop(ctx);
        app.all_gone();
    });
}

#[test]
fn a_panic_in_one_task_leaves_the_others_running() {
    async fn explodes(_: Ctx<App>, _: u64) -> Result<u64, TaskError> {
        panic!("alone")
    }
    async fn catches(ctx: Ctx<App>, n: u64) -> Result<Value, TaskError> {
        let error = ctx.run(explodes, n).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        Ok(ctx.state().value(n))
    }
    async fn passes_on(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        Ok(*ctx.run(explodes, n).await?)
    }
    everywhere(|| async {
        let ctx = Ctx::new(App::default());
        let (plain, catches, passes_on) = futures::join!(
            ctx.run(plain, 1),
            ctx.run(catches, 1),
            ctx.run(passes_on, 1)
        );
        assert_eq!((plain.unwrap().n, catches.unwrap().n), (1, 1));
        let error = passes_on.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        assert_eq!(error.to_string(), "passes_on > explodes panicked: alone");
        assert!(!ctx.is_cancelled());
    });
}

#[test]
fn a_payload_that_is_no_text_and_panics_in_its_own_drop_is_contained() {
    struct Payload(Arc<Fuses>);
    impl Drop for Payload {
        fn drop(&mut self) {
            self.0.value_drop.ask("the drop of a payload");
        }
    }
    async fn throws(ctx: Ctx<App>, _: u64) -> Result<u64, TaskError> {
        ctx.state().fuses.value_drop.light();
        panic_any(Payload(ctx.state().fuses.clone()))
    }
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        let error = ctx.run(throws, 1).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        assert!(error.to_string().contains("throws"), "{error}");
        assert!(caught(|| drop((error, ctx))).is_ok());
        assert!(!app.fuses.value_drop.is_lit());
    });
}

#[test]
fn a_fake_that_panics_is_a_task_that_panics() {
    everywhere(|| async {
        let ctx = Ctx::builder(App::default())
            .replace(plain, |_ctx, n| async move { panic!("no {n} today") })
            .build();
        let error = ctx.run(plain, 3).await.map(|v| v.n).unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        assert!(error.to_string().contains("no 3 today"), "{error}");
    });
}

// --- Hash, Eq, Clone -------------------------------------------------------------------------------

#[test]
fn a_panic_in_hash_leaves_the_table_as_it_was() {
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        ctx.run(by_key, app.key(1)).await.unwrap();
        let fuse = &app.fuses.hash;
        fuse.light();
        panicked(caught(|| now(ctx.run(by_key, app.key(2)))));
        fuse.light();
        panicked(caught(|| now(ctx.run(by_key, app.key(1)))));
        fuse.light();
        assert!(caught(|| ctx.peek(by_key, &app.key(1)).is_some()).is_err());
        fuse.light();
        assert!(caught(|| ctx.forget(by_key, &app.key(1))).is_err());
        fuse.light();
        assert!(caught(|| ctx.prime(by_key, app.key(3), app.value(3)).is_ok()).is_err());
        assert!(!fuse.is_lit());
        assert_eq!(ctx.run(by_key, app.key(1)).await.unwrap().n, 1);
        assert_eq!(ctx.run(by_key, app.key(2)).await.unwrap().n, 2);
        assert_eq!(ctx.run(by_key, app.key(3)).await.unwrap().n, 3);
        assert_eq!(app.runs.get(), 3);
        drop(ctx);
        app.all_gone();
    });
}

#[test]
fn a_panic_in_eq_leaves_the_table_as_it_was() {
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        ctx.run(by_key, app.key(1)).await.unwrap();
        let fuse = &app.fuses.eq;
        fuse.light();
        panicked(caught(|| now(ctx.run(by_key, app.key(1)))));
        fuse.light();
        assert!(caught(|| ctx.peek(by_key, &app.key(1)).is_some()).is_err());
        fuse.light();
        assert!(caught(|| ctx.forget(by_key, &app.key(1))).is_err());
        fuse.light();
        assert!(caught(|| ctx.prime(by_key, app.key(1), app.value(9)).is_ok()).is_err());
        assert!(!fuse.is_lit());
        assert_eq!(ctx.run(by_key, app.key(1)).await.unwrap().n, 1);
        assert_eq!(app.runs.get(), 1);
        drop(ctx);
        app.all_gone();
    });
}

#[test]
fn a_panic_in_clone_is_an_error_that_can_be_forgotten() {
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        app.fuses.clone.light();
        panicked(caught(|| now(ctx.run(by_key, app.key(1)))));
        assert!(!app.fuses.clone.is_lit());
        assert_eq!(app.runs.get(), 0);
        ctx.forget(by_key, &app.key(1));
        assert_eq!(ctx.run(by_key, app.key(1)).await.unwrap().n, 1);
        app.fuses.clone.light();
        panicked(caught(|| now(ctx.run_fresh(by_key, app.key(2)))));
        app.fuses.clone.0.store(false, SeqCst);
        assert_eq!(ctx.run(by_key, app.key(2)).await.unwrap().n, 2);
        drop(ctx);
        app.all_gone();
    });
}

#[test]
fn a_panic_in_hash_inside_a_body_is_the_panic_of_that_body() {
    async fn outer(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let key = ctx.state().key(n);
        ctx.state().fuses.hash.light();
        Ok(ctx.run(by_key, key).await?.n)
    }
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        let error = ctx.run(outer, 1).await.unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        assert!(error.task().ends_with("outer"), "{}", error.task());
        assert_eq!(ctx.run(by_key, app.key(1)).await.unwrap().n, 1);
        drop(ctx);
        app.all_gone();
    });
}

// --- Drop ------------------------------------------------------------------------------------------

#[test]
fn a_panic_in_the_drop_of_the_bodys_input_is_the_panic_of_the_body() {
    async fn takes(ctx: Ctx<App>, key: Key) -> Result<Value, TaskError> {
        let value = ctx.state().value(key.n);
        ctx.state().fuses.key_drop.light();
        drop(key);
        Ok(value)
    }
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        let error = ctx.run(takes, app.key(1)).await.map(|v| v.n).unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        drop(ctx);
        app.all_gone();
    });
}

#[test]
fn a_panic_in_the_drop_of_a_callers_key_on_a_hit_is_the_callers() {
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        let value = ctx.run(by_key, app.key(1)).await.unwrap();
        app.fuses.key_drop.light();
        let _ = caught(|| now(ctx.run(by_key, app.key(1))).map(|v| v.n));
        assert!(!app.fuses.key_drop.is_lit());
        assert!(std::ptr::eq(
            ctx.run(by_key, app.key(1)).await.unwrap(),
            value
        ));
        assert_eq!(app.runs.get(), 1);
        drop(ctx);
        app.all_gone();
    });
}

#[test]
fn a_panic_in_a_drop_at_the_end_of_the_context_keeps_nothing_else() {
    everywhere(|| async {
        let pick: [fn(&Fuses) -> &Fuse; 4] = [
            |f| &f.key_drop,
            |f| &f.value_drop,
            |f| &f.error_drop,
            |f| &f.state_drop,
        ];
        struct State(App);
        impl Drop for State {
            fn drop(&mut self) {
                self.0.fuses.state_drop.ask("the drop of the state");
            }
        }
        async fn value(ctx: Ctx<State>, key: Key) -> Result<Value, TaskError> {
            Ok(ctx.state().0.value(key.n))
        }
        async fn error(ctx: Ctx<State>, _: Key) -> Result<Value, Fault> {
            Err(Fault {
                _token: ctx.state().0.values.token(),
                fuses: ctx.state().0.fuses.clone(),
            })
        }
        for pick in pick {
            let app = App::default();
            let ctx = Ctx::new(State(app.clone()));
            for n in 0..10 {
                ctx.run(value, app.key(n)).await.unwrap();
                let _ = ctx.run(error, app.key(n)).await;
            }
            ctx.forget(value, &app.key(3));
            ctx.prime(value, app.key(3), app.value(4)).ok().unwrap();
            pick(&app.fuses).light();
            let _ = caught(|| drop(ctx));
            app.all_gone();
        }
    });
}

#[test]
fn a_panic_in_the_drop_of_an_error_is_the_last_holders() {
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        let error = ctx.run(faulty, 1).await.map(|v| v.n).unwrap_err();
        drop(ctx);
        assert_eq!(app.values.live(), 1);
        app.fuses.error_drop.light();
        let _ = caught(|| drop(error));
        assert!(!app.fuses.error_drop.is_lit());
        app.all_gone();
    });
}

#[test]
fn a_panic_in_the_drop_of_a_transient_error_does_not_stop_the_next_run() {
    async fn flaky(ctx: Ctx<App>, n: u64) -> Result<Value, Fault> {
        if ctx.state().runs.add() == 1 {
            return Err(ctx.transient(Fault {
                _token: ctx.state().values.token(),
                fuses: ctx.state().fuses.clone(),
            }));
        }
        Ok(ctx.state().value(n))
    }
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        let error = ctx.run(flaky, 1).await.map(|v| v.n).unwrap_err();
        app.fuses.error_drop.light();
        let _ = caught(|| drop(error));
        assert_eq!(ctx.run(flaky, 1).await.unwrap().n, 1);
        let _ = caught(|| drop(ctx));
        app.all_gone();
    });
}

#[test]
fn a_value_made_by_a_fresh_run_whose_body_then_panics_is_dropped() {
    everywhere(|| async {
        let app = App::default();
        let ctx = Ctx::new(app.clone());
        app.fuses.body_drop.light();
        let error = ctx.run_fresh(ends_badly, 0).await.map(|v| v.n).unwrap_err();
        assert_eq!(error.kind(), TaskErrorKind::Panicked);
        assert_eq!(app.values.live(), 0);
        assert_eq!(ctx.run_fresh(ends_badly, 0).await.unwrap().n, 0);
        drop(ctx);
        app.all_gone();
    });
}

// --- wakers ----------------------------------------------------------------------------------------

#[test]
fn a_waker_that_panics_does_not_leave_the_others_asleep() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("in a waker");
        }
    }
    async fn gated(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        ctx.state().gate.passed().await;
        Ok(n)
    }
    everywhere(|| async {
        for bad in 0..4 {
            let ctx = Ctx::new(App::default());
            let mut calls: Vec<_> = (0..4).map(|_| ctx.run(gated, 1)).collect();
            let good: Vec<_> = (0..4).map(|_| CountingWaker::pair()).collect();
            for (at, call) in calls.iter_mut().enumerate() {
                let waker = if at == bad {
                    Waker::from(Arc::new(Panics))
                } else {
                    good[at].1.clone()
                };
                assert!(poll_with(call, &waker).is_pending());
            }
            let _ = caught(|| ctx.state().gate.open());
            for (at, (counter, _)) in good.iter().enumerate() {
                assert!(at == bad || counter.wakes() > 0, "{at} sleeps on");
            }
            for call in calls {
                assert_eq!(*call.await.unwrap(), 1);
            }
        }
    });
}

// --- threads and the runtime -----------------------------------------------------------------------

#[test]
fn threads_that_share_a_body_that_panics_all_return() {
    async fn explodes(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let _body = ctx.state().bodies.token();
        support::yields(n as usize % 4).await;
        panic!("for everybody")
    }
    watched("shared panic", || {
        for round in 0..200 {
            let app = App::default();
            let ctx = Ctx::new(app.clone());
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let error = ctx.run(explodes, round).wait().unwrap_err();
                        assert_eq!(error.kind(), TaskErrorKind::Panicked);
                    });
                }
            });
            assert_eq!(app.bodies.made(), 1);
            drop(ctx);
            app.all_gone();
        }
    });
}

#[cfg(feature = "tokio")]
mod on_a_runtime {
    use super::*;
    use crate::support::{both_runtimes, until};
    use watershed::Task;

    async fn explodes(ctx: Ctx<App>, _: u64) -> Result<u64, TaskError> {
        let _body = ctx.state().bodies.token();
        panic!("out there")
    }

    async fn never(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        let _body = ctx.state().bodies.token();
        std::future::pending::<()>().await;
        Ok(n)
    }

    /// R30: the group ends promptly and its siblings are dropped.
    #[test]
    fn a_panic_in_a_group_ends_it_at_once() {
        both_runtimes(|| async {
            for _ in 0..20 {
                let ctx = Ctx::new(App::default());
                let group = ctx.parallel((never.with(1), explodes.with(2), never.with(3)));
                let error = group.await.map(drop).unwrap_err();
                assert_eq!(error.kind(), TaskErrorKind::Panicked);
                assert!(error.to_string().contains("out there"), "{error}");
                until(|| ctx.state().bodies.live() == 0).await;
                let last = ctx.parallel((never.with(1), explodes.with(2)));
                let error = last.await.map(drop).unwrap_err();
                assert_eq!(error.kind(), TaskErrorKind::Panicked);
                until(|| ctx.state().bodies.live() == 0).await;
            }
        });
    }

    /// R31: a detached run that panics ends nothing but itself.
    #[test]
    fn a_panic_in_a_spawned_run_reaches_later_callers() {
        both_runtimes(|| async {
            let ctx = Ctx::new(App::default());
            ctx.spawn(explodes, 1).unwrap();
            until(|| ctx.peek(explodes, &1).is_some()).await;
            let error = ctx.run(explodes, 1).await.unwrap_err();
            assert_eq!(error.kind(), TaskErrorKind::Panicked);
            assert_eq!(ctx.state().bodies.made(), 1);
            assert_eq!(ctx.run(plain, 1).await.unwrap().n, 1);
        });
    }

    #[test]
    fn a_panic_in_a_list_ends_it() {
        both_runtimes(|| async {
            let ctx = Ctx::new(App::default());
            let list = [explodes.with(1).boxed(), plain.with(2).boxed()];
            let error = ctx.run_all(list).await.unwrap_err();
            assert_eq!(error.kind(), TaskErrorKind::Panicked);
            assert_eq!(ctx.run(plain, 2).await.unwrap().n, 2);
        });
    }

    /// Input that cannot be cloned or hashed on the way to the runtime.
    #[test]
    fn a_panic_of_a_key_on_its_way_to_the_runtime_is_told() {
        both_runtimes(|| async {
            let app = App::default();
            let ctx = Ctx::new(app.clone());
            app.fuses.clone.light();
            let spawned = caught(|| ctx.spawn(by_key, app.key(1)));
            if let Ok(Ok(())) = spawned {
                until(|| ctx.peek(by_key, &app.key(1)).is_some()).await;
                let kept = ctx.peek(by_key, &app.key(1)).unwrap();
                assert_eq!(
                    kept.map(|v| v.n).unwrap_err().kind(),
                    TaskErrorKind::Panicked
                );
            }
            assert!(!app.fuses.clone.is_lit());
            ctx.forget(by_key, &app.key(1));
            let (value,) = ctx.parallel((by_key.with(app.key(1)),)).await.unwrap();
            assert_eq!(value.n, 1);
            drop(ctx);
            until(|| app.keys.live() == 0).await;
            app.all_gone();
        });
    }
}
