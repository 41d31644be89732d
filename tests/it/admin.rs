//! The admin listener: health, metrics, the page and its API, and who may change what.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Instance, Nobody, Origin, Wire, eventually};

const TOKEN: &str = "0123456789abcdef";

fn body_of(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {answer:?}"))
}

async fn read(proxy: &Instance, path: &str) -> Value {
    let answer = proxy.admin(Method::GET, path, &[], "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{path}");
    body_of(&answer)
}

/// A request to the admin listener with these lines and no Host of its own.
async fn by_hand(proxy: &Instance, method: &str, path: &str, lines: &str) -> Answer {
    let mut wire = Wire::connect(proxy.server.admin).await;
    wire.send(format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{lines}\r\n")).await;
    wire.answer().await
}

async fn malformed(proxy: &Instance) -> f64 {
    proxy.metric("malformed_total{what=\"message\"}").await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_healthy_as_long_as_it_runs_and_ready_as_long_as_it_serves() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "");
    let healthy = proxy.admin(Method::GET, "/healthz", &[], "").await;
    assert_eq!((healthy.status, healthy.body.as_str()), (200, "ok\n"));
    let ready = read(&proxy, "/readyz").await;
    assert_eq!(
        ready,
        json!({"ready": true, "state": "serving", "upstream": "up", "redis": "off", "invalidations_pending": 0, "degraded": false})
    );
    proxy.server.drain();
    let draining = proxy.admin(Method::GET, "/readyz", &[], "").await;
    assert_eq!((draining.status, body_of(&draining)["state"].as_str()), (503, Some("draining")));
    assert_eq!(proxy.admin(Method::GET, "/healthz", &[], "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_what_is_missing_and_stays_ready() {
    let (no_upstream, no_redis) = (Nobody::new(), Nobody::new());
    let store = format!("[store]\nredis = \"redis://{}\"\n", no_redis.address);
    let proxy = Instance::in_front_of(no_upstream.address, &store);
    let ready = read(&proxy, "/readyz").await;
    assert_eq!(ready["ready"], true);
    assert_eq!((&ready["upstream"], &ready["redis"]), (&json!("down"), &json!("down")));
    assert_eq!(ready["degraded"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_dashboards_may_build_on_is_there() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "");
    let answer = proxy.admin(Method::GET, "/metrics", &[], "").await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for (name, labels) in [
        ("requests_total", "method= outcome= route="),
        ("request_duration_seconds_bucket", "outcome= route= le="),
        ("upstream_requests_total", "route= status_class="),
        ("upstream_duration_seconds_count", "route="),
        ("redis_commands_total", "command= result="),
        ("redis_duration_seconds_sum", "command="),
        ("redis_up", ""),
        ("stored_total", "route= tier="),
        ("not_stored_total", "reason= route="),
        ("bypass_total", "reason= route="),
        ("invalidations_total", "scope= source="),
        ("invalidation_lag_seconds_bucket", "le="),
        ("invalidation_log_gaps_total", ""),
        ("horizon_moves_total", "reason="),
        ("memory_entries", ""),
        ("memory_bytes", ""),
        ("memory_limit_bytes", ""),
        ("memory_evictions_total", "reason="),
        ("fills_in_flight", ""),
        ("response_bytes_total", "outcome= route="),
        ("build_info", "version="),
    ] {
        let is_it = |line: &&str| {
            line.strip_prefix("asidecar_").and_then(|l| l.strip_prefix(name)).is_some_and(|l| l.starts_with(['{', ' ']))
        };
        let line = answer.body.lines().find(is_it).unwrap_or_else(|| panic!("asidecar_{name} is missing"));
        for label in labels.split_whitespace() {
            assert!(line.contains(label), "{line} has no {label}");
        }
    }
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"] {
        assert!(answer.body.lines().any(|l| l.starts_with(name)), "{name} is missing");
    }
    for outcome in ["hit_memory", "hit_redis", "stale", "revalidated", "coalesced", "miss", "bypass", "error"] {
        assert!(answer.body.contains(&format!("outcome=\"{outcome}\"")), "{outcome}");
    }
    for line in answer.body.lines().filter(|l| !l.starts_with('#')) {
        assert!(line.starts_with("asidecar_") || line.starts_with("process_"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_counted_under_its_route_method_and_outcome() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "[[route]]\nname = \"user\"\nmatch = \"/users/{id}\"\n");
    proxy.fill("/users/1").await;
    proxy.get("/users/1").await;
    proxy.send(Method::HEAD, "/users/1", &[], "").await;
    proxy.send(Method::DELETE, "/users/1", &[], "").await;
    for (series, want) in [
        ("requests_total{method=\"GET\",outcome=\"miss\",route=\"user\"}", 1.0),
        ("requests_total{method=\"GET\",outcome=\"hit_memory\",route=\"user\"}", 2.0),
        ("requests_total{method=\"DELETE\",outcome=\"bypass\",route=\"user\"}", 1.0),
        ("upstream_requests_total{route=\"user\",status_class=\"2xx\"}", 2.0),
        ("request_duration_seconds_count{outcome=\"hit_memory\",route=\"user\"}", 2.0),
        ("stored_total{route=\"user\",tier=\"memory\"}", 1.0),
        ("bypass_total{reason=\"write\",route=\"user\"}", 1.0),
        ("response_bytes_total{outcome=\"hit_memory\",route=\"user\"}", 6.0),
        ("requests_total{method=\"GET\",outcome=\"miss\",route=\"default\"}", 0.0),
    ] {
        assert_eq!(proxy.metric(series).await, want, "{series}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stats_are_what_the_page_is_made_of() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    for _ in 0..3 {
        proxy.get("/a").await;
    }
    let stats = read(&proxy, "/api/stats").await;
    assert_eq!(stats["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(stats["ready"], true);
    let totals = &stats["totals"];
    assert_eq!((&totals["requests"], &totals["hits"], &totals["upstream_requests"]), (&json!(4), &json!(3), &json!(1)));
    assert_eq!(totals["hit_ratio"], 0.75);
    assert_eq!(totals["saved_upstream_requests"], 3);
    assert!(totals["hit_p50_seconds"].is_f64() && totals["miss_p50_seconds"].is_f64());
    assert_eq!(stats["routes"][0]["name"], "default");
    assert_eq!(stats["routes"][0]["outcomes"]["hit_memory"], 3);
    assert_eq!(stats["memory"]["entries"], 1);
    assert!(stats["memory"]["bytes"].as_u64() > Some(6) && stats["memory"]["limit_bytes"] == 256 << 20);
    assert_eq!(stats["redis"]["state"], "off");
    for part in ["instance", "uptime_seconds", "now_ms", "log", "upstream"] {
        assert!(!stats[part].is_null(), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_listed_with_their_state_and_can_be_searched_and_bounded() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    for path in ["/users/1", "/users/2", "/other"] {
        proxy.fill(path).await;
    }
    proxy.get("/other").await;
    let all = read(&proxy, "/api/entries").await;
    assert_eq!((all["entries"].as_array().unwrap().len(), &all["total"]), (3, &json!(3)));
    let other = read(&proxy, "/api/entries?contains=oth").await;
    let entry = &other["entries"][0];
    assert_eq!(other["entries"].as_array().unwrap().len(), 1);
    assert_eq!((&entry["path"], &entry["route"], &entry["status"]), (&json!("/other"), &json!("default"), &json!(200)));
    assert_eq!((&entry["bytes"], &entry["hits"], &entry["state"]), (&json!(6), &json!(1), &json!("fresh")));
    assert!(entry["ttl_seconds"].as_f64() > Some(30.0) && entry["age_seconds"].is_f64());
    let one = read(&proxy, "/api/entries?limit=1").await;
    assert_eq!((one["entries"].as_array().unwrap().len(), &one["truncated"]), (1, &json!(true)));
    proxy.purge(r#"{"paths":["/other"]}"#).await;
    assert_eq!(read(&proxy, "/api/entries?contains=oth").await["entries"][0]["state"], "invalid");
    proxy.clock.advance(std::time::Duration::from_secs(61));
    assert_eq!(read(&proxy, "/api/entries?contains=users").await["entries"][0]["state"], "stale");
}

/// What stands between the first two marks, and that there is no second.
fn only<'p>(page: &'p str, open: &str, close: &str) -> &'p str {
    assert_eq!(page.matches(open).count(), 1, "{open}");
    let (_, rest) = page.split_once(open).unwrap();
    rest.split_once(close).unwrap().0
}

fn sha256_in_base64(text: &str) -> String {
    let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let bits: String =
        suite.common.hash_provider.hash(text.as_bytes()).as_ref().iter().map(|b| format!("{b:08b}")).collect();
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |group: &[u8]| {
        let group = std::str::from_utf8(group).unwrap();
        char::from(DIGITS[usize::from_str_radix(&format!("{group:0<6}"), 2).unwrap()])
    };
    // 32 bytes are 43 digits and one pad.
    bits.as_bytes().chunks(6).map(digit).chain(['=']).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_runs_its_own_script_and_nothing_else() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "");
    let page = proxy.admin(Method::GET, "/", &[], "").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    for directive in [
        "default-src 'none'",
        &format!("style-src 'sha256-{}'", sha256_in_base64(only(&page.body, "<style>", "</style>"))),
        &format!("script-src 'sha256-{}'", sha256_in_base64(only(&page.body, "<script>", "</script>"))),
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.split("; ").any(|d| d == directive), "{directive} is not in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!((page.header("x-content-type-options"), page.header("referrer-policy")), ("nosniff", "no-referrer"));
    let markup = page.body.replace(only(&page.body, "<script>", "</script>"), "");
    for blocked in [" style=\"", " onclick=", " onload=", "src=\"http", "<link rel=\"stylesheet\""] {
        assert!(!markup.contains(blocked), "the policy would block {blocked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_this_listeners_is_refused() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "[admin]\nallow_hosts = [\"cache.internal\"]\n");
    for host in [
        "127.0.0.1",
        "127.0.0.1:9901",
        "[::1]:9901",
        "localhost",
        "LocalHost:9901",
        "cache.internal",
        "cache.internal:80",
    ] {
        assert_eq!(by_hand(&proxy, "GET", "/healthz", &format!("Host: {host}\r\n")).await.status, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:9901", "localhost.evil.example", "cache.internal.evil.example", ""] {
        for (method, path) in [("GET", "/api/stats"), ("GET", "/"), ("GET", "/metrics"), ("POST", "/api/invalidate")] {
            let answer = by_hand(&proxy, method, path, &format!("Host: {host}\r\n")).await;
            assert_eq!(answer.status, 421, "{host} {path}");
            assert!(answer.body.contains("admin.allow_hosts"), "it says what to do: {}", answer.body);
        }
    }
    assert_eq!(by_hand(&proxy, "GET", "/healthz", "").await.status, 421, "without a Host");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_changes_nothing() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    let own = format!("http://{}", proxy.server.admin);
    for foreign in ["http://evil.example", "null", "http://127.0.0.1", "file://", "http://127.0.0.1:1"] {
        let answer = proxy.admin(Method::POST, "/api/invalidate", &[("origin", foreign)], "{\"all\":true}").await;
        assert_eq!((answer.status, answer.header("content-type")), (403, "application/problem+json"), "{foreign}");
    }
    assert!(proxy.get("/a").await.is_hit("memory"));
    let answer = proxy.admin(Method::POST, "/api/invalidate", &[("origin", &own)], "{\"all\":true}").await;
    assert_eq!(answer.status, 200);
    assert!(!proxy.get("/a").await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn once_there_is_a_token_what_changes_state_wants_it_and_reading_does_not() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, &format!("[admin]\ntoken = \"{TOKEN}\"\n"));
    let wrong = [
        vec![],
        vec![("authorization", "Bearer wrong")],
        vec![("authorization", "Bearer ")],
        vec![("authorization", TOKEN)],
        vec![("authorization", "Basic 0123456789abcdef")],
        vec![("authorization", "Bearer 0123456789abcdef0")],
        vec![("authorization", "Bearer 0123456789abcde")],
    ];
    for fields in wrong {
        let answer = proxy.admin(Method::POST, "/api/invalidate", &fields, "a").await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{fields:?}");
        assert!(!answer.body.contains(TOKEN));
    }
    let right = format!("Bearer {TOKEN}");
    assert_eq!(proxy.admin(Method::POST, "/api/invalidate", &[("authorization", &right)], "a").await.status, 200);
    for path in ["/", "/metrics", "/healthz", "/readyz", "/api/stats", "/api/entries"] {
        let answer = proxy.admin(Method::GET, path, &[], "").await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.contains(TOKEN), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_other_addresses_than_loopback_nothing_is_changed_without_a_token() {
    let origin = Origin::counting("").await;
    for (admin, right, status) in [
        ("", &[][..], 403),
        ("[admin]\ntoken = \"0123456789abcdef\"\n", &[], 401),
        ("[admin]\ntoken = \"0123456789abcdef\"\n", &[("authorization", "Bearer 0123456789abcdef")], 200),
    ] {
        let proxy = Instance::configured(origin.address, admin, |config| {
            config.listen.admin = "0.0.0.0:0".parse().unwrap();
        });
        let answer = proxy.admin(Method::POST, "/api/invalidate", right, "a").await;
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 403 {
            assert!(answer.body.contains("admin.token"), "it says what to do: {}", answer.body);
        }
        assert_eq!(proxy.admin(Method::GET, "/metrics", &[], "").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_message_says_what_is_wrong_changes_nothing_and_is_counted() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    let long = "x".repeat(20_000);
    let messages = [
        "",
        "   ",
        "{}",
        "{\"tags\":[]}",
        "{\"all\":false}",
        "{\"soft\":true}",
        "{\"tags\":\"user:1\"}",
        "{\"tagz\":[\"user:1\"]}",
        "{\"all\":true",
        "{\"all\":true} and more",
        "{\"all\":1}",
        "{\"tags\":[\"\"]}",
        "{\"tags\":[\"a\\u0000b\"]}",
        "{\"paths\":[\"users\"]}",
        "{\"prefixes\":[\"/us*\"]}",
        &format!("{{\"tags\":[\"{long}\"]}}"),
    ];
    for (n, message) in messages.iter().enumerate() {
        let answer = proxy.purge(message).await;
        assert_eq!((answer.status, answer.header("content-type")), (400, "application/problem+json"), "{message}");
        let document = body_of(&answer);
        assert_eq!(document["status"], 400);
        assert!(document["detail"].as_str().unwrap().len() > 10, "{document}");
        assert_eq!(malformed(&proxy).await, n as f64 + 1.0, "{message}");
    }
    assert!(proxy.get("/a").await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_message_is_a_413_changes_nothing_and_is_counted() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    let fill = |size: usize| {
        let frame = r#"{"all":true,"tags":[""]}"#.len();
        let mut names = String::new();
        while frame + names.len() + 1003 < size {
            names.push_str(&"x".repeat(1000));
            names.push_str("\",\"");
        }
        names.push_str(&"x".repeat(size - frame - names.len()));
        format!(r#"{{"all":true,"tags":["{names}"]}}"#)
    };
    let (just, over) = (fill(64 << 10), fill((64 << 10) + 1));
    let answer = proxy.purge(&over).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(body_of(&answer)["detail"].as_str().unwrap().contains("64 KiB"));
    assert_eq!(malformed(&proxy).await, 1.0);
    assert!(proxy.get("/a").await.is_hit("memory"));
    let answer = proxy.purge(&just).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_says_where_in_the_log_it_is_and_is_counted_by_its_scope() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "");
    let answer = proxy.purge(r#"{"prefixes":["/users"]}"#).await;
    assert_eq!((answer.status, &body_of(&answer)["logged"]), (200, &json!(true)));
    assert!(body_of(&answer)["position"].as_str().is_some_and(|p| p.contains('-')), "{}", answer.body);
    eventually("it is counted", || async {
        proxy.metric("invalidations_total{scope=\"prefix\",source=\"api\"}").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_404_and_a_wrong_method_a_405_and_neither_changes_anything() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    for path in ["/nothing", "/api", "/api/invalidate/", "/metrics/x", "//"] {
        let answer = proxy.admin(Method::GET, path, &[], "").await;
        assert_eq!((answer.status, answer.header("content-type")), (404, "application/problem+json"), "{path}");
    }
    for (method, path) in
        [(Method::GET, "/api/invalidate?all=true"), (Method::PUT, "/api/invalidate"), (Method::POST, "/metrics")]
    {
        assert_eq!(proxy.admin(method, path, &[], "{\"all\":true}").await.status, 405, "{path}");
    }
    assert!(proxy.get("/a").await.is_hit("memory"));
    assert_eq!(origin.calls(), 1, "and nothing of the admin listener's goes upstream");
}
