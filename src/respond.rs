//! Rendering: outcomes become responses. Nothing is decided here but how a thing is said.
//!
//! Every response says in `Cache-Status` (RFC 9211) what the cache did and why, in the words of
//! [`crate::words`].

use std::fmt::Write;
use std::hash::BuildHasher;

use bytes::Bytes;
use http::header::{AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};

use crate::body::{Body, Fetched};
use crate::clock::{Clock, Timestamp};
use crate::conditional;
use crate::entry::{Entry, Refused};
use crate::forward;
use crate::range::{self, Multipart, Selected};
use crate::spool::Reader;
use crate::words::{Forward, HitFrom, NotStored};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Why a request was forwarded, for Cache-Status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Why {
    /// The `fwd` parameter.
    pub forward: Forward,
    /// The `detail` parameter.
    pub detail: Option<&'static str>,
}

impl Why {
    /// Nothing was stored for the key.
    pub const NOTHING: Why = Why { forward: Forward::UriMiss, detail: None };
    /// Other variants are stored, this one is not.
    pub const VARIANT: Why = Why { forward: Forward::VaryMiss, detail: None };
    /// The last response was not storable.
    pub const PASS: Why = Why { forward: Forward::UriMiss, detail: Some("hit_for_miss") };

    /// Something was stored and did not do.
    pub fn refused(why: Refused) -> Why {
        let forward = match why {
            Refused::Invalidated => Forward::Miss,
            Refused::Stale | Refused::SoftPurged | Refused::Untrusted => Forward::Stale,
            Refused::Request => Forward::Request,
            Refused::Personal => Forward::Bypass,
        };
        let detail = (why != Refused::Stale).then(|| why.as_str());
        Why { forward, detail }
    }

    /// The cache was not asked.
    pub fn bypass(forward: Forward, reason: &'static str) -> Why {
        Why { forward, detail: Some(reason) }
    }
}

/// How a stored response came to answer, for Cache-Status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Without asking anybody: the milliseconds of freshness left (0 or less: stale since), and from where.
    Hit(i64, HitFrom),
    /// After upstream confirmed it, or failed.
    Forwarded(Why, Confirmed),
}

/// What came of forwarding when a stored response answers all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// A 304, and the response is stored anew.
    Renewed,
    /// A 304 that says that it is not to be stored.
    Once,
    /// An error, of this status if upstream sent one, and stale is allowed.
    Failed(Option<StatusCode>),
    /// Upstream can't be reached, and stale is allowed.
    Unreachable,
}

/// The request's part in the rendering.
#[derive(Clone, Copy)]
pub struct Asked<'r> {
    /// Its method: GET or HEAD.
    pub method: &'r Method,
    /// Its fields.
    pub headers: &'r HeaderMap,
    /// Whether it waited for another request's fetch.
    pub collapsed: bool,
}

/// A response out of an entry.
pub fn from_entry(asked: Asked<'_>, entry: &Entry, served: Served, now: Timestamp) -> Response<Body> {
    let mut status = String::with_capacity(64);
    status.push_str("asidecar");
    match served {
        Served::Hit(left, source) => {
            // What is stale is seen to be.
            let ttl = left.div_euclid(1000).min(if left > 0 { i64::MAX } else { -1 });
            let _ = write!(status, "; hit; ttl={ttl}; detail={}", source.as_str());
        }
        Served::Forwarded(why, confirmed) => {
            let _ = write!(status, "; fwd={}", why.forward.as_str());
            match confirmed {
                Confirmed::Renewed => status.push_str("; fwd-status=304; stored"),
                Confirmed::Once => status.push_str("; fwd-status=304"),
                Confirmed::Failed(Some(code)) => _ = write!(status, "; fwd-status={}", code.as_u16()),
                Confirmed::Failed(None) | Confirmed::Unreachable => {}
            }
            let detail = match confirmed {
                Confirmed::Renewed | Confirmed::Once => why.detail,
                Confirmed::Failed(_) => Some("stale_if_error"),
                Confirmed::Unreachable => Some("stale_if_unreachable"),
            };
            push_tail(&mut status, asked.collapsed, detail);
        }
    }
    let confirmed = matches!(served, Served::Forwarded(_, Confirmed::Renewed | Confirmed::Once));
    let age = age(asked, entry, confirmed, now);
    assemble(asked, entry, &status, age, Content::Whole(entry.body.clone()))
}

