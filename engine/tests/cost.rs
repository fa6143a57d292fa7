//! What calls cost in allocations and bytes; counted, not timed.
#![cfg(not(loom))]

mod support;

use std::hint::black_box;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use support::{CountingWaker, Gate, now, poll_once, poll_with};
use watershed::{Ctx, TaskError, TaskErrorKind};

support::counting_allocator!();

/// Live bytes are those of the whole process, so one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many allocations `work` makes on this thread, and what it gives.
fn allocations<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = heap::allocations();
    let out = work();
    (heap::allocations() - before, out)
}

#[derive(Default)]
struct App {
    gate: Gate,
    /// The waker that the body of [`parks`] was polled with.
    waker: Mutex<Option<Waker>>,
}

async fn double(_: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    Ok(n * 2)
}

async fn length(_: Ctx<App>, s: String) -> Result<usize, String> {
    if s.is_empty() {
        return Err("empty".to_owned());
    }
    Ok(s.len())
}

/// Pending until it was woken; clones its waker once a poll and allocates nothing itself.
async fn parks(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
    let mut polls = 0;
    std::future::poll_fn(|cx| {
        polls += 1;
        *ctx.state().waker.lock().unwrap() = Some(cx.waker().clone());
        if polls > 3 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    Ok(n)
}

#[test]
fn a_hit_allocates_nothing() {
    let _alone = alone();
    let ctx = Ctx::new(App::default());
    let name = "a name longer than any small-string optimisation".to_owned();
    now(ctx.run(double, 21)).unwrap();
    now(ctx.run(length, &name)).unwrap();
    let (made, _) = allocations(|| {
        for _ in 0..100 {
            assert_eq!(*now(ctx.run(double, black_box(21))).unwrap(), 42);
            assert_eq!(*now(ctx.run(length, name.as_str())).unwrap(), name.len());
            assert_eq!(*now(ctx.run(length, &name)).unwrap(), name.len());
            assert!(ctx.peek(double, &21).is_some());
            assert!(ctx.peek(length, name.as_str()).is_some());
            assert!(ctx.peek(double, &22).is_none());
        }
    });
    assert_eq!(made, 0);
}

#[test]
fn waiting_for_a_hit_allocates_nothing() {
    let _alone = alone();
    let ctx = Ctx::new(App::default());
    ctx.run(double, 21).wait().unwrap();
    let (made, value) = allocations(|| ctx.run(double, 21).wait());
    assert_eq!((*value.unwrap(), made), (42, 0));
}

#[test]
fn a_hit_in_a_crowded_context_allocates_nothing() {
    let _alone = alone();
    let ctx = Ctx::new(App::default());
    for n in 0..10_000 {
        now(ctx.run(double, n)).unwrap();
    }
    let (made, _) = allocations(|| {
        for n in 0..10_000 {
            assert_eq!(*now(ctx.run(double, n)).unwrap(), n * 2);
        }
    });
    assert_eq!(made, 0);
}

#[test]
fn a_kept_failure_is_given_without_an_allocation() {
    let _alone = alone();
    let ctx = Ctx::new(App::default());
    now(ctx.run(length, "")).unwrap_err();
    let (made, _) = allocations(|| {
        for _ in 0..100 {
            assert!(now(ctx.run(length, "")).is_err());
        }
    });
    assert_eq!(made, 0);
}

/// Runs `double` until the context's own room is used up.
fn fill_the_room(ctx: &Ctx<App>) {
    for n in 1_000..1_020 {
        now(ctx.run(double, n)).unwrap();
    }
}

#[test]
fn the_first_runs_allocate_nothing_and_later_ones_their_slot() {
    let _alone = alone();
    let ctx = Ctx::new(App::default());
    let made: Vec<usize> = (0..100)
        .map(|n| {
            let (made, value) = allocations(|| now(ctx.run(double, n)));
            assert_eq!(*value.unwrap(), n * 2);
            made
        })
        .collect();
    let in_the_room = made.iter().take_while(|made| **made == 0).count();
    assert!((3..20).contains(&in_the_room), "{made:?}");
    assert!(
        made[in_the_room..].iter().all(|made| *made == 1),
        "{made:?}"
    );
}

#[test]
fn a_run_on_another_thread_than_the_contexts_allocates_its_slot() {
    let _alone = alone();
    let ctx = Ctx::new(App::default());
    let made = std::thread::scope(|threads| {
        let other = threads.spawn(|| {
            now(ctx.run(double, 1)).unwrap();
            allocations(|| now(ctx.run(double, 2)).copied().unwrap())
        });
        other.join().unwrap()
    });
    assert_eq!(made, (1, 4));
    let (made, value) = allocations(|| now(ctx.run(double, 3)));
    assert_eq!((made, *value.unwrap()), (0, 6));
}

#[test]
fn a_large_body_is_an_allocation_of_its_own_and_is_given_back() {
    /// Larger than what lies in a slot.
    async fn large(_: Ctx<App>, n: u64) -> Result<u64, String> {
        let bytes = [n; 100];
        std::future::ready(()).await;
        Ok(bytes[(n % 100) as usize])
    }
    let _alone = alone();
    let ctx = Ctx::new(App::default());
    fill_the_room(&ctx);
    now(ctx.run(large, 1)).unwrap();
    for n in 2..100 {
        let (made, value) = allocations(|| now(ctx.run(large, n)));
        assert_eq!(*value.unwrap(), n);
        assert_eq!(made, 2);
    }
}

#[test]
fn a_miss_with_a_borrowed_key_adds_two_copies_of_it() {
    let _alone = alone();
    let ctx = Ctx::new(App::default());
    now(ctx.run(length, "warm")).unwrap();
    let (made, value) = allocations(|| now(ctx.run(length, "a new key")));
    assert_eq!(*value.unwrap(), 9);
    assert!(made <= 4, "{made} allocations");
}

#[test]
fn a_nested_run_adds_its_own_two() {
    async fn outer(ctx: Ctx<App>, n: u64) -> Result<u64, TaskError> {
        Ok(*ctx.run(double, n).await? + *ctx.run(double, n).await?)
    }
    let _alone = alone();
    let ctx = Ctx::new(App::default());
    now(ctx.run(outer, 1)).unwrap();
    let (made, value) = allocations(|| now(ctx.run(outer, 2)));
    assert_eq!(*value.unwrap(), 8);
    assert!(made <= 4, "{made} allocations");
}

#[test]
fn the_first_pending_adds_at_most_two_and_later_ones_nothing() {
    let _alone = alone();
    let ctx = Ctx::new(App::default());
    let (_, waker) = CountingWaker::pair();
    // This thread wakes for the first time: its queue of wakes is made once.
    let mut warm = ctx.run(parks, 1);
    assert!(poll_with(&mut warm, &waker).is_pending());
    let body = ctx.state().waker.lock().unwrap().take().unwrap();
    body.wake();
    drop(warm);
    let (made, (mut call, polled)) = allocations(|| {
        let mut call = ctx.run(parks, 2);
        let polled = poll_with(&mut call, &waker);
        (call, polled)
    });
    assert!(polled.is_pending());
    assert!(made <= 4, "{made} allocations");
    let (made, ()) = allocations(|| {
        for _ in 0..2 {
            let body = ctx.state().waker.lock().unwrap().take().unwrap();
            body.wake();
            assert!(poll_with(&mut call, &waker).is_pending());
        }
    });
    assert_eq!(made, 0);
    let body = ctx.state().waker.lock().unwrap().take().unwrap();
    body.wake();
    let (made, polled) = allocations(|| poll_with(&mut call, &waker));
    assert!(polled.is_ready());
    assert_eq!(made, 0);
}

#[test]
fn a_call_is_small_whatever_the_task() {
    async fn large_input(_: Ctx<App>, bytes: [u8; 1024]) -> Result<u8, TaskError> {
        Ok(bytes[0])
    }
    async fn large_body(ctx: Ctx<App>, n: u64) -> Result<[u8; 4096], TaskError> {
        let bytes = [n as u8; 4096];
        ctx.state().gate.passed().await;
        Ok(black_box(bytes))
    }
    let _alone = alone();
    let ctx = Ctx::new(App::default());
    let sizes = [
        size_of_val(&ctx.run(double, 1)),
        size_of_val(&ctx.run(length, "a")),
        size_of_val(&ctx.run(length, "a".to_owned())),
        size_of_val(&ctx.run(parks, 1)),
        size_of_val(&ctx.run(large_input, [0; 1024])),
        size_of_val(&ctx.run(large_body, 1)),
    ];
    assert!(sizes.iter().all(|bytes| *bytes <= 64), "{sizes:?}");
    assert!(sizes.iter().all(|bytes| *bytes == sizes[0]), "{sizes:?}");
    assert_eq!(now(ctx.run(large_input, [7; 1024])).copied().unwrap(), 7);
    let mut call = ctx.run(large_body, 1);
    assert!(poll_once(&mut call).is_pending());
}

/// R59: nothing is kept of a context that is gone, however its calls ended.
#[test]
fn ten_thousand_contexts_half_failing_half_cancelled_leave_nothing() {
    async fn page(ctx: Ctx<App>, s: String) -> Result<usize, TaskError> {
        let first = *ctx.run(double, 1).await?;
        let (length, parked) = futures::join!(ctx.run(length, &s), ctx.run(parks, first));
        Ok(length? + *parked? as usize)
    }
    fn request(n: usize) {
        let ctx = Ctx::new(App::default());
        if n.is_multiple_of(2) {
            // `join!` waits for the parked one too, so wake it through.
            let mut call = ctx.run(page, "");
            while poll_once(&mut call).is_pending() {
                let body = ctx.state().waker.lock().unwrap().take().unwrap();
                body.wake();
            }
            let kept = ctx.peek(page, "").unwrap().unwrap_err();
            assert_eq!(kept.kind(), TaskErrorKind::Failed);
        } else {
            let mut call = ctx.run(page, "name");
            let (wakes, waker) = CountingWaker::pair();
            assert!(poll_with(&mut call, &waker).is_pending());
            let mut waiter = ctx.run(page, "name");
            assert!(poll_with(&mut waiter, &waker).is_pending());
            ctx.cancel();
            assert!(wakes.wakes() > 0);
            match poll_once(&mut call) {
                Poll::Ready(Err(e)) => assert_eq!(e.kind(), TaskErrorKind::Cancelled),
                _ => panic!("not cancelled"),
            }
        }
    }
    let _alone = alone();
    (0..500).for_each(request);
    let before = heap::live_bytes();
    (0..10_000).for_each(request);
    let grown = heap::live_bytes() - before;
    // A word a context would be 80,000; the harness itself may allocate meanwhile.
    assert!(grown.abs() < 16 * 1024, "{grown} bytes more");
}

/// The state that a body's waker keeps alive after its context is the waker alone.
#[test]
fn a_waker_that_outlives_its_context_keeps_no_context() {
    let _alone = alone();
    let escaped = {
        let ctx = Ctx::new(App::default());
        let mut call = ctx.run(parks, 1);
        assert!(poll_once(&mut call).is_pending());
        ctx.state().waker.lock().unwrap().take().unwrap()
    };
    escaped.wake_by_ref();
    let mut held = Vec::with_capacity(1_000);
    let before = heap::live_bytes();
    for _ in 0..1_000 {
        let ctx = Ctx::new(App::default());
        ctx.prime(length, "x", 1).unwrap();
        now(ctx.run(double, 1)).unwrap();
        let mut call = ctx.run(parks, 1);
        assert!(poll_once(&mut call).is_pending());
        held.push(ctx.state().waker.lock().unwrap().take().unwrap());
    }
    let each = (heap::live_bytes() - before) / 1_000;
    assert!(each <= 256, "{each} bytes for each waker");
    held.into_iter().for_each(Waker::wake);
}
