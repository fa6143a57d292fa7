//! Random loads under random schedules, against a plain model.
//!
//! [`play`] takes a byte string: first the batch functions and the pages, then what happens to them, in which order. One thread, its own
//! executor, its own wakers, events that the schedule fires: the same bytes are the same run. It serves a property test
//! (`tests/batches.rs`) and a fuzz target (`fuzz/fuzz_targets/batch.rs`).
//!
//! A *page* is a task that loads keys one after another or together, runs pages below it, and waits for events. A *batch function* may wait
//! for an event, load keys of the functions below it, leave keys out, return others unasked, fail or panic if it is asked for a bad key.
//!
//! # What is checked
//! * **Every result.** A value is a function of its key alone, whichever batch it came in. An error comes only where a batch failed that had
//!   one of the keys below, or after the context's end.
//! * **What is asked.** Nobody's key; no key twice in a batch; no more than the limit; a key again only if it was forgotten, or its batch was
//!   dropped, or failed when nobody waited for that key. A key whose callers left while its batch goes on for others is not asked for again.
//! * **The end.** When nothing is woken and no event is left, no waiter is unfinished, but for those that the schedule never polls again: they
//!   stall nobody. After the context is gone no body and no value is left.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use watershed::{Ctx, TaskError, TaskErrorKind};

const FUNCTIONS: usize = 3;
const PAGES: u64 = 6;
const KEYS: u64 = 12;
const EVENTS: usize = 4;
const MOST_STEPS: usize = 200;
const MOST_LAST_STEPS: usize = 20_000;

/// What was seen, to know that the schedules are worth something.
#[derive(Debug, Default, Clone, Copy)]
pub struct Stats {
    /// Batches that ran.
    pub batches: usize,
    /// Keys that they were asked for.
    pub keys: usize,
    /// Calls that gave a value.
    pub values: usize,
    /// Calls that failed.
    pub failures: usize,
    /// Calls that the schedule dropped.
    pub dropped: usize,
    /// Calls that it kept and did not poll again.
    pub kept: usize,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.batches += other.batches;
        self.keys += other.keys;
        self.values += other.values;
        self.failures += other.failures;
        self.dropped += other.dropped;
        self.kept += other.kept;
    }
}

/// A reader of bytes, which gives zeros at the end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn below(&mut self, limit: u64) -> u64 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                u64::from(*first) % limit.max(1)
            }
            None => 0,
        }
    }
}

/// One thing that a page does.
#[derive(Debug, Clone)]
enum Step {
    Load(usize, u64),
    LoadTogether(usize, Vec<u64>),
    LoadMany(usize, Vec<u64>),
    Page(u64),
    Event(usize),
}

/// What a batch function does.
#[derive(Debug, Clone, Default)]
struct Function {
    event: Option<usize>,
    /// Loads each key of the function below.
    below: bool,
    /// A batch with this key fails, or panics.
    bad: Option<(u64, bool)>,
    /// Gives no value for this one.
    missing: Option<u64>,
    /// Gives this one in any case.
    unasked: Option<u64>,
    most: Option<usize>,
}

