//! The entry that the benchmarks and the counts work on. It is made in this one place.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use asidecar::admission::Sharing;
use asidecar::clock::{Clock, Timestamp};
use asidecar::config::RoutePolicy;
use asidecar::content::{Content, Names};
use asidecar::entry::{Entry, Tags};
use asidecar::freshness::Lifetime;
use asidecar::invalidation::log::{InvalidationLog, Stamp};
use asidecar::metrics::Metrics;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// The time at which everything happens.
pub(crate) const NOW: Timestamp = Timestamp(1_790_000_000_000);

/// A response as an API gives it, under the key `user:N`.
pub(crate) fn entry(log: &InvalidationLog, n: &str, size: usize) -> Entry {
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
    let (key, path) = (format!("user:{n}"), format!("/users/{n}"));
    let tags = Tags::of_request(&RoutePolicy::default_route(), &key, key.len(), &path, &[]);
    let names = Names { key: &key, path: &path, tags: &tags.names };
    let head = Entry {
        base: u32::try_from(key.len()).unwrap_or(u32::MAX),
        route: 0,
        status: StatusCode::OK,
        content: Content::new(names, &headers, Bytes::new()),
        birth: NOW,
        kept: NOW,
        spans: Lifetime { fresh: 3_600_000, ..Lifetime::default() }.into(),
        sharing: Sharing::default(),
        stamp: Stamp::new(log.position()),
        cost: 300,
        hits: AtomicU32::new(0),
    };
    head.with_body(Bytes::from(vec![b'x'; size]))
}

/// Metrics and an empty log.
pub(crate) fn parts() -> Option<(Arc<Metrics>, InvalidationLog)> {
    let metrics = Arc::new(Metrics::new(&["default"]).ok()?);
    let log = InvalidationLog::new(1_000_000, Duration::from_secs(2), None, Clock::default(), metrics.clone());
    Some((metrics, log))
}
