//! Traces by a seeded generator, and what a cache makes of them: the memory tier itself, LRU, and the optimum.
//!
//! An object is a number; what it weighs is what the memory tier says that an entry with its body weighs, so that all
//! caches have the same room for the same things.

use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use asidecar::entry::Entry;
use asidecar::invalidation::log::InvalidationLog;
use asidecar::metrics::Metrics;
use asidecar::store::memory::Memory;

use super::sample::{entry, parts};

/// Random numbers that are the same in every run (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1, without 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Ranks from 0, the n-th with a probability in proportion to `1 / (n + 1)^alpha`.
pub(crate) struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    pub(crate) fn new(objects: usize, alpha: f64) -> Zipf {
        let mut sum = 0.0;
        let grown = (1..=objects).map(|rank| {
            sum += (rank as f64).powf(-alpha);
            sum
        });
        Zipf { sums: grown.collect() }
    }

    pub(crate) fn rank(&self, random: &mut Random) -> usize {
        let at = random.unit() * self.sums.last().copied().unwrap_or(0.0);
        self.sums.partition_point(|sum| *sum <= at)
    }
}

/// The bodies' lengths: each object's is its own, the same in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    Same,
    /// From 256 bytes to 32 KiB, each doubling as frequent as the other.
    #[allow(dead_code, reason = "the test has no need of it")]
    Mixed,
}

/// What stands under an object's key, and what that weighs.
pub(crate) struct Objects {
    log: InvalidationLog,
    /// The lengths of their bodies, with what an entry of that length weighs.
    kinds: Vec<(usize, u64)>,
}

impl Objects {
    pub(crate) fn new(sizes: Sizes) -> Option<Objects> {
        let lengths: Vec<usize> = match sizes {
            Sizes::Same => vec![1024],
            Sizes::Mixed => (8..=15).map(|power| 1 << power).collect(),
        };
        let (_, log) = parts()?;
        let mut kinds = Vec::new();
        for length in lengths {
            // Weighed by the tier itself: what it counts besides the body is its own business.
            let (memory, metrics) = tier(1 << 30, 1 << 20)?;
            memory.put_entry(Arc::new(entry(&log, &number(0), length)));
            memory.measure();
            kinds.push((length, u64::try_from(metrics.memory_bytes.get()).ok()?));
        }
        Some(Objects { log, kinds })
    }

    fn kind(&self, object: u32) -> &(usize, u64) {
        &self.kinds[Random(u64::from(object)).next() as usize % self.kinds.len()]
    }

    fn entry(&self, object: u32) -> Arc<Entry> {
        Arc::new(entry(&self.log, &number(object), self.kind(object).0))
    }

    pub(crate) fn weight(&self, object: u32) -> u64 {
        self.kind(object).1
    }
}

/// As long for every object.
fn number(object: u32) -> String {
    format!("{object:010}")
}

fn tier(limit: u64, largest: u64) -> Option<(Memory, Arc<Metrics>)> {
    let metrics = Arc::new(Metrics::new(&[]).ok()?);
    Some((Memory::new(limit, largest, metrics.clone()), metrics))
}

/// A cache that takes in whatever it had not.
pub(crate) trait Cache {
    /// Whether it was there.
    fn request(&mut self, object: u32, objects: &Objects) -> bool;
}

/// Hits of a trace.
pub(crate) fn hits(cache: &mut impl Cache, trace: &[u32], objects: &Objects) -> usize {
    trace.iter().filter(|object| cache.request(**object, objects)).count()
}

/// The memory tier.
pub(crate) struct Tier(Memory);

impl Tier {
    /// With as many shards as the default configuration would have: 256 MiB for bodies of at most `1 / 64` of it.
    pub(crate) fn new(room: u64) -> Option<Tier> {
        Some(Tier(tier(room, room / 64)?.0))
    }
}

impl Cache for Tier {
    fn request(&mut self, object: u32, objects: &Objects) -> bool {
        let hit = self.0.get(&format!("user:{}", number(object))).is_some();
        if !hit {
            self.0.put_entry(objects.entry(object));
        }
        hit
    }
}

/// Least recently used: a list through the objects, newest at the head.
pub(crate) struct Lru {
    room: u64,
    taken: u64,
    /// The neighbours of what is in: towards the head, towards the tail.
    links: HashMap<u32, (u32, u32)>,
    head: u32,
    tail: u32,
}

const NOBODY: u32 = u32::MAX;

impl Lru {
    pub(crate) fn new(room: u64) -> Lru {
        Lru { room, taken: 0, links: HashMap::new(), head: NOBODY, tail: NOBODY }
    }

    fn unlink(&mut self, object: u32) -> bool {
        let Some((before, after)) = self.links.remove(&object) else { return false };
        match self.links.get_mut(&before) {
            Some(link) => link.1 = after,
            None => self.head = after,
        }
        match self.links.get_mut(&after) {
            Some(link) => link.0 = before,
            None => self.tail = before,
        }
        true
    }

    fn link(&mut self, object: u32) {
        match self.links.get_mut(&self.head) {
            Some(link) => link.0 = object,
            None => self.tail = object,
        }
        self.links.insert(object, (NOBODY, self.head));
        self.head = object;
    }
}

impl Cache for Lru {
    fn request(&mut self, object: u32, objects: &Objects) -> bool {
        let hit = self.unlink(object);
        if !hit {
            self.taken += objects.weight(object);
            while self.taken > self.room && self.tail != NOBODY {
                let oldest = self.tail;
                self.taken -= objects.weight(oldest);
                self.unlink(oldest);
            }
        }
        self.link(object);
        hit
    }
}

/// The hits of who knows the future and lets go what is wanted latest (Belady), objects being of one weight.
pub(crate) fn optimum(trace: &[u32], places: usize) -> usize {
    let mut next = vec![usize::MAX; trace.len()];
    let mut seen: HashMap<u32, usize> = HashMap::new();
    for (at, object) in trace.iter().enumerate().rev() {
        if let Some(later) = seen.insert(*object, at) {
            next[at] = later;
        }
    }
    // What is in, with its next use; in the heap older uses may still stand and are passed over.
    let (mut inside, mut latest) = (HashMap::new(), BinaryHeap::new());
    let mut hits = 0;
    for (at, object) in trace.iter().enumerate() {
        hits += usize::from(inside.insert(*object, next[at]).is_some());
        latest.push((next[at], *object));
        while inside.len() > places {
            let Some((when, object)) = latest.pop() else { break };
            if inside.get(&object) == Some(&when) {
                inside.remove(&object);
            }
        }
    }
    hits
}
