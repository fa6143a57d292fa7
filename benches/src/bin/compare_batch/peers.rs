//! The same functions, as each side wants them. They count their calls.

use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;

use async_graphql::dataloader::Loader;
use dataloader::BatchFn;
use watershed::Ctx;

thread_local! {
    static BATCHES: Cell<usize> = const { Cell::new(0) };
}

fn batch() {
    BATCHES.set(BATCHES.get() + 1);
}

/// How many batches were made since this was asked last.
pub(crate) fn batches() -> usize {
    BATCHES.replace(0)
}

/// What a level of the tree has: the ids of the next.
pub(crate) type Ids = Vec<u64>;

fn below(id: u64, each: u64) -> Ids {
    (0..each).map(|n| id * each + n).collect()
}

pub(crate) const USERS: u64 = 10;
pub(crate) const ORDERS: u64 = 3;
pub(crate) const ITEMS: u64 = 4;

fn squares_of(keys: &[u64]) -> HashMap<u64, u64> {
    batch();
    keys.iter().map(|k| (*k, k * k)).collect()
}
fn orders_of(keys: &[u64]) -> HashMap<u64, Ids> {
    batch();
    keys.iter().map(|k| (*k, below(*k, ORDERS))).collect()
}
fn items_of(keys: &[u64]) -> HashMap<u64, Ids> {
    batch();
    keys.iter().map(|k| (*k, below(*k, ITEMS))).collect()
}

pub(crate) async fn squares(_: Ctx<()>, keys: Vec<u64>) -> Result<HashMap<u64, u64>, Infallible> {
    Ok(squares_of(&keys))
}
pub(crate) async fn orders(_: Ctx<()>, keys: Vec<u64>) -> Result<HashMap<u64, Ids>, Infallible> {
    Ok(orders_of(&keys))
}
pub(crate) async fn items(_: Ctx<()>, keys: Vec<u64>) -> Result<HashMap<u64, Ids>, Infallible> {
    Ok(items_of(&keys))
}

pub(crate) struct Squares;
pub(crate) struct Orders;
pub(crate) struct Items;

macro_rules! peers {
    ($($peer:ty, $value:ty, $function:ident;)*) => {$(
        impl Loader<u64> for $peer {
            type Value = $value;
            type Error = Infallible;
            async fn load(&self, keys: &[u64]) -> Result<HashMap<u64, $value>, Infallible> {
                Ok($function(keys))
            }
        }
        impl BatchFn<u64, $value> for $peer {
            async fn load(&mut self, keys: &[u64]) -> HashMap<u64, $value> {
                $function(keys)
            }
        }
    )*};
}

peers! {
    Squares, u64, squares_of;
    Orders, Ids, orders_of;
    Items, Ids, items_of;
}
