//! The driver's place changes hands, or its waker is replaced, while a wake takes it: does the wake reach who is there?
//!
//! ```text
//! driver:    called before ---- leave, or call again with another waker ----.
//! successor:               ---- call, wait ---------------------------------+-- the value
//! event:                   ---- fire ---------------------------------------'
//! ```
//!
//! Explored with at most 3 preemptions, 2 where the driver leaves, and 1 where two park then. The last two models are of the cell alone,
//! with its words followed. Guards C0 to C2, H5 and H6.
#![cfg(loom)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize as StdAtomicUsize, Ordering::SeqCst};
use std::task::{RawWaker, RawWakerVTable, Waker};

use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread;
use watershed::waker_model::Cell;
use watershed_loom_tests::scene::Scene;
use watershed_loom_tests::{Seen, explore, go};

#[test]
fn driver_that_leaves_during_a_wake_does_not_take_its_successors() {
    explore(2, || {
        let scene = Scene::new(1);
        let driver = scene.parked();
        // Counted, so that the run goes on.
        let kept = scene.parked();
        let successor = go(scene.caller());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        drop(driver);
        assert_eq!(successor.join().unwrap(), Ok(0));
        firing.join().unwrap();
        drop(kept);
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

/// The wake reaches the waker that is there, or the driver sees that the body is woken.
#[test]
fn driver_whose_waker_is_replaced_during_a_wake_is_woken() {
    explore(3, || {
        let scene = Scene::new(1);
        // With a waker that wakes nobody; from now on with a thread's.
        let driver = go(scene.parked());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        assert_eq!(driver.join().unwrap(), Ok(0));
        firing.join().unwrap();
        scene.end();
    });
}

/// As above for one that is in the list.
#[test]
fn waiter_whose_waker_is_replaced_during_a_wake_is_woken() {
    explore(3, || {
        let scene = Scene::new(1);
        let kept = scene.parked();
        let waiter = go(scene.parked());
        let firing = thread::spawn({
            let events = scene.events.clone();
            move || events[0].fire()
        });
        assert_eq!(waiter.join().unwrap(), Ok(0));
        firing.join().unwrap();
        drop(kept);
        scene.end();
    });
}

/// One takes the place that the driver left, the other is listed; both are woken.
#[test]
fn two_that_park_where_the_driver_leaves_are_both_woken() {
    explore(1, || {
        let scene = Scene::new(1);
        let driver = scene.parked();
        let threads = [go(scene.parked()), go(scene.caller())];
        drop(driver);
        scene.events[0].fire();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Ok(0));
        }
        assert_eq!(scene.tally.starts(), 1);
        scene.end();
    });
}

/// Wakers of two kinds whose data says which kind they are, and how many there are.
struct Kind<const N: usize>;

static THERE: StdAtomicUsize = StdAtomicUsize::new(0);

impl<const N: usize> Kind<N> {
    const VTABLE: RawWakerVTable = RawWakerVTable::new(
        |data| {
            Self::check(data);
            Self::raw()
        },
        |_| unreachable!("they are not woken"),
        |_| unreachable!("they are not woken"),
        |data| {
            Self::check(data);
            THERE.fetch_sub(1, SeqCst);
        },
    );

    fn check(data: *const ()) {
        assert_eq!(data.addr(), N, "the words are of two wakers");
    }

    fn raw() -> RawWaker {
        THERE.fetch_add(1, SeqCst);
        RawWaker::new(std::ptr::without_provenance(N), &const { Self::VTABLE })
    }

    fn waker() -> Waker {
        // SAFETY: the functions do not use the data as a pointer.
        unsafe { Waker::from_raw(Self::raw()) }
    }
}

/// Each comes out as it was put in, and once.
#[test]
fn wakers_come_out_whole_and_once() {
    explore(2, || {
        THERE.store(0, SeqCst);
        let cell = Arc::new(Cell::default());
        let (one, two) = (Kind::<1>::waker(), Kind::<2>::waker());
        cell.hold(&one);
        let takers = [(); 2].map(|()| {
            let cell = Arc::clone(&cell);
            thread::spawn(move || drop(cell.take()))
        });
        cell.hold(&two);
        for taker in takers {
            taker.join().unwrap();
        }
        drop((one, two));
        drop(Arc::into_inner(cell).expect("the takers are done"));
        assert_eq!(THERE.load(SeqCst), 0, "one is left, or went twice");
    });
}

/// The taker finds the waker, or the owner's next look sees what the taker did before; also where another waker was in the cell, which the taker may get instead.
#[test]
fn taker_finds_the_waker_or_the_owner_sees_what_it_did() {
    static SEEN: Seen = Seen::new();
    for was_full in [false, true] {
        explore(3, move || {
            THERE.store(0, SeqCst);
            let (cell, done) = (Arc::new(Cell::default()), Arc::new(AtomicBool::new(false)));
            let (one, two) = (Kind::<1>::waker(), Kind::<2>::waker());
            if was_full {
                cell.hold(&one);
            }
            let taker = thread::spawn({
                let (cell, done, two) = (Arc::clone(&cell), Arc::clone(&done), two.clone());
                move || {
                    done.store(true, Relaxed);
                    cell.take().is_some_and(|waker| waker.will_wake(&two))
                }
            });
            cell.hold(&two);
            let saw = done.load(Relaxed);
            let found = taker.join().unwrap();
            assert!(saw || found, "the wake is lost");
            SEEN.mark(usize::from(saw) + 2 * usize::from(found) - 1);
        });
    }
    SEEN.assert_all(3);
}
