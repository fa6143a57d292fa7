//! The typed part of a slot: input and value, and the functions of [`Meta`] that know the types.
//!
//! Everything else works on [`Slot`], so that the engine is compiled once and not once per task. What is sound here rests
//! on one fact: a slot is only ever seen as a [`Node`] of the types that made its [`Meta`], which [`type_id`] tells.

use std::any::TypeId;
use std::future::Future;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use super::{Body, Meta, Slot, SlotPtr};
use crate::context::{CorePtr, Ctx, Fake};
use crate::error::TaskError;
use crate::sync::cell::UnsafeCell;
use crate::task::{Input, Task};

/// A slot with its input and the place for its value.
#[repr(C)]
pub(crate) struct Node<In, T> {
    slot: Slot,
    pub(crate) input: In,
    value: UnsafeCell<MaybeUninit<T>>,
}

impl<In, T> Node<In, T> {
    /// # Safety
    /// The slot was made for these types, and lives for `'c`.
    #[inline(always)]
    pub(crate) unsafe fn of<'c>(slot: SlotPtr) -> &'c Self {
        // SAFETY: the promise of the caller; the pointer was made from the whole node (`new_node`).
        unsafe { &*slot.as_ptr().cast::<Self>() }
    }

    /// # Safety
    /// The slot was seen DONE.
    #[inline(always)]
    pub(crate) unsafe fn value(&self) -> &T {
        // SAFETY: DONE was seen with Acquire (S0), pairing with S7, so the value is written; it is not written again.
        let value = unsafe { self.value.read(|value| value) };
        // SAFETY: as above.
        unsafe { value.assume_init_ref() }
    }

    /// # Safety
    /// The caller holds the claim of the slot, and there is no value.
    pub(crate) unsafe fn write(&self, value: T) {
        // SAFETY: the claim is exclusive.
        unsafe { self.value.write(|place| _ = place.write(value)) };
    }
}

/// Of task, input, value and error together: the identity of a slot.
#[inline(always)]
pub(crate) const fn type_id<S, F: Task<S, In>, In: 'static>() -> TypeId {
    TypeId::of::<(F, In, F::Value, F::Error)>()
}

struct Types<S, F, In>(PhantomData<(S, F, In)>);

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

/// A new slot on the heap.
pub(crate) fn new_node<S, F, In>(hash: u64, input: In) -> SlotPtr
where
    S: Send + Sync + 'static,
    F: Task<S, In>,
    In: Input,
{
    // In this order the parts are written in their place, and not copied there.
    let node = Box::write(
        Box::new_uninit(),
        Node::<In, F::Value> {
            slot: Slot::new(hash, meta::<S, F, In>()),
            input,
            value: UnsafeCell::new(MaybeUninit::uninit()),
        },
    );
    let node = NonNull::from(Box::leak(node));
    // SAFETY: it is a whole node; it is freed by `free` with the context that it is put into.
    unsafe { SlotPtr::new(node.cast::<Slot>()) }
}

