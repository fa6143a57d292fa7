//! A waker is kept after its body ended, and called: does it find nobody, whatever is gone meanwhile?
//!
//! ```text
//! caller: called and woken before ---- poll, value -- end of the context
//! waker:                          ---- wake -- wake
//! ```
//!
//! Explored with at most 3 preemptions, 2 where a run is polled meanwhile. Where the body is ready at its next poll, the wakes come
//! before, during and after its end; in the others it has ended before. Guards S7 and S10 against H1, and that a hub outlives its slot.
#![cfg(loom)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use loom::thread;
use watershed::Ctx;
use watershed_loom_tests::{Event, Tally, Value, block_on, explore, poll_once};

struct World {
    tally: Arc<Tally>,
    events: Arc<[Event]>,
    wakers: Arc<Mutex<Vec<Waker>>>,
}

/// Leaves its waker, and waits for its event.
async fn leaving(ctx: Ctx<World>, _: u64) -> Result<Value, Infallible> {
    let World {
        tally,
        events,
        wakers,
    } = ctx.state();
    let body = tally.body();
    std::future::poll_fn(|cx| {
        let waker = cx.waker().clone();
        wakers.lock().unwrap().push(waker);
        Poll::Ready(())
    })
    .await;
    events[body.number].wait().await;
    Ok(tally.value(body.number))
}

struct Scene {
    ctx: Ctx<World>,
    tally: Arc<Tally>,
    events: Arc<[Event]>,
    wakers: Arc<Mutex<Vec<Waker>>>,
}

impl Scene {
    fn new() -> Self {
        let (tally, wakers) = (Tally::new(), Arc::default());
        let events: Arc<[Event]> = [Event::default(), Event::default()].into();
        let ctx = Ctx::new(World {
            tally: Arc::clone(&tally),
            events: Arc::clone(&events),
            wakers: Arc::clone(&wakers),
        });
        Self {
            ctx,
            tally,
            events,
            wakers,
        }
    }

    /// The waker of the body that was started last.
    fn waker(&self) -> Waker {
        self.wakers.lock().unwrap().pop().unwrap()
    }
}

/// Wakes twice in a thread of its own.
fn wake_twice(waker: Waker) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        waker.wake_by_ref();
        waker.wake();
    })
}

#[test]
fn wake_against_the_end_of_its_body_changes_nothing() {
    explore(2, || {
        let scene = Scene::new();
        let mut call = scene.ctx.run(leaving, 7);
        assert!(poll_once(&mut call).is_pending());
        let waking = wake_twice(scene.waker());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        assert_eq!(block_on(call).unwrap().number, 0);
        waking.join().unwrap();
        firing.join().unwrap();
        assert_eq!(scene.tally.starts(), 1);
        drop(scene.ctx);
        scene.tally.assert_nothing_left();
    });
}

#[test]
fn wake_against_the_end_of_the_context_finds_nobody() {
    explore(3, || {
        let scene = Scene::new();
        scene.events[0].fire();
        assert_eq!(block_on(scene.ctx.run(leaving, 7)).unwrap().number, 0);
        let waking = wake_twice(scene.waker());
        let ending = thread::spawn(move || drop(scene.ctx));
        waking.join().unwrap();
        ending.join().unwrap();
        scene.tally.assert_nothing_left();
    });
}

#[test]
fn wake_against_the_end_of_a_context_with_a_dropped_body_finds_nobody() {
    explore(3, || {
        let scene = Scene::new();
        let mut call = scene.ctx.run(leaving, 7);
        assert!(poll_once(&mut call).is_pending());
        drop(call);
        let waking = wake_twice(scene.waker());
        let ending = thread::spawn(move || drop(scene.ctx));
        waking.join().unwrap();
        ending.join().unwrap();
        scene.tally.assert_nothing_left();
    });
}

#[test]
fn wake_of_a_dropped_body_does_not_disturb_the_next_run() {
    explore(2, || {
        let scene = Scene::new();
        let mut call = scene.ctx.run(leaving, 7);
        assert!(poll_once(&mut call).is_pending());
        let waking = wake_twice(scene.waker());
        drop(call);
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[1].fire()
        });
        assert_eq!(block_on(scene.ctx.run(leaving, 7)).unwrap().number, 1);
        waking.join().unwrap();
        firing.join().unwrap();
        assert_eq!(scene.tally.starts(), 2);
        drop(scene.ctx);
        scene.tally.assert_nothing_left();
    });
}