#[derive(Debug, Default)]
struct Event {
    fired: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Event {
    fn fire(&self) {
        self.fired.store(true, SeqCst);
        let wakers = std::mem::take(&mut *self.wakers.lock().unwrap());
        wakers.into_iter().for_each(Waker::wake);
    }

    async fn happened(&self) {
        poll_fn(|cx| {
            if self.fired.load(SeqCst) {
                return Poll::Ready(());
            }
            self.wakers.lock().unwrap().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// What became of a key's batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    UnderWay,
    Done,
    /// Kept, for the key has callers.
    Failed,
    /// Dropped unfinished, or failed when the key had no callers.
    Dropped,
}

/// What is known of a key.
#[derive(Debug, Default, Clone)]
struct Known {
    /// Calls for it that wait.
    callers: usize,
    /// How often it was forgotten.
    forgotten: usize,
    /// Those of the callers that parked after it was forgotten last: the others wait for what nobody finds any more, or have perhaps not come to
    /// this key yet.
    parked: usize,
    /// Its last batch.
    asked: Option<(usize, Asked)>,
    /// How often it may be asked for again: once for each time that it was forgotten.
    again: usize,
}

#[derive(Debug, Default)]
struct Book {
    stats: Stats,
    keys: HashMap<(usize, u64), Known>,
    faults: Vec<String>,
    /// A batch failed or panicked, or the context was ended: results may be errors.
    errors: bool,
}

/// The state of the context.
struct World {
    functions: [Function; FUNCTIONS],
    pages: Vec<Vec<Step>>,
    events: [Event; EVENTS],
    book: Mutex<Book>,
    bodies: Arc<AtomicUsize>,
    values: Arc<AtomicUsize>,
}

impl World {
    fn book<R>(&self, f: impl FnOnce(&mut Book) -> R) -> R {
        f(&mut self.book.lock().unwrap())
    }
}

/// Counts one up while it is alive.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(of: &Arc<AtomicUsize>) -> Self {
        of.fetch_add(1, SeqCst);
        Self(of.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[derive(Debug)]
struct Value {
    number: u64,
    _counted: Counted,
}

/// The value of a key: of itself alone.
fn number(function: usize, key: u64) -> u64 {
    key.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(7) ^ function as u64
}

impl World {
    fn expected(&self, function: usize, key: u64) -> Option<u64> {
        (self.functions[function].missing != Some(key)).then(|| number(function, key))
    }

    /// The value of a page, if all goes well.
    fn page(&self, page: u64) -> u64 {
        let mut sum = page;
        let mut add = |n: u64| sum = sum.wrapping_mul(31).wrapping_add(n);
        for step in &self.pages[page as usize] {
            match step {
                Step::Load(f, key) => add(self.expected(*f, *key).unwrap_or(1)),
                Step::LoadTogether(f, keys) | Step::LoadMany(f, keys) => {
                    keys.iter()
                        .for_each(|key| add(self.expected(*f, *key).unwrap_or(1)));
                }
                Step::Page(below) => add(self.page(*below)),
                Step::Event(_) => {}
            }
        }
        sum
    }
}

/// A call for a key that counts among its callers while it waits.
struct Waits<'a> {
    world: &'a World,
    key: (usize, u64),
    /// How often the key had been forgotten when the call parked.
    parked: Option<usize>,
}

impl<'a> Waits<'a> {
    fn new(world: &'a World, function: usize, key: u64) -> Self {
        let key = (function, key);
        world.book(|book| book.keys.entry(key).or_default().callers += 1);
        Self {
            world,
            key,
            parked: None,
        }
    }

    fn park(&mut self) {
        if self.parked.is_none() {
            self.parked = Some(self.world.book(|book| {
                let known = book.keys.entry(self.key).or_default();
                known.parked += 1;
                known.forgotten
            }));
        }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.world.book(|book| {
            let known = book.keys.entry(self.key).or_default();
            known.callers -= 1;
            known.parked -= usize::from(self.parked == Some(known.forgotten));
        });
    }
}

/// Awaits `call`, and says of each of its keys that it waits.
async fn waiting<T>(mut waits: Vec<Waits<'_>>, call: impl Future<Output = T>) -> T {
    let mut call = pin!(call);
    poll_fn(|cx| {
        let polled = call.as_mut().poll(cx);
        if polled.is_pending() {
            waits.iter_mut().for_each(Waits::park);
        }
        polled
    })
    .await
}

/// A batch under way.
struct Run<'a> {
    world: &'a World,
    function: usize,
    number: usize,
    keys: Vec<u64>,
    how: Asked,
    _body: Counted,
}

impl<'a> Run<'a> {
    fn begin(world: &'a World, function: usize, keys: &[u64]) -> Self {
        let most = world.functions[function].most.unwrap_or(usize::MAX);
        let number = world.book(|book| {
            book.stats.batches += 1;
            book.stats.keys += keys.len();
            let number = book.stats.batches;
            if keys.is_empty() || keys.len() > most {
                book.faults.push(format!("{} keys in a batch", keys.len()));
            }
            for (at, key) in keys.iter().enumerate() {
                if keys[..at].contains(key) {
                    book.faults
                        .push(format!("{function}/{key} twice in a batch"));
                }
                let known = book.keys.entry((function, *key)).or_default();
                if known.callers == 0 {
                    book.faults.push(format!("{function}/{key} is nobody's"));
                }
                if let Some((_, Asked::UnderWay | Asked::Done | Asked::Failed)) = known.asked {
                    match known.again.checked_sub(1) {
                        Some(less) => known.again = less,
                        None => book
                            .faults
                            .push(format!("{function}/{key} again: {known:?}")),
                    }
                }
                if let Some(known) = book.keys.get_mut(&(function, *key)) {
                    known.asked = Some((number, Asked::UnderWay));
                }
            }
            number
        });
        Self {
            world,
            function,
            number,
            keys: keys.to_vec(),
            how: Asked::Dropped,
            _body: Counted::new(&world.bodies),
        }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let how = self.how;
        self.world.book(|book| {
            for key in &self.keys {
                let known = book.keys.entry((self.function, *key)).or_default();
                if let Some((number, asked)) = &mut known.asked
                    && *number == self.number
                {
                    *asked = match how {
                        Asked::Failed if known.parked == 0 => Asked::Dropped,
                        how => how,
                    };
                }
            }
        });
    }
}

type Found = Result<HashMap<u64, Value>, TaskError>;

async fn zero(ctx: Ctx<World>, keys: Vec<u64>) -> Found {
    fetch(ctx, 0, keys).await
}
async fn one(ctx: Ctx<World>, keys: Vec<u64>) -> Found {
    fetch(ctx, 1, keys).await
}
async fn two(ctx: Ctx<World>, keys: Vec<u64>) -> Found {
    fetch(ctx, 2, keys).await
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, TaskError>> + Send + 'a>>;

/// The number of what there is for a key.
fn load(ctx: &Ctx<World>, function: usize, key: u64) -> Boxed<'_, Option<u64>> {
    Box::pin(async move {
        let waits = vec![Waits::new(ctx.state(), function, key)];
        let loaded = match function {
            0 => waiting(waits, ctx.load(zero, key)).await,
            1 => waiting(waits, ctx.load(one, key)).await,
            _ => waiting(waits, ctx.load(two, key)).await,
        };
        Ok(loaded?.map(|value| value.number))
    })
}

fn load_many<'a>(
    ctx: &'a Ctx<World>,
    function: usize,
    keys: &[u64],
) -> Boxed<'a, Vec<Option<u64>>> {
    let keys = keys.to_vec();
    Box::pin(async move {
        let waits = keys
            .iter()
            .map(|key| Waits::new(ctx.state(), function, *key))
            .collect();
        let loaded = match function {
            0 => waiting(waits, ctx.load_many(zero, keys)).await,
            1 => waiting(waits, ctx.load_many(one, keys)).await,
            _ => waiting(waits, ctx.load_many(two, keys)).await,
        };
        let numbers = |value: Option<&Value>| value.map(|value| value.number);
        Ok(loaded?.into_iter().map(numbers).collect())
    })
}

/// Waits for all, and polls those that are pending only.
async fn together<T>(mut calls: Vec<Boxed<'_, T>>) -> Result<Vec<T>, TaskError> {
    let mut done: Vec<Option<T>> = calls.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut pending = false;
        for (call, done) in calls.iter_mut().zip(&mut done) {
            if done.is_none() {
                match call.as_mut().poll(cx) {
                    Poll::Ready(Ok(value)) => *done = Some(value),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    })
    .await?;
    Ok(done.into_iter().flatten().collect())
}

async fn fetch(ctx: Ctx<World>, function: usize, keys: Vec<u64>) -> Found {
    let world = ctx.state();
    let mut run = Run::begin(world, function, &keys);
    let does = &world.functions[function];
    if let Some(event) = does.event {
        world.events[event].happened().await;
    }
    if does.below && function > 0 {
        let loads = keys.iter().map(|key| load(&ctx, function - 1, *key));
        together(loads.collect()).await?;
    }
    let bad = does.bad.filter(|(bad, _)| keys.contains(bad));
    run.how = Asked::Done;
    if let Some((_, panics)) = bad {
        run.how = Asked::Failed;
        world.book(|book| book.errors = true);
        if panics {
            // Past the hook, which a fuzzer ends the process in.
            resume_unwind(Box::new("a bad key"));
        }
        return Err(TaskError::new("a bad key"));
    }
    let wanted = keys
        .iter()
        .copied()
        .filter(|key| does.missing != Some(*key));
    let unasked = does.unasked.filter(|key| does.missing != Some(*key));
    if let Some(key) = unasked
        && !keys.contains(&key)
    {
        // It is kept, unless the key is being asked for.
        world.book(|book| {
            let known = book.keys.entry((function, key)).or_default();
            if known.callers == 0 {
                known.asked.get_or_insert((0, Asked::Done));
            }
        });
    }
    let value = |key| Value {
        number: number(function, key),
        _counted: Counted::new(&world.values),
    };
    Ok(wanted.chain(unasked).map(|key| (key, value(key))).collect())
}

async fn page_0(ctx: Ctx<World>, page: u64) -> Result<u64, TaskError> {
    let world = ctx.state();
    let _body = Counted::new(&world.bodies);
    let mut sum = page;
    let mut add = |n: u64| sum = sum.wrapping_mul(31).wrapping_add(n);
    for step in &world.pages[page as usize] {
        match step {
            Step::Load(f, key) => add(load(&ctx, *f, *key).await?.unwrap_or(1)),
            Step::LoadTogether(f, keys) => {
                let loads = keys.iter().map(|key| load(&ctx, *f, *key)).collect();
                let found = together(loads).await?;
                found.into_iter().for_each(|n| add(n.unwrap_or(1)));
            }
            Step::LoadMany(f, keys) => {
                let found = load_many(&ctx, *f, keys).await?;
                found.into_iter().for_each(|n| add(n.unwrap_or(1)));
            }
            Step::Page(below) => add(*ctx.run(page_n, *below).await?),
            Step::Event(event) => world.events[*event].happened().await,
        }
    }
    Ok(sum)
}

/// A page, with its edge to others hidden: they are below it.
fn page_n(ctx: Ctx<World>, page: u64) -> Boxed<'static, u64> {
    Box::pin(page_0(ctx, page))
}

/// What a root call waits for.
#[derive(Debug, Clone)]
enum Call {
    Page(u64),
    Load(usize, u64),
    Many(usize, Vec<u64>),
}

/// A caller that the schedule polls.
struct Root<'c> {
    what: Call,
    future: Boxed<'c, u64>,
    woken: Arc<Woken>,
    polled: bool,
    kept: bool,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

fn sum(numbers: impl IntoIterator<Item = Option<u64>>) -> u64 {
    let add = |sum: u64, n: Option<u64>| sum.wrapping_mul(31).wrapping_add(n.unwrap_or(1));
    numbers.into_iter().fold(7, add)
}

fn root<'c>(ctx: &'c Ctx<World>, what: &Call) -> Boxed<'c, u64> {
    match what.clone() {
        Call::Page(page) => Box::pin(async move { Ok(*ctx.run(page_n, page).await?) }),
        Call::Load(f, key) => Box::pin(async move { Ok(sum([load(ctx, f, key).await?])) }),
        Call::Many(f, keys) => Box::pin(async move { Ok(sum(load_many(ctx, f, &keys).await?)) }),
    }
}

