//! `context_one_run`: what a scope costs that is asked for one thing: create it, run, drop it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::{Arc, Mutex};

use foldhash::fast::RandomState;
use tokio::sync::OnceCell;
use watershed::Ctx;

use crate::{Contender, Expected, Group, names, ready};

async fn double(_: Ctx<()>, n: u64) -> Result<u64, Infallible> {
    Ok(2 * n)
}

async fn double_by_hand(n: u64) -> Result<u64, Infallible> {
    Ok(2 * n)
}

pub(crate) fn group() -> Group {
    Group {
        name: names::CONTEXT_ONE_RUN,
        about: "a new context, one run that is ready at once, drop",
        ours: Contender::new(names::WATERSHED, |i| {
            let ctx = Ctx::new(());
            *ready(ctx.run(double, black_box(i))).unwrap()
        }),
        peers: vec![
            Contender::new(names::MUTEX_MAP, |i| {
                let i = black_box(i);
                let map = Mutex::new(HashMap::<u64, Arc<OnceCell<u64>>, RandomState>::default());
                let cell = Arc::clone(map.lock().unwrap().entry(i).or_default());
                *ready(cell.get_or_try_init(|| double_by_hand(i))).unwrap()
            }),
            Contender::new(names::DASHMAP, |i| {
                let i = black_box(i);
                let map = dashmap::DashMap::<u64, Arc<OnceCell<u64>>, RandomState>::default();
                let cell = Arc::clone(&map.entry(i).or_default());
                *ready(cell.get_or_try_init(|| double_by_hand(i))).unwrap()
            }),
        ],
        expected: Expected(|i| 2 * i),
    }
}
