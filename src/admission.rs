//! Who may come in: which requests the cache answers, and which responses it keeps. Pure decisions.
//!
//! RFC 9111 section 3 and the route's policy meet here. What is personal (credentials, cookies, `private`) is
//! kept only where the route or the response says so in so many words.

use http::header::{CONTENT_LENGTH, SET_COOKIE, TRAILER};
use http::{HeaderMap, Method, StatusCode};

use crate::config::{AuthorizationRule, CookieRule, OriginRule, RoutePolicy};
use crate::control::CacheControl;
use crate::freshness::{self, Lifetime};
use crate::noted::{Field, Noted};
use crate::words::{Bypass, NotStored};

/// What makes a request personal although its route gives that no part in the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Personal {
    /// It has cookies, and the route says bypass.
    pub cookie: bool,
    /// It has credentials, and the route says bypass.
    pub authorization: bool,
}

impl Personal {
    /// Whether it is personal at all.
    pub fn any(self) -> bool {
        self.cookie || self.authorization
    }

    /// The reason for which it goes past the cache.
    pub fn reason(self) -> Bypass {
        if self.authorization { Bypass::Authorization } else { Bypass::Cookie }
    }
}

/// Whether a stored response may also answer personal requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Those with cookies: `public` or `s-maxage`; under `cookies = "origin"` any explicit freshness.
    pub cookie: bool,
    /// Those with credentials: `public`, `s-maxage` or `must-revalidate` (RFC 9111 section 3.5).
    pub authorization: bool,
}

impl Sharing {
    /// Whether it may answer a request that is personal in this way.
    pub fn serves(self, who: Personal) -> bool {
        (!who.cookie || self.cookie) && (!who.authorization || self.authorization)
    }
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is looked up.
    Lookup(Personal),
    /// It goes upstream, past the cache.
    Bypass(Bypass),
    /// It goes upstream, and what it may have changed is invalidated.
    Write,
}

/// Decides what is done with a request. `has_body` says that content follows its head, announced or not.
pub fn plan(policy: &RoutePolicy, method: &Method, noted: Noted, cc: &CacheControl, has_body: bool) -> Plan {
    if !method.is_safe() {
        return Plan::Write;
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Plan::Bypass(Bypass::Method);
    }
    if !policy.cache {
        return Plan::Bypass(Bypass::Route);
    }
    if has_body {
        return Plan::Bypass(Bypass::Body);
    }
    if noted.has(Field::IfMatch) || noted.has(Field::IfUnmodifiedSince) {
        return Plan::Bypass(Bypass::Precondition);
    }
    if cc.no_store {
        return Plan::Bypass(Bypass::NoStore);
    }
    Plan::Lookup(Personal {
        cookie: matches!(policy.cookies, CookieRule::Bypass | CookieRule::Origin) && noted.has(Field::Cookie),
        authorization: policy.authorization == AuthorizationRule::Bypass && noted.has(Field::Authorization),
    })
}

/// A response that may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// How long it may be used.
    pub lifetime: Lifetime,
    /// Whom it may answer.
    pub sharing: Sharing,
    /// Whether those who waited for it may have it too. A response that must be validated before each use
    /// may not answer a second request, however close (RFC 9111 section 5.2.2.4).
    pub for_waiters: bool,
}

/// Decides whether a response to a GET is kept. `lifetime` is what [`freshness::lifetime`] said of it.
pub fn admit(
    policy: &RoutePolicy,
    who: Personal,
    status: StatusCode,
    headers: &HeaderMap,
    cc: &CacheControl,
    lifetime: Lifetime,
) -> Result<Admitted, NotStored> {
    let overrides = policy.origin == OriginRule::Override && freshness::route_ttl(policy, status).is_some();
    // A Content-Range in any other response means nothing (RFC 9110 section 14.4).
    if status == StatusCode::PARTIAL_CONTENT {
        return Err(NotStored::Partial);
    }
    if headers.contains_key(TRAILER) {
        return Err(NotStored::Trailers);
    }
    if status.is_informational() || status == StatusCode::NOT_MODIFIED {
        return Err(NotStored::Status);
    }
    if cc.must_understand && !freshness::understood(status) {
        return Err(NotStored::NotUnderstood);
    }
    if cc.private {
        return Err(NotStored::Private);
    }
    // Who understands the status may ignore the no-store beside must-understand (RFC 9111 section 5.2.2.3).
    if cc.no_store && !cc.must_understand && !overrides {
        return Err(NotStored::NoStore);
    }
    let explicit = freshness::is_explicit(headers, cc);
    let sharing = Sharing {
        cookie: cc.explicitly_shared() || (policy.cookies == CookieRule::Origin && explicit),
        authorization: cc.explicitly_shared() || cc.must_revalidate,
    };
    if who.authorization && !sharing.authorization {
        return Err(NotStored::Authorization);
    }
    // What a cookie may have steered is never shared by mere freshness: too many origins forget `private`.
    if who.cookie && !cc.explicitly_shared() {
        return Err(NotStored::Cookie);
    }
    if sets_cookie(headers, cc) && policy.cookies != CookieRule::Ignore && !sharing.cookie {
        return Err(NotStored::SetCookie);
    }
    let described = freshness::heuristically_cacheable(status)
        || explicit
        || cc.public
        || freshness::route_ttl(policy, status).is_some();
    if !described {
        return Err(NotStored::Status);
    }
    if lifetime.fresh == 0 && lifetime.while_revalidate == 0 && !has_validator(headers) {
        return Err(NotStored::NoFreshness);
    }
    if let Some(length) = content_length(headers)
        && length > policy.max_object
    {
        return Err(NotStored::TooLarge);
    }
    Ok(Admitted { lifetime, sharing, for_waiters: lifetime.fresh > 0 })
}

