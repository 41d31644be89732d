//! What the admin page is made of: numbers out of the metrics, and the entries in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Upstream;
use crate::core::Core;
use crate::entry::Entry;
use crate::freshness::{self, State};
use crate::invalidation::table::Standing;
use crate::metrics::RouteMetrics;
use crate::words::Outcome;

/// The outcomes that upstream was spared.
const HITS: [Outcome; 3] = [Outcome::HitMemory, Outcome::HitRedis, Outcome::Stale];
/// At most so many entries are looked at for one answer.
const SCAN: usize = 100_000;
const MOST_ENTRIES: usize = 500;

/// `off`, `up` or `down`.
pub(crate) fn redis_state(core: &Core) -> &'static str {
    match (&core.shared, core.metrics.redis_up.get()) {
        (None, _) => "off",
        (_, 1) => "up",
        _ => "down",
    }
}

/// What Redis refused within the last minute because of who we are.
pub(crate) fn redis_refuses(core: &Core) -> Option<String> {
    core.link.as_ref()?.refused()
}

/// `up` or `down` as the last request found it, `unknown` before the first.
fn upstream_state(core: &Core) -> &'static str {
    match core.upstream_answers.get() {
        None => "unknown",
        Some(true) => "up",
        Some(false) => "down",
    }
}

/// Whether upstream accepts a connection within a second.
pub(crate) async fn reach(upstream: &Upstream) -> bool {
    let url = &upstream.url;
    let target = (url.authority.host().trim_matches(['[', ']']), url.port());
    matches!(timeout(Duration::from_secs(1), TcpStream::connect(target)).await, Ok(Ok(_)))
}

/// The body of `GET /api/stats`.
pub(crate) fn stats(core: &Arc<Core>, started: Instant, ready: bool) -> Value {
    core.memory.measure();
    let now = core.clock.now();
    let all = &core.metrics.routes;
    let routes: Vec<Value> = core.config.routes.iter().zip(all).map(|(r, m)| route(&r.name, m)).collect();
    let over = |f: &dyn Fn(&RouteMetrics) -> u64| all.iter().map(f).sum::<u64>();
    let requests = over(&|m| requests(m));
    let hits = over(&|m| hits(m));
    let looked_up = requests - over(&|m| m.requests_with(Outcome::Bypass));
    let upstream = over(&|m| m.upstream_requests());
    let medians = |f: &dyn Fn(&RouteMetrics) -> Option<f64>| {
        all.iter().filter_map(f).fold(None, |a: Option<f64>, b| Some(a.map_or(b, |a| a.max(b))))
    };
    let metrics = &core.metrics;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "instance": core.instance,
        "uptime_seconds": started.elapsed().as_secs_f64(),
        "ready": ready,
        "now_ms": now.0,
        "totals": {
            "requests": requests,
            "hits": hits,
            "hit_ratio": ratio(hits, looked_up),
            "upstream_requests": upstream,
            "saved_upstream_requests": requests.saturating_sub(upstream),
            "saved_seconds": all.iter().map(saved_seconds).sum::<f64>(),
            "hit_p50_seconds": medians(&|m| m.median_seconds(&HITS)),
            "miss_p50_seconds": medians(&|m| m.median_seconds(&[Outcome::Miss])),
        },
        "routes": routes,
        "memory": {
            "entries": metrics.memory_entries.get(),
            "bytes": metrics.memory_bytes.get(),
            "limit_bytes": core.memory.limit(),
            "evictions": metrics.evictions(),
        },
        "redis": {
            "state": redis_state(core),
            "breaker_open": metrics.redis_breaker_open.get() == 1,
        },
        "log": {
            "position": core.log.position().id.to_string(),
            "horizon": core.log.horizon().id.to_string(),
            "last_heard_ms": core.log.silent_for(now),
            "pending": core.log.pending(),
            "gaps": metrics.log_gaps.get(),
            "horizon_moves": metrics.horizon_moves(),
            "tags": core.log.tags(),
        },
        "upstream": {"url": core.config.upstream.url.to_string(), "state": upstream_state(core)},
    })
}

fn route(name: &str, m: &RouteMetrics) -> Value {
    let outcomes: serde_json::Map<String, Value> =
        Outcome::ALL.iter().map(|o| (o.as_str().to_string(), m.requests_with(*o).into())).collect();
    json!({
        "name": name,
        "requests": requests(m),
        "outcomes": outcomes,
        "hit_ratio": ratio(hits(m), requests(m) - m.requests_with(Outcome::Bypass)),
        "hit_p50_seconds": m.median_seconds(&HITS),
        "miss_p50_seconds": m.median_seconds(&[Outcome::Miss]),
    })
}

fn requests(m: &RouteMetrics) -> u64 {
    Outcome::ALL.iter().map(|o| m.requests_with(*o)).sum()
}

fn hits(m: &RouteMetrics) -> u64 {
    HITS.iter().map(|o| m.requests_with(*o)).sum()
}

/// Hits times what a miss takes on average, less what the hits took themselves.
fn saved_seconds(m: &RouteMetrics) -> f64 {
    let (missed, misses) = m.time_spent(Outcome::Miss);
    let (hit, hits) = HITS.iter().map(|o| m.time_spent(*o)).fold((0.0, 0), |(s, n), (t, c)| (s + t, n + c));
    if misses == 0 { 0.0 } else { (hits as f64 * missed / misses as f64 - hit).max(0.0) }
}

/// 0 when there is nothing to divide by.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The body of `GET /api/entries?contains=…&limit=…`.
pub(crate) fn entries(core: &Arc<Core>, query: Option<&str>) -> Value {
    let pairs: Vec<(String, String)> =
        url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let value = |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let contains = value("contains").unwrap_or_default();
    let limit = value("limit").and_then(|l| l.parse().ok()).unwrap_or(50).min(MOST_ENTRIES);
    let wanted = |e: &Entry| {
        e.key().contains(contains) || e.content.tags().contains(contains) || e.content.path().contains(contains)
    };
    let (found, total) = core.memory.list(SCAN, limit, wanted);
    let listed: Vec<Value> = found.iter().map(|e| entry(core, e)).collect();
    json!({"entries": listed, "total": total, "truncated": found.len() == limit && total > limit})
}

fn entry(core: &Core, e: &Entry) -> Value {
    let now = core.clock.now();
    let state = freshness::state(e.birth, &e.lifetime(), now);
    let word = match (e.standing(&core.log), state) {
        (Standing::Invalid, _) => "invalid",
        (Standing::Valid, State::Fresh { .. }) => "fresh",
        _ => "stale",
    };
    let left = if let State::Fresh { left } = state { left } else { 0 };
    json!({
        "key": e.key(),
        "route": core.config.routes.get(e.route as usize).map(|r| r.name.as_str()),
        "status": e.status.as_u16(),
        "bytes": e.content.body_len(),
        "age_seconds": now.since(e.birth) as f64 / 1000.0,
        "ttl_seconds": left as f64 / 1000.0,
        "state": word,
        "hits": e.hits.load(Ordering::Relaxed),
        "tags": e.content.tags().lines().collect::<Vec<_>>(),
        "path": e.content.path(),
    })
}
