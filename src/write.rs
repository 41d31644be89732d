//! What a write invalidates: a pure decision over the request and what came of it.
//!
//! RFC 9111 section 4.4: a successful unsafe request invalidates its own target and what `Location` and
//! `Content-Location` name on the same origin, and the groups that `Cache-Group-Invalidation` names (RFC 9875
//! section 3); the route adds its `invalidates` templates. One whose outcome
//! is unknown counts as one that succeeded; one that certainly failed invalidates nothing.

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, StatusCode};
use url::Url;

use crate::config::UpstreamUrl;
use crate::control::CacheControl;
use crate::entry::{CACHE_GROUP_INVALIDATION, MAX_TAGS, cache_groups, group_tag};
use crate::freshness;
use crate::invalidation::{Invalidation, MAX_NAME};
use crate::problem::Problem;

/// A write, as far as it matters here.
pub struct Written {
    /// The host it was sent to.
    pub host: String,
    /// The path it was sent to.
    pub path: String,
    /// The query it was sent with.
    pub query: Option<String>,
    /// The bases of the keys under which a GET of this path may be stored.
    pub keys: Vec<String>,
    /// The route's `invalidates`, rendered.
    pub tags: Vec<String>,
    /// Where it went.
    pub upstream: UpstreamUrl,
}

/// What came of a write.
pub enum Fact<'r> {
    /// Upstream answered.
    Answered(StatusCode, &'r HeaderMap),
    /// It did not.
    Failed(Problem),
    /// It was not made yet, or nobody knows.
    Unknown,
}

/// What is invalidated; `None` when the write certainly changed nothing.
pub fn invalidates(written: &Written, fact: &Fact<'_>) -> Option<Invalidation> {
    let response = match fact {
        Fact::Answered(status, headers) if status.is_success() || status.is_redirection() => Some(*headers),
        // A gateway behind us that gave up does not know what its own upstream did.
        Fact::Answered(StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT, _) => None,
        Fact::Answered(..) => return None,
        Fact::Failed(problem) if problem.outcome_unknown() => None,
        Fact::Failed(_) => return None,
        Fact::Unknown => None,
    };
    let mut what = Invalidation {
        keys: written.keys.clone(),
        paths: vec![written.path.clone()],
        tags: written.tags.clone(),
        ..Invalidation::default()
    };
    for name in [LOCATION, CONTENT_LOCATION] {
        let named = response.and_then(|h| h.get(&name)).and_then(|v| v.to_str().ok());
        if let Some((path, _)) = named.and_then(|n| same_origin(written, n))
            && path.len() <= MAX_NAME
            && !what.paths.contains(&path)
        {
            what.paths.push(path);
        }
    }
    for group in response.iter().flat_map(|h| cache_groups(h, &CACHE_GROUP_INVALIDATION)).take(MAX_TAGS) {
        // Of this origin, and of the routes whose keys are for all hosts.
        what.tags.extend([group_tag(&written.host, &group), group_tag("", &group)]);
    }
    // A name that no message may hold names nothing that could be stored under it.
    what.keys.retain(|k| k.len() <= MAX_NAME);
    what.tags.retain(|t| !t.is_empty() && t.len() <= MAX_NAME);
    // Only where `listen.max_uri` was raised beyond what a message holds.
    if written.path.len() > MAX_NAME || !written.path.starts_with('/') {
        return Some(Invalidation::all());
    }
    Some(what)
}

/// Whether the answer to a POST is what a GET of the same target would get (RFC 9110 section 9.3.3): its
/// Content-Location says so, and it has explicit freshness.
pub fn answers_reads(written: &Written, status: StatusCode, response: &HeaderMap, control: &CacheControl) -> bool {
    let location = response.get(CONTENT_LOCATION).and_then(|v| v.to_str().ok());
    let same = |(path, query): (String, Option<String>)| path == written.path && query == written.query;
    status == StatusCode::OK
        && freshness::is_explicit(response, control)
        && location.and_then(|l| same_origin(written, l)).is_some_and(same)
}

