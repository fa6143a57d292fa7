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
//! Cost of a join: the number of bodies above the joining one.

use crate::context::CorePtr;
use crate::error::TaskError;
use crate::slot::{Slot, SlotPtr};
use crate::sync::atomic::Ordering;
use crate::sync::cell::UnsafeCell;
use crate::sync::lock;
use std::ptr::NonNull;

/// What a search needs besides the slots; its mutex is the lock of the context's graph.
#[derive(Default)]
pub(crate) struct Graph {
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
}

/// An edge of the graph, owned by the call that waits.
pub(crate) struct EdgePtr(NonNull<Edge>);

// SAFETY: the edge behind it is touched under the lock of the graph only.
unsafe impl Send for EdgePtr {}
// SAFETY: as above.
unsafe impl Sync for EdgePtr {}

/// Lets the body of `from` wait for the run in `to`, unless that waits for it already.
pub(crate) fn join(core: CorePtr, from: SlotPtr, to: SlotPtr) -> Result<EdgePtr, TaskError> {
    if from == to {
        return Err(TaskError::cycle(vec![from.name(), to.name()]));
    }
    let mut graph = lock(core.graph());
    // A slot without a body waits for nothing, and what its body will wait for is searched with this edge in place.
    if !to.look().is_empty()
        && let Some(path) = graph.path(from, to)
    {
        drop(graph);
        return Err(TaskError::cycle(
            path.iter().map(|slot| slot.name()).collect(),
        ));
    }
    // SAFETY: the lock is held.
    let next = to.waits.first.with(|p| unsafe { *p });
    let edge = Box::leak(Box::new(Edge {
        from,
        to,
        previous: std::ptr::null_mut(),
        next,
    }));
    let edge = NonNull::from(edge);
    // SAFETY: the lock is held, and an edge in a list is alive.
    if let Some(next) = unsafe { next.as_mut() } {
        next.previous = edge.as_ptr();
    }
    // SAFETY: the lock is held.
    to.waits.first.with_mut(|p| unsafe { *p = edge.as_ptr() });
    Ok(EdgePtr(edge))
}

/// Takes an edge back.
pub(crate) fn leave(core: CorePtr, edge: EdgePtr) {
    let graph = lock(core.graph());
    // SAFETY: it came out of a box, and whoever owns the `EdgePtr` owns it; the lock is held.
    let edge = unsafe { Box::from_raw(edge.0.as_ptr()) };
    // SAFETY: the lock is held, and an edge in a list is alive.
    match unsafe { edge.previous.as_mut() } {
        Some(previous) => previous.next = edge.next,
        // SAFETY: the lock is held.
        None => edge.to.waits.first.with_mut(|p| unsafe { *p = edge.next }),
    }
    // SAFETY: as for `previous`.
    if let Some(next) = unsafe { edge.next.as_mut() } {
        next.previous = edge.previous;
    }
    drop(graph);
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

impl Graph {
    /// If `to` waits for `from` already: who waits for whom, from `to` round to `to`.
    fn path(&mut self, from: SlotPtr, to: SlotPtr) -> Option<Vec<SlotPtr>> {
        let found = self.search(from, to);
        let path = found.map(|last| {
            let mut path = vec![to, last];
            let mut at = last;
            while at != from {
                // SAFETY: the lock is held; a node that was seen names the next, up to `from`.
                let via = at.waits.via.with(|p| unsafe { SlotPtr::from_raw(*p) });
                at = via.unwrap_or(from);
                path.push(at);
            }
            path.push(to);
            path
        });
        for slot in self.seen.drain(..) {
            // SAFETY: the lock is held.
            slot.waits
                .via
                .with_mut(|p| unsafe { *p = std::ptr::null_mut() });
        }
        self.todo.clear();
        path
    }

    /// Walks backwards from `from`; gives the node that `to` waits for.
    fn search(&mut self, from: SlotPtr, to: SlotPtr) -> Option<SlotPtr> {
        self.see(from, from);
        while let Some(node) = self.todo.pop() {
            // ORDER: Acquire; pairs with the Release in `drive`.
            let starter = node.starter.load(Ordering::Acquire);
            // SAFETY: a starter is a slot of this context.
            let mut before = unsafe { SlotPtr::from_raw(starter) };
            // SAFETY: the lock is held.
            let mut edge = node.waits.first.with(|p| unsafe { *p });
            loop {
                if let Some(before) = before.take()
                    && !before.look().is_terminal()
                {
                    if before == to {
                        return Some(node);
                    }
                    self.see(before, node);
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
        let new = slot.waits.via.with_mut(|p| unsafe {
            let new = (*p).is_null();
            if new {
                *p = via.as_ptr();
            }
            new
        });
        if new {
            self.seen.push(slot);
            self.todo.push(slot);
        }
    }
}
