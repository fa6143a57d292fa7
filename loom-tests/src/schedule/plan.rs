//! What a schedule is made of, out of bytes: the tasks and what each does, then what happens to them in which order.
//!
//! Every byte string is a schedule, so a fuzzer may change any byte. Where the bytes end, zeros follow, and zeros end things.

use std::collections::HashMap;
use std::sync::Arc;

/// Keys from here on are a chain, longer than polls nest.
pub(super) const CHAIN: u16 = 1000;
/// How many events there are.
pub(super) const EVENTS: usize = 6;

/// Which graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Tasks call tasks with a smaller key only: no circle, and every result is a function of the graph.
    Acyclic,
    /// Any task calls any: circles are reported, or not there.
    Cyclic,
}

/// A reader of bytes, which gives zeros at the end.
#[derive(Debug)]
pub(super) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        if limit < 2 {
            return 0;
        }
        usize::from(self.next()) % limit
    }

    /// True one time in `n`; false where the bytes have ended.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }
}

/// The tasks of a schedule.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) mode: Mode,
    pub(super) keys: u16,
    plans: HashMap<u16, Arc<Plan>>,
    idle: Arc<Plan>,
}

/// What a task does for a key.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Before there is a future.
    pub(super) panics_at_start: bool,
    pub(super) steps: Vec<Step>,
    pub(super) end: End,
    pub(super) on_drop: OnDrop,
}

#[derive(Debug)]
pub(super) enum Step {
    /// Waits for an event.
    Event(usize),
    /// Wakes itself and returns, so many times; by clone or by reference.
    Yield {
        times: u8,
        by_clone: bool,
    },
    /// Calls and waits.
    Call {
        key: u16,
        fresh: bool,
        catch: bool,
    },
    /// Calls several and waits for all; each with a waker of its own, or all with the body's; the first error ends it, or none does.
    Join {
        keys: Vec<u16>,
        own_wakers: bool,
        early: bool,
        catch: bool,
    },
    /// Calls several, takes the first that is ready, drops the others.
    Race {
        keys: Vec<u16>,
    },
    /// Calls, polls once, and looks at it again at the very end only.
    Keep(u16),
    /// Calls, polls once, and drops.
    PollAndDrop(u16),
    Peek(u16),
    Forget(u16),
    Prime(u16),
    /// Puts its handle where others find it.
    Stash,
    /// Wakes itself and goes on.
    WakeSelf,
    /// Marks a failure transient that does not come, in the first run only.
    MarkTransient,
    /// Polls somebody else's call from inside; the highest numbers: everybody's.
    PollRoot(u8),
    /// Drops somebody else's call from inside.
    DropRoot(u8),
    /// Closes the context from inside.
    Cancel,
    /// Drops the owner's handle from inside.
    DropMain,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    #[default]
    Value,
    Fails,
    FailsTransiently,
    /// Transiently, until it was started so often.
    FailsUntil(usize),
    Panics,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OnDrop {
    #[default]
    Nothing,
    Panics,
    /// Calls a task, polls once and drops.
    Calls(u16),
    /// Polls everybody's calls.
    PollsRoots,
}

impl Program {
    pub(super) fn decode(bytes: &mut Bytes<'_>, mode: Mode) -> Self {
        let keys = 1 + bytes.below(9) as u16;
        let flavour = bytes.next();
        // A chain in one of eight: it is slow.
        let chain = if flavour.is_multiple_of(8) && flavour > 0 {
            60 + 2 * u16::from(bytes.next())
        } else {
            0
        };
        let mut program = Self {
            mode,
            keys,
            plans: HashMap::new(),
            idle: Arc::default(),
        };
        let plain = flavour & 64 != 0;
        for key in 0..keys {
            let plan = program.plan_for(bytes, key, chain, plain);
            program.plans.insert(key, Arc::new(plan));
        }
        // One that meets the depth at which polls hop.
        let fork = if chain > 0 {
            [0, 0, 64, 127, 128, 43][bytes.below(6)]
        } else {
            0
        };
        for link in 0..chain {
            let steps = if link + 1 < chain {
                Self::link(link, chain, fork)
            } else {
                program.last_of_chain(bytes, chain)
            };
            let plan = Plan {
                steps,
                ..Plan::default()
            };
            program.plans.insert(CHAIN + link, Arc::new(plan));
        }
        program
    }

    /// What is at the bottom of a chain, where polls have hopped and drops have queued.
    fn last_of_chain(&self, bytes: &mut Bytes<'_>, chain: u16) -> Vec<Step> {
        let mut steps = vec![match bytes.below(8) {
            0 | 1 => Step::Event(0),
            2 => Step::Yield {
                times: 1,
                by_clone: false,
            },
            3 => Step::WakeSelf,
            4 => Step::Cancel,
            5 => Step::DropRoot(bytes.next()),
            6 => Step::Forget(CHAIN + bytes.below(usize::from(chain)) as u16),
            _ => Step::PollRoot(u8::MAX),
        }];
        if bytes.one_in(2) {
            steps.push(Step::Event(1));
        }
        if self.mode == Mode::Cyclic {
            steps.push(Step::Call {
                key: if bytes.one_in(2) {
                    CHAIN + bytes.below(usize::from(chain)) as u16
                } else {
                    bytes.below(usize::from(self.keys)) as u16
                },
                fresh: false,
                catch: bytes.one_in(2),
            });
        }
        steps
    }

