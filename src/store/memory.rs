//! The memory tier: bounded by bytes, evicted by S3-FIFO (quick_cache), which keeps scans from washing out
//! what is asked for often.
//!
//! Freshness is not its business: a stale entry stays until it is replaced or its room is needed, because it
//! can still be revalidated or served when upstream fails.

use std::sync::Arc;

use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use crate::entry::{Entry, Stored};
use crate::metrics::{Eviction, Metrics};

/// What an entry takes beyond its key, fields and body, in bytes: structs, indices, allocator slack.
const OVERHEAD: u64 = 512;
/// What a field takes beyond its name and value.
const FIELD_OVERHEAD: u64 = 96;
/// The share of what was asked for again; the rest is for what is new, and is S3-FIFO's tenth. Quick_cache's own 97 %
/// leave a shard less for what is new than a large entry takes (decision 19).
const HOT: f64 = 0.9;
/// What an entry weighs, roughly. From this follows how many names of what was evicted are remembered: half as many as
/// there are entries of this weight. Fewer, and a popularity that moves on is seen too late; more, and scans are kept.
const TYPICAL: u64 = 4096;

/// The memory tier.
pub struct Memory {
    cache: Cache<Arc<str>, Stored, ByBytes, foldhash::fast::RandomState, CountEvictions>,
    metrics: Arc<Metrics>,
    limit: u64,
    heaviest: u64,
}

impl Memory {
    /// A tier of at most `limit` bytes, whose largest entries have bodies of `largest` bytes. With a limit of
    /// 0 it keeps nothing.
    pub fn new(limit: u64, largest: u64, metrics: Arc<Metrics>) -> Memory {
        // Shards do not share room, and what is heavier than a shard is refused: so few shards for large
        // objects, many for concurrency.
        let fitting = limit / (largest.saturating_mul(4).max(1));
        let shards = fitting.clamp(1, 64).next_power_of_two().min(64);
        let shards = if shards > fitting.max(1) { shards / 2 } else { shards }.max(1);
        let estimated = usize::try_from(limit / TYPICAL).unwrap_or(usize::MAX).clamp(64, 4_000_000);
        let options = OptionsBuilder::new()
            .weight_capacity(limit.max(1))
            .hot_allocation(HOT)
            .estimated_items_capacity(estimated)
            .shards(usize::try_from(shards).unwrap_or(1))
            .build();
        let hasher = foldhash::fast::RandomState::default();
        let lifecycle = CountEvictions { metrics: metrics.clone() };
        let cache = match options {
            Ok(options) => Cache::with_options(options, ByBytes, hasher, lifecycle),
            Err(_) => Cache::with(estimated, limit.max(1), ByBytes, hasher, lifecycle),
        };
        metrics.memory_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        // The cache takes in nothing that is heavier than the hot part of a shard.
        let heaviest = (cache.shard_capacity() as f64 * HOT) as u64;
        Memory { cache, metrics, limit, heaviest }
    }

    /// What stands under a key.
    pub fn get(&self, key: &str) -> Option<Stored> {
        if self.limit == 0 {
            return None;
        }
        self.cache.get(key)
    }

    /// Stores under a key, in place of what stood there. Returns whether it was taken in.
    pub fn put(&self, key: Arc<str>, stored: Stored) -> bool {
        if self.limit == 0 {
            return false;
        }
        if ByBytes.weight(&key, &stored) > self.heaviest {
            self.metrics.evicted(Eviction::Refused);
            self.cache.remove(&*key);
            return false;
        }
        let mut inserting = Inserting { key: Some(key.clone()) };
        self.cache.insert_with_lifecycle(key, stored, &mut inserting);
        true
    }

    /// Drops what stands under a key.
    pub fn remove(&self, key: &str) {
        self.cache.remove(key);
    }

    /// Brings the gauges up to date; called when metrics are read.
    pub fn measure(&self) {
        self.metrics.memory_entries.set(i64::try_from(self.cache.len()).unwrap_or(i64::MAX));
        self.metrics.memory_bytes.set(i64::try_from(self.cache.weight()).unwrap_or(i64::MAX));
    }

