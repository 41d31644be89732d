//! How long a response is fresh, how old it is, and what may be done with it now: RFC 9111 section 4.2, the
//! stale windows of RFC 5861, and the route's policy, which meet here and nowhere else.
//!
//! All functions are pure; times are milliseconds.

use std::time::Duration;

use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};

use crate::clock::{Timestamp, millis};
use crate::config::{OriginRule, RoutePolicy};
use crate::control::{CacheControl, delta_seconds};

/// No stored response is used when older than this, whatever its origin says: invalidations are remembered
/// for as long, so that forgetting one can never resurrect what it killed.
pub const LONGEST_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The cap of heuristic freshness (RFC 9111 section 4.2.2 suggests a tenth of the time since Last-Modified).
const LONGEST_HEURISTIC: Duration = Duration::from_secs(24 * 3600);

/// How long a response may be used, counted from its birth (see [`birth`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// Fresh for so many milliseconds.
    pub fresh: u64,
    /// After that, usable while it is being revalidated (RFC 5861 section 3), in milliseconds.
    pub while_revalidate: u64,
    /// After that, usable when upstream fails (RFC 5861 section 4), in milliseconds.
    pub if_error: u64,
    /// After that, usable when upstream can't be reached at all (RFC 9111 section 4.2.4: disconnected), in
    /// milliseconds.
    pub if_unreachable: u64,
    /// Never used stale, whatever else is said (must-revalidate, proxy-revalidate, s-maxage).
    pub must_revalidate: bool,
}

/// A lifetime as an entry keeps it: nothing lives longer than 2^32 ms ([`LONGEST_LIFE`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    fresh: u32,
    while_revalidate: u32,
    if_error: u32,
    if_unreachable: u32,
    must_revalidate: bool,
}

impl From<Lifetime> for Spans {
    fn from(l: Lifetime) -> Spans {
        let span = |ms| u32::try_from(ms).unwrap_or(u32::MAX);
        Spans {
            fresh: span(l.fresh),
            while_revalidate: span(l.while_revalidate),
            if_error: span(l.if_error),
            if_unreachable: span(l.if_unreachable),
            must_revalidate: l.must_revalidate,
        }
    }
}

impl From<Spans> for Lifetime {
    fn from(s: Spans) -> Lifetime {
        Lifetime {
            fresh: s.fresh.into(),
            while_revalidate: s.while_revalidate.into(),
            if_error: s.if_error.into(),
            if_unreachable: s.if_unreachable.into(),
            must_revalidate: s.must_revalidate,
        }
    }
}

impl Lifetime {
    /// Milliseconds after its birth from which on nothing can be made of the response but a conditional
    /// request.
    pub fn whole(&self) -> u64 {
        let stale = self.while_revalidate.max(self.if_error).max(self.if_unreachable);
        self.fresh.saturating_add(stale).min(millis(LONGEST_LIFE))
    }
}

/// When the response was generated or last validated, by its Date, its Age and how long the request took (RFC 9111
/// section 4.2.3, the more conservative corrected_initial_age): its current age is `now - birth`.
pub fn birth(headers: &HeaderMap, requested: Timestamp, responded: Timestamp) -> Timestamp {
    let date = headers.get(DATE).and_then(|d| http_date(d.as_bytes()));
    // Below a second it is the date's own granularity.
    let apparent = date.map_or(0, |d| responded.since(d)) / 1000 * 1000;
    let age = headers.get(AGE).and_then(|a| first_age(a.as_bytes())).unwrap_or(0).saturating_mul(1000);
    let corrected = age.saturating_add(responded.since(requested));
    Timestamp(responded.0.saturating_sub(apparent.max(corrected)))
}

/// The first member of the first line counts, others are discarded; what is no number is ignored (RFC 9111
/// section 5.1).
fn first_age(value: &[u8]) -> Option<u64> {
    crate::control::split_list(value).next().and_then(delta_seconds)
}

/// The instant of an HTTP-date in any of its three forms (RFC 9110 section 5.6.7), whatever its case (RFC 9111
/// section 4.2).
pub fn http_date(value: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(value).ok()?;
    let parsed = httpdate::parse_http_date(text).or_else(|error| {
        // Rarely needed, so not done for every date.
        let usual = in_usual_case(text);
        if usual == text { Err(error) } else { httpdate::parse_http_date(&usual) }
    });
    parsed.ok().map(Timestamp::from_system)
}

