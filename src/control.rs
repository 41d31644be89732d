//! Cache-Control as RFC 9111 section 5.2 defines it, and the fields that speak in its place to caches like this
//! one: targeted fields (RFC 9213) and Surrogate-Control. One struct for request and response directives.
//!
//! Parsing never fails. Unknown directives are ignored; names are case-insensitive; arguments may be quoted.
//! Where a value is unusable the stricter reading wins: a `max-age` that is no number means stale
//! (section 4.2.1), a number too large means 2^31 (section 1.2.2), of two that differ the first counts.
//! Targeted fields are structured: one that does not parse counts as absent (RFC 9213 section 2.1).

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

/// The largest delta-seconds that is told apart (RFC 9111 section 1.2.2).
pub const MAX_DELTA: u64 = 1 << 31;

/// A targeted field of our own, for an upstream that knows who stands in front of it.
pub const ASIDECAR_CACHE_CONTROL: HeaderName = HeaderName::from_static("asidecar-cache-control");
/// The targeted field for CDNs (RFC 9213 section 3).
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// The older field for surrogates (Edge Architecture, W3C note of 2001), with a syntax of its own.
pub const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");
/// By what name Surrogate-Control may mean this cache alone.
pub const SURROGATE: &str = "asidecar";

/// The directives that count of a message. Durations are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the directive of its name")]
pub struct CacheControl {
    pub no_store: bool,
    pub no_cache: bool,
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub only_if_cached: bool,
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    /// `Some(None)`: any staleness will do.
    pub max_stale: Option<Option<u64>>,
    pub min_fresh: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
    /// The fields that a qualified `no-cache` or `private` names: they are not stored, the rest may be
    /// (sections 5.2.2.4 and 5.2.2.7).
    pub withheld: Vec<HeaderName>,
    /// A targeted field said all this, so that neither Cache-Control nor Expires counts (RFC 9213 section 2.2).
    pub targeted: bool,
}

impl CacheControl {
    /// What a request says; without Cache-Control, `Pragma: no-cache` counts as no-cache (RFC 9111 section 5.4).
    pub fn of_request(headers: &HeaderMap) -> CacheControl {
        if headers.contains_key(CACHE_CONTROL) {
            let mut cc = CacheControl::of_lines(headers);
            // Qualified forms are defined for responses alone.
            cc.no_cache |= !std::mem::take(&mut cc.withheld).is_empty();
            return cc;
        }
        let no_cache = headers.get(PRAGMA).is_some_and(|p| p.as_bytes().eq_ignore_ascii_case(b"no-cache"));
        CacheControl { no_cache, ..CacheControl::default() }
    }

    /// What a response says to this cache: by the first of `targets` that it has and that can be read, else by
    /// Cache-Control.
    pub fn of_response(headers: &HeaderMap, targets: &[HeaderName]) -> CacheControl {
        let targeted = |name: &HeaderName| {
            if !headers.contains_key(name) {
                return None;
            }
            if *name == SURROGATE_CONTROL { surrogate(headers) } else { structured(name, headers) }
        };
        targets.iter().find_map(targeted).unwrap_or_else(|| CacheControl::of_lines(headers))
    }

    fn of_lines(headers: &HeaderMap) -> CacheControl {
        let mut cc = CacheControl::default();
        for line in headers.get_all(CACHE_CONTROL) {
            for directive in split_list(line.as_bytes()) {
                let (name, argument) = name_and_argument(directive);
                cc.add(name, argument);
            }
        }
        cc
    }

    /// Whether the response itself allows a shared cache to serve it to others although the request was
    /// personal (RFC 9111 section 3.5; the same reading is used for cookies, without must-revalidate).
    pub fn explicitly_shared(&self) -> bool {
        self.public || self.s_maxage.is_some()
    }

    /// Whether it says how long the response is fresh.
    pub fn has_lifetime(&self) -> bool {
        self.s_maxage.is_some() || self.max_age.is_some()
    }

