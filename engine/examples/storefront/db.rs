//! The shop's database: one SQLite file, filled at the first start, read through a small pool.
//!
//! The pool never blocks a thread of the runtime: a caller waits for a permit, and the statement runs on
//! tokio's blocking pool.

use std::error::Error;
use std::fs;
use std::ops::RangeInclusive;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use crate::tasks::ShopError;

/// What SQLite numbers rows by.
pub(crate) type Id = i64;

pub(crate) const USERS: Id = 1_000;
pub(crate) const PRODUCTS: Id = 600;

/// Marks a file as ours (`PRAGMA application_id`), and what is in it (`PRAGMA user_version`).
const OURS: i64 = 0x5348_4F50;
const VERSION: i64 = 1;

const CONNECTIONS: usize = 4;

/// The session token of a user.
pub(crate) fn token(user: Id) -> String {
    format!("s-{:08x}", Dice::new(user as u64).next() as u32)
}

// --- the pool --------------------------------------------------------------------------------------

/// A handle on the pool; clones share it.
#[derive(Clone)]
pub(crate) struct Db {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    summary: Arc<str>,
}

impl Db {
    /// Opens the file, and fills it first if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Db, Box<dyn Error>> {
        let shown = path.display();
        let start = Instant::now();
        let fresh = match state_of(path)? {
            State::Missing => true,
            State::Ours { version } => version != VERSION,
            State::Foreign => {
                return Err(format!("{shown} exists and is not a shop: give another --db").into());
            }
        };
        if fresh {
            fill(path).map_err(|error| format!("cannot make {shown}: {error}"))?;
        }
        let rows = {
            let db = connect(path)?;
            let count = |table: &str| {
                db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                    row.get::<_, i64>(0)
                })
            };
            TABLES
                .iter()
                .map(|table| count(table))
                .sum::<rusqlite::Result<i64>>()?
        };
        let idle = (0..CONNECTIONS)
            .map(|_| connect(path))
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let made = if fresh {
            format!("made in {} ms", start.elapsed().as_millis())
        } else {
            "found".into()
        };
        Ok(Db {
            idle: Arc::new(Mutex::new(idle)),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
            summary: format!("{rows} rows, {CONNECTIONS} connections, {made}: {shown}").into(),
        })
    }

    pub(crate) fn summary(&self) -> &str {
        &self.summary
    }

    /// Runs `work` with a connection on the blocking pool.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for a connection: nothing happened. Dropped later: the statement ends on
    /// its own thread, and then the connection goes back.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShopError> {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return Err(ShopError::Stopping);
        };
        let lease = Lease::new(&self.idle, permit);
        match spawn_blocking(move || work(lease.connection())).await {
            Ok(outcome) => outcome.map_err(ShopError::Database),
            Err(gone) => match gone.try_into_panic() {
                Ok(payload) => resume_unwind(payload),
                Err(_) => Err(ShopError::Stopping),
            },
        }
    }
}

/// A connection that goes back when its user is done, panicking or not.
struct Lease {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
    /// Released after the connection went back: a permit is a promise that one is idle.
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    fn new(idle: &Arc<Mutex<Vec<Connection>>>, permit: OwnedSemaphorePermit) -> Lease {
        let connection = idle.lock().unwrap().pop();
        Lease {
            connection,
            idle: Arc::clone(idle),
            _permit: permit,
        }
    }

    fn connection(&self) -> &Connection {
        self.connection
            .as_ref()
            .expect("as many permits as connections")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.idle.lock().unwrap().extend(self.connection.take());
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
}

// --- the file --------------------------------------------------------------------------------------

enum State {
    Missing,
    Ours { version: i64 },
    Foreign,
}

fn state_of(path: &Path) -> Result<State, Box<dyn Error>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(State::Missing),
        Err(error) => return Err(format!("cannot look at {}: {error}", path.display()).into()),
        Ok(found) if !found.is_file() => return Ok(State::Foreign),
        Ok(found) if found.len() == 0 => return Ok(State::Missing),
        Ok(_) => {}
    }
    let pragma = |name: &str| -> rusqlite::Result<i64> {
        connect(path)?.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
    };
    Ok(match (pragma("application_id"), pragma("user_version")) {
        (Ok(OURS), Ok(version)) => State::Ours { version },
        _ => State::Foreign,
    })
}

/// Fills a file beside `path` and moves it there: nobody ever sees half a shop.
fn fill(path: &Path) -> Result<(), Box<dyn Error>> {
    let draft = path.with_extension(format!("{}.draft", std::process::id()));
    let filled = fill_draft(&draft).and_then(|()| Ok(fs::rename(&draft, path)?));
    if filled.is_err() {
        let _ = fs::remove_file(&draft);
    }
    filled
}

const TABLES: [&str; 10] = [
    "countries",
    "users",
    "sessions",
    "subscriptions",
    "flags",
    "products",
    "discounts",
    "reviews",
    "carts",
    "orders",
];