/// `SUN, 06 nov 1994 08:49:37 gmt` as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn in_usual_case(date: &str) -> String {
    let mut after_letter = false;
    let cased = date.chars().map(|c| {
        let c = if after_letter { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() };
        after_letter = c.is_ascii_alphabetic();
        c
    });
    let text: String = cased.collect();
    text.strip_suffix("Gmt").map(|rest| format!("{rest}GMT")).unwrap_or(text)
}

/// The lifetime of a response under a route's policy. `roll` in `[0, 1)` spreads lifetimes by the route's
/// `ttl_jitter`. What the origin says explicitly wins under `respect`, the smaller under `cap`, the route's
/// `ttl` under `override`.
pub fn lifetime(
    policy: &RoutePolicy,
    status: StatusCode,
    headers: &HeaderMap,
    cc: &CacheControl,
    received: Timestamp,
    roll: f64,
) -> Lifetime {
    let route = route_ttl(policy, status);
    let origin = explicit(headers, cc, received);
    let fresh = match (policy.origin, origin, route) {
        (OriginRule::Override, _, Some(ttl)) => ttl,
        (OriginRule::Cap, Some(own), Some(ttl)) => own.min(ttl),
        (_, Some(own), _) => own,
        (_, None, Some(ttl)) => ttl,
        (_, None, None) => heuristic(status, headers, cc, received),
    };
    let fresh = if cc.no_cache && policy.origin != OriginRule::Override { 0 } else { fresh };
    let origin_counts = policy.origin != OriginRule::Override;
    let must_revalidate =
        origin_counts && (cc.must_revalidate || cc.proxy_revalidate || cc.s_maxage.is_some() || cc.no_cache);
    let window = |origin: Option<u64>, route: Option<Duration>| match (origin, route) {
        (Some(seconds), _) if origin_counts => seconds.saturating_mul(1000),
        (_, Some(route)) => millis(route),
        _ => 0,
    };
    let fresh = jittered(fresh, policy.ttl_jitter, roll).min(millis(LONGEST_LIFE));
    if must_revalidate {
        return Lifetime { fresh, must_revalidate, ..Lifetime::default() };
    }
    Lifetime {
        fresh,
        while_revalidate: window(cc.stale_while_revalidate, policy.stale_while_revalidate),
        if_error: window(cc.stale_if_error, policy.stale_if_error),
        if_unreachable: millis(policy.stale_if_unreachable),
        must_revalidate,
    }
}

/// What the origin says of freshness, in milliseconds: s-maxage, max-age, Expires (RFC 9111 section 4.2.1).
fn explicit(headers: &HeaderMap, cc: &CacheControl, received: Timestamp) -> Option<u64> {
    if let Some(seconds) = cc.s_maxage.or(cc.max_age) {
        return Some(seconds.saturating_mul(1000));
    }
    let expires = headers.get(EXPIRES).filter(|_| !cc.targeted)?;
    let date = headers.get(DATE).and_then(|d| http_date(d.as_bytes())).unwrap_or(received);
    // An invalid date, especially "0", means already expired (RFC 9111 section 5.3).
    Some(http_date(expires.as_bytes()).map_or(0, |e| e.since(date)))
}

/// Whether the origin said anything explicit about freshness.
pub fn is_explicit(headers: &HeaderMap, cc: &CacheControl) -> bool {
    cc.has_lifetime() || (!cc.targeted && headers.contains_key(EXPIRES))
}

/// The route's own lifetime for a status: the exact status, then its class, then `ttl` for statuses that are
/// cacheable by default.
pub fn route_ttl(policy: &RoutePolicy, status: StatusCode) -> Option<u64> {
    policy.ttl_for(status.as_u16()).or(if heuristically_cacheable(status) { policy.ttl } else { None }).map(millis)
}

fn heuristic(status: StatusCode, headers: &HeaderMap, cc: &CacheControl, received: Timestamp) -> u64 {
    if !heuristically_cacheable(status) && !cc.public {
        return 0;
    }
    let Some(modified) = headers.get(LAST_MODIFIED).and_then(|d| http_date(d.as_bytes())) else { return 0 };
    let date = headers.get(DATE).and_then(|d| http_date(d.as_bytes())).unwrap_or(received);
    (date.since(modified) / 10).min(millis(LONGEST_HEURISTIC))
}

/// RFC 9110 section 15.1, without 206, which is never stored as it is.
pub fn heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Whether this cache knows all that caching a status requires, which `must-understand` asks for (RFC 9111 section
/// 5.2.2.3): the final statuses of RFC 9110, but those of which parts or validations are made.
pub fn understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=205 | 300..=303 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}

