//! What a context holds while it lives: ten thousand at once, each with thirty values that are numbers. Counted, not timed.

use tokio::sync::OnceCell;
use watershed::Ctx;

use crate::counting::Taken;
use crate::peers::{Failure, Memo, MutexMap, ShardedMap, SharedMap, Topcoat};
use crate::{names, ready};

/// Contexts that live at once.
pub const CONTEXTS: u64 = 10_000;
/// Values in each.
pub const KEYS: u64 = 30;

/// What one context holds.
#[derive(Clone, Debug)]
pub struct Held {
    /// Who.
    pub name: &'static str,
    /// Bytes that were asked for and not given back.
    pub bytes: f64,
    /// The allocations that they came in.
    pub allocations: f64,
}

async fn double(_: Ctx<()>, n: u64) -> Result<u64, std::convert::Infallible> {
    Ok(2 * n)
}

async fn double_by_hand(n: u64) -> Result<u64, Failure> {
    Ok(2 * n)
}

/// The engine first. All zero in a program that does not count.
pub fn contexts() -> Vec<Held> {
    fn peer<M: Memo<u64, u64>>() -> Held {
        held(M::NAME, |first| {
            let memo = M::new();
            for n in first..first + KEYS {
                ready(memo.get(&n, move || double_by_hand(n), |value| *value)).unwrap();
            }
            memo
        })
    }
    vec![
        held(names::WATERSHED, |first| {
            let ctx = Ctx::new(());
            for n in first..first + KEYS {
                ready(ctx.run(double, n)).unwrap();
            }
            ctx
        }),
        peer::<MutexMap<u64, OnceCell<u64>>>(),
        peer::<ShardedMap<u64, OnceCell<u64>>>(),
        peer::<SharedMap<u64, u64>>(),
        peer::<Topcoat>(),
        held(names::HASHBROWN, |first| {
            (first..first + KEYS)
                .map(|n| (n, 2 * n))
                .collect::<hashbrown::HashMap<u64, u64, foldhash::fast::RandomState>>()
        }),
    ]
}

fn held<T>(name: &'static str, make: impl Fn(u64) -> T) -> Held {
    let mut all = Vec::with_capacity(CONTEXTS as usize);
    let before = Taken::now();
    all.extend((0..CONTEXTS).map(|i| make(i * KEYS)));
    let taken = Taken::now() - before;
    drop(all);
    Held {
        name,
        bytes: taken.live() as f64 / CONTEXTS as f64,
        allocations: taken.allocations as f64 / CONTEXTS as f64,
    }
}
