//! The invalidation log as the rest of the proxy sees it: one handle, shared by all threads.
//!
//! * [`InvalidationLog::position`] — what a fill that begins now has seen.
//! * [`InvalidationLog::standing`] — whether an entry still stands; one atomic load when nothing has happened
//!   since it was last asked.
//! * [`InvalidationLog::invalidate`] — the one way to invalidate anything. It returns when the invalidation is
//!   in the log, or, where Redis can't be reached within its deadline, applied here and queued in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::position::{LogId, Position};
use super::table::{HorizonReason, Standing, Step, Table};
use super::{Invalidation, Source, TagId};
use crate::clock::{Clock, Timestamp, millis};
use crate::metrics::Metrics;
use crate::redis_tier::link::{Appended, Link};

/// More waiting invalidations than this are replaced by one of everything.
const MAX_PENDING: usize = 10_000;

/// Where an entry stands in the log: its as-of, and the log's version at which it was last found valid.
#[derive(Debug)]
pub struct Stamp {
    /// What the instance that filled it had applied when its fetch began.
    pub as_of: Position,
    seen: AtomicU64,
}

impl Stamp {
    /// The stamp of an entry that was not looked at yet.
    pub fn new(as_of: Position) -> Stamp {
        Stamp { as_of, seen: AtomicU64::new(u64::MAX) }
    }
}

/// Where an invalidation got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// It is in the log.
    At(LogId),
    /// It is applied in this process and waits for Redis.
    Pending,
}

/// What is applied here and waits for Redis, in order, each with a number of its own.
#[derive(Default)]
struct Pending {
    waiting: VecDeque<(u64, Invalidation)>,
    numbered: u64,
}

