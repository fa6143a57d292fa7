//! What is the same for all requests: products, discounts and the rules of the flags. They come from the second tier.
//!
//! These are tasks of another state than the shop's: they see the database and no request, so nothing of a user can get into
//! what all users share. What depends on the user (the price he pays, the flags that are on for him) stays a task of the request.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::OptionalExtension;
use watershed::{Ctx, Policy, Shared, TaskError};

use crate::db::{Db, Id};
use crate::tasks::{Product, ShopError};
use crate::trace::Tally;

/// The state that all requests share.
pub(crate) struct Catalogue {
    db: Db,
    tally: Arc<Tally>,
}

/// One for the server: products for a minute and never more than a thousand of them, flags for five seconds.
pub(crate) fn open(db: &Db, tally: &Arc<Tally>) -> Shared<Catalogue> {
    let catalogue = Catalogue {
        db: db.clone(),
        tally: Arc::clone(tally),
    };
    Shared::builder(catalogue)
        .ttl(Duration::from_secs(60))
        .refresh_after(Duration::from_secs(50))
        .max_entries(1_000)
        .policy(
            flag_rules,
            Policy {
                ttl: Some(Duration::from_secs(5)),
                refresh_after: Some(Duration::from_secs(4)),
                ..Policy::default()
            },
        )
        .build()
}

/// When a flag is on.
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) country: Option<String>,
    pub(crate) level: i64,
}

pub(crate) async fn flag_rules(ctx: Ctx<Catalogue>, _: ()) -> Result<Vec<Rule>, ShopError> {
    let Catalogue { db, tally } = ctx.state();
    tally.statement();
    db.call(|db| {
        db.prepare_cached("SELECT name, country, level FROM flags ORDER BY name")?
            .query_map((), |row| {
                Ok(Rule {
                    name: row.get(0)?,
                    country: row.get(1)?,
                    level: row.get(2)?,
                })
            })?
            .collect()
    })
    .await
}

pub(crate) async fn listed(ctx: Ctx<Catalogue>, id: Id) -> Result<Product, TaskError> {
    let Catalogue { db, tally } = ctx.state();
    tally.statement();
    let found = db
        .call(move |db| {
            db.prepare_cached("SELECT name, category, cents FROM products WHERE id = ?1")?
                .query_row((id,), Product::read)
                .optional()
        })
        .await
        .map_err(TaskError::new)?;
    found.ok_or_else(|| TaskError::new(ShopError::NoSuch("product", id)))
}

/// The discount on a category, in per cent, for a plan of this level.
pub(crate) async fn discount(
    ctx: Ctx<Catalogue>,
    (category, level): (String, i64),
) -> Result<Option<i64>, ShopError> {
    let Catalogue { db, tally } = ctx.state();
    tally.statement();
    db.call(move |db| {
        db.prepare_cached("SELECT percent FROM discounts WHERE category = ?1 AND level = ?2")?
            .query_row((category, level), |row| row.get(0))
            .optional()
    })
    .await
}
