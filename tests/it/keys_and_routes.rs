//! What identifies a response, which route a request belongs to, and what a route's policy says.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::support::{Answer, Instance, Origin, Wire, eventually, ok, status, with};

/// The clock goes on while it is turned; so much time has room before a lifetime's end.
const MARGIN: Duration = Duration::from_secs(3);

/// One route for everything, with these lines.
fn everything(lines: &str) -> String {
    format!("[[route]]\nname = \"all\"\nmatch = \"/{{*rest}}\"\nttl = \"60s\"\n{lines}\n")
}

/// The stored entries, by key.
async fn entries(proxy: &Instance) -> Vec<Value> {
    let answer = proxy.admin(Method::GET, "/api/entries?limit=500", &[], "").await;
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    let mut entries = body["entries"].as_array().unwrap().clone();
    entries.sort_by_key(|e| e["key"].as_str().unwrap().to_string());
    entries
}

async fn keys(proxy: &Instance) -> Vec<String> {
    entries(proxy).await.iter().map(|e| e["key"].as_str().unwrap().to_string()).collect()
}

/// A GET for this host, by hand, and then waits until what it filled is stored.
async fn fill_at(proxy: &Instance, host: &str, path: &str, fields: &str) -> Answer {
    let mut client = Wire::connect(proxy.server.proxy).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
    let answer = client.answer().await;
    eventually("the fill is over", || async { proxy.server.core.metrics.fills_in_flight.get() == 0 }).await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_names_entries_readably_and_a_query_makes_another_one() {
    let origin = Origin::counting("max-age=60").await;
    let route =
        "[[route]]\nname = \"user\"\nmatch = \"/users/{id}\"\nkey = \"user:{id}\"\ntags = [\"user:{id}\", \"users\"]\n";
    let proxy = Instance::start(&origin, route);
    proxy.fill("/users/1").await;
    proxy.fill("/users/1?fields=name").await;
    let entries = entries(&proxy).await;
    assert_eq!(entries[0]["key"], "user:1");
    assert_eq!(entries[1]["key"], "user:1?fields=name");
    assert_eq!(entries[0]["route"], "user");
    assert_eq!(entries[0]["tags"], serde_json::json!(["user:1", "users"]));
    assert!(proxy.get("/users/1").await.is_hit("memory"));
    assert_eq!(proxy.get("/users/1?fields=name").await.body, "call 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_template_host_path_and_query_are_the_key() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    for (host, path) in [("A.example", "/a"), ("a.example:81", "/a"), ("a.example", "/a?x"), ("a.example", "/%61")] {
        fill_at(&proxy, host, path, "").await;
    }
    assert_eq!(keys(&proxy).await, ["//a.example/%61", "//a.example/a", "//a.example/a?x", "//a.example:81/a"]);
    assert_eq!(origin.calls(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_in_the_path_can_not_forge_another_key() {
    let origin = Origin::counting("max-age=60").await;
    let routes = "[[route]]\nname = \"pair\"\nmatch = \"/p/{a}/{b}\"\nkey = \"p:{a}:{b}\"\n";
    let proxy = Instance::start(&origin, routes);
    for path in ["/p/1:2/3", "/p/1/2:3", "/p/1%3A2/3", "/p/1/2%3A3", "/p/1/2?b", "/p/1/2%3Fb", "/p/1/2%23b"] {
        proxy.fill(path).await;
    }
    assert_eq!(keys(&proxy).await.len(), 7, "{:?}", keys(&proxy).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn query_rules_say_which_parameters_tell_responses_apart() {
    for (rule, same, different) in [
        ("query = \"all\"", "/s?b=2&a=1", "/s?a=1&b=2"),
        ("query = \"sort\"", "/s?a=1&b=2", "/s?a=2&b=2"),
        ("query = \"ignore\"", "/s?anything", "/t"),
        ("query = { only = [\"a\"] }", "/s?utm=x&a=1", "/s?b=2&a=2"),
        ("query = { except = [\"b\", \"utm_*\"] }", "/s?utm_source=x&a=1&b=9", "/s?a=1&c=1"),
    ] {
        let origin = Origin::counting("").await;
        let proxy = Instance::start(&origin, &everything(rule));
        proxy.fill("/s?b=2&a=1").await;
        assert!(proxy.get(same).await.is_hit("memory"), "{rule}");
        assert!(!proxy.fill(different).await.is_hit("memory"), "{rule}");
        assert_eq!(origin.seen()[0].target, "/s?b=2&a=1", "{rule}: upstream sees what the client sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fields_of_the_vary_list_are_in_the_key_whether_upstream_says_so_or_not() {
    let origin = Origin::start(|seen| async move { ok(seen.header("accept-language").to_string()) }).await;
    let proxy = Instance::start(&origin, &everything("vary = [\"accept-language\"]"));
    for _ in 0..2 {
        for language in ["de", "en"] {
            assert_eq!(fill_at(&proxy, "h", "/a", &format!("Accept-Language: {language}\r\n")).await.body, language);
        }
    }
    assert_eq!(origin.calls(), 2);
    assert_eq!(keys(&proxy).await, ["//h/a#accept-language=de", "//h/a#accept-language=en"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_that_are_ignored_do_not_keep_responses_apart() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, &everything("cookies = \"ignore\""));
    proxy.fill("/a").await;
    assert!(proxy.get_with("/a", &[("cookie", "session=1")]).await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_that_are_keyed_keep_responses_apart_and_others_do_not() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, &everything("cookies = { key = [\"tenant\"] }"));
    fill_at(&proxy, "h", "/a", "Cookie: session=1; tenant=x\r\n").await;
    fill_at(&proxy, "h", "/a", "Cookie: tenant=y\r\n").await;
    assert!(fill_at(&proxy, "h", "/a", "Cookie: tenant=x; session=2\r\n").await.is_hit("memory"));
    assert_eq!(keys(&proxy).await, ["//h/a#cookie:tenant=x", "//h/a#cookie:tenant=y"]);
    assert_eq!(fill_at(&proxy, "h", "/a", "").await.body, "call 3", "no cookie is a third value");
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_bypass_unless_the_response_says_that_it_is_for_all() {
    for (cache_control, shared) in [("max-age=60", false), ("public, max-age=60", true), ("s-maxage=60", true)] {
        let origin = Origin::counting(cache_control).await;
        let proxy = Instance::start(&origin, &everything(""));
        fill_at(&proxy, "h", "/a", "Cookie: session=1\r\n").await;
        let other = fill_at(&proxy, "h", "/a", "Cookie: session=2\r\n").await;
        assert_eq!(other.is_hit("memory"), shared, "{cache_control}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_keyed_have_an_entry_each_and_are_not_shown() {
    let origin = Origin::start(|seen| async move { ok(seen.header("authorization").to_string()) }).await;
    let proxy = Instance::start(&origin, &everything("authorization = \"key\""));
    for _ in 0..2 {
        for credential in ["Bearer one", "Bearer two", "Basic b25l"] {
            let answer = fill_at(&proxy, "h", "/me", &format!("Authorization: {credential}\r\n")).await;
            assert_eq!(answer.body, credential);
        }
        assert_eq!(fill_at(&proxy, "h", "/me", "").await.body, "", "and nobody has one too");
    }
    assert_eq!(origin.calls(), 4);
    let keys = keys(&proxy).await;
    assert_eq!(keys.len(), 4);
    for key in keys {
        assert!(!key.contains("one") && !key.contains("two") && !key.contains("b25l"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_behind_a_trusted_proxy_that_spoke_https_has_entries_of_its_own() {
    let origin = Origin::start(|seen| async move { ok(seen.header("x-forwarded-proto").to_string()) }).await;
    for (networks, apart) in [("[\"127.0.0.1\"]", true), ("[]", false)] {
        let config = format!("[upstream]\ntrusted_proxies = {networks}\n{}", everything(""));
        let proxy = Instance::start(&origin, &config);
        assert_eq!(fill_at(&proxy, "h", "/a", "").await.body, "http");
        let secure = fill_at(&proxy, "h", "/a", "X-Forwarded-Proto: https\r\n").await;
        assert_eq!(secure.body == "https", apart, "{networks}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lifetimes_go_by_status_then_by_class_then_by_ttl() {
    let origin = Origin::start(|seen| async move { status(seen.target[1..].parse().unwrap()) }).await;
    let lines = "ttl_by_status = { \"404\" = \"5s\", \"4xx\" = \"10s\", \"500\" = \"4s\" }";
    let proxy = Instance::start(&origin, &everything(lines));
    for (path, seconds) in [("/200", 60), ("/404", 5), ("/403", 10), ("/410", 10), ("/500", 4)] {
        proxy.fill(path).await;
        proxy.clock.advance(Duration::from_secs(seconds) - MARGIN);
        assert!(proxy.get(path).await.is_hit("memory"), "{path}");
        proxy.clock.advance(MARGIN);
        assert!(proxy.fill(path).await.cache_status().contains("fwd=stale"), "{path}");
    }
    for path in ["/502", "/302", "/206"] {
        proxy.fill(path).await;
        assert!(!proxy.fill(path).await.is_hit("memory"), "{path}: ttl is for what is cacheable by default");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jitter_shortens_lifetimes_within_its_bounds_and_differently_for_each_key() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, &everything("ttl_jitter = 0.5"));
    for n in 0..40 {
        proxy.get(&format!("/{n}")).await;
    }
    eventually("all are stored", || async { entries(&proxy).await.len() == 40 }).await;
    let left: Vec<f64> = entries(&proxy).await.iter().map(|e| e["ttl_seconds"].as_f64().unwrap()).collect();
    // Some seconds may have gone by since.
    assert!(left.iter().all(|ttl| (15.0..=60.0).contains(ttl)), "{left:?}");
    let (least, most) = left.iter().fold((60.0f64, 0.0f64), |(a, b), ttl| (a.min(*ttl), b.max(*ttl)));
    assert!(most - least > 10.0, "they are spread: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_lifetime_counts_is_for_the_route_to_say() {
    for (rule, origin_says, seconds) in [
        ("origin = \"respect\"", "max-age=10", Some(10)),
        ("origin = \"respect\"", "", Some(60)),
        ("origin = \"respect\"", "no-store", None),
        ("origin = \"cap\"", "max-age=10", Some(10)),
        ("origin = \"cap\"", "max-age=600", Some(60)),
        ("origin = \"cap\"", "no-store", None),
        ("origin = \"override\"", "max-age=10", Some(60)),
        ("origin = \"override\"", "max-age=600", Some(60)),
        ("origin = \"override\"", "no-store", Some(60)),
        ("origin = \"override\"", "private", None),
    ] {
        let origin = Origin::counting(origin_says).await;
        let proxy = Instance::start(&origin, &everything(rule));
        proxy.fill("/a").await;
        let Some(seconds) = seconds else {
            assert_eq!(proxy.get("/a").await.body, "call 2", "{rule}, {origin_says}");
            continue;
        };
        proxy.clock.advance(Duration::from_secs(seconds) - MARGIN);
        assert!(proxy.get("/a").await.is_hit("memory"), "{rule}, {origin_says}");
        proxy.clock.advance(MARGIN);
        assert!(!proxy.fill("/a").await.is_hit("memory"), "{rule}, {origin_says}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_specific_route_wins_and_what_none_matches_goes_by_default() {
    let origin = Origin::counting("").await;
    let routes = r#"
[[route]]
name = "any_user"
match = "/users/{id}"

[[route]]
name = "me"
match = "/users/me"

[[route]]
name = "below"
match = "/users/{id}/{*rest}"

[[route]]
name = "host"
host = "api.example"
match = "/users/{id}"

[[route]]
name = "hosts"
host = "*.example"
match = "/users/{id}"

[[route]]
name = "write"
match = "/users/{id}"
methods = ["PUT"]
"#;
    let proxy = Instance::start(&origin, routes);
    for (route, method, host, path) in [
        ("any_user", "GET", "other", "/users/1"),
        ("me", "GET", "other", "/users/me"),
        ("below", "GET", "other", "/users/1/posts"),
        ("host", "GET", "API.example:8080", "/users/1"),
        ("hosts", "GET", "b.c.example", "/users/1"),
        ("any_user", "GET", "example", "/users/1"),
        ("write", "PUT", "other", "/users/1"),
        ("any_user", "DELETE", "other", "/users/1"),
        ("any_user", "HEAD", "other", "/users/1"),
        ("default", "GET", "other", "/else"),
        ("me", "GET", "api.example", "/users/me?x"),
    ] {
        let counted = || {
            let routes = &proxy.server.core.config.routes;
            let at = routes.iter().position(|r| r.name == route).unwrap();
            let metrics = &proxy.server.core.metrics.routes[at];
            asidecar::words::Outcome::ALL.iter().map(|o| metrics.requests_with(*o)).sum::<u64>()
        };
        let before = counted();
        let mut client = Wire::connect(proxy.server.proxy).await;
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        client.rest().await;
        let want = if path == "/users/me?x" { before } else { before + 1 };
        assert_eq!(counted(), want, "{method} {host}{path} belongs to {route}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keyed_inputs_upstream_sees_nothing_but_what_is_in_the_key() {
    let origin = Origin::counting("").await;
    let lines = "inputs = \"keyed\"\nquery = { only = [\"page\"] }\nvary = [\"accept-language\"]\n\
                 cookies = { key = [\"tenant\"] }\nauthorization = \"key\"";
    let proxy = Instance::start(&origin, &everything(lines));
    let fields = "Accept-Language: de\r\nAccept: text/html\r\nUser-Agent: x\r\nReferer: /secret\r\nX-Custom: 1\r\n\
                  Cookie: session=1; tenant=x\r\nAuthorization: Bearer t\r\nOrigin: http://a\r\nIf-None-Match: \"v\"\r\n";
    fill_at(&proxy, "h", "/a?debug=1&page=2", fields).await;
    let seen = &origin.seen()[0];
    assert_eq!(seen.target, "/a?page=2");
    let mut names: Vec<&str> = seen.headers.keys().map(|n| n.as_str()).collect();
    names.sort_unstable();
    let described = [
        "forwarded",
        "host",
        "surrogate-capability",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    ];
    let mut want = [&["accept-language", "authorization", "cookie"][..], &described].concat();
    want.sort_unstable();
    assert_eq!(names, want);
    assert_eq!(seen.header("cookie"), "tenant=x");
    // What a HEAD is answered may renew or remove what is stored.
    proxy.send(Method::HEAD, "/b?evil=1&page=2", &[], "").await;
    assert_eq!(origin.seen()[1].target, "/b?page=2");
}

const OVERRIDES: [(&str, &str); 10] = [
    ("x-original-url", "/admin"),
    ("x-rewrite-url", "/admin"),
    ("x-http-method-override", "DELETE"),
    ("x-http-method", "DELETE"),
    ("x-method-override", "DELETE"),
    ("x-forwarded-port", "6666"),
    ("x-forwarded-prefix", "/evil"),
    ("x-forwarded-scheme", "evil"),
    ("x-host", "evil.example"),
    ("x-forwarded-server", "evil.example"),
];

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_override_the_request_do_not_steer_what_is_stored() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    proxy.get_with("/a", &OVERRIDES).await;
    proxy.send(Method::HEAD, "/b", &OVERRIDES, "").await;
    for seen in origin.seen() {
        for (name, _) in OVERRIDES {
            assert!(!seen.headers.contains_key(name), "{} {name}", seen.method);
        }
    }
    proxy.send(Method::POST, "/c", &OVERRIDES, "").await;
    assert_eq!(origin.seen()[2].header("x-http-method-override"), "DELETE", "what is not stored passes as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_in_the_key_does_not_steer_what_is_stored() {
    for host in ["upstream", "preserve"] {
        for (narrowed, want) in [("", ""), ("host = \"*.example\"", ""), ("host = \"a.example\"", "a.example")] {
            let origin = Origin::counting("max-age=60").await;
            let route =
                format!("[[route]]\nname = \"user\"\nmatch = \"/users/{{id}}\"\nkey = \"user:{{id}}\"\n{narrowed}\n");
            let proxy = Instance::start(&origin, &format!("[upstream]\nhost = \"{host}\"\n{route}"));
            fill_at(&proxy, "a.example:6666", "/users/1", "X-Forwarded-Host: evil.example\r\n").await;
            let seen = &origin.seen()[0];
            assert_eq!(seen.header("x-forwarded-host"), want, "{host}, {narrowed}");
            assert_eq!(seen.header("forwarded").contains("host="), !want.is_empty(), "{host}, {narrowed}");
            let own = origin.address.to_string();
            let sent = if host == "preserve" && !want.is_empty() { want } else { &own };
            assert_eq!(seen.header("host"), sent, "{host}, {narrowed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_exactly_the_limit_is_stored_and_one_byte_more_is_not() {
    let origin = Origin::start(|seen| async move {
        with(ok(vec![b'x'; seen.target[1..].parse().unwrap()]), &[("cache-control", "max-age=60")])
    })
    .await;
    let proxy = Instance::start(&origin, &everything("max_object = \"1KiB\""));
    for (path, stored) in [("/1024", true), ("/1025", false)] {
        proxy.fill(path).await;
        assert_eq!(proxy.fill(path).await.is_hit("memory"), stored, "{path}");
    }
    assert_eq!(proxy.metric("not_stored_total{reason=\"too_large\",route=\"all\"}").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_without_a_cache_passes_everything_and_says_so() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "[[route]]\nname = \"live\"\nmatch = \"/live\"\ncache = false\n");
    for call in ["call 1", "call 2"] {
        let answer = proxy.get("/live").await;
        assert_eq!(answer.body, call);
        assert_eq!(answer.cache_status(), "asidecar; fwd=bypass; fwd-status=200; detail=route");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_does_not_hold_goes_past_the_cache() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    for (fields, word) in
        [(&[("if-match", "\"v\"")][..], "precondition"), (&[("cache-control", "no-store")], "no_store")]
    {
        let answer = proxy.get_with("/a", fields).await;
        assert_eq!(answer.cache_status(), format!("asidecar; fwd=bypass; fwd-status=200; detail={word}"));
    }
    let with_body = proxy.send(Method::GET, "/a", &[], "a body").await;
    assert_eq!(with_body.cache_status(), "asidecar; fwd=bypass; fwd-status=200; detail=body");
    assert_eq!(origin.seen().last().unwrap().body, "a body");
    let options = proxy.send(Method::OPTIONS, "/a", &[], "").await;
    assert_eq!(options.cache_status(), "asidecar; fwd=method; fwd-status=204; detail=method");
}
