//! The memory tier: bounded by bytes, evicted by S3-FIFO (quick_cache), which keeps scans from washing out
//! what is asked for often.
//!
//! Freshness is not its business: a stale entry stays until it is replaced or its room is needed, because it
//! can still be revalidated or served when upstream fails.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::RandomState;
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use crate::entry::{Entry, Stored};
use crate::metrics::{Eviction, Metrics};

/// What an entry takes beyond its block and its body, in bytes: structs, indices, counts, the allocator's slack
/// (measured: `benches/run.py memory`).
const OVERHEAD: u64 = 320;
/// The share of what was asked for again; the rest is for what is new, and is S3-FIFO's tenth. Quick_cache's own 97 %
/// leave a shard less for what is new than a large entry takes (decision 19).
const HOT: f64 = 0.9;
/// What an entry weighs, roughly. From this follows how many names of what was evicted are remembered: half as many as
/// there are entries of this weight. Fewer, and a popularity that moves on is seen too late; more, and scans are kept.
const TYPICAL: u64 = 4096;

/// The memory tier.
pub struct Memory {
    /// By a keyed hash of the key: the key itself stands in what is stored, and is compared.
    cache: Cache<u64, Slot, ByBytes, Hashed, CountEvictions>,
    hasher: RandomState,
    metrics: Arc<Metrics>,
    limit: u64,
    heaviest: u64,
}

/// What stands under a hash.
#[derive(Clone)]
enum Slot {
    Entry(Arc<Entry>),
    /// Anything else, with its key.
    Other(Arc<(Box<str>, Stored)>),
}

impl Slot {
    fn is_of(&self, key: &str) -> bool {
        match self {
            Slot::Entry(entry) => entry.content.is_of(key),
            Slot::Other(other) => *other.0 == *key,
        }
    }
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
        let lifecycle = CountEvictions { metrics: metrics.clone() };
        let cache = match options {
            Ok(options) => Cache::with_options(options, ByBytes, Hashed::default(), lifecycle),
            Err(_) => Cache::with(estimated, limit.max(1), ByBytes, Hashed::default(), lifecycle),
        };
        metrics.memory_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        // The cache takes in nothing that is heavier than the hot part of a shard.
        let heaviest = (cache.shard_capacity() as f64 * HOT) as u64;
        Memory { cache, hasher: RandomState::default(), metrics, limit, heaviest }
    }

    /// What stands under a key.
    pub fn get(&self, key: &str) -> Option<Stored> {
        if self.limit == 0 {
            return None;
        }
        // Two keys of one hash take turns under it, and neither is taken for the other.
        match self.cache.get(&self.hash(key))? {
            slot if !slot.is_of(key) => None,
            Slot::Entry(entry) => Some(Stored::Entry(entry)),
            Slot::Other(other) => Some(other.1.clone()),
        }
    }

    /// Stores under a key, in place of what stood there. Returns whether it was taken in.
    pub fn put(&self, key: &str, stored: Stored) -> bool {
        match stored {
            Stored::Entry(entry) => self.put_entry(entry),
            other => self.put_slot(key, Slot::Other(Arc::new((key.into(), other)))),
        }
    }

    /// Stores an entry under its key. Returns whether it was taken in.
    pub fn put_entry(&self, entry: Arc<Entry>) -> bool {
        let slot = Slot::Entry(entry.clone());
        self.put_slot(entry.key(), slot)
    }

    fn put_slot(&self, key: &str, slot: Slot) -> bool {
        if self.limit == 0 {
            return false;
        }
        let hash = self.hash(key);
        if ByBytes.weight(&hash, &slot) > self.heaviest {
            self.metrics.evicted(Eviction::Refused);
            self.cache.remove(&hash);
            return false;
        }
        let mut inserting = Inserting { hash: Some(hash) };
        self.cache.insert_with_lifecycle(hash, slot, &mut inserting);
        true
    }

    /// Stores an entry that was read from a record, without what of the record it does not need.
    pub fn put_from_record(&self, entry: &Entry) {
        if self.limit > 0 {
            self.put_entry(Arc::new(entry.with(entry.content.packed())));
        }
    }

    /// Drops what stands under a key.
    pub fn remove(&self, key: &str) {
        self.cache.remove(&self.hash(key));
    }

    fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key)
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
            if let Slot::Entry(entry) = stored
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

impl Weighter<u64, Slot> for ByBytes {
    fn weight(&self, _: &u64, slot: &Slot) -> u64 {
        let own = match slot {
            Slot::Entry(entry) => entry.content.weight(),
            Slot::Other(other) => match &other.1 {
                Stored::Variants(variants) => other.0.len() + variants.weight(),
                _ => other.0.len(),
            },
        };
        own as u64 + OVERHEAD
    }
}

/// What is a hash already needs no hashing.
#[derive(Clone, Copy, Default)]
struct Hashed(u64);

impl BuildHasher for Hashed {
    type Hasher = Hashed;

    fn build_hasher(&self) -> Hashed {
        Hashed(0)
    }
}

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone)]
struct CountEvictions {
    metrics: Arc<Metrics>,
}

/// What is being inserted: what stood under its hash is replaced, not evicted.
#[derive(Default)]
struct Inserting {
    hash: Option<u64>,
}

impl Lifecycle<u64, Slot> for CountEvictions {
    type RequestState = Inserting;

    fn on_evict(&self, inserting: &mut Inserting, hash: u64, _: Slot) {
        if inserting.hash != Some(hash) {
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
            m.put(&format!("key{n}"), Stored::Pass { until: Timestamp(n) });
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
        assert!(m.put("a", Stored::Pass { until: Timestamp(1) }));
        assert!(!m.put(&"a".repeat(500), Stored::Pass { until: Timestamp(1) }));
        assert_eq!(m.metrics.evictions(), 1);
    }

    #[test]
    fn what_the_cache_would_not_take_is_not_said_to_be_taken() {
        let m = memory(10_000, 10_000);
        for length in (100..9990).step_by(100) {
            let key = "a".repeat(length);
            assert_eq!(m.put(&key, Stored::Pass { until: Timestamp(1) }), m.get(&key).is_some(), "{length}");
        }
    }

    #[test]
    fn what_is_replaced_is_not_counted_as_evicted() {
        let m = memory(100_000, 1000);
        for n in 0..100 {
            m.put("the same", Stored::Pass { until: Timestamp(n) });
        }
        assert_eq!(m.metrics.evictions(), 0);
    }

    #[test]
    fn without_room_it_keeps_nothing() {
        let m = memory(0, 1);
        assert!(!m.put("a", Stored::Pass { until: Timestamp(1) }));
        assert!(m.get("a").is_none());
    }
}
