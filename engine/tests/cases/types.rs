//! Cases that are a matter of types: what holds because this file compiles. What must *not* compile, with rustc's own
//! words, is in `compile_fail`; here it is said as "does not implement".

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use watershed::{
    BoxedCall, Call, Cancelled, Ctx, Held, HeldRun, Input, Parallel, ParallelAll, Run, RunAll,
    RunFresh, Task, TaskError, TaskErrorKind,
};

use crate::helpers::{P, Probe, at_once, gated, poll_once};

const fn send<T: Send>() {}
const fn send_and_sync<T: Send + Sync>() {}
const fn unpin<T: Unpin>() {}
const fn is_static<T: 'static>() {}
const fn output<F: Future<Output = T>, T>() {}

/// R49: every future of ours may move between threads while it waits, whatever state and values are.
const fn futures_are_send<
    S: Send + Sync + 'static,
    A: Send + Sync + 'static,
    B: Send + Sync + 'static,
>() {
    send::<Run<'static, S, A>>();
    send::<HeldRun<'static, S, A>>();
    send::<Parallel<'static, S, (A, B)>>();
    send::<ParallelAll<'static, S, A>>();
    send::<RunAll<'static, S>>();
    send::<RunFresh<'static, S, A>>();
    send::<Cancelled<'static, S>>();
    unpin::<Run<'static, S, A>>();
    unpin::<HeldRun<'static, S, A>>();
    unpin::<Parallel<'static, S, (A, B)>>();
    unpin::<ParallelAll<'static, S, A>>();
    unpin::<RunAll<'static, S>>();
    unpin::<RunFresh<'static, S, A>>();
    unpin::<Cancelled<'static, S>>();
    send_and_sync::<Ctx<S>>();
    send_and_sync::<Held<A>>();
    send_and_sync::<BoxedCall<S>>();
    send_and_sync::<TaskError>();
    is_static::<Held<A>>();
    is_static::<TaskError>();
}

const _: () = futures_are_send::<P, u64, String>();

/// R13: a call ends in a value or in an error. There is no third thing for a waiter to make sense of.
const fn a_call_has_two_ends<
    S: Send + Sync + 'static,
    A: Send + Sync + 'static,
    B: Send + Sync + 'static,
>() {
    output::<Run<'static, S, A>, Result<&'static A, TaskError>>();
    output::<HeldRun<'static, S, A>, Result<Held<A>, TaskError>>();
    output::<Parallel<'static, S, (A, B)>, Result<(&'static A, &'static B), TaskError>>();
    output::<ParallelAll<'static, S, A>, Result<Vec<&'static A>, TaskError>>();
    output::<RunAll<'static, S>, Result<(), TaskError>>();
    output::<RunFresh<'static, S, A>, Result<A, TaskError>>();
    output::<Cancelled<'static, S>, ()>();
}

const _: () = a_call_has_two_ends::<P, u64, String>();

/// Does not compile if the type implements the trait: then two impls could give `some`.
macro_rules! lacks {
    ($type:ty: $($bound:tt)+) => {
        const _: fn() = || {
            struct Ambiguous;
            trait Lacks<A> {
                fn some() {}
            }
            impl<T: ?Sized> Lacks<()> for T {}
            impl<T: ?Sized + $($bound)+> Lacks<Ambiguous> for T {}
            let _ = <$type as Lacks<_>>::some;
        };
    };
}

// R13: no error stands for "nothing happened", as none can be made without a reason.
lacks!(TaskError: Default);
lacks!(TaskErrorKind: Default);

#[derive(Clone, PartialEq)]
#[allow(dead_code, reason = "it is only asked about")]
struct NoHash(u64);

#[derive(Clone, PartialEq, Eq, Hash)]
#[allow(dead_code, reason = "it is only asked about")]
struct NotSync(std::rc::Rc<u64>);

#[derive(PartialEq, Eq, Hash)]
#[allow(dead_code, reason = "it is only asked about")]
struct NoClone(u64);

// R65: what has no equality and no hash is no input, rather than one that never hits.
lacks!(NoHash: Input);
lacks!(f64: Input);
lacks!(NotSync: Input);
lacks!(NoClone: Input);
lacks!(Arc<dyn Debug + Send + Sync>: Input);

// R66: a task is called with its input, or with a borrowed form of it, and with nothing else.
lacks!(u64: Input<&'static str>);
lacks!(u64: Input<u32>);
lacks!(u64: Input<()>);
lacks!(String: Input<u64>);
lacks!(String: Input<Vec<u8>>);
lacks!(Vec<u64>: Input<u64>);

// R67: nothing makes a context but `new` and the builder, so there is none that two requests could share by accident.
lacks!(Ctx<()>: Default);
lacks!(Ctx<P>: Default);
lacks!(Ctx<P>: From<P>);

/// R66: the value of a call has the type of the task's value, so no call can give the zero of another type.
#[test]
fn a_call_is_typed_by_its_task_and_input() {
    fn value_of<F: Task<P, u64>>(_: F) -> std::marker::PhantomData<F::Value> {
        std::marker::PhantomData
    }
    async fn words(ctx: Ctx<P>, text: String) -> Result<Vec<String>, TaskError> {
        let _body = ctx.state().enter();
        Ok(text.split(' ').map(str::to_owned).collect())
    }
    let _: std::marker::PhantomData<u64> = value_of(at_once);
    let bound: Call<P, _, String, &str> = words.with("a b");
    let _: BoxedCall<P> = bound.boxed();
    let probe = Probe::new();
    let ctx = Ctx::new(probe.clone());
    let run: Run<'_, P, Vec<String>> = ctx.run(words, "a b");
    assert_eq!(run.wait().unwrap(), &["a", "b"]);
    assert_eq!(probe.starts(), 1);
}

/// R13: a waiter whose first caller was dropped gets the value, in one look at a two-armed result.
#[test]
fn a_waiter_of_a_dropped_first_caller_needs_no_loop() {
    let probe = Probe::new();
    let ctx = Ctx::new(probe.clone());
    let mut first = ctx.run(gated, 1);
    let mut waiter = ctx.run(gated, 1);
    assert!(poll_once(&mut first).is_pending());
    assert!(poll_once(&mut waiter).is_pending());
    drop(first);
    probe.gate.open();
    match waiter.wait() {
        Ok(value) => assert_eq!(value, &10),
        Err(error) => panic!("{error}"),
    }
    assert_eq!(probe.starts(), 1);
}

/// R67: a request cannot find another one's context; what it gets is what it was given.
#[test]
fn a_context_is_handed_on_never_looked_up() {
    async fn whose(ctx: Ctx<&'static str>, _: ()) -> Result<&'static str, TaskError> {
        Ok(ctx.state())
    }
    let (ada, bob) = (Ctx::new("ada"), Ctx::new("bob"));
    assert_eq!(ada.run(whose, ()).wait().unwrap(), &"ada");
    assert_eq!(bob.run(whose, ()).wait().unwrap(), &"bob");
    assert_eq!(ada.clone().run(whose, ()).wait().unwrap(), &"ada");
}
