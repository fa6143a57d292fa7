//! The table of a context: a hash trie whose nodes are the slots themselves.
//!
//! A lookup eats the hash from the low bits: four for the root, two for each level. An insertion is one
//! compare-exchange on a null link; who loses it walks on from there with the node it has already made. Nothing is ever
//! unlinked while the context lives (a forgotten slot is marked DEAD and walked past), so there is nothing to reclaim, no pin
//! and no lock. Full collisions make a path longer, never wrong: a slot is matched by hash, type and `Eq` on the whole input.
//!
//! | row | who | operation | pairs with | why |
//! |---|---|---|---|---|
//! | T1 | lookup | load Acquire of a link | T2 | the node behind it is written |
//! | T2 | insertion | CAS SeqCst (Release) of a null link | T1, T3 | publishes the node; SeqCst with T3: see [`crate::context`] |
//! | T3 | closer's walk | load SeqCst (Acquire) of each link | T2 | |
//!
//! User code that runs here is `Eq` of the input. It holds nothing of ours, so it may panic and it may call the engine.

use crate::context::CorePtr;
use crate::slot::{SlotPtr, Word};
use crate::sync::atomic::{AtomicPtr, Ordering};

use crate::slot::Slot;

const ROOTS: usize = 16;
const ROOT_BITS: u32 = ROOTS.trailing_zeros();
const CHILD_BITS: u32 = 2;

pub(crate) struct Table {
    /// The roots, and at [`PRIVATE`] the slots of calls without memoization: a list through `children[0]`, newest first, where no
    /// lookup comes.
    links: [AtomicPtr<Slot>; ROOTS + 1],
}

const PRIVATE: usize = ROOTS;

/// The null link at which a lookup ended.
pub(crate) struct Gap<'t> {
    link: &'t AtomicPtr<Slot>,
    rest: u64,
}

impl Table {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self {
            links: Default::default(),
        }
    }

    /// The live slot with this hash that `is` accepts, with its word, or the gap where it would be.
    pub(crate) fn find(
        &self,
        hash: u64,
        is: impl FnMut(SlotPtr) -> bool,
    ) -> Result<(SlotPtr, Word), Gap<'_>> {
        self.gap(hash).find(hash, is)
    }

    /// The live slot with this hash that `is` accepts, if it is DONE: the path of a hit, with one test for both.
    #[inline(always)]
    pub(crate) fn find_done(
        &self,
        hash: u64,
        mut is: impl FnMut(SlotPtr) -> bool,
    ) -> Option<SlotPtr> {
        let found = self.gap(hash).walk(hash, |slot| {
            if !is(slot) {
                return None;
            }
            let word = slot.look();
            if word.is_done_and_alive() {
                Some(Some(slot))
            } else if word.is_dead() {
                None
            } else {
                Some(None)
            }
        });
        found.ok().flatten()
    }

    #[inline(always)]
    fn gap(&self, hash: u64) -> Gap<'_> {
        Gap {
            link: &self.links[hash as usize & (ROOTS - 1)],
            rest: hash >> ROOT_BITS,
        }
    }

    /// Puts a private slot in.
    pub(crate) fn push_private(&self, new: SlotPtr) {
        // ORDER: Relaxed; the compare-exchange checks it.
        let mut head = self.links[PRIVATE].load(Ordering::Relaxed);
        loop {
            // ORDER: Relaxed; published by the compare-exchange.
            new.children[0].store(head, Ordering::Relaxed);
            // ORDER: SeqCst, as T2; the link is read by the closer's walk only.
            match self.links[PRIVATE].compare_exchange(
                head,
                new.as_ptr(),
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(newer) => head = newer,
            }
        }
    }

    /// Calls `f` for each slot, also for those that are dead.
    pub(crate) fn each(&self, mut f: impl FnMut(SlotPtr)) {
        let mut todo: Vec<SlotPtr> = Vec::new();
        let push = |todo: &mut Vec<SlotPtr>, link: &AtomicPtr<Slot>| {
            // ORDER: SeqCst (T3): a slot that is linked in after this finds the context closed.
            // SAFETY: a linked slot lives as long as the context.
            todo.extend(unsafe { SlotPtr::from_raw(link.load(Ordering::SeqCst)) });
        };
        for link in &self.links {
            push(&mut todo, link);
            while let Some(slot) = todo.pop() {
                for link in &slot.children {
                    push(&mut todo, link);
                }
                f(slot);
            }
        }
    }

    /// Frees every slot, without recursion and without memory of its own: `children[0]` of the slots that wait for their turn
    /// links them.
    ///
    /// # Safety
    /// Nobody else has the context any more, and the table is not used after this.
    pub(crate) unsafe fn free(&self, core: CorePtr) {
        // Which links are used, without a branch for each: which ones they are is as good as random.
        let mut used = 0u32;
        for (at, link) in self.links.iter().enumerate() {
            // ORDER: Relaxed, here and below; the last handle's Acquire fence is before this.
            used |= u32::from(!link.load(Ordering::Relaxed).is_null()) << at;
        }
        while used != 0 {
            let first = self.links[used.trailing_zeros() as usize].load(Ordering::Relaxed);
            used &= used - 1;
            // SAFETY: the promise of the caller.
            unsafe { Self::free_below(first, core) };
        }
    }

    /// # Safety
    /// As for [`Table::free`], for the slots that are reached from `next`.
    unsafe fn free_below(mut next: *mut Slot, core: CorePtr) {
        // ORDER: Relaxed, here and below, as in `free`.
        // SAFETY: a linked slot is a slot, and each is reached once: it has one link.
        while let Some(slot) = unsafe { SlotPtr::from_raw(next) } {
            next = slot.children[0].load(Ordering::Relaxed);
            for link in &slot.children[1..] {
                let child = link.load(Ordering::Relaxed);
                // SAFETY: as above.
                if let Some(child) = unsafe { SlotPtr::from_raw(child) } {
                    // In front of the list, behind whatever hangs on the child's own first link.
                    let mut last = child;
                    loop {
                        let below = last.children[0].load(Ordering::Relaxed);
                        // SAFETY: as above.
                        match unsafe { SlotPtr::from_raw(below) } {
                            Some(below) => last = below,
                            None => break,
                        }
                    }
                    last.children[0].store(next, Ordering::Relaxed);
                    next = child.as_ptr();
                }
            }
            // SAFETY: nobody has it any more, and nothing links to it.
            unsafe { slot.free(Some(core)) };
        }
    }
}