impl<S, F, In> Types<S, F, In>
where
    S: Send + Sync + 'static,
    F: Task<S, In>,
    In: Input,
{
    const META: Meta = {
        assert!(
            size_of::<F>() == 0,
            "a task must not capture: its type is its identity, so two captures of one closure would share their values. \
             Pass what it needs in its input or in the state of the context"
        );
        Meta {
            type_id: type_id::<S, F, In>(),
            name: std::any::type_name::<F>,
            start: Self::start,
            renew: Self::renew,
            value: Self::value,
            drop_value: Self::drop_value,
            free: Self::free,
        }
    };

    /// # Safety
    /// The slot was made for these types.
    unsafe fn start(slot: SlotPtr, core: CorePtr) -> NonNull<Body> {
        // SAFETY: the promise of the caller.
        let node = unsafe { Node::<In, F::Value>::of(slot) };
        let input = node.input.clone();
        let ctx = Ctx::<S>::of_body(core, slot);
        if let Some(fakes) = core.fakes()
            && let Some(fake) = fakes.get(&type_id::<S, F, In>())
            && let Some(fake) = fake.downcast_ref::<Fake<S, In, F::Value, F::Error>>()
        {
            return TypedBody::<In, F::Value, F::Error, _>::boxed(fake(ctx, input));
        }
        // SAFETY: a task has no bytes (asserted in META), is Copy, and one was given to the call that made this slot.
        let task = unsafe { NonNull::<F>::dangling().read() };
        TypedBody::<In, F::Value, F::Error, _>::boxed(task.call(ctx, input))
    }

    /// # Safety
    /// The slot was made for these types and belongs to the context.
    unsafe fn renew(slot: SlotPtr, core: CorePtr) -> SlotPtr {
        // SAFETY: the promise of the caller.
        let node = unsafe { Node::<In, F::Value>::of(slot) };
        core.find_or_insert::<S, F, In, In>(slot.hash, node.input.clone())
    }

    /// # Safety
    /// The slot was made for these types and was seen DONE.
    unsafe fn value(slot: SlotPtr) -> NonNull<()> {
        // SAFETY: the promise of the caller.
        let node = unsafe { Node::<In, F::Value>::of(slot) };
        // SAFETY: as above.
        NonNull::from(unsafe { node.value() }).cast()
    }

    /// # Safety
    /// The slot was made for these types and has a value that nobody reads any more.
    unsafe fn drop_value(slot: SlotPtr) {
        // SAFETY: the promise of the caller.
        let node = unsafe { Node::<In, F::Value>::of(slot) };
        // SAFETY: as above.
        let value = unsafe { node.value.write(|value| &raw mut *value) };
        // SAFETY: as above; `MaybeUninit<T>` is laid out as `T`.
        unsafe { value.cast::<F::Value>().drop_in_place() };
    }

    /// # Safety
    /// The slot was made for these types and nobody has it any more.
    unsafe fn free(slot: SlotPtr) {
        // SAFETY: the node came out of a box (`new_node`); value and error are dropped already.
        drop(unsafe { Box::from_raw(slot.as_ptr().cast::<Node<In, F::Value>>()) });
    }
}

/// A body: the task's future, boxed.
#[repr(C)]
struct TypedBody<In, T, E, Fut> {
    head: Body,
    future: Fut,
    types: PhantomData<fn(In, T, E)>,
}

impl<In, T, E, Fut> TypedBody<In, T, E, Fut>
where
    E: Into<crate::BoxError> + 'static,
    Fut: Future<Output = Result<T, E>>,
{
    fn boxed(future: Fut) -> NonNull<Body> {
        let body = Box::new(Self {
            head: Body {
                poll: Self::poll,
                drop: Self::drop,
            },
            future,
            types: PhantomData,
        });
        NonNull::from(Box::leak(body)).cast()
    }

    /// # Safety
    /// The body is of this type, alive, and the claim of its slot is held; the slot is of the types `In` and `T`.
    unsafe fn poll(
        body: NonNull<Body>,
        slot: SlotPtr,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TaskError>> {
        // SAFETY: the promise of the caller. The box is never moved out of, so the future is pinned.
        let body = unsafe { body.cast::<Self>().as_mut() };
        // SAFETY: as above.
        let future = unsafe { Pin::new_unchecked(&mut body.future) };
        future.poll(cx).map(|outcome| match outcome {
            Ok(value) => {
                // SAFETY: the promise of the caller.
                let node = unsafe { Node::<In, T>::of(slot) };
                // SAFETY: the claim is held, and a run writes once.
                unsafe { node.write(value) };
                Ok(())
            }
            Err(error) => Err(TaskError::returned(slot.name(), error, slot.is_transient())),
        })
    }

    /// # Safety
    /// The body is of this type, alive, and not used after this.
    unsafe fn drop(body: NonNull<Body>) {
        // SAFETY: it came out of a box; if the future's destructor unwinds, the memory is freed all the same.
        drop(unsafe { Box::from_raw(body.cast::<Self>().as_ptr()) });
    }
}