    /// The entries whose key satisfies `wanted`, at most `limit`, and how many there are in all (looking at no
    /// more than `scan` of them).
    pub fn list(&self, scan: usize, limit: usize, wanted: impl Fn(&Entry) -> bool) -> (Vec<Arc<Entry>>, usize) {
        let mut found = Vec::new();
        for (_, stored) in self.cache.iter().take(scan) {
            if let Stored::Entry(entry) = stored
                && wanted(&entry)
            {
                found.push(entry);
                if found.len() >= limit {
                    break;
                }
            }
        }
        (found, self.cache.len())
    }

    /// Bytes that may be used.
    pub fn limit(&self) -> u64 {
        self.limit
    }
}

/// Weighs by what an entry really takes.
#[derive(Clone, Copy)]
struct ByBytes;

impl Weighter<Arc<str>, Stored> for ByBytes {
    fn weight(&self, key: &Arc<str>, stored: &Stored) -> u64 {
        let own = match stored {
            Stored::Entry(e) => {
                let fields: u64 =
                    e.headers.iter().map(|(n, v)| n.as_str().len() as u64 + v.len() as u64 + FIELD_OVERHEAD).sum();
                let tags = e.tags.len() + e.stamp.tags().len() * 8 + e.path.len();
                e.body.len() as u64 + fields + tags as u64
            }
            Stored::Variants(v) => v.weight() as u64,
            Stored::Pass { .. } => 0,
        };
        own + key.len() as u64 + OVERHEAD
    }
}

#[derive(Clone)]
struct CountEvictions {
    metrics: Arc<Metrics>,
}

/// The key that is being inserted: what stood under it is replaced, not evicted.
#[derive(Default)]
struct Inserting {
    key: Option<Arc<str>>,
}

impl Lifecycle<Arc<str>, Stored> for CountEvictions {
    type RequestState = Inserting;

    fn on_evict(&self, inserting: &mut Inserting, key: Arc<str>, _: Stored) {
        if inserting.key.as_ref() != Some(&key) {
            self.metrics.evicted(Eviction::Size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn memory(limit: u64, largest: u64) -> Memory {
        Memory::new(limit, largest, Arc::new(Metrics::new(&[]).unwrap()))
    }

    #[test]
    fn it_never_holds_more_than_its_limit() {
        let m = memory(100_000, 1000);
        for n in 0..10_000 {
            m.put(format!("key{n}").into(), Stored::Pass { until: Timestamp(n) });
        }
        assert!(m.cache.weight() <= 100_000);
        assert!(m.metrics.evictions() > 9000);
        assert!(matches!(m.get("key9999"), Some(Stored::Pass { until: Timestamp(9999) })));
    }

    #[test]
    fn the_largest_object_of_the_configuration_fits_a_shard() {
        for (limit, largest) in [(4 << 20, 4 << 20), (256 << 20, 2 << 20), (1 << 30, 1 << 10), (64 << 20, 20 << 20)] {
            let m = memory(limit, largest);
            assert!(m.cache.shard_capacity() >= largest / 2, "{limit} {largest}: {}", m.cache.shard_capacity());
        }
    }

    #[test]
    fn what_is_too_heavy_is_refused_counted_and_leaves_no_old_version_behind() {
        let m = memory(600, 600);
        assert!(m.put("a".into(), Stored::Pass { until: Timestamp(1) }));
        assert!(!m.put("a".repeat(500).into(), Stored::Pass { until: Timestamp(1) }));
        assert_eq!(m.metrics.evictions(), 1);
    }

    #[test]
    fn what_the_cache_would_not_take_is_not_said_to_be_taken() {
        let m = memory(10_000, 10_000);
        for length in (100..9990).step_by(100) {
            let key = "a".repeat(length);
            assert_eq!(
                m.put(key.clone().into(), Stored::Pass { until: Timestamp(1) }),
                m.get(&key).is_some(),
                "{length}"
            );
        }
    }

    #[test]
    fn what_is_replaced_is_not_counted_as_evicted() {
        let m = memory(100_000, 1000);
        for n in 0..100 {
            m.put("the same".into(), Stored::Pass { until: Timestamp(n) });
        }
        assert_eq!(m.metrics.evictions(), 0);
    }

    #[test]
    fn without_room_it_keeps_nothing() {
        let m = memory(0, 1);
        assert!(!m.put("a".into(), Stored::Pass { until: Timestamp(1) }));
        assert!(m.get("a").is_none());
    }
}