    fn add(&mut self, name: &[u8], argument: Option<&[u8]>) {
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        let seconds = || argument.and_then(delta_seconds);
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache |= !self.withholds(argument);
        } else if is("private") {
            self.private |= !self.withholds(argument);
        } else if is("public") {
            self.public = true;
        } else if is("must-revalidate") {
            self.must_revalidate = true;
        } else if is("proxy-revalidate") {
            self.proxy_revalidate = true;
        } else if is("must-understand") {
            self.must_understand = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-age") {
            self.max_age = self.max_age.or(Some(seconds().unwrap_or(0)));
        } else if is("s-maxage") {
            self.s_maxage = self.s_maxage.or(Some(seconds().unwrap_or(0)));
        } else if is("max-stale") {
            self.max_stale = self.max_stale.or(Some(argument.map(|a| delta_seconds(a).unwrap_or(0))));
        } else if is("min-fresh") {
            self.min_fresh = self.min_fresh.or(seconds());
        } else if is("stale-while-revalidate") {
            self.stale_while_revalidate = self.stale_while_revalidate.or(seconds());
        } else if is("stale-if-error") {
            self.stale_if_error = self.stale_if_error.or(seconds());
        }
    }

    /// Takes the field names of a qualified directive. Without any, or with one that is none, the directive
    /// counts as unqualified, which is the stricter reading.
    fn withholds(&mut self, argument: Option<&[u8]>) -> bool {
        let names: Option<Vec<HeaderName>> =
            argument.map(|a| split_list(a).map(|n| HeaderName::from_bytes(n).ok()).collect()).unwrap_or_default();
        match names {
            Some(names) if !names.is_empty() => {
                self.withheld.extend(names);
                true
            }
            _ => false,
        }
    }
}

/// A targeted field: a dictionary (RFC 9651 section 3.2) of response directives. `None` when it is empty or can't
/// be parsed. A value of the wrong type is read as strictly as in Cache-Control.
fn structured(name: &HeaderName, headers: &HeaderMap) -> Option<CacheControl> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(|l| l.as_bytes()).collect();
    let dictionary: Dictionary = Parser::new(&lines.join(&b","[..])).parse().ok()?;
    if dictionary.is_empty() {
        return None;
    }
    let mut cc = CacheControl { targeted: true, ..CacheControl::default() };
    for (name, value) in &dictionary {
        let name = name.as_str().as_bytes();
        // What is defined as a number is no string, and the other way round.
        let numeric = [&b"max-age"[..], b"s-maxage", b"stale-while-revalidate", b"stale-if-error"].contains(&name);
        match value {
            ListEntry::Item(item) => match &item.bare_item {
                BareItem::Boolean(true) => cc.add(name, None),
                BareItem::Boolean(false) => {}
                BareItem::Integer(n) => cc.add(name, Some(i64::from(*n).to_string().as_bytes())),
                BareItem::String(text) if !numeric => cc.add(name, Some(text.as_str().as_bytes())),
                _ => cc.add(name, Some(b"")),
            },
            ListEntry::InnerList(_) => cc.add(name, Some(b"")),
        }
    }
    Some(cc)
}

/// Surrogate-Control: `max-age=3600+600;asidecar, no-store, content="…"`. A directive that names a surrogate is for
/// that one alone, and goes before one that names none. The number behind `+` says how much longer a stale response
/// may be used. `None` when it says nothing about storing or freshness to this cache.
fn surrogate(headers: &HeaderMap) -> Option<CacheControl> {
    let (mut ours, mut all): (Vec<&[u8]>, Vec<&[u8]>) = (Vec::new(), Vec::new());
    for line in headers.get_all(SURROGATE_CONTROL) {
        for member in split_list(line.as_bytes()) {
            let mut parts = member.splitn(2, |b| *b == b';');
            let directive = parts.next().unwrap_or_default().trim_ascii();
            match parts.next().map(<[u8]>::trim_ascii) {
                None => all.push(directive),
                Some(target) if target.eq_ignore_ascii_case(SURROGATE.as_bytes()) => ours.push(directive),
                Some(_) => {}
            }
        }
    }
    let mut cc = CacheControl { targeted: true, ..CacheControl::default() };
    for directive in ours.into_iter().chain(all) {
        let (name, argument) = name_and_argument(directive);
        if name.eq_ignore_ascii_case(b"max-age") && cc.max_age.is_none() {
            let argument = argument.unwrap_or_default();
            let mut parts = argument.splitn(2, |b| *b == b'+');
            cc.max_age = Some(parts.next().and_then(delta_seconds).unwrap_or(0));
            let longer = parts.next().and_then(delta_seconds);
            (cc.stale_while_revalidate, cc.stale_if_error) = (longer, longer);
        } else if name.eq_ignore_ascii_case(b"no-store") {
            cc.no_store = true;
        }
    }
    (cc.no_store || cc.max_age.is_some()).then_some(cc)
}

