//! Random graphs of tasks under random schedules, against a plain model.
//!
//! [`play`] takes a byte string: first the tasks and what each does (`plan`), then what happens to them, in which order. One
//! thread, its own executor, its own wakers, events that the schedule fires: the same bytes are the same run. It serves a
//! property test (`tests/schedules.rs`), two fuzz targets (`fuzz/fuzz_targets/{schedule,cycle}.rs`) and a soak (`src/bin/soak.rs`).
//!
//! # What is checked
//! * **Every result**, of calls at the root and of calls in bodies, against the model: which run's value, which failure, through which path,
//!   whether `Cancelled`, whether `Cycle` and if so along which edges; `peek`, `forget` and `prime` too.
//! * **Against the graph alone**: as long as nothing happened that results may depend on (a prime, the end of the context), every outcome
//!   is what a recursive function over the plans says.
//! * **Who runs**: a body starts only when a call asked for it, is polled by one at a time, is polled whenever it was woken and a caller
//!   is polled, and is dropped before the last caller's drop returns.
//! * **Who is woken**: after each step every caller that has something to do has been woken, with the waker that it was polled with last.
//! * **What is kept**: no waker of a call that is over, no value that the model has not.
//! * **The end**: when nothing is woken and no event is left to fire, no waiter is unfinished (but for those that the schedule never polls
//!   again, and these stall nobody). After the context is gone, no input, value, failure or body is left.

mod model;
mod plan;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use model::Stats;
pub use plan::Mode;

use model::RunId;
use plan::{Bytes, CHAIN, EVENTS, End, OnDrop, Program, Step};
use world::{CAUGHT, Kind, World, mix};

/// How many steps a schedule has before it is brought to its end.
const MOST_STEPS: usize = 400;
/// How many steps the end may take.
const MOST_LAST_STEPS: usize = 200_000;

/// Plays a schedule; an error says what was not as the model has it.
///
/// With `SCHEDULE_TRACE` in the environment, what happens is printed.
///
/// # Errors
/// The faults.
pub fn play(bytes: &[u8], mode: Mode) -> Result<Stats, String> {
    play_with(bytes, mode, usize::MAX)
}

/// As [`play`], for the address sanitizer: tasks do not panic where many polls are nested.
///
/// That deep the engine polls on stacks of its own, which the sanitizer does not know, so that it cannot clean up after
/// a panic there and reports uses of what other frames have left behind (google/sanitizers, issue 189).
///
/// # Errors
/// As [`play`].
pub fn play_without_deep_panics(bytes: &[u8], mode: Mode) -> Result<Stats, String> {
    play_with(bytes, mode, 8)
}

fn play_with(bytes: &[u8], mode: Mode, most_nested: usize) -> Result<Stats, String> {
    let trace = std::env::var_os("SCHEDULE_TRACE").is_some();
    let mut bytes = Bytes::new(bytes);
    let program = Program::decode(&mut bytes, mode);
    if trace {
        eprintln!("{program:#?}");
    }
    let world = World::new(program, most_nested, trace);
    let played = catch_unwind(AssertUnwindSafe(|| {
        Play {
            world: &world,
            bytes,
        }
        .play();
    }));
    let mut faults = std::mem::take(&mut world.model().faults);
    if let Err(payload) = played {
        let what = payload.downcast_ref::<String>().cloned().or_else(|| {
            payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
        });
        faults.push(format!("a panic at the root: {what:?}"));
    }
    if faults.is_empty() {
        let stats = world.model().stats;
        Ok(stats)
    } else {
        Err(faults.join("\n"))
    }
}

/// The bytes of a seed.
pub fn bytes_of(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(state)
    };
    let length = 24 + next() % 700;
    (0..length).map(|_| (next() >> 24) as u8).collect()
}

/// Plays schedules of seeds until `more` says no; the first fault ends it, with its seed.
///
/// # Errors
/// The fault, and how to see it again.
pub fn play_seeds(
    mode: Mode,
    seeds: impl IntoIterator<Item = u64>,
    mut more: impl FnMut() -> bool,
) -> Result<(Stats, usize), String> {
    let mut stats = Stats::default();
    let mut played = 0;
    for seed in seeds {
        if !more() {
            break;
        }
        stats += play(&bytes_of(seed), mode).map_err(|fault| {
            format!("seed {seed} ({mode:?}; again with SCHEDULE_SEED={seed}):\n{fault}")
        })?;
        played += 1;
    }
    Ok((stats, played))
}

/// One schedule.
struct Play<'a> {
    world: &'a World,
    bytes: Bytes<'a>,
}

/// A fault was found: what comes after it says nothing.
struct Faulty;

