//! The wait graph of a context: whose body waits for which run, so that a call that would wait for itself is told so.
//!
//! * **A fresh start** stores its starter in the new slot while it holds the claim: that is the edge, reversed. No lock and no
//!   search, for a body that does not exist yet waits for nothing.
//! * **A join** of an unfinished run searches backwards from the joining body (starters, and the edges whose target the node is) and
//!   adds its own edge, in one critical section per context. So of those that close a cycle together exactly one sees it.
//! * An edge goes when the call ends; the starter's only if the call is dropped unfinished. Both before the caller's count goes: after
//!   that somebody else may restart the slot.
//! * A finished node is not walked past: its old calls may live on elsewhere.
//!
//! No user code runs under the lock. A hit and a first call do not come here.
//!
//! # When a join needs no search
//! * The target has no body: it waits for nothing, and what its body will wait for is searched with this edge in place.
//! * The target's body has called nothing yet (`Slot::has_called`). What it starts or joins later is searched with this edge in place;
//!   what it has started already, and what that has joined, is ordered before this by the flag and the lock.
//! * Every edge leads down. A run is deeper than the body that starts it and than every body that waits for it when it starts
//!   ([`depth`]); a join leads down if its target is deeper, or has not started. While no join in the graph leads level or up
//!   (`Graph::upward`), one that leads down closes nothing, and a search need not go above the target's depth.
//!
//! Cost of a search: the number of bodies above the joining one (and below the target, if nothing leads up).

use crate::context::CorePtr;
use crate::error::TaskError;
use crate::slot::{Slot, SlotPtr, Word};
use crate::sync::atomic::Ordering;
use crate::sync::cell::UnsafeCell;
use crate::sync::lock;
use std::cell::UnsafeCell as UnsafeCellOfStd;
use std::ptr::NonNull;

/// What a search needs besides the slots; its mutex is the lock of the context's graph.
#[derive(Default)]
pub(crate) struct Graph {
    /// How many edges do not lead down.
    upward: usize,
    todo: Vec<SlotPtr>,
    seen: Vec<SlotPtr>,
}

/// The graph's part of a slot. Guarded by the lock of the context's graph.
pub(crate) struct Waits {
    /// The edges that lead here.
    first: UnsafeCell<*mut Edge>,
    /// In a search: the node that this one waits for, on the way to the body that joins; null: not seen.
    via: UnsafeCell<*mut Slot>,
}

impl Waits {
    pub(crate) fn new() -> Self {
        Self {
            first: UnsafeCell::new(std::ptr::null_mut()),
            via: UnsafeCell::new(std::ptr::null_mut()),
        }
    }
}

struct Edge {
    from: SlotPtr,
    to: SlotPtr,
    previous: *mut Edge,
    next: *mut Edge,
    /// Counted in `Graph::upward`.
    upward: bool,
    /// In the list of `to`.
    linked: bool,
}

/// An edge of the graph, owned by the call that waits.
pub(crate) struct EdgePtr(NonNull<Edge>);

// SAFETY: the edge behind it is touched under the lock of the graph only.
unsafe impl Send for EdgePtr {}
// SAFETY: as above.
unsafe impl Sync for EdgePtr {}

/// Lets the body of `from` wait for the run in `to`, unless that waits for it already.
///
/// `seen` is the target's word from which the caller is about to be counted: if that fails, the edge was judged by a state that has
/// passed, and is to be taken back.
pub(crate) fn join(
    core: CorePtr,
    from: SlotPtr,
    to: SlotPtr,
    seen: Word,
) -> Result<EdgePtr, TaskError> {
    add(core, from, to, !seen.is_empty())
}

/// As [`join`], for a target at which nobody is counted: a run of the second tier, which the body of `from` waits for and never
/// starts. Whether it has started may change at any time, so it counts as started; that it has called nothing is known all the same.
#[cfg(any(feature = "shared", loom))]
pub(crate) fn wait(core: CorePtr, from: SlotPtr, to: SlotPtr) -> Result<EdgePtr, TaskError> {
    add(core, from, to, true)
}

fn add(core: CorePtr, from: SlotPtr, to: SlotPtr, started: bool) -> Result<EdgePtr, TaskError> {
    if from == to {
        return Err(TaskError::cycle(vec![from.name(), to.name()]));
    }
    // The caller's own run is not a leaf from now on.
    from.set_has_called();
    let mut graph = lock(core.graph());
    let upward = started && to.depth() <= from.depth();
    let no_search = !started || !to.has_called() || (!upward && graph.upward == 0);
    if !no_search && let Some(path) = graph.path(from, to) {
        drop(graph);
        // A slot that stands for one of the second tier is named by that one.
        let path = path.iter().filter(|slot| !slot.meta.stands);
        return Err(TaskError::cycle(path.map(|slot| slot.name()).collect()));
    }
    graph.upward += usize::from(upward);
    let edge = Box::leak(Box::new(Edge::new(from, to, upward)));
    let edge = NonNull::from(edge);
    // SAFETY: it is new, and freed when it was unlinked (`leave`); the lock is held.
    unsafe { Edge::link(edge) };
    Ok(EdgePtr(edge))
}