fn name_and_argument(directive: &[u8]) -> (&[u8], Option<&[u8]>) {
    match directive.iter().position(|b| *b == b'=') {
        Some(at) => (directive[..at].trim_ascii(), Some(unquote(directive[at + 1..].trim_ascii()))),
        None => (directive, None),
    }
}

/// Digits only (RFC 9111 section 1.2.2); saturates at [`MAX_DELTA`].
pub fn delta_seconds(text: &[u8]) -> Option<u64> {
    digits(text).map(|n| n.min(MAX_DELTA))
}

/// A number of digits alone; saturates.
pub fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |n: u64, d| n.saturating_mul(10).saturating_add(u64::from(d - b'0'))))
}

/// The members of a comma-separated list (RFC 9110 section 5.6.1): quoted commas do not split, empty members
/// are skipped, surrounding white space is trimmed.
pub fn split_list(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        loop {
            let line = rest?;
            let end = list_member_end(line);
            rest = line.get(end + 1..);
            let member = line[..end].trim_ascii();
            if !member.is_empty() {
                return Some(member);
            }
        }
    })
}

fn list_member_end(line: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, b) in line.iter().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    line.len()
}

fn unquote(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\"")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cc(lines: &[&str]) -> CacheControl {
        let mut h = HeaderMap::new();
        for l in lines {
            h.append(CACHE_CONTROL, l.parse().unwrap());
        }
        CacheControl::of_response(&h, &[])
    }
    fn targeted(name: &'static str, value: &str) -> CacheControl {
        let mut h = HeaderMap::new();
        h.insert(CACHE_CONTROL, "max-age=1, public".parse().unwrap());
        h.insert(name, value.parse().unwrap());
        CacheControl::of_response(&h, &[ASIDECAR_CACHE_CONTROL, CDN_CACHE_CONTROL, SURROGATE_CONTROL])
    }

    #[test]
    fn directives_are_case_insensitive_and_may_be_spread_over_lines() {
        let got = cc(&["Max-Age=60 , PUBLIC", "s-maxage = \"5\", x=\"a,no-store\""]);
        assert_eq!((got.max_age, got.s_maxage, got.public, got.no_store), (Some(60), Some(5), true, false));
    }

    #[test]
    fn odd_numbers_read_strictly() {
        assert_eq!(cc(&["max-age=-1"]).max_age, Some(0));
        assert_eq!(cc(&["max-age=1.5"]).max_age, Some(0));
        assert_eq!(cc(&["max-age"]).max_age, Some(0));
        assert_eq!(cc(&["max-age=99999999999999999999999"]).max_age, Some(MAX_DELTA));
        assert_eq!(cc(&["max-age=1, max-age=100"]).max_age, Some(1));
    }

    #[test]
    fn qualified_private_and_no_cache_withhold_the_fields_they_name() {
        let got = cc(&["private=\"X-A, x-b\", no-cache=x-c, max-age=5"]);
        assert!(!got.private && !got.no_cache && got.max_age == Some(5));
        assert_eq!(got.withheld, ["x-a", "x-b", "x-c"]);
        let both = cc(&["no-cache=\"x-a\"", "no-cache"]);
        assert!(both.no_cache, "the unqualified form is the stricter one");
        for strict in ["private=\"\"", "private=", "private=\"a b\""] {
            assert!(cc(&[strict]).private, "{strict}");
        }
    }

    #[test]
    fn in_a_request_a_qualified_no_cache_is_a_no_cache() {
        let mut h = HeaderMap::new();
        h.insert(CACHE_CONTROL, "no-cache=\"x\"".parse().unwrap());
        assert!(CacheControl::of_request(&h).no_cache);
    }

    #[test]
    fn the_first_readable_targeted_field_counts_alone_rfc_9213_section_2_2() {
        let got = targeted("cdn-cache-control", "max-age=60, must-revalidate, x=\"y\"");
        assert_eq!((got.max_age, got.must_revalidate, got.public, got.targeted), (Some(60), true, false, true));
        let mut h = HeaderMap::new();
        h.insert(CDN_CACHE_CONTROL, "max-age=1".parse().unwrap());
        h.insert(ASIDECAR_CACHE_CONTROL, "max-age=2".parse().unwrap());
        let of = |targets: &[HeaderName]| CacheControl::of_response(&h, targets).max_age;
        assert_eq!(of(&[ASIDECAR_CACHE_CONTROL, CDN_CACHE_CONTROL]), Some(2));
        assert_eq!(of(&[CDN_CACHE_CONTROL, ASIDECAR_CACHE_CONTROL]), Some(1));
        assert_eq!(of(&[]), None, "a field that is not on the list changes nothing");
    }

    #[test]
    fn a_targeted_field_that_is_empty_or_does_not_parse_counts_as_absent_rfc_9213_section_2_1() {
        for bad in
            ["", "max-age=10000, &&&&&", "max-age =100", "max-age= 100", "MaX-aGe=100", "max-age=", "max-age=1,,"]
        {
            let got = targeted("cdn-cache-control", bad);
            assert_eq!((got.max_age, got.targeted), (Some(1), false), "{bad:?}");
        }
    }

    #[test]
    fn a_targeted_value_of_the_wrong_type_reads_strictly() {
        for odd in ["max-age=\"10000\"", "max-age=1.5", "max-age=-1", "max-age", "max-age=(1 2)", "max-age=tok"] {
            assert_eq!(targeted("cdn-cache-control", odd).max_age, Some(0), "{odd}");
        }
        assert_eq!(targeted("cdn-cache-control", "max-age=99999999999").max_age, Some(MAX_DELTA));
        assert!(!targeted("cdn-cache-control", "no-store=?0, max-age=5").no_store);
        assert!(targeted("cdn-cache-control", "no-store=1").no_store);
        assert_eq!(targeted("cdn-cache-control", "private=\"x-a\"").withheld, ["x-a"]);
    }

    #[test]
    fn surrogate_control_may_name_its_surrogate_and_a_time_beyond_freshness() {
        let at = |value: &str| targeted("surrogate-control", value);
        assert_eq!((at("max-age=3600").max_age, at("foobar, MaX-aGe=7").max_age), (Some(3600), Some(7)));
        let longer = at("max-age=60+30");
        assert_eq!(
            (longer.max_age, longer.stale_while_revalidate, longer.stale_if_error),
            (Some(60), Some(30), Some(30))
        );
        assert_eq!(at("max-age=1, max-age=9;asidecar").max_age, Some(9));
        assert!(!at("max-age=9;another").targeted, "it is not for us: Cache-Control counts");
        assert!(!at("content=\"ESI/1.0\"").targeted);
        assert!(at("no-store").no_store && at("no-store;asidecar").no_store && !at("no-store-remote").no_store);
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        let of = |fields: &[(&'static str, &str)]| {
            let headers = fields.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
            CacheControl::of_request(&headers).no_cache
        };
        assert!(of(&[("pragma", "no-cache")]));
        assert!(!of(&[("pragma", "no-cache"), ("cache-control", "max-age=1")]));
    }

    #[test]
    fn max_stale_may_stand_alone() {
        assert_eq!(cc(&["max-stale"]).max_stale, Some(None));
        assert_eq!(cc(&["max-stale=7"]).max_stale, Some(Some(7)));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(line in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"=,;\"\\ +-max-age01".to_vec())], 0..80)) {
            if let Ok(value) = http::HeaderValue::from_bytes(&line) {
                for name in [CACHE_CONTROL, CDN_CACHE_CONTROL, SURROGATE_CONTROL] {
                    let mut h = HeaderMap::new();
                    h.insert(name, value.clone());
                    CacheControl::of_response(&h, &[CDN_CACHE_CONTROL, SURROGATE_CONTROL]);
                    CacheControl::of_request(&h);
                }
            }
        }
    }
}