impl Play<'_> {
    fn play(mut self) {
        let done = self.steps().and_then(|()| self.end());
        let world = self.world;
        if done.is_err() {
            // Lets go of everything, or the context would keep itself.
            for at in 0..world.places() {
                world.drop_root(at);
            }
            world.drop_main();
            world.clear_stash();
            world.clear_helds();
            world.clear_wakers();
        }
    }

    fn steps(&mut self) -> Result<(), Faulty> {
        for _ in 0..MOST_STEPS {
            if self.bytes.is_empty() {
                break;
            }
            self.step();
            self.settle()?;
        }
        Ok(())
    }

    fn any_key(&mut self) -> u16 {
        let chain = self.world.0.program.chain();
        if chain > 0 && self.bytes.one_in(4) {
            return CHAIN + if self.bytes.one_in(2) { chain / 3 } else { 0 };
        }
        self.bytes.below(usize::from(self.world.0.program.keys)) as u16
    }

    fn step(&mut self) {
        let world = self.world;
        match self.bytes.below(32) {
            0..=7 => {
                let key = self.any_key();
                let how = self.bytes.next();
                let kind = match how % 16 {
                    0..=9 => Kind::Run,
                    10..=12 => Kind::Held,
                    13 | 14 => Kind::Fresh,
                    _ => Kind::End,
                };
                let before = world.woken_roots();
                world.new_root(key, kind, how & 0x30 == 0x30);
                if how & 0x40 == 0 {
                    for at in world.woken_roots() {
                        if !before.contains(&at) {
                            world.poll_root(at, false);
                        }
                    }
                }
            }
            8..=12 => {
                let woken = world.woken_roots();
                if !woken.is_empty() {
                    world.poll_root(woken[self.bytes.below(woken.len())], self.bytes.one_in(3));
                }
            }
            13..=15 => world.poll_root(self.bytes.below(world.places()), self.bytes.one_in(3)),
            16 | 17 => world.drop_root(self.bytes.below(world.places())),
            18 => world.freeze_root(self.bytes.below(world.places())),
            19..=21 => {
                world.fire(self.bytes.below(EVENTS));
                if self.bytes.one_in(2) {
                    self.deliver_one();
                }
            }
            22..=24 => self.deliver_one(),
            25 | 26 => world.wake_for_nothing(usize::from(self.bytes.next())),
            27 => {
                let key = self.any_key();
                world.with_ctx(|ctx| world.peek(ctx, key));
            }
            28 | 29 => {
                let key = self.any_key();
                world.with_ctx(|ctx| world.forget(ctx, key));
            }
            30 => {
                let key = self.any_key();
                if self.bytes.one_in(2) {
                    world.with_ctx(|ctx| world.prime(ctx, key));
                }
            }
            _ => match self.bytes.below(16) {
                0 => world.with_ctx(|ctx| world.cancel(ctx)),
                1 => world.drop_main(),
                _ => {}
            },
        }
    }

    fn deliver_one(&mut self) {
        let due = self.world.due();
        if due > 0 {
            self.world.deliver(self.bytes.below(due));
        }
    }

    fn settle(&self) -> Result<(), Faulty> {
        let kept = self.world.kept_wakers();
        let mut model = self.world.model();
        model.settle();
        if kept > 0 {
            model.fault(format!("{kept} wakers are kept of calls that are over"));
        }
        let values = Arc::strong_count(&self.world.0.values) - 1;
        let expected = if self.world.anybody_has_a_handle() {
            model.values()
        } else {
            0
        };
        if values != expected {
            model.fault(format!("{values} values are there, expected {expected}"));
        }
        if model.faults.is_empty() {
            Ok(())
        } else {
            Err(Faulty)
        }
    }

    /// Lets everything happen that is left to happen, or breaks off; then takes it all down.
    fn end(&mut self) -> Result<(), Faulty> {
        let world = self.world;
        let how = self.bytes.next();
        match how % 8 {
            6 => {
                // In the middle of it all.
            }
            7 => {
                world.with_ctx(|ctx| world.cancel(ctx));
                self.settle()?;
                self.quiesce()?;
            }
            _ => self.quiesce()?,
        }
        if how & 0x10 != 0 {
            world.clear_helds();
        }
        if how & 0x20 != 0 {
            world.drop_main();
            self.settle()?;
        }
        if how & 0x40 != 0 {
            world.clear_stash();
        }
        for at in 0..world.places() {
            world.drop_root(at);
            self.settle()?;
        }
        self.pure()?;
        world.drop_main();
        world.clear_stash();
        let bodies = world.model().bodies();
        world.clear_helds();
        world.clear_wakers();
        let inner = &world.0;
        let left = [
            ("bodies", bodies),
            ("inputs", Arc::strong_count(&inner.keys) - 1),
            ("values", Arc::strong_count(&inner.values) - 1),
            ("failures", Arc::strong_count(&inner.failures) - 1),
            ("states", Arc::strong_count(inner) - 1),
        ];
        for (what, left) in left {
            if left > 0 {
                world.model().fault(format!("{left} {what} are left"));
            }
        }
        Ok(())
    }

    /// Polls who is woken, tells who is to be told, fires what is awaited, until there is nothing.
    fn quiesce(&mut self) -> Result<(), Faulty> {
        let world = self.world;
        for _ in 0..MOST_LAST_STEPS {
            let woken = world.woken_roots();
            if !woken.is_empty() {
                world.poll_root(woken[self.bytes.below(woken.len())], false);
            } else if world.due() > 0 {
                self.deliver_one();
            } else if let Some(event) = world.awaited() {
                world.fire(event);
            } else {
                let closed = world.model().is_closed();
                let unfinished = world.unfinished_roots() - if closed { 0 } else { world.enders() };
                if unfinished > 0 {
                    world
                        .model()
                        .fault(format!("quiescent, and {unfinished} calls are unfinished"));
                }
                return self.settle();
            }
            self.settle()?;
        }
        world.model().fault("it does not come to an end");
        Err(Faulty)
    }

    /// Every outcome that there is, against what the graph says.
    fn pure(&self) -> Result<(), Faulty> {
        let world = self.world;
        let program = &world.0.program;
        let mut model = world.model();
        if model.perturbed || program.mode == Mode::Cyclic {
            return Ok(());
        }
        let mut known = Pure {
            program,
            known: std::collections::HashMap::new(),
        };
        // Callees of a link come first: a long chain must not recurse.
        for link in (0..program.chain()).rev() {
            known.of(CHAIN + link);
        }
        let mut faults = Vec::new();
        let mut compared = 0;
        for run in 0..model.runs() {
            let (key, outcome) = (model.key_of(run), model.outcome(run));
            let (Some(outcome), Some(expected)) = (outcome, known.of(key)) else {
                continue;
            };
            compared += 1;
            let outcome =
                outcome.map_err(|(kind, by)| (kind, by.map(|by: RunId| model.key_of(by))));
            let expected = expected.map_err(|(kind, key)| (kind, Some(key)));
            if outcome != expected {
                faults.push(format!(
                    "run {run} of {key} gave {outcome:x?}; the graph says {expected:x?}"
                ));
            }
        }
        model.stats.pure += compared;
        for fault in faults {
            model.fault(fault);
        }
        if model.faults.is_empty() {
            Ok(())
        } else {
            Err(Faulty)
        }
    }
}

