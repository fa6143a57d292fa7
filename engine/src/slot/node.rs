//! The typed part of a slot: input, value and body, and the functions of [`Meta`] that know the types.
//!
//! Everything else works on [`Slot`], so that the engine is compiled once and not once per task. What is sound here rests
//! on one fact: a slot is only ever used with the types that made its [`Meta`], which [`type_id`] tells.
//!
//! # Layout
//! A node is the slot, the input, and a place. The value lies in the place. So does a body that is small enough, before: a body is
//! dropped before its value is written, so they never need the place together. A larger body is boxed, so that the memory goes with it.
//! (A node of a task costs one allocation then, and a slot that is done keeps no more than `INLINE_BYTES` for nothing.)

use std::any::TypeId;
use std::future::Future;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use super::{Body, Meta, Slot, SlotPtr};
use crate::batch;
use crate::context::{CorePtr, Ctx, Fake};
use crate::error::TaskError;
use crate::stack;
use crate::sync::cell::UnsafeCell;
use crate::task::{Input, Task};

/// How large a body may be to lie in its slot, unless its value is larger anyway.
const INLINE_BYTES: usize = 192;

/// The part of a node that depends on the input only.
#[repr(C)]
struct Keyed<In> {
    slot: Slot,
    input: In,
}

/// A node, with a place for a `P`.
#[repr(C)]
struct Node<In, P> {
    keyed: Keyed<In>,
    place: UnsafeCell<MaybeUninit<P>>,
}

/// Never read as a union: it is as large and as aligned as either.
union Either<T, B> {
    _value: ManuallyDrop<T>,
    _body: ManuallyDrop<B>,
}

/// Of task, input, value and error together: the identity of a slot.
#[inline(always)]
pub(crate) const fn type_id<S, F: Task<S, In>, In: 'static>() -> TypeId {
    TypeId::of::<(F, In, F::Value, F::Error)>()
}

/// What the slots of a task know to do.
#[inline(always)]
pub(crate) const fn meta<S, F, In>() -> &'static Meta
where
    S: Send + Sync + 'static,
    F: Task<S, In>,
    In: Input,
{
    const { &Types::<S, F, In>::META }
}

/// The input of a slot.
///
/// # Safety
/// The slot was made for this type of input, and lives for `'c`.
#[inline(always)]
pub(crate) unsafe fn input<'c, In>(slot: SlotPtr) -> &'c In {
    // SAFETY: the promise of the caller; the pointer was made from the whole node (`new_node`), which begins with this.
    unsafe { &(*slot.as_ptr().cast::<Keyed<In>>()).input }
}

/// The value of a slot.
///
/// # Safety
/// The slot was made for these types, was seen DONE, and lives for `'c`.
#[inline(always)]
pub(crate) unsafe fn value<'c, S, F, In>(slot: SlotPtr) -> &'c F::Value
where
    S: Send + Sync + 'static,
    F: Task<S, In> + 'c,
    In: Input,
{
    // SAFETY: DONE was seen with Acquire (S0), pairing with S7, so the value is written; it is not written again.
    let value = unsafe { Types::<S, F, In>::place(slot) };
    // SAFETY: as above.
    unsafe { &*value }
}

/// As [`value`], for a task whose type cannot be named.
///
/// # Safety
/// As for [`value`].
pub(crate) unsafe fn value_at<'c, S, F, In>(slot: SlotPtr, task: F) -> &'c F::Value
where
    S: Send + Sync + 'static,
    F: Task<S, In> + 'c,
    In: Input,
{
    let _ = task;
    // SAFETY: the promise of the caller.
    unsafe { value::<S, F, In>(slot) }
}

