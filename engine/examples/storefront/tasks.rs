//! The shop: plain async functions over `Ctx<Shop>` that ask one another for what they need.
//!
//! Each fetches what it needs where it needs it. Nobody passes a user or a plan down through five
//! signatures, and yet a request reads each of them once: the engine runs a task at most once per
//! request and input. Look at how often `subscription` is asked for.
//!
//! Rows that many ask for, one by one, are fetched many at a time: `products` and `discounts` take lists, and `me.load(products, id)` is
//! `ctx.load(products, id)`. Or they are not fetched at all: what is the same for all requests comes from the second tier where there is
//! one, by `me.shared(listed, id)`, which is `ctx.run_shared(listed, id)`.
//!
//! `me.ask(task, input)` is `ctx.run(task, input)` and a line in the example's record (`trace.rs`).
//!
//! Tasks and values have different names on purpose: after `let user = ..` the task `user` is hidden.
//! And let `user` ask for `page` once: a cycle among async functions does not compile.

use std::collections::HashMap;
use std::fmt::{self, Write as _};

use futures::future::try_join_all;
use rusqlite::Row;
use serde_json::json;
use tokio::try_join;
use watershed::{Ctx, TaskError};

use crate::Visit;
use crate::catalogue::{discount, flag_rules, listed};
use crate::db::Id;
use crate::trace::{Answer, Me, Shop};

/// Why a task of the shop fails. A server tells a 404 from a 500 by it, through `TaskError::downcast_ref`.
#[derive(Debug)]
pub(crate) enum ShopError {
    NoSession,
    NoSuch(&'static str, Id),
    Database(rusqlite::Error),
    Stopping,
}

impl fmt::Display for ShopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShopError::NoSession => f.write_str("nobody is signed in with this token"),
            ShopError::NoSuch(what, id) => write!(f, "there is no {what} {id}"),
            ShopError::Database(_) => f.write_str("the database refused a statement"),
            ShopError::Stopping => f.write_str("the server is going down"),
        }
    }
}

impl std::error::Error for ShopError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ShopError::Database(cause) => Some(cause),
            _ => None,
        }
    }
}

/// With this, `?` works on both in a task.
impl From<ShopError> for TaskError {
    fn from(error: ShopError) -> Self {
        TaskError::new(error)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Plan {
    Free,
    Plus,
    Pro,
}

#[derive(Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) country: String,
}

pub(crate) struct Product {
    name: String,
    category: String,
    cents: i64,
}

impl Product {
    pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Product> {
        Ok(Product {
            name: row.get(0)?,
            category: row.get(1)?,
            cents: row.get(2)?,
        })
    }
}

pub(crate) struct Line {
    product: Id,
    quantity: i64,
    cents: i64,
}

pub(crate) struct Order {
    pub(crate) day: i64,
    pub(crate) product: Id,
    pub(crate) name: String,
}

pub(crate) struct Reviews {
    count: i64,
    tenths_of_stars: i64,
    best: String,
}

pub(crate) struct Offer {
    name: String,
    cents: i64,
}

/// Who is signed in.
pub(crate) async fn session(ctx: Ctx<Shop>, token: String) -> Result<Id, TaskError> {
    let me = Me::body(&ctx, session, &token);
    let found = me
        .one(
            "SELECT user_id FROM sessions WHERE token = ?1",
            (token,),
            |row| row.get(0),
        )
        .await?;
    Ok(found.ok_or(ShopError::NoSession)?)
}

pub(crate) async fn user(ctx: Ctx<Shop>, id: Id) -> Result<User, TaskError> {
    let me = Me::body(&ctx, user, &id);
    let found = me
        .one(
            "SELECT name, country FROM users WHERE id = ?1",
            (id,),
            |row| {
                Ok(User {
                    name: row.get(0)?,
                    country: row.get(1)?,
                })
            },
        )
        .await?;
    Ok(found.ok_or(ShopError::NoSuch("user", id))?)
}

/// The check that stands in nearly all the others: what may this user see?
pub(crate) async fn subscription(ctx: Ctx<Shop>, user_id: Id) -> Result<Plan, TaskError> {
    let me = Me::body(&ctx, subscription, &user_id);
    let who = me.ask(user, user_id).await?;
    let level: Option<i64> = me
        .one(
            "SELECT s.level FROM subscriptions s JOIN countries c ON c.code = ?2 AND c.open
             WHERE s.user_id = ?1",
            (user_id, who.country.clone()),
            |row| row.get(0),
        )
        .await?;
    Ok(match level {
        Some(2) => Plan::Pro,
        Some(1) => Plan::Plus,
        _ => Plan::Free,
    })
}

/// The feature flags that are on for this user.
pub(crate) async fn flags(ctx: Ctx<Shop>, user_id: Id) -> Result<Vec<String>, TaskError> {
    let me = Me::body(&ctx, flags, &user_id);
    let (who, plan) = try_join!(me.ask(user, user_id), me.ask(subscription, user_id))?;
    if let Some(rules) = me.shared(flag_rules, ()).await? {
        let here = |country: &String| *country == who.country;
        let on = rules
            .iter()
            .filter(|rule| rule.level <= *plan as i64)
            .filter(|rule| rule.country.as_ref().is_none_or(here));
        return Ok(on.map(|rule| rule.name.clone()).collect());
    }
    let names = me
        .all(
            "SELECT name FROM flags
             WHERE level <= ?1 AND (country IS NULL OR country = ?2) ORDER BY name",
            (*plan as i64, who.country.clone()),
            |row| row.get(0),
        )
        .await?;
    Ok(names)
}

/// Products, as many as are asked for together: a batch function.
pub(crate) async fn products(
    ctx: Ctx<Shop>,
    ids: Vec<Id>,
) -> Result<HashMap<Id, Product>, TaskError> {
    let me = Me::body(&ctx, products, &ids);
    let rows = me
        .all(
            "SELECT name, category, cents, id FROM products
             WHERE id IN (SELECT value FROM json_each(?1))",
            (json!(ids).to_string(),),
            |row| Ok((row.get(3)?, Product::read(row)?)),
        )
        .await?;
    Ok(rows.into_iter().collect())
}

/// One product: from what all requests share, or with others that are asked for at the same time.
async fn product<'a>(me: &Me<'a>, id: Id) -> Result<Answer<'a, Product>, TaskError> {
    if let Some(item) = me.shared(listed, id).await? {
        return Ok(Answer::Shared(item));
    }
    let found = me.load(products, id).await?;
    Ok(found.ok_or(ShopError::NoSuch("product", id))?)
}

