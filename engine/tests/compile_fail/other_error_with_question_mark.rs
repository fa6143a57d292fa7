//! `?` turns no foreign error into a `TaskError`: `.map_err(TaskError::new)?` does.

use watershed::{Ctx, TaskError};

async fn parse(_: Ctx<()>, text: String) -> Result<u64, TaskError> {
    Ok(text.parse::<u64>()?)
}

fn main() {}
