//! What a hit is made of, piece by piece: `make bench-hot`.

mod sample;

use std::hint::black_box;
use std::sync::Arc;

use asidecar::admission::Personal;
use asidecar::config::RoutePolicy;
use asidecar::control::CacheControl;
use asidecar::entry::{Stored, judge};
use asidecar::key::{self, Keyed};
use asidecar::noted::Noted;
use asidecar::respond::{self, Asked, Served};
use asidecar::store::memory::Memory;
use asidecar::store::record;
use asidecar::template::Template;
use asidecar::words::HitFrom;
use divan::Bencher;
use divan::counter::BytesCount;
use http::{HeaderMap, Method};
use sample::{NOW, entry, parts};

const SIZES: [usize; 3] = [1024, 16 * 1024, 256 * 1024];

fn main() {
    divan::main();
}

/// Look-up, standing, verdict and rendering of a hit in memory, among a thousand keys.
#[divan::bench(args = SIZES)]
fn memory_hit(bencher: Bencher<'_, '_>, size: usize) {
    let Some((metrics, log)) = parts() else { return };
    let memory = Memory::new(512 << 20, 1 << 20, metrics);
    for n in 0..1000 {
        memory.put_entry(Arc::new(entry(&log, &n.to_string(), size)));
    }
    let (policy, none, request) = (RoutePolicy::default_route(), HeaderMap::new(), CacheControl::default());
    let asked = Asked { method: &Method::GET, headers: &none, noted: Noted::default(), collapsed: false };
    bencher.bench_local(|| {
        let Some(Stored::Entry(entry)) = memory.get(black_box("user:500")) else { return None };
        let standing = entry.standing(&log);
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
    let entry = entry(&log, "1", 1);
    bencher.bench_local(|| black_box(&entry).standing(&log));
}

#[divan::bench]
fn log_check_in_full(bencher: Bencher<'_, '_>) {
    let Some((_, log)) = parts() else { return };
    let entry = entry(&log, "1", 1);
    bencher.bench_local(|| log.standing_of(black_box(entry.stamp.as_of), entry.tag_ids()));
}

#[divan::bench(args = SIZES)]
fn record_encode(bencher: Bencher<'_, '_>, size: usize) {
    let Some((_, log)) = parts() else { return };
    let entry = entry(&log, "1", size);
    bencher.counter(BytesCount::new(size)).bench_local(|| record::encode(black_box(&entry), false));
}

#[divan::bench(args = SIZES)]
fn record_decode(bencher: Bencher<'_, '_>, size: usize) {
    let Some((_, log)) = parts() else { return };
    let entry = entry(&log, "1", size);
    let bytes = record::encode(&entry, false);
    bencher
        .counter(BytesCount::new(size))
        .with_inputs(|| bytes.clone())
        .bench_local_values(|bytes| record::decode(bytes, "user:1", 0, NOW));
}
