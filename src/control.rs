//! Cache-Control as RFC 9111 section 5.2 defines it: one struct for request and response directives.
//!
//! Parsing never fails. Unknown directives are ignored; names are case-insensitive; arguments may be quoted.
//! Where a value is unusable the stricter reading wins: a `max-age` that is no number means stale
//! (section 4.2.1), a number too large means 2^31 (section 1.2.2), of two that differ the first counts.

use http::HeaderMap;
use http::header::CACHE_CONTROL;

/// The largest delta-seconds that is told apart (RFC 9111 section 1.2.2).
pub const MAX_DELTA: u64 = 1 << 31;

/// The directives of all Cache-Control lines of a message. Durations are in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the directive of its name")]
pub struct CacheControl {
    pub no_store: bool,
    /// Unqualified, or qualified with field names: then, too, nothing is used without validation.
    pub no_cache: bool,
    /// Unqualified, or qualified with field names: then, too, nothing is shared.
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
}

impl CacheControl {
    /// Reads all Cache-Control lines.
    pub fn of(headers: &HeaderMap) -> CacheControl {
        let mut cc = CacheControl::default();
        for line in headers.get_all(CACHE_CONTROL) {
            for directive in split_list(line.as_bytes()) {
                cc.add(directive);
            }
        }
        cc
    }

    /// Whether the response itself allows a shared cache to serve it to others although the request was
    /// personal (RFC 9111 section 3.5; the same reading is used for cookies, without must-revalidate).
    pub fn explicitly_shared(&self) -> bool {
        self.public || self.s_maxage.is_some()
    }

    fn add(&mut self, directive: &[u8]) {
        let (name, argument) = match directive.iter().position(|b| *b == b'=') {
            Some(at) => (directive[..at].trim_ascii(), Some(unquote(directive[at + 1..].trim_ascii()))),
            None => (directive, None),
        };
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        let seconds = || argument.and_then(delta_seconds);
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = true;
        } else if is("private") {
            self.private = true;
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
}

/// Digits only (RFC 9111 section 1.2.2); saturates at [`MAX_DELTA`].
pub fn delta_seconds(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let n = text.iter().fold(0u64, |n, d| n.saturating_mul(10).saturating_add(u64::from(d - b'0')));
    Some(n.min(MAX_DELTA))
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
        CacheControl::of(&h)
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
    fn qualified_private_and_no_cache_count_as_unqualified() {
        let got = cc(&["private=\"x-a\", no-cache=\"x-b\""]);
        assert!(got.private && got.no_cache);
    }

    #[test]
    fn max_stale_may_stand_alone() {
        assert_eq!(cc(&["max-stale"]).max_stale, Some(None));
        assert_eq!(cc(&["max-stale=7"]).max_stale, Some(Some(7)));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(line in prop::collection::vec(any::<u8>(), 0..80)) {
            for member in split_list(&line) {
                CacheControl::default().add(member);
            }
        }
    }
}
