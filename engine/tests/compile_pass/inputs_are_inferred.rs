//! The task says what its input is, so what is handed over needs no type of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use watershed::{Ctx, TaskError};

async fn number(_: Ctx<()>, n: u64) -> Result<u64, TaskError> {
    Ok(n)
}

async fn text(_: Ctx<()>, s: String) -> Result<usize, TaskError> {
    Ok(s.len())
}

async fn shared_text(_: Ctx<()>, s: Arc<str>) -> Result<usize, TaskError> {
    Ok(s.len())
}

async fn option(_: Ctx<()>, n: Option<u64>) -> Result<u64, TaskError> {
    Ok(n.unwrap_or(7))
}

async fn list(_: Ctx<()>, v: Vec<u64>) -> Result<usize, TaskError> {
    Ok(v.len())
}

async fn pair(_: Ctx<()>, p: (u64, String)) -> Result<u64, TaskError> {
    Ok(p.0)
}

async fn path(_: Ctx<()>, p: PathBuf) -> Result<bool, TaskError> {
    Ok(p.is_absolute())
}

async fn nothing(_: Ctx<()>, (): ()) -> Result<u64, TaskError> {
    Ok(1)
}

async fn literal(_: Ctx<()>, s: &'static str) -> Result<usize, TaskError> {
    Ok(s.len())
}

/// A task that is generic over its input: the argument says which one is meant.
async fn debug<T>(_: Ctx<()>, value: T) -> Result<String, TaskError>
where
    T: std::fmt::Debug + Send + 'static,
{
    Ok(format!("{value:?}"))
}

async fn all(ctx: Ctx<()>, (): ()) -> Result<u64, TaskError> {
    let x = 7i32;
    ctx.run(number, 7).await?;
    ctx.run(number, "7".parse().map_err(TaskError::new)?)
        .await?;
    ctx.run(number, 7u32.into()).await?;
    ctx.run(number, x as _).await?;
    ctx.run(number, Default::default()).await?;

    let name = String::from("ada");
    ctx.run(text, "ada").await?;
    ctx.run(text, &name).await?;
    ctx.run(text, name.as_str()).await?;
    ctx.run(text, name.clone()).await?;
    ctx.run(text, format!("{name}!")).await?;

    let name: Arc<str> = name.into();
    ctx.run(shared_text, "ada").await?;
    ctx.run(shared_text, &*name).await?;
    ctx.run(shared_text, &name).await?;
    ctx.run(shared_text, name).await?;

    ctx.run(option, None).await?;
    ctx.run(option, Some(1)).await?;
    ctx.run(list, vec![]).await?;
    ctx.run(list, vec![1, 2]).await?;
    ctx.run(list, &[1, 2]).await?;
    ctx.run(list, &[1, 2][..]).await?;
    ctx.run(pair, (1, "x".into())).await?;
    ctx.run(pair, (1, "x".to_string())).await?;
    ctx.run(path, Path::new("/")).await?;
    ctx.run(path, PathBuf::from("/")).await?;
    ctx.run(nothing, ()).await?;
    ctx.run(literal, "ada").await?;

    ctx.run(debug, 1u64).await?;
    ctx.run(debug, String::from("ada")).await?;
    ctx.run(debug, (1u8, 'x')).await?;

    ctx.peek(number, &7);
    ctx.peek(text, "ada");
    ctx.peek(path, Path::new("/"));
    ctx.forget(list, &[1, 2][..]);
    Ok(1)
}

pub(crate) fn main() {
    let ctx = Ctx::new(());
    assert_eq!(*ctx.run(all, ()).wait().unwrap(), 1);
    assert_eq!(*ctx.peek(number, &7).unwrap().unwrap(), 7);
    assert_eq!(*ctx.peek(text, "ada").unwrap().unwrap(), 3);
    assert_eq!(*ctx.peek(option, &None).unwrap().unwrap(), 7);
    assert_eq!(ctx.peek(debug::<u64>, &1).unwrap().unwrap(), "1");
}
