//! A body hands the `Ctx` it was given to another thread in its first poll: is the context there while that thread uses it, and gone
//! once when both are done?
//!
//! ```text
//! driver: -- first poll: lend, move away, (pending | ready) -- drop call -- drop the last handle of the user --.
//! other:  ------------------ take it, use it, drop it ---------------------------------------------------------+-- freed once
//! ```
//!
//! Explored with at most 3 preemptions. Guards L1 to L4 and K3.
#![cfg(loom)]

use std::convert::Infallible;
use std::sync::Arc;

use loom::sync::Mutex;
use loom::thread;
use watershed::Ctx;
use watershed_loom_tests::scene::Exclusive;
use watershed_loom_tests::{Event, Seen, Tally, Value, explore, poll_once};

/// Where a handle is left for the other thread.
type Shelf = Arc<Mutex<Option<Ctx<World>>>>;

struct World {
    tally: Arc<Tally>,
    shelf: Shelf,
    event: Arc<Event>,
    used: Exclusive,
    _counted: Value,
}

impl Drop for World {
    fn drop(&mut self) {
        self.used.touch();
    }
}

fn context(tally: &Arc<Tally>, shelf: &Shelf) -> Ctx<World> {
    Ctx::new(World {
        tally: Arc::clone(tally),
        shelf: Arc::clone(shelf),
        event: Arc::default(),
        used: Exclusive::new(),
        _counted: tally.value(100),
    })
}

/// Puts its own handle on the shelf, and ends.
async fn ends(ctx: Ctx<World>, _: u64) -> Result<Value, Infallible> {
    let World { tally, shelf, .. } = ctx.state();
    let (shelf, value) = (Arc::clone(shelf), tally.value(0));
    *shelf.lock().unwrap() = Some(ctx);
    Ok(value)
}

/// Puts its own handle on the shelf, and waits.
async fn waits(ctx: Ctx<World>, _: u64) -> Result<Value, Infallible> {
    let (tally, shelf) = (
        Arc::clone(&ctx.state().tally),
        Arc::clone(&ctx.state().shelf),
    );
    let (event, _body) = (Arc::clone(&ctx.state().event), tally.body());
    *shelf.lock().unwrap() = Some(ctx);
    event.wait().await;
    Ok(tally.value(0))
}

/// Takes the handle, if it is there, and uses it.
fn taker(shelf: &Shelf, with: fn(Ctx<World>)) -> thread::JoinHandle<usize> {
    let shelf = Arc::clone(shelf);
    thread::spawn(move || {
        let taken = shelf.lock().unwrap().take();
        match taken {
            None => 0,
            Some(ctx) => {
                ctx.state().used.touch();
                with(ctx);
                1
            }
        }
    })
}

fn model(seen: &'static Seen, with: fn(Ctx<World>), drive: fn(&Ctx<World>)) {
    explore(3, move || {
        let (tally, shelf) = (Tally::new(), Shelf::default());
        let ctx = context(&tally, &shelf);
        let other = taker(&shelf, with);
        drive(&ctx);
        drop(ctx);
        seen.mark(other.join().unwrap());
        let left = shelf.lock().unwrap().take();
        drop(left);
        tally.assert_nothing_left();
    });
    seen.assert_all(2);
}

fn to_the_end(ctx: &Ctx<World>) {
    assert!(poll_once(ctx.run(ends, 7)).is_ready());
}

fn once_and_leaves(ctx: &Ctx<World>) {
    assert!(poll_once(ctx.run(waits, 7)).is_pending());
}

#[test]
fn dropped_while_the_poll_ends() {
    static SEEN: Seen = Seen::new();
    model(&SEEN, drop, to_the_end);
}

#[test]
fn dropped_while_the_body_is_left() {
    static SEEN: Seen = Seen::new();
    model(&SEEN, drop, once_and_leaves);
}

#[test]
fn cloned_while_the_poll_ends() {
    static SEEN: Seen = Seen::new();
    let with = |ctx: Ctx<World>| {
        let again = ctx.clone();
        drop(ctx);
        again.state().used.touch();
    };
    model(&SEEN, with, to_the_end);
}

/// The other thread drives a run of its own with the handle that it took.
#[test]
fn called_while_the_poll_ends() {
    async fn other(ctx: Ctx<World>, _: u64) -> Result<Value, Infallible> {
        Ok(ctx.state().tally.value(1))
    }
    static SEEN: Seen = Seen::new();
    // The context may be closed by then: the last handle of the user is gone.
    let with = |ctx: Ctx<World>| assert!(poll_once(ctx.run(other, 1)).is_ready());
    model(&SEEN, with, to_the_end);
}

/// A second run of the slot, while the first one's handle is still out.
#[test]
fn started_again_while_the_first_handle_is_out() {
    static SEEN: Seen = Seen::new();
    let twice = |ctx: &Ctx<World>| {
        once_and_leaves(ctx);
        once_and_leaves(ctx);
    };
    model(&SEEN, drop, twice);
}