fn jittered(fresh: u64, jitter: f64, roll: f64) -> u64 {
    if jitter <= 0.0 {
        return fresh;
    }
    (fresh as f64 * (1.0 - jitter.clamp(0.0, 1.0) * roll.clamp(0.0, 1.0))) as u64
}

/// Whether a response that is fresh for `left` more milliseconds, and took `cost` milliseconds to fetch, is fetched
/// anew already: the nearer its end and the dearer the fetch, the likelier, so that what is asked for often is
/// refreshed by one request before it ends for all of them (XFetch: Vattani, Chierichetti, Lowenstein, "Optimal
/// Probabilistic Cache Stampede Prevention", VLDB 2015). `eagerness` is the paper's beta, 0 never; `roll` gives a
/// number in `[0, 1)`, and is asked for one only where it matters.
pub fn refreshes_early(left: u64, cost: u32, eagerness: f64, roll: impl FnOnce() -> f64) -> bool {
    let reach = f64::from(cost) * eagerness;
    // No roll reaches further than this, and most hits are far from their end.
    if left as f64 > reach * 40.0 || reach <= 0.0 {
        return false;
    }
    -(1.0 - roll()).ln() * reach >= left as f64
}

/// What a stored response's age lets one do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Fresh for so many more milliseconds.
    Fresh {
        /// Milliseconds of freshness left.
        left: u64,
    },
    /// Stale for so many milliseconds, and still inside its stale-while-revalidate window.
    WhileRevalidate {
        /// Milliseconds since it went stale.
        by: u64,
    },
    /// Stale for so many milliseconds.
    Stale {
        /// Milliseconds since it went stale.
        by: u64,
    },
}

/// The state at `now` of a response born at `birth`. Monotonic: it only ever grows staler with `now`.
pub fn state(birth: Timestamp, lifetime: &Lifetime, now: Timestamp) -> State {
    let age = now.since(birth);
    let fresh = lifetime.fresh;
    if age < fresh {
        return State::Fresh { left: fresh - age };
    }
    let by = age - fresh;
    if by < lifetime.while_revalidate && age < millis(LONGEST_LIFE) {
        return State::WhileRevalidate { by };
    }
    State::Stale { by }
}

/// When a stored response may answer because upstream does not. Ordered: each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fallback {
    /// Never.
    Never,
    /// When upstream can't be reached, or breaks off before its response (RFC 9111 section 4.2.4).
    Unreachable,
    /// When it answers with a server error, too (RFC 5861 section 4).
    AnyError,
}