/// What members of a level pay less in a category, by percent: a batch function.
pub(crate) async fn discounts(
    ctx: Ctx<Shop>,
    of: Vec<(String, i64)>,
) -> Result<HashMap<(String, i64), i64>, TaskError> {
    let me = Me::body(&ctx, discounts, &of);
    let rows = me
        .all(
            "SELECT d.category, d.level, d.percent FROM json_each(?1) AS asked
             JOIN discounts AS d ON d.category = asked.value ->> 0 AND d.level = asked.value ->> 1",
            (json!(of).to_string(),),
            |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)),
        )
        .await?;
    Ok(rows.into_iter().collect())
}

/// What this user pays for this product.
pub(crate) async fn price(ctx: Ctx<Shop>, (user_id, id): (Id, Id)) -> Result<i64, TaskError> {
    let me = Me::body(&ctx, price, &(user_id, id));
    let (item, plan, on) = try_join!(
        product(&me, id),
        me.ask(subscription, user_id),
        me.ask(flags, user_id)
    )?;
    let key = (item.category.clone(), *plan as i64);
    let off = match me.shared(discount, key.clone()).await? {
        Some(off) => *off,
        None => me.load(discounts, key).await?.map(|percent| *percent),
    };
    let sale = if on.iter().any(|flag| flag == "sale") {
        5
    } else {
        0
    };
    Ok(item.cents * (100 - off.unwrap_or(0) - sale) / 100)
}

/// What others say; members also read what other members say.
pub(crate) async fn reviews(ctx: Ctx<Shop>, (user_id, id): (Id, Id)) -> Result<Reviews, TaskError> {
    let me = Me::body(&ctx, reviews, &(user_id, id));
    let plan = me.ask(subscription, user_id).await?;
    let found = me
        .one(
            "SELECT count(*), coalesce(CAST(round(avg(stars) * 10) AS INTEGER), 0),
                    coalesce((SELECT body FROM reviews WHERE product_id = ?1 AND level <= ?2
                              ORDER BY stars DESC, id LIMIT 1), '')
             FROM reviews WHERE product_id = ?1 AND level <= ?2",
            (id, *plan as i64),
            |row| {
                Ok(Reviews {
                    count: row.get(0)?,
                    tenths_of_stars: row.get(1)?,
                    best: row.get(2)?,
                })
            },
        )
        .await?;
    Ok(found.ok_or(ShopError::NoSuch("product", id))?)
}