/// Whether a response sets a cookie, and does not say that just this field is for one client.
fn sets_cookie(headers: &HeaderMap, cc: &CacheControl) -> bool {
    headers.contains_key(SET_COOKIE) && !cc.withheld.contains(&SET_COOKIE)
}

/// Whether a response can be revalidated.
pub fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(http::header::ETAG) || headers.contains_key(http::header::LAST_MODIFIED)
}

/// The length that a message announces, in bytes.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut h = HeaderMap::new();
        for (n, v) in lines {
            h.append(*n, v.parse().unwrap());
        }
        h
    }
    fn ttl_route() -> RoutePolicy {
        let ttl = Some(Duration::from_secs(60));
        RoutePolicy { ttl, cookies: CookieRule::Bypass, ..RoutePolicy::default_route() }
    }
    fn admitted(
        p: &RoutePolicy,
        who: Personal,
        status: u16,
        lines: &[(&'static str, &str)],
    ) -> Result<Admitted, NotStored> {
        let h = headers(lines);
        let cc = CacheControl::of_response(&h, &[]);
        let status = StatusCode::from_u16(status).unwrap();
        let l = freshness::lifetime(p, status, &h, &cc, crate::clock::Timestamp(0), 0.0);
        admit(p, who, status, &h, &cc, l)
    }
    fn planned(p: &RoutePolicy, method: &Method, lines: &[(&'static str, &str)]) -> Plan {
        let h = headers(lines);
        plan(p, method, Noted::of(&h), &CacheControl::of_request(&h), h.get(CONTENT_LENGTH).is_some_and(|l| l != "0"))
    }

    #[test]
    fn what_is_done_with_a_request() {
        let p = ttl_route();
        assert_eq!(planned(&p, &Method::GET, &[]), Plan::Lookup(Personal::default()));
        assert_eq!(planned(&p, &Method::HEAD, &[("content-length", "0")]), Plan::Lookup(Personal::default()));
        assert_eq!(planned(&p, &Method::GET, &[("content-length", "3")]), Plan::Bypass(Bypass::Body));
        assert_eq!(planned(&p, &Method::GET, &[("range", "bytes=0-1")]), Plan::Lookup(Personal::default()));
        assert_eq!(planned(&p, &Method::GET, &[("cache-control", "no-store")]), Plan::Bypass(Bypass::NoStore));
        assert_eq!(planned(&p, &Method::OPTIONS, &[]), Plan::Bypass(Bypass::Method));
        for write in ["POST", "PUT", "PATCH", "DELETE", "UNHEARD-OF"] {
            assert_eq!(planned(&p, &write.parse().unwrap(), &[]), Plan::Write, "{write}");
        }
        let off = RoutePolicy { cache: false, ..ttl_route() };
        assert_eq!(planned(&off, &Method::GET, &[]), Plan::Bypass(Bypass::Route));
        assert_eq!(planned(&off, &Method::POST, &[]), Plan::Write);
        let cookie = planned(&p, &Method::GET, &[("cookie", "a=b")]);
        assert_eq!(cookie, Plan::Lookup(Personal { cookie: true, authorization: false }));
        let ignoring = RoutePolicy { cookies: CookieRule::Ignore, ..ttl_route() };
        assert_eq!(planned(&ignoring, &Method::GET, &[("cookie", "a=b")]), Plan::Lookup(Personal::default()));
    }

    #[test]
    fn what_is_personal_is_stored_only_where_the_response_allows_it() {
        let p = ttl_route();
        let auth = Personal { authorization: true, cookie: false };
        let cookie = Personal { cookie: true, authorization: false };
        assert_eq!(admitted(&p, auth, 200, &[]), Err(NotStored::Authorization));
        assert_eq!(admitted(&p, cookie, 200, &[]), Err(NotStored::Cookie));
        for allows in ["public, max-age=5", "s-maxage=5"] {
            assert!(admitted(&p, auth, 200, &[("cache-control", allows)]).is_ok(), "{allows}");
            assert!(admitted(&p, cookie, 200, &[("cache-control", allows)]).is_ok(), "{allows}");
        }
        let must = [("cache-control", "max-age=5, must-revalidate")];
        assert!(admitted(&p, auth, 200, &must).is_ok());
        assert_eq!(admitted(&p, cookie, 200, &must), Err(NotStored::Cookie));
    }

    #[test]
    fn cookies_origin_shares_what_was_fetched_without_cookies_and_has_explicit_freshness_rfc_9111_section_7_3() {
        let p = RoutePolicy::default_route();
        let cookie = Personal { cookie: true, authorization: false };
        let set = ("set-cookie", "a=b");
        for explicit in [("cache-control", "max-age=5"), ("expires", "Sun, 06 Nov 2044 08:49:37 GMT")] {
            assert!(admitted(&p, Personal::default(), 200, &[explicit, set]).is_ok(), "{explicit:?}");
            assert!(admitted(&p, Personal::default(), 200, &[explicit]).unwrap().sharing.cookie);
            assert_eq!(admitted(&p, cookie, 200, &[explicit]), Err(NotStored::Cookie), "it may be personal");
        }
        let guessed = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(admitted(&p, Personal::default(), 200, &[guessed, set]), Err(NotStored::SetCookie));
        assert_eq!(admitted(&p, cookie, 200, &[guessed]), Err(NotStored::Cookie));
        assert_eq!(admitted(&p, cookie, 200, &[("cache-control", "private, max-age=5")]), Err(NotStored::Private));
    }

    #[test]
    fn a_set_cookie_that_is_for_one_client_does_not_keep_the_rest_from_being_shared() {
        let only = [("cache-control", "max-age=5, private=\"set-cookie\""), ("set-cookie", "a=b")];
        assert!(admitted(&ttl_route(), Personal::default(), 200, &only).is_ok());
    }

    #[test]
    fn must_understand_overrules_no_store_for_a_status_that_is_understood_section_5_2_2_3() {
        let p = RoutePolicy::default_route();
        let must = [("cache-control", "max-age=5, no-store, must-understand")];
        assert!(admitted(&p, Personal::default(), 200, &must).is_ok());
        assert_eq!(admitted(&p, Personal::default(), 599, &must), Err(NotStored::NotUnderstood));
        let plain = [("cache-control", "max-age=5")];
        assert!(admitted(&p, Personal::default(), 599, &plain).is_ok(), "explicit freshness is enough without it");
    }

    #[test]
    fn responses_that_forbid_it_are_not_stored() {
        let nobody = Personal::default();
        for (p, status, lines, want) in [
            (ttl_route(), 200, vec![("cache-control", "private, max-age=9")], NotStored::Private),
            (ttl_route(), 200, vec![("cache-control", "no-store")], NotStored::NoStore),
            (ttl_route(), 200, vec![("set-cookie", "a=b")], NotStored::SetCookie),
            (ttl_route(), 206, vec![], NotStored::Partial),
            (ttl_route(), 500, vec![], NotStored::Status),
            (ttl_route(), 200, vec![("content-length", "99999999")], NotStored::TooLarge),
            (RoutePolicy::default_route(), 200, vec![], NotStored::NoFreshness),
        ] {
            assert_eq!(admitted(&p, nobody, status, &lines), Err(want), "{lines:?}");
        }
    }

    #[test]
    fn override_wins_over_no_store_but_never_over_private() {
        let p = RoutePolicy { origin: OriginRule::Override, ..ttl_route() };
        let nobody = Personal::default();
        let got = admitted(&p, nobody, 200, &[("cache-control", "no-cache, no-store, max-age=0")]).unwrap();
        assert_eq!(got.lifetime.fresh, 60_000);
        let private = admitted(&p, nobody, 200, &[("cache-control", "private")]);
        assert_eq!(private, Err(NotStored::Private));
    }

    #[test]
    fn what_must_be_validated_each_time_is_kept_but_not_for_those_who_waited() {
        let got = admitted(&ttl_route(), Personal::default(), 200, &[("cache-control", "no-cache"), ("etag", "\"a\"")]);
        assert!(!got.unwrap().for_waiters);
    }

    #[test]
    fn an_unusual_status_is_stored_when_the_route_gives_it_a_lifetime() {
        let p = RoutePolicy { ttl_by_status: vec![(503, Duration::from_secs(1))], ..ttl_route() };
        assert!(admitted(&p, Personal::default(), 503, &[]).is_ok());
        assert_eq!(admitted(&p, Personal::default(), 502, &[]), Err(NotStored::Status));
    }
}
