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
//! The peer is the page as one writes it without an engine: a struct with a map of cells for each
//! kind of thing. It calls the page itself directly, since nobody asks for that twice.

use std::hint::black_box;

use watershed::Ctx;

use crate::{Contender, Expected, Group, names, ready};

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

pub(crate) fn group() -> Group {
    Group {
        name: names::REQUEST,
        about: "a new context, a page of 13 runs and 30 calls, drop",
        ours: Contender::new(names::WATERSHED, |i| {
            let ctx = Ctx::new(tasks::NotCounted);
            *ready(ctx.run(tasks::page, black_box(i))).unwrap()
        }),
        peers: vec![
            Contender::new(names::MUTEX_MAP, |i| {
                let loaders = by_hand::Loaders::<by_hand::MutexMap>::default();
                ready(loaders.page(black_box(i))).unwrap()
            }),
            Contender::new(names::DASHMAP, |i| {
                let loaders = by_hand::Loaders::<by_hand::ShardedMap>::default();
                ready(loaders.page(black_box(i))).unwrap()
            }),
        ],
        expected: Expected(page_by_formula),
    }
}

/// Runs and calls of one page on the engine.
#[cfg(test)]
pub(crate) fn count() -> (u64, u64) {
    use std::sync::atomic::Ordering;

    let ctx = Ctx::new(tasks::Counters::default());
    let value = *ready(tasks::call(&ctx, ctx.run(tasks::page, 7))).unwrap();
    assert_eq!(value, page_by_formula(7));
    let tasks::Counters { runs, calls } = ctx.state();
    (runs.load(Ordering::Relaxed), calls.load(Ordering::Relaxed))
}

/// The page as tasks. They are generic over the state so that a test can count; the state of the
/// bench counts nothing and costs nothing.
mod tasks {
    use std::convert::Infallible;

    use watershed::{Ctx, Run, TaskError};

    pub(super) trait Count: Send + Sync + 'static {
        fn run(&self) {}
        fn call(&self) {}
    }

    #[derive(Debug)]
    pub(super) struct NotCounted;

    impl Count for NotCounted {}

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

    /// Every call goes through here.
    pub(super) fn call<'a, S: Count>(ctx: &Ctx<S>, run: Run<'a, S, u64>) -> Run<'a, S, u64> {
        ctx.state().call();
        run
    }

    async fn session<S: Count>(ctx: Ctx<S>, id: u64) -> Result<u64, Infallible> {
        ctx.state().run();
        Ok(id + 1)
    }

    async fn auth<S: Count>(ctx: Ctx<S>, id: u64) -> Result<u64, TaskError> {
        ctx.state().run();
        Ok(call(&ctx, ctx.run(session, id)).await? + 2)
    }

    async fn subscription<S: Count>(ctx: Ctx<S>, id: u64) -> Result<u64, TaskError> {
        ctx.state().run();
        Ok(call(&ctx, ctx.run(auth, id)).await? * 3)
    }

    /// What nearly every task asks first.
    async fn checked<S: Count>(ctx: &Ctx<S>, id: u64) -> Result<u64, TaskError> {
        ctx.state().run();
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
        ctx.state().run();
        let (user, orders, profile, flags) = tokio::try_join!(
            call(&ctx, ctx.run(user, id)),
            call(&ctx, ctx.run(orders, id)),
            call(&ctx, ctx.run(profile, id)),
            call(&ctx, ctx.run(flags, id)),
        )?;
        Ok(user + orders + profile + flags)
    }
}

/// The page over maps of cells.
mod by_hand {
    use std::collections::HashMap;
    use std::error::Error;
    use std::sync::{Arc, Mutex};

    use dashmap::DashMap;
    use foldhash::fast::RandomState;
    use tokio::sync::OnceCell;

    type BoxError = Box<dyn Error + Send + Sync>;
    type Cell = Arc<OnceCell<u64>>;
    pub(super) type MutexMap = Mutex<HashMap<u64, Cell, RandomState>>;
    pub(super) type ShardedMap = DashMap<u64, Cell, RandomState>;

    /// A map that knows the cell of a key. The cell leaves it as an `Arc`: no lock is held while a
    /// body runs.
    pub(super) trait Cells: Default {
        fn cell(&self, key: u64) -> Cell;
    }

    impl Cells for MutexMap {
        fn cell(&self, key: u64) -> Cell {
            Arc::clone(self.lock().unwrap().entry(key).or_default())
        }
    }

    impl Cells for ShardedMap {
        fn cell(&self, key: u64) -> Cell {
            Arc::clone(&self.entry(key).or_default())
        }
    }

    #[derive(Default)]
    pub(super) struct Loaders<M> {
        sessions: M,
        auths: M,
        subscriptions: M,
        users: M,
        profiles: M,
        flags: M,
        items: M,
        orders: M,
    }

    async fn get<F>(cells: &impl Cells, key: u64, body: impl FnOnce() -> F) -> Result<u64, BoxError>
    where
        F: Future<Output = Result<u64, BoxError>>,
    {
        cells.cell(key).get_or_try_init(body).await.copied()
    }

    impl<M: Cells> Loaders<M> {
        async fn session(&self, id: u64) -> Result<u64, BoxError> {
            get(&self.sessions, id, || async { Ok(id + 1) }).await
        }

        async fn auth(&self, id: u64) -> Result<u64, BoxError> {
            get(&self.auths, id, || async {
                Ok(self.session(id).await? + 2)
            })
            .await
        }

        async fn subscription(&self, id: u64) -> Result<u64, BoxError> {
            get(&self.subscriptions, id, || async {
                Ok(self.auth(id).await? * 3)
            })
            .await
        }

        async fn checked(&self, id: u64) -> Result<u64, BoxError> {
            Ok(self.auth(id).await? + self.subscription(id).await?)
        }

        async fn user(&self, id: u64) -> Result<u64, BoxError> {
            get(&self.users, id, || async {
                Ok(self.checked(id).await? + 5)
            })
            .await
        }

        async fn profile(&self, id: u64) -> Result<u64, BoxError> {
            get(&self.profiles, id, || async {
                Ok(self.checked(id).await? + 7)
            })
            .await
        }

        async fn flags(&self, id: u64) -> Result<u64, BoxError> {
            get(&self.flags, id, || async {
                Ok(self.checked(id).await? + 11)
            })
            .await
        }

        async fn item(&self, item: u64) -> Result<u64, BoxError> {
            let body = || async { Ok(self.checked(item / super::ITEMS).await? + item) };
            get(&self.items, item, body).await
        }

        async fn order(&self, id: u64) -> Result<u64, BoxError> {
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
            get(&self.orders, id, body).await
        }

        pub(super) async fn page(&self, id: u64) -> Result<u64, BoxError> {
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
