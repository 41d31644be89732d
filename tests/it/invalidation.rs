//! Invalidation in one process: writes, the admin API, and the races that caches usually lose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{Gate, Instance, Origin, eventually, ok, status, with};

/// An API with one value: a read takes its snapshot first and answers when the gate lets it; a write changes
/// the value and answers at once. The tutorial's race, held open.
pub struct Slow {
    pub origin: Origin,
    pub gate: Gate,
    pub value: Arc<AtomicU64>,
}

impl Slow {
    pub async fn start(fields: &'static [(&'static str, &'static str)]) -> Slow {
        let (gate, value) = (Gate::closed(), Arc::new(AtomicU64::new(1)));
        let (held, stored) = (gate.clone(), value.clone());
        let origin = Origin::start(move |seen| {
            let (gate, value) = (held.clone(), stored.clone());
            async move {
                if seen.method != Method::GET {
                    value.fetch_add(1, Ordering::SeqCst);
                    return status(204);
                }
                let snapshot = value.load(Ordering::SeqCst);
                gate.pass().await;
                with(ok(format!("v{snapshot}")), fields)
            }
        })
        .await;
        Slow { origin, gate, value }
    }
}

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=600")];

const USERS: &str = r#"
[[route]]
name = "user"
match = "/users/{id}"
key = "user:{id}"
tags = ["users"]
invalidates = ["users"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_read_held_open_across_a_write_never_leaves_the_old_value_behind() {
    let slow = Slow::start(FRESH).await;
    let proxy = Arc::new(Instance::start(&slow.origin, USERS));
    let reader = {
        let proxy = proxy.clone();
        tokio::spawn(async move { proxy.get("/users/1").await })
    };
    slow.gate.wait_for(1).await;
    assert_eq!(proxy.send(Method::PUT, "/users/1", &[], "").await.status, 204);
    slow.gate.open(1);
    assert_eq!(reader.await.unwrap().body, "v1", "it asked before the write");
    slow.gate.open(100);
    for _ in 0..5 {
        assert_eq!(proxy.get("/users/1").await.body, "v2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_5_a_reader_that_comes_after_the_write_does_not_join_the_fetch_that_began_before_it() {
    let slow = Slow::start(FRESH).await;
    let proxy = Arc::new(Instance::start(&slow.origin, USERS));
    let get = |proxy: &Arc<Instance>| {
        let proxy = proxy.clone();
        tokio::spawn(async move { proxy.get("/users/1").await.body })
    };
    let before = get(&proxy);
    slow.gate.wait_for(1).await;
    proxy.send(Method::PUT, "/users/1", &[], "").await;
    let after = get(&proxy);
    slow.gate.wait_for(2).await;
    slow.gate.open(2);
    assert_eq!((before.await.unwrap().as_str(), after.await.unwrap().as_str()), ("v1", "v2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_5_a_waiter_checks_the_responses_own_tags_and_asks_again_when_they_were_invalidated() {
    // The tag is known only from the response, so joining can't be refused; the waiter must notice at the end.
    let slow = Slow::start(&[("cache-control", "max-age=600"), ("surrogate-key", "late-tag")]).await;
    let proxy = Arc::new(Instance::start(&slow.origin, ""));
    let get = |proxy: &Arc<Instance>| {
        let proxy = proxy.clone();
        tokio::spawn(async move { proxy.get("/x").await.body })
    };
    let before = get(&proxy);
    slow.gate.wait_for(1).await;
    slow.value.fetch_add(1, Ordering::SeqCst);
    assert_eq!(proxy.purge("late-tag").await.status, 200);
    let after = get(&proxy);
    eventually("it waits", || async { proxy.server.core.fills.waiting() == 1 }).await;
    slow.gate.open(2);
    assert_eq!((before.await.unwrap().as_str(), after.await.unwrap().as_str()), ("v1", "v2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_6_a_304_renews_as_of_the_start_of_the_conditional_request() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |seen| {
        let gate = held.clone();
        async move {
            let fields = [("etag", "\"1\""), ("cache-control", "max-age=10")];
            if seen.header("if-none-match").is_empty() {
                return with(ok("body"), &fields);
            }
            gate.pass().await;
            with(status(304), &fields)
        }
    })
    .await;
    let proxy = Arc::new(Instance::start(&origin, ""));
    proxy.fill("/a").await;
    proxy.clock.advance(Duration::from_secs(11));
    let reader = {
        let proxy = proxy.clone();
        tokio::spawn(async move { proxy.get("/a").await })
    };
    gate.wait_for(1).await;
    proxy.purge(r#"{"paths":["/a"]}"#).await;
    gate.open(1);
    assert_eq!(reader.await.unwrap().body, "body");
    eventually("the renewal is over", || async { proxy.server.core.fills.is_empty() }).await;
    let next = proxy.get("/a").await;
    assert!(!next.cache_status().contains("; hit"), "renewed before, invalidated after: {}", next.cache_status());
    assert_eq!(origin.calls(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_7_a_soft_purge_serves_stale_while_it_refreshes_and_a_hard_one_does_not() {
    let origin = Origin::counting("max-age=600, stale-while-revalidate=600").await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    proxy.purge(r#"{"paths":["/a"],"soft":true}"#).await;
    let soft = proxy.get("/a").await;
    assert_eq!(soft.body, "call 1");
    eventually("refreshed", || async { proxy.get("/a").await.body == "call 2" }).await;
    proxy.purge(r#"{"paths":["/a"]}"#).await;
    assert_eq!(proxy.get("/a").await.body, "call 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mutating_method_invalidates_its_path_with_all_its_queries() {
    let origin = Origin::counting("max-age=600").await;
    let proxy = Instance::start(&origin, "");
    for method in ["POST", "PUT", "PATCH", "DELETE", "UNHEARD-OF"] {
        proxy.fill("/a").await;
        proxy.fill("/a?x=1").await;
        proxy.fill("/b").await;
        proxy.send(method.parse().unwrap(), "/a", &[], "").await;
        assert!(!proxy.fill("/a").await.is_hit("memory"), "{method}");
        assert!(!proxy.fill("/a?x=1").await.is_hit("memory"), "{method}");
        assert!(proxy.get("/b").await.is_hit("memory"), "{method} must leave other paths alone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_invalidates_what_its_location_names_and_the_routes_tags() {
    let origin = Origin::start(|seen| async move {
        match seen.method {
            Method::POST => with(status(201), &[("location", "/users/7")]),
            _ => with(ok("list"), FRESH),
        }
    })
    .await;
    let config = format!(
        "{USERS}\n[[route]]\nname = \"list\"\nmatch = \"/users\"\ninvalidates = [\"users\"]\n\n[[route]]\nname = \"report\"\nmatch = \"/report\"\ntags = [\"users\"]\n"
    );
    let proxy = Instance::start(&origin, &config);
    for path in ["/users/7", "/users/8", "/report", "/other"] {
        proxy.fill(path).await;
    }
    proxy.send(Method::POST, "/users", &[], "").await;
    for (path, hit) in [("/users/7", false), ("/users/8", false), ("/report", false), ("/other", true)] {
        assert_eq!(proxy.get(path).await.is_hit("memory"), hit, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_failed_leaves_the_cache_alone_and_one_with_unknown_outcome_does_not() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |seen| {
        let gate = held.clone();
        async move {
            match (seen.method.clone(), seen.header("x-then")) {
                (Method::GET, _) => with(ok("x"), FRESH),
                (_, "hang") => {
                    gate.pass().await;
                    status(204)
                }
                (_, code) => status(code.parse().unwrap()),
            }
        }
    })
    .await;
    let proxy = Instance::start(&origin, "[upstream]\nfirst_byte_timeout = \"200ms\"\n");
    for (then, status, invalidated) in
        [("409", 409, false), ("500", 500, false), ("504", 504, true), ("hang", 504, true)]
    {
        proxy.fill("/a").await;
        let wrote = proxy.send(Method::PUT, "/a", &[("x-then", then)], "").await;
        assert_eq!(wrote.status, status);
        assert_eq!(!proxy.get("/a").await.is_hit("memory"), invalidated, "{then}");
    }
    gate.open(10);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_keys_paths_prefixes_and_all_name_what_they_say() {
    let origin = Origin::start(|seen| async move {
        let tag = if seen.target == "/b/2" { "special" } else { "plain" };
        with(ok("x"), &[("cache-control", "max-age=600"), ("cache-tag", tag)])
    })
    .await;
    let proxy = Instance::start(&origin, USERS);
    let paths = ["/users/1", "/users/1?f=1", "/users/2", "/b/1", "/b/2", "/bc"];
    for (message, gone) in [
        (r#"{"tags":["special"]}"#, &["/b/2"][..]),
        ("special", &["/b/2"]),
        (r#"{"keys":["user:1"]}"#, &["/users/1", "/users/1?f=1"]),
        ("user:1", &["/users/1", "/users/1?f=1"]),
        (r#"{"keys":["user:1?f=1"]}"#, &["/users/1?f=1"]),
        (r#"{"paths":["/users/1"]}"#, &["/users/1", "/users/1?f=1"]),
        (r#"{"prefixes":["/b"]}"#, &["/b/1", "/b/2"]),
        (r#"{"prefixes":["/b/*"]}"#, &["/b/1", "/b/2"]),
        (r#"{"tags":["users"]}"#, &["/users/1", "/users/1?f=1", "/users/2"]),
        (r#"{"all":true}"#, &paths),
        (r#"{"tags":["nothing-has-it"]}"#, &[]),
    ] {
        for path in paths {
            proxy.fill(path).await;
            assert!(proxy.get(path).await.is_hit("memory"), "{path} before {message}");
        }
        assert_eq!(proxy.purge(message).await.status, 200, "{message}");
        for path in paths {
            let hit = proxy.get(path).await.is_hit("memory");
            assert_eq!(!hit, gone.contains(&path), "{path} after {message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_invalidated_while_it_streams_is_not_stored_and_counted() {
    let slow = Slow::start(FRESH).await;
    let proxy = Arc::new(Instance::start(&slow.origin, ""));
    let reader = {
        let proxy = proxy.clone();
        tokio::spawn(async move { proxy.get("/a").await })
    };
    slow.gate.wait_for(1).await;
    proxy.purge(r#"{"all":true}"#).await;
    slow.gate.open(1);
    reader.await.unwrap();
    eventually("counted", || async {
        proxy.metric("not_stored_total{reason=\"invalidated\",route=\"default\"}").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_during_its_write_does_not_part_the_write_from_its_invalidation() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |seen| {
        let gate = held.clone();
        async move {
            if seen.method == Method::GET {
                return with(ok("x"), FRESH);
            }
            gate.pass().await;
            status(204)
        }
    })
    .await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    let mut writer = TcpStream::connect(proxy.server.proxy).await.unwrap();
    writer.write_all(b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    gate.wait_for(1).await;
    let open = proxy.server.core.metrics.connections.get();
    drop(writer);
    eventually("its connection is gone", || async { proxy.server.core.metrics.connections.get() < open }).await;
    assert!(proxy.get("/a").await.is_hit("memory"), "the write has not happened yet");
    gate.open(1);
    eventually("invalidated", || async { !proxy.get("/a").await.is_hit("memory") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_offers_an_upgrade_invalidates_like_any_other() {
    let origin = Origin::counting("max-age=600").await;
    let proxy = Instance::start(&origin, "");
    for protocol in ["h2c", "websocket"] {
        proxy.fill("/a").await;
        assert!(proxy.get("/a").await.is_hit("memory"));
        proxy.send(Method::PUT, "/a", &[("connection", "upgrade"), ("upgrade", protocol)], "").await;
        assert!(!proxy.get("/a").await.is_hit("memory"), "{protocol}");
    }
}