/// What lies in the cart, at this user's prices.
pub(crate) async fn cart(ctx: Ctx<Shop>, user_id: Id) -> Result<Vec<Line>, TaskError> {
    let me = Me::body(&ctx, cart, &user_id);
    let rows: Vec<(Id, i64)> = me
        .all(
            "SELECT product_id, quantity FROM carts WHERE user_id = ?1 ORDER BY product_id",
            (user_id,),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .await?;
    let prices = try_join_all(rows.iter().map(|&(id, _)| me.ask(price, (user_id, id)))).await?;
    Ok(rows
        .iter()
        .zip(prices)
        .map(|(&(product, quantity), cents)| Line {
            product,
            quantity,
            cents: *cents,
        })
        .collect())
}

/// What the user bought last; members look back further.
pub(crate) async fn orders(ctx: Ctx<Shop>, user_id: Id) -> Result<Vec<Order>, TaskError> {
    let me = Me::body(&ctx, orders, &user_id);
    let plan = me.ask(subscription, user_id).await?;
    let rows: Vec<(i64, Id)> = me
        .all(
            "SELECT day, product_id FROM orders WHERE user_id = ?1 ORDER BY day DESC, id LIMIT ?2",
            (user_id, if *plan == Plan::Free { 2 } else { 4 }),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .await?;
    let items = try_join_all(rows.iter().map(|&(_, id)| product(&me, id))).await?;
    Ok(rows
        .iter()
        .zip(items)
        .map(|(&(day, product), item)| Order {
            day,
            product,
            name: item.name.clone(),
        })
        .collect())
}

/// The best sellers of the category this user buys most, without what is bought already.
pub(crate) async fn recommendations(ctx: Ctx<Shop>, user_id: Id) -> Result<Vec<Offer>, TaskError> {
    let me = Me::body(&ctx, recommendations, &user_id);
    let (plan, on, bought, basket) = try_join!(
        me.ask(subscription, user_id),
        me.ask(flags, user_id),
        me.ask(orders, user_id),
        me.ask(cart, user_id),
    )?;
    if !on.iter().any(|flag| flag == "recommend") {
        return Ok(Vec::new());
    }

    let known: Vec<Id> = bought
        .iter()
        .map(|order| order.product)
        .chain(basket.iter().map(|line| line.product))
        .collect();
    let items = try_join_all(known.iter().map(|&id| product(&me, id))).await?;
    let mut count = HashMap::<&str, usize>::new();
    for item in &items {
        *count.entry(&item.category).or_default() += 1;
    }
    let Some((&favourite, _)) = count.iter().max_by_key(|&(name, times)| (times, name)) else {
        return Ok(Vec::new());
    };

    let best: Vec<Id> = me
        .all(
            "SELECT id FROM products WHERE category = ?1 ORDER BY sold DESC, id LIMIT 12",
            (favourite.to_owned(),),
            |row| row.get(0),
        )
        .await?;
    let wanted = if *plan == Plan::Pro { 3 } else { 2 };
    let fresh = best
        .into_iter()
        .filter(|id| !known.contains(id))
        .take(wanted);
    try_join_all(fresh.map(|id| {
        let me = &me;
        async move {
            let (item, cents) = try_join!(product(me, id), me.ask(price, (user_id, id)))?;
            Ok(Offer {
                name: item.name.clone(),
                cents: *cents,
            })
        }
    }))
    .await
}

/// The page: everything at once, in whatever order it comes.
pub(crate) async fn page(ctx: Ctx<Shop>, (token, product_id): Visit) -> Result<String, TaskError> {
    let me = Me::body(&ctx, page, &(&token, product_id));
    let user_id = *me.ask(session, token).await?;
    let (who, plan, on, item, cents, said, basket, bought, offers) = try_join!(
        me.ask(user, user_id),
        me.ask(subscription, user_id),
        me.ask(flags, user_id),
        product(&me, product_id),
        me.ask(price, (user_id, product_id)),
        me.ask(reviews, (user_id, product_id)),
        me.ask(cart, user_id),
        me.ask(orders, user_id),
        me.ask(recommendations, user_id),
    )?;

    let mut out = format!("Hello, {} ({:?}, {})\n", who.name, *plan, who.country);
    out += &row(&item.name, *cents);
    let stars = said.tenths_of_stars;
    let _ = writeln!(
        out,
        "    {}.{} stars, reviews: {}, the best: {}",
        stars / 10,
        stars % 10,
        said.count,
        said.best
    );
    out += &row(
        "your cart",
        basket.iter().map(|line| line.quantity * line.cents).sum(),
    );
    for order in bought.iter() {
        let _ = writeln!(out, "    bought on day {}: {}", order.day, order.name);
    }
    for offer in offers.iter() {
        out += &row(&format!("you may like: {}", offer.name), offer.cents);
    }
    let _ = writeln!(out, "    features: {}", on.join(", "));
    Ok(out)
}

fn row(text: &str, cents: i64) -> String {
    format!("    {text:<44}{:>6}.{:02}\n", cents / 100, cents % 100)
}