fn keys(bytes: &mut Bytes<'_>) -> Vec<u64> {
    (0..=bytes.below(5)).map(|_| bytes.below(KEYS)).collect()
}

fn world(bytes: &mut Bytes<'_>) -> World {
    let functions = std::array::from_fn(|function| {
        let mut maybe = |of: u64| {
            let n = bytes.below(2 * of);
            (n >= of).then(|| n - of)
        };
        Function {
            event: maybe(EVENTS as u64).map(|event| event as usize),
            below: function > 0 && maybe(1).is_some(),
            missing: maybe(KEYS),
            unasked: maybe(KEYS),
            most: maybe(5).map(|most| most as usize + 1),
            bad: maybe(2 * KEYS)
                .map(|n| (n % KEYS, n < KEYS))
                .filter(|_| maybe(1).is_some()),
        }
    });
    let pages = (0..PAGES)
        .map(|page| {
            (0..bytes.below(5))
                .map(|_| match bytes.below(6) {
                    0 | 1 => Step::Load(bytes.below(3) as usize, bytes.below(KEYS)),
                    2 => Step::LoadTogether(bytes.below(3) as usize, keys(bytes)),
                    3 => Step::LoadMany(bytes.below(3) as usize, keys(bytes)),
                    4 if page > 0 => Step::Page(bytes.below(page)),
                    _ => Step::Event(bytes.below(EVENTS as u64) as usize),
                })
                .collect()
        })
        .collect();
    World {
        functions,
        pages,
        events: Default::default(),
        book: Mutex::default(),
        bodies: Arc::default(),
        values: Arc::default(),
    }
}

