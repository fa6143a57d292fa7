//! A call is forgotten while it runs, before it is polled, or when it is done: do those who had it keep it, and does whoever
//! calls afterwards run again?
//!
//! ```text
//! old:    called before ---- wait ----------+-- the first value
//! new:                  ---- call, wait ----+-- the first value or the second
//! main:                 ---- forget --------'
//! ```
//!
//! Explored with at most 3 preemptions, 2 where an old call ends meanwhile, and 1 where it also waits (2 take three minutes). The outcomes are which value the new caller gets. Guards S12, S2's refusal and
//! the walk past dead slots.
#![cfg(loom)]

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use watershed_loom_tests::scene::{KEY, Scene, waiting};
use watershed_loom_tests::{Seen, block_on, explore, go};

#[test]
fn forgotten_while_it_runs_it_ends_for_those_who_had_it() {
    static SEEN: Seen = Seen::new();
    explore(1, || {
        let scene = Scene::new(2);
        let old = go(scene.parked());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events.iter().for_each(watershed_loom_tests::Event::fire)
        });
        let new = go(scene.caller());
        assert!(scene.ctx.forget(waiting, &KEY), "it ran or was done");
        let new = new.join().unwrap().unwrap();
        assert_eq!(old.join().unwrap(), Ok(0));
        firing.join().unwrap();
        assert_eq!(scene.tally.starts(), new + 1);
        assert_eq!(scene.peek(), (new == 1).then_some(1));
        SEEN.mark(new);
        scene.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn forgotten_when_its_last_caller_leaves_it_is_not_joined() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let scene = Scene::new(2);
        scene.events[1].fire();
        let leaver = scene.parked();
        let forgetting = thread::spawn({
            let ctx = scene.ctx.clone();
            move || ctx.forget(waiting, &KEY)
        });
        let leaving = thread::spawn(move || drop(leaver));
        SEEN.mark(usize::from(forgetting.join().unwrap()));
        leaving.join().unwrap();
        assert_eq!(scene.tally.bodies(), 0, "nobody waits and the body is kept");
        assert_eq!(block_on(scene.caller()), Ok(1));
        scene.end();
    });
    SEEN.assert_all(2);
}

/// The slot is looked up when the call is made, and forgotten before or while it is polled.
#[test]
fn call_made_before_and_polled_after_is_a_new_one() {
    static SEEN: Seen = Seen::new();
    explore(2, || {
        let scene = Scene::new(2);
        let kept = scene.parked();
        let call = scene.ctx.run(waiting, KEY);
        scene.events[0].fire();
        scene.events[1].fire();
        let forgotten = loom::sync::Arc::new(AtomicBool::new(false));
        let forgetting = thread::spawn({
            let (ctx, forgotten) = (scene.ctx.clone(), forgotten.clone());
            move || {
                assert!(ctx.forget(waiting, &KEY));
                forgotten.store(true, Ordering::Release);
            }
        });
        // A second thread that polls the old run; it has it whatever is forgotten.
        let old = go(kept);
        let after = forgotten.load(Ordering::Acquire);
        let number = block_on(call).unwrap().number;
        assert!(
            !after || number == 1,
            "it joined what was forgotten before it was polled"
        );
        forgetting.join().unwrap();
        assert_eq!(old.join().unwrap(), Ok(0));
        SEEN.mark(number);
        scene.end();
    });
    SEEN.assert_all(2);
}

#[test]
fn forgotten_when_it_is_done_it_runs_again_and_old_borrows_stay() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let scene = Scene::new(2);
        scene.events[0].fire();
        scene.events[1].fire();
        let old = block_on(scene.ctx.run(waiting, KEY)).unwrap();
        let forgetting = [0, 1].map(|_| {
            let ctx = scene.ctx.clone();
            thread::spawn(move || ctx.forget(waiting, &KEY))
        });
        // After the others: loom remembers one access of each atomic, and would not see that theirs come before ours.
        let new = go(scene.caller()).join().unwrap().unwrap();
        let forgot = forgetting.map(|thread| usize::from(thread.join().unwrap()));
        // Once for each value that was there.
        let there = usize::from(scene.peek().is_some());
        assert_eq!(forgot[0] + forgot[1] + there, scene.tally.starts());
        assert_eq!(old.number, 0);
        assert_eq!(
            scene.tally.values(),
            scene.tally.starts(),
            "an old value is gone"
        );
        SEEN.mark(new);
        scene.end();
    });
    SEEN.assert_all(2);
}
