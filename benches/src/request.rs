//! `request`: a page of 13 runs and 30 calls in a scope of its own.
//!
//! ```text
//! page -> user, orders, profile, flags              joined
//! user, orders, profile, flags -> auth, subscription
//! orders -> item x 5                                joined
//! item -> auth, subscription
//! auth -> session         subscription -> auth
//! ```
//!
//! The peers are the page as one writes it without an engine: a struct with a map for each kind of thing. They call the page itself
//! directly, since nobody asks for that twice. The plain calls keep nothing: every call runs.

use std::hint::black_box;

use tokio::sync::OnceCell;
use watershed::Ctx;

use crate::drive::poll_to_end;
use crate::peers::{
    Moka, MutexMap, MutexMapOfAsyncOnceCells, PapayaMap, QuickCache, ReadInPlace, Scoped,
    ShardedMap, topcoat,
};
use crate::{Contender, Runner, Workload, names};

const ITEMS: u64 = 5;

/// The ids of the items in an order: whose order it is can be read from them.
fn items(order: u64) -> [u64; ITEMS as usize] {
    std::array::from_fn(|n| order * ITEMS + n as u64)
}

/// What a page comes to, worked out without calls.
fn page_by_formula(id: u64) -> u64 {
    let auth = id + 3;
    let subscription = auth * 3;
    let checked = auth + subscription;
    let items: u64 = items(id).iter().map(|item| checked + item).sum();
    (checked + 5) + (checked + items) + (checked + 7) + (checked + 11)
}

fn page<const YIELDS: bool>(name: &str, about: &'static str) -> Workload {
    fn by_hand<M: Scoped<u64, u64>, const YIELDS: bool>() -> Contender {
        Contender::peer(M::NAME, || {
            Runner::each(|i| {
                let loaders = by_hand::Loaders::<M, YIELDS>::new();
                poll_to_end(loaders.page(black_box(i))).unwrap()
            })
        })
    }
    Workload::new(
        name,
        about,
        page_by_formula,
        vec![
            Contender::ours(|| {
                Runner::each(|i| {
                    let ctx = Ctx::new(tasks::NotCounted::<YIELDS>);
                    *poll_to_end(ctx.run(tasks::page, black_box(i))).unwrap()
                })
            }),
            by_hand::<MutexMap<u64, OnceCell<u64>>, YIELDS>(),
            by_hand::<ReadInPlace<u64, u64>, YIELDS>(),
            by_hand::<MutexMapOfAsyncOnceCells<u64, async_once_cell::OnceCell<u64>>, YIELDS>(),
            by_hand::<ShardedMap<u64, OnceCell<u64>>, YIELDS>(),
            by_hand::<PapayaMap<u64, OnceCell<u64>>, YIELDS>(),
            by_hand::<QuickCache<u64, u64>, YIELDS>(),
            by_hand::<Moka<u64, u64>, YIELDS>(),
            Contender::peer(names::TOPCOAT, || {
                Runner::each(|i| {
                    let cx = topcoat();
                    poll_to_end(by_topcoat::page::<YIELDS>(&cx, black_box(i))).unwrap()
                })
            }),
            Contender::limit(names::PLAIN, || {
                Runner::each(|i| {
                    let loaders = by_hand::Loaders::<by_hand::Nothing, YIELDS>::new();
                    poll_to_end(loaders.page(black_box(i))).unwrap()
                })
            }),
        ],
    )
}

pub(crate) fn workloads() -> Vec<Workload> {
    vec![
        page::<false>(
            names::REQUEST,
            "a new context, a page of 13 runs and 30 calls joined, drop; all bodies are ready at once",
        )
        .goal_ns(800.0),
        page::<true>(
            names::REQUEST_YIELD,
            "the same page; each body first waits once",
        ),
    ]
}

/// Runs and calls of one page on the engine.
#[cfg(test)]
pub(crate) fn count() -> (u64, u64) {
    use std::sync::atomic::Ordering;

    let ctx = Ctx::new(tasks::Counters::default());
    let value = *poll_to_end(tasks::call(&ctx, ctx.run(tasks::page, 7))).unwrap();
    assert_eq!(value, page_by_formula(7));
    let tasks::Counters { runs, calls } = ctx.state();
    (runs.load(Ordering::Relaxed), calls.load(Ordering::Relaxed))
}