impl<'t> Gap<'t> {
    fn find(
        self,
        hash: u64,
        mut is: impl FnMut(SlotPtr) -> bool,
    ) -> Result<(SlotPtr, Word), Gap<'t>> {
        self.walk(hash, |slot| {
            if !is(slot) {
                return None;
            }
            let word = slot.look();
            (!word.is_dead()).then_some((slot, word))
        })
    }

    /// Shows `visit` the slots with this hash, until it returns something.
    #[inline(always)]
    fn walk<R>(
        mut self,
        hash: u64,
        mut visit: impl FnMut(SlotPtr) -> Option<R>,
    ) -> Result<R, Gap<'t>> {
        loop {
            // ORDER: Acquire (T1); pairs with T2.
            let next = self.link.load(Ordering::Acquire);
            // SAFETY: a linked slot lives as long as the context.
            let Some(slot) = (unsafe { SlotPtr::from_raw(next) }) else {
                return Err(self);
            };
            if slot.hash == hash
                && let Some(result) = visit(slot)
            {
                return Ok(result);
            }
            // SAFETY: as above; the borrow of the link ends with the table's.
            let children: &'t [AtomicPtr<Slot>; 4] = unsafe { &(*next).children };
            self.link = &children[self.rest as usize & 3];
            self.rest >>= CHILD_BITS;
        }
    }

    /// Puts `new` in, or gives the live slot that `is` accepts and that somebody else put in meanwhile.
    pub(crate) fn insert(
        mut self,
        new: SlotPtr,
        mut is: impl FnMut(SlotPtr) -> bool,
    ) -> Result<(), (SlotPtr, Word)> {
        let hash = new.hash;
        loop {
            // ORDER: SeqCst (T2); Release publishes the node. On failure Relaxed: the link is read again.
            let won = self.link.compare_exchange(
                std::ptr::null_mut(),
                new.as_ptr(),
                Ordering::SeqCst,
                Ordering::Relaxed,
            );
            if won.is_ok() {
                return Ok(());
            }
            match self.find(hash, &mut is) {
                Ok(found) => return Err(found),
                Err(gap) => self = gap,
            }
        }
    }
}
