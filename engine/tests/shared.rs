//! The second tier: what it promises, each claim by name.
//!
//! `runs` holds one run for all and who may leave it, `expiry` times on a paused clock, `generations` what an old run may not do, `bound`
//! what goes, `tiers` the tier under a request's context, `cycles` runs that wait for each other, `ending` shutdown and runtimes,
//! `loads` batches across requests, `faults` panics of user code and destructors that call back.
#![cfg(all(not(loom), feature = "shared"))]

mod support;

#[path = "shared/bound.rs"]
mod bound;
#[path = "shared/cycles.rs"]
mod cycles;
#[path = "shared/ending.rs"]
mod ending;
#[path = "shared/expiry.rs"]
mod expiry;
#[path = "shared/faults.rs"]
mod faults;
#[path = "shared/generations.rs"]
mod generations;
#[path = "shared/loads.rs"]
mod loads;
#[path = "shared/model.rs"]
mod model;
#[path = "shared/runs.rs"]
mod runs;
#[path = "shared/tiers.rs"]
mod tiers;

use std::sync::Mutex;
use std::time::Duration;

use support::{Count, Gate};
use watershed::{Ctx, Shared, SharedBuilder};

/// What the tasks of most tests share.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) starts: Count,
    pub(crate) ends: Count,
    pub(crate) gate: Gate,
    /// The next run fails with this.
    pub(crate) fails: Mutex<Option<&'static str>>,
}

/// A tier whose values expire exactly when they should.
pub(crate) fn tier() -> SharedBuilder<World> {
    Shared::builder(World::default()).jitter(0.0)
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// How many runs were started when this one was; ready at once.
pub(crate) async fn stamp(ctx: Ctx<World>, _: u64) -> Result<usize, String> {
    let start = ctx.state().starts.add();
    match ctx.state().fails.lock().unwrap().take() {
        Some(why) => Err(why.to_owned()),
        None => Ok(start),
    }
}

/// As [`stamp`], behind the gate.
pub(crate) async fn gated(ctx: Ctx<World>, _: u64) -> Result<usize, String> {
    let start = ctx.state().starts.add();
    ctx.state().gate.passed().await;
    ctx.state().ends.add();
    match ctx.state().fails.lock().unwrap().take() {
        Some(why) => Err(why.to_owned()),
        None => Ok(start),
    }
}

/// As [`stamp`], after a second of the clock.
pub(crate) async fn slow(ctx: Ctx<World>, _: u64) -> Result<usize, String> {
    let start = ctx.state().starts.add();
    tokio::time::sleep(SECOND).await;
    ctx.state().ends.add();
    match ctx.state().fails.lock().unwrap().take() {
        Some(why) => Err(why.to_owned()),
        None => Ok(start),
    }
}
