//! Batches: what the contract says of [`Ctx::load`], each line a test.
#![cfg(not(loom))]

use std::collections::HashMap;
use std::sync::Mutex;
use watershed::{Ctx, TaskError};

#[derive(Default)]
struct App {
    asked: Mutex<Vec<Vec<u64>>>,
}

async fn squares(ctx: Ctx<App>, keys: Vec<u64>) -> Result<HashMap<u64, u64>, String> {
    ctx.state().asked.lock().unwrap().push(keys.clone());
    Ok(keys.into_iter().map(|k| (k, k * k)).collect())
}

#[test]
fn joined() {
    futures::executor::block_on(async {
        let ctx = Ctx::new(App::default());
        let (a, b, c) = futures::try_join!(
            ctx.load(squares, 1),
            ctx.load(squares, 2),
            ctx.load(squares, 3)
        )
        .unwrap();
        assert_eq!((a, b, c), (Some(&1), Some(&4), Some(&9)));
        let many = futures::future::try_join_all((0..100).map(|k| ctx.load(squares, k)))
            .await
            .unwrap();
        assert_eq!(many.len(), 100);
        assert_eq!(ctx.state().asked.lock().unwrap().len(), 2);
        Ok::<(), TaskError>(())
    })
    .unwrap();
}