    /// What a link of a chain does that is not the last.
    fn link(link: u16, chain: u16, fork: u16) -> Vec<Step> {
        let next = CHAIN + link + 1;
        let call = Step::Call {
            key: next,
            fresh: false,
            catch: false,
        };
        // Where polls hop, several calls may wait for the base at once.
        if fork > 0 && link.is_multiple_of(fork) && link + 3 < chain {
            let keys = vec![next + 2, next + 1, next];
            return if fork.is_multiple_of(2) {
                vec![Step::Join {
                    keys,
                    own_wakers: false,
                    early: true,
                    catch: true,
                }]
            } else {
                vec![Step::Keep(next + 1), Step::PollAndDrop(next + 2), call]
            };
        }
        vec![call]
    }

    /// Whom the task of `key` may call.
    fn callee(&self, bytes: &mut Bytes<'_>, key: u16, chain: u16) -> Option<u16> {
        if chain > 0 && bytes.one_in(6) {
            return Some(CHAIN + if bytes.one_in(2) { chain / 2 } else { 0 });
        }
        match self.mode {
            Mode::Acyclic if key == 0 => None,
            Mode::Acyclic => Some(bytes.below(usize::from(key)) as u16),
            Mode::Cyclic => Some(bytes.below(usize::from(self.keys)) as u16),
        }
    }

    fn callees(&self, bytes: &mut Bytes<'_>, key: u16, chain: u16) -> Vec<u16> {
        let n = 2 + bytes.below(3);
        (0..n)
            .filter_map(|_| self.callee(bytes, key, chain))
            .collect()
    }

    fn plan_for(&self, bytes: &mut Bytes<'_>, key: u16, chain: u16, plain: bool) -> Plan {
        let mut plan = Plan::default();
        for _ in 0..bytes.below(5) {
            let any = |bytes: &mut Bytes<'_>| bytes.below(usize::from(self.keys)) as u16;
            let kind = bytes.below(if plain { 14 } else { 28 });
            let step = match kind {
                0..=2 => Step::Event(bytes.below(EVENTS)),
                3 | 4 => Step::Yield {
                    times: 1 + bytes.below(2) as u8,
                    by_clone: bytes.one_in(2),
                },
                5..=8 => {
                    let Some(callee) = self.callee(bytes, key, chain) else {
                        continue;
                    };
                    Step::Call {
                        key: callee,
                        // A circle of these has no end.
                        fresh: bytes.one_in(6) && (callee < key || callee >= CHAIN),
                        catch: bytes.one_in(2),
                    }
                }
                9 | 10 => {
                    let how = bytes.next();
                    Step::Join {
                        keys: self.callees(bytes, key, chain),
                        own_wakers: how & 1 != 0,
                        early: how & 6 == 6,
                        catch: how & 8 != 0,
                    }
                }
                11 | 12 => {
                    let Some(callee) = self.callee(bytes, key, chain) else {
                        continue;
                    };
                    Step::Keep(callee)
                }
                13 => {
                    let Some(callee) = self.callee(bytes, key, chain) else {
                        continue;
                    };
                    Step::PollAndDrop(callee)
                }
                14 => Step::Race {
                    keys: self.callees(bytes, key, chain),
                },
                15 => Step::Peek(any(bytes)),
                16 => Step::Forget(any(bytes)),
                17 => Step::Prime(any(bytes)),
                18 => Step::Stash,
                19 | 20 => Step::WakeSelf,
                21 | 22 => Step::PollRoot(bytes.next()),
                23 => Step::DropRoot(bytes.next()),
                26 => Step::MarkTransient,
                24 if bytes.one_in(8) => Step::Cancel,
                25 if bytes.one_in(8) => Step::DropMain,
                _ => continue,
            };
            plan.steps.push(step);
        }
        let end = bytes.next();
        if !plain || end > 200 {
            plan.end = match end % 16 {
                9 | 10 => End::Fails,
                11 => End::FailsTransiently,
                12 => End::FailsUntil(2 + usize::from(end / 16) % 2),
                13 => End::Panics,
                _ => End::Value,
            };
            plan.panics_at_start = end == 14;
            plan.on_drop = match bytes.next() {
                n @ 1..=9 => OnDrop::Calls(u16::from(n) % self.keys),
                10..=29 => OnDrop::PollsRoots,
                30..=34 => OnDrop::Panics,
                _ => OnDrop::Nothing,
            };
        }
        // In the destructor, too, tasks call downwards only.
        if let (Mode::Acyclic, OnDrop::Calls(callee)) = (self.mode, plan.on_drop)
            && callee >= key
        {
            plan.on_drop = OnDrop::Nothing;
        }
        plan
    }

    pub(super) fn plan(&self, key: u16) -> Arc<Plan> {
        Arc::clone(self.plans.get(&key).unwrap_or(&self.idle))
    }

    pub(super) fn idle(&self) -> Arc<Plan> {
        Arc::clone(&self.idle)
    }

    pub(super) fn chain(&self) -> u16 {
        (self.plans.len() - usize::from(self.keys)) as u16
    }
}
