//! What the second tier costs in allocations and bytes; counted, not timed.
#![cfg(all(not(loom), feature = "shared"))]

mod support;

use std::hint::black_box;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use support::{current_thread, now};
use watershed::{Ctx, Shared};

support::counting_allocator!();

/// Live bytes are those of the whole process, so one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn length(_: Ctx<()>, text: String) -> Result<usize, String> {
    Ok(text.len())
}

async fn kilobyte(_: Ctx<()>, n: u64) -> Result<Vec<u8>, String> {
    Ok(vec![n as u8; 1024])
}

/// How many allocations `work` makes on this thread.
fn allocations(work: impl FnOnce()) -> usize {
    let before = heap::allocations();
    work();
    heap::allocations() - before
}

#[test]
fn a_hit_allocates_nothing_with_and_without_a_time_to_live() {
    let _alone = alone();
    let text = "a name longer than any small-string optimisation".to_owned();
    for ttl in [Duration::ZERO, Duration::from_secs(3600)] {
        let shared = Shared::builder(()).ttl(ttl).refresh_after(ttl / 2).build();
        shared.prime(length, &text, 7).unwrap();
        now(shared.run(length, &text)).unwrap();
        let made = allocations(|| {
            for _ in 0..1_000 {
                assert_eq!(
                    *now(shared.run(length, black_box(text.as_str()))).unwrap(),
                    7
                );
                let held = shared.peek(length, text.as_str()).unwrap().unwrap();
                assert_eq!(*held.clone(), 7);
            }
        });
        // The thread's part in the epochs, once.
        assert!(made <= 1, "{made} allocations");
    }
}

#[test]
fn the_second_call_in_a_request_allocates_nothing() {
    struct Request(Shared<()>);
    impl AsRef<Shared<()>> for Request {
        fn as_ref(&self) -> &Shared<()> {
            &self.0
        }
    }
    let _alone = alone();
    let shared = Shared::new(());
    shared.prime(length, "river", 5).unwrap();
    let ctx = Ctx::new(Request(shared));
    assert_eq!(*now(ctx.run_shared(length, "river")).unwrap(), 5);
    let made = allocations(|| {
        for _ in 0..1_000 {
            assert_eq!(*now(ctx.run_shared(length, "river")).unwrap(), 5);
        }
    });
    assert_eq!(made, 0);
}

/// R57: the longest borrow that there is, a `Held`, while 100,000 values of a kilobyte come and go.
#[test]
fn garbage_is_bounded_while_a_value_is_held() {
    let _alone = alone();
    current_thread().block_on(async {
        let shared = Shared::builder(()).max_entries(10).build();
        let held = shared.run(kilobyte, 0).await.unwrap();
        let in_a_request = Ctx::new(shared.clone());
        let borrowed = in_a_request.run_shared(kilobyte, 0).await.unwrap();
        let mut most = 0;
        let mut start = 0;
        for n in 0..100_000 {
            shared.run(kilobyte, n % 1_000).await.unwrap();
            shared.forget(kilobyte, &(n % 1_000));
            if n == 1_000 {
                start = heap::live_bytes();
            }
            most = most.max(heap::live_bytes());
        }
        assert_eq!((held[5], borrowed[5]), (0, 0));
        assert!(most < start + 300_000, "{start} bytes, then {most}");
    });
}

#[test]
fn memory_falls_after_a_burst() {
    let _alone = alone();
    current_thread().block_on(async {
        let shared = Shared::builder(()).max_entries(100).build();
        for n in 0..1_000 {
            shared.run(kilobyte, n).await.unwrap();
        }
        let before = heap::live_bytes();
        // A burst: 2,000 values that are held, all at once, beside those that are kept.
        let burst = (0..2_000).map(|n| shared.run(kilobyte, 1_000_000 + n));
        let burst = futures::future::try_join_all(burst).await.unwrap();
        assert!(heap::live_bytes() > before + 2_000_000);
        drop(burst);
        for n in 0..1_000 {
            shared.run(kilobyte, n).await.unwrap();
        }
        let after = heap::live_bytes();
        assert!(after < before + 300_000, "{before} bytes, then {after}");
        assert_eq!(shared.len(), 100);
    });
}

#[test]
fn a_tier_that_is_gone_leaves_nothing() {
    let _alone = alone();
    let round = || {
        current_thread().block_on(async {
            let shared = Shared::builder(()).max_entries(50).build();
            for n in 0..500 {
                shared.run(kilobyte, n).await.unwrap();
                shared.run(length, n.to_string()).await.unwrap();
            }
        });
    };
    round();
    round();
    let before = heap::live_bytes();
    for _ in 0..20 {
        round();
    }
    let after = heap::live_bytes();
    assert!(after < before + 100_000, "{before} bytes, then {after}");
}
