//! One fetch, however many ask: the table of fills in flight in this process.
//!
//! Leadership is a guard ([`Lead`]): dropped, for whatever reason, it leaves the table and tells those who
//! wait, so a leader that vanishes never strands anybody. Those who wait match on an exhaustive [`Progress`].
//!
//! A request that comes after an invalidation does not join a fill that began before it: joining checks the
//! fill's as-of against the tags that are known by then, and a fill that fails is superseded by a new one.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;
use http::StatusCode;
use tokio::sync::Notify;

use crate::entry::Entry;
use crate::invalidation::position::Position;
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::spool::Spool;
use crate::vary::Variants;
use crate::words::NotStored;

/// Where a fill found what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In Redis, fresh for so many more milliseconds; 0 or less when it is stale, and that is allowed.
    Redis(i64),
    /// In the cache, confirmed by upstream's 304, and stored anew.
    Revalidated,
    /// In the cache, confirmed by upstream's 304, which says that it is not to be stored any more.
    Confirmed,
    /// In the cache, stale, because upstream failed, with this status if it sent one, and that is allowed.
    StaleIfError(Option<StatusCode>),
    /// In the cache, stale, because upstream can't be reached.
    Unreachable,
}

/// A response that is being fetched and will be stored.
pub struct Streaming {
    /// The entry without its body.
    pub head: Arc<Entry>,
    /// What the key's responses vary by.
    pub variants: Option<Arc<Variants>>,
    /// Its body, as it comes.
    pub spool: Spool,
    /// The body's length, when upstream announced it.
    pub length: Option<u64>,
}

/// How far a fill has come.
#[derive(Clone)]
pub enum Progress {
    /// Nothing is known yet.
    Pending,
    /// There is a whole entry.
    Found(Arc<Entry>, Origin),
    /// The head of a storable response is there, its body is on its way.
    Streaming(Arc<Streaming>),
    /// The response can't answer anybody but the leader: go on alone.
    NotStorable(NotStored),
    /// Upstream failed.
    Failed(Problem),
    /// The leader vanished: ask again.
    Abandoned,
}

/// A fill in flight.
pub struct Fill {
    /// What had been applied of the invalidation log when its fetch began.
    pub as_of: Position,
    progress: Mutex<Progress>,
    /// Told when something is known.
    known: Notify,
    waiting: AtomicUsize,
}

impl Fill {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, progress: Progress) {
        *self.progress() = progress;
        self.known.notify_waiters();
    }
}

/// A request that waits for another's fill.
pub struct Waiting(Arc<Fill>);

impl Waiting {
    fn new(fill: &Arc<Fill>) -> Waiting {
        fill.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(fill.clone())
    }