/// The page as tasks. They are generic over the state so that a test can count; the state of the
/// bench counts nothing and costs nothing.
mod tasks {
    use std::convert::Infallible;

    use watershed::{Ctx, Run, TaskError};

    use crate::drive::YieldOnce;

    pub(super) trait Count: Send + Sync + 'static {
        const YIELDS: bool = false;

        fn run(&self) {}
        fn call(&self) {}
    }

    #[derive(Debug)]
    pub(super) struct NotCounted<const YIELDS: bool>;

    impl<const Y: bool> Count for NotCounted<Y> {
        const YIELDS: bool = Y;
    }

    #[cfg(test)]
    #[derive(Debug, Default)]
    pub(super) struct Counters {
        pub(super) runs: std::sync::atomic::AtomicU64,
        pub(super) calls: std::sync::atomic::AtomicU64,
    }

    #[cfg(test)]
    impl Count for Counters {
        fn run(&self) {
            self.runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }

        fn call(&self) {
            self.calls
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The first line of every body.
    async fn runs<S: Count>(ctx: &Ctx<S>) {
        ctx.state().run();
        if S::YIELDS {
            YieldOnce::default().await;
        }
    }

    /// Every call goes through here.
    pub(super) fn call<'a, S: Count>(ctx: &Ctx<S>, run: Run<'a, S, u64>) -> Run<'a, S, u64> {
        ctx.state().call();
        run
    }

    async fn session<S: Count>(ctx: Ctx<S>, id: u64) -> Result<u64, Infallible> {
        runs(&ctx).await;
        Ok(id + 1)
    }

    async fn auth<S: Count>(ctx: Ctx<S>, id: u64) -> Result<u64, TaskError> {
        runs(&ctx).await;
        Ok(call(&ctx, ctx.run(session, id)).await? + 2)
    }

    async fn subscription<S: Count>(ctx: Ctx<S>, id: u64) -> Result<u64, TaskError> {
        runs(&ctx).await;
        Ok(call(&ctx, ctx.run(auth, id)).await? * 3)
    }

    /// What nearly every task asks first.
    async fn checked<S: Count>(ctx: &Ctx<S>, id: u64) -> Result<u64, TaskError> {
        runs(ctx).await;
        let auth = call(ctx, ctx.run(auth, id)).await?;
        let subscription = call(ctx, ctx.run(subscription, id)).await?;
        Ok(auth + subscription)
    }

    async fn user<S: Count>(ctx: Ctx<S>, id: u64) -> Result<u64, TaskError> {
        Ok(checked(&ctx, id).await? + 5)
    }

    async fn profile<S: Count>(ctx: Ctx<S>, id: u64) -> Result<u64, TaskError> {
        Ok(checked(&ctx, id).await? + 7)
    }

    async fn flags<S: Count>(ctx: Ctx<S>, id: u64) -> Result<u64, TaskError> {
        Ok(checked(&ctx, id).await? + 11)
    }

    async fn item<S: Count>(ctx: Ctx<S>, item: u64) -> Result<u64, TaskError> {
        Ok(checked(&ctx, item / super::ITEMS).await? + item)
    }

    async fn orders<S: Count>(ctx: Ctx<S>, id: u64) -> Result<u64, TaskError> {
        let checked = checked(&ctx, id).await?;
        let one = |id| call(&ctx, ctx.run(item, id));
        let [a, b, c, d, e] = super::items(id);
        let (a, b, c, d, e) = tokio::try_join!(one(a), one(b), one(c), one(d), one(e))?;
        Ok(checked + a + b + c + d + e)
    }

    pub(super) async fn page<S: Count>(ctx: Ctx<S>, id: u64) -> Result<u64, TaskError> {
        runs(&ctx).await;
        let (user, orders, profile, flags) = tokio::try_join!(
            call(&ctx, ctx.run(user, id)),
            call(&ctx, ctx.run(orders, id)),
            call(&ctx, ctx.run(profile, id)),
            call(&ctx, ctx.run(flags, id)),
        )?;
        Ok(user + orders + profile + flags)
    }
}

