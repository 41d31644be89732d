//! A stored response, and what may be done with it now.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bytes::Bytes;
use http::header::{AGE, CONNECTION, CONTENT_LENGTH, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sfv::{BareItem, Item, List, ListEntry, Parser};
use smallvec::SmallVec;

use crate::admission::{Personal, Sharing};
use crate::clock::{Timestamp, millis};
use crate::config::{Coherence, CookieRule, RoutePolicy};
use crate::content::Content;
use crate::control::{CacheControl, split_list};
use crate::freshness::{self, Fallback, LONGEST_LIFE, Lifetime, Spans, State};
use crate::invalidation::log::{InvalidationLog, Stamp};
use crate::invalidation::table::Standing;
use crate::invalidation::{TagId, TagKind, path_ids};
use crate::key;
use crate::vary::Variants;
use crate::words::{NotStored, words};

/// A response with more tags than this is not stored: dropping one would make it outlive an invalidation.
pub const MAX_TAGS: usize = 128;

/// One stored response.
#[derive(Debug)]
pub struct Entry {
    /// The length of the part of the key that an invalidation by key names.
    pub base: u32,
    /// The route's index.
    pub route: u32,
    /// Its status.
    pub status: StatusCode,
    /// Its fields and body, with its key, path and tags.
    pub content: Content,
    /// Its age is `now - birth`.
    pub birth: Timestamp,
    /// When this process took it in.
    pub kept: Timestamp,
    /// How long it may be used.
    pub spans: Spans,
    /// Whom it may answer.
    pub sharing: Sharing,
    /// Where it stands in the invalidation log.
    pub stamp: Stamp,
    /// What the fetch took, in milliseconds: what a hit saves.
    pub cost: u32,
    /// How often it answered from memory.
    pub hits: AtomicU32,
}

impl Entry {
    /// The same entry with other content.
    pub fn with(&self, content: Content) -> Entry {
        Entry {
            base: self.base,
            route: self.route,
            status: self.status,
            content,
            birth: self.birth,
            kept: self.kept,
            spans: self.spans,
            sharing: self.sharing,
            stamp: Stamp::new(self.stamp.as_of),
            cost: self.cost,
            hits: AtomicU32::new(0),
        }
    }

    /// The whole key, with the variant's part.
    pub fn key(&self) -> &str {
        self.content.key()
    }

    /// How long it may be used.
    pub fn lifetime(&self) -> Lifetime {
        self.spans.into()
    }

    /// The same entry with this body.
    pub fn with_body(&self, body: Bytes) -> Entry {
        self.with(self.content.with_body(body))
    }

    /// The same entry with the body that came in these chunks, which is copied.
    pub fn with_chunks(&self, chunks: &VecDeque<Bytes>) -> Entry {
        self.with(self.content.with_chunks(chunks))
    }

    /// Whether it still stands, by the log.
    pub fn standing(&self, log: &InvalidationLog) -> Standing {
        log.standing(&self.stamp, || self.tag_ids())
    }

    /// All that it is invalidated by. They are hashed anew each time: they are asked for when the log has changed.
    pub fn tag_ids(&self) -> impl Iterator<Item = TagId> + '_ {
        let of_tag = |name: &str| TagId::of(TagKind::Tag, name.as_bytes());
        let names = self.content.tags().lines().map(of_tag);
        ids_of(self.key(), self.base as usize, self.content.path()).chain(names)
    }
}

/// What stands under a key.
#[derive(Clone, Debug)]
pub enum Stored {
    /// A response.
    Entry(Arc<Entry>),
    /// Responses that vary: look again with these fields.
    Variants(Arc<Variants>),
    /// The last response was not storable: until then requests do not wait for each other (hit-for-miss).
    Pass {
        /// When the marker ends.
        until: Timestamp,
    },
}

words! {
    /// Why a stored response did not answer by itself.
    Refused {
        /// An invalidation named it.
        Invalidated => "invalidated",
        /// Its time is over.
        Stale => "stale",
        /// A soft invalidation made it stale.
        SoftPurged => "soft_purged",
        /// The request asked for validation.
        Request => "request",
        /// The request is personal and the response does not say that it may be shared.
        Personal => "personal",
        /// The route is strict and Redis has not been heard for too long.
        Untrusted => "untrusted",
    }
}