/// The log. Clone the `Arc` around it.
pub struct InvalidationLog {
    table: RwLock<Table>,
    /// Moves with every change of the table, after it.
    version: AtomicU64,
    /// Told of each change of the table.
    changed: Notify,
    remote: Option<Arc<Link>>,
    pending: Mutex<Pending>,
    /// All that was in the log by then has been applied, in milliseconds of [`Timestamp`].
    heard: AtomicU64,
    /// Until when others may know of invalidations that are not in the log yet, in milliseconds of [`Timestamp`].
    doubtful: AtomicU64,
    max_lag: u64,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl InvalidationLog {
    /// A log that is kept in Redis when there is a `remote`, and else in this process.
    pub fn new(
        table_size: usize,
        max_lag: Duration,
        remote: Option<Arc<Link>>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> InvalidationLog {
        InvalidationLog {
            table: RwLock::new(Table::new(table_size)),
            version: AtomicU64::new(0),
            changed: Notify::new(),
            remote,
            pending: Mutex::default(),
            heard: AtomicU64::new(0),
            doubtful: AtomicU64::new(0),
            max_lag: millis(max_lag),
            clock,
            metrics,
        }
    }

    /// What has been applied up to now: the as-of of a fill that begins now.
    pub fn position(&self) -> Position {
        self.read().position()
    }

    /// The newest id of the log that is known here; something may be missing before it.
    pub(crate) fn newest(&self) -> LogId {
        self.read().newest()
    }

    /// Everything as-of before it is invalid.
    pub fn horizon(&self) -> Position {
        self.read().horizon()
    }

    /// How many tags are remembered.
    pub fn tags(&self) -> usize {
        self.read().len()
    }

    /// Whether an entry with this stamp and these tags still stands. They are asked for only if the log has changed.
    pub fn standing<T: IntoIterator<Item = TagId>>(&self, stamp: &Stamp, tags: impl FnOnce() -> T) -> Standing {
        // Read before the table is: a change in between makes the next look a full one again.
        let version = self.version.load(Ordering::Acquire);
        if stamp.seen.load(Ordering::Relaxed) == version {
            return Standing::Valid;
        }
        let standing = self.standing_of(stamp.as_of, tags());
        if standing == Standing::Valid {
            stamp.seen.store(version, Ordering::Relaxed);
        }
        standing
    }

    /// Whether what was filled as of then, with those tags, still stands.
    pub fn standing_of(&self, as_of: Position, tags: impl IntoIterator<Item = TagId>) -> Standing {
        self.read().standing(as_of, tags)
    }

    /// Whether everything in the log up to this entry has been applied here. Waits for what is missing, but not longer
    /// than the greatest lag that is allowed for.
    pub async fn reached(&self, id: LogId) -> bool {
        let deadline = Instant::now() + Duration::from_millis(self.max_lag);
        loop {
            let changed = self.changed.notified();
            if self.position().id >= id {
                return true;
            }
            if timeout_at(deadline, changed).await.is_err() {
                return false;
            }
        }
    }

    /// Whether nothing but the entry `own` itself has named any of these tags since `after`.
    pub fn only(&self, own: LogId, after: Position, tags: impl IntoIterator<Item = TagId>) -> bool {
        self.read().only(own, after, tags)
    }

    /// Whether nothing has named any of these tags at `since` or later.
    pub fn quiet(&self, since: Timestamp, tags: impl IntoIterator<Item = TagId>) -> bool {
        self.read().quiet(since, tags)
    }

    /// Whether this instance is sure to know of all invalidations that are older than `max_lag`. Without Redis
    /// it always is.
    pub fn trusted(&self, now: Timestamp) -> bool {
        self.remote.is_none()
            || (now.since(Timestamp(self.heard.load(Ordering::Relaxed))) <= self.max_lag
                && now.0 >= self.doubtful.load(Ordering::Relaxed))
    }

    /// Milliseconds since Redis was last heard; `None` without Redis.
    pub fn silent_for(&self, now: Timestamp) -> Option<u64> {
        self.remote.as_ref().map(|_| now.since(Timestamp(self.heard.load(Ordering::Relaxed))))
    }

    /// How many invalidations wait to be logged.
    pub fn pending(&self) -> usize {
        self.queue().waiting.len()
    }

    /// Invalidates. When this returns, no read through this instance that begins afterwards is answered from
    /// what was filled before, and with [`Logged::At`] none through another one after the message's way.
    pub async fn invalidate(&self, what: Invalidation, source: Source) -> Logged {
        self.append(what, source, None).await
    }

    /// Announces a write in the log before it is made, so that one whose instance dies before it can say what came of
    /// it is taken for made after `until`. Returns what to conclude it by; `None` where there is no log but this
    /// process's own, or Redis is away.
    pub async fn announce(&self, what: Invalidation, until: Timestamp) -> Option<LogId> {
        let remote = self.remote.as_ref().filter(|remote| remote.is_trusted() && self.pending() == 0)?;
        let announced = Invalidation { intent: Some(until.0), ..what };
        let done = remote.append(&announced, self.newest(), None).await.ok()?;
        self.appended(remote, done, &announced).await;
        Some(done.id)
    }

    /// Invalidates what announced writes may have changed whose end is overdue.
    pub(crate) fn overdue(&self) {
        // A change of the table makes every entry be looked at again.
        if !self.read().is_overdue(self.clock.now()) {
            return;
        }
        for what in self.change(|table, now| table.overdue(now)) {
            tracing::warn!(?what, "a write was announced and its end never told: it is taken for made");
            self.metrics.invalidation(Source::Intent, what.scope());
        }
    }

    /// Invalidates what a third party published on the channel: at once here, and in the log once, however
    /// many instances heard it. `heard_up_to` is the newest id that this subscription had announced before.
    pub async fn invalidate_heard(&self, what: Invalidation, heard_up_to: LogId) -> Logged {
        self.change(|table, now| table.local(&what, now));
        self.append(what, Source::Channel, Some(heard_up_to)).await
    }

    async fn append(&self, what: Invalidation, source: Source, heard_up_to: Option<LogId>) -> Logged {
        if !what.is_empty() {
            self.metrics.invalidation(source, what.scope());
        }
        let Some(remote) = &self.remote else {
            return Logged::At(self.change(|table, now| table.append(&what, now)));
        };
        let in_turn = self.queue().waiting.is_empty();
        if in_turn && let Ok(done) = remote.append(&what, self.newest(), heard_up_to).await {
            self.appended(remote, done, &what).await;
            return Logged::At(done.id);
        }
        self.change(|table, now| table.local(&what, now));
        self.enqueue(what);
        remote.wake();
        Logged::Pending
    }

    /// Before the end of the process: what still waits is logged, within a deadline. Returns how much could not.
    pub async fn finish(&self, deadline: Duration) -> usize {
        if let Some(remote) = &self.remote {
            let _ = tokio::time::timeout(deadline, self.flush_pending(remote)).await;
        }
        self.pending()
    }

    /// Puts what waits into the log, in order. Stops at the first failure.
    pub(crate) async fn flush_pending(&self, remote: &Link) -> bool {
        loop {
            let Some((number, next)) = self.queue().waiting.front().cloned() else { return true };
            let Ok(done) = remote.append(&next, self.newest(), None).await else { return false };
            self.appended(remote, done, &next).await;
            let mut queue = self.queue();
            // An overflow in between replaced what was there by one invalidation of everything, which must still
            // be logged.
            if queue.waiting.front().is_some_and(|(first, _)| *first == number) {
                queue.waiting.pop_front();
            }
            self.metrics.invalidations_pending.set(i64::try_from(queue.waiting.len()).unwrap_or(i64::MAX));
        }
    }

    /// Applies an own entry. When it shows that the log had gone back, everything goes, for everybody: others
    /// may never have known what was lost.
    async fn appended(&self, remote: &Link, done: Appended, what: &Invalidation) {
        if self.applied(done.id, done.previous, what) == Step::Forked {
            match remote.append(&Invalidation::all(), self.newest(), None).await {
                Ok(done) => {
                    self.applied(done.id, done.previous, &Invalidation::all());
                }
                Err(_) => {
                    self.enqueue(Invalidation::all());
                    remote.wake();
                }
            }
        }
    }

    /// Applies an entry of the log that this or another instance appended.
    pub(crate) fn applied(&self, id: LogId, previous: LogId, what: &Invalidation) -> Step {
        let step = self.change(|table, now| table.entry(id, previous, what, now));
        match step {
            Step::Gap { .. } => {}
            Step::Applied => self.measure_lag(id),
            Step::Forked => self.broken(id, HorizonReason::RolledBack),
            Step::Known => {}
        }
        step
    }

    /// Applies an entry that was read from the stream in order; `None` for one that can't be read, which
    /// invalidates everything.
    pub(crate) fn applied_next(&self, id: LogId, what: Option<&Invalidation>) -> Step {
        let step = self.change(|table, now| match what {
            Some(what) => table.next(id, what, now),
            None => table.unreadable(id, now),
        });
        match step {
            Step::Applied => self.measure_lag(id),
            Step::Forked => self.broken(id, HorizonReason::RolledBack),
            Step::Known | Step::Gap { .. } => {}
        }
        step
    }

    /// Begins to follow the stream, whose oldest entry's predecessor is `horizon`.
    pub(crate) fn start(&self, horizon: LogId) {
        self.change(|table, _| table.start(horizon));
    }

    /// Gives up everything filled so far: the chain to it is broken.
    pub(crate) fn broken(&self, newest: LogId, reason: HorizonReason) {
        tracing::warn!(%newest, reason = reason.as_str(), "the invalidation log was interrupted: starting cold");
        self.change(|table, _| table.broken(newest, reason));
    }

    /// All that was in the log at `asked` has been applied.
    pub(crate) fn heard(&self, asked: Timestamp) {
        self.heard.store(asked.0, Ordering::Relaxed);
    }

    /// The time by the log's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Redis is back. Where it was silent for so long that strict routes gave up, others may have acknowledged
    /// meanwhile what they could not log, and need up to `patience` to find Redis again and log it.
    pub(crate) fn back(&self, patience: Duration) {
        let now = self.clock.now();
        if self.silent_for(now).is_some_and(|silent| silent > self.max_lag) {
            self.doubtful.store(now.plus(patience).0, Ordering::Relaxed);
        }
    }

    /// Drops what no living entry can be older than.
    pub(crate) fn forget(&self, life: Duration) {
        let oldest = Timestamp(self.clock.now().0.saturating_sub(millis(life)));
        self.change(|table, _| table.forget(oldest));
    }

    fn change<T>(&self, f: impl FnOnce(&mut Table, Timestamp) -> T) -> T {
        let now = self.clock.now();
        let mut table = self.write();
        let done = f(&mut table, now);
        let moves = table.take_moves();
        self.version.fetch_add(1, Ordering::Release);
        drop(table);
        self.changed.notify_waiters();
        for reason in moves {
            self.metrics.horizon_moved(reason);
        }
        done
    }

    fn measure_lag(&self, id: LogId) {
        if self.remote.is_some() {
            let lag = self.clock.now().since(Timestamp(id.ms));
            self.metrics.invalidation_lag.observe(lag as f64 / 1000.0);
        }
    }

    fn enqueue(&self, what: Invalidation) {
        let mut queue = self.queue();
        queue.numbered += 1;
        let number = queue.numbered;
        if queue.waiting.len() >= MAX_PENDING {
            queue.waiting.clear();
            queue.waiting.push_back((number, Invalidation::all()));
        } else {
            queue.waiting.push_back((number, what));
        }
        self.metrics.invalidations_pending.set(i64::try_from(queue.waiting.len()).unwrap_or(i64::MAX));
    }

    // A panic while a lock was held can't leave the table half-changed in a way that hides an invalidation:
    // marks are only ever raised. So a poisoned lock is used on.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
    fn queue(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> InvalidationLog {
        let metrics = Arc::new(Metrics::new(&[]).unwrap());
        InvalidationLog::new(100, Duration::from_secs(2), None, Clock::default(), metrics)
    }
    fn tags(name: &str) -> Vec<TagId> {
        Invalidation::tag(name).tag_ids().collect()
    }

    #[tokio::test]
    async fn without_redis_the_log_is_a_counter_in_the_process() {
        let log = log();
        let (a, b) = (Stamp::new(log.position()), Stamp::new(log.position()));
        assert_eq!(log.standing(&a, || tags("a")), Standing::Valid);
        let Logged::At(id) = log.invalidate(Invalidation::tag("a"), Source::Api).await else { panic!() };
        assert_eq!(log.position().id, id);
        assert_eq!(log.standing(&a, || tags("a")), Standing::Invalid);
        assert_eq!(log.standing(&b, || tags("b")), Standing::Valid);
        assert_eq!(log.standing(&Stamp::new(log.position()), || tags("a")), Standing::Valid);
        assert!(log.trusted(Timestamp(u64::MAX)));
    }

    #[tokio::test]
    async fn an_entry_found_valid_is_looked_at_again_only_after_a_change() {
        let log = log();
        let a = Stamp::new(log.position());
        log.standing(&a, || tags("a"));
        assert_eq!(log.standing::<[TagId; 0]>(&a, || panic!("its tags are not asked for")), Standing::Valid);
        log.invalidate(Invalidation::tag("other"), Source::Api).await;
        let mut asked = false;
        let again = log.standing(&a, || {
            asked = true;
            tags("a")
        });
        assert!(asked && again == Standing::Valid);
    }
}
