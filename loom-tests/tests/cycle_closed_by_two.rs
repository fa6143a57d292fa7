//! Tasks that wait for each other in a circle are called from several threads: does exactly one see the cycle, and does
//! nobody hang?
//!
//! ```text
//! first:  ---- call 0, which calls 1 ----.
//! second: ---- call 1, which calls 0 ----+-- one of them sees `Cycle`, the other its value
//! ```
//!
//! Explored with at most 2 preemptions where both bodies are under way before the race, and 1 where they start in it or there are
//! three (2 take half a minute and more). The outcomes are which call sees it.
//! Guards the one critical section of search and edge (M17), starters, and S2's take-back of an edge.
#![cfg(loom)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use watershed::{Ctx, TaskError, TaskErrorKind};
use watershed_loom_tests::{Event, Seen, Tally, Value, block_on, explore, go, poll_once};

struct World {
    tally: Arc<Tally>,
    /// How many tasks the circle has.
    size: u64,
    /// What the bodies wait for before they call, if they do.
    gates: Vec<Event>,
    /// How often a cycle was seen.
    cycles: AtomicUsize,
    /// By the body of which input.
    seen_by: AtomicUsize,
}

/// Calls the next one of the circle; its value is how far it is from the one that saw the cycle.
fn ring(
    ctx: Ctx<Arc<World>>,
    n: u64,
) -> Pin<Box<dyn Future<Output = Result<Value, TaskError>> + Send>> {
    Box::pin(async move {
        let world = ctx.state();
        let _body = world.tally.body();
        if let Some(gate) = world.gates.get(n as usize) {
            gate.wait().await;
        }
        match ctx.run(ring, (n + 1) % world.size).await {
            Ok(value) => Ok(world.tally.value(value.number + 1)),
            Err(error) => {
                assert_eq!(error.kind(), TaskErrorKind::Cycle);
                world.cycles.fetch_add(1, Relaxed);
                world.seen_by.store(n as usize, Relaxed);
                Ok(world.tally.value(0))
            }
        }
    })
}

/// Each task of the circle is called from a thread of its own, but for the one that `waits` for the next one before
/// the race and is not polled again in it. Returns whose body saw the cycle.
fn race<const SIZE: usize>(gated: bool, waits: Option<usize>) -> usize {
    let world = Arc::new(World {
        tally: Tally::new(),
        size: SIZE as u64,
        gates: (0..if gated { SIZE } else { 0 })
            .map(|_| Event::default())
            .collect(),
        cycles: AtomicUsize::new(0),
        seen_by: AtomicUsize::new(SIZE),
    });
    let ctx = Arc::new(Ctx::new(Arc::clone(&world)));
    let callers: [_; SIZE] = std::array::from_fn(|n| {
        let ctx = Arc::clone(&ctx);
        let mut caller =
            Box::pin(async move { ctx.run(ring, n as u64).await.map(|value| value.number) });
        if gated {
            assert!(poll_once(&mut caller).is_pending());
        }
        caller
    });
    let mut kept = None;
    let mut threads = Vec::new();
    let mut callers: Vec<_> = callers.into_iter().enumerate().collect();
    if let Some(n) = waits {
        let (_, mut caller) = callers.remove(n);
        world.gates[n].fire();
        assert!(poll_once(&mut caller).is_pending());
        kept = Some((n, caller));
    }
    for (n, gate) in world.gates.iter().enumerate() {
        if waits != Some(n) {
            gate.fire();
        }
    }
    for (n, caller) in callers {
        threads.push((n, go(caller)));
    }
    let mut numbers: Vec<_> = threads
        .into_iter()
        .map(|(n, thread)| (n, thread.join().unwrap().unwrap()))
        .collect();
    numbers.extend(kept.map(|(n, caller)| (n, block_on(caller).unwrap())));

    assert_eq!(world.cycles.load(Relaxed), 1, "who saw the cycle");
    let seen_by = world.seen_by.load(Relaxed);
    for (n, number) in numbers {
        assert_eq!(number, (seen_by + SIZE - n) % SIZE);
    }
    assert_eq!(world.tally.starts(), SIZE);
    assert_eq!(world.tally.bodies(), 0);
    drop(Arc::into_inner(ctx).expect("all callers are gone"));
    world.tally.assert_nothing_left();
    seen_by
}

#[test]
fn two_that_start_together_see_it_once() {
    static SEEN: Seen = Seen::new();
    explore(1, || SEEN.mark(race::<2>(false, None)));
    SEEN.assert_all(2);
}

#[test]
fn two_that_are_under_way_see_it_once() {
    static SEEN: Seen = Seen::new();
    explore(2, || SEEN.mark(race::<2>(true, None)));
    SEEN.assert_all(2);
}

/// The second one waits for the third already.
#[test]
fn two_of_three_that_are_under_way_see_it_once() {
    static SEEN: Seen = Seen::new();
    explore(1, || SEEN.mark(race::<3>(true, Some(1)) / 2));
    SEEN.assert_all(2);
}
