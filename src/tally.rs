//! What is counted for each request: answers, their bytes, and how long they took.
//!
//! A counter that all workers share is one cache line that they take from each other at every hit. So each thread
//! counts on lines of its own, and they are summed when somebody reads.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::metrics::{PREFIX, SECONDS};
use crate::route::MethodClass;
use crate::words::Outcome;

/// More threads than this share lines.
const MOST_SHARDS: usize = 16;

const BUCKETS: usize = SECONDS.len() + 1;
/// The buckets' upper bounds, in nanoseconds.
const BOUNDS: [u64; SECONDS.len()] = {
    let mut bounds = [0; SECONDS.len()];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = (SECONDS[at] * 1e9) as u64;
        at += 1;
    }
    bounds
};

/// One thread's count of the answers of one route, method and outcome, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line {
    answers: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
    bytes: AtomicU64,
}

/// The sum of lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many answers there were in each bucket of latency, the last one without an upper bound.
    pub answers: [u64; BUCKETS],
    /// How long they took together, in nanoseconds.
    pub nanos: u64,
    /// Their body bytes.
    pub bytes: u64,
}

impl Sum {
    /// How many answers there were.
    pub fn count(&self) -> u64 {
        self.answers.iter().sum()
    }

    fn add(&mut self, line: &Line) {
        for (sum, count) in self.answers.iter_mut().zip(&line.answers) {
            *sum += count.load(Ordering::Relaxed);
        }
        self.nanos += line.nanos.load(Ordering::Relaxed);
        self.bytes += line.bytes.load(Ordering::Relaxed);
    }
}

/// The counts of one route.
#[derive(Debug)]
pub struct Tally {
    /// By thread, outcome and method; a line is made when it is first written.
    lines: Box<[OnceLock<Box<Line>>]>,
}

const KINDS: usize = Outcome::ALL.len() * MethodClass::ALL.len();

thread_local! {
    static SHARD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % MOST_SHARDS
    };
}

impl Tally {
    /// A route's counts, all zero.
    pub fn new() -> Arc<Tally> {
        Arc::new(Tally { lines: (0..MOST_SHARDS * KINDS).map(|_| OnceLock::new()).collect() })
    }

