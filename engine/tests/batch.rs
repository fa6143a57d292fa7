//! Batches: what the contract says of [`Ctx::load`](watershed::Ctx::load), each line a test.
//!
//! `gathering`: which keys go together, and when; `outcomes`: what comes of them; `leaving`: callers that go, or are kept and not polled;
//! `ending`: cycles, the end of the context, depth; `observed`: what observers and the report have of them. The state counts what the functions were asked for.
#![cfg(all(not(loom), feature = "tokio"))]

mod support;

#[path = "batch/ending.rs"]
mod ending;
#[path = "batch/gathering.rs"]
mod gathering;
#[path = "batch/leaving.rs"]
mod leaving;
#[path = "batch/observed.rs"]
mod observed;
#[path = "batch/outcomes.rs"]
mod outcomes;

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use support::{Count, Drops, Gate, Token, yields};
use watershed::{Ctx, TaskError};

/// The state of the contexts here.
#[derive(Default)]
struct App {
    /// What was asked for, batch by batch, sorted.
    asked: Mutex<Vec<Vec<u64>>>,
    /// Where [`gated`] waits.
    gate: Gate,
    bodies: Drops,
    values: Drops,
    flights: Count,
}

impl App {
    fn ask(&self, keys: &[u64]) {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        self.asked.lock().unwrap().push(keys);
    }

    /// What was asked for since this was asked last.
    fn asked(&self) -> Vec<Vec<u64>> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn ctx() -> Ctx<App> {
    Ctx::new(App::default())
}

/// Ready at once.
async fn squares(ctx: Ctx<App>, keys: Vec<u64>) -> Result<HashMap<u64, u64>, TaskError> {
    ctx.state().ask(&keys);
    Ok(keys.into_iter().map(|k| (k, k * k)).collect())
}

/// Ready at once, in another map, with other values.
async fn doubles(ctx: Ctx<App>, keys: Vec<u64>) -> Result<BTreeMap<u64, u64>, String> {
    ctx.state().ask(&keys);
    Ok(keys.into_iter().map(|k| (k, k + k)).collect())
}

/// Wakes itself a few times before it is ready.
async fn slowly(ctx: Ctx<App>, keys: Vec<u64>) -> Result<Vec<(u64, u64)>, TaskError> {
    ctx.state().ask(&keys);
    yields(3).await;
    Ok(keys.into_iter().map(|k| (k, k + 1)).collect())
}

/// Waits at the gate. Its bodies and values are counted.
async fn gated(ctx: Ctx<App>, keys: Vec<u64>) -> Result<Vec<(u64, Valued)>, TaskError> {
    let App {
        gate,
        bodies,
        values,
        ..
    } = ctx.state();
    ctx.state().ask(&keys);
    let _body = bodies.token();
    gate.passed().await;
    let valued = |number| Valued {
        number,
        _token: values.token(),
    };
    Ok(keys.into_iter().map(|k| (k, valued(k))).collect())
}

/// A value that is counted.
#[derive(Debug)]
struct Valued {
    number: u64,
    _token: Token,
}