/// Path and query that a Location names, as clients of this proxy would ask for them; `None` on another origin.
fn same_origin(written: &Written, location: &str) -> Option<(String, Option<String>)> {
    let own =
        |authority: &str| Url::parse(&format!("{}://{authority}{}", written.upstream.scheme(), written.path)).ok();
    let (by_host, by_upstream) = (own(&written.host), own(written.upstream.authority.as_str()));
    let base = by_host.as_ref().or(by_upstream.as_ref())?;
    let named = base.join(location).ok()?;
    let same = |other: &Option<Url>| {
        other.as_ref().is_some_and(|o| {
            o.host_str() == named.host_str() && o.port_or_known_default() == named.port_or_known_default()
        })
    };
    let query = named.query().map(str::to_owned);
    if same(&by_host) {
        return Some((named.path().to_string(), query));
    }
    if same(&by_upstream) {
        let path = named.path();
        let path = path.strip_prefix(&written.upstream.base_path).unwrap_or(path);
        return Some((if path.starts_with('/') { path.to_string() } else { format!("/{path}") }, query));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Written {
        Written {
            host: "me:80".into(),
            path: "/users/7".into(),
            query: None,
            keys: vec!["user:7".into()],
            tags: vec!["users".into()],
            upstream: UpstreamUrl::new(false, "api:9000".parse().unwrap(), "/v1".into()),
        }
    }
    fn answered(status: u16, location: &str) -> Option<Invalidation> {
        let mut h = HeaderMap::new();
        h.insert(LOCATION, location.parse().unwrap());
        invalidates(&written(), &Fact::Answered(StatusCode::from_u16(status).unwrap(), &h))
    }

    #[test]
    fn a_successful_write_invalidates_its_path_key_and_the_routes_tags() {
        let got = answered(204, "https://elsewhere/x").unwrap();
        let named = |n: &str| vec![n.to_string()];
        assert_eq!((got.paths, got.keys, got.tags), (named("/users/7"), named("user:7"), named("users")));
    }

    #[test]
    fn location_counts_on_the_same_origin_only() {
        for (location, path) in [
            ("/users/8", Some("/users/8")),
            ("8?x=1", Some("/users/8")),
            ("http://me/users/9", Some("/users/9")),
            ("http://api:9000/v1/users/9", Some("/users/9")),
            ("http://evil/users/9", None),
            ("//evil/users/9", None),
            ("http://me:81/users/9", None),
        ] {
            let got = answered(201, location).unwrap().paths;
            assert_eq!(got.get(1).map(String::as_str), path, "{location}");
        }
    }

    #[test]
    fn the_answer_to_a_post_answers_reads_when_it_says_so_rfc_9110_section_9_3_3() {
        let fresh = ("cache-control", "max-age=5");
        for (status, fields, answers) in [
            (200, vec![("content-location", "/users/7"), fresh], true),
            (200, vec![("content-location", "http://me/users/7"), fresh], true),
            (200, vec![("content-location", "/users/7?x=1"), fresh], false),
            (200, vec![("content-location", "/users/8"), fresh], false),
            (200, vec![("content-location", "http://evil/users/7"), fresh], false),
            (200, vec![("content-location", "/users/7"), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")], false),
            (201, vec![("content-location", "/users/7"), fresh], false),
            (200, vec![fresh], false),
        ] {
            let h: HeaderMap = fields.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
            let control = CacheControl::of_response(&h, &[]);
            let got = answers_reads(&written(), StatusCode::from_u16(status).unwrap(), &h, &control);
            assert_eq!(got, answers, "{status} {fields:?}");
        }
    }

    #[test]
    fn groups_are_invalidated_on_the_same_origin_rfc_9875_section_3() {
        let mut h = HeaderMap::new();
        h.insert("cache-group-invalidation", "\"eurovision\", 5, \"a b\";p".parse().unwrap());
        let got = invalidates(&written(), &Fact::Answered(StatusCode::OK, &h)).unwrap().tags;
        let groups =
            ["cache-group:me:80:eurovision", "cache-group::eurovision", "cache-group:me:80:a b", "cache-group::a b"];
        assert_eq!(got[1..], groups);
        assert_eq!(invalidates(&written(), &Fact::Answered(StatusCode::NOT_FOUND, &h)), None);
    }

    #[test]
    fn a_write_that_failed_invalidates_nothing_and_an_unknown_outcome_counts_as_success() {
        for status in [400, 404, 409, 500, 503] {
            assert_eq!(answered(status, "/x"), None, "{status}");
        }
        assert!(answered(504, "/x").is_some());
        for (problem, invalidated) in [
            (Problem::Unreachable, false),
            (Problem::Busy, false),
            (Problem::Timeout, true),
            (Problem::Broken, true),
            (Problem::ClientGone, true),
        ] {
            assert_eq!(invalidates(&written(), &Fact::Failed(problem)).is_some(), invalidated, "{problem:?}");
        }
    }
}
