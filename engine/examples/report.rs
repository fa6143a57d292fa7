//! A shop page in a context that records, and its report in any of its forms.
//!
//! ```sh
//! cargo run --example report                           # the waterfall
//! cargo run --example report -- html 50 > report.html  # a page of some 50 runs, for a browser
//! cargo run --example report -- trace > trace.json     # for https://ui.perfetto.dev
//! cargo run --example report -- mermaid                # or dot, waits; policy: what a server sends with the page
//! ```

use std::time::Duration;

use watershed::report::Report;
use watershed::{Ctx, Task, TaskError};

/// What the shop would ask its database: a pause that depends on the question.
async fn query(us: u64, seed: u64) {
    tokio::time::sleep(Duration::from_micros(us + seed * 7_919 % us)).await;
}

struct Shop {
    /// How many things are in an order.
    items: u64,
}

async fn session(_: Ctx<Shop>, user: u64) -> Result<u64, TaskError> {
    query(800, user).await;
    Ok(user)
}

async fn subscribed(ctx: Ctx<Shop>, user: u64) -> Result<bool, TaskError> {
    ctx.run(session, user).await?;
    query(1_500, user).await;
    Ok(true)
}

async fn exchange_rate(_: Ctx<Shop>, currency: String) -> Result<f64, TaskError> {
    query(2_500, currency.len() as u64).await;
    Ok(1.25)
}

async fn stock(_: Ctx<Shop>, item: u64) -> Result<u64, TaskError> {
    query(400, item).await;
    match item % 40 {
        39 => Err(TaskError::new("the warehouse does not answer")),
        n => Ok(n),
    }
}

async fn price(ctx: Ctx<Shop>, item: u64) -> Result<f64, TaskError> {
    let rate = ctx.run(exchange_rate, "EUR").await?;
    let discount = if *ctx.run(subscribed, 7).await? {
        0.9
    } else {
        1.0
    };
    query(300, item).await;
    Ok(item as f64 * rate * discount)
}

async fn item(ctx: Ctx<Shop>, item: u64) -> Result<f64, TaskError> {
    let (price, stock) = tokio::join!(ctx.run(price, item), ctx.run(stock, item));
    // What is not known to be there is shown without a price.
    Ok(if stock.is_ok() { *price? } else { 0.0 })
}

async fn order(ctx: Ctx<Shop>, id: u64) -> Result<f64, TaskError> {
    ctx.run(session, 7).await?;
    query(900, id).await;
    let count = ctx.state().items;
    let items = (0..count).map(|n| item.with(id * count + n));
    Ok(ctx.parallel_all(items, 16).await?.into_iter().sum())
}

async fn recommended(ctx: Ctx<Shop>, user: u64) -> Result<usize, TaskError> {
    if !*ctx.run(subscribed, user).await? {
        return Ok(0);
    }
    query(3_000, user).await;
    Ok(3)
}

async fn page(ctx: Ctx<Shop>, user: u64) -> Result<f64, TaskError> {
    let orders = ctx.state().items.div_ceil(4);
    let orders = ctx.parallel_all((0..orders).map(|id| order.with(id)), 8);
    let (orders, _) = tokio::try_join!(orders, ctx.run(recommended, user))?;
    Ok(orders.into_iter().sum())
}

#[tokio::main]
async fn main() -> Result<(), TaskError> {
    let mut args = std::env::args().skip(1);
    let form = args.next().unwrap_or_else(|| "text".to_owned());
    let runs: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(30);

    // Three runs for an item, and one order for each four items of one: 3/4 n^2 in all.
    let items = ((runs as f64 * 4.0 / 3.0).sqrt() as u64).max(1);
    let ctx = Ctx::builder(Shop { items })
        .record(true)
        .record_input(order)
        .record_input(item)
        .record_input(exchange_rate)
        .build();
    if runs < 8 {
        // Too few for a page.
        tokio::try_join!(ctx.run(recommended, 7), ctx.run(price, 3))?;
    } else if form == "waits" {
        // While it is under way.
        ctx.spawn(page, 7)?;
        tokio::time::sleep(Duration::from_millis(4)).await;
        print!("{}", ctx.waits());
        return Ok(());
    } else {
        ctx.run(page, 7).await?;
    }
    let report = ctx.report();
    match form.as_str() {
        "html" => print!("{}", report.to_html()),
        "trace" => print!("{}", report.to_chrome_trace()),
        "mermaid" => print!("{}", report.to_mermaid()),
        "policy" => println!("{}", Report::CONTENT_SECURITY_POLICY),
        "dot" => print!("{}", report.to_dot()),
        _ => print!("{report}"),
    }
    Ok(())
}