/// What is done with a stored response for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answers; fresh for so many more milliseconds.
    Fresh {
        /// Milliseconds of freshness left.
        left: u64,
    },
    /// It answers although stale, and is fetched anew behind the client's back.
    WhileRevalidate {
        /// Milliseconds since it went stale.
        by: u64,
    },
    /// It answers although stale, because the client takes it so (max-stale, RFC 9111 section 5.2.1.2).
    Accepted {
        /// Milliseconds since it went stale.
        by: u64,
    },
    /// It does not answer before upstream was asked; it may serve for a conditional request, and in upstream's
    /// place as `fallback` says.
    Validate {
        /// Why.
        why: Refused,
        /// When it may be served in upstream's place.
        fallback: Fallback,
    },
    /// It must not be used at all.
    Unusable(Refused),
}

impl Verdict {
    /// Milliseconds of freshness left to what answers; 0 or less when it is stale.
    pub fn left(self) -> i64 {
        match self {
            Verdict::Fresh { left } => i64::try_from(left).unwrap_or(i64::MAX),
            Verdict::WhileRevalidate { by } | Verdict::Accepted { by } => -i64::try_from(by).unwrap_or(i64::MAX),
            Verdict::Validate { .. } | Verdict::Unusable(_) => 0,
        }
    }

    /// Whether it may answer where upstream failed in a way that needs this much.
    pub fn stands_in(self, needed: Fallback) -> bool {
        match self {
            Verdict::WhileRevalidate { .. } => true,
            Verdict::Validate { why: Refused::Stale | Refused::SoftPurged, fallback } => fallback >= needed,
            _ => false,
        }
    }
}

/// Judges a stored response for a request. `trusted` says whether this instance is sure of its invalidations.
pub fn judge(
    entry: &Entry,
    policy: &RoutePolicy,
    who: Personal,
    request: &CacheControl,
    standing: Standing,
    trusted: bool,
    now: Timestamp,
) -> Verdict {
    if standing == Standing::Invalid {
        return Verdict::Unusable(Refused::Invalidated);
    }
    if !entry.sharing.serves(who) {
        return Verdict::Unusable(Refused::Personal);
    }
    // A soft invalidation ends the freshness, as if it had just run out.
    let whole = entry.lifetime();
    let fresh_till_now = Lifetime { fresh: 0, ..whole };
    let (birth, lifetime) = match (standing, freshness::state(entry.birth, &whole, now)) {
        (Standing::Soft, State::Fresh { .. }) => (now, &fresh_till_now),
        _ => (entry.birth, &whole),
    };
    let state = freshness::state(birth, lifetime, now);
    if !trusted && policy.coherence == Coherence::Strict {
        return Verdict::Validate { why: Refused::Untrusted, fallback: Fallback::Never };
    }
    let fallback = if accepts_stale_for_an_error(request, lifetime, state) {
        Fallback::AnyError
    } else {
        freshness::fallback(birth, lifetime, now)
    };
    let wanted = !request.no_cache && acceptable_age(entry, request, state, now);
    let stale = if standing == Standing::Soft { Refused::SoftPurged } else { Refused::Stale };
    match state {
        State::Fresh { left } if wanted => Verdict::Fresh { left },
        State::Fresh { .. } => Verdict::Validate { why: Refused::Request, fallback },
        // Who says max-age without max-stale wants nothing that is stale (RFC 9111 section 5.2.1.1).
        State::WhileRevalidate { by } if wanted && (request.max_age.is_none() || request.max_stale.is_some()) => {
            Verdict::WhileRevalidate { by }
        }
        State::Stale { by } if wanted && standing != Standing::Soft && accepts_stale(request, lifetime, by) => {
            Verdict::Accepted { by }
        }
        State::WhileRevalidate { .. } | State::Stale { .. } => Verdict::Validate { why: stale, fallback },
    }
}

/// The request's max-age and min-fresh (RFC 9111 section 5.2.1).
fn acceptable_age(entry: &Entry, request: &CacheControl, state: State, now: Timestamp) -> bool {
    let young = request.max_age.is_none_or(|s| now.since(entry.birth) <= s.saturating_mul(1000));
    let left = if let State::Fresh { left } = state { left } else { 0 };
    young && request.min_fresh.is_none_or(|s| left >= s.saturating_mul(1000))
}