/// A value's sum, or a failure's kind and the key whose task made it.
type PureOutcome = Result<u64, (watershed::TaskErrorKind, u16)>;

/// What the graph alone says.
struct Pure<'p> {
    program: &'p Program,
    known: std::collections::HashMap<u16, Option<PureOutcome>>,
}

impl Pure<'_> {
    /// None: it depends on the schedule.
    fn of(&mut self, key: u16) -> Option<PureOutcome> {
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let outcome = self.find(key);
        self.known.insert(key, outcome);
        outcome
    }

    fn find(&mut self, key: u16) -> Option<PureOutcome> {
        use watershed::TaskErrorKind::{Failed, Panicked};
        let plan = self.program.plan(key);
        if plan.panics_at_start || plan.on_drop == OnDrop::Panics {
            return Some(Err((Panicked, key)));
        }
        let mut sum = mix(u64::from(key));
        let mut kept = 0u64;
        for step in &plan.steps {
            let (keys, catch) = match step {
                Step::Call { key, catch, .. } => (std::slice::from_ref(key), *catch),
                Step::Join {
                    keys, early, catch, ..
                } => {
                    if *early && keys.iter().any(|key| !matches!(self.of(*key), Some(Ok(_)))) {
                        return None;
                    }
                    (&keys[..], *catch)
                }
                Step::Keep(key) => {
                    kept = kept.wrapping_add(match self.of(*key)? {
                        Ok(its) => mix(its),
                        Err(_) => mix(CAUGHT),
                    });
                    continue;
                }
                Step::Race { keys } if !keys.is_empty() => return None,
                _ => continue,
            };
            for callee in keys {
                match self.of(*callee)? {
                    Ok(its) => sum = sum.wrapping_add(mix(its)),
                    Err(_) if catch => sum = sum.wrapping_add(mix(CAUGHT)),
                    Err(failure) => return Some(Err(failure)),
                }
            }
        }
        match plan.end {
            End::Value => Some(Ok(sum.wrapping_add(kept))),
            End::Fails | End::FailsTransiently => Some(Err((Failed, key))),
            End::Panics => Some(Err((Panicked, key))),
            End::FailsUntil(_) => None,
        }
    }
}
