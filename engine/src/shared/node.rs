//! A slot of a context that stands for an entry of the tier.
//!
//! Its body asks the tier, its value is a [`Held`]. So within one context the tier is asked once for each task and input, and then the same
//! value is given, whatever a refresh does meanwhile. There are two kinds, which differ in who finds them:
//!
//! * in a request's context, put in by [`Ctx::run_shared`](crate::Ctx::run_shared): a type id of its own, so that it is not taken for the
//!   request's own run of a task;
//! * in the context of a run of the tier, put in by whatever calls a task there: the task's own type id, so that `run`, `parallel`, `spawn`
//!   and all others find it, with a `Meta` that knows the other layout.

use std::any::TypeId;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use super::Shared;
use super::entry::{Entry, TaskMeta, task_meta};
use super::run::Ask;
use crate::context::{CorePtr, Ctx};
use crate::error::TaskError;
use crate::held::Held;
use crate::run::Run;
use crate::slot::{Body, Meta, Slot, SlotPtr, input, name, type_id};
use crate::sync::Arc;
use crate::sync::cell::UnsafeCell;
use crate::task::{Input, Key, Task};

/// As a node of the module `slot`: the slot and the input first.
#[repr(C)]
struct Node<In, T: 'static> {
    slot: Slot,
    input: In,
    place: UnsafeCell<MaybeUninit<Held<T>>>,
}

/// The body: a question, behind what its type knows to do.
#[repr(C)]
struct AskBody<In, T> {
    head: Body,
    ask: Ask,
    types: PhantomData<fn(In) -> T>,
}

/// A slot for the context of a run of the tier, whose state is `G`.
pub(crate) fn new_node<G, F, In>(hash: u64, input: In) -> SlotPtr
where
    G: Send + Sync + 'static,
    F: Task<G, In>,
    In: Input,
{
    make::<In, F::Value>(hash, const { &Inside::<G, F, In>::META }, input)
}

fn make<In, T: 'static>(hash: u64, meta: &'static Meta, input: In) -> SlotPtr {
    let node = Box::new(Node::<In, T> {
        slot: Slot::new(hash, meta, false),
        input,
        place: UnsafeCell::new(MaybeUninit::uninit()),
    });
    let node = NonNull::from(Box::leak(node));
    // SAFETY: it is a whole node; it is freed by `free` with the context that it is put into.
    unsafe { SlotPtr::new(node.cast::<Slot>()) }
}

/// What does not depend on the task: the layout.
impl<In: Input, T: Send + Sync + 'static> Node<In, T> {
    /// # Safety
    /// The slot is such a node.
    unsafe fn of<'c>(slot: SlotPtr) -> &'c Self {
        // SAFETY: the promise of the caller; the pointer was made from the whole node.
        unsafe { &*slot.as_ptr().cast::<Self>() }
    }

    /// # Safety
    /// The slot is such a node, and was seen DONE.
    unsafe fn value(slot: SlotPtr) -> NonNull<()> {
        // SAFETY: the promise of the caller.
        let node = unsafe { Self::of(slot) };
        // SAFETY: DONE was seen with Acquire (S0), pairing with S7: the value is written, and is not written again.
        let held = unsafe { node.place.read(MaybeUninit::as_ptr) };
        // SAFETY: as above.
        let held: &Held<T> = unsafe { &*held };
        NonNull::from(&**held).cast()
    }

    /// # Safety
    /// The slot is such a node and has a value that nobody reads any more.
    unsafe fn drop_value(slot: SlotPtr) {
        // SAFETY: the promise of the caller.
        let node = unsafe { Self::of(slot) };
        // SAFETY: as above.
        let held = unsafe { node.place.write(MaybeUninit::as_mut_ptr) };
        // SAFETY: as above.
        unsafe { held.drop_in_place() };
    }

    /// # Safety
    /// The slot is such a node and nobody has it any more.
    unsafe fn free(slot: SlotPtr) {
        // SAFETY: it came out of a box (`make`).
        drop(unsafe { Box::from_raw(slot.as_ptr().cast::<Self>()) });
    }

    fn body(ask: Ask) -> NonNull<Body> {
        let body = Box::new(AskBody::<In, T> {
            head: Body {
                poll: AskBody::<In, T>::poll,
                drop: AskBody::<In, T>::drop,
            },
            ask,
            types: PhantomData,
        });
        NonNull::from(Box::leak(body)).cast()
    }
}