    /// Counts a request that was answered.
    pub fn answered(&self, method: MethodClass, outcome: Outcome, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| nanos <= *bound).unwrap_or(BOUNDS.len());
        let line = self.line(method, outcome);
        line.answers[bucket].fetch_add(1, Ordering::Relaxed);
        line.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Counts body bytes sent to a client.
    pub fn sent(&self, method: MethodClass, outcome: Outcome, bytes: u64) {
        self.line(method, outcome).bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All threads' counts of an outcome, of one method or of all.
    pub fn sum(&self, outcome: Outcome, method: Option<MethodClass>) -> Sum {
        let mut sum = Sum::default();
        for shard in self.lines.chunks(KINDS) {
            for class in MethodClass::ALL {
                if let Some(line) = shard[kind(class, outcome)].get()
                    && method.is_none_or(|method| method == class)
                {
                    sum.add(line);
                }
            }
        }
        sum
    }

    fn line(&self, method: MethodClass, outcome: Outcome) -> &Line {
        let shard = SHARD.with(|shard| *shard);
        self.lines[shard * KINDS + kind(method, outcome)].get_or_init(Box::default)
    }
}

fn kind(method: MethodClass, outcome: Outcome) -> usize {
    outcome as usize * MethodClass::ALL.len() + method as usize
}

/// The counts of all routes as Prometheus reads them.
pub struct Exposition {
    routes: Vec<(String, Arc<Tally>)>,
    descriptions: [Desc; 3],
}

/// The families: their names, sentences and labels.
const FAMILIES: [(&str, &str, &[&str]); 3] = [
    ("requests_total", "Requests from clients, by how they were answered.", &["method", "outcome", "route"]),
    ("request_duration_seconds", "From a request's head to the head of its response.", &["outcome", "route"]),
    ("response_bytes_total", "Body bytes sent to clients.", &["outcome", "route"]),
];

impl Exposition {
    /// Of these routes.
    ///
    /// # Errors
    /// When a name is no name for a metric.
    pub fn new(routes: Vec<(String, Arc<Tally>)>) -> Result<Exposition, prometheus::Error> {
        let describe = |(name, help, labels): (&str, &str, &[&str])| {
            let labels = labels.iter().map(ToString::to_string).collect();
            Desc::new(format!("{PREFIX}{name}"), help.into(), labels, std::collections::HashMap::new())
        };
        let [requests, duration, bytes] = FAMILIES;
        Ok(Exposition { routes, descriptions: [describe(requests)?, describe(duration)?, describe(bytes)?] })
    }
}

impl Collector for Exposition {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (mut requests, mut duration, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        for (route, tally) in &self.routes {
            for &outcome in Outcome::ALL {
                for method in MethodClass::ALL {
                    let count = tally.sum(outcome, Some(method)).count();
                    let labels = [("method", method.as_str()), ("outcome", outcome.as_str()), ("route", route)];
                    requests.push(counter(&labels, count));
                }
                let (sum, labels) = (tally.sum(outcome, None), [("outcome", outcome.as_str()), ("route", route)]);
                duration.push(histogram(&labels, &sum));
                bytes.push(counter(&labels, sum.bytes));
            }
        }
        let family = |metrics, kind, desc: &Desc| {
            let mut family = MetricFamily::default();
            family.set_name(desc.fq_name.clone());
            family.set_help(desc.help.clone());
            family.set_field_type(kind);
            family.set_metric(metrics);
            family
        };
        let [of_requests, of_duration, of_bytes] = &self.descriptions;
        vec![
            family(requests, MetricType::COUNTER, of_requests),
            family(duration, MetricType::HISTOGRAM, of_duration),
            family(bytes, MetricType::COUNTER, of_bytes),
        ]
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

fn counter(labels: &[(&str, &str)], count: u64) -> Metric {
    let (mut metric, mut counter) = (labelled(labels), Counter::default());
    counter.set_value(count as f64);
    metric.set_counter(counter);
    metric
}

fn histogram(labels: &[(&str, &str)], sum: &Sum) -> Metric {
    let (mut metric, mut histogram, mut below) = (labelled(labels), Histogram::default(), 0);
    let buckets = SECONDS.iter().zip(&sum.answers).map(|(bound, count)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(below);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(sum.count());
    histogram.set_sample_sum(sum.nanos as f64 / 1e9);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_count_is_summed() {
        let tally = Tally::new();
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    tally.answered(MethodClass::Get, Outcome::HitMemory, Duration::from_micros(50));
                    tally.answered(MethodClass::Post, Outcome::HitMemory, Duration::from_secs(60));
                    tally.sent(MethodClass::Get, Outcome::HitMemory, 7);
                });
            }
        });
        let got = tally.sum(Outcome::HitMemory, None);
        assert_eq!((got.count(), got.answers[0], got.answers[BUCKETS - 1], got.bytes), (80, 40, 40, 280));
        assert_eq!(got.nanos, 40 * 50_000 + 40 * 60_000_000_000);
        assert_eq!(tally.sum(Outcome::HitMemory, Some(MethodClass::Get)).count(), 40);
        assert_eq!(tally.sum(Outcome::Miss, None), Sum::default());
    }

    #[test]
    fn each_duration_is_in_the_bucket_of_its_bound() {
        for (at, seconds) in SECONDS.iter().enumerate() {
            for (nanos, bucket) in [((seconds * 1e9) as u64, at), ((seconds * 1e9) as u64 + 1, at + 1)] {
                let tally = Tally::new();
                tally.answered(MethodClass::Get, Outcome::Miss, Duration::from_nanos(nanos));
                assert_eq!(tally.sum(Outcome::Miss, None).answers[bucket], 1, "{nanos} ns");
            }
        }
    }
}
