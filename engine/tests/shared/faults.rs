//! User code that panics, and destructors that call back.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use super::support::{Count, both_runtimes, now, until};
use super::{World, tier};
use watershed::{Ctx, Shared, TaskErrorKind};

#[test]
fn a_panic_is_an_error_for_everybody_and_the_next_call_runs_again() {
    async fn panics(ctx: Ctx<World>, _: ()) -> Result<usize, String> {
        let start = ctx.state().starts.add();
        ctx.state().gate.passed().await;
        assert!(start > 1, "the first one");
        Ok(start)
    }
    both_runtimes(|| async {
        let shared = tier().build();
        let calls: Vec<_> = (0..4)
            .map(|_| {
                let shared = shared.clone();
                tokio::spawn(async move { shared.run(panics, ()).await })
            })
            .collect();
        until(|| shared.stats().waits == 3).await;
        shared.state().gate.open();
        for call in calls {
            let error = call.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), TaskErrorKind::Panicked);
            assert!(error.to_string().contains("the first one"));
        }
        assert_eq!(*shared.run(panics, ()).await.unwrap(), 2);
    });
}

/// Panics where it is told to.
#[derive(Debug)]
struct Touchy(Arc<Touch>, u64);

#[derive(Default, Debug)]
struct Touch {
    hash: OnceLock<()>,
    eq: OnceLock<()>,
    clone: OnceLock<()>,
    drop: OnceLock<()>,
}

impl Hash for Touchy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        assert!(self.0.hash.get().is_none(), "hash");
        self.1.hash(state);
    }
}
impl PartialEq for Touchy {
    fn eq(&self, other: &Self) -> bool {
        assert!(self.0.eq.get().is_none(), "eq");
        self.1 == other.1
    }
}
impl Eq for Touchy {}
impl Clone for Touchy {
    fn clone(&self) -> Self {
        assert!(self.0.clone.get().is_none(), "clone");
        Self(self.0.clone(), self.1)
    }
}
impl Drop for Touchy {
    fn drop(&mut self) {
        if self.0.drop.get().is_some() && !std::thread::panicking() {
            panic!("drop");
        }
    }
}

async fn touch(_: Ctx<()>, input: Touchy) -> Result<u64, String> {
    Ok(input.1)
}

#[test]
fn an_input_that_panics_changes_nothing() {
    both_runtimes(|| async {
        let shared = Shared::new(());
        let calm = Arc::new(Touch::default());
        assert_eq!(
            *shared.run(touch, Touchy(calm.clone(), 1)).await.unwrap(),
            1
        );
        for hash in [true, false] {
            let touchy = Arc::new(Touch::default());
            let part = if hash { &touchy.hash } else { &touchy.eq };
            part.set(()).unwrap();
            let call = || {
                let call = shared.run(touch, Touchy(touchy.clone(), 1));
                now(call).map(|value| *value)
            };
            // Whose `eq` is asked is not said, so it may be the calm one's.
            if let Ok(value) = catch_unwind(AssertUnwindSafe(call)) {
                assert_eq!(value.unwrap(), 1);
            }
        }
        let touchy = Arc::new(Touch::default());
        touchy.clone.set(()).unwrap();
        let mut call = Box::pin(shared.run(touch, Touchy(touchy.clone(), 2)));
        let polled = catch_unwind(AssertUnwindSafe(|| super::support::poll_once(&mut call)));
        assert!(polled.is_err());
        drop(call);
        assert_eq!(
            *shared.run(touch, Touchy(calm.clone(), 1)).await.unwrap(),
            1
        );
        assert_eq!(
            *shared.run(touch, Touchy(calm.clone(), 2)).await.unwrap(),
            2
        );
        assert_eq!((shared.len(), shared.stats().running), (2, 0));
    });
}

#[test]
fn an_input_that_panics_when_it_is_dropped_is_contained() {
    both_runtimes(|| async {
        let shared = Shared::builder(()).max_entries(5).build();
        let touchy = Arc::new(Touch::default());
        touchy.drop.set(()).unwrap();
        for n in 0..100 {
            // The task's own copy panics in the body.
            let error = shared
                .run(touch, Touchy(touchy.clone(), n))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), TaskErrorKind::Panicked);
            let value = shared.prime(touch, Touchy(touchy.clone(), n), n);
            assert!(value.is_ok());
        }
        assert_eq!(shared.len(), 5);
    });
}

/// A value whose destructor calls the tier.
struct CallsBack(Arc<OnceLock<Shared<Back>>>, Count, u64);

struct Back(Arc<OnceLock<Shared<Back>>>, Count);

impl Drop for CallsBack {
    fn drop(&mut self) {
        self.1.add();
        if let Some(shared) = self.0.get() {
            // The same key, another one, and all of them.
            shared.forget(calls_back, &self.2);
            let _ = shared.peek(calls_back, &(self.2 + 1));
            let _ = shared.prime(plain, self.2, 7);
            shared.forget(plain, &self.2);
            let _ = shared.len();
        }
    }
}

async fn calls_back(ctx: Ctx<Back>, n: u64) -> Result<CallsBack, String> {
    Ok(CallsBack(ctx.state().0.clone(), ctx.state().1.clone(), n))
}

async fn plain(_: Ctx<Back>, n: u64) -> Result<u64, String> {
    Ok(n)
}

#[test]
fn a_destructor_may_call_the_tier() {
    both_runtimes(|| async {
        let drops = Count::default();
        // The loop is the test's own, and opened at its end.
        let cell = Arc::new(OnceLock::new());
        let shared = Shared::builder(Back(cell.clone(), drops.clone()))
            .max_entries(8)
            .build();
        let _ = cell.set(shared.clone());
        for n in 0..2_000 {
            shared.run(calls_back, n).await.unwrap();
            if n % 3 == 0 {
                shared.forget(calls_back, &n);
            }
        }
        assert!(drops.get() > 1_000, "{} were dropped", drops.get());
        assert!(shared.len() <= 8);
    });
}
