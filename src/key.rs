//! The cache key: what identifies a response. Readable, and unambiguous whatever a client sends.
//!
//! `base[?query][#name=value]…`, where base is the route's template or `//host/path`. What a template renders
//! holds no `//`, `?` or `#` ([`crate::template`]), so no request can reach another route's key by its Host; a
//! path holds no `?`, a query no `#`; values behind `#` are escaped here. So two different requests never share a key by accident of
//! delimiters. HEAD shares the key of GET.

use std::fmt::Write;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use crate::config::{AuthorizationRule, CookieRule, QueryRule, RoutePolicy};

/// A key longer than this, in bytes, is its base and a hash; a base longer than this ends in a hash too.
pub const MAX_KEY: usize = 1024;
/// Room for most keys, in bytes.
const USUAL: usize = 96;

/// What of a request goes into its key.
#[derive(Clone, Copy, Debug)]
pub struct Keyed<'r> {
    /// The host, in lower case, with its port.
    pub host: &'r str,
    /// The path as it was sent.
    pub path: &'r str,
    /// The query as it was sent.
    pub query: Option<&'r str>,
    /// The request's fields.
    pub headers: &'r HeaderMap,
    /// The route's path parameters.
    pub params: &'r [&'r str],
    /// Whether a trusted proxy in front says that the client spoke https.
    pub https: bool,
}

/// Writes the key to `out` (which is cleared) and returns the length of its base in bytes: the part that an
/// invalidation by key names.
pub fn build(policy: &RoutePolicy, request: &Keyed<'_>, out: &mut String) -> usize {
    out.clear();
    out.reserve(USUAL);
    base(policy, request.host, request.path, request.params, out);
    let base = out.len();
    push_query(policy, request.query, out);
    for name in &policy.vary {
        push_field(name, request.headers, out);
    }
    if let CookieRule::Key(names) = &policy.cookies {
        for name in names {
            let value = cookie(request.headers, name).unwrap_or_default();
            let _ = write!(out, "#cookie:{name}=");
            escape(value, out);
        }
    }
    if policy.authorization == AuthorizationRule::Key
        && let Some(credential) = request.headers.get(AUTHORIZATION)
    {
        out.push_str("#auth=");
        push_hash(credential.as_bytes(), out);
    }
    if request.https {
        out.push_str("#https");
    }
    if out.len() > MAX_KEY {
        shorten(out, base);
    }
    base
}

/// Writes the key's base to the empty `out`: the template, or `//host/path`. At most [`MAX_KEY`] bytes.
pub fn base(policy: &RoutePolicy, host: &str, path: &str, params: &[&str], out: &mut String) {
    match &policy.key {
        Some(template) => template.render(params, out),
        None => {
            out.push_str("//");
            out.push_str(host);
            out.push_str(path);
        }
    }
    if out.len() > MAX_KEY {
        shorten(out, MAX_KEY / 2);
    }
}

/// Where the path begins in a key whose base is `//host/path`.
pub fn path_in(key: &str) -> Option<usize> {
    Some(2 + memchr::memchr(b'/', key.strip_prefix("//")?.as_bytes())?)
}

/// A key without the part that tells variants apart, which begins with two `#`.
pub fn without_variant(key: &str) -> &str {
    let at = memchr::memchr_iter(b'#', key.as_bytes()).find(|at| key.as_bytes().get(at + 1) == Some(&b'#'));
    at.map_or(key, |at| &key[..at])
}

/// Appends `#name=value` for one request field, and `#name` alone where it is absent. Values that mean the same are
/// the same ([`crate::vary::push_value`]).
pub fn push_field(name: &HeaderName, headers: &HeaderMap, out: &mut String) {
    out.push('#');
    out.push_str(name.as_str());
    if headers.contains_key(name) {
        out.push('=');
        crate::vary::push_value(name, headers, out);
    }
}

/// The query that is in the key, as upstream would see it under `inputs = "keyed"`; `None` when nothing of it
/// is.
pub fn keyed_query(policy: &RoutePolicy, query: Option<&str>) -> Option<String> {
    let mut out = String::new();
    push_query(policy, query, &mut out);
    (!out.is_empty()).then(|| out.split_off(1))
}

fn push_query(policy: &RoutePolicy, query: Option<&str>, out: &mut String) {
    let Some(query) = query.filter(|q| !q.is_empty() && policy.query != QueryRule::Ignore) else { return };
    if policy.query == QueryRule::All && !policy.sort {
        out.push('?');
        out.push_str(query);
        return;
    }
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().len();
    let mut pairs: SmallVec<[&str; 16]> =
        query.split('&').filter(|p| !p.is_empty() && kept(&policy.query, &p[..name(p)])).collect();
    if policy.sort {
        // Stable, so that repeated parameters keep their order, which may mean something.
        pairs.sort_by_key(|p| &p[..name(p)]);
    }
    for (at, pair) in pairs.iter().enumerate() {
        out.push(if at == 0 { '?' } else { '&' });
        out.push_str(pair);
    }
}

/// Whether a parameter is in the key. A name that is written in an odd way is: upstream may read it as one that
/// the rule means to keep.
fn kept(rule: &QueryRule, name: &str) -> bool {
    name.contains(['%', '+', ';']) || rule.keeps(name)
}

/// The value of a cookie of that name, from all Cookie lines; the first one counts.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';')).find_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|b| *b == b'=')?;
        (&pair[..at] == name.as_bytes()).then(|| &pair[at + 1..])
    })
}

