//! Where responses are kept: memory, and Redis behind it.
//!
//! * [`memory`] — the tier that is always there, bounded by bytes.
//! * [`record`] — an entry as it stands in Redis.
//! * [`Shared`] — the Redis tier: records in, entries out. Whatever is wrong with it is a miss.

pub mod memory;
pub mod record;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::entry::{Entry, Stored};
use crate::invalidation::log::{InvalidationLog, Stamp};
use crate::invalidation::position::Position;
use crate::metrics::{MalformedWhat, Metrics};
use crate::redis_tier::link::Link;
use crate::vary::Variants;

/// How long after its last use a response is kept: it can still be confirmed, and some clients take it stale.
pub const CONFIRMABLE_FOR: Duration = Duration::from_secs(60);

/// The Redis tier.
pub struct Shared {
    link: Arc<Link>,
    log: Arc<InvalidationLog>,
    metrics: Arc<Metrics>,
    /// Whether bodies are compressed where that pays.
    compress: bool,
}

impl Shared {
    /// The tier behind a link.
    pub fn new(link: Arc<Link>, log: Arc<InvalidationLog>, metrics: Arc<Metrics>, compress: bool) -> Shared {
        Shared { link, log, metrics, compress }
    }

    /// Whether it answers at present.
    pub fn is_up(&self) -> bool {
        self.link.is_trusted()
    }

    /// What stands under a key at `now`, for the route with that index. What can't be used is counted, unless it is
    /// looked at `again`.
    pub async fn get(&self, key: &str, route: usize, now: Timestamp, again: bool) -> Option<Stored> {
        // What this instance could not log yet, other instances do not know: their entries may be older.
        if self.log.pending() > 0 {
            return None;
        }
        let here = self.log.position();
        let bytes = self.link.get(key).await.ok()??;
        match record::decode(bytes, key, route, now) {
            Ok(Stored::Entry(mut entry)) => {
                let as_of = Position::of_foreign(entry.stamp.as_of.id, here);
                // It was just read, and nobody else has it.
                Arc::get_mut(&mut entry)?.stamp = Stamp::new(as_of);
                Some(Stored::Entry(entry))
            }
            Ok(other) => Some(other),
            Err(cause) => {
                if !again {
                    self.metrics.malformed(MalformedWhat::Record);
                    tracing::debug!(key, %cause, "a record in Redis can't be used");
                }
                None
            }
        }
    }

    /// Removes what stands under a key.
    pub async fn remove(&self, key: &str) {
        // Where Redis can't be reached its entries are not trusted either, and this one is stale.
        let _ = self.link.remove(key).await;
    }

    /// Stores an entry, and under its primary key what it varies by.
    pub async fn put(&self, entry: &Entry, variants: Option<(&str, &Variants)>, now: Timestamp) -> bool {
        let age = now.since(entry.birth);
        let left = entry.lifetime().whole().saturating_sub(age);
        let life = Duration::from_millis(left) + CONFIRMABLE_FOR;
        let lasting = |variants: &Variants| Duration::from_millis(variants.until().since(now));
        if let Some((primary, variants)) = variants
            && self
                .link
                .set(primary, record::encode_variants(primary, variants), life.max(lasting(variants)))
                .await
                .is_err()
        {
            return false;
        }
        self.link.set(entry.key(), record::encode(entry, self.compress), life).await.is_ok()
    }
}
