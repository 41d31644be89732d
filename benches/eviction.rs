//! Hit ratios of the memory tier beside FIFO, LRU, S3-FIFO as its paper has it, and the optimum, on generated traces:
//! `make eviction`. What they mean is in `docs/decisions/0019-instruction-counts-instead-of-stopwatches.md`.
//!
//! The traces are the same in every run. The tier's hash tables are seeded at random, which moves its figures by a
//! tenth of a point, on loops by up to three.

mod sample;
mod traces;

use std::collections::{HashMap, VecDeque};
use std::process::ExitCode;

use traces::{Cache, Lru, Objects, Random, Sizes, Tier, Zipf, hits, optimum};

const OBJECTS: usize = 100_000;
const REQUESTS: usize = 1_000_000;
/// Numbers from here on are of objects outside of the Zipf distribution.
const COLD: u32 = 1 << 24;

/// First in, first out.
struct Fifo {
    room: u64,
    taken: u64,
    inside: HashMap<u32, ()>,
    queue: VecDeque<u32>,
}

impl Cache for Fifo {
    fn request(&mut self, object: u32, objects: &Objects) -> bool {
        if self.inside.insert(object, ()).is_some() {
            return true;
        }
        self.queue.push_back(object);
        self.taken += objects.weight(object);
        while self.taken > self.room {
            let Some(oldest) = self.queue.pop_front() else { break };
            self.taken -= objects.weight(oldest);
            self.inside.remove(&oldest);
        }
        false
    }
}

/// A queue of S3-FIFO with what its objects weigh.
#[derive(Default)]
struct Queue {
    objects: VecDeque<u32>,
    taken: u64,
}

impl Queue {
    fn push(&mut self, object: u32, objects: &Objects) {
        self.objects.push_back(object);
        self.taken += objects.weight(object);
    }

    fn pop(&mut self, objects: &Objects) -> Option<u32> {
        let object = self.objects.pop_front()?;
        self.taken -= objects.weight(object);
        Some(object)
    }
}

/// S3-FIFO (Yang et al., SOSP 2023): a tenth of the room for what is new, from where what was asked for twice moves to
/// the main queue, and what was not leaves its name in the ghost queue, which is as long as the main one.
#[derive(Default)]
struct S3Fifo {
    room: u64,
    /// How often what is in was asked for since, up to 3.
    uses: HashMap<u32, u8>,
    ghosts: HashMap<u32, ()>,
    small: Queue,
    main: Queue,
    ghost: Queue,
}

impl S3Fifo {
    fn let_go(&mut self, objects: &Objects) {
        if self.small.taken * 10 > self.room
            && let Some(object) = self.small.pop(objects)
        {
            if self.uses.get(&object).is_some_and(|uses| *uses > 1) {
                self.uses.insert(object, 0);
                self.main.push(object, objects);
            } else {
                self.uses.remove(&object);
                self.ghosts.insert(object, ());
                self.ghost.push(object, objects);
                while self.ghost.taken * 10 > self.room * 9 {
                    let Some(oldest) = self.ghost.pop(objects) else { break };
                    self.ghosts.remove(&oldest);
                }
            }
            return;
        }
        while let Some(object) = self.main.pop(objects) {
            let Some(uses) = self.uses.get_mut(&object).filter(|uses| **uses > 0) else {
                self.uses.remove(&object);
                return;
            };
            *uses -= 1;
            self.main.push(object, objects);
        }
    }
}

impl Cache for S3Fifo {
    fn request(&mut self, object: u32, objects: &Objects) -> bool {
        if let Some(uses) = self.uses.get_mut(&object) {
            *uses = (*uses + 1).min(3);
            return true;
        }
        let known = self.ghosts.remove(&object).is_some();
        if known {
            self.ghost.objects.retain(|ghost| *ghost != object);
            self.ghost.taken -= objects.weight(object);
        }
        let weight = objects.weight(object);
        while self.small.taken + self.main.taken + weight > self.room {
            self.let_go(objects);
        }
        self.uses.insert(object, 0);
        if known {
            self.main.push(object, objects)
        } else {
            self.small.push(object, objects)
        }
        false
    }
}

/// Requests by Zipf, of which each may be replaced by what `other` has at its place.
fn mixed(alpha: f64, mut other: impl FnMut(usize, &mut Random) -> Option<u32>) -> Vec<u32> {
    let (zipf, mut random) = (Zipf::new(OBJECTS, alpha), Random(1));
    let one = |at| other(at, &mut random).unwrap_or_else(|| zipf.rank(&mut random) as u32);
    (0..REQUESTS).map(one).collect()
}

/// The n-th object of those that come once.
fn cold(n: usize) -> u32 {
    COLD + n as u32
}