/// Percent-encodes what would make a key ambiguous or unreadable.
pub fn escape(value: &[u8], out: &mut String) {
    for &b in value {
        if b.is_ascii_graphic() && !matches!(b, b'#' | b'%' | b',') {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
}

fn push_hash(value: &[u8], out: &mut String) {
    for b in &blake3::hash(value).as_bytes()[..16] {
        let _ = write!(out, "{b:02x}");
    }
}

/// Keeps the first `keep` bytes and a hash of the whole, so that long keys stay distinct.
fn shorten(key: &mut String, keep: usize) {
    let hash = blake3::hash(key.as_bytes());
    key.truncate((0..=keep.min(key.len())).rev().find(|at| key.is_char_boundary(*at)).unwrap_or(0));
    key.push_str("#long=");
    for b in &hash.as_bytes()[..16] {
        let _ = write!(key, "{b:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NamePattern;
    use crate::template::Template;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut h = HeaderMap::new();
        for (n, v) in lines {
            h.append(*n, v.parse().unwrap());
        }
        h
    }
    fn key(policy: &RoutePolicy, path: &str, query: Option<&str>, params: &[&str], h: &HeaderMap) -> String {
        let mut out = String::new();
        build(policy, &Keyed { host: "h:1", path, query, headers: h, params, https: false }, &mut out);
        out
    }
    fn user_route() -> RoutePolicy {
        let key = Template::parse("user:{id}", &["id".to_string()]).unwrap();
        RoutePolicy { key: Some(key), ..RoutePolicy::default_route() }
    }

    #[test]
    fn without_a_template_the_key_is_host_path_and_query() {
        let p = RoutePolicy::default_route();
        assert_eq!(key(&p, "/users/1", Some("b=2&a=1"), &[], &HeaderMap::new()), "//h:1/users/1?b=2&a=1");
    }

    #[test]
    fn a_template_is_followed_by_what_else_identifies_the_response() {
        let mut p = user_route();
        let h = headers(&[("accept-language", "de, en"), ("cookie", "a=1; tenant=x#y"), ("authorization", "Bearer t")]);
        assert_eq!(key(&p, "/users/1", None, &["1"], &h), "user:1");
        assert_eq!(key(&p, "/users/1", Some("fields=name"), &["1"], &h), "user:1?fields=name");
        p.vary = vec![http::header::ACCEPT_LANGUAGE];
        p.cookies = CookieRule::Key(vec!["tenant".into()]);
        p.authorization = AuthorizationRule::Key;
        let got = key(&p, "/users/1", None, &["1"], &h);
        assert!(got.starts_with("user:1#accept-language=de,en#cookie:tenant=x%23y#auth="), "{got}");
        assert!(!got.contains("Bearer"));
    }

    #[test]
    fn query_rules_choose_and_sort_parameters() {
        let names = |n: &str| vec![NamePattern::parse(n).unwrap()];
        let q = Some("b=2&utm_x=1&a=1&a=0");
        for (query, sort, want) in [
            (QueryRule::All, true, "//h:1/?a=1&a=0&b=2&utm_x=1"),
            (QueryRule::Ignore, false, "//h:1/"),
            (QueryRule::Only(names("a")), true, "//h:1/?a=1&a=0"),
            (QueryRule::Except(names("utm_*")), true, "//h:1/?a=1&a=0&b=2"),
        ] {
            let p = RoutePolicy { query, sort, ..RoutePolicy::default_route() };
            assert_eq!(key(&p, "/", q, &[], &HeaderMap::new()), want);
        }
    }

    #[test]
    fn a_parameter_whose_name_is_encoded_is_in_the_key() {
        let query = QueryRule::Only(vec![NamePattern::parse("page").unwrap()]);
        let p = RoutePolicy { query, sort: true, ..RoutePolicy::default_route() };
        let of = |q| key(&p, "/", Some(q), &[], &HeaderMap::new());
        assert_eq!(of("page=1&x=2"), "//h:1/?page=1");
        assert_ne!(of("page=1&%70age=2"), of("page=1"));
    }

    #[test]
    fn values_can_not_forge_the_parts_of_another_key() {
        let p = RoutePolicy {
            vary: vec![HeaderName::from_static("x-a"), HeaderName::from_static("x-b")],
            ..RoutePolicy::default_route()
        };
        let forged = key(&p, "/", None, &[], &headers(&[("x-a", "1#x-b=2")]));
        let honest = key(&p, "/", None, &[], &headers(&[("x-a", "1"), ("x-b", "2")]));
        assert_ne!(forged, honest);
        let absent = key(&p, "/", None, &[], &headers(&[("x-b", "2")]));
        let empty = key(&p, "/", None, &[], &headers(&[("x-a", ""), ("x-b", "2")]));
        assert_ne!(absent, empty);
    }

    #[test]
    fn long_keys_stay_distinct_and_bounded() {
        let p = RoutePolicy::default_route();
        let long = "x".repeat(3000);
        let a = key(&p, "/", Some(&format!("{long}a")), &[], &HeaderMap::new());
        let b = key(&p, "/", Some(&format!("{long}b")), &[], &HeaderMap::new());
        assert!(a != b && a.len() <= 2 * MAX_KEY && b.len() <= 2 * MAX_KEY);
    }
}