/// A response whose body is on its way from upstream. `length` is what upstream announced.
pub fn from_stream(
    asked: Asked<'_>,
    head: &Entry,
    (reader, length): (Reader, Option<u64>),
    why: Why,
    now: Timestamp,
) -> Response<Body> {
    let mut status = format!("asidecar; fwd={}; fwd-status={}; stored", why.forward.as_str(), head.status.as_u16());
    push_tail(&mut status, asked.collapsed, why.detail);
    assemble(asked, head, &status, age(asked, head, true, now), Content::Coming(reader, length))
}

/// The age that a response says. One that was made or confirmed by the origin for this very request has none, unless
/// a cache in between said one (RFC 9111 section 5.1).
fn age(asked: Asked<'_>, entry: &Entry, for_this_request: bool, now: Timestamp) -> Option<u64> {
    let says = !for_this_request || asked.collapsed || entry.headers.contains_key(AGE);
    says.then(|| now.since(entry.birth) / 1000)
}

/// A response of upstream's that is not stored. Its hop-by-hop fields are gone already.
pub fn from_upstream(
    response: Response<Fetched>,
    why: Why,
    not_stored: Option<NotStored>,
    collapsed: bool,
) -> Response<Body> {
    let mut response = response.map(Body::upstream);
    let mut status = format!("asidecar; fwd={}; fwd-status={}", why.forward.as_str(), response.status().as_u16());
    push_tail(&mut status, collapsed, not_stored.map(NotStored::as_str).or(why.detail));
    add_status(response.headers_mut(), &status);
    *response.version_mut() = Version::HTTP_11;
    response
}

/// Says in an error response of ours why there is no other: with `why` it was forwarded, else not.
pub fn explain_problem(response: &mut Response<Body>, why: Option<Why>, word: &'static str) {
    let forward = why.map_or(String::new(), |why| format!("; fwd={}", why.forward.as_str()));
    add_status(response.headers_mut(), &format!("asidecar{forward}; detail={word}"));
}

/// What an upstream response needs before anything is made of it: no hop-by-hop fields, a Date (RFC 9110
/// section 6.6.1), and this hop in Via.
pub fn receive(headers: &mut HeaderMap, version: Version, clock: &Clock) {
    forward::remove_hop_by_hop(headers);
    if !headers.contains_key(DATE) {
        let date = httpdate::fmt_http_date(clock.now().to_system());
        if let Ok(date) = HeaderValue::try_from(date) {
            headers.insert(DATE, date);
        }
    }
    forward::append_via(headers, version);
}

/// The content of a stored response.
enum Content {
    /// All of it is here.
    Whole(Bytes),
    /// It is on its way; its length, when upstream announced it.
    Coming(Reader, Option<u64>),
}

impl Content {
    fn length(&self) -> Option<u64> {
        match self {
            Content::Whole(body) => Some(body.len() as u64),
            Content::Coming(_, length) => *length,
        }
    }

    fn body(self) -> Body {
        match self {
            Content::Whole(body) => Body::full(body),
            Content::Coming(reader, length) => Body::spool(reader, length),
        }
    }
}