impl Edge {
    fn new(from: SlotPtr, to: SlotPtr, upward: bool) -> Self {
        Self {
            from,
            to,
            previous: std::ptr::null_mut(),
            next: std::ptr::null_mut(),
            upward,
            linked: false,
        }
    }

    /// Puts an edge at the head of the list of its target.
    ///
    /// # Safety
    /// The lock is held. The edge is in no list, and stays where it is until it is unlinked.
    unsafe fn link(mut edge: NonNull<Edge>) {
        // SAFETY: the promise of the caller.
        let new = unsafe { edge.as_mut() };
        // SAFETY: the lock is held.
        let next = unsafe { new.to.waits.first.read(|first| *first) };
        new.next = next;
        new.linked = true;
        // SAFETY: the lock is held, and an edge in a list is alive.
        if let Some(next) = unsafe { next.as_mut() } {
            next.previous = edge.as_ptr();
        }
        // SAFETY: the lock is held.
        unsafe { new.to.waits.first.write(|first| *first = edge.as_ptr()) };
    }

    /// Takes an edge out of the list of its target, if it is there.
    ///
    /// # Safety
    /// The lock is held, and the edge is alive.
    unsafe fn unlink(mut edge: NonNull<Edge>) {
        // SAFETY: the promise of the caller.
        let edge = unsafe { edge.as_mut() };
        if !std::mem::take(&mut edge.linked) {
            return;
        }
        // SAFETY: the lock is held, and an edge in a list is alive.
        match unsafe { edge.previous.as_mut() } {
            Some(previous) => previous.next = edge.next,
            // SAFETY: the lock is held.
            None => unsafe { edge.to.waits.first.write(|first| *first = edge.next) },
        }
        // SAFETY: as for `previous`.
        if let Some(next) = unsafe { edge.next.as_mut() } {
            next.previous = edge.previous;
        }
    }
}

/// An edge that lies in somebody's memory, for many bodies that wait for one run.
pub(crate) struct EdgeCell(UnsafeCellOfStd<Edge>);

// SAFETY: the edge is touched under the lock of the graph only, or by who has it alone.
unsafe impl Send for EdgeCell {}
// SAFETY: as above.
unsafe impl Sync for EdgeCell {}

impl EdgeCell {
    /// Not in the graph yet.
    pub(crate) fn new(from: SlotPtr) -> Self {
        Self(UnsafeCellOfStd::new(Edge::new(from, from, false)))
    }

    fn edge(&self) -> NonNull<Edge> {
        // SAFETY: the address of a cell is not null.
        unsafe { NonNull::new_unchecked(self.0.get()) }
    }

    /// Lets each of the bodies wait for the run in `to`, which has not started: so there is nothing to search.
    ///
    /// # Safety
    /// The cells stay where they are until they are unlinked.
    pub(crate) unsafe fn link<'e>(
        core: CorePtr,
        cells: impl Iterator<Item = &'e EdgeCell>,
        to: SlotPtr,
    ) {
        let graph = lock(core.graph());
        for cell in cells {
            // SAFETY: the lock is held.
            let edge = unsafe { cell.edge().as_mut() };
            if !edge.linked {
                edge.to = to;
                // Its run is not a leaf from now on.
                edge.from.set_has_called();
                // SAFETY: the promise of the caller, and the lock is held.
                unsafe { Edge::link(cell.edge()) };
            }
        }
        drop(graph);
    }

    /// Takes those back that are in the graph.
    pub(crate) fn unlink<'e>(core: CorePtr, cells: impl Iterator<Item = &'e EdgeCell>) {
        let graph = lock(core.graph());
        for cell in cells {
            // SAFETY: the lock is held, and the edge is alive.
            unsafe { Edge::unlink(cell.edge()) };
        }
        drop(graph);
    }
}

impl Drop for EdgeCell {
    fn drop(&mut self) {
        debug_assert!(!self.0.get_mut().linked, "an edge is in the graph");
    }
}

/// Takes an edge back.
pub(crate) fn leave(core: CorePtr, edge: EdgePtr) {
    let mut graph = lock(core.graph());
    // SAFETY: the lock is held, and whoever owns the `EdgePtr` owns the edge.
    unsafe { Edge::unlink(edge.0) };
    // SAFETY: it came out of a box (`join`).
    let edge = unsafe { Box::from_raw(edge.0.as_ptr()) };
    graph.upward -= usize::from(edge.upward);
    drop(graph);
}