impl<In: Input, T: Send + Sync + 'static> AskBody<In, T> {
    /// # Safety
    /// The body is of this type, alive, and the claim of its slot is held; the slot is a `Node<In, T>`.
    unsafe fn poll(
        body: NonNull<Body>,
        slot: SlotPtr,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TaskError>> {
        // SAFETY: the promise of the caller.
        let ask = unsafe { &mut body.cast::<Self>().as_mut().ask };
        let Poll::Ready(outcome) = ask.poll(cx) else {
            return Poll::Pending;
        };
        // SAFETY: the claim is held.
        unsafe { slot.take_body() };
        // SAFETY: the body is alive, and not used after this. An input's destructor that panics is contained by its entry.
        unsafe { Self::drop(body) };
        // SAFETY: the entry is of a task with this value.
        let held = match outcome.and_then(|outcome| unsafe { outcome.into_result::<T>() }) {
            Ok(held) => held,
            Err(error) => return Poll::Ready(Err(error)),
        };
        // SAFETY: the promise of the caller.
        let node = unsafe { Node::<In, T>::of(slot) };
        // SAFETY: the claim is held, and a run writes once.
        unsafe {
            node.place.write(|place| {
                place.write(held);
            })
        };
        Poll::Ready(Ok(()))
    }

    /// # Safety
    /// The body is of this type, alive, and not used after this.
    unsafe fn drop(body: NonNull<Body>) {
        // SAFETY: it came out of a box (`Node::body`).
        drop(unsafe { Box::from_raw(body.cast::<Self>().as_ptr()) });
    }
}

/// An entry for the input of a slot.
///
/// # Safety
/// The slot is a node with this input, and the task takes it.
unsafe fn entry_of<In: Input>(slot: SlotPtr, task: &'static TaskMeta) -> Arc<Entry> {
    // SAFETY: the promise of the caller.
    let input = unsafe { input::<In>(slot) }.clone();
    Entry::make(slot.hash, task, input)
}

/// The kind in the context of a run of the tier.
struct Inside<G, F, In>(PhantomData<(G, F, In)>);

impl<G, F, In> Inside<G, F, In>
where
    G: Send + Sync + 'static,
    F: Task<G, In>,
    In: Input,
{
    const META: Meta = Meta {
        type_id: type_id::<G, F, In>(),
        name: name::<G, F, In>,
        stands: true,
        start: Self::start,
        renew: Self::renew,
        value: Node::<In, F::Value>::value,
        drop_value: Node::<In, F::Value>::drop_value,
        free: Node::<In, F::Value>::free,
    };

    /// # Safety
    /// The slot is of this kind, and the caller holds its claim.
    unsafe fn start(slot: SlotPtr, core: CorePtr) -> NonNull<Body> {
        let Some(tier) = core.tier() else {
            unreachable!("a context with such a slot is one of a tier's runs")
        };
        // SAFETY: the promise of the caller.
        let entry = unsafe { entry_of::<In>(slot, task_meta::<G, F, In>()) };
        Node::<In, F::Value>::body(Ask::new(tier.clone(), entry, Some((core, slot))))
    }

    /// # Safety
    /// The slot is of this kind and belongs to the context.
    unsafe fn renew(slot: SlotPtr, core: CorePtr) -> SlotPtr {
        // SAFETY: the promise of the caller.
        let input = unsafe { input::<In>(slot) }.clone();
        core.find_or_insert::<G, F, In, In>(slot.hash, input)
    }
}

