//! A client's conditional request, answered from a stored response: RFC 9110 section 13.

use http::header::{
    AGE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName, StatusCode};

use crate::control::split_list;
use crate::freshness::http_date;

/// Whether the client has this representation already, so that a 304 answers it (RFC 9110 section 13.2.2):
/// If-None-Match by weak comparison, and only without it If-Modified-Since, which a response without Last-Modified
/// answers by its Date (RFC 9111 section 4.3.2).
pub fn not_modified(request: &HeaderMap, status: StatusCode, stored: &HeaderMap) -> bool {
    if status != StatusCode::OK {
        return false;
    }
    if request.contains_key(IF_NONE_MATCH) {
        let tag = stored.get(ETAG).map(|t| opaque(t.as_bytes()));
        let named = |member: &[u8]| member == b"*" || tag.is_some_and(|tag| opaque(member) == tag);
        return request.get_all(IF_NONE_MATCH).iter().flat_map(|line| split_list(line.as_bytes())).any(named);
    }
    let Some(since) = request.get(IF_MODIFIED_SINCE).and_then(|d| http_date(d.as_bytes())) else { return false };
    let modified = stored.get(LAST_MODIFIED).or_else(|| stored.get(DATE));
    modified.and_then(|d| http_date(d.as_bytes())).is_some_and(|modified| modified <= since)
}

/// Makes of the fields of a stored response those of a 304 (RFC 9110 section 15.4.5): all but the ones that describe
/// the content it does not have.
pub fn make_304(fields: &mut HeaderMap) {
    for name in [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE] {
        fields.remove(name);
    }
}

/// Whether a 304 speaks of the stored response (RFC 9111 section 4.3.4): by its strong entity tag, else its weak one,
/// else its date. One without any validator answers the only response that was asked about.
pub fn confirms(stored: &HeaderMap, fresh: &HeaderMap) -> bool {
    if let Some(tag) = fresh.get(ETAG) {
        let Some(own) = stored.get(ETAG) else { return false };
        return tag == own || (is_weak(tag.as_bytes()) && opaque(tag.as_bytes()) == opaque(own.as_bytes()));
    }
    let Some(date) = fresh.get(LAST_MODIFIED) else { return true };
    stored.get(LAST_MODIFIED).is_some_and(|own| own == date || http_date(own.as_bytes()) == http_date(date.as_bytes()))
}

/// Whether the 200 that a HEAD got is of the stored response, `length` bytes long (RFC 9111 section 4.3.5).
pub fn describes(stored: &HeaderMap, length: u64, head: &HeaderMap) -> bool {
    let same = |name| head.get(&name).is_none_or(|value| stored.get(&name) == Some(value));
    let as_long = head.get(CONTENT_LENGTH).is_none_or(|_| crate::admission::content_length(head) == Some(length));
    same(ETAG) && same(LAST_MODIFIED) && as_long
}

/// A stored response's fields after a response without content renewed it (RFC 9111 section 3.2): the newer ones
/// replace the stored ones, but for those on which the integrity of the stored content rests, and the entity tag,
/// which [`confirms`] has compared and which may have come weaker than it was.
pub fn updated(stored: &HeaderMap, fresh: &HeaderMap) -> HeaderMap {
    let mut fields = stored.clone();
    let keeps = |name: &HeaderName| {
        [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_RANGE, ETAG, AGE].contains(name) || DIGESTS.contains(&name.as_str())
    };
    for name in fresh.keys().filter(|name| !keeps(name)) {
        fields.remove(name);
        for value in fresh.get_all(name) {
            fields.append(name.clone(), value.clone());
        }
    }
    fields
}

/// Fields that hold a digest of the content.
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

fn is_weak(tag: &[u8]) -> bool {
    tag.starts_with(b"W/")
}