/// The depth of a run that starts for `parent` where others wait already: below all of them.
#[cold]
pub(crate) fn depth(core: CorePtr, parent: Option<SlotPtr>, to: SlotPtr) -> u32 {
    let graph = lock(core.graph());
    let mut depth = parent.map_or(0, |parent| parent.depth() + 1);
    // SAFETY: the lock is held.
    let mut next = unsafe { to.waits.first.read(|first| *first) };
    // SAFETY: the lock is held, and an edge in a list is alive.
    while let Some(edge) = unsafe { next.as_ref() } {
        depth = depth.max(edge.from.depth() + 1);
        next = edge.next;
    }
    drop(graph);
    depth
}

/// The call by which the body of `from` started `to` is dropped unfinished.
pub(crate) fn forget_starter(core: CorePtr, from: SlotPtr, to: SlotPtr) {
    let graph = lock(core.graph());
    // ORDER: Relaxed; under the lock, and the leaver is still counted, so nobody restarts the slot meanwhile.
    if to.starter.load(Ordering::Relaxed) == from.as_ptr() {
        // ORDER: Release, as in `drive`.
        to.starter.store(std::ptr::null_mut(), Ordering::Release);
    }
    drop(graph);
}

/// Shows `wait` each pair of a body and a run among `slots` that it waits for, now. It must not call the engine: the lock is held.
pub(crate) fn each_wait(core: CorePtr, slots: &[SlotPtr], mut wait: impl FnMut(SlotPtr, SlotPtr)) {
    let graph = lock(core.graph());
    for &to in slots {
        // ORDER: Acquire; pairs with the Release in `drive`.
        let starter = to.starter.load(Ordering::Acquire);
        // SAFETY: a starter is a slot of this context.
        let starter = unsafe { SlotPtr::from_raw(starter) };
        if let Some(from) = starter
            && !from.look().is_terminal()
        {
            wait(from, to);
        }
        // SAFETY: the lock is held.
        let mut next = unsafe { to.waits.first.read(|first| *first) };
        // SAFETY: the lock is held, and an edge in a list is alive.
        while let Some(edge) = unsafe { next.as_ref() } {
            wait(edge.from, to);
            next = edge.next;
        }
    }
    drop(graph);
}

impl Graph {
    /// If `to` waits for `from` already: who waits for whom, from `to` round to `to`.
    fn path(&mut self, from: SlotPtr, to: SlotPtr) -> Option<Vec<SlotPtr>> {
        let found = self.search(from, to);
        let path = found.map(|last| {
            let mut path = vec![to, last];
            let mut at = last;
            while at != from {
                // SAFETY: the lock is held; a node that was seen names the next, up to `from`.
                let via = unsafe { at.waits.via.read(|via| *via) };
                // SAFETY: as above.
                let via = unsafe { SlotPtr::from_raw(via) };
                at = via.unwrap_or(from);
                path.push(at);
            }
            path.push(to);
            path
        });
        for slot in self.seen.drain(..) {
            // SAFETY: the lock is held.
            unsafe { slot.waits.via.write(|via| *via = std::ptr::null_mut()) };
        }
        self.todo.clear();
        path
    }

    /// Walks backwards from `from`; gives the node that `to` waits for.
    fn search(&mut self, from: SlotPtr, to: SlotPtr) -> Option<SlotPtr> {
        let all_lead_down = self.upward == 0;
        self.see(from, from);
        while let Some(node) = self.todo.pop() {
            // ORDER: Acquire; pairs with the Release in `drive`.
            let starter = node.starter.load(Ordering::Acquire);
            // SAFETY: a starter is a slot of this context.
            let mut before = unsafe { SlotPtr::from_raw(starter) };
            // SAFETY: the lock is held.
            let mut edge = unsafe { node.waits.first.read(|first| *first) };
            loop {
                if let Some(before) = before.take()
                    && !before.look().is_terminal()
                {
                    if before == to {
                        return Some(node);
                    }
                    if !all_lead_down || before.depth() > to.depth() {
                        self.see(before, node);
                    }
                }
                // SAFETY: the lock is held, and an edge in a list is alive.
                let Some(next) = (unsafe { edge.as_ref() }) else {
                    break;
                };
                before = Some(next.from);
                edge = next.next;
            }
        }
        None
    }

    fn see(&mut self, slot: SlotPtr, via: SlotPtr) {
        // SAFETY: the lock is held.
        let old = unsafe {
            slot.waits.via.write(|seen| {
                let old = *seen;
                if old.is_null() {
                    *seen = via.as_ptr();
                }
                old
            })
        };
        if old.is_null() {
            self.seen.push(slot);
            self.todo.push(slot);
        }
    }
}
