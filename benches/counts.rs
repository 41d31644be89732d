//! One piece of a hit, so many times, and nothing else: `benches/counts.py` runs it under callgrind with two counts,
//! and what the second run executes more is what the piece costs.
//!
//!   counts PIECE COUNT

mod sample;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use asidecar::admission::Personal;
use asidecar::config::RoutePolicy;
use asidecar::control::CacheControl;
use asidecar::entry::{Entry, Stored, judge};
use asidecar::invalidation::log::InvalidationLog;
use asidecar::key::{self, Keyed};
use asidecar::noted::Noted;
use asidecar::respond::{self, Asked, Served};
use asidecar::store::memory::Memory;
use asidecar::store::record;
use asidecar::template::Template;
use asidecar::words::HitFrom;
use http::{HeaderMap, Method};
use sample::{NOW, entry, parts};

/// The pieces work on so many entries in turn: hash tables are seeded at random, so one key may be found at its first
/// place or at its third, and a thousand are found as often at each in every run.
const ENTRIES: usize = 1000;
const BODY: usize = 1024;
/// Beside so many more, of this size, a hit is to take no more instructions.
const MANY: usize = 100_000;
const SMALL_BODY: usize = 64;

fn build_keys(count: usize, template: bool) {
    let mut policy = RoutePolicy::default_route();
    if template {
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
    for _ in 0..count {
        black_box(key::build(&policy, black_box(&keyed), &mut out));
    }
}

fn hit_memory(count: usize, memory: &Memory, log: &InvalidationLog, keys: &[String]) -> Option<()> {
    let (policy, none, request) = (RoutePolicy::default_route(), HeaderMap::new(), CacheControl::default());
    let asked = Asked { method: &Method::GET, headers: &none, noted: Noted::default(), collapsed: false };
    for key in keys.iter().cycle().take(count) {
        let Stored::Entry(entry) = memory.get(black_box(key))? else { return None };
        let standing = entry.standing(log);
        let verdict = judge(&entry, &policy, Personal::default(), &request, standing, true, NOW);
        black_box(verdict);
        black_box(respond::from_entry(asked, &entry, Served::Hit(3_600_000, HitFrom::Memory), NOW));
    }
    Some(())
}

fn kept(memory: &Memory, entry: Arc<Entry>) -> Option<String> {
    let key = entry.key().to_owned();
    memory.put_entry(entry).then_some(key)
}

fn run(piece: &str, count: usize) -> Option<()> {
    let (metrics, log) = parts()?;
    let entries: Vec<Arc<Entry>> = (0..ENTRIES).map(|n| Arc::new(entry(&log, &n.to_string(), BODY))).collect();
    let mut turns = entries.iter().cycle().take(count);
    match piece {
        "key_default" => build_keys(count, false),
        "key_template" => build_keys(count, true),
        "log_check" => turns.for_each(|entry| {
            black_box(black_box(entry).standing(&log));
        }),
        "log_check_in_full" => turns.for_each(|entry| {
            black_box(log.standing_of(black_box(entry.stamp.as_of), entry.tag_ids()));
        }),
        "record_encode" => turns.for_each(|entry| {
            black_box(record::encode(black_box(entry), false));
        }),
        "record_decode" => {
            let bytes = record::encode(turns.next()?, false);
            for _ in 0..count {
                black_box(record::decode(black_box(bytes.clone()), "user:0", 0, NOW)).ok()?;
            }
        }
        "memory_hit" | "memory_hit_of_many" => {
            let memory = Memory::new(512 << 20, 1 << 20, metrics);
            let others = if piece == "memory_hit" { 0 } else { MANY };
            let others = (ENTRIES..ENTRIES + others).map(|n| Arc::new(entry(&log, &n.to_string(), SMALL_BODY)));
            let keys: Option<Vec<String>> =
                entries.into_iter().chain(others).map(|entry| kept(&memory, entry)).collect();
            let keys = keys?;
            // The first hit of each looks into the log.
            hit_memory(keys.len(), &memory, &log, &keys)?;
            hit_memory(count, &memory, &log, &keys)?;
        }
        _ => return None,
    }
    Some(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (piece, count) = (arguments.next().unwrap_or_default(), arguments.next().and_then(|n| n.parse().ok()));
    if count.and_then(|count| run(&piece, count)).is_some() {
        return ExitCode::SUCCESS;
    }
    eprintln!("counts PIECE COUNT: there is no piece {piece:?}, or its work failed");
    ExitCode::FAILURE
}
