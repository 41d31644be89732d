//! What a hit is made of, piece by piece: `make bench-hot`.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use asidecar::admission::{Personal, Sharing};
use asidecar::clock::{Clock, Timestamp};
use asidecar::config::RoutePolicy;
use asidecar::control::CacheControl;
use asidecar::entry::{Entry, Stored, Tags, judge};
use asidecar::freshness::Lifetime;
use asidecar::invalidation::log::{InvalidationLog, Stamp};
use asidecar::key::{self, Keyed};
use asidecar::metrics::Metrics;
use asidecar::respond::{self, Asked, Served};
use asidecar::store::memory::Memory;
use asidecar::store::record;
use asidecar::template::Template;
use asidecar::words::HitFrom;
use bytes::Bytes;
use divan::Bencher;
use divan::counter::BytesCount;
use http::{HeaderMap, Method, StatusCode};

const SIZES: [usize; 3] = [1024, 16 * 1024, 256 * 1024];
const NOW: Timestamp = Timestamp(1_790_000_000_000);

fn main() {
    divan::main();
}

fn entry(log: &InvalidationLog, n: usize, size: usize) -> Entry {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("cache-control", "max-age=3600"),
        ("etag", "\"v1\""),
        ("date", "Sun, 22 Nov 2026 12:00:00 GMT"),
        ("via", "1.1 asidecar"),
    ] {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    }
    let path = format!("/users/{n}");
    let key = format!("user:{n}");
    let tags = Tags::of_request(&RoutePolicy::default_route(), &key, key.len(), &path, &[]);
    Entry {
        base: key.len(),
        key: key.into(),
        path: path.into(),
        route: 0,
        status: StatusCode::OK,
        headers,
        body: Bytes::from(vec![b'x'; size]),
        birth: NOW,
        kept: NOW,
        lifetime: Lifetime { fresh: 3_600_000, ..Lifetime::default() },
        sharing: Sharing::default(),
        tags: tags.names.into(),
        stamp: Stamp::new(log.position(), &tags.ids),
        cost: 300,
        hits: AtomicU32::new(0),
    }
}

fn parts() -> Option<(Arc<Metrics>, InvalidationLog)> {
    let metrics = Arc::new(Metrics::new(&["default"]).ok()?);
    let log = InvalidationLog::new(1_000_000, Duration::from_secs(2), None, Clock::default(), metrics.clone());
    Some((metrics, log))
}

/// Look-up, standing, verdict and rendering of a hit in memory, among a thousand keys.
#[divan::bench(args = SIZES)]
fn memory_hit(bencher: Bencher<'_, '_>, size: usize) {
    let Some((metrics, log)) = parts() else { return };
    let memory = Memory::new(512 << 20, 1 << 20, metrics);
    for n in 0..1000 {
        let entry = Arc::new(entry(&log, n, size));
        memory.put(entry.key.clone(), Stored::Entry(entry));
    }
    let (policy, none, request) = (RoutePolicy::default_route(), HeaderMap::new(), CacheControl::default());
    let asked = Asked { method: &Method::GET, headers: &none, collapsed: false };
    bencher.bench_local(|| {
        let Some(Stored::Entry(entry)) = memory.get(black_box("user:500")) else { return None };
        let standing = log.standing(&entry.stamp);
        let verdict = judge(&entry, &policy, Personal::default(), &request, standing, true, NOW);
        black_box(verdict);
        Some(respond::from_entry(asked, &entry, Served::Hit(3_600_000, HitFrom::Memory), NOW))
    });
}

/// The key by default, and by a template with a query.
#[divan::bench(args = ["default", "template"])]
fn build_key(bencher: Bencher<'_, '_>, kind: &str) {
    let mut policy = RoutePolicy::default_route();
    if kind == "template" {
        policy.key = Template::parse("user:{id}", &["id".to_string()]).ok();
        policy.sort = true;
    }
    let headers = HeaderMap::new();
    let keyed = Keyed {
        host: "127.0.0.1:8080",
        path: "/users/12345",
        query: Some("fields=name&sort=asc"),
        headers: &headers,
        params: &["12345"],
        https: false,
    };
    let mut out = String::with_capacity(128);
    bencher.bench_local(|| key::build(&policy, black_box(&keyed), &mut out));
}

/// Whether an entry still stands: the fast way, and in full after a change of the log.
#[divan::bench]
fn log_check(bencher: Bencher<'_, '_>) {
    let Some((_, log)) = parts() else { return };
    let entry = entry(&log, 1, 1);
    bencher.bench_local(|| log.standing(black_box(&entry.stamp)));
}

#[divan::bench]
fn log_check_in_full(bencher: Bencher<'_, '_>) {
    let Some((_, log)) = parts() else { return };
    let entry = entry(&log, 1, 1);
    bencher.bench_local(|| log.standing_of(black_box(entry.stamp.as_of), entry.stamp.tags()));
}

#[divan::bench(args = SIZES)]
fn record_encode(bencher: Bencher<'_, '_>, size: usize) {
    let Some((_, log)) = parts() else { return };
    let entry = entry(&log, 1, size);
    bencher.counter(BytesCount::new(size)).bench_local(|| record::encode(black_box(&entry), false));
}

#[divan::bench(args = SIZES)]
fn record_decode(bencher: Bencher<'_, '_>, size: usize) {
    let Some((_, log)) = parts() else { return };
    let entry = entry(&log, 1, size);
    let bytes = record::encode(&entry, false);
    bencher
        .counter(BytesCount::new(size))
        .with_inputs(|| bytes.clone())
        .bench_local_values(|bytes| record::decode(bytes, "user:1", 0, NOW));
}
