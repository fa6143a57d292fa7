//! `Task` is sealed: a slot is read back as the type its task says, so only functions are tasks.

use std::future::{Ready, ready};
use watershed::{Call, Ctx, Input, Key, Task, TaskError};

#[derive(Clone, Copy)]
struct Mine;

impl Task<(), u64> for Mine {
    type Value = u64;
    type Error = TaskError;
    type Future = Ready<Result<u64, TaskError>>;

    fn with<K>(self, _: K) -> Call<(), Self, u64, K>
    where
        u64: Input<K>,
        K: Key<u64>,
    {
        unimplemented!()
    }

    fn call(self, _: Ctx<()>, id: u64) -> Self::Future {
        ready(Ok(id))
    }
}

fn main() {}
