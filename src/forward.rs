//! What changes in a message on its way through an intermediary: RFC 9110 section 7.6, the `X-Forwarded-*`
//! fields and `Forwarded` (RFC 7239).
//!
//! What a client claims about itself is believed only from `upstream.trusted_proxies`. On cached routes the
//! fields by which frameworks let a request override its own target or method are dropped, and the client's
//! host is passed on only where it is in the key: nothing that is not keyed can steer what is stored for all.

use std::net::IpAddr;

use http::header::{CONNECTION, COOKIE, FORWARDED, HOST, TE, UPGRADE, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::config::{CookieRule, HostHeader, Inputs, RoutePolicy, Upstream};
use crate::control::split_list;
use crate::entry::HOP_BY_HOP;
use crate::route::HostPattern;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Tells upstream that Surrogate-Control is understood here, and by which name.
const SURROGATE_CAPABILITY: HeaderName = HeaderName::from_static("surrogate-capability");
const NAME: &str = "asidecar";

/// Fields that override the request's own target, method or origin in some framework; never keyed, so never
/// passed on where a response may be stored.
const OVERRIDES: [&str; 14] = [
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-scheme",
    "x-forwarded-path",
    "x-host",
    "x-original-url",
    "x-original-host",
    "x-rewrite-url",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-http-host-override",
    "x-url-scheme",
];

/// Claims of being a certain client.
const CLIENT_CLAIMS: [&str; 6] =
    ["x-real-ip", "true-client-ip", "cf-connecting-ip", "x-client-ip", "x-cluster-client-ip", "fastly-client-ip"];

/// What is said of the client, in place of what it says of itself.
static DESCRIPTION: [HeaderName; 4] = [X_FORWARDED_FOR, FORWARDED, X_FORWARDED_PROTO, X_FORWARDED_HOST];

/// Who sent a request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address the connection came from.
    pub ip: IpAddr,
    /// Whether it is one of the trusted proxies.
    pub trusted: bool,
    /// The address, for `X-Forwarded-For`.
    address: HeaderValue,
    /// And for `Forwarded` (RFC 7239 section 6): `for=` and a node.
    node: Box<str>,
}

impl Peer {
    /// The sender at an address.
    pub fn new(ip: IpAddr, upstream: &Upstream) -> Peer {
        let trusted = upstream.trusted_proxies.iter().any(|net| net.contains(&ip));
        let address = ip.to_canonical().to_string();
        let node = if address.contains(':') { format!("for=\"[{address}]\"") } else { format!("for={address}") };
        let address = HeaderValue::try_from(address).unwrap_or(HeaderValue::from_static("unknown"));
        Peer { ip, trusted, address, node: node.into() }
    }
}

/// Removes the fields that belong to one connection: the known ones and those that Connection names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none, and looking at what is there is cheaper than looking for each.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    for name in nominated(headers) {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Removes the fields that a request's Connection names, and nothing else: so early that nothing is keyed or
/// decided by a field that goes no further. The fields that say how this connection goes on stay for now.
pub fn remove_nominated(headers: &mut HeaderMap) {
    for name in nominated(headers) {
        if !HOP_BY_HOP.contains(&name) {
            headers.remove(name);
        }
    }
}

/// The fields that Connection names.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    // Nearly all messages nominate nothing: no allocation then.
    if !headers.contains_key(CONNECTION) {
        return Vec::new();
    }
    let names = headers.get_all(CONNECTION).iter().flat_map(|line| split_list(line.as_bytes()));
    names.filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}

/// Whether a request asks to become a tunnel: an upgrade that Connection names (RFC 9110 section 7.8), with GET
/// as WebSocket has it. Anything else goes its usual way without its Upgrade field, which every server may
/// ignore: a write must not lose its invalidation to one, and `h2c`, which many clients offer by default, is
/// obsolete (RFC 9113 section 3.1).
pub fn asks_tunnel(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::GET
        && headers.get(UPGRADE).is_some_and(|protocol| !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"))
        && headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|line| split_list(line.as_bytes()))
            .any(|name| name.eq_ignore_ascii_case(b"upgrade"))
}

