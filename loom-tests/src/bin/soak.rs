//! Schedules and contention, for as long as you like:
//!
//! ```text
//! cargo run --release -p watershed-loom-tests --bin soak -- --minutes 60 [--threads 2] [--seed 1] [--part contention]
//! ```
//!
//! Half of the time each thread plays random [schedules](watershed_loom_tests::schedule) on contexts of its own, against the model; the
//! other half all of them share one context after another and call, drop, forget, prime, hold and cancel there, with wakers of the
//! threads and of helpers that fire events. There the order is the machine's, so what is checked is what holds in any order:
//!
//! * every call ends (a watchdog reports a round in which nothing moves for a while),
//! * with the right value, which is a function of the key, or with an error that its task may end with,
//! * at most one body of a key is under way in each generation of the key (a forgotten run may go on beside the next),
//! * when the context is gone, every body, value, error and input has been dropped, once.
//!
//! Progress is printed every ten seconds; a fault is printed with its seed and ends the process with 1.

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
fn main() {
    soak::main();
}

#[cfg(not(loom))]
mod soak {
    use std::fmt;
    use std::future::{Future, poll_fn};
    use std::pin::{Pin, pin};
    use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering::SeqCst};
    use std::sync::{Arc, Barrier, Mutex, PoisonError};
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::Thread;
    use std::time::{Duration, Instant, SystemTime};

    use watershed::{Ctx, Held, TaskError, TaskErrorKind};
    use watershed_loom_tests::schedule::{Mode, bytes_of, play};

    /// How many keys a shared context has; the higher ones call the lower ones.
    const KEYS: usize = 6;
    /// How many things a thread does in a shared context.
    const STEPS: usize = 60;
    /// How long nothing may move.
    const PATIENCE: Duration = Duration::from_secs(20);

    struct Options {
        minutes: f64,
        threads: usize,
        seed: u64,
        /// Only this half.
        part: Option<String>,
    }

    fn options() -> Options {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut options = Options {
            minutes: 1.0,
            threads: std::thread::available_parallelism()
                .map_or(2, usize::from)
                .max(2),
            seed: now.map_or(0, |now| now.as_nanos() as u64),
            part: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().unwrap_or_default();
            let known = match name.as_str() {
                "--minutes" => value.parse().map(|n| options.minutes = n).is_ok(),
                "--threads" => value.parse().map(|n| options.threads = n).is_ok(),
                "--seed" => value.parse().map(|n| options.seed = n).is_ok(),
                "--part" => {
                    let known = value == "schedules" || value == "contention";
                    options.part = Some(value.clone());
                    known
                }
                _ => false,
            };
            if !known {
                eprintln!(
                    "soak --minutes <n> [--threads <n>] [--seed <n>] [--part schedules|contention]; not `{name} {value}`"
                );
                std::process::exit(2);
            }
        }
        options
    }

    /// Counts what all threads do.
    #[derive(Default)]
    struct Progress {
        schedules: AtomicUsize,
        rounds: AtomicUsize,
        calls: AtomicUsize,
        starts: AtomicUsize,
        values: AtomicUsize,
        errors: AtomicUsize,
        cancelled: AtomicUsize,
        /// Grows with everything that moves.
        moves: AtomicUsize,
        finished: AtomicBool,
    }

    impl fmt::Display for Progress {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(
                f,
                "{} schedules; {} shared contexts with {} calls, {} bodies: {} values, {} errors, {} cancelled",
                self.schedules.load(SeqCst),
                self.rounds.load(SeqCst),
                self.calls.load(SeqCst),
                self.starts.load(SeqCst),
                self.values.load(SeqCst),
                self.errors.load(SeqCst),
                self.cancelled.load(SeqCst),
            )
        }
    }

    fn fail(seed: u64, what: &str) -> ! {
        eprintln!("FAULT with --seed {seed}: {what}");
        std::process::exit(1);
    }

    pub(crate) fn main() {
        let Options {
            minutes,
            threads,
            seed,
            part,
        } = options();
        let plays = |half: &str| part.as_deref().is_none_or(|part| part == half);
        println!("{minutes} minutes on {threads} threads, --seed {seed}");
        let progress = Arc::new(Progress::default());
        let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
        let watchdog = {
            let progress = Arc::clone(&progress);
            std::thread::spawn(move || watch(&progress, seed))
        };
        let mut round = 0;
        while Instant::now() < end {
            if plays("schedules") {
                schedules(&progress, threads, seed, round, end);
            }
            if plays("contention") {
                contention(&progress, threads, seed, round, end);
            }
            round += 1;
        }
        progress.finished.store(true, SeqCst);
        watchdog
            .join()
            .unwrap_or_else(|_| fail(seed, "the watchdog panicked"));
        println!("done: {progress}");
    }

    /// Prints, and ends the process if nothing moves.
    fn watch(progress: &Progress, seed: u64) {
        let start = Instant::now();
        let mut moved = (progress.moves.load(SeqCst), start);
        let mut printed = start;
        while !progress.finished.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(200));
            let moves = progress.moves.load(SeqCst);
            if moves != moved.0 {
                moved = (moves, Instant::now());
            } else if moved.1.elapsed() > PATIENCE {
                fail(
                    seed,
                    &format!("nothing moves: somebody sleeps for ever; so far {progress}"),
                );
            }
            if printed.elapsed() >= Duration::from_secs(10) {
                printed = Instant::now();
                println!("{:>6.0} s: {progress}", start.elapsed().as_secs_f64());
            }
        }
    }

    /// Some seconds of schedules, each thread with seeds of its own.
    fn schedules(progress: &Progress, threads: usize, seed: u64, round: u64, end: Instant) {
        let end = end.min(Instant::now() + Duration::from_secs(3));
        std::thread::scope(|scope| {
            for thread in 0..threads as u64 {
                scope.spawn(move || {
                    let mut own = seed ^ (round << 40) ^ (thread << 32);
                    while Instant::now() < end {
                        let mode = if own.is_multiple_of(2) {
                            Mode::Acyclic
                        } else {
                            Mode::Cyclic
                        };
                        if let Err(fault) = play(&bytes_of(own), mode) {
                            fail(seed, &format!("{mode:?}, SCHEDULE_SEED={own}:\n{fault}"));
                        }
                        progress.schedules.fetch_add(1, SeqCst);
                        progress.moves.fetch_add(1, SeqCst);
                        own = own.wrapping_add(1);
                    }
                });
            }
        });
    }

    /// Some seconds of shared contexts.
    fn contention(progress: &Arc<Progress>, threads: usize, seed: u64, round: u64, end: Instant) {
        let end = end.min(Instant::now() + Duration::from_secs(3));
        let mut at = 0;
        while Instant::now() < end {
            let its = Random(seed ^ (round << 40)).at(at);
            if let Err(what) = share(progress, threads.max(2) + 1, its) {
                fail(seed, &what);
            }
            progress.rounds.fetch_add(1, SeqCst);
            at += 1;
        }
    }

    struct Random(u64);

    impl Random {
        fn at(&self, n: u64) -> u64 {
            Random(self.0.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).next()
        }

        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let n = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            n ^ (n >> 31)
        }

        fn below(&mut self, n: u64) -> u64 {
            (self.next() >> 16) % n
        }
    }

    // ------------------------------------------------------------------------------- one shared context

    /// The state of a shared context.
    #[derive(Clone)]
    struct Shared(Arc<Inner>);

    struct Inner {
        progress: Arc<Progress>,
        seed: u64,
        /// Times that a key was forgotten, or a run of it failed transiently: as many more bodies there may be at a time.
        generations: [AtomicUsize; KEYS],
        bodies: [AtomicIsize; KEYS],
        live_bodies: AtomicIsize,
        starts: AtomicUsize,
        events: Mutex<Vec<Arc<Event>>>,
        faults: Mutex<Vec<String>>,
        alive: Arc<()>,
    }

    impl Inner {
        fn fault(&self, what: String) {
            self.faults
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(what);
        }
    }

    /// What a body waits for; some thread fires it.
    #[derive(Default)]
    struct Event {
        fired: AtomicBool,
        waker: Mutex<Option<Waker>>,
    }

    impl Event {
        fn fire(&self) {
            self.fired.store(true, SeqCst);
            let waker = self
                .waker
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }

        async fn wait(&self) {
            poll_fn(|cx| {
                let waker = cx.waker().clone();
                let old = self
                    .waker
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .replace(waker);
                drop(old);
                if self.fired.load(SeqCst) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
    }

    #[derive(Debug)]
    struct Value {
        sum: u64,
        again: Box<u64>,
        _alive: Arc<()>,
    }

    #[derive(Debug)]
    struct No(Arc<()>);

    impl fmt::Display for No {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("no")
        }
    }

    impl std::error::Error for No {}

    #[derive(Clone, Debug)]
    struct Key(
        usize,
        #[expect(dead_code, reason = "it is there to be dropped")] Arc<()>,
    );

    impl PartialEq for Key {
        fn eq(&self, other: &Self) -> bool {
            self.0 == other.0
        }
    }

    impl Eq for Key {}

    impl std::hash::Hash for Key {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            (self.0 % 2).hash(state);
        }
    }

    /// What the value of a key is, whoever makes it and however it got there.
    fn sum_of(seed: u64, key: usize) -> u64 {
        let own = Random(seed).at(key as u64);
        callees(seed, key).into_iter().fold(own, |sum, callee| {
            sum.wrapping_add(Random(sum_of(seed, callee)).next())
        })
    }

    /// Whom the task of a key calls.
    fn callees(seed: u64, key: usize) -> Vec<usize> {
        let mut random = Random(seed ^ ((key as u64) << 8));
        (0..if key == 0 { 0 } else { random.below(3) })
            .map(|_| random.below(key as u64) as usize)
            .collect()
    }

    struct Body {
        shared: Shared,
        key: usize,
    }

    impl Drop for Body {
        fn drop(&mut self) {
            self.shared.0.bodies[self.key].fetch_sub(1, SeqCst);
            self.shared.0.live_bodies.fetch_sub(1, SeqCst);
        }
    }

    fn task(
        ctx: Ctx<Shared>,
        key: Key,
    ) -> Pin<Box<dyn Future<Output = Result<Value, TaskError>> + Send>> {
        let shared = ctx.state().clone();
        let inner = &*shared.0;
        let n = inner.starts.fetch_add(1, SeqCst) as u64;
        inner.progress.starts.fetch_add(1, SeqCst);
        inner.progress.moves.fetch_add(1, SeqCst);
        inner.live_bodies.fetch_add(1, SeqCst);
        let before = inner.bodies[key.0].fetch_add(1, SeqCst);
        let generations = inner.generations[key.0].load(SeqCst);
        if before > generations as isize {
            inner.fault(format!(
                "{} bodies of key {} at a time, in {} generations",
                before + 1,
                key.0,
                generations + 1
            ));
        }
        let body = Body {
            shared: shared.clone(),
            key: key.0,
        };
        Box::pin(async move {
            let inner = &*shared.0;
            let _body = body;
            let mut random = Random(inner.seed ^ (n << 20));
            let mut sum = Random(inner.seed).at(key.0 as u64);
            for _ in 0..random.below(3) {
                match random.below(4) {
                    0 => yield_now(false).await,
                    1 => yield_now(true).await,
                    _ => {
                        let event = Arc::new(Event::default());
                        inner
                            .events
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(Arc::clone(&event));
                        event.wait().await;
                    }
                }
            }
            let calls: Vec<_> = callees(inner.seed, key.0)
                .into_iter()
                .map(|callee| ctx.run(task, Key(callee, Arc::clone(&inner.alive))))
                .collect();
            if random.below(2) == 0 {
                for call in calls {
                    sum = sum.wrapping_add(Random(call.await?.sum).next());
                }
            } else {
                // All at once.
                let mut calls: Vec<_> = calls.into_iter().map(|call| (Some(call), None)).collect();
                poll_fn(|cx| {
                    let mut pending = false;
                    for (call, got) in &mut calls {
                        if let Some(future) = call {
                            match Pin::new(future).poll(cx) {
                                Poll::Ready(value) => (*call, *got) = (None, Some(value)),
                                Poll::Pending => pending = true,
                            }
                        }
                    }
                    if pending {
                        Poll::Pending
                    } else {
                        Poll::Ready(())
                    }
                })
                .await;
                for value in calls.into_iter().filter_map(|(_, got)| got) {
                    sum = sum.wrapping_add(Random(value?.sum).next());
                }
            }
            match random.below(24) {
                0 => Err(TaskError::new(No(Arc::clone(&inner.alive)))),
                1 | 2 => {
                    // The slot is dead from the moment that the failure is published.
                    inner.generations.iter().for_each(|n| {
                        n.fetch_add(1, SeqCst);
                    });
                    Err(ctx.transient(TaskError::new(No(Arc::clone(&inner.alive)))))
                }
                3 => std::panic::resume_unwind(Box::new("on purpose".to_owned())),
                _ => Ok(Value {
                    sum,
                    again: Box::new(sum),
                    _alive: Arc::clone(&inner.alive),
                }),
            }
        })
    }

    async fn yield_now(by_clone: bool) {
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            if by_clone {
                let waker = cx.waker().clone();
                waker.wake();
            } else {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }

    /// A thread that sleeps, and what wakes it.
    struct Unpark {
        thread: Thread,
        woken: AtomicBool,
    }

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.woken.store(true, SeqCst);
            self.thread.unpark();
        }
    }

    /// Polls to the end, or so many times if `polls` is some.
    fn drive<F: Future>(inner: &Inner, future: F, polls: Option<u64>) -> Option<F::Output> {
        let unpark = Arc::new(Unpark {
            thread: std::thread::current(),
            woken: AtomicBool::new(false),
        });
        let waker = Waker::from(Arc::clone(&unpark));
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        let mut polled = 0;
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                inner.progress.moves.fetch_add(1, SeqCst);
                return Some(output);
            }
            polled += 1;
            if polls.is_some_and(|most| polled >= most) {
                return None;
            }
            if polls.is_none() {
                while !unpark.woken.swap(false, SeqCst) {
                    std::thread::park();
                }
            }
        }
    }

    /// Several threads on one context.
    fn share(progress: &Arc<Progress>, threads: usize, seed: u64) -> Result<(), String> {
        let alive = Arc::new(());
        let inner = Arc::new(Inner {
            progress: Arc::clone(progress),
            seed,
            generations: Default::default(),
            bodies: Default::default(),
            live_bodies: AtomicIsize::new(0),
            starts: AtomicUsize::new(0),
            events: Mutex::default(),
            faults: Mutex::default(),
            alive: Arc::clone(&alive),
        });
        let sums: Vec<u64> = (0..KEYS).map(|key| sum_of(seed, key)).collect();
        let ctx = Ctx::new(Shared(Arc::clone(&inner)));
        // Otherwise the last thread takes the context along.
        let owner = (!seed.is_multiple_of(2)).then(|| ctx.clone());
        let helds = Mutex::new(Vec::new());
        let barrier = Barrier::new(threads);
        let done = AtomicUsize::new(0);
        let all = ctx;
        std::thread::scope(|scope| {
            let ctx = all;
            for thread in 0..threads {
                let work = Work {
                    inner: &inner,
                    sums: &sums,
                    helds: &helds,
                    random: Random(Random(seed).at(1_000 + thread as u64)),
                };
                let (barrier, done, ctx) = (&barrier, &done, ctx.clone());
                let inner = &inner;
                scope.spawn(move || {
                    barrier.wait();
                    if thread == 0 {
                        // Fires, and has nothing to do with the context.
                        drop(ctx);
                        fire(inner, done, threads - 1, seed);
                        return;
                    }
                    work.go(&ctx);
                    done.fetch_add(1, SeqCst);
                });
            }
        });
        if owner.is_some() && inner.live_bodies.load(SeqCst) != 0 {
            inner.fault("all callers have left, and a body is there".to_owned());
        }
        drop(owner);
        let bodies = inner.live_bodies.load(SeqCst);
        let helds = helds.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (key, held) in &helds {
            check(&inner, &sums, *key, held);
        }
        drop(helds);
        // Events keep wakers of bodies, which have nobody to wake any more.
        for event in inner
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            event.fire();
        }
        let mut faults =
            std::mem::take(&mut *inner.faults.lock().unwrap_or_else(PoisonError::into_inner));
        if bodies != 0 {
            faults.push(format!("{bodies} bodies are left"));
        }
        if Arc::strong_count(&inner) != 1 {
            faults.push("the context is left".to_owned());
        }
        drop(inner);
        let left = Arc::strong_count(&alive) - 1;
        if left != 0 {
            faults.push(format!("{left} inputs, values or errors are left"));
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults.join("; "))
        }
    }

    fn fire(inner: &Inner, done: &AtomicUsize, workers: usize, seed: u64) {
        let mut random = Random(seed);
        while done.load(SeqCst) < workers {
            let event = {
                let mut events = inner.events.lock().unwrap_or_else(PoisonError::into_inner);
                match events.len() as u64 {
                    0 => None,
                    n => Some(events.swap_remove(random.below(n) as usize)),
                }
            };
            match event {
                Some(event) => event.fire(),
                None => std::thread::yield_now(),
            }
        }
    }

    fn check(inner: &Inner, sums: &[u64], key: usize, value: &Value) {
        if value.sum != *value.again || value.sum != sums[key] {
            inner.fault(format!(
                "the value of key {key} is {}, not {}",
                value.sum, sums[key]
            ));
        }
    }

    struct Work<'w> {
        inner: &'w Arc<Inner>,
        sums: &'w [u64],
        helds: &'w Mutex<Vec<(usize, Held<Value>)>>,
        random: Random,
    }

    impl Work<'_> {
        fn go(mut self, ctx: &Ctx<Shared>) {
            let inner = self.inner;
            for _ in 0..STEPS {
                let key = self.random.below(KEYS as u64) as usize;
                let input = || Key(key, Arc::clone(&inner.alive));
                inner.progress.calls.fetch_add(1, SeqCst);
                match self.random.below(20) {
                    0..=8 => {
                        let got = drive(inner, ctx.run(task, input()), None);
                        self.got(key, got);
                    }
                    9..=12 => {
                        // Leaves after a while.
                        let polls = 1 + self.random.below(3);
                        let got = drive(inner, ctx.run(task, input()), Some(polls));
                        self.got(key, got);
                    }
                    13 | 14 => {
                        // Keeps one unpolled while it waits for another.
                        let mut kept = ctx.run(task, input());
                        let polled =
                            Pin::new(&mut kept).poll(&mut Context::from_waker(Waker::noop()));
                        let other = self.random.below(KEYS as u64) as usize;
                        let got = drive(
                            inner,
                            ctx.run(task, Key(other, Arc::clone(&inner.alive))),
                            None,
                        );
                        self.got(other, got);
                        match polled {
                            Poll::Ready(got) => self.got(key, Some(got)),
                            Poll::Pending if self.random.below(2) == 0 => {
                                let got = drive(inner, kept, None);
                                self.got(key, got);
                            }
                            Poll::Pending => drop(kept),
                        }
                    }
                    15 => {
                        if let Some(Ok(held)) = drive(inner, ctx.run(task, input()).held(), None) {
                            check(inner, self.sums, key, &held);
                            self.helds
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push((key, held));
                        }
                    }
                    16 => {
                        if let Some(Ok(value)) =
                            drive(inner, ctx.run_fresh(task_alone, input()), None)
                        {
                            check(inner, self.sums, key, &value);
                        }
                    }
                    17 => {
                        inner.generations[key].fetch_add(1, SeqCst);
                        ctx.forget(task, &input());
                    }
                    18 => {
                        let value = Value {
                            sum: self.sums[key],
                            again: Box::new(self.sums[key]),
                            _alive: Arc::clone(&inner.alive),
                        };
                        let _ = ctx.prime(task, input(), value);
                    }
                    _ if self.random.below(40) == 0 => ctx.cancel(),
                    _ => {
                        if let Some(Ok(value)) = ctx.peek(task, &input()) {
                            check(inner, self.sums, key, value);
                        }
                    }
                }
            }
        }

        fn got(&self, key: usize, got: Option<Result<&Value, TaskError>>) {
            let progress = &self.inner.progress;
            match got {
                None => {}
                Some(Ok(value)) => {
                    check(self.inner, self.sums, key, value);
                    progress.values.fetch_add(1, SeqCst);
                }
                Some(Err(error)) => match error.kind() {
                    TaskErrorKind::Failed
                        if error
                            .downcast_ref::<No>()
                            .is_some_and(|no| Arc::strong_count(&no.0) > 1) =>
                    {
                        progress.errors.fetch_add(1, SeqCst);
                    }
                    TaskErrorKind::Panicked
                        if error.to_string().ends_with("panicked: on purpose") =>
                    {
                        progress.errors.fetch_add(1, SeqCst);
                    }
                    TaskErrorKind::Cancelled => {
                        progress.cancelled.fetch_add(1, SeqCst);
                    }
                    other => self
                        .inner
                        .fault(format!("key {key} ended as {other:?}: {error}")),
                },
            }
        }
    }

    /// For calls without memoization, of which there may be any number at a time.
    async fn task_alone(ctx: Ctx<Shared>, key: Key) -> Result<Value, TaskError> {
        let value = ctx.run(task, key).await?;
        Ok(Value {
            sum: value.sum,
            again: Box::new(value.sum),
            _alive: Arc::clone(&ctx.state().0.alive),
        })
    }
}