/// The request's max-stale, unless the response forbids to be used stale (RFC 9111 section 4.2.4).
fn accepts_stale(request: &CacheControl, lifetime: &Lifetime, by: u64) -> bool {
    let allowed = request.max_stale.is_some_and(|most| most.is_none_or(|s| by <= s.saturating_mul(1000)));
    allowed && !lifetime.must_revalidate && by.saturating_add(lifetime.fresh) < millis(LONGEST_LIFE)
}

/// The request's stale-if-error (RFC 5861 section 4), unless the response forbids to be used stale.
fn accepts_stale_for_an_error(request: &CacheControl, lifetime: &Lifetime, state: State) -> bool {
    let (State::WhileRevalidate { by } | State::Stale { by }) = state else { return false };
    let allowed = request.stale_if_error.is_some_and(|s| by < s.saturating_mul(1000));
    allowed && !lifetime.must_revalidate && by.saturating_add(lifetime.fresh) < millis(LONGEST_LIFE)
}

/// What every entry is invalidated by: its key, with its base and without what it varies by, its path and the path's
/// segments.
fn ids_of<'e>(key: &'e str, base: usize, path: &'e str) -> impl Iterator<Item = TagId> + 'e {
    let primary = Some(key::without_variant(key)).filter(|primary| *primary != key);
    let base = key.get(..base).filter(|base| *base != key);
    let of_key = |key: &str| TagId::of(TagKind::Key, key.as_bytes());
    [Some(key), primary, base].into_iter().flatten().map(of_key).chain(path_ids(path))
}

/// The ids and names of an entry's tags.
#[derive(Clone, Debug, Default)]
pub struct Tags {
    /// Each once.
    pub ids: SmallVec<[TagId; 12]>,
    /// Each followed by a line feed.
    pub names: String,
}

impl Tags {
    /// What is known of the tags before the response is: the key, its base, the path with its prefixes, and
    /// the route's templates.
    pub fn of_request(policy: &RoutePolicy, key: &str, base: usize, path: &str, params: &[&str]) -> Tags {
        let mut tags = Tags::default();
        tags.ids.extend(ids_of(key, base, path));
        let mut name = String::new();
        for template in &policy.tags {
            name.clear();
            template.render(params, &mut name);
            tags.add(&name);
        }
        tags
    }

    /// Adds the tags that a response carries in `Surrogate-Key` (separated by spaces), `Cache-Tag` (separated by
    /// commas) and `Cache-Groups`, whose groups are of `origin` (RFC 9875 section 2.1).
    pub fn add_response(&mut self, response: &HeaderMap, origin: &str) -> Result<(), NotStored> {
        let before = self.ids.len();
        for line in response.get_all("surrogate-key") {
            for name in line.as_bytes().split(|b| b.is_ascii_whitespace()).filter(|n| !n.is_empty()) {
                self.add(&String::from_utf8_lossy(name));
            }
        }
        for line in response.get_all("cache-tag") {
            for name in split_list(line.as_bytes()) {
                self.add(&String::from_utf8_lossy(name));
            }
        }
        for group in cache_groups(response, &CACHE_GROUPS) {
            self.add(&group_tag(origin, &group));
        }
        if self.ids.len() - before > MAX_TAGS { Err(NotStored::TooManyTags) } else { Ok(()) }
    }

    /// Adds a tag by name.
    pub fn add(&mut self, name: &str) {
        let id = TagId::of(TagKind::Tag, name.as_bytes());
        if !self.ids.contains(&id) {
            self.ids.push(id);
            self.names.push_str(name);
            self.names.push('\n');
        }
    }
}

/// Which groups a response belongs to (RFC 9875 section 2).
pub const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");
/// Which groups a response to an unsafe request invalidates (RFC 9875 section 3).
pub const CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// The groups in a field: a list of strings (RFC 9651). A list that can't be parsed names none, and a member that is
/// no string is ignored.
pub fn cache_groups(response: &HeaderMap, name: &HeaderName) -> Vec<String> {
    if !response.contains_key(name) {
        return Vec::new();
    }
    let lines: Vec<&[u8]> = response.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let members = Parser::new(&lines.join(&b","[..])).parse::<List>().unwrap_or_default();
    let group = |member: ListEntry| match member {
        ListEntry::Item(Item { bare_item: BareItem::String(group), .. }) => Some(group.as_str().to_owned()),
        _ => None,
    };
    members.into_iter().filter_map(group).collect()
}