/// Writes the value of a slot.
///
/// # Safety
/// The slot was made for these types, the caller holds its claim, and there is neither a value nor a body.
pub(crate) unsafe fn write<S, F, In>(slot: SlotPtr, value: F::Value)
where
    S: Send + Sync + 'static,
    F: Task<S, In>,
    In: Input,
{
    // SAFETY: the claim is exclusive.
    let place = unsafe { Types::<S, F, In>::place_mut(slot) };
    // SAFETY: as above.
    unsafe { place.cast::<F::Value>().write(value) };
}

/// As [`write()`], for a task whose type cannot be named.
///
/// # Safety
/// As for [`write()`].
pub(crate) unsafe fn write_at<S, F, In>(slot: SlotPtr, task: F, value: F::Value)
where
    S: Send + Sync + 'static,
    F: Task<S, In>,
    In: Input,
{
    let _ = task;
    // SAFETY: the promise of the caller.
    unsafe { write::<S, F, In>(slot, value) };
}

/// The name of a task; of an inner one of batches that of the function.
pub(crate) fn name<S, F, In>() -> &'static str
where
    S: Send + Sync + 'static,
    F: Task<S, In>,
    In: Input,
{
    let name = std::any::type_name::<F>();
    // Known when it is compiled.
    if batch::is_ours::<F::Value, F::Error>() {
        batch::name(name)
    } else {
        name
    }
}

/// A new slot: in the context's room while there is some, then on the heap.
#[inline]
pub(crate) fn new_node<S, F, In>(core: CorePtr, hash: u64, input: In) -> SlotPtr
where
    S: Send + Sync + 'static,
    F: Task<S, In>,
    In: Input,
{
    if Types::<S, F, In>::INLINE {
        placed::<In, Either<F::Value, OwnBody<S, F, In>>>(core, hash, meta::<S, F, In>(), input)
    } else {
        placed::<In, F::Value>(core, hash, meta::<S, F, In>(), input)
    }
}

#[inline(always)]
fn placed<In, P>(core: CorePtr, hash: u64, meta: &'static Meta, input: In) -> SlotPtr {
    let (node, roomed) = match core.place::<Node<In, P>>() {
        Some(place) => (place, true),
        None => (
            NonNull::from(Box::leak(Box::<Node<In, P>>::new_uninit())).cast(),
            false,
        ),
    };
    let new = Node::<In, P> {
        keyed: Keyed {
            slot: Slot::new(hash, meta, roomed),
            input,
        },
        place: UnsafeCell::new(MaybeUninit::uninit()),
    };
    // SAFETY: it is the place for a node, and nobody else's.
    unsafe { node.write(new) };
    // SAFETY: it is a whole node; it is freed by `free` with the context that it is put into.
    unsafe { SlotPtr::new(node.cast::<Slot>()) }
}

/// # Safety
/// The slot is in a `Node<In, P>` and nobody has it any more.
unsafe fn free_node<In, P>(slot: SlotPtr) {
    let node = slot.as_ptr().cast::<Node<In, P>>();
    if slot.is_roomed() {
        // SAFETY: the promise of the caller; the memory goes with the context.
        unsafe { node.drop_in_place() };
    } else {
        // SAFETY: the promise of the caller; it came out of a box (`placed`).
        drop(unsafe { Box::from_raw(node) });
    }
}

struct Types<S, F, In>(PhantomData<(S, F, In)>);

/// The body of the task itself. (A stand-in's is another type, and boxed.)
type OwnBody<S, F, In> = TypedBody<S, F, In, <F as Task<S, In>>::Future>;