/// The page over a map for each kind of thing.
mod by_hand {
    use std::borrow::Borrow;
    use std::hash::Hash;

    use crate::drive::YieldOnce;
    use crate::peers::{Failure, Memo, Part, Scoped, memo};

    /// Keeps nothing.
    pub(super) struct Nothing;

    memo!(Nothing, crate::names::PLAIN, Self);

    impl<K: Part + Hash + Eq, V: Part> Scoped<K, V> for Nothing {
        async fn get_scoped<Q, R, F>(
            &self,
            _: &Q,
            body: impl FnOnce() -> F + Send,
            read: impl FnOnce(&V) -> R + Send,
        ) -> Result<R, Failure>
        where
            K: Borrow<Q>,
            Q: Hash + Eq + ToOwned<Owned = K> + Sync + ?Sized,
            R: Send,
            F: Future<Output = Result<V, Failure>> + Send,
        {
            Ok(read(&body().await?))
        }
    }

    pub(super) struct Loaders<M, const YIELDS: bool> {
        sessions: M,
        auths: M,
        subscriptions: M,
        users: M,
        profiles: M,
        flags: M,
        items: M,
        orders: M,
    }

    /// The first line of every body.
    async fn runs<const YIELDS: bool>() {
        if YIELDS {
            YieldOnce::default().await;
        }
    }

    impl<M: Scoped<u64, u64>, const Y: bool> Loaders<M, Y> {
        pub(super) fn new() -> Self {
            Self {
                sessions: M::new(),
                auths: M::new(),
                subscriptions: M::new(),
                users: M::new(),
                profiles: M::new(),
                flags: M::new(),
                items: M::new(),
                orders: M::new(),
            }
        }

        async fn session(&self, id: u64) -> Result<u64, Failure> {
            let body = || async {
                runs::<Y>().await;
                Ok(id + 1)
            };
            self.sessions.get_scoped(&id, body, u64::clone).await
        }

        async fn auth(&self, id: u64) -> Result<u64, Failure> {
            let body = || async {
                runs::<Y>().await;
                Ok(self.session(id).await? + 2)
            };
            self.auths.get_scoped(&id, body, u64::clone).await
        }

        async fn subscription(&self, id: u64) -> Result<u64, Failure> {
            let body = || async {
                runs::<Y>().await;
                Ok(self.auth(id).await? * 3)
            };
            self.subscriptions.get_scoped(&id, body, u64::clone).await
        }

        async fn checked(&self, id: u64) -> Result<u64, Failure> {
            runs::<Y>().await;
            Ok(self.auth(id).await? + self.subscription(id).await?)
        }

        async fn user(&self, id: u64) -> Result<u64, Failure> {
            let body = || async { Ok(self.checked(id).await? + 5) };
            self.users.get_scoped(&id, body, u64::clone).await
        }

        async fn profile(&self, id: u64) -> Result<u64, Failure> {
            let body = || async { Ok(self.checked(id).await? + 7) };
            self.profiles.get_scoped(&id, body, u64::clone).await
        }

        async fn flags(&self, id: u64) -> Result<u64, Failure> {
            let body = || async { Ok(self.checked(id).await? + 11) };
            self.flags.get_scoped(&id, body, u64::clone).await
        }

        async fn item(&self, item: u64) -> Result<u64, Failure> {
            let body = || async { Ok(self.checked(item / super::ITEMS).await? + item) };
            self.items.get_scoped(&item, body, u64::clone).await
        }

        async fn order(&self, id: u64) -> Result<u64, Failure> {
            let body = || async {
                let checked = self.checked(id).await?;
                let [a, b, c, d, e] = super::items(id);
                let (a, b, c, d, e) = tokio::try_join!(
                    self.item(a),
                    self.item(b),
                    self.item(c),
                    self.item(d),
                    self.item(e),
                )?;
                Ok(checked + a + b + c + d + e)
            };
            self.orders.get_scoped(&id, body, u64::clone).await
        }