/// Popularity that moves on: every so many requests the ranks belong to other objects, by a thousandth.
fn drifting(alpha: f64) -> Vec<u32> {
    let (zipf, mut random) = (Zipf::new(OBJECTS, alpha), Random(1));
    (0..REQUESTS).map(|at| ((zipf.rank(&mut random) + at / 5000 * (OBJECTS / 1000)) % OBJECTS) as u32).collect()
}

/// Each object twice, with half of what the cache holds in between: what S3-FIFO is known to be bad at.
fn twice(places: usize) -> Vec<u32> {
    let apart = (places / 2).max(1);
    (0..REQUESTS).map(|at| cold(at / (2 * apart) * apart + at % apart)).collect()
}

/// The traces for a cache of so many places, by name.
fn all(places: usize) -> Vec<(String, Vec<u32>)> {
    let longer = places + places / 5;
    let by_zipf = [0.6, 0.8, 1.0].map(|alpha| (format!("Zipf {alpha:.1}"), mixed(alpha, |_, _| None)));
    let mut traces = Vec::from(by_zipf);
    for alpha in [0.8, 1.0] {
        let scans = mixed(alpha, |at, _| (at % 50_000 < 15_000).then(|| cold(at / 50_000 * 15_000 + at % 50_000)));
        traces.push((format!("Zipf {alpha:.1}, 30 % in scans"), scans));
    }
    let wonders = mixed(0.8, |at, random| (random.unit() < 0.3).then(|| cold(at)));
    traces.push(("Zipf 0.8, 30 % one-hit wonders".into(), wonders));
    let looped = mixed(0.8, |at, _| (at % 2 == 0).then(|| cold(at / 2 % longer)));
    traces.push(("Zipf 0.8, half a loop of 1.2 × the cache".into(), looped));
    traces.push(("loop of 1.2 × the cache".into(), (0..REQUESTS).map(|at| cold(at % longer)).collect()));
    traces.push(("Zipf 0.8, drifting".into(), drifting(0.8)));
    traces.push(("each object twice".into(), twice(places)));
    traces
}

fn print(sizes: Sizes) -> Option<()> {
    let objects = Objects::new(sizes)?;
    println!(
        "\n| trace, bodies {} | cache | FIFO | LRU | S3-FIFO | asidecar | optimum | to FIFO | to LRU |",
        match sizes {
            Sizes::Same => "of 1 KiB",
            Sizes::Mixed => "of 256 B to 32 KiB",
        }
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    let zipf: u64 = (0..OBJECTS as u32).map(|object| objects.weight(object)).sum();
    let mut sums = Vec::new();
    for percent in [1, 10] {
        // A share of what the Zipf distribution's objects weigh, for all traces: some have many more, that come once.
        let room = zipf * percent / 100;
        let places = OBJECTS * percent as usize / 100;
        let mut changes = Vec::new();
        for (name, trace) in all(places) {
            let ratio = |hits: usize| 100.0 * hits as f64 / trace.len() as f64;
            let fifo =
                hits(&mut Fifo { room, taken: 0, inside: HashMap::new(), queue: VecDeque::new() }, &trace, &objects);
            let lru = hits(&mut Lru::new(room), &trace, &objects);
            let s3 = hits(&mut S3Fifo { room, ..S3Fifo::default() }, &trace, &objects);
            let ours = hits(&mut Tier::new(room)?, &trace, &objects);
            let best = match sizes {
                Sizes::Same => format!("{:.1}", ratio(optimum(&trace, places))),
                Sizes::Mixed => "".into(),
            };
            let more = |hits: usize, than: usize| {
                let misses = |hits: usize| (trace.len() - hits) as f64;
                100.0 * (misses(hits) / misses(than) - 1.0)
            };
            changes.push([more(ours, fifo), more(ours, lru), more(s3, fifo), more(s3, lru)]);
            println!(
                "| {name} | {percent} % | {:.1} | {:.1} | {:.1} | {:.1} | {best} | {:+.1} % | {:+.1} % |",
                ratio(fifo),
                ratio(lru),
                ratio(s3),
                ratio(ours),
                more(ours, fifo),
                more(ours, lru)
            );
        }
        sums.push((percent, changes));
    }
    println!("\n| mean change of misses | cache | asidecar to FIFO | to LRU | S3-FIFO to FIFO | to LRU |");
    println!("|---|---:|---:|---:|---:|---:|");
    for (percent, mut changes) in sums {
        for what in ["all traces", "without the last"] {
            let mean = |of: usize| changes.iter().map(|change| change[of]).sum::<f64>() / changes.len() as f64;
            let [a, b, c, d] = [mean(0), mean(1), mean(2), mean(3)];
            println!("| {what} | {percent} % | {a:+.1} % | {b:+.1} % | {c:+.1} % | {d:+.1} % |");
            changes.pop();
        }
    }
    Some(())
}

fn main() -> ExitCode {
    println!("Hits in percent of the requests; misses of asidecar beside those of FIFO and of LRU.");
    if [Sizes::Same, Sizes::Mixed].into_iter().all(|sizes| print(sizes).is_some()) {
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}