impl<S, F, In> Types<S, F, In>
where
    S: Send + Sync + 'static,
    F: Task<S, In>,
    In: Input,
{
    /// Bodies lie in the place.
    const INLINE: bool = size_of::<OwnBody<S, F, In>>() <= INLINE_BYTES
        || size_of::<OwnBody<S, F, In>>() <= size_of::<F::Value>();

    const META: Meta = {
        assert!(
            size_of::<F>() == 0,
            "a task must not capture: its type is its identity, so two captures of one closure would share their values. \
             Pass what it needs in its input or in the state of the context"
        );
        Meta {
            type_id: type_id::<S, F, In>(),
            name: name::<S, F, In>,
            stands: false,
            start: Self::start,
            renew: Self::renew,
            value: Self::value,
            drop_value: Self::drop_value,
            free: Self::free,
        }
    };

    /// The place, as the address of a value.
    ///
    /// # Safety
    /// The slot was made for these types, and nobody writes the place now.
    #[inline(always)]
    unsafe fn place(slot: SlotPtr) -> *const F::Value {
        if Self::INLINE {
            // SAFETY: the promise of the caller: the node has this layout.
            let node = unsafe {
                &*slot
                    .as_ptr()
                    .cast::<Node<In, Either<F::Value, OwnBody<S, F, In>>>>()
            };
            // SAFETY: the promise of the caller.
            unsafe { node.place.read(|place| place.as_ptr().cast()) }
        } else {
            // SAFETY: as above.
            let node = unsafe { &*slot.as_ptr().cast::<Node<In, F::Value>>() };
            // SAFETY: as above.
            unsafe { node.place.read(|place| place.as_ptr()) }
        }
    }

    /// # Safety
    /// The slot was made for these types, and its place is the caller's.
    unsafe fn place_mut(slot: SlotPtr) -> *mut () {
        if Self::INLINE {
            // SAFETY: the promise of the caller: the node has this layout.
            let node = unsafe {
                &*slot
                    .as_ptr()
                    .cast::<Node<In, Either<F::Value, OwnBody<S, F, In>>>>()
            };
            // SAFETY: the promise of the caller.
            unsafe { node.place.write(|place| place.as_mut_ptr().cast()) }
        } else {
            // SAFETY: as above.
            let node = unsafe { &*slot.as_ptr().cast::<Node<In, F::Value>>() };
            // SAFETY: as above.
            unsafe { node.place.write(|place| place.as_mut_ptr().cast()) }
        }
    }

    /// # Safety
    /// The slot was made for these types, and the caller holds its claim.
    unsafe fn start(slot: SlotPtr, core: CorePtr) -> NonNull<Body> {
        // SAFETY: the promise of the caller.
        let input = unsafe { input::<In>(slot) }.clone();
        let ctx = Ctx::<S>::of_body(core, slot);
        if let Some(fakes) = core.fakes()
            && let Some(fake) = fakes.get(&type_id::<S, F, In>())
            && let Some(fake) = fake.downcast_ref::<Fake<S, In, F::Value, F::Error>>()
        {
            return TypedBody::<S, F, In, _>::boxed(fake(ctx, input));
        }
        // SAFETY: a task has no bytes (asserted in META), is Copy, and one was given to the call that made this slot.
        let task = unsafe { NonNull::<F>::dangling().read() };
        let future = task.call(ctx, input);
        if Self::INLINE {
            // SAFETY: the claim is held, and there is no value.
            let place = unsafe { Self::place_mut(slot) }.cast::<OwnBody<S, F, In>>();
            // SAFETY: the place is large enough (`Either`).
            unsafe {
                place.write(TypedBody::new(
                    future,
                    Body::drop_in_place::<OwnBody<S, F, In>>,
                ))
            };
            // SAFETY: it is a place in a node.
            unsafe { NonNull::new_unchecked(place.cast()) }
        } else {
            TypedBody::<S, F, In, _>::boxed(future)
        }
    }

    /// # Safety
    /// The slot was made for these types and belongs to the context.
    unsafe fn renew(slot: SlotPtr, core: CorePtr) -> SlotPtr {
        // SAFETY: the promise of the caller.
        let input = unsafe { input::<In>(slot) }.clone();
        core.find_or_insert::<S, F, In, In>(slot.hash, input)
    }

    /// # Safety
    /// The slot was made for these types and was seen DONE.
    unsafe fn value(slot: SlotPtr) -> NonNull<()> {
        // SAFETY: the promise of the caller.
        NonNull::from(unsafe { value::<S, F, In>(slot) }).cast()
    }

    /// # Safety
    /// The slot was made for these types and has a value that nobody reads any more.
    unsafe fn drop_value(slot: SlotPtr) {
        // SAFETY: the promise of the caller.
        let place = unsafe { Self::place_mut(slot) };
        // SAFETY: as above.
        unsafe { place.cast::<F::Value>().drop_in_place() };
    }

    /// # Safety
    /// The slot was made for these types and nobody has it any more.
    unsafe fn free(slot: SlotPtr) {
        // Value, error and body are dropped already.
        if Self::INLINE {
            // SAFETY: the promise of the caller: the node has this layout.
            unsafe { free_node::<In, Either<F::Value, OwnBody<S, F, In>>>(slot) };
        } else {
            // SAFETY: as above.
            unsafe { free_node::<In, F::Value>(slot) };
        }
    }
}

