//! What the end of an old run may not do.

use super::support::{both_runtimes, poll_once, until};
use super::{SECOND, tier};
use std::sync::Mutex;
use tokio::sync::oneshot;
use watershed::{Ctx, Shared};

/// Each run waits for a value that the test sends.
#[derive(Default)]
struct Sent(Mutex<Vec<oneshot::Sender<Result<u64, String>>>>);

async fn sent(ctx: Ctx<Sent>, _: ()) -> Result<u64, String> {
    let (sender, receiver) = oneshot::channel();
    ctx.state().0.lock().unwrap().push(sender);
    receiver.await.unwrap()
}

fn runs(shared: &Shared<Sent>) -> usize {
    shared.state().0.lock().unwrap().len()
}

fn end(shared: &Shared<Sent>, run: usize, with: Result<u64, String>) {
    let sender = {
        let (spare, _) = oneshot::channel();
        std::mem::replace(&mut shared.state().0.lock().unwrap()[run], spare)
    };
    sender.send(with).unwrap();
}

#[test]
fn a_forgotten_run_ends_for_its_own_callers_and_overwrites_nothing() {
    both_runtimes(|| async {
        let shared = Shared::new(Sent::default());
        let mut old = shared.run(sent, ());
        assert!(poll_once(&mut old).is_pending());
        until(|| runs(&shared) == 1).await;
        assert!(shared.forget(sent, &()));
        assert!(shared.prime(sent, (), 7).is_ok());
        end(&shared, 0, Ok(1));
        assert_eq!(*old.await.unwrap(), 1);
        assert_eq!(*shared.run(sent, ()).await.unwrap(), 7);
    });
}

#[test]
fn a_forgotten_run_that_fails_removes_nothing() {
    both_runtimes(|| async {
        let shared = Shared::new(Sent::default());
        let mut old = shared.run(sent, ());
        assert!(poll_once(&mut old).is_pending());
        until(|| runs(&shared) == 1).await;
        assert!(shared.forget(sent, &()));
        assert!(!shared.forget(sent, &()));
        let mut new = shared.run(sent, ());
        assert!(poll_once(&mut new).is_pending());
        until(|| runs(&shared) == 2).await;
        end(&shared, 0, Err("old".to_owned()));
        assert!(old.await.is_err());
        // The newer run is still the one that callers join.
        let mut third = shared.run(sent, ());
        assert!(poll_once(&mut third).is_pending());
        end(&shared, 1, Ok(2));
        assert_eq!(*new.await.unwrap(), 2);
        assert_eq!(*third.await.unwrap(), 2);
        assert_eq!(shared.stats().started, 2);
    });
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_was_forgotten_is_not_put_in() {
    let shared = Shared::builder(Sent::default())
        .jitter(0.0)
        .refresh_after(SECOND)
        .build();
    shared.prime(sent, (), 1).unwrap();
    tokio::time::advance(SECOND).await;
    assert_eq!(*shared.run(sent, ()).await.unwrap(), 1);
    until(|| runs(&shared) == 1).await;
    assert!(shared.forget(sent, &()));
    end(&shared, 0, Ok(2));
    until(|| shared.stats().running == 0).await;
    assert!(shared.peek(sent, &()).is_none());
    assert!(shared.is_empty());
}

#[test]
fn a_value_that_is_held_stays_as_it_was() {
    both_runtimes(|| async {
        let shared = tier().build();
        let old = shared.run(super::stamp, 1).await.unwrap();
        shared.forget(super::stamp, &1);
        let new = shared.run(super::stamp, 1).await.unwrap();
        assert_eq!((*old, *new), (1, 2));
    });
}
