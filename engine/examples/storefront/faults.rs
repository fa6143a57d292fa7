//! What a caller sees when something goes wrong.
//!
//! Every fault is a real one, brought about in a request of the shop, and every claim is asserted.

use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt, pending};
use tokio::sync::Notify;
use watershed::{Ctx, TaskError, TaskErrorKind};

use crate::Visit;
use crate::db::{Db, Id};
use crate::tasks::{ShopError, page, session, user};
use crate::terminal::{bold, dim, say};
use crate::trace::{Me, Mode, Shop, Tally};

/// Shows all of them, with the token of a user who is signed in.
pub(crate) async fn show(db: &Db, (token, _): &Visit) {
    say!("\n{}", bold("what a caller sees when it goes wrong"));
    no_product(db, token).await;
    no_table(db).await;
    panicking(db, token).await;
    cancelled(db).await;
    hung_up(db).await;
    too_late(db).await;
    cycle(db).await;
}

fn request(db: &Db) -> (Ctx<Shop>, Arc<Tally>) {
    let tally = Arc::<Tally>::default();
    (Ctx::new(Shop::new(db, Mode::Memo, &tally)), tally)
}

// --- a task fails ----------------------------------------------------------------------------------

async fn no_product(db: &Db, token: &str) {
    let (ctx, tally) = request(db);
    let visit = (token.to_owned(), 999_999);
    let error = ctx.run(page, visit.clone()).await.unwrap_err();

    assert_eq!(error.kind(), TaskErrorKind::Failed);
    assert!(matches!(
        error.downcast_ref(),
        Some(ShopError::NoSuch("product", 999_999))
    ));
    assert_eq!(status(&error), 404);

    // The error is kept like a value: asking again runs nothing.
    let before = tally.statements();
    let again = ctx.run(page, visit).await.unwrap_err();
    assert_eq!(
        (again.to_string(), tally.statements()),
        (error.to_string(), before)
    );

    tell("a product that is not there", &error);
    note("asked again in the same request: the same error, no statement");
}

async fn audit(ctx: Ctx<Shop>, _: ()) -> Result<i64, TaskError> {
    let me = Me::body(&ctx, audit, &());
    let count = me
        .one("SELECT count(*) FROM audit_log", (), |row| row.get(0))
        .await?;
    Ok(count.unwrap_or(0))
}

async fn no_table(db: &Db) {
    let (ctx, _) = request(db);
    let error = ctx.run(audit, ()).await.unwrap_err();

    assert_eq!(error.kind(), TaskErrorKind::Failed);
    // The walk goes down the whole chain, to the error of the library below.
    assert!(error.downcast_ref::<rusqlite::Error>().is_some());
    assert_eq!(status(&error), 500);
    tell("a table that is not there", &error);
}

// --- a task panics ---------------------------------------------------------------------------------

const BUG: &str = "index out of banners";

async fn banner(ctx: Ctx<Shop>, user_id: Id) -> Result<String, TaskError> {
    let who = ctx.run(user, user_id).await?;
    if who.name.len() < 100 {
        panic!("{BUG}");
    }
    Ok(who.name.clone())
}

async fn front(ctx: Ctx<Shop>, token: String) -> Result<String, TaskError> {
    let user_id = *ctx.run(session, token).await?;
    ctx.run(banner, user_id).await.cloned()
}

async fn panicking(db: &Db, token: &str) {
    let (ctx, _) = request(db);
    let error = without_noise(async { ctx.run(front, token.to_owned()).await.unwrap_err() }).await;

    assert_eq!(error.kind(), TaskErrorKind::Panicked);
    assert!(error.to_string().contains(BUG));
    assert_eq!(status(&error), 500);
    // The request goes on: it may still show a page without a banner.
    assert!(ctx.run(page, (token.to_owned(), 1)).await.is_ok());

    tell("a task that panics", &error);
    note(
        "the same request still serves its page; the panic hook ran, muted here for this one panic",
    );
}

/// Awaits `work` while the hook is silent about [`BUG`], and about nothing else.
async fn without_noise<T>(work: impl Future<Output = T>) -> T {
    let usual: Arc<dyn Fn(&panic::PanicHookInfo<'_>) + Send + Sync> = panic::take_hook().into();
    let quiet = Arc::clone(&usual);
    panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some(BUG) {
            quiet(info);
        }
    }));
    let outcome = work.await;
    panic::set_hook(Box::new(move |info| usual(info)));
    outcome
}

// --- a request ends early --------------------------------------------------------------------------

/// A remote service that never answers, and knows how many calls wait for it.
#[derive(Default)]
pub(crate) struct Warehouse {
    asked: Notify,
    open: AtomicUsize,
}

impl Warehouse {
    async fn stock(&self, _product: Id) -> u64 {
        let _line = Line::open(self);
        self.asked.notify_one();
        pending().await
    }

    fn open_lines(&self) -> usize {
        self.open.load(SeqCst)
    }
}

/// A connection that waits for an answer; dropping it hangs up.
struct Line<'a>(&'a Warehouse);

impl Line<'_> {
    fn open(to: &Warehouse) -> Line<'_> {
        to.open.fetch_add(1, SeqCst);
        Line(to)
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