/// A group as a tag: of an origin, that is of a host, and of no host where the route's keys have none.
pub fn group_tag(origin: &str, group: &str) -> String {
    format!("cache-group:{origin}:{group}")
}

/// Fields that belong to one connection (RFC 9110 section 7.6.1), beside those that `Connection` names. Trailer is
/// none of them (section 6.6.2): without it nobody behind would know which trailers to expect.
pub static HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authentication-info"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Fields that are for the proxy that asked alone (RFC 9111 section 3.1).
const FOR_A_PROXY: [HeaderName; 2] = [http::header::PROXY_AUTHENTICATE, http::header::PROXY_AUTHORIZATION];

/// The fields that are stored of a response whose hop-by-hop fields are gone already (RFC 9111 section 3.1): not
/// those that are for a proxy, nor those that a qualified `no-cache` or `private` withholds, no Age, which is
/// computed anew, and no Content-Length, which the body says. Set-Cookie only where the origin alone decides about
/// cookies: else it is one client's.
pub fn stored_fields(response: &HeaderMap, control: &CacheControl, cookies: &CookieRule) -> HeaderMap {
    let dropped = |name: &HeaderName| {
        *name == AGE
            || *name == CONTENT_LENGTH
            || (*name == SET_COOKIE && *cookies != CookieRule::Origin)
            || FOR_A_PROXY.contains(name)
            || control.withheld.contains(name)
    };
    let mut own = HeaderMap::with_capacity(response.len());
    for (name, value) in response.iter().filter(|(name, _)| !dropped(name)) {
        own.append(name.clone(), value.clone());
    }
    own
}

