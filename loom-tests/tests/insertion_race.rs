//! Two threads insert into the table at one place: is nothing lost, and nothing there twice?
//!
//! All keys of a model have one hash, so that the second of two slots hangs below the first
//! whoever comes first. Explored with at most 3 preemptions.
#![cfg(loom)]

use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use loom::thread;
use watershed::Ctx;
use watershed_loom_tests::{Seen, Tally, Value, block_on, explore};

/// A key whose hash says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key(usize);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(0);
    }
}

async fn number(ctx: Ctx<Arc<Tally>>, key: Key) -> Result<Value, Infallible> {
    let _body = ctx.state().body();
    Ok(ctx.state().value(key.0))
}

fn call(ctx: &Ctx<Arc<Tally>>, key: usize) -> usize {
    let value = block_on(ctx.run(number, Key(key))).unwrap();
    assert_eq!(value.number, key, "the value of another key");
    std::ptr::from_ref(value) as usize
}

/// Each thread calls its keys in its order, in a context that has the keys `before`. Then every key
/// is a hit on the value that the threads got.
fn race(before: &[usize], keys: [&'static [usize]; 2]) {
    let tally = Tally::new();
    let ctx = Ctx::new(Arc::clone(&tally));
    for &key in before {
        call(&ctx, key);
    }
    let threads = keys.map(|keys| {
        let ctx = ctx.clone();
        thread::spawn(move || {
            keys.iter()
                .map(|&key| (key, call(&ctx, key)))
                .collect::<Vec<_>>()
        })
    });
    let got = threads.map(|thread| thread.join().unwrap()).concat();

    let mut distinct: Vec<_> = got
        .iter()
        .map(|&(key, _)| key)
        .chain(before.to_vec())
        .collect();
    distinct.sort_unstable();
    distinct.dedup();
    for (key, address) in got {
        assert_eq!(call(&ctx, key), address, "key {key} is there twice");
    }
    assert_eq!(tally.starts(), distinct.len());
    assert_eq!(tally.values(), distinct.len());
    drop(ctx);
    tally.assert_nothing_left();
}

#[test]
fn one_key_in_an_empty_table_has_one_slot() {
    explore(3, || race(&[], [&[1], &[1]]));
}

#[test]
fn colliding_keys_in_an_empty_table_are_both_there() {
    explore(3, || race(&[], [&[1], &[2]]));
}

#[test]
fn one_key_below_another_has_one_slot() {
    explore(3, || race(&[1], [&[2], &[2]]));
}

#[test]
fn colliding_keys_below_another_are_both_there() {
    explore(3, || race(&[1], [&[2], &[3]]));
}

#[test]
fn keys_in_opposite_order_have_one_slot_each() {
    explore(2, || race(&[], [&[1, 2], &[2, 1]]));
}

#[test]
fn look_up_during_an_insertion_sees_all_or_nothing() {
    static SEEN: Seen = Seen::new();
    explore(3, || {
        let tally = Tally::new();
        let ctx = Ctx::new(Arc::clone(&tally));
        let writer = thread::spawn({
            let ctx = ctx.clone();
            move || call(&ctx, 1)
        });
        let reader = thread::spawn({
            let ctx = ctx.clone();
            move || match ctx.peek(number, &Key(1)) {
                None => SEEN.mark(0),
                Some(value) => {
                    assert_eq!(value.unwrap().number, 1);
                    SEEN.mark(1);
                }
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
        assert_eq!(tally.starts(), 1);
        drop(ctx);
        tally.assert_nothing_left();
    });
    SEEN.assert_all(2);
}