async fn stock(ctx: Ctx<Shop>, product_id: Id) -> Result<u64, TaskError> {
    Ok(ctx.state().warehouse.stock(product_id).await)
}

async fn delivery(ctx: Ctx<Shop>, (user_id, product_id): (Id, Id)) -> Result<String, TaskError> {
    let who = ctx.run(user, user_id).await?;
    let left = ctx.run(stock, product_id).await?;
    Ok(format!("{left} left for {}", who.country))
}

async fn cancelled(db: &Db) {
    let (ctx, _) = request(db);
    let caller = tokio::spawn({
        let ctx = ctx.clone();
        async move { ctx.run(delivery, (1, 1)).await.cloned() }
    });
    ctx.state().warehouse.asked.notified().await;
    assert_eq!(ctx.state().warehouse.open_lines(), 1);
    ctx.cancel();
    let error = caller.await.expect("the caller returns").unwrap_err();

    assert_eq!(error.kind(), TaskErrorKind::Cancelled);
    assert_eq!(ctx.state().warehouse.open_lines(), 0);
    // What was there stays there; what would have to run does not.
    assert!(ctx.run(user, 1).await.is_ok());
    assert!(ctx.run(user, 2).await.is_err());

    tell("a request that is cancelled", &error);
    note("the call to the warehouse is hung up; the user, read before, can still be had");
}

async fn hung_up(db: &Db) {
    let (ctx, _) = request(db);
    let shop = ctx.clone();
    let handler = tokio::spawn(async move { ctx.run(delivery, (1, 1)).await.cloned() });
    shop.state().warehouse.asked.notified().await;
    assert_eq!(shop.state().warehouse.open_lines(), 1);
    // What a web server does when the client is gone: it drops the handler.
    handler.abort();
    assert!(handler.await.unwrap_err().is_cancelled());

    // Nobody waits any more, so nothing runs any more, and nothing is kept.
    assert_eq!(shop.state().warehouse.open_lines(), 0);
    assert!(shop.peek(delivery, &(1, 1)).is_none());

    say!("\n  {}", bold("a client that hangs up"));
    note("the handler is dropped, and the bodies that nobody waits for with it: 0 calls left open");
}

async fn too_late(db: &Db) {
    let limit = Duration::from_millis(50);
    let shop = Shop::new(db, Mode::Memo, &Arc::default());
    let ctx = Ctx::builder(shop).deadline(limit).build();
    let start = Instant::now();
    let error = ctx.run(delivery, (1, 1)).await.unwrap_err();
    let took = start.elapsed();

    assert_eq!(error.kind(), TaskErrorKind::DeadlineExceeded);
    assert_eq!(status(&error), 504);
    assert_eq!(ctx.state().warehouse.open_lines(), 0);

    tell("a deadline", &error);
    note(&format!(
        "{} ms were allowed, the caller had its error after {} ms",
        limit.as_millis(),
        took.as_millis()
    ));
}

// --- a cycle ---------------------------------------------------------------------------------------

// Among async functions a cycle does not compile. These two promise `Send` in their signatures, as
// recursion in async Rust does, and so hide from the compiler that they call each other.

type Boxed<T> = BoxFuture<'static, Result<T, TaskError>>;

/// A bundle costs what its parts cost, less the discount on the bundle.
fn bundle(ctx: Ctx<Shop>, id: Id) -> Boxed<i64> {
    async move { Ok(5_000 - *ctx.run(bundle_discount, id).await?) }.boxed()
}

/// The discount on a bundle is a part of what it costs.
fn bundle_discount(ctx: Ctx<Shop>, id: Id) -> Boxed<i64> {
    async move { Ok(*ctx.run(bundle, id).await? / 10) }.boxed()
}

async fn cycle(db: &Db) {
    let (ctx, _) = request(db);
    let error = ctx.run(bundle, 1).await.unwrap_err();

    assert_eq!(error.kind(), TaskErrorKind::Cycle);
    assert_eq!(status(&error), 500);
    tell("two tasks that wait for each other", &error);
    note("an error at once, where a map of cells waits for ever");
}

// --- what a server makes of it ---------------------------------------------------------------------

/// The HTTP status of a failure: by the shop's own error first, then by its kind.
fn status(error: &TaskError) -> u16 {
    match error.downcast_ref() {
        Some(ShopError::NoSession) => return 401,
        Some(ShopError::NoSuch(..)) => return 404,
        Some(ShopError::Stopping) => return 503,
        Some(ShopError::Database(_)) | None => {}
    }
    match error.kind() {
        TaskErrorKind::Cancelled => 499,
        TaskErrorKind::DeadlineExceeded => 504,
        _ => 500,
    }
}

fn tell(title: &str, error: &TaskError) {
    let cause = match (
        error.downcast_ref::<rusqlite::Error>(),
        error.downcast_ref::<ShopError>(),
    ) {
        (Some(cause), _) => format!("rusqlite::Error, {cause}"),
        (None, Some(cause)) => format!("ShopError::{cause:?}"),
        (None, None) => "none of ours".to_owned(),
    };
    say!("\n  {}", bold(title));
    say!("    kind          {:?}", error.kind());
    say!("    message       {error}");
    say!("    downcast_ref  {cause}");
    say!("    HTTP          {}", status(error));
}

fn note(text: &str) {
    say!("    {}", dim(text));
}
