//! Two threads call one task with one input: is there one run, and do both get its value?
//!
//! Explored with at most 3 preemptions; 2 where one caller polls in between and sleeps, and 1 where both
//! callers sleep until somebody else wakes them: with 2 those take 20 and 50 seconds, and
//! `LOOM_MAX_PREEMPTIONS=2` does it. The outcomes are which thread started the run.
#![cfg(loom)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use loom::thread::{self, ThreadId};
use watershed::Ctx;
use watershed_loom_tests::{Event, Seen, Tally, Value, block_on, explore, poll_once, yield_once};

struct World {
    tally: Arc<Tally>,
    starter: Arc<Mutex<Option<ThreadId>>>,
    event: Arc<Event>,
}

impl World {
    fn value(&self, n: u64) -> Value {
        self.tally.value(n as usize)
    }

    fn started_here(&self) {
        let before = self.starter.lock().unwrap().replace(thread::current().id());
        assert!(before.is_none(), "started twice");
    }
}

async fn ready(ctx: Ctx<World>, n: u64) -> Result<Value, Infallible> {
    let _body = ctx.state().tally.body();
    ctx.state().started_here();
    Ok(ctx.state().value(n))
}

async fn yielding(ctx: Ctx<World>, n: u64) -> Result<Value, Infallible> {
    let _body = ctx.state().tally.body();
    ctx.state().started_here();
    yield_once().await;
    Ok(ctx.state().value(n))
}

async fn waiting(ctx: Ctx<World>, n: u64) -> Result<Value, Infallible> {
    let _body = ctx.state().tally.body();
    ctx.state().started_here();
    ctx.state().event.wait().await;
    Ok(ctx.state().value(n))
}

/// Two threads run the call; `meanwhile` goes on in a third. Returns which of the two started it.
fn race(call: fn(&Ctx<World>) -> watershed::Run<'_, World, Value>, meanwhile: fn(&Event)) -> usize {
    let tally = Tally::new();
    let starter = Arc::default();
    let event = Arc::new(Event::default());
    let ctx = Ctx::new(World {
        tally: Arc::clone(&tally),
        starter: Arc::clone(&starter),
        event: Arc::clone(&event),
    });

    let callers = [0, 1].map(|_| {
        let ctx = ctx.clone();
        thread::spawn(move || {
            let value = block_on(call(&ctx)).unwrap();
            assert_eq!(value.number, 7);
            (thread::current().id(), std::ptr::from_ref(value) as usize)
        })
    });
    meanwhile(&event);
    let [(first, one), (second, other)] = callers.map(|caller| caller.join().unwrap());

    assert_eq!(one, other, "two values");
    assert_eq!(tally.starts(), 1);
    assert_eq!(tally.bodies(), 0, "a finished body is kept");
    assert_eq!(tally.values(), 1);
    drop(ctx);
    tally.assert_nothing_left();

    let starter = starter.lock().unwrap().take();
    assert!(starter == Some(first) || starter == Some(second));
    usize::from(starter == Some(second))
}

#[test]
fn body_that_is_ready_runs_once() {
    static STARTERS: Seen = Seen::new();
    explore(3, || STARTERS.mark(race(|ctx| ctx.run(ready, 7), |_| {})));
    STARTERS.assert_all(2);
}

#[test]
fn body_that_wakes_itself_runs_once() {
    static STARTERS: Seen = Seen::new();
    explore(1, || {
        STARTERS.mark(race(|ctx| ctx.run(yielding, 7), |_| {}))
    });
    STARTERS.assert_all(2);
}

#[test]
fn body_that_waits_for_an_event_runs_once() {
    static STARTERS: Seen = Seen::new();
    explore(1, || {
        STARTERS.mark(race(|ctx| ctx.run(waiting, 7), Event::fire))
    });
    STARTERS.assert_all(2);
}

/// One caller polls once and is kept, another waits, a third thread fires the event. `first` says whether the
/// first poll of the kept one is before the race or in it.
fn keep_one_unpolled(first: bool) {
    let tally = Tally::new();
    let event = Arc::new(Event::default());
    let ctx = Ctx::new(World {
        tally: Arc::clone(&tally),
        starter: Arc::default(),
        event: Arc::clone(&event),
    });
    let mut kept = ctx.run(waiting, 7);
    if first {
        assert!(poll_once(&mut kept).is_pending());
    }
    let other = thread::spawn({
        let ctx = ctx.clone();
        move || block_on(ctx.run(waiting, 7)).unwrap().number
    });
    let firing = thread::spawn(move || event.fire());
    let early = !first && poll_once(&mut kept).is_ready();
    assert_eq!(other.join().unwrap(), 7);
    firing.join().unwrap();

    if !early {
        let late = poll_once(&mut kept).map(|value| value.unwrap().number);
        assert_eq!(late, Poll::Ready(7));
    }
    drop(kept);
    assert_eq!(tally.starts(), 1);
    drop(ctx);
    tally.assert_nothing_left();
}

#[test]
fn caller_that_is_not_polled_again_stalls_nobody() {
    explore(3, || keep_one_unpolled(true));
}

#[test]
fn caller_that_polls_in_between_and_sleeps_stalls_nobody() {
    explore(2, || keep_one_unpolled(false));
}