/// Whether at `now` a response born at `birth` may stand in for one that upstream fails to give.
pub fn fallback(birth: Timestamp, lifetime: &Lifetime, now: Timestamp) -> Fallback {
    let age = now.since(birth);
    let by = age.saturating_sub(lifetime.fresh);
    if lifetime.must_revalidate || age >= millis(LONGEST_LIFE) {
        Fallback::Never
    } else if by < lifetime.if_error {
        Fallback::AnyError
    } else if by < lifetime.if_unreachable {
        Fallback::Unreachable
    } else {
        Fallback::Never
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut h = HeaderMap::new();
        for (n, v) in lines {
            h.append(*n, v.parse().unwrap());
        }
        h
    }
    fn of(policy: &RoutePolicy, lines: &[(&'static str, &str)]) -> Lifetime {
        let h = headers(lines);
        lifetime(policy, StatusCode::OK, &h, &CacheControl::of_response(&h, &[]), NOW, 0.0)
    }
    fn policy(origin: OriginRule) -> RoutePolicy {
        RoutePolicy { ttl: Some(Duration::from_secs(60)), origin, ..RoutePolicy::default_route() }
    }

    #[test]
    fn s_maxage_beats_max_age_beats_expires() {
        let p = RoutePolicy::default_route();
        let expires = ("expires", "Sun, 06 Nov 1994 08:49:40 GMT");
        assert_eq!(of(&p, &[("cache-control", "max-age=5, s-maxage=7"), expires]).fresh, 7000);
        assert_eq!(of(&p, &[("cache-control", "max-age=5"), expires]).fresh, 5000);
        assert_eq!(of(&p, &[expires]).fresh, 3000);
        assert_eq!(of(&p, &[("expires", "0")]).fresh, 0);
    }

    #[test]
    fn the_routes_ttl_fills_in_overrides_or_caps() {
        let long = [("cache-control", "max-age=600")];
        assert_eq!(of(&policy(OriginRule::Respect), &[]).fresh, 60_000);
        assert_eq!(of(&policy(OriginRule::Respect), &long).fresh, 600_000);
        assert_eq!(of(&policy(OriginRule::Override), &long).fresh, 60_000);
        assert_eq!(of(&policy(OriginRule::Cap), &long).fresh, 60_000);
        assert_eq!(of(&policy(OriginRule::Cap), &[("cache-control", "max-age=5")]).fresh, 5_000);
    }

    #[test]
    fn without_any_word_a_tenth_of_the_time_since_last_modified() {
        let modified = [("last-modified", "Sun, 06 Nov 1994 08:39:37 GMT")];
        assert_eq!(of(&RoutePolicy::default_route(), &modified).fresh, 60_000);
        assert_eq!(of(&RoutePolicy::default_route(), &[]).fresh, 0);
    }

    #[test]
    fn must_revalidate_closes_the_stale_windows() {
        let p = RoutePolicy { stale_if_error: Some(Duration::from_secs(9)), ..policy(OriginRule::Respect) };
        let got = of(&p, &[("cache-control", "max-age=1, stale-while-revalidate=30")]);
        assert_eq!((got.while_revalidate, got.if_error), (30_000, 9_000));
        for closes in ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=1"] {
            let got = of(&p, &[("cache-control", &format!("max-age=1, stale-while-revalidate=30, {closes}"))]);
            assert_eq!((got.while_revalidate, got.if_error, got.if_unreachable), (0, 0, 0), "{closes}");
        }
    }

    #[test]
    fn a_response_that_took_long_or_comes_from_another_cache_is_older() {
        let at = |age: &str| birth(&headers(&[("age", age)]), Timestamp(NOW.0 - 2000), NOW);
        assert_eq!(at("10"), Timestamp(NOW.0 - 12_000));
        let dated = headers(&[("date", "Sun, 06 Nov 1994 08:49:27 GMT")]);
        assert_eq!(birth(&dated, NOW, NOW), Timestamp(NOW.0 - 10_000));
        assert_eq!(birth(&HeaderMap::new(), NOW, NOW), NOW);
        assert_eq!(birth(&HeaderMap::new(), Timestamp(NOW.0 - 2000), NOW), Timestamp(NOW.0 - 2000), "response_delay");
        let within_a_second = headers(&[("date", "Sun, 06 Nov 1994 08:49:36 GMT")]);
        assert_eq!(birth(&within_a_second, NOW, Timestamp(NOW.0 - 500)), Timestamp(NOW.0 - 500));
    }

    #[test]
    fn the_first_age_counts_and_one_that_is_no_number_is_ignored_section_5_1() {
        for (age, seconds) in [
            ("30", 30),
            ("7200, 0", 7200),
            ("0, 7200", 0),
            ("abc", 0),
            ("-7200", 0),
            ("7200.0", 0),
            ("7200;a=b", 0),
            ("", 0),
        ] {
            assert_eq!(birth(&headers(&[("age", age)]), NOW, NOW), Timestamp(NOW.0 - seconds * 1000), "{age}");
        }
        let two = headers(&[("age", "5"), ("age", "9")]);
        assert_eq!(birth(&two, NOW, NOW), Timestamp(NOW.0 - 5000));
        let huge = headers(&[("age", "99999999999999999999")]);
        assert_eq!(birth(&huge, NOW, NOW).0, NOW.0.saturating_sub(crate::control::MAX_DELTA * 1000));
    }

    #[test]
    fn dates_are_read_in_three_forms_and_in_any_case_section_4_2() {
        let forms = ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"];
        for form in forms {
            for date in [form.to_string(), form.to_lowercase(), form.to_uppercase()] {
                assert_eq!(http_date(date.as_bytes()), Some(NOW), "{date}");
            }
        }
        for bad in
            ["0", "", "Sun, 06 Nov 1994 08:49:37 UTC", "Sun, 06 Nov 1994 08:49:37 +0000", "06 Nov 1994", "\u{fc}"]
        {
            assert_eq!(http_date(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_targeted_field_makes_expires_inoperative_rfc_9213_section_2_2() {
        let h = headers(&[("cdn-cache-control", "max-age=60"), ("expires", "0"), ("cache-control", "no-store")]);
        let cc = CacheControl::of_response(&h, &[crate::control::CDN_CACHE_CONTROL]);
        assert_eq!(lifetime(&RoutePolicy::default_route(), StatusCode::OK, &h, &cc, NOW, 0.0).fresh, 60_000);
        let h = headers(&[("cdn-cache-control", "must-revalidate"), ("expires", "Sun, 06 Nov 1994 09:49:37 GMT")]);
        let cc = CacheControl::of_response(&h, &[crate::control::CDN_CACHE_CONTROL]);
        assert!(!is_explicit(&h, &cc));
        assert_eq!(lifetime(&RoutePolicy::default_route(), StatusCode::OK, &h, &cc, NOW, 0.0).fresh, 0);
    }

    #[test]
    fn heuristics_are_for_statuses_that_allow_them_and_for_public_responses_section_4_2_2() {
        let p = RoutePolicy::default_route();
        let modified = ("last-modified", "Sun, 06 Nov 1994 08:39:37 GMT");
        for (status, control, fresh) in [
            (200, "", 60_000),
            (404, "", 60_000),
            (201, "", 0),
            (599, "", 0),
            (599, "public", 60_000),
            (200, "max-age=x", 0),
        ] {
            let h = headers(&[modified, ("cache-control", control)]);
            let cc = CacheControl::of_response(&h, &[]);
            let got = lifetime(&p, StatusCode::from_u16(status).unwrap(), &h, &cc, NOW, 0.0).fresh;
            assert_eq!(got, fresh, "{status} {control}");
        }
    }

    #[test]
    fn no_lifetime_is_longer_than_invalidations_are_remembered() {
        let p = RoutePolicy { ttl: Some(10 * LONGEST_LIFE), ..policy(OriginRule::Override) };
        assert_eq!(of(&p, &[]).fresh, millis(LONGEST_LIFE));
    }

    #[test]
    fn jitter_only_shortens() {
        let p = RoutePolicy { ttl_jitter: 0.5, ..policy(OriginRule::Respect) };
        let h = HeaderMap::new();
        let at = |roll| lifetime(&p, StatusCode::OK, &h, &CacheControl::default(), NOW, roll).fresh;
        assert_eq!((at(0.0), at(0.5)), (60_000, 45_000));
    }

    #[test]
    fn fresh_then_while_revalidate_then_if_error_then_if_unreachable_then_stale() {
        let l = Lifetime { fresh: 10, while_revalidate: 5, if_error: 8, if_unreachable: 12, must_revalidate: false };
        let at = |ms: u64| {
            let now = Timestamp(100 + ms);
            (state(Timestamp(100), &l, now), fallback(Timestamp(100), &l, now))
        };
        assert_eq!(at(9), (State::Fresh { left: 1 }, Fallback::AnyError));
        assert_eq!(at(10), (State::WhileRevalidate { by: 0 }, Fallback::AnyError));
        assert_eq!(at(15), (State::Stale { by: 5 }, Fallback::AnyError));
        assert_eq!(at(18), (State::Stale { by: 8 }, Fallback::Unreachable));
        assert_eq!(at(22), (State::Stale { by: 12 }, Fallback::Never));
        let strict = Lifetime { must_revalidate: true, ..l };
        assert_eq!(fallback(Timestamp(0), &strict, Timestamp(11)), Fallback::Never);
    }

    #[test]
    fn a_refresh_is_likelier_the_nearer_the_end_and_the_dearer_the_fetch() {
        let share = |left, cost, eagerness| {
            (0..1000).filter(|n| refreshes_early(left, cost, eagerness, || f64::from(*n) / 1000.0)).count()
        };
        // By the paper the share is exp(-left / (cost * eagerness)).
        assert!((360..=370).contains(&share(100, 100, 1.0)));
        assert!((130..=140).contains(&share(200, 100, 1.0)) && (360..=370).contains(&share(200, 100, 2.0)));
        assert_eq!(
            (share(0, 100, 1.0), share(60_000, 100, 1.0), share(10, 100, 0.0), share(10, 0, 1.0)),
            (1000, 0, 0, 0)
        );
    }

    fn rank(s: State) -> u8 {
        match s {
            State::Fresh { .. } => 0,
            State::WhileRevalidate { .. } => 1,
            State::Stale { .. } => 2,
        }
    }

    proptest! {
        #[test]
        fn a_response_never_grows_fresher(fresh in 0u64..1000, swr in 0u64..1000, a in 0u64..3000, b in 0u64..3000) {
            let l = Lifetime { fresh, while_revalidate: swr, if_error: swr / 2, if_unreachable: swr, must_revalidate: false };
            let (a, b) = (a.min(b), a.max(b));
            prop_assert!(fallback(Timestamp(0), &l, Timestamp(a)) >= fallback(Timestamp(0), &l, Timestamp(b)));
            prop_assert!(rank(state(Timestamp(0), &l, Timestamp(a))) <= rank(state(Timestamp(0), &l, Timestamp(b))));
        }
    }
}
