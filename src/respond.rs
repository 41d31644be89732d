//! Rendering: outcomes become responses. Nothing is decided here but how a thing is said.
//!
//! Every response says in `Cache-Status` (RFC 9211) what the cache did and why, in the words of
//! [`crate::words`].

use std::hash::BuildHasher;
use std::sync::OnceLock;

use bytes::Bytes;
use http::header::{AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};

use crate::body::Body;
use crate::clock::{Clock, Timestamp};
use crate::conditional;
use crate::entry::{Entry, Refused};
use crate::forward;
use crate::noted::{Field, Noted};
use crate::range::{self, Multipart, Selected};
use crate::spool::Reader;
use crate::upstream::Fetched;
use crate::words::{Forward, HitFrom, NotStored};

/// RFC 9211 section 2.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

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
    /// Which of them it has.
    pub noted: Noted,
    /// Whether it waited for another request's fetch.
    pub collapsed: bool,
}

/// A response out of an entry.
pub fn from_entry(asked: Asked<'_>, entry: &Entry, served: Served, now: Timestamp) -> Response<Body> {
    let (status, confirmed) = match served {
        Served::Hit(left, source) => (hit_status(left, source), false),
        Served::Forwarded(why, confirmed) => {
            let renewed = matches!(confirmed, Confirmed::Renewed | Confirmed::Once);
            (value(forwarded_status(asked, why, confirmed)), renewed)
        }
    };
    let age = age(asked, entry, confirmed, now);
    assemble(asked, entry, status, age, Content::Whole(entry.content.body()))
}

/// The `Cache-Status` of a hit. What is stale is seen to be.
fn hit_status(left: i64, source: HitFrom) -> HeaderValue {
    let ttl = left.div_euclid(1000).min(if left > 0 { i64::MAX } else { -1 });
    let say = || format!("asidecar; hit; ttl={ttl}; detail={}", source.as_str());
    match usize::try_from(ttl) {
        Ok(ttl) if source == HitFrom::Memory => said(&HITS, ttl, say),
        _ => value(say()),
    }
}

/// That a request was forwarded, why, and what came of it.
fn forwarded(why: Why, came: Option<StatusCode>) -> String {
    let mut status = String::with_capacity(96);
    status.push_str("asidecar; fwd=");
    status.push_str(why.forward.as_str());
    if let Some(came) = came {
        status.push_str("; fwd-status=");
        status.push_str(came.as_str());
    }
    status
}

fn forwarded_status(asked: Asked<'_>, why: Why, confirmed: Confirmed) -> String {
    let mut status = forwarded(
        why,
        match confirmed {
            Confirmed::Renewed | Confirmed::Once => Some(StatusCode::NOT_MODIFIED),
            Confirmed::Failed(status) => status,
            Confirmed::Unreachable => None,
        },
    );
    if confirmed == Confirmed::Renewed {
        status.push_str("; stored");
    }
    let detail = match confirmed {
        Confirmed::Renewed | Confirmed::Once => why.detail,
        Confirmed::Failed(_) => Some("stale_if_error"),
        Confirmed::Unreachable => Some("stale_if_unreachable"),
    };
    push_tail(&mut status, asked.collapsed, detail);
    status
}

/// So many seconds are said again and again.
const OFTEN: usize = 4096;
type Sayings = [OnceLock<HeaderValue>; OFTEN];
static AGES: Sayings = [const { OnceLock::new() }; OFTEN];
static HITS: Sayings = [const { OnceLock::new() }; OFTEN];

/// What is said of `n` seconds. What is said often is written once, in memory that is never freed: copying it
/// neither allocates nor counts.
fn said(sayings: &'static Sayings, n: usize, say: impl FnOnce() -> String) -> HeaderValue {
    let Some(saying) = sayings.get(n) else { return value(say()) };
    let written = || HeaderValue::from_maybe_shared(Bytes::from_static(say().leak().as_bytes()));
    saying.get_or_init(|| written().unwrap_or(NOTHING_SAID)).clone()
}

const NOTHING_SAID: HeaderValue = HeaderValue::from_static("");

/// A value of ours, which holds nothing that a field can't.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(NOTHING_SAID)
}

/// A response whose body is on its way from upstream. `length` is what upstream announced.
pub fn from_stream(
    asked: Asked<'_>,
    head: &Entry,
    (reader, length): (Reader, Option<u64>),
    why: Why,
    now: Timestamp,
) -> Response<Body> {
    let mut status = forwarded(why, Some(head.status));
    status.push_str("; stored");
    push_tail(&mut status, asked.collapsed, why.detail);
    assemble(asked, head, value(status), age(asked, head, true, now), Content::Coming(reader, length))
}

/// The age that a response says. One that was made or confirmed by the origin for this very request has none, unless
/// a cache in between said one (RFC 9111 section 5.1).
fn age(asked: Asked<'_>, entry: &Entry, for_this_request: bool, now: Timestamp) -> Option<HeaderValue> {
    let says = !for_this_request || asked.collapsed || entry.content.has(&AGE);
    let age = now.since(entry.birth) / 1000;
    says.then(|| said(&AGES, usize::try_from(age).unwrap_or(usize::MAX), || age.to_string()))
}

