//! The last caller of a run leaves while another arrives: does the one that arrives always get a
//! value, from the run that was under way or from a fresh one, and is every body dropped?
//!
//! ```text
//! main:    call, polled to pending ---- drop --------.
//! arrival:                         ---- call, wait --+-- a value
//! event:                           ---- fire --------'
//! ```
//!
//! Explored with at most 2 preemptions, 3 where the event is fired after the race, and 1 where three
//! callers leave (10 to 40 seconds with 2). The first poll comes before the race, which makes it small.
//! The outcomes are one start and two. (The call borrows the context, so it stays in the main thread.)
#![cfg(loom)]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use loom::thread;
use watershed::Ctx;
use watershed_loom_tests::{Event, Seen, Tally, Value, block_on, explore, poll_once};

struct World {
    tally: Arc<Tally>,
    /// One for each body that may be started.
    events: Arc<[Event]>,
}

async fn waiting(ctx: Ctx<World>, n: u64) -> Result<Value, Infallible> {
    let World { tally, events } = ctx.state();
    let body = tally.body();
    assert_eq!(n, 7);
    events[body.number].wait().await;
    Ok(tally.value(body.number))
}

/// A context in which that many bodies may be started.
fn scene(bodies: usize) -> (Ctx<World>, Arc<Tally>, Arc<[Event]>) {
    let tally = Tally::new();
    let events: Arc<[Event]> = (0..bodies).map(|_| Event::default()).collect();
    let ctx = Ctx::new(World {
        tally: Arc::clone(&tally),
        events: Arc::clone(&events),
    });
    (ctx, tally, events)
}

/// `before` is what happens before the race, `meanwhile` goes on in a thread of its own during it.
/// Returns how many runs there were.
fn race(before: fn(&[Event]), meanwhile: Option<fn(&[Event])>) -> usize {
    let (ctx, tally, events) = scene(2);

    let mut leaver = ctx.run(waiting, 7);
    assert!(poll_once(&mut leaver).is_pending());
    before(&events);

    let arrival = thread::spawn({
        let ctx = ctx.clone();
        move || block_on(ctx.run(waiting, 7)).unwrap().number
    });
    let third = meanwhile.map(|meanwhile| thread::spawn(move || meanwhile(&events)));
    drop(leaver);
    let number = arrival.join().unwrap();
    if let Some(third) = third {
        third.join().unwrap();
    }

    assert_eq!(number + 1, tally.starts(), "the value of an earlier run");
    assert_eq!(tally.bodies(), 0, "a body is kept");
    assert_eq!(tally.values(), 1);
    drop(ctx);
    tally.assert_nothing_left();
    tally.starts()
}

#[test]
fn arrival_at_a_woken_body_gets_a_value() {
    static STARTS: Seen = Seen::new();
    explore(3, || {
        let fire_both = |events: &[Event]| events.iter().for_each(Event::fire);
        STARTS.mark(race(fire_both, None) - 1);
    });
    STARTS.assert_all(2);
}

#[test]
fn arrival_at_a_body_that_is_woken_meanwhile_gets_a_value() {
    static STARTS: Seen = Seen::new();
    explore(2, || {
        let fire_both = |events: &[Event]| events.iter().for_each(Event::fire);
        STARTS.mark(race(|_| {}, Some(fire_both)) - 1);
    });
    STARTS.assert_all(2);
}

#[test]
fn arrival_after_an_early_event_restarts_or_joins() {
    static STARTS: Seen = Seen::new();
    explore(2, || {
        // The first body is woken before the race, the second one, if there is one, during it.
        STARTS.mark(race(|events| events[0].fire(), Some(|events| events[1].fire())) - 1);
    });
    STARTS.assert_all(2);
}

/// Waits for two events of its own, and says when it has passed the first.
async fn two_steps(ctx: Ctx<World>, _: u64) -> Result<(Value, bool), Infallible> {
    let World { tally, events } = ctx.state();
    let body = tally.body();
    events[2 * body.number].wait().await;
    body.polled();
    let first_was_driven = tally.passed();
    tally.pass();
    events[2 * body.number + 1].wait().await;
    Ok((tally.value(body.number), first_was_driven))
}

/// Who is counted and has polled the body has it, whatever the leaver does in between.
#[test]
fn body_that_the_arrival_has_driven_is_not_dropped_by_the_leaver() {
    static STARTS: Seen = Seen::new();
    explore(2, || {
        let (ctx, tally, events) = scene(4);
        let ctx = Arc::new(ctx);
        let mut leaver: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin({
            let ctx = Arc::clone(&ctx);
            async move { drop(ctx.run(two_steps, 7).await) }
        });
        assert!(poll_once(&mut leaver).is_pending());
        events[0].fire();
        events[2].fire();

        let leaving = thread::spawn(move || drop(leaver));
        let arrival = thread::spawn({
            let ctx = Arc::clone(&ctx);
            move || {
                let (value, first_was_driven) = block_on(ctx.run(two_steps, 7)).unwrap();
                assert!(
                    value.number == 0 || !first_was_driven,
                    "the body was dropped under a caller"
                );
                value.number
            }
        });
        leaving.join().unwrap();
        events[1].fire();
        events[3].fire();
        STARTS.mark(arrival.join().unwrap());
        assert_eq!(tally.bodies(), 0, "a body is kept");
        drop(Arc::into_inner(ctx).expect("all callers are gone"));
        tally.assert_nothing_left();
    });
    STARTS.assert_all(2);
}

/// Each comes, polls and leaves: a slot that looks as before has had a body meanwhile, which must be gone for the next one.
#[test]
fn two_that_come_and_go_start_one_after_the_other() {
    static STARTS: Seen = Seen::new();
    explore(2, || {
        let (ctx, tally, _) = scene(3);
        // The slot is there, and empty.
        assert!(poll_once(ctx.run(waiting, 7)).is_pending());
        let threads = [0, 1].map(|_| {
            let ctx = ctx.clone();
            thread::spawn(move || assert!(poll_once(ctx.run(waiting, 7)).is_pending()))
        });
        for thread in threads {
            thread.join().unwrap();
        }
        STARTS.mark(tally.starts() - 2);
        assert_eq!(tally.bodies(), 0, "nobody waits and the body is kept");
        drop(ctx);
        tally.assert_nothing_left();
    });
    STARTS.assert_all(2);
}

#[test]
fn two_leavers_drop_the_body_once() {
    explore(1, || {
        let (ctx, tally, _) = scene(3);

        let mut one = ctx.run(waiting, 7);
        assert!(poll_once(&mut one).is_pending());
        let threads = [0, 1].map(|_| {
            let ctx = ctx.clone();
            thread::spawn(move || {
                let mut other = ctx.run(waiting, 7);
                assert!(poll_once(&mut other).is_pending());
            })
        });
        drop(one);
        for thread in threads {
            thread.join().unwrap();
        }

        assert_eq!(tally.bodies(), 0, "nobody waits and the body is kept");
        drop(ctx);
        tally.assert_nothing_left();
    });
}