/// Plays a schedule; an error says what was not as the model has it.
///
/// With `SCHEDULE_TRACE` in the environment, what happens is printed.
///
/// # Errors
/// The faults.
pub fn play(bytes: &[u8]) -> Result<Stats, String> {
    let trace = std::env::var_os("SCHEDULE_TRACE").is_some();
    let bytes = &mut Bytes(bytes);
    let world = world(bytes);
    if trace {
        println!("{:#?}\n{:#?}", world.functions, world.pages);
    }
    let (bodies, values) = (world.bodies.clone(), world.values.clone());
    let limits: Vec<_> = world.functions.iter().map(|f| f.most).collect();
    let mut builder = Ctx::builder(world);
    for (function, most) in limits.into_iter().enumerate() {
        builder = match (function, most) {
            (0, Some(most)) => builder.max_batch(zero, most),
            (1, Some(most)) => builder.max_batch(one, most),
            (2, Some(most)) => builder.max_batch(two, most),
            _ => builder,
        };
    }
    let ctx = builder.build();
    let stats = schedule(&ctx, bytes, trace);
    drop(ctx);
    let stats = stats?;
    if bodies.load(SeqCst) != 0 || values.load(SeqCst) != 0 {
        return Err("a body or a value is left".to_owned());
    }
    Ok(stats)
}

