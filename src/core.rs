//! What all threads of an instance share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::clock::Clock;
use crate::coalesce::Fills;
use crate::config::Config;
use crate::invalidation::log::InvalidationLog;
use crate::metrics::Metrics;
use crate::redis_tier::lease::Leases;
use crate::redis_tier::link::Link;
use crate::route::Routes;
use crate::store::Shared;
use crate::store::memory::Memory;

/// What all workers share.
pub struct Core {
    /// The instance's name, in the log and on the admin page.
    pub instance: String,
    /// The configuration.
    pub config: Config,
    /// Its routes, ready to match.
    pub routes: Routes,
    /// The memory tier.
    pub memory: Memory,
    /// The Redis tier.
    pub shared: Option<Shared>,
    /// The connection to Redis, for what it says about itself.
    pub link: Option<Arc<Link>>,
    /// The invalidation log.
    pub log: Arc<InvalidationLog>,
    /// The fills in flight.
    pub fills: Arc<Fills>,
    /// Who of the fleet fetches a key.
    pub leases: Option<Arc<Leases>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The clock.
    pub clock: Clock,
    /// Whether the last request sent upstream was answered; empty before the first.
    pub upstream_answers: LastSeen,
    /// Whether it was said that a response was stored with the cookies it sets.
    pub cookies_told: AtomicBool,
}

/// Yes, no, or not known yet; set and read by any thread.
#[derive(Debug, Default)]
pub struct LastSeen(AtomicU8);

impl LastSeen {
    /// Notes what happened last.
    pub fn set(&self, yes: bool) {
        self.0.store(1 + u8::from(yes), Ordering::Relaxed);
    }
    /// What happened last.
    pub fn get(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            n => Some(n == 2),
        }
    }
}
