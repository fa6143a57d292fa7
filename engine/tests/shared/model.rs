//! Random operations on a tier against a plain model, on a clock that the operations advance. The fuzz target `shared` plays them too.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;
use watershed::{Ctx, Held, Shared, SharedRun, TaskError};

/// The runs that have begun, in their order, each with the sender of its outcome.
#[derive(Default)]
struct World(Mutex<Vec<Option<oneshot::Sender<bool>>>>);

/// Gives its number, or fails with it, when it is told to.
async fn told(ctx: Ctx<World>, _: u8) -> Result<usize, String> {
    let (sender, receiver) = oneshot::channel();
    let number = {
        let mut runs = ctx.state().0.lock().unwrap();
        runs.push(Some(sender));
        runs.len() - 1
    };
    match receiver.await {
        Ok(true) => Ok(number),
        Ok(false) => Err(number.to_string()),
        Err(_) => Err("nobody told".to_owned()),
    }
}

/// What is kept of a key: `Ok` is a value, `Err` a failure.
#[derive(Clone, Copy)]
struct Kept {
    outcome: Result<usize, usize>,
    /// `None`: never.
    expires: Option<Duration>,
    refresh_at: Option<Duration>,
}

#[derive(Default, Clone, Copy)]
struct Entry {
    kept: Option<Kept>,
    run: Option<usize>,
}

/// What a call comes to.
#[derive(Debug, PartialEq, Clone, Copy)]
enum Call {
    Ready(Result<usize, usize>),
    Waits(usize),
}

#[derive(Clone, Copy)]
struct Settings {
    ttl: Option<Duration>,
    refresh_after: Option<Duration>,
    failure_ttl: Duration,
}

struct Model {
    settings: Settings,
    now: Duration,
    entries: BTreeMap<u8, Entry>,
    /// Begun so far, each with its key, and its outcome if it has ended.
    runs: Vec<(u8, Option<Result<usize, usize>>)>,
    /// Those that were started while there was a value.
    refreshes: BTreeSet<usize>,
    refreshed: u64,
}

impl Model {
    fn kept(&self, key: u8) -> Option<Kept> {
        let kept = self.entries.get(&key)?.kept?;
        kept.expires.is_none_or(|at| self.now < at).then_some(kept)
    }

    fn start(&mut self, key: u8) -> usize {
        self.runs.push((key, None));
        let number = self.runs.len() - 1;
        self.entries.entry(key).or_default().run = Some(number);
        number
    }

    fn call(&mut self, key: u8) -> Call {
        if let Some(kept) = self.kept(key) {
            if kept.refresh_at.is_some_and(|at| at <= self.now) {
                self.entries.get_mut(&key).unwrap().kept = Some(Kept {
                    refresh_at: None,
                    ..kept
                });
                if self.entries[&key].run.is_none() {
                    let run = self.start(key);
                    self.refreshes.insert(run);
                }
            }
            return Call::Ready(kept.outcome);
        }
        match self.entries.get(&key).and_then(|entry| entry.run) {
            Some(run) => Call::Waits(run),
            None => Call::Waits(self.start(key)),
        }
    }

    fn value(&self, number: usize) -> Kept {
        let Settings {
            ttl, refresh_after, ..
        } = self.settings;
        let expires = ttl.map(|ttl| self.now + ttl);
        let refresh_at = refresh_after.map(|age| self.now + age);
        Kept {
            outcome: Ok(number),
            expires,
            refresh_at: refresh_at.filter(|at| expires.is_none_or(|expires| *at < expires)),
        }
    }

    fn end(&mut self, run: usize, well: bool) {
        let key = self.runs[run].0;
        self.runs[run].1 = Some(if well { Ok(run) } else { Err(run) });
        let old = self.kept(key);
        let new = self.value(run);
        let (now, failure_ttl) = (self.now, self.settings.failure_ttl);
        let entry = self.entries.entry(key).or_default();
        if entry.run != Some(run) {
            return;
        }
        entry.run = None;
        if well && self.refreshes.contains(&run) {
            self.refreshed += 1;
        }
        entry.kept = match old {
            _ if well => Some(new),
            // The next try comes when a failure would be forgotten, if the value is there until then.
            Some(old) => Some(Kept {
                refresh_at: Some(now + failure_ttl)
                    .filter(|at| old.expires.is_none_or(|expires| *at < expires)),
                ..old
            }),
            None if failure_ttl.is_zero() => None,
            None => Some(Kept {
                outcome: Err(run),
                expires: Some(now + failure_ttl),
                refresh_at: None,
            }),
        };
    }

    fn forget(&mut self, key: u8) -> bool {
        let there = self.kept(key).is_some();
        let entry = self.entries.remove(&key).unwrap_or_default();
        there || entry.run.is_some()
    }

    fn prime(&mut self, key: u8, number: usize) -> bool {
        let entry = self.entries.get(&key).copied().unwrap_or_default();
        if self.kept(key).is_some() || entry.run.is_some() {
            return false;
        }
        let new = self.value(number);
        self.entries.entry(key).or_default().kept = Some(new);
        true
    }
}

type Waiting<'s> = (usize, Pin<Box<SharedRun<'s, World, usize>>>);

fn outcome(result: Result<Held<usize>, TaskError>) -> Result<usize, usize> {
    result.map(|value| *value).map_err(|error| {
        let message = error.to_string();
        let number = message.rsplit(' ').next().and_then(|n| n.parse().ok());
        number.unwrap_or_else(|| panic!("an error of no run: {message}"))
    })
}

