//! A context is closed where a caller sleeps that only the closer will wake: is it told?
//!
//! ```text
//! poller:  called before ---- in a poll that does not end before the sleeper has its answer
//! sleeper:               ---- call, sleep ---- Cancelled
//! main:                  ---- cancel
//! ```
//!
//! Elsewhere the end of a poll or of a drop wakes as well (S7, S10). It does not in a poll that takes long, nor where a call left its
//! slot to the base of its stack, which finds the slot closed. Explored with at most 3 preemptions, 2 where calls are nested. Guards the wake of S11.
#![cfg(loom)]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use loom::thread;
use watershed::{Ctx, TaskErrorKind};
use watershed_loom_tests::scene::{KEY, Outcome, Scene, World, ready};
use watershed_loom_tests::{Seen, Value, block_on, explore, go};

/// Blocks its poller until the second event.
async fn blocking(ctx: Ctx<World>, _: u64) -> Result<Value, Infallible> {
    let World { tally, events } = ctx.state();
    let body = tally.body();
    events[0].fire();
    block_on(events[1].wait());
    Ok(tally.value(body.number))
}

#[test]
fn caller_that_sleeps_while_a_poll_takes_long_is_told() {
    explore(3, || {
        let scene = Scene::new(2);
        let poller = go(scene.call(blocking));
        block_on(scene.events[0].wait());
        let sleeper = thread::spawn({
            let (caller, events) = (scene.call(blocking), scene.events.clone());
            move || {
                let outcome = block_on(caller);
                events[1].fire();
                outcome
            }
        });
        scene.ctx.cancel();
        assert_eq!(sleeper.join().unwrap(), Err(TaskErrorKind::Cancelled));
        assert_eq!(poller.join().unwrap(), Ok(0));
        scene.end();
    });
}

type Chained = Pin<Box<dyn Future<Output = Result<Outcome, Infallible>> + Send>>;

/// Calls itself so often, and at the end a task of another context.
fn chain(ctx: Ctx<Arc<Ctx<World>>>, left: u64) -> Chained {
    Box::pin(async move {
        if left > 0 {
            let below = ctx.run(chain, left - 1).await;
            return Ok(*below.expect("it does not fail"));
        }
        let called = ctx.state().run(ready, KEY).await;
        Ok(called
            .map(|value| value.number)
            .map_err(|error| error.kind()))
    })
}

/// The chain's last call is nested too deep for another poll, so the base is to make it; the other context is cancelled
/// before, meanwhile, or after.
#[test]
fn caller_that_left_its_slot_to_the_base_is_told() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let scene = Scene::new(0);
        let outer = Ctx::new(Arc::clone(&scene.ctx));
        let caller = thread::spawn(move || *block_on(outer.run(chain, 3)).unwrap());
        let cancelling = thread::spawn({
            let ctx = Arc::clone(&scene.ctx);
            move || ctx.cancel()
        });
        let outcome = caller.join().unwrap();
        cancelling.join().unwrap();
        match outcome {
            Ok(number) => assert_eq!(number, 0),
            Err(kind) => assert_eq!(kind, TaskErrorKind::Cancelled),
        }
        SEEN.mark(usize::from(outcome.is_ok()));
        scene.end();
    });
    SEEN.assert_all(2);
}