/// An entity tag without its weakness (RFC 9110 section 8.8.3.2, weak comparison).
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
    }
    fn answered(request: &[(&'static str, &str)], stored: &[(&'static str, &str)]) -> bool {
        not_modified(&headers(request), StatusCode::OK, &headers(stored))
    }

    #[test]
    fn etags_compare_weakly_and_lists_and_stars_match() {
        let stored = [("etag", "W/\"a,b\"")];
        assert!(answered(&[("if-none-match", "\"x\", \"a,b\"")], &stored));
        assert!(answered(&[("if-none-match", "*")], &stored));
        assert!(!answered(&[("if-none-match", "\"a\"")], &stored));
        assert!(!answered(&[("if-none-match", "\"a\"")], &[]));
        assert!(answered(&[("if-none-match", "*")], &[]), "there is a representation, whatever its tag");
    }

    #[test]
    fn a_304_replaces_stored_fields_but_not_those_on_which_the_content_rests_section_3_2() {
        let stored = headers(&[
            ("cache-control", "max-age=1"),
            ("content-type", "a/b"),
            ("content-encoding", "gzip"),
            ("content-md5", "1"),
            ("etag", "\"a\""),
            ("x-a", "1"),
            ("x-b", "1"),
        ]);
        let mut fresh = headers(&[
            ("cache-control", "max-age=9"),
            ("content-length", "0"),
            ("content-type", "c/d"),
            ("content-encoding", "br"),
            ("content-md5", "2"),
            ("etag", "W/\"a\""),
        ]);
        fresh.append("x-a", "2".parse().unwrap());
        fresh.append("x-a", "3".parse().unwrap());
        let got = updated(&stored, &fresh);
        assert_eq!((&got["cache-control"], &got["content-type"]), (&fresh["cache-control"], &fresh["content-type"]));
        for kept in ["content-encoding", "content-md5", "etag"] {
            assert_eq!(got[kept], stored[kept], "{kept}");
        }
        assert_eq!(got.get_all("x-a").iter().collect::<Vec<_>>(), ["2", "3"]);
        assert!(got.contains_key("x-b") && !got.contains_key("content-length"));
    }

    #[test]
    fn a_304_speaks_of_the_response_whose_validator_it_has_section_4_3_4() {
        let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
        let (earlier, odd) = ("Sun, 06 Nov 1994 08:49:36 GMT", "Sunday, 06-Nov-94 08:49:37 GMT");
        for (stored, fresh, same) in [
            (("etag", "\"a\""), ("etag", "\"a\""), true),
            (("etag", "\"a\""), ("etag", "W/\"a\""), true),
            (("etag", "W/\"a\""), ("etag", "W/\"a\""), true),
            (("etag", "W/\"a\""), ("etag", "\"a\""), false),
            (("etag", "\"a\""), ("etag", "\"b\""), false),
            (("last-modified", modified), ("etag", "\"b\""), false),
            (("last-modified", modified), ("last-modified", odd), true),
            (("last-modified", modified), ("last-modified", earlier), false),
            (("etag", "\"a\""), ("x-a", "1"), true),
        ] {
            assert_eq!(confirms(&headers(&[stored]), &headers(&[fresh])), same, "{stored:?} {fresh:?}");
        }
    }

    #[test]
    fn a_head_describes_the_response_with_its_validators_and_length_section_4_3_5() {
        let stored = headers(&[("etag", "\"a\""), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        for (head, same) in [
            (vec![], true),
            (vec![("etag", "\"a\""), ("content-length", "5")], true),
            (vec![("etag", "\"b\"")], false),
            (vec![("content-length", "6")], false),
            (vec![("last-modified", "Sun, 06 Nov 1994 08:49:38 GMT")], false),
        ] {
            assert_eq!(describes(&stored, 5, &headers(&head)), same, "{head:?}");
        }
    }

    #[test]
    fn a_date_counts_only_without_a_tag() {
        let stored = [("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("etag", "\"a\"")];
        let since = ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(answered(&[since], &stored));
        assert!(!answered(&[since, ("if-none-match", "\"b\"")], &stored));
        assert!(!answered(&[("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT")], &stored));
        assert!(!answered(&[("if-modified-since", "nonsense")], &stored));
        let dated = [("date", "Sun, 06 Nov 1994 08:49:37 GMT")];
        assert!(answered(&[since], &dated), "without Last-Modified the Date counts, RFC 9111 section 4.3.2");
        assert!(!answered(&[("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT")], &dated));
    }
}