fn poll(call: &mut Pin<Box<SharedRun<'_, World, usize>>>) -> Option<Result<usize, usize>> {
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(outcome(result)),
        Poll::Pending => None,
    }
}

/// Plays what the bytes say: the first two are the settings, then two for each operation.
///
/// # Panics
/// When tier and model differ.
pub(crate) fn play(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(play_here(bytes));
}

async fn play_here(bytes: &[u8]) {
    let [first, second, operations @ ..] = bytes else {
        return;
    };
    let seconds = |n: u8| Duration::from_secs(u64::from(n));
    let some = |d: Duration| Some(d).filter(|d| !d.is_zero());
    let settings = Settings {
        ttl: some(seconds(first % 8)),
        refresh_after: some(seconds(first / 8 % 8)),
        failure_ttl: seconds(second % 4),
    };
    // With a bound values may be missing, but what is there is right.
    let bound = Some(usize::from(second / 4 % 8)).filter(|bound| (1..4).contains(bound));
    let builder = Shared::builder(World::default())
        .jitter(0.0)
        .ttl(settings.ttl.unwrap_or_default())
        .refresh_after(settings.refresh_after.unwrap_or_default())
        .failure_ttl(settings.failure_ttl)
        .max_entries(bound.unwrap_or(usize::MAX));
    let shared = builder.build();
    let mut model = Model {
        settings,
        now: Duration::ZERO,
        entries: BTreeMap::new(),
        runs: Vec::new(),
        refreshes: BTreeSet::new(),
        refreshed: 0,
    };
    let mut waiting: Vec<Waiting<'_>> = Vec::new();
    let mut primed = 1 << 32;
    for operation in operations.chunks_exact(2) {
        let key = operation[1] % 5;
        if bound.is_some() {
            // What was evicted, which the model does not know of.
            for (key, entry) in &mut model.entries {
                if shared.peek(told, key).is_none() {
                    entry.kept = None;
                }
            }
        }
        match operation[0] % 16 {
            0..=4 => {
                let mut call = Box::pin(shared.run(told, key));
                let expected = model.call(key);
                match (poll(&mut call), expected) {
                    (Some(got), Call::Ready(expected)) => assert_eq!(got, expected),
                    (None, Call::Waits(run)) => waiting.push((run, call)),
                    (got, expected) => panic!("a call of {key} came to {got:?}, not {expected:?}"),
                }
                begin(&shared, &model).await;
            }
            5 if !waiting.is_empty() => {
                drop(waiting.swap_remove(usize::from(operation[1]) % waiting.len()));
            }
            6..=9 => {
                let open: Vec<usize> = (0..model.runs.len())
                    .filter(|run| model.runs[*run].1.is_none())
                    .collect();
                if !open.is_empty() {
                    let run = open[usize::from(operation[1] / 5) % open.len()];
                    let well = operation[0] % 16 != 9;
                    let sender = shared.state().0.lock().unwrap()[run].take();
                    sender.unwrap().send(well).unwrap();
                    model.end(run, well);
                    let running = model.runs.iter().filter(|run| run.1.is_none()).count();
                    settle(|| shared.stats().running == running).await;
                }
            }
            10 | 11 => {
                let by = Duration::from_millis(250 * u64::from(operation[1] % 16));
                tokio::time::advance(by).await;
                model.now += by;
            }
            12 => {
                let forgotten = shared.forget(told, &key);
                let expected = model.forget(key);
                assert_eq!(forgotten, expected, "forget of {key}");
            }
            13 => {
                primed += 1;
                let put = shared.prime(told, key, primed).is_ok();
                assert_eq!(put, model.prime(key, primed), "prime of {key}");
            }
            14 if operation[1] > 200 => {
                shared.forget_all(told);
                model.entries.clear();
            }
            _ => {}
        }
        for key in 0..5 {
            let got = shared.peek(told, &key).map(outcome);
            let expected = model.kept(key).map(|kept| kept.outcome);
            assert!(
                got == expected || (bound.is_some() && got.is_none()),
                "{key} has {got:?}, not {expected:?}"
            );
        }
        waiting.retain_mut(|(run, call)| {
            let got = poll(call);
            assert_eq!(got, model.runs[*run].1, "who waits for run {run}");
            got.is_none()
        });
        assert!(bound.is_none_or(|bound| shared.len() <= bound));
        assert_eq!(shared.stats().started as usize, model.runs.len());
    }
    if bound.is_none() {
        assert_eq!(shared.stats().refreshed, model.refreshed);
    }
}

/// Until every run that was started has begun.
async fn begin(shared: &Shared<World>, model: &Model) {
    settle(|| shared.state().0.lock().unwrap().len() == model.runs.len()).await;
}

async fn settle(so: impl Fn() -> bool) {
    for _ in 0..100 {
        if so() {
            return;
        }
        tokio::task::yield_now().await;
    }
    assert!(so(), "nothing moves any more");
}

/// A generator, for bytes that are the same everywhere.
#[cfg(test)]
fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (x >> 32) as u8
    })
    .take(length)
    .collect()
}

#[cfg(test)]
#[test]
fn random_operations_agree_with_a_plain_model() {
    for seed in 0..600 {
        play(&random_bytes(seed * 0x1_0001, 2 + 2 * 120));
    }
}