    /// Waits until something is known of the fill.
    pub async fn outcome(self) -> Progress {
        loop {
            let mut known = pin!(self.0.known.notified());
            // What is told from here on is heard.
            known.as_mut().enable();
            let progress = self.0.progress().clone();
            if !matches!(progress, Progress::Pending) {
                return progress;
            }
            known.await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What joining led to.
pub enum Ticket {
    /// This request makes the fetch.
    Lead(Lead),
    /// Another one does.
    Wait(Waiting),
}

type Table = HashMap<Arc<str>, Arc<Fill>, RandomState>;

/// The fills in flight.
pub struct Fills {
    table: Mutex<Table>,
    metrics: Arc<Metrics>,
}

impl Fills {
    /// No fills.
    pub fn new(metrics: Arc<Metrics>) -> Arc<Fills> {
        Arc::new(Fills { table: Mutex::default(), metrics })
    }

    /// Joins the fill of a key, or begins one with that as-of. A fill whose as-of is not `good` any more is
    /// superseded.
    pub fn join(self: &Arc<Self>, key: &Arc<str>, as_of: Position, good: impl FnOnce(Position) -> bool) -> Ticket {
        let mut table = self.lock();
        let place = table.entry(key.clone());
        if let Place::Occupied(place) = &place
            && good(place.get().as_of)
        {
            return Ticket::Wait(Waiting::new(place.get()));
        }
        let lead = self.lead(Some(key.clone()), as_of);
        place.insert_entry(lead.fill.clone());
        Ticket::Lead(lead)
    }

    /// Begins a fill of a key unless there is one: for refreshes that nobody waits for.
    pub fn try_lead(self: &Arc<Self>, key: &Arc<str>, as_of: Position) -> Option<Lead> {
        match self.join(key, as_of, |_| true) {
            Ticket::Lead(lead) => Some(lead),
            Ticket::Wait(_) => None,
        }
    }

    /// Begins a fill that nobody can join.
    pub fn alone(self: &Arc<Self>, as_of: Position) -> Lead {
        self.lead(None, as_of)
    }

    /// How many fills can be joined.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no fill can be joined.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// How many requests wait for a fill of another's.
    pub fn waiting(&self) -> usize {
        self.lock().values().map(|f| f.waiting.load(Ordering::Relaxed)).sum()
    }

    fn lead(self: &Arc<Self>, key: Option<Arc<str>>, as_of: Position) -> Lead {
        self.metrics.fills_in_flight.inc();
        let (progress, known, waiting) = (Mutex::new(Progress::Pending), Notify::new(), AtomicUsize::new(0));
        let fill = Arc::new(Fill { as_of, progress, known, waiting });
        Lead { fills: self.clone(), key, fill }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leadership of a fill.
pub struct Lead {
    fills: Arc<Fills>,
    key: Option<Arc<str>>,
    fill: Arc<Fill>,
}

impl Lead {
    /// What had been applied when the fill began.
    pub fn as_of(&self) -> Position {
        self.fill.as_of
    }

    /// Tells those who wait.
    pub fn publish(&self, progress: Progress) {
        self.fill.publish(progress);
    }

    /// Leaves the table: who comes from now on begins anew.
    pub fn leave(&mut self) {
        if let Some(key) = self.key.take()
            && let Place::Occupied(place) = self.fills.lock().entry(key)
            && Arc::ptr_eq(place.get(), &self.fill)
        {
            place.remove();
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.leave();
        self.fills.metrics.fills_in_flight.dec();
        if matches!(*self.fill.progress(), Progress::Pending) {
            self.fill.publish(Progress::Abandoned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invalidation::position::LogId;

    fn fills() -> Arc<Fills> {
        Fills::new(Arc::new(Metrics::new(&[]).unwrap()))
    }
    fn at(ms: u64) -> Position {
        Position::at(LogId { ms, seq: 0 })
    }
    fn lead(t: Ticket) -> Lead {
        match t {
            Ticket::Lead(l) => l,
            Ticket::Wait(_) => panic!("should lead"),
        }
    }
    fn wait(t: Ticket) -> Waiting {
        match t {
            Ticket::Wait(w) => w,
            Ticket::Lead(_) => panic!("should wait"),
        }
    }

    #[tokio::test]
    async fn one_leads_the_others_wait_and_a_vanished_leader_strands_nobody() {
        let (fills, key) = (fills(), "k".into());
        let leader = lead(fills.join(&key, at(1), |_| true));
        let waiter = wait(fills.join(&key, at(1), |_| true));
        drop(leader);
        assert!(matches!(waiter.outcome().await, Progress::Abandoned));
        assert!(fills.is_empty());
    }

    #[tokio::test]
    async fn a_leader_that_panics_passes_on() {
        let (fills, key): (_, Arc<str>) = (fills(), "k".into());
        let leader = lead(fills.join(&key, at(1), |_| true));
        let waiter = wait(fills.join(&key, at(1), |_| true));
        let task = tokio::spawn(async move {
            let _leader = leader;
            panic!("on purpose");
        });
        assert!(task.await.is_err());
        assert!(matches!(waiter.outcome().await, Progress::Abandoned));
        lead(fills.join(&key, at(1), |_| true));
    }

    #[tokio::test]
    async fn rule_5_who_asks_after_an_invalidation_does_not_join_a_fill_that_began_before_it() {
        let (fills, key): (_, Arc<str>) = (fills(), "k".into());
        let old = lead(fills.join(&key, at(1), |_| true));
        let invalidated_at = at(2);
        let new = lead(fills.join(&key, at(2), |as_of| as_of >= invalidated_at));
        assert_eq!(new.as_of(), at(2));
        drop(old);
        assert_eq!(fills.len(), 1, "the superseded fill's end does not remove its successor");
        wait(fills.join(&key, at(2), |as_of| as_of >= invalidated_at));
        drop(new);
        assert!(fills.is_empty());
    }

    #[tokio::test]
    async fn a_fill_alone_can_not_be_joined() {
        let (fills, key): (_, Arc<str>) = (fills(), "k".into());
        let _alone = fills.alone(at(1));
        lead(fills.join(&key, at(1), |_| true));
    }
}