/// Whether a trusted proxy says that the client spoke https.
pub fn spoke_https(headers: &HeaderMap, peer: &Peer) -> bool {
    peer.trusted && headers.get(X_FORWARDED_PROTO).is_some_and(|p| p.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// The fields of a request as they go upstream. `host` is the client's. `stored` says that the response may be
/// stored: then nothing goes that could steer it without being in the key.
pub fn to_upstream(
    headers: &HeaderMap,
    host: &str,
    peer: &Peer,
    upstream: &Upstream,
    policy: &RoutePolicy,
    stored: bool,
    version: Version,
) -> HeaderMap {
    let host = host_for_upstream(policy, host, stored);
    let host_value = host.and_then(|host| value_of(headers, host));
    let mut out = HeaderMap::with_capacity(headers.len() + 8);
    out.append(
        HOST,
        match (upstream.host, &host_value) {
            (HostHeader::Preserve, Some(host)) => host.clone(),
            _ => upstream.url.host().clone(),
        },
    );
    let keyed = (stored && policy.inputs == Inputs::Keyed).then(|| keyed_fields(headers, policy));
    let fields = keyed.as_ref().unwrap_or(headers);
    let named = nominated(headers);
    let stays = |name: &HeaderName| {
        let text = name.as_str();
        *name == HOST
            || HOP_BY_HOP.contains(name)
            || DESCRIPTION.contains(name)
            || named.contains(name)
            || (!peer.trusted && (CLIENT_CLAIMS.contains(&text) || (stored && OVERRIDES.contains(&text))))
    };
    let (mut transfer_codings, mut cookies) = (false, 0);
    for (name, value) in fields {
        cookies += usize::from(*name == COOKIE);
        if !stays(name) {
            out.append(name.clone(), value.clone());
        }
        transfer_codings |= *name == TE;
    }
    if (transfer_codings || keyed.is_some()) && te_trailers(headers) {
        out.insert(TE, HeaderValue::from_static("trailers"));
        out.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if stored && !matches!(policy.cookies, CookieRule::Bypass | CookieRule::Origin) {
        // Cookies that are not in the key must not steer what is stored for all.
        match keyed_cookies(headers, policy) {
            Some(cookies) => out.insert(COOKIE, cookies),
            None => out.remove(COOKIE),
        };
    }
    if cookies > 1 {
        join_cookies(&mut out);
    }
    // The same for everybody: what a client says of itself here must not steer what is stored.
    out.insert(SURROGATE_CAPABILITY, HeaderValue::from_static("asidecar=\"Surrogate/1.0\""));
    describe_client(&mut out, fields, host, host_value, peer);
    append_via(&mut out, version);
    out
}

/// A host as a field's value: the client's own, where it is that.
fn value_of(headers: &HeaderMap, host: &str) -> Option<HeaderValue> {
    let own = headers.get(HOST).filter(|own| own.as_bytes() == host.as_bytes()).cloned();
    own.or_else(|| HeaderValue::from_str(host).ok())
}

/// Whether a client takes trailers.
fn te_trailers(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(TE).iter().flat_map(|line| split_list(line.as_bytes()));
    codings.into_iter().any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

/// The client's host as far as upstream may know it: all of it where nothing is stored or the key holds it; under
/// a template only the one name that the route is for (the port is the client's free choice), else nothing.
fn host_for_upstream<'r>(policy: &'r RoutePolicy, host: &'r str, stored: bool) -> Option<&'r str> {
    match (&policy.key, &policy.host) {
        _ if !stored => Some(host),
        (None, _) => Some(host),
        (Some(_), Some(HostPattern::Exact(name))) => Some(name),
        (Some(_), _) => None,
    }
}

/// HTTP/2 may split Cookie into several lines; HTTP/1.1 knows one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// What `inputs = "keyed"` lets through: the fields that are in the key.
fn keyed_fields(headers: &HeaderMap, policy: &RoutePolicy) -> HeaderMap {
    let mut out = HeaderMap::new();
    for name in &policy.vary {
        for value in headers.get_all(name) {
            out.append(name.clone(), value.clone());
        }
    }
    if policy.authorization == crate::config::AuthorizationRule::Key
        && let Some(value) = headers.get(http::header::AUTHORIZATION)
    {
        out.insert(http::header::AUTHORIZATION, value.clone());
    }
    if let Some(cookies) = keyed_cookies(headers, policy) {
        out.insert(COOKIE, cookies);
    }
    out
}

/// The cookies that are in the key, as one field.
fn keyed_cookies(headers: &HeaderMap, policy: &RoutePolicy) -> Option<HeaderValue> {
    let CookieRule::Key(names) = &policy.cookies else { return None };
    let pair = |name: &String| crate::key::cookie(headers, name).map(|value| [name.as_bytes(), b"=", value].concat());
    let pairs: Vec<Vec<u8>> = names.iter().filter_map(pair).collect();
    HeaderValue::from_bytes(&pairs.join(&b"; "[..])).ok().filter(|cookies| !cookies.is_empty())
}

/// `X-Forwarded-For/-Proto/-Host` and `Forwarded`: what a trusted proxy said in `fields` is extended.
fn describe_client(
    out: &mut HeaderMap,
    fields: &HeaderMap,
    host: Option<&str>,
    host_value: Option<HeaderValue>,
    peer: &Peer,
) {
    // Exactly as much as it takes becomes a value as it is.
    let host_length = host.map_or(0, |host| host.len() + ";host=\"\"".len());
    let mut node = String::with_capacity(peer.node.len() + host_length + ";proto=http".len());
    node.push_str(&peer.node);
    if let Some(host) = host {
        node.push_str(";host=\"");
        node.extend(host.split(['"', '\\']));
        node.push('"');
    }
    node.push_str(";proto=http");
    let node = HeaderValue::try_from(node).ok();
    let mut description = [Some(peer.address.clone()), node, Some(HeaderValue::from_static("http")), host_value];
    if peer.trusted {
        let [address, node, proto, host] = &mut description;
        for (name, value) in [(&X_FORWARDED_FOR, address), (&FORWARDED, node)] {
            if let (Some(before), Some(own)) = (claimed(fields, name), &*value) {
                *value = HeaderValue::from_bytes(&[&before, &b", "[..], own.as_bytes()].concat()).ok();
            }
        }
        for (name, value) in [(&X_FORWARDED_PROTO, proto), (&X_FORWARDED_HOST, host)] {
            if let (Some(before), Some(_)) = (claimed(fields, name), &*value) {
                *value = HeaderValue::from_bytes(&before).ok();
            }
        }
    }
    for (name, value) in DESCRIPTION.iter().zip(description) {
        if let Some(value) = value {
            out.append(name.clone(), value);
        }
    }
}

/// What is said of the client already.
fn claimed(fields: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = fields.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    (!lines.is_empty()).then(|| lines.join(&b", "[..]))
}

/// Appends this hop to Via (RFC 9110 section 7.6.3).
pub fn append_via(headers: &mut HeaderMap, received: Version) {
    let hop = match received {
        Version::HTTP_10 => HeaderValue::from_static("1.0 asidecar"),
        Version::HTTP_2 => HeaderValue::from_static("2.0 asidecar"),
        _ => HeaderValue::from_static("1.1 asidecar"),
    };
    headers.append(VIA, hop);
}

/// Whether a request has been here so often already that it must be going in circles.
pub fn loops(headers: &HeaderMap) -> bool {
    let ours = |hop: &[u8]| hop.trim_ascii().ends_with(NAME.as_bytes());
    let times = headers.get_all(VIA).iter().flat_map(|l| split_list(l.as_bytes())).filter(|hop| ours(hop)).count();
    times >= 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UpstreamUrl;
    use crate::template::Template;

    fn upstream() -> Upstream {
        let authority = "api.internal:9000".parse().unwrap();
        let mut u = Upstream::at(UpstreamUrl::new(false, authority, String::new()));
        u.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        u
    }
    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut h = HeaderMap::new();
        for (n, v) in lines {
            h.append(*n, v.parse().unwrap());
        }
        h
    }
    fn sent(policy: &RoutePolicy, from: &str, stored: bool, lines: &[(&'static str, &str)]) -> HeaderMap {
        let u = upstream();
        let peer = Peer::new(from.parse().unwrap(), &u);
        to_upstream(&headers(lines), "public.example", &peer, &u, policy, stored, Version::HTTP_11)
    }
    fn text<'h>(h: &'h HeaderMap, name: &str) -> &'h str {
        h.get(name).map_or("", |v| v.to_str().unwrap())
    }

    #[test]
    fn connection_fields_and_what_connection_names_stay_here() {
        let p = RoutePolicy::default_route();
        let got = sent(
            &p,
            "1.2.3.4",
            false,
            &[
                ("connection", "close, X-Mine"),
                ("x-mine", "1"),
                ("keep-alive", "1"),
                ("te", "trailers, deflate"),
                ("upgrade", "h2c"),
                ("x-yours", "1"),
            ],
        );
        assert!(!got.contains_key("x-mine") && !got.contains_key("keep-alive") && !got.contains_key("upgrade"));
        assert_eq!((text(&got, "te"), text(&got, "connection"), text(&got, "x-yours")), ("trailers", "te", "1"));
    }

    #[test]
    fn what_an_unknown_client_claims_is_replaced_and_what_a_trusted_proxy_says_is_extended() {
        let p = RoutePolicy::default_route();
        let claims = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
        ];
        let got = sent(&p, "1.2.3.4", false, &claims);
        assert_eq!((text(&got, "x-forwarded-for"), text(&got, "x-forwarded-proto")), ("1.2.3.4", "http"));
        assert_eq!(text(&got, "forwarded"), "for=1.2.3.4;host=\"public.example\";proto=http");
        assert!(!got.contains_key("x-real-ip"));
        let got = sent(&p, "10.0.0.1", false, &claims);
        assert_eq!((text(&got, "x-forwarded-for"), text(&got, "x-forwarded-proto")), ("6.6.6.6, 10.0.0.1", "https"));
        assert_eq!(text(&got, "x-real-ip"), "6.6.6.6");
    }

    #[test]
    fn nothing_unkeyed_can_steer_a_response_that_is_stored_for_all() {
        let mut p = RoutePolicy::default_route();
        p.key = Some(Template::parse("user", &[]).unwrap());
        let overrides =
            [("x-original-url", "/admin"), ("x-http-method-override", "DELETE"), ("x-forwarded-host", "evil")];
        let got = sent(&p, "1.2.3.4", true, &overrides);
        for name in ["x-original-url", "x-http-method-override", "x-forwarded-host"] {
            assert!(!got.contains_key(name), "{name}");
        }
        assert!(!text(&got, "forwarded").contains("host="));
        assert_eq!(text(&got, "host"), "api.internal:9000");
        p.host = Some(HostPattern::parse("*.example").unwrap());
        assert!(!sent(&p, "1.2.3.4", true, &overrides).contains_key("x-forwarded-host"), "many hosts, one key");
        p.host = Some(HostPattern::parse("public.example").unwrap());
        assert_eq!(text(&sent(&p, "1.2.3.4", true, &overrides), "x-forwarded-host"), "public.example", "one host");
        (p.key, p.host) = (None, None);
        assert_eq!(text(&sent(&p, "1.2.3.4", true, &overrides), "x-forwarded-host"), "public.example", "it is keyed");
    }

    #[test]
    fn cookies_that_are_not_in_the_key_do_not_reach_upstream_when_the_response_may_be_stored() {
        let mut p = RoutePolicy { cookies: CookieRule::Ignore, ..RoutePolicy::default_route() };
        let cookie = [("cookie", "s=1; tenant=x")];
        assert_eq!(text(&sent(&p, "1.2.3.4", true, &cookie), "cookie"), "");
        assert_eq!(text(&sent(&p, "1.2.3.4", false, &cookie), "cookie"), "s=1; tenant=x");
        p.cookies = CookieRule::Key(vec!["tenant".into()]);
        assert_eq!(text(&sent(&p, "1.2.3.4", true, &cookie), "cookie"), "tenant=x");
        p.cookies = CookieRule::Bypass;
        assert_eq!(text(&sent(&p, "1.2.3.4", true, &cookie), "cookie"), "s=1; tenant=x");
    }

    #[test]
    fn keyed_inputs_let_nothing_else_through() {
        let mut p = RoutePolicy { inputs: Inputs::Keyed, ..RoutePolicy::default_route() };
        p.vary = vec![http::header::ACCEPT_LANGUAGE];
        p.cookies = CookieRule::Key(vec!["tenant".into()]);
        let got = sent(&p, "1.2.3.4", true, &[("accept-language", "de"), ("x-a", "1"), ("cookie", "s=1; tenant=x")]);
        assert_eq!((text(&got, "accept-language"), text(&got, "cookie")), ("de", "tenant=x"));
        assert!(!got.contains_key("x-a"));
    }

    #[test]
    fn via_grows_by_one_and_a_loop_is_noticed() {
        let p = RoutePolicy::default_route();
        let got = sent(&p, "1.2.3.4", false, &[("via", "1.1 other")]);
        let hops: Vec<_> = got.get_all("via").iter().collect();
        assert_eq!(hops, ["1.1 other", "1.1 asidecar"]);
        assert!(!loops(&got));
        assert!(loops(&headers(&[("via", &["1.1 asidecar"; 8].join(", "))])));
    }
}