/// A body: the task's future, behind what it knows to do.
#[repr(C)]
struct TypedBody<S, F, In, Fut> {
    head: Body,
    future: Fut,
    types: PhantomData<fn(S, F, In)>,
}

impl Body {
    /// # Safety
    /// The body is a `B`, alive, and not used after this.
    unsafe fn drop_in_place<B>(body: NonNull<Body>) {
        // SAFETY: the promise of the caller.
        unsafe { body.cast::<B>().drop_in_place() };
    }

    /// # Safety
    /// The body is a `B` out of a box, alive, and not used after this.
    unsafe fn drop_box<B>(body: NonNull<Body>) {
        // SAFETY: the promise of the caller. If the future's destructor unwinds, the memory is freed all the same.
        drop(unsafe { Box::from_raw(body.cast::<B>().as_ptr()) });
    }
}

impl<S, F, In, Fut> TypedBody<S, F, In, Fut>
where
    S: Send + Sync + 'static,
    F: Task<S, In>,
    In: Input,
    Fut: Future<Output = Result<F::Value, F::Error>>,
{
    #[inline(always)]
    fn new(future: Fut, drop: unsafe fn(NonNull<Body>)) -> Self {
        Self {
            head: Body {
                poll: Self::poll,
                drop,
            },
            future,
            types: PhantomData,
        }
    }

    fn boxed(future: Fut) -> NonNull<Body> {
        let body = Box::new(Self::new(future, Body::drop_box::<Self>));
        NonNull::from(Box::leak(body)).cast()
    }

    /// # Safety
    /// The body is of this type, alive, and the claim of its slot is held; the slot is of these types.
    unsafe fn poll(
        body: NonNull<Body>,
        slot: SlotPtr,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TaskError>> {
        // SAFETY: the promise of the caller.
        let future = unsafe { &mut body.cast::<Self>().as_mut().future };
        // SAFETY: as above. It is not moved out of its place or box, so it is pinned.
        let Poll::Ready(outcome) = (unsafe { Pin::new_unchecked(future) }).poll(cx) else {
            return Poll::Pending;
        };
        // The body goes first: the value may need its place.
        // SAFETY: the claim is held.
        unsafe { slot.take_body() };
        // SAFETY: the body is alive.
        let drop_body = unsafe { body.as_ref().drop };
        // SAFETY: the body is alive, and not used after this.
        let dropped = catch_unwind(AssertUnwindSafe(|| unsafe { drop_body(body) }));
        Poll::Ready(match (outcome, dropped) {
            (Ok(value), Ok(())) => {
                // SAFETY: the claim is held, and a run writes once.
                unsafe { write::<S, F, In>(slot, value) };
                Ok(())
            }
            (Err(error), Ok(())) => {
                Err(TaskError::returned(slot.name(), error, slot.is_transient()))
            }
            (outcome, Err(payload)) => {
                stack::contain(|| drop(outcome));
                Err(TaskError::panicked(slot.name(), payload))
            }
        })
    }
}