/// The kind in a context whose state `S` has the tier.
struct Over<S, G, F, In>(PhantomData<(S, G, F, In)>);

impl<S, G, F, In> Over<S, G, F, In>
where
    S: AsRef<Shared<G>> + Send + Sync + 'static,
    G: Send + Sync + 'static,
    F: Task<G, In>,
    In: Input,
{
    const META: Meta = Meta {
        type_id: Self::ID,
        name: name::<G, F, In>,
        stands: true,
        start: Self::start,
        renew: Self::renew,
        value: Node::<In, F::Value>::value,
        drop_value: Node::<In, F::Value>::drop_value,
        free: Node::<In, F::Value>::free,
    };

    /// Another one than the task's own: a context may run a task itself and have it from the tier too. (The state is part of it for the
    /// case of two tiers.)
    const ID: TypeId = TypeId::of::<(Over<S, G, F, In>, F::Value, F::Error)>();

    const fn meta() -> &'static Meta {
        const { &Self::META }
    }

    #[inline(always)]
    fn is<K>(slot: SlotPtr, key: &K) -> bool
    where
        In: Input<K>,
    {
        // SAFETY: the slot is of this kind, as its id says.
        (std::ptr::eq(slot.meta, Self::meta()) || slot.meta.type_id == Self::ID)
            && Input::<K>::is(unsafe { input::<In>(slot) }, key)
    }

    /// # Safety
    /// The slot is of this kind, and the caller holds its claim.
    unsafe fn start(slot: SlotPtr, core: CorePtr) -> NonNull<Body> {
        // SAFETY: the context has this state: it is the one of the call that put the slot in.
        let shared: &Shared<G> = unsafe { core.state::<S>() }.as_ref();
        // SAFETY: the promise of the caller.
        let entry = unsafe { entry_of::<In>(slot, task_meta::<G, F, In>()) };
        // A request may wait for the tier, and nothing there waits for a request: an edge is needed between runs of a tier only.
        let from = core.tier().map(|_| (core, slot));
        Node::<In, F::Value>::body(Ask::new(shared.tier().clone(), entry, from))
    }

    /// # Safety
    /// The slot is of this kind and belongs to the context.
    unsafe fn renew(slot: SlotPtr, core: CorePtr) -> SlotPtr {
        // SAFETY: the promise of the caller.
        let input = unsafe { input::<In>(slot) }.clone();
        Self::find_or_put::<In>(core, slot.hash, input)
    }

    #[inline(never)]
    fn find_or_put<K>(core: CorePtr, hash: u64, key: K) -> SlotPtr
    where
        In: Input<K>,
    {
        core.find_or_put(
            hash,
            key,
            Self::is::<K>,
            |key| make::<In, F::Value>(hash, Self::meta(), In::from_key(key)),
            // SAFETY: the second one was just made, of this kind.
            |slot, new| Self::is::<In>(slot, unsafe { input::<In>(new) }),
        )
    }
}

/// [`Ctx::run_shared`].
#[inline]
pub(crate) fn run_shared<'a, S, G, F, In, K>(ctx: &'a Ctx<S>, input: K) -> Run<'a, S, F::Value>
where
    S: AsRef<Shared<G>> + Send + Sync + 'static,
    G: Send + Sync + 'static,
    F: Task<G, In>,
    In: Input<K>,
    K: Key<In>,
{
    let core = ctx.core();
    let hash = core.hash_for::<G, F, In, K>(&input);
    let found = core.find_done(hash, |slot| Over::<S, G, F, In>::is::<K>(slot, &input));
    match found {
        Some(slot) => {
            // SAFETY: the slot is of this kind and was seen DONE; it lives as long as the context.
            let value = unsafe { Node::<In, F::Value>::value(slot) };
            // SAFETY: as above.
            Run::hit(ctx, unsafe { value.cast::<F::Value>().as_ref() })
        }
        None => Run::call(
            ctx,
            Over::<S, G, F, In>::find_or_put::<K>(core, hash, input),
        ),
    }
}