const SCHEMA: &str = "
    CREATE TABLE countries (code TEXT PRIMARY KEY, open INTEGER NOT NULL);
    CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT NOT NULL);
    CREATE TABLE sessions (token TEXT PRIMARY KEY, user_id INTEGER NOT NULL);
    CREATE TABLE subscriptions (user_id INTEGER PRIMARY KEY, level INTEGER NOT NULL);
    CREATE TABLE flags (name TEXT NOT NULL, country TEXT, level INTEGER NOT NULL);
    CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, category TEXT NOT NULL,
                           cents INTEGER NOT NULL, sold INTEGER NOT NULL);
    CREATE INDEX products_by_sold ON products (category, sold DESC, id);
    CREATE TABLE discounts (category TEXT, level INTEGER, percent INTEGER NOT NULL,
                            PRIMARY KEY (category, level));
    CREATE TABLE reviews (id INTEGER PRIMARY KEY, product_id INTEGER NOT NULL, level INTEGER NOT NULL,
                          stars INTEGER NOT NULL, body TEXT NOT NULL);
    CREATE INDEX reviews_by_product ON reviews (product_id, level);
    CREATE TABLE carts (user_id INTEGER, product_id INTEGER, quantity INTEGER NOT NULL,
                        PRIMARY KEY (user_id, product_id));
    CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, day INTEGER NOT NULL,
                         product_id INTEGER NOT NULL);
    CREATE INDEX orders_by_user ON orders (user_id, day DESC, id);
";

const COUNTRIES: [(&str, bool); 5] = [
    ("BR", true),
    ("IN", true),
    ("JP", true),
    ("NO", true),
    ("XX", false),
];
const FLAGS: [(&str, Option<&str>, i64); 6] = [
    ("dark-mode", None, 0),
    ("early-access", None, 2),
    ("express", Some("JP"), 1),
    ("pick-up", Some("NO"), 0),
    ("recommend", None, 0),
    ("sale", None, 1),
];
const BIRDS: [&str; 8] = [
    "Avocet", "Bittern", "Curlew", "Dunlin", "Egret", "Heron", "Osprey", "Teal",
];
const LOOKS: [&str; 6] = ["Blue", "Light", "Plain", "Round", "Small", "Sturdy"];
const GOODS: [(&str, &str); 10] = [
    ("kettle", "kitchen"),
    ("pan", "kitchen"),
    ("bowl", "kitchen"),
    ("lamp", "home"),
    ("rug", "home"),
    ("tent", "outdoor"),
    ("rope", "outdoor"),
    ("stove", "outdoor"),
    ("notebook", "paper"),
    ("atlas", "paper"),
];
const OPINIONS: [&str; 5] = [
    "does what it says",
    "a gift, well liked",
    "came late",
    "would buy again",
    "too small",
];

fn fill_draft(draft: &Path) -> Result<(), Box<dyn Error>> {
    let mut db = Connection::open(draft)?;
    db.pragma_update(None, "application_id", OURS)?;
    db.pragma_update(None, "user_version", VERSION)?;
    let mut dice = Dice::new(1);
    let tx = db.transaction()?;
    tx.execute_batch(SCHEMA)?;
    let add = |sql: &str, row: &[&dyn rusqlite::ToSql]| tx.prepare_cached(sql)?.execute(row);

    for (code, open) in COUNTRIES {
        add("INSERT INTO countries VALUES (?1, ?2)", params![code, open])?;
    }
    for (name, country, level) in FLAGS {
        add(
            "INSERT INTO flags VALUES (?1, ?2, ?3)",
            params![name, country, level],
        )?;
    }
    for category in ["kitchen", "home", "outdoor", "paper"] {
        for level in 1..=2 {
            let percent = level * 5 + dice.pick(0..=4);
            add(
                "INSERT INTO discounts VALUES (?1, ?2, ?3)",
                params![category, level, percent],
            )?;
        }
    }
    for id in 1..=PRODUCTS {
        let (thing, category) = GOODS[dice.below(GOODS.len())];
        let name = format!("{} {thing} no. {id}", LOOKS[dice.below(LOOKS.len())]);
        let (cents, sold) = (dice.pick(300..=25_000), dice.pick(0..=900));
        add(
            "INSERT INTO products VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, name, category, cents, sold],
        )?;
        for _ in 0..dice.pick(0..=9) {
            let (level, stars, body) = (
                dice.pick(0..=2),
                dice.pick(1..=5),
                OPINIONS[dice.below(OPINIONS.len())],
            );
            add(
                "INSERT INTO reviews VALUES (NULL, ?1, ?2, ?3, ?4)",
                params![id, level, stars, body],
            )?;
        }
    }
    for id in 1..=USERS {
        let name = format!("{} {id}", BIRDS[dice.below(BIRDS.len())]);
        let country = COUNTRIES[dice.below(COUNTRIES.len())].0;
        add(
            "INSERT INTO users VALUES (?1, ?2, ?3)",
            params![id, name, country],
        )?;
        add(
            "INSERT INTO sessions VALUES (?1, ?2)",
            params![token(id), id],
        )?;
        add(
            "INSERT INTO subscriptions VALUES (?1, ?2)",
            params![id, dice.pick(0..=2)],
        )?;
        for _ in 0..dice.pick(1..=4) {
            let (product, quantity) = (dice.pick(1..=PRODUCTS), dice.pick(1..=3));
            add(
                "INSERT OR IGNORE INTO carts VALUES (?1, ?2, ?3)",
                params![id, product, quantity],
            )?;
        }
        for _ in 0..dice.pick(0..=6) {
            let (day, product) = (dice.pick(1..=365), dice.pick(1..=PRODUCTS));
            add(
                "INSERT INTO orders VALUES (NULL, ?1, ?2, ?3)",
                params![id, day, product],
            )?;
        }
    }
    tx.commit()?;
    db.close().map_err(|(_, error)| error)?;
    Ok(())
}

// --- chance ----------------------------------------------------------------------------------------

/// SplitMix64: the same numbers on every machine.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn pick(&mut self, range: RangeInclusive<i64>) -> i64 {
        let (first, last) = range.into_inner();
        first + self.below((last - first + 1) as usize) as i64
    }
}