        pub(super) async fn page(&self, id: u64) -> Result<u64, Failure> {
            runs::<Y>().await;
            let (user, order, profile, flags) = tokio::try_join!(
                self.user(id),
                self.order(id),
                self.profile(id),
                self.flags(id),
            )?;
            Ok(user + order + profile + flags)
        }
    }
}

/// The page as topcoat's macro makes it: functions that take the request's context.
mod by_topcoat {
    use topcoat_core::context::{Cx, memoize_cache};

    use crate::drive::YieldOnce;
    use crate::peers::Failure;

    type Answer = Result<u64, Failure>;

    /// The first line of every body.
    async fn runs<const YIELDS: bool>() {
        if YIELDS {
            YieldOnce::default().await;
        }
    }

    macro_rules! memoize {
        ($cx:ident, $id:ident, $body:expr) => {
            memoize_cache($cx)
                .memoize_async($cx, (&$id,), $id, $body)
                .await
                .clone()
        };
    }

    async fn session<const Y: bool>(cx: &Cx, id: u64) -> Answer {
        memoize!(cx, id, async |_: &Cx, id: u64| -> Answer {
            runs::<Y>().await;
            Ok(id + 1)
        })
    }

    async fn auth<const Y: bool>(cx: &Cx, id: u64) -> Answer {
        memoize!(cx, id, async |cx: &Cx, id: u64| -> Answer {
            runs::<Y>().await;
            Ok(session::<Y>(cx, id).await? + 2)
        })
    }

    async fn subscription<const Y: bool>(cx: &Cx, id: u64) -> Answer {
        memoize!(cx, id, async |cx: &Cx, id: u64| -> Answer {
            runs::<Y>().await;
            Ok(auth::<Y>(cx, id).await? * 3)
        })
    }

    async fn checked<const Y: bool>(cx: &Cx, id: u64) -> Answer {
        runs::<Y>().await;
        Ok(auth::<Y>(cx, id).await? + subscription::<Y>(cx, id).await?)
    }

    async fn user<const Y: bool>(cx: &Cx, id: u64) -> Answer {
        memoize!(cx, id, async |cx: &Cx, id: u64| -> Answer {
            Ok(checked::<Y>(cx, id).await? + 5)
        })
    }

    async fn profile<const Y: bool>(cx: &Cx, id: u64) -> Answer {
        memoize!(cx, id, async |cx: &Cx, id: u64| -> Answer {
            Ok(checked::<Y>(cx, id).await? + 7)
        })
    }

    async fn flags<const Y: bool>(cx: &Cx, id: u64) -> Answer {
        memoize!(cx, id, async |cx: &Cx, id: u64| -> Answer {
            Ok(checked::<Y>(cx, id).await? + 11)
        })
    }

    async fn item<const Y: bool>(cx: &Cx, item: u64) -> Answer {
        memoize!(cx, item, async |cx: &Cx, item: u64| -> Answer {
            Ok(checked::<Y>(cx, item / super::ITEMS).await? + item)
        })
    }

    async fn orders<const Y: bool>(cx: &Cx, id: u64) -> Answer {
        memoize!(cx, id, async |cx: &Cx, id: u64| -> Answer {
            let checked = checked::<Y>(cx, id).await?;
            let [a, b, c, d, e] = super::items(id);
            let (a, b, c, d, e) = tokio::try_join!(
                item::<Y>(cx, a),
                item::<Y>(cx, b),
                item::<Y>(cx, c),
                item::<Y>(cx, d),
                item::<Y>(cx, e),
            )?;
            Ok(checked + a + b + c + d + e)
        })
    }

    pub(super) async fn page<const Y: bool>(cx: &Cx, id: u64) -> Answer {
        runs::<Y>().await;
        let (user, orders, profile, flags) = tokio::try_join!(
            user::<Y>(cx, id),
            orders::<Y>(cx, id),
            profile::<Y>(cx, id),
            flags::<Y>(cx, id),
        )?;
        Ok(user + orders + profile + flags)
    }
}
