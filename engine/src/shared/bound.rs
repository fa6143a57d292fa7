//! The bound of a tier: which entries stay when there are too many, and what goes when its time is over.
//!
//! It is S3-FIFO: new entries go through a *small* queue, a tenth of the bound; what is hit while it is there moves to the *main* queue, what
//! is not goes, and its hash is remembered for a while (*ghosts*): if it comes back it goes to the main queue at once. The main queue gives
//! each entry another round for each hit it had. So a scan passes through the small queue and takes nothing hot with it. A hit only raises
//! a number in the entry ([`HOT`](super::entry::HOT) at most, so a hot entry is not written to); everything here is done when a value is put
//! in, under one lock.
//!
//! Entries that were removed stay in their queue as *tombstones* until they come to its end, or until there are as many of them as
//! others; then they are all taken out. And each put looks at two entries, in turn, whether they have expired: so what nobody asks for
//! any more goes too.
//!
//! It must never drop an entry while the lock is held: the destructors of inputs and values are the user's. What goes is handed out.

use std::collections::{HashMap, VecDeque};

use super::entry::Entry;
use super::outcome::Pin;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// Not in a queue.
const OUT: u8 = 0;
const IN: u8 = 1;
/// In a queue, and removed.
const TOMBSTONE: u8 = 2;

/// How many entries a put looks at for those that have expired.
const SWEEP: usize = 2;

pub(super) struct Bound {
    max: usize,
    small_max: usize,
    small: VecDeque<Arc<Entry>>,
    main: VecDeque<Arc<Entry>>,
    ghosts: Ghosts,
    /// Entries in the queues that are not tombstones.
    live: usize,
    tombstones: usize,
    /// Where the sweep goes on.
    swept: usize,
}

/// What goes: to be dropped, and the first part to be evicted before, when the lock is given back.
#[derive(Default)]
pub(super) struct Gone {
    pub(super) victims: Vec<Arc<Entry>>,
    pub(super) expired: Vec<Arc<Entry>>,
    buried: Vec<Arc<Entry>>,
}

fn state(entry: &Entry) -> u8 {
    // ORDER: Relaxed, as the store; read and written under the lock of the bound.
    entry.queued.load(Ordering::Relaxed)
}

fn set_state(entry: &Entry, state: u8) {
    entry.queued.store(state, Ordering::Relaxed);
}

impl Bound {
    /// `usize::MAX`: no bound.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            small_max: max / 10,
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: Ghosts::default(),
            live: 0,
            tombstones: 0,
            swept: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// An entry has a value now. The caller was pinned before it took the lock.
    pub(super) fn put(&mut self, entry: &Arc<Entry>, now: u64, pin: &Pin) -> Gone {
        let mut gone = Gone::default();
        self.sweep(now, pin, &mut gone);
        // Who removes an entry says so before it comes here, so either it is seen now or `forget` finds the entry in a queue.
        if state(entry) == OUT && !entry.is_removed() {
            while self.live >= self.max.max(1) {
                self.evict(&mut gone);
            }
            if self.max == 0 {
                gone.victims.push(entry.clone());
                return gone;
            }
            set_state(entry, IN);
            self.live += 1;
            entry.set_hits(0);
            if self.max == usize::MAX || self.ghosts.take(entry.hash) {
                self.main.push_back(entry.clone());
            } else {
                self.small.push_back(entry.clone());
            }
        }
        gone
    }

    /// An entry was removed.
    pub(super) fn forget(&mut self, entry: &Entry) -> Gone {
        let mut gone = Gone::default();
        if state(entry) == IN {
            set_state(entry, TOMBSTONE);
            self.live -= 1;
            self.tombstones += 1;
            self.bury(&mut gone);
        }
        gone
    }

    /// Takes the tombstones out if they are many. Each costs a step or two, over time.
    fn bury(&mut self, gone: &mut Gone) {
        if self.tombstones <= self.live + 16 {
            return;
        }
        for queue in [&mut self.small, &mut self.main] {
            queue.retain(|entry| {
                let stays = state(entry) != TOMBSTONE;
                if !stays {
                    gone.buried.push(entry.clone());
                }
                stays
            });
        }
        self.tombstones = 0;
    }

    fn evict(&mut self, gone: &mut Gone) {
        if self.small.len() > self.small_max || self.main.is_empty() {
            self.evict_small(gone);
        } else {
            self.evict_main(gone);
        }
    }

    fn evict_small(&mut self, gone: &mut Gone) {
        while let Some(entry) = self.small.pop_front() {
            if state(&entry) == TOMBSTONE {
                self.tombstones -= 1;
                gone.buried.push(entry);
            } else if entry.hits() > 0 {
                entry.set_hits(0);
                self.main.push_back(entry);
                if self.main.len() > self.max - self.small_max {
                    return self.evict_main(gone);
                }
            } else {
                self.ghosts.put(entry.hash, self.max);
                return self.let_go(entry, gone);
            }
        }
    }

    fn evict_main(&mut self, gone: &mut Gone) {
        while let Some(entry) = self.main.pop_front() {
            if state(&entry) == TOMBSTONE {
                self.tombstones -= 1;
                gone.buried.push(entry);
            } else if entry.hits() > 0 {
                // Ends: each round takes a hit away, and hits that come meanwhile are as many as the machine can make.
                entry.set_hits(entry.hits() - 1);
                self.main.push_back(entry);
            } else {
                return self.let_go(entry, gone);
            }
        }
    }

    fn let_go(&mut self, entry: Arc<Entry>, gone: &mut Gone) {
        set_state(&entry, OUT);
        self.live -= 1;
        gone.victims.push(entry);
    }

    /// Looks at the next entries for those that have expired.
    fn sweep(&mut self, now: u64, pin: &Pin, gone: &mut Gone) {
        for _ in 0..SWEEP {
            let length = self.small.len() + self.main.len();
            if length == 0 {
                return;
            }
            self.swept = (self.swept + 1) % length;
            let small = self.small.get(self.swept);
            let entry = small.or_else(|| self.main.get(self.swept - self.small.len()));
            let Some(entry) = entry else { return };
            if state(entry) != IN {
                continue;
            }
            let expired = |pin| {
                entry
                    .place
                    .look(pin, |seen| seen.is_some_and(|seen| now >= seen.expires()))
            };
            if expired(pin) {
                set_state(entry, TOMBSTONE);
                self.live -= 1;
                self.tombstones += 1;
                gone.expired.push(entry.clone());
            }
        }
        self.bury(gone);
    }
}

/// Hashes of entries that went unhit, the oldest first, as many as there may be entries.
#[derive(Default)]
struct Ghosts {
    order: VecDeque<(u64, u64)>,
    /// The turn in which each was put; an older one in `order` is not meant.
    turns: HashMap<u64, u64, foldhash::fast::FixedState>,
    turn: u64,
}

impl Ghosts {
    fn put(&mut self, hash: u64, max: usize) {
        self.turn += 1;
        self.turns.insert(hash, self.turn);
        self.order.push_back((hash, self.turn));
        while self.order.len() > max
            && let Some((hash, turn)) = self.order.pop_front()
        {
            if self.turns.get(&hash) == Some(&turn) {
                self.turns.remove(&hash);
            }
        }
    }

    fn take(&mut self, hash: u64) -> bool {
        self.turns.remove(&hash).is_some()
    }
}
