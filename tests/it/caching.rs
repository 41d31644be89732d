//! Memory, freshness, coalescing, stale answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;

use crate::support::{Gate, Instance, Origin, Wire, eventually, ok, standing_clock, status, with};

#[tokio::test(flavor = "multi_thread")]
async fn the_second_read_is_answered_from_memory_and_says_so() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    let first = proxy.fill("/a").await;
    assert_eq!((first.status, first.body.as_str()), (200, "call 1"));
    assert_eq!(first.cache_status(), "asidecar; fwd=uri-miss; fwd-status=200; stored");
    let hit = proxy.get("/a").await;
    assert!(hit.is_hit("memory"));
    assert_eq!(hit.body, "call 1");
    assert!(hit.headers.contains_key("age") && hit.headers.contains_key("date"));
    assert_eq!(hit.header("via"), "1.1 asidecar");
    assert_eq!(origin.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_ends_with_its_ttl_and_age_counts() {
    let origin = Origin::counting("").await;
    let proxy = Instance::start(&origin, "[[route]]\nname = \"all\"\nmatch = \"/{*rest}\"\nttl = \"60s\"\n");
    proxy.fill("/a").await;
    proxy.clock.advance(Duration::from_secs(59));
    let hit = proxy.get("/a").await;
    assert_eq!((hit.body.as_str(), hit.header("age")), ("call 1", "59"));
    proxy.clock.advance(Duration::from_secs(1));
    let stale = proxy.get("/a").await;
    assert_eq!((stale.body.as_str(), stale.cache_status()), ("call 2", "asidecar; fwd=stale; fwd-status=200; stored"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_on_one_cold_key_make_one_fetch() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |_| {
        let gate = held.clone();
        async move {
            gate.pass().await;
            with(ok("one"), &[("cache-control", "max-age=60")])
        }
    })
    .await;
    let proxy = Arc::new(Instance::start(&origin, ""));
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let proxy = proxy.clone();
            tokio::spawn(async move { proxy.get("/cold").await })
        })
        .collect();
    eventually("all wait", || async { proxy.server.core.fills.waiting() == 99 }).await;
    gate.open(100);
    let mut collapsed = 0;
    for client in clients {
        let answer = client.await.unwrap();
        assert_eq!(answer.body, "one");
        collapsed += usize::from(answer.cache_status().contains("collapsed"));
    }
    assert_eq!(origin.calls(), 1);
    assert_eq!(collapsed, 99);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_client_goes_away_does_not_strand_those_who_wait() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |_| {
        let gate = held.clone();
        async move {
            gate.pass().await;
            with(ok("late"), &[("cache-control", "max-age=60")])
        }
    })
    .await;
    let proxy = Arc::new(Instance::start(&origin, ""));
    let leader = {
        let proxy = proxy.clone();
        tokio::spawn(async move { proxy.get("/a").await })
    };
    gate.wait_for(1).await;
    let waiter = {
        let proxy = proxy.clone();
        tokio::spawn(async move { proxy.get("/a").await })
    };
    eventually("the other waits", || async { proxy.server.core.fills.waiting() == 1 }).await;
    leader.abort();
    eventually("the leader is gone", || async { proxy.server.core.metrics.connections.get() == 1 }).await;
    gate.open(10);
    assert_eq!(waiter.await.unwrap().body, "late");
    assert_eq!(origin.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_entry_answers_at_once_and_is_renewed_behind_the_clients_back() {
    let origin = Origin::counting("max-age=10, stale-while-revalidate=60").await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    proxy.clock.advance(Duration::from_secs(20));
    let stale = proxy.get("/a").await;
    assert_eq!(stale.body, "call 1");
    assert!(stale.cache_status().contains("; hit; ttl=-1"), "{}", stale.cache_status());
    eventually("the renewed entry", || async { proxy.get("/a").await.body == "call 2" }).await;
    assert_eq!(origin.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_upstream_fails_a_stale_entry_stands_in_for_as_long_as_is_allowed() {
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = broken.clone();
    let origin = Origin::start(move |_| {
        let broken = is_broken.load(Ordering::SeqCst);
        async move {
            if broken {
                return status(503);
            }
            with(ok("good"), &[("cache-control", "max-age=10, stale-if-error=60")])
        }
    })
    .await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    broken.store(true, Ordering::SeqCst);
    proxy.clock.advance(Duration::from_secs(30));
    let masked = proxy.get("/a").await;
    assert_eq!((masked.status, masked.body.as_str()), (200, "good"));
    assert!(masked.cache_status().ends_with("detail=stale_if_error"), "{}", masked.cache_status());
    proxy.clock.advance(Duration::from_secs(60));
    assert_eq!(proxy.get("/a").await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_304_renews_the_entry_with_its_new_fields() {
    let calls = Arc::new(AtomicUsize::new(0));
    let origin = Origin::start(move |seen| {
        let n = calls.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let fields = [("etag", "\"v1\""), ("cache-control", "max-age=10"), ("x-call", ["1", "2", "3"][n - 1])];
            if seen.header("if-none-match") == "\"v1\"" {
                return with(status(304), &fields);
            }
            with(ok("body"), &fields)
        }
    })
    .await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    proxy.clock.advance(Duration::from_secs(11));
    let renewed = proxy.fill("/a").await;
    assert_eq!((renewed.status, renewed.body.as_str(), renewed.header("x-call")), (200, "body", "2"));
    assert_eq!(renewed.cache_status(), "asidecar; fwd=stale; fwd-status=304; stored");
    assert!(proxy.get("/a").await.is_hit("memory"));
    assert_eq!(origin.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_the_representation_gets_a_304_from_the_entry() {
    let origin =
        Origin::start(|_| async { with(ok("body"), &[("etag", "\"v1\""), ("cache-control", "max-age=60")]) }).await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    let answer = proxy.get_with("/a", &[("if-none-match", "\"v1\"")]).await;
    assert_eq!((answer.status, answer.body.as_str(), answer.header("etag")), (304, "", "\"v1\""));
    assert_eq!(proxy.get_with("/a", &[("if-none-match", "\"v2\"")]).await.status, 200);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_from_a_gets_entry_and_never_fills_one() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "");
    let missed = proxy.send(Method::HEAD, "/a", &[], "").await;
    assert_eq!((missed.status, missed.body.as_str()), (200, ""));
    assert_eq!(proxy.fill("/a").await.body, "call 2", "the HEAD stored nothing");
    let head = proxy.send(Method::HEAD, "/a", &[], "").await;
    assert!(head.is_hit("memory"));
    assert_eq!((head.header("content-length"), head.body.as_str()), ("6", ""));
    assert_eq!(origin.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_are_told_apart_by_what_vary_names() {
    let origin = Origin::start(|seen| async move {
        let body = format!("for {}", seen.header("accept-language"));
        with(ok(body), &[("vary", "Accept-Language"), ("cache-control", "max-age=60")])
    })
    .await;
    let proxy = Instance::start(&origin, "");
    for _ in 0..2 {
        for language in ["de", "en"] {
            let answer = proxy.get_with("/a", &[("accept-language", language)]).await;
            eventually("stored", || async { proxy.server.core.fills.is_empty() }).await;
            assert_eq!(answer.body, format!("for {language}"));
        }
    }
    assert_eq!(origin.calls(), 2);
    let third = proxy.get_with("/a", &[("accept-language", "fr")]).await;
    assert!(third.cache_status().contains("fwd=vary-miss"), "{}", third.cache_status());
}

#[tokio::test(flavor = "multi_thread")]
async fn personal_answers_are_not_shared() {
    let origin = Origin::start(|seen| async move {
        let who = format!("{}{}", seen.header("authorization"), seen.header("cookie"));
        with(ok(who), &[("cache-control", "max-age=60")])
    })
    .await;
    let proxy = Instance::start(&origin, "");
    for (name, value) in
        [("authorization", "Bearer a"), ("authorization", "Bearer b"), ("cookie", "a=1"), ("cookie", "a=2")]
    {
        let answer = proxy.get_with("/me", &[(name, value)]).await;
        assert_eq!(answer.body, value);
        assert!(
            answer.cache_status().contains(&format!("fwd=bypass; fwd-status=200; detail={name}")),
            "{}",
            answer.cache_status()
        );
    }
    assert_eq!(proxy.get("/me").await.body, "", "nobody's answer reached a stranger");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_answer_that_can_not_be_stored_requests_do_not_queue_behind_each_other() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |_| {
        let gate = held.clone();
        async move {
            gate.pass().await;
            with(ok("mine"), &[("cache-control", "no-store")])
        }
    })
    .await;
    let proxy = Arc::new(Instance::start(&origin, ""));
    gate.open(1);
    proxy.fill("/a").await;
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let proxy = proxy.clone();
            tokio::spawn(async move { proxy.get("/a").await })
        })
        .collect();
    gate.wait_for(6).await;
    gate.open(5);
    for client in clients {
        assert!(client.await.unwrap().cache_status().contains("detail=no_store"));
    }
    assert_eq!(origin.calls(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_stored_again_is_stored_by_a_request_that_went_past_the_fills() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let origin = Origin::start(move |_| {
        let n = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        let control = if n < 3 { "no-store" } else { "max-age=60" };
        async move { with(ok(n.to_string()), &[("cache-control", control)]) }
    })
    .await;
    let proxy = Instance::by_clock(standing_clock(), origin.address, "");
    for (body, status) in [
        ("1", "asidecar; fwd=uri-miss; fwd-status=200; detail=no_store"),
        ("2", "asidecar; fwd=uri-miss; fwd-status=200; detail=no_store"),
        ("3", "asidecar; fwd=uri-miss; fwd-status=200; stored; detail=hit_for_miss"),
        ("3", "asidecar; hit; ttl=59; detail=memory"),
    ] {
        let answer = proxy.fill("/a").await;
        assert_eq!((answer.body.as_str(), answer.cache_status()), (body, status));
        if answer.cache_status().contains("stored") {
            proxy.clock.advance(Duration::from_secs(1));
        }
    }
    assert_eq!(origin.calls(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_streamed_and_not_stored() {
    let origin = Origin::start(|_| async { with(ok(vec![b'x'; 300_000]), &[("cache-control", "max-age=60")]) }).await;
    let proxy = Instance::start(&origin, "[[route]]\nname = \"all\"\nmatch = \"/{*rest}\"\nmax_object = \"100KiB\"\n");
    for _ in 0..2 {
        let answer = proxy.get("/big").await;
        assert_eq!(answer.body.len(), 300_000);
        assert!(answer.cache_status().contains("detail=too_large"), "{}", answer.cache_status());
    }
    assert_eq!(origin.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_personal_request_that_is_served_stale_does_not_refresh_the_entry_with_its_own_answer() {
    let calls = Arc::new(AtomicUsize::new(0));
    let origin = Origin::start(move |seen| {
        let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            let control = if first { "public, max-age=10, stale-while-revalidate=60" } else { "max-age=600" };
            with(ok(format!("for {:?}", seen.header("cookie"))), &[("cache-control", control)])
        }
    })
    .await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    proxy.clock.advance(Duration::from_secs(20));
    let stale = proxy.get_with("/a", &[("cookie", "me=1")]).await;
    assert_eq!(stale.body, "for \"\"", "a public answer may serve it");
    eventually("refused to store", || async {
        proxy.metric("not_stored_total{reason=\"cookie\",route=\"default\"}").await == 1.0
    })
    .await;
    assert_eq!(proxy.get("/a").await.body, "for \"\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_for_all_answers_a_personal_request_only_when_it_says_that_it_may() {
    let origin = Origin::start(|seen| async move {
        let control = if seen.target == "/public" { "public, max-age=60" } else { "max-age=60" };
        with(ok(format!("for {:?}", seen.header("cookie"))), &[("cache-control", control)])
    })
    .await;
    let proxy = Instance::start(&origin, "[[route]]\nname = \"all\"\n");
    proxy.fill("/public").await;
    proxy.fill("/plain").await;
    assert!(proxy.get_with("/public", &[("cookie", "me=1")]).await.is_hit("memory"));
    assert_eq!(proxy.get_with("/plain", &[("cookie", "me=1")]).await.body, "for \"me=1\"");
    assert!(proxy.get("/plain").await.is_hit("memory"), "and its own answer replaced nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_304_that_says_private_ends_the_sharing() {
    let origin = Origin::start(|seen| async move {
        if seen.header("if-none-match").is_empty() {
            return with(ok("body"), &[("etag", "\"1\""), ("cache-control", "max-age=10")]);
        }
        with(status(304), &[("etag", "\"1\""), ("cache-control", "private, max-age=600")])
    })
    .await;
    let proxy = Instance::start(&origin, "");
    proxy.fill("/a").await;
    proxy.clock.advance(Duration::from_secs(11));
    let once = proxy.fill("/a").await;
    assert_eq!((once.status, once.body.as_str()), (200, "body"));
    assert!(!proxy.get("/a").await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_to_be_stored_must_be_complete_in_time() {
    let gate = Gate::closed();
    let origin = crate::support::trickling(gate.clone()).await;
    let proxy = Instance::in_front_of(origin, "[upstream]\ntimeout = \"300ms\"\n");
    let cut = tokio::spawn(async move {
        let text = proxy.raw("GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
        (text, proxy.metric("not_stored_total{reason=\"incomplete\",route=\"default\"}").await)
    });
    let (text, counted) = cut.await.unwrap();
    assert!(text.contains("max-age=60") && !text.ends_with("0\r\n\r\n"), "cut off: {text:?}");
    assert_eq!(counted, 1.0);
    gate.open(10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_connection_names_is_neither_keyed_nor_sent() {
    let origin = Origin::start(|seen| async move {
        with(ok(format!("for {:?}", seen.header("accept-language"))), &[("cache-control", "max-age=60")])
    })
    .await;
    let route = "[[route]]\nname = \"all\"\nmatch = \"/{*rest}\"\nvary = [\"accept-language\"]\n";
    let proxy = Instance::start(&origin, route);
    let poison = proxy.get_with("/a", &[("accept-language", "de"), ("connection", "accept-language")]).await;
    assert_eq!(poison.body, "for \"\"");
    assert_eq!(proxy.get_with("/a", &[("accept-language", "de")]).await.body, "for \"de\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_can_not_forge_the_key_of_a_templates_route() {
    let origin = Origin::start(|seen| async move { with(ok(seen.target), &[("cache-control", "max-age=60")]) }).await;
    let route = "[[route]]\nname = \"user\"\nmatch = \"/api/users/{id}\"\nkey = \"users/{id}\"\n";
    let proxy = Instance::start(&origin, route);
    proxy.get_with("/7", &[("host", "users")]).await;
    eventually("stored", || async { proxy.server.core.fills.is_empty() }).await;
    assert_eq!(proxy.get("/api/users/7").await.body, "/api/users/7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variants_own_key_can_be_invalidated() {
    let origin = Origin::start(|seen| async move {
        let body = seen.header("accept").to_string();
        with(ok(body), &[("vary", "accept"), ("cache-control", "max-age=60")])
    })
    .await;
    let proxy = Instance::start(&origin, "[[route]]\nname = \"a\"\nmatch = \"/a\"\nkey = \"a\"\n");
    for accept in ["x", "y"] {
        proxy.get_with("/a", &[("accept", accept)]).await;
        eventually("stored", || async { proxy.server.core.fills.is_empty() }).await;
    }
    assert_eq!(proxy.purge(r###"{"keys":["a###accept=x"]}"###).await.status, 200);
    assert!(!proxy.get_with("/a", &[("accept", "x")]).await.is_hit("memory"));
    assert!(proxy.get_with("/a", &[("accept", "y")]).await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_fetch_that_goes_on_for_long_is_judged_by_its_age_and_his_own_words() {
    let gate = Gate::closed();
    let origin = crate::support::trickling(gate.clone()).await;
    let proxy = Arc::new(Instance::in_front_of(origin, ""));
    let mut first = Wire::connect(proxy.server.proxy).await;
    first.send(format!("GET /a HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.server.proxy)).await;
    // With its head here, the response has its birth; now time goes on.
    assert!(first.head().await.starts_with("http/1.1 200"));
    proxy.clock.advance(Duration::from_secs(5));
    let second = {
        let proxy = proxy.clone();
        tokio::spawn(async move { proxy.get_with("/a", &[("cache-control", "max-age=0")]).await })
    };
    gate.wait_for(2).await;
    gate.open(10);
    assert!(!second.await.unwrap().cache_status().contains("collapsed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_given_up_and_leaves_its_place_upstream_to_others() {
    let origin = Origin::start(|seen| async move {
        let size = if seen.target == "/big" { 32 << 20 } else { 1 };
        with(ok(vec![b'x'; size]), &[("cache-control", "no-store")])
    })
    .await;
    let config = "[upstream]\nmax_connections = 1\nidle_timeout = \"300ms\"\nconnect_timeout = \"100ms\"\n";
    let proxy = Instance::start(&origin, config);
    let mut deaf = tokio::net::TcpStream::connect(proxy.server.proxy).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut deaf, b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    eventually("it holds the only place", || async { proxy.get("/small").await.status == 503 }).await;
    eventually("the place is free again", || async { proxy.get("/small").await.status == 200 }).await;
}