fn schedule(ctx: &Ctx<World>, bytes: &mut Bytes<'_>, trace: bool) -> Result<Stats, String> {
    let world = ctx.state();
    let roots: RefCell<Vec<Root<'_>>> = RefCell::default();
    let mut stats = Stats::default();
    let poll = |at: usize, stats: &mut Stats| -> Result<(), String> {
        let mut roots = roots.borrow_mut();
        let root = &mut roots[at];
        root.woken.0.store(false, SeqCst);
        root.polled = true;
        let waker = Waker::from(root.woken.clone());
        let polled = root.future.as_mut().poll(&mut Context::from_waker(&waker));
        if trace {
            println!("poll {at} {:?}: {polled:?}", root.what);
        }
        let Poll::Ready(outcome) = polled else {
            return Ok(());
        };
        let what = roots.swap_remove(at).what;
        match outcome {
            Ok(value) => {
                stats.values += 1;
                let expected = match &what {
                    Call::Page(page) => world.page(*page),
                    Call::Load(f, key) => sum([world.expected(*f, *key)]),
                    Call::Many(f, keys) => sum(keys.iter().map(|key| world.expected(*f, *key))),
                };
                if value != expected {
                    return Err(format!("{what:?} gave {value}, not {expected}"));
                }
            }
            Err(error) => {
                stats.failures += 1;
                let fine = match error.kind() {
                    TaskErrorKind::Cancelled => ctx.is_cancelled(),
                    TaskErrorKind::Failed | TaskErrorKind::Panicked => {
                        world.book(|book| book.errors)
                    }
                    _ => false,
                };
                if !fine {
                    return Err(format!("{what:?}: {error}"));
                }
            }
        }
        Ok(())
    };
    for _ in 0..MOST_STEPS {
        if bytes.0.is_empty() {
            break;
        }
        let count = roots.borrow().len() as u64;
        match bytes.below(16) {
            0..4 => {
                let what = match bytes.below(3) {
                    0 => Call::Page(bytes.below(PAGES)),
                    1 => Call::Load(bytes.below(3) as usize, bytes.below(KEYS)),
                    _ => Call::Many(bytes.below(3) as usize, keys(bytes)),
                };
                roots.borrow_mut().push(Root {
                    future: root(ctx, &what),
                    what,
                    woken: Arc::new(Woken(AtomicBool::new(true))),
                    polled: false,
                    kept: false,
                });
            }
            4..10 if count > 0 => {
                let at = bytes.below(count) as usize;
                if !roots.borrow()[at].kept {
                    poll(at, &mut stats)?;
                }
            }
            10 if count > 0 => {
                stats.dropped += 1;
                let gone = roots.borrow_mut().swap_remove(bytes.below(count) as usize);
                if trace {
                    println!("drop {:?}", gone.what);
                }
                drop(gone);
            }
            11 if count > 0 => {
                stats.kept += 1;
                let at = bytes.below(count) as usize;
                roots.borrow_mut()[at].kept = true;
                if trace {
                    println!("keep {at}");
                }
            }
            12 => world.events[bytes.below(EVENTS as u64) as usize].fire(),
            13 => {
                let (function, key) = (bytes.below(3) as usize, bytes.below(KEYS));
                let forgot = match function {
                    0 => ctx.forget_loaded(zero, &key),
                    1 => ctx.forget_loaded(one, &key),
                    _ => ctx.forget_loaded(two, &key),
                };
                if trace {
                    println!("forget {function}/{key}: {forgot}");
                }
                if forgot {
                    world.book(|book| {
                        let known = book.keys.entry((function, key)).or_default();
                        known.again += 1;
                        known.forgotten += 1;
                        known.parked = 0;
                    });
                }
            }
            14 => {
                let (function, key) = (bytes.below(3) as usize, bytes.below(KEYS));
                if world.expected(function, key).is_some() {
                    let value = Value {
                        number: number(function, key),
                        _counted: Counted::new(&world.values),
                    };
                    let refused = match function {
                        0 => ctx.prime_loaded(zero, key, value),
                        1 => ctx.prime_loaded(one, key, value),
                        _ => ctx.prime_loaded(two, key, value),
                    };
                    if refused.is_ok() {
                        world.book(|book| {
                            let known = book.keys.entry((function, key)).or_default();
                            known.asked = Some((0, Asked::Done));
                        });
                    }
                }
            }
            15 if bytes.below(8) == 7 => ctx.cancel(),
            _ => {}
        }
        fault(world)?;
    }
    // The end: every event happens, and who is woken is polled.
    world.events.iter().for_each(Event::fire);
    for _ in 0..MOST_LAST_STEPS {
        let next = roots
            .borrow()
            .iter()
            .position(|root| !root.kept && root.woken.0.load(SeqCst));
        let Some(next) = next else { break };
        poll(next, &mut stats)?;
        fault(world)?;
    }
    let unfinished: Vec<String> = roots
        .borrow()
        .iter()
        .filter(|root| !root.kept)
        .map(|root| format!("{:?}", root.what))
        .collect();
    if !unfinished.is_empty() {
        return Err(format!("these wait for ever: {unfinished:?}"));
    }
    roots.borrow_mut().clear();
    let of_batches = world.book(|book| book.stats);
    stats.batches = of_batches.batches;
    stats.keys = of_batches.keys;
    Ok(stats)
}

fn fault(world: &World) -> Result<(), String> {
    world.book(|book| match book.faults.first() {
        Some(fault) => Err(fault.clone()),
        None => Ok(()),
    })
}