/// The fields as the request that asked for the response gets them, where that are more than are `stored`: what is
/// withheld from others, what is for a proxy, and the Age of the message that came last. A cookie that is not stored
/// goes to who asked, too, unless the route says that cookies mean nothing.
pub fn own_fields(
    stored: &HeaderMap,
    response: &HeaderMap,
    latest: &HeaderMap,
    control: &CacheControl,
    cookies: &CookieRule,
) -> Option<HeaderMap> {
    let own = |name: &HeaderName| {
        FOR_A_PROXY.contains(name)
            || control.withheld.contains(name)
            || (*name == SET_COOKIE && *cookies == CookieRule::Bypass)
    };
    if !response.keys().any(own) && !latest.contains_key(AGE) {
        return None;
    }
    let mut fields = stored.clone();
    for (name, value) in response.iter().filter(|(name, _)| own(name) && !stored.contains_key(*name)) {
        fields.append(name.clone(), value.clone());
    }
    if let Some(age) = latest.get(AGE) {
        fields.insert(AGE, age.clone());
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Names;
    use crate::invalidation::position::Position;
    use std::time::Duration;

    fn entry(fresh: u64, swr: u64, sie: u64) -> Entry {
        Entry {
            base: 1,
            route: 0,
            status: StatusCode::OK,
            content: Content::new(Names { key: "k", path: "/", ..Names::default() }, &HeaderMap::new(), Bytes::new()),
            birth: Timestamp(10_000),
            kept: Timestamp(10_000),
            spans: Lifetime { fresh, while_revalidate: swr, if_error: sie, ..Lifetime::default() }.into(),
            sharing: Sharing::default(),
            stamp: Stamp::new(Position::default()),
            cost: 0,
            hits: AtomicU32::new(0),
        }
    }
    fn verdict(e: &Entry, request: &str, standing: Standing, after: u64) -> Verdict {
        let mut h = HeaderMap::new();
        h.insert(http::header::CACHE_CONTROL, request.parse().unwrap());
        let cc = CacheControl::of_request(&h);
        judge(e, &RoutePolicy::default_route(), Personal::default(), &cc, standing, true, Timestamp(10_000 + after))
    }

    #[test]
    fn age_and_standing_decide() {
        let e = entry(1000, 500, 5000);
        assert_eq!(verdict(&e, "", Standing::Valid, 400), Verdict::Fresh { left: 600 });
        assert_eq!(verdict(&e, "", Standing::Valid, 1200), Verdict::WhileRevalidate { by: 200 });
        assert_eq!(
            verdict(&e, "", Standing::Valid, 1700),
            Verdict::Validate { why: Refused::Stale, fallback: Fallback::AnyError }
        );
        assert_eq!(verdict(&e, "", Standing::Invalid, 0), Verdict::Unusable(Refused::Invalidated));
        assert_eq!(verdict(&e, "", Standing::Soft, 400), Verdict::WhileRevalidate { by: 0 });
        let plain = entry(1000, 0, 0);
        let soft = Verdict::Validate { why: Refused::SoftPurged, fallback: Fallback::Never };
        assert_eq!(verdict(&plain, "", Standing::Soft, 400), soft);
    }

    #[test]
    fn the_requests_own_directives_are_heard() {
        let e = entry(10_000, 0, 0);
        let refused = Verdict::Validate { why: Refused::Request, fallback: Fallback::Never };
        assert_eq!(verdict(&e, "no-cache", Standing::Valid, 0), refused);
        assert_eq!(verdict(&e, "max-age=1", Standing::Valid, 2000), refused);
        assert_eq!(verdict(&e, "min-fresh=9", Standing::Valid, 2000), refused);
        assert_eq!(verdict(&e, "min-fresh=8, max-age=2", Standing::Valid, 2000), Verdict::Fresh { left: 8000 });
    }

    #[test]
    fn a_request_refuses_what_is_stale_by_its_max_age_and_takes_it_for_an_error_when_it_says_so() {
        let mut e = entry(1000, 5000, 0);
        let stale = |fallback| Verdict::Validate { why: Refused::Stale, fallback };
        assert_eq!(verdict(&e, "", Standing::Valid, 2000), Verdict::WhileRevalidate { by: 1000 });
        assert_eq!(verdict(&e, "max-age=9", Standing::Valid, 2000), stale(Fallback::Never));
        assert_eq!(verdict(&e, "max-age=9, max-stale", Standing::Valid, 2000), Verdict::WhileRevalidate { by: 1000 });
        assert_eq!(verdict(&e, "no-cache", Standing::Valid, 2000), stale(Fallback::Never), "there is no fresh one");
        assert_eq!(verdict(&e, "stale-if-error=9", Standing::Valid, 9999), stale(Fallback::AnyError));
        assert_eq!(verdict(&e, "stale-if-error=9", Standing::Valid, 10_000), stale(Fallback::Never));
        e.spans = Lifetime { must_revalidate: true, ..e.lifetime() }.into();
        assert_eq!(verdict(&e, "stale-if-error=9", Standing::Valid, 9999), stale(Fallback::Never));
    }

    #[test]
    fn who_takes_stale_responses_gets_them_unless_that_is_forbidden_section_5_2_1_2() {
        let mut e = entry(10_000, 0, 0);
        let stale = Verdict::Validate { why: Refused::Stale, fallback: Fallback::Never };
        assert_eq!(verdict(&e, "max-stale", Standing::Valid, 50_000), Verdict::Accepted { by: 40_000 });
        assert_eq!(verdict(&e, "max-stale=5", Standing::Valid, 15_000), Verdict::Accepted { by: 5000 });
        assert_eq!(verdict(&e, "max-stale=5", Standing::Valid, 15_001), stale);
        assert_eq!(verdict(&e, "max-stale=5", Standing::Valid, 5000), Verdict::Fresh { left: 5000 });
        assert!(matches!(verdict(&e, "max-stale", Standing::Soft, 50_000), Verdict::Validate { .. }));
        assert!(matches!(verdict(&e, "max-stale", Standing::Invalid, 50_000), Verdict::Unusable(_)));
        e.spans = Lifetime { must_revalidate: true, ..e.lifetime() }.into();
        assert_eq!(verdict(&e, "max-stale", Standing::Valid, 15_000), stale);
    }

    #[test]
    fn a_strict_route_serves_nothing_while_invalidations_may_be_missing() {
        let e = entry(10_000, 0, 10_000);
        let strict = RoutePolicy { coherence: Coherence::Strict, ..RoutePolicy::default_route() };
        let at = |policy: &RoutePolicy, trusted| {
            let cc = CacheControl::default();
            judge(&e, policy, Personal::default(), &cc, Standing::Valid, trusted, Timestamp(10_000))
        };
        assert_eq!(at(&strict, false), Verdict::Validate { why: Refused::Untrusted, fallback: Fallback::Never });
        assert!(matches!(at(&strict, true), Verdict::Fresh { .. }));
        assert!(matches!(at(&RoutePolicy::default_route(), false), Verdict::Fresh { .. }));
    }

    #[test]
    fn stored_fields_leave_out_what_section_3_1_excepts_and_keep_the_rest_as_it_was() {
        let mut h = HeaderMap::new();
        for (name, value) in [
            ("x-a", "1"),
            ("set-cookie", "s"),
            ("x-a", "2"),
            ("age", "9"),
            ("content-length", "3"),
            ("x-b", ""),
            ("proxy-authenticate", "Basic"),
            ("proxy-authorization", "x"),
            ("x-mine", "1"),
            ("cache-control", "max-age=1, private=\"x-mine\""),
        ] {
            h.append(name, value.parse().unwrap());
        }
        let cc = CacheControl::of_response(&h, &[]);
        let got = stored_fields(&h, &cc, &CookieRule::Bypass);
        assert_eq!(got.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!((got.len(), &got["x-b"]), (4, &HeaderValue::from_static("")));
        assert!(stored_fields(&h, &cc, &CookieRule::Origin).contains_key("set-cookie"));
    }

    #[test]
    fn who_asked_gets_the_fields_too_that_are_not_stored_section_5_2_2_7() {
        let of = |fields: &[(&'static str, &str)], cookies: &CookieRule| {
            let mut h = HeaderMap::new();
            for (name, value) in fields {
                h.append(*name, value.parse().unwrap());
            }
            let cc = CacheControl::of_response(&h, &[]);
            own_fields(&stored_fields(&h, &cc, cookies), &h, &h, &cc, cookies)
        };
        let withheld = [("cache-control", "private=\"x-mine\""), ("x-mine", "1"), ("x-mine", "2"), ("x-a", "3")];
        let got = of(&withheld, &CookieRule::Origin).unwrap();
        assert_eq!((got.get_all("x-mine").iter().count(), got.len()), (2, 4));
        assert_eq!(of(&[("x-a", "1"), ("content-length", "3")], &CookieRule::Bypass), None);
        assert!(of(&[("set-cookie", "a=b")], &CookieRule::Bypass).unwrap().contains_key("set-cookie"));
        assert_eq!(of(&[("set-cookie", "a=b")], &CookieRule::Ignore), None);
        assert_eq!(of(&[("age", "7")], &CookieRule::Origin).unwrap()["age"], "7");
    }

    #[test]
    fn tags_come_from_key_path_route_and_response() {
        let mut policy = RoutePolicy { ttl: Some(Duration::from_secs(1)), ..RoutePolicy::default_route() };
        policy.tags = vec![crate::template::Template::parse("user:{id}", &["id".to_string()]).unwrap()];
        let mut tags = Tags::of_request(&policy, "user:1?a=b", 6, "/users/1", &["1"]);
        let mut response = HeaderMap::new();
        response.append("surrogate-key", "a  b".parse().unwrap());
        response.append("cache-tag", "b, c d".parse().unwrap());
        response.append("cache-groups", "\"g 1\";x=1, token".parse().unwrap());
        response.append("cache-groups", "\"g2\"".parse().unwrap());
        tags.add_response(&response, "h").unwrap();
        assert_eq!(tags.names, "user:1\na\nb\nc d\ncache-group:h:g 1\ncache-group:h:g2\n");
        for (kind, name) in [(TagKind::Key, "user:1"), (TagKind::Key, "user:1?a=b"), (TagKind::Prefix, "/users")] {
            assert!(tags.ids.contains(&TagId::of(kind, name.as_bytes())), "{name}");
        }
        response.append("cache-tag", (0..200).map(|n| format!("t{n}")).collect::<Vec<_>>().join(",").parse().unwrap());
        assert_eq!(Tags::default().add_response(&response, "h"), Err(NotStored::TooManyTags));
    }
}
