//! A client's conditional request, answered from a stored response: RFC 9110 section 13.

use http::header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
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
    match (date(request, IF_MODIFIED_SINCE), date(stored, LAST_MODIFIED)) {
        (Some(since), Some(modified)) => modified <= since,
        _ => false,
    }
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
    fn a_date_counts_only_without_a_tag() {
        let stored = [("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("etag", "\"a\"")];
        let since = ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(answered(&[since], &stored));
        assert!(!answered(&[since, ("if-none-match", "\"b\"")], &stored));
        assert!(!answered(&[("if-modified-since", "Sun, 06 Nov 1994 08:49:36 GMT")], &stored));
        assert!(!answered(&[("if-modified-since", "nonsense")], &stored));
    }
}
