//! A client's conditional request, answered from a stored response: RFC 9110 section 13.

use http::header::{
    AGE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED, SET_COOKIE,
};
use http::{HeaderMap, StatusCode};

use crate::control::split_list;
use crate::freshness::http_date;

/// Whether the client has this representation already, so that a 304 answers it (RFC 9110 section 13.2.2):
/// If-None-Match by weak comparison, and only without it If-Modified-Since.
pub fn not_modified(request: &HeaderMap, status: StatusCode, stored: &HeaderMap) -> bool {
    if status != StatusCode::OK {
        return false;
    }
    if request.contains_key(IF_NONE_MATCH) {
        let Some(tag) = stored.get(ETAG).map(|t| opaque(t.as_bytes())) else { return false };
        return request
            .get_all(IF_NONE_MATCH)
            .iter()
            .flat_map(|line| split_list(line.as_bytes()))
            .any(|member| member == b"*" || opaque(member) == tag);
    }
    let date = |h: &HeaderMap, name| h.get(name).and_then(|d: &http::HeaderValue| http_date(d.as_bytes()));
    let since = date(request, IF_MODIFIED_SINCE);
    since.is_some_and(|since| date(stored, LAST_MODIFIED).is_some_and(|modified| modified <= since))
}

/// The fields of a stored response that a 304 made from it carries (RFC 9110 section 15.4.5): all but those
/// that describe the content it does not have.
pub fn fields_of_304(stored: &HeaderMap) -> HeaderMap {
    let mut fields = stored.clone();
    for name in [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE] {
        fields.remove(name);
    }
    fields
}

/// A stored response's fields after a 304 renewed it (RFC 9111 section 3.2): the 304's replace the stored
/// ones, but for those that describe the content that is stored.
pub fn updated(stored: &HeaderMap, fresh: &HeaderMap) -> HeaderMap {
    let mut fields = stored.clone();
    let keeps = [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, SET_COOKIE, AGE];
    for name in fresh.keys().filter(|n| !keeps.contains(n)) {
        fields.remove(name);
        for value in fresh.get_all(name) {
            fields.append(name.clone(), value.clone());
        }
    }
    fields
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
    }

    #[test]
    fn a_304_replaces_stored_fields_but_not_those_that_describe_the_content() {
        let stored = headers(&[("cache-control", "max-age=1"), ("content-type", "a/b"), ("x-a", "1"), ("x-b", "1")]);
        let mut fresh = headers(&[("cache-control", "max-age=9"), ("content-length", "0"), ("content-type", "c/d")]);
        fresh.append("x-a", "2".parse().unwrap());
        fresh.append("x-a", "3".parse().unwrap());
        let got = updated(&stored, &fresh);
        assert_eq!(got["cache-control"], "max-age=9");
        assert_eq!(got["content-type"], "a/b");
        assert_eq!(got.get_all("x-a").iter().collect::<Vec<_>>(), ["2", "3"]);
        assert!(got.contains_key("x-b") && !got.contains_key("content-length"));
    }

    #[test]
    fn a_date_counts_only_without_a_tag() {
        let stored = [("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("etag", "\"a\"")];
        let since = ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(answered(&[since], &stored));
        assert!(!answered(&[since, ("if-none-match", "\"b\"")], &stored));
        assert!(!answered(&[("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT")], &stored));
        assert!(!answered(&[("if-modified-since", "nonsense")], &stored));
    }
}