/// The response that a stored one makes for a request: after its preconditions, in the order of RFC 9110 section
/// 13.2.2, a 304, parts, or the whole.
fn assemble(asked: Asked<'_>, entry: &Entry, status: &str, age: Option<u64>, content: Content) -> Response<Body> {
    // Preconditions of other methods are for whoever performs them (RFC 9111 section 4.3.2).
    let reads = matches!(*asked.method, Method::GET | Method::HEAD);
    if reads && conditional::not_modified(asked.headers, entry.status, &entry.headers) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.headers_mut() = conditional::fields_of_304(&entry.headers);
        finish(response.headers_mut(), age, status);
        return response;
    }
    let length = content.length();
    let (code, mut fields, body) = match (*asked.method == Method::HEAD, ranges(asked, entry)) {
        (true, _) => {
            let mut fields = entry.headers.clone();
            if let Some(length) = length.filter(|_| entry.status != StatusCode::NO_CONTENT) {
                fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            (entry.status, fields, Body::empty())
        }
        (false, Some(ranges)) => parts(&ranges, entry, content),
        (false, None) => (entry.status, entry.headers.clone(), content.body()),
    };
    finish(&mut fields, age, status);
    let mut response = Response::new(body);
    *response.status_mut() = code;
    *response.headers_mut() = fields;
    response
}

/// The ranges that a request wants of a stored response, if they apply to it.
fn ranges(asked: Asked<'_>, entry: &Entry) -> Option<range::Ranges> {
    if *asked.method != Method::GET || !asked.headers.contains_key(RANGE) {
        return None;
    }
    range::asked(asked.headers).filter(|_| range::if_range_holds(asked.headers, entry.status, &entry.headers))
}

/// Parts of a stored response (RFC 9110 section 15.3.7). Of one that is still coming only a single part of a known
/// length can be told; else the whole is the answer, which is always allowed (section 14.2).
fn parts(ranges: &range::Ranges, entry: &Entry, content: Content) -> (StatusCode, HeaderMap, Body) {
    let selected = content.length().map_or(Selected::Whole, |length| ranges.of(length));
    let length = content.length().unwrap_or_default();
    let mut fields = entry.headers.clone();
    match (selected, content) {
        (Selected::Unsatisfiable, _) => {
            // Nothing of the representation's own: who stores this must not take it for that.
            let mut fields = HeaderMap::new();
            if let Some(date) = entry.headers.get(DATE) {
                fields.insert(DATE, date.clone());
            }
            fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            fields.insert(CONTENT_RANGE, range::unsatisfied(length));
            (StatusCode::RANGE_NOT_SATISFIABLE, fields, Body::empty())
        }
        (Selected::One(part), content) => {
            fields.insert(CONTENT_RANGE, range::content_range(part, length));
            let body = match content {
                Content::Whole(body) => Body::full(part.slice(&body)),
                Content::Coming(reader, _) => Body::spool_part(reader, part),
            };
            (StatusCode::PARTIAL_CONTENT, fields, body)
        }
        (Selected::Many(parts), Content::Whole(body)) => {
            let seed = foldhash::quality::RandomState::default().hash_one(&*entry.key);
            let several = Multipart::new(&parts, length, fields.get(CONTENT_TYPE), seed);
            fields.insert(CONTENT_TYPE, several.content_type());
            fields.remove(CONTENT_RANGE);
            (StatusCode::PARTIAL_CONTENT, fields, Body::pieces(several.pieces(&body)))
        }
        (Selected::Whole | Selected::Many(_), content) => (entry.status, fields, content.body()),
    }
}

fn finish(headers: &mut HeaderMap, age: Option<u64>, status: &str) {
    if let Some(age) = age {
        headers.insert(AGE, HeaderValue::from(age));
    }
    add_status(headers, status);
}

fn add_status(headers: &mut HeaderMap, status: &str) {
    if let Ok(value) = HeaderValue::from_str(status) {
        headers.append(CACHE_STATUS, value);
    }
}

fn push_tail(status: &mut String, collapsed: bool, detail: Option<&str>) {
    if collapsed {
        status.push_str("; collapsed");
    }
    if let Some(detail) = detail {
        status.push_str("; detail=");
        status.push_str(detail);
    }
}