/// A response of upstream's that is not stored. Its hop-by-hop fields are gone already.
pub fn from_upstream(
    response: Response<Fetched>,
    why: Why,
    not_stored: Option<NotStored>,
    collapsed: bool,
) -> Response<Body> {
    let mut response = response.map(Body::upstream);
    let mut status = forwarded(why, Some(response.status()));
    push_tail(&mut status, collapsed, not_stored.map(NotStored::as_str).or(why.detail));
    response.headers_mut().append(CACHE_STATUS, value(status));
    *response.version_mut() = Version::HTTP_11;
    response
}

/// Says in an error response of ours why there is no other: with `why` it was forwarded, else not.
pub fn explain_problem(response: &mut Response<Body>, why: Option<Why>, word: &'static str) {
    let mut status = why.map_or("asidecar".into(), |why| forwarded(why, None));
    push_tail(&mut status, false, Some(word));
    response.headers_mut().append(CACHE_STATUS, value(status));
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
fn assemble(
    asked: Asked<'_>,
    entry: &Entry,
    status: HeaderValue,
    age: Option<HeaderValue>,
    content: Content,
) -> Response<Body> {
    let without_age = age.is_none();
    let mut fields = entry.content.answer(age.unwrap_or(NOTHING_SAID), status);
    if without_age {
        fields.remove(AGE);
    }
    let selects = |field| asked.noted.has(field);
    let whole = *asked.method != Method::HEAD
        && !(selects(Field::IfNoneMatch) || selects(Field::IfModifiedSince) || selects(Field::Range));
    let (code, body) =
        if whole { (entry.status, content.body()) } else { selected(asked, entry, &mut fields, content) };
    let mut response = Response::new(body);
    *response.status_mut() = code;
    *response.headers_mut() = fields;
    response
}

/// What a request selects that may want less than the whole. Apart, so that the way of one that wants it all is short.
#[cold]
fn selected(asked: Asked<'_>, entry: &Entry, fields: &mut HeaderMap, content: Content) -> (StatusCode, Body) {
    // Preconditions of other methods are for whoever performs them (RFC 9111 section 4.3.2).
    let reads = matches!(*asked.method, Method::GET | Method::HEAD);
    let conditional = asked.noted.has(Field::IfNoneMatch) || asked.noted.has(Field::IfModifiedSince);
    if reads && conditional && conditional::not_modified(asked.headers, entry.status, fields) {
        conditional::make_304(fields);
        (StatusCode::NOT_MODIFIED, Body::empty())
    } else if *asked.method == Method::HEAD {
        if let Some(length) = content.length().filter(|_| entry.status != StatusCode::NO_CONTENT) {
            fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        (entry.status, Body::empty())
    } else if let Some(ranges) = ranges(asked, entry.status, fields) {
        parts(&ranges, entry, fields, content)
    } else {
        (entry.status, content.body())
    }
}

/// The ranges that a request wants of a stored response with these fields, if they apply to it.
fn ranges(asked: Asked<'_>, status: StatusCode, fields: &HeaderMap) -> Option<range::Ranges> {
    if *asked.method != Method::GET || !asked.noted.has(Field::Range) {
        return None;
    }
    range::asked(asked.headers).filter(|_| range::if_range_holds(asked.headers, status, fields))
}

/// Parts of a stored response (RFC 9110 section 15.3.7). Of one that is still coming only a single part of a known
/// length can be told; else the whole is the answer, which is always allowed (section 14.2).
fn parts(ranges: &range::Ranges, entry: &Entry, fields: &mut HeaderMap, content: Content) -> (StatusCode, Body) {
    let selected = content.length().map_or(Selected::Whole, |length| ranges.of(length));
    let length = content.length().unwrap_or_default();
    match (selected, content) {
        (Selected::Unsatisfiable, _) => {
            // Nothing of the representation's own: who stores this must not take it for that.
            let mut told = HeaderMap::new();
            for name in [DATE, AGE, CACHE_STATUS] {
                if let Some(value) = fields.get_all(&name).iter().next_back() {
                    told.insert(name, value.clone());
                }
            }
            told.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            told.insert(CONTENT_RANGE, range::unsatisfied(length));
            *fields = told;
            (StatusCode::RANGE_NOT_SATISFIABLE, Body::empty())
        }
        (Selected::One(part), content) => {
            fields.insert(CONTENT_RANGE, range::content_range(part, length));
            let body = match content {
                Content::Whole(body) => Body::full(part.slice(&body)),
                Content::Coming(reader, _) => Body::spool_part(reader, part),
            };
            (StatusCode::PARTIAL_CONTENT, body)
        }
        (Selected::Many(parts), Content::Whole(body)) => {
            let seed = foldhash::quality::RandomState::default().hash_one(entry.key());
            let several = Multipart::new(&parts, length, fields.get(CONTENT_TYPE), seed);
            fields.insert(CONTENT_TYPE, several.content_type());
            fields.remove(CONTENT_RANGE);
            (StatusCode::PARTIAL_CONTENT, Body::pieces(several.pieces(&body)))
        }
        (Selected::Whole | Selected::Many(_), content) => (entry.status, content.body()),
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
