//! Two instances and a real Redis: shared answers, the invalidation log, and a Redis that dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use asidecar::invalidation::Invalidation;
use http::Method;

use crate::invalidation::Slow;
use crate::support::{Gate, Instance, Origin, RawOrigin, Redis, Wire, eventually, ok, standing_clock, with};

const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=600")];

/// The deadline of commands is long: on a busy machine an answer may take its time, and what happens then is
/// what [`a_frozen_redis_costs_a_request_no_more_than_its_deadline_and_then_nothing`] shows.
fn config(redis: &Redis, more: &str) -> String {
    format!(
        "[store]\nredis = \"{}\"\nredis_timeout = \"5s\"\n[invalidation]\nheartbeat = \"200ms\"\nmax_lag = \"600ms\"\n\
         [[route]]\nname = \"user\"\nmatch = \"/users/{{id}}\"\nkey = \"user:{{id}}\"\ntags = [\"users\"]\n{more}",
        redis.url()
    )
}

async fn instance(origin: &Origin, redis: &Redis) -> Instance {
    Instance::start(origin, &config(redis, "")).with_redis_up().await
}

/// Reads until it is stored in Redis.
async fn fill_both(proxy: &Instance, redis: &Redis, path: &str, key: &str) {
    proxy.fill(path).await;
    eventually("stored in Redis", || async { redis.ask::<i64>(&["EXISTS", &format!("asidecar:{key}")]).await == 1 })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_instance_fetched_another_finds_in_redis_under_a_readable_key() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let (a, b) = (instance(&origin, &redis).await, instance(&origin, &redis).await);
    fill_both(&a, &redis, "/users/1", "user:1").await;
    let from_redis = b.get("/users/1").await;
    assert!(from_redis.is_hit("redis"), "{}", from_redis.cache_status());
    assert_eq!(from_redis.body, "call 1");
    assert!(b.get("/users/1").await.is_hit("memory"), "memory is filled from Redis");
    assert_eq!(origin.calls(), 1);
    assert_eq!(redis.keys().await, ["asidecar:user:1", "{asidecar}:log"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_publish_makes_the_next_read_go_upstream_on_both_instances_and_is_logged_once() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let (a, b) = (instance(&origin, &redis).await, instance(&origin, &redis).await);
    fill_both(&a, &redis, "/users/1", "user:1").await;
    b.get("/users/1").await;
    let before: i64 = redis.ask(&["XLEN", "{asidecar}:log"]).await;
    redis.publish("user:1").await;
    for proxy in [&a, &b] {
        let series = "invalidations_total{scope=\"tag\",source=\"channel\"}";
        eventually("heard", || async { proxy.metric(series).await == 1.0 }).await;
    }
    eventually("logged", || async { redis.ask::<i64>(&["XLEN", "{asidecar}:log"]).await == before + 1 }).await;
    assert!(a.fill("/users/1").await.body == "call 2");
    assert_ne!(b.get("/users/1").await.body, "call 1");
    assert_eq!(redis.ask::<i64>(&["XLEN", "{asidecar}:log"]).await, before + 1, "two heard it, one entry");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_10_each_of_two_equal_messages_is_logged_and_each_kills_what_was_filled_before_it() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let (a, b) = (instance(&origin, &redis).await, instance(&origin, &redis).await);
    let logged = || async { redis.ask::<i64>(&["XLEN", "{asidecar}:log"]).await };
    let start = logged().await;
    for n in 1..=3 {
        fill_both(&a, &redis, "/users/1", "user:1").await;
        redis.publish("user:1").await;
        eventually("logged", || async { logged().await == start + n }).await;
        for proxy in [&a, &b] {
            eventually("gone", || async { !proxy.get("/users/1").await.body.ends_with(&format!("call {n}")) }).await;
        }
        assert_eq!(logged().await, start + n);
        redis.command(&["DEL", "asidecar:user:1"]).await.unwrap();
        a.purge(r#"{"paths":["/users/1"]}"#).await;
        let end = logged().await;
        // The purge above is one more entry: the next round counts from it.
        assert_eq!(end, start + n + 1);
        let _: i64 = redis.ask(&["XDEL", "{asidecar}:log", &newest(&redis).await]).await;
    }
}

async fn newest(redis: &Redis) -> String {
    let entries: Vec<(String, Vec<String>)> = redis.ask(&["XREVRANGE", "{asidecar}:log", "+", "-", "COUNT", "1"]).await;
    entries[0].0.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_held_open_on_one_instance_across_a_write_on_the_other_leaves_no_old_value_anywhere() {
    let redis = Redis::start().await;
    let slow = Slow::start(FRESH).await;
    let a = Arc::new(instance(&slow.origin, &redis).await);
    let b = instance(&slow.origin, &redis).await;
    let reader = {
        let a = a.clone();
        tokio::spawn(async move { a.get("/users/1").await })
    };
    slow.gate.wait_for(1).await;
    b.send(Method::PUT, "/users/1", &[], "").await;
    let position = b.server.core.log.position();
    eventually("the other has applied it", || async { a.server.core.log.position().id >= position.id }).await;
    slow.gate.open(1);
    assert_eq!(reader.await.unwrap().body, "v1", "it asked before the write");
    eventually("its fill is over", || async { a.server.core.fills.is_empty() }).await;
    slow.gate.open(100);
    for proxy in [&*a, &b, &*a] {
        assert_eq!(proxy.get("/users/1").await.body, "v2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_reads_its_own_write_at_once_whatever_redis_holds() {
    let redis = Redis::start().await;
    let slow = Slow::start(FRESH).await;
    slow.gate.open(1000);
    let (a, b) = (instance(&slow.origin, &redis).await, instance(&slow.origin, &redis).await);
    for n in 1..20 {
        fill_both(&b, &redis, "/users/1", "user:1").await;
        a.get("/users/1").await;
        a.send(Method::PUT, "/users/1", &[], "").await;
        assert_eq!(a.get("/users/1").await.body, format!("v{}", n + 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_3_an_instance_that_starts_replays_the_log_and_trusts_only_what_it_can_check() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let a = instance(&origin, &redis).await;
    fill_both(&a, &redis, "/users/1", "user:1").await;
    fill_both(&a, &redis, "/users/2", "user:2").await;
    a.purge("user:1").await;
    let late = instance(&origin, &redis).await;
    assert!(!late.get("/users/1").await.is_hit("redis"), "invalidated before it was born");
    assert!(late.get("/users/2").await.is_hit("redis"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_3_a_missing_stream_is_begun_with_a_marker_and_nothing_from_before_is_trusted() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    {
        let a = instance(&origin, &redis).await;
        fill_both(&a, &redis, "/users/1", "user:1").await;
    }
    redis.command(&["DEL", "{asidecar}:log"]).await.unwrap();
    let late = instance(&origin, &redis).await;
    assert!(!late.get("/users/1").await.is_hit("redis"));
    let entries: Vec<(String, Vec<String>)> = redis.ask(&["XRANGE", "{asidecar}:log", "-", "+"]).await;
    assert!(entries[0].1.windows(2).any(|w| w == ["k", "begin"]), "{entries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_a_stream_that_was_deleted_or_flushed_under_a_running_instance_starts_it_cold() {
    for command in [&["DEL", "{asidecar}:log"][..], &["FLUSHALL"], &["XTRIM", "{asidecar}:log", "MAXLEN", "0"]] {
        let redis = Redis::start().await;
        let origin = Origin::counting("max-age=600").await;
        let a = instance(&origin, &redis).await;
        a.purge("something").await;
        a.fill("/users/1").await;
        assert!(a.get("/users/1").await.is_hit("memory"));
        redis.command(command).await.unwrap();
        // An entry that this instance never hears: appended where it can't see the bell.
        let unknown = format!("{}-0", a.server.core.log.position().id.ms + 1);
        let _: String = redis.ask(&["XADD", "{asidecar}:log", "*", "v", "1", "p", &unknown, "m", "user:1"]).await;
        eventually("it noticed", || async { !a.get("/users/1").await.is_hit("memory") }).await;
        assert!(a.metric("horizon_moves_total{reason=\"broken\"}").await >= 1.0, "{command:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_a_log_that_went_back_is_noticed_and_everybody_starts_cold() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let (a, b) = (instance(&origin, &redis).await, instance(&origin, &redis).await);
    a.purge("something").await;
    a.fill("/users/1").await;
    b.get("/users/1").await;
    let horizons = || [a.server.core.log.horizon(), b.server.core.log.horizon()];
    let before = horizons();
    // A failover that lost the newest entries: a stream whose last id lies before what was applied.
    redis.command(&["DEL", "{asidecar}:log"]).await.unwrap();
    let _: String = redis.ask(&["XADD", "{asidecar}:log", "1-1", "v", "1", "p", "0-0", "m", "x"]).await;
    // Who notices first tells the other, for whom it is an invalidation of everything then.
    let noticed = "horizon_moves_total{reason=\"rolled_back\"}";
    eventually("one noticed", || async { a.metric(noticed).await + b.metric(noticed).await >= 1.0 }).await;
    eventually("both start cold", || async { horizons().iter().zip(before).all(|(now, then)| *now > then) }).await;
    assert!(!b.get("/users/1").await.is_hit("memory"));
    assert!(!a.get("/users/1").await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_what_happened_while_an_instance_was_away_is_caught_up_before_redis_is_trusted_again() {
    let redis = Redis::start().await;
    let slow = Slow::start(FRESH).await;
    slow.gate.open(1000);
    let (a, b) = (instance(&slow.origin, &redis).await, instance(&slow.origin, &redis).await);
    fill_both(&a, &redis, "/users/1", "user:1").await;
    b.get("/users/1").await;
    // The subscription breaks and the message is lost; the heartbeat or the reconnection reads it up.
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
    a.send(Method::PUT, "/users/1", &[], "").await;
    eventually("caught up", || async { b.get("/users/1").await.body == "v2" }).await;
    b.redis_is_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_appended_to_the_stream_without_a_message_is_found_at_the_next_heartbeat() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let a = instance(&origin, &redis).await;
    a.fill("/users/1").await;
    let _: String = redis.ask(&["XADD", "{asidecar}:log", "*", "m", "{\"tags\":[\"users\"]}"]).await;
    eventually("applied", || async { !a.get("/users/1").await.is_hit("memory") }).await;
    assert_eq!(a.metric("horizon_moves_total{reason=\"broken\"}").await, 0.0, "without starting cold");
    a.fill("/users/2").await;
    assert!(a.get("/users/2").await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_a_newer_format_in_the_log_invalidates_everything() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let a = instance(&origin, &redis).await;
    a.fill("/users/1").await;
    let _: String = redis.ask(&["XADD", "{asidecar}:log", "*", "v", "9", "m", "who knows"]).await;
    eventually("applied", || async { !a.get("/users/1").await.is_hit("memory") }).await;
    assert_eq!(a.metric("malformed_total{what=\"log_entry\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_change_nothing_and_are_counted() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let a = instance(&origin, &redis).await;
    a.fill("/users/1").await;
    let huge = "x".repeat(70_000);
    let bad = ["", "{", "{\"tag\":[]}", "{}", "a\u{1}b", &huge];
    for message in bad {
        redis.publish(message).await;
    }
    let counted = || async { a.metric("malformed_total{what=\"message\"}").await };
    eventually("counted", || async { counted().await == bad.len() as f64 }).await;
    assert!(a.get("/users/1").await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_foreign_and_misplaced_records_are_misses_and_counted() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let a = instance(&origin, &redis).await;
    fill_both(&a, &redis, "/users/1", "user:1").await;
    let _: i64 = redis.ask(&["COPY", "asidecar:user:1", "asidecar:user:2"]).await;
    let _: i64 = redis.ask(&["APPEND", "asidecar:user:1", "x"]).await;
    redis.command(&["SET", "asidecar:user:3", "of another program"]).await.unwrap();
    let b = instance(&origin, &redis).await;
    for path in ["/users/1", "/users/2", "/users/3"] {
        let answer = b.get(path).await;
        assert!(answer.cache_status().contains("fwd="), "{path}: {}", answer.cache_status());
    }
    assert_eq!(b.metric("malformed_total{what=\"record\"}").await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_are_shared_through_redis_too() {
    let redis = Redis::start().await;
    let origin = Origin::start(|seen| async move {
        let body = seen.header("accept-language").to_string();
        with(ok(body), &[("vary", "accept-language"), ("cache-control", "max-age=600")])
    })
    .await;
    let (a, b) = (instance(&origin, &redis).await, instance(&origin, &redis).await);
    for language in ["de", "en"] {
        a.get_with("/users/1", &[("accept-language", language)]).await;
        let key = format!("asidecar:user:1###accept-language={language}");
        eventually("stored", || async { redis.ask::<i64>(&["EXISTS", &key]).await == 1 }).await;
    }
    for language in ["de", "en"] {
        let answer = b.get_with("/users/1", &[("accept-language", language)]).await;
        assert!(answer.is_hit("redis"), "{}", answer.cache_status());
        assert_eq!(answer.body, language);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_learns_of_a_deleted_key_by_its_own_shorter_limit() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let text = config(&redis, "").replace("[store]", "[store]\nmemory_ttl_max = \"5s\"");
    let a = Instance::start(&origin, &text).with_redis_up().await;
    fill_both(&a, &redis, "/users/1", "user:1").await;
    a.clock.advance(Duration::from_secs(6));
    assert!(a.get("/users/1").await.is_hit("redis"), "asked again, and still there");
    redis.command(&["DEL", "asidecar:user:1"]).await.unwrap();
    assert!(a.get("/users/1").await.is_hit("memory"));
    a.clock.advance(Duration::from_secs(6));
    assert_eq!(a.get("/users/1").await.body, "call 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_without_redis_serves_and_uses_it_when_it_comes() {
    let mut redis = Redis::start().await;
    redis.kill();
    let origin = Origin::counting("max-age=600").await;
    let a = Instance::start(&origin, &config(&redis, ""));
    assert_eq!(a.fill("/users/1").await.body, "call 1");
    assert!(a.get("/users/1").await.is_hit("memory"));
    assert!(a.admin(Method::GET, "/readyz", &[], "").await.body.contains("\"redis\":\"down\""));
    redis.restart().await;
    a.redis_is_up().await;
    assert_eq!(
        a.get("/users/1").await.body,
        "call 2",
        "what was filled unconnected can't be checked: it is not trusted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_1_and_4_invalidations_made_without_redis_are_logged_in_order_when_it_is_back() {
    let mut redis = Redis::start().await;
    let slow = Slow::start(FRESH).await;
    slow.gate.open(1000);
    let (a, b) = (instance(&slow.origin, &redis).await, instance(&slow.origin, &redis).await);
    a.get("/users/1").await;
    redis.kill();
    a.redis_is_down().await;
    for n in 2..5 {
        a.send(Method::PUT, "/users/1", &[], "").await;
        assert_eq!(a.fill("/users/1").await.body, format!("v{n}"), "the writer reads its own write without Redis");
    }
    assert_eq!(a.server.core.log.pending(), 3);
    redis.restart().await;
    a.redis_is_up().await;
    b.redis_is_up().await;
    eventually("logged", || async { a.server.core.log.pending() == 0 }).await;
    assert_eq!(a.get("/users/1").await.body, "v4");
    assert_eq!(b.get("/users/1").await.body, "v4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_costs_a_request_no_more_than_its_deadline_and_then_nothing() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let text = config(&redis, "").replace("redis_timeout = \"5s\"\n", "");
    let a = Instance::start(&origin, &text).with_redis_up().await;
    redis.signal("STOP");
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let began = Instant::now();
        assert_eq!(a.get(&format!("/users/{n}")).await.status, 200);
        slowest = slowest.max(began.elapsed());
    }
    // Two commands at most are on a request's way, each with a deadline of 50 ms; the rest is this machine.
    assert!(slowest < Duration::from_millis(600), "{slowest:?}");
    a.redis_is_down().await;
    let refused = a.metric("redis_commands_total{command=\"get\",result=\"unavailable\"}").await;
    assert!(refused > 5.0, "the breaker holds commands back: {refused}");
    redis.signal("CONT");
    a.redis_is_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_killed_and_restarted_under_load_no_request_fails_and_shared_hits_come_back() {
    let mut redis = Redis::start().await;
    let origin = Origin::counting("max-age=1").await;
    let a = Arc::new(instance(&origin, &redis).await);
    let b = Arc::new(instance(&origin, &redis).await);
    let (stop, asked, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let proxy = if n % 2 == 0 { a.clone() } else { b.clone() };
            let (stop, asked, failed) = (stop.clone(), asked.clone(), failed.clone());
            tokio::spawn(async move {
                let mut i = n;
                while !stop.load(Ordering::Relaxed) && i < 100_000 {
                    i += 1;
                    let answer = proxy.get(&format!("/users/{}", i % 50)).await;
                    asked.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(usize::from(answer.status != 200), Ordering::Relaxed);
                }
            })
        })
        .collect();
    let shared_hits = || async {
        let hit = "requests_total{method=\"GET\",outcome=\"hit_redis\",route=\"user\"}";
        a.metric(hit).await + b.metric(hit).await
    };
    // Time goes on in both, so that entries expire and Redis is asked again and again.
    let tick = || {
        a.clock.advance(Duration::from_millis(300));
        b.clock.advance(Duration::from_millis(300));
    };
    eventually("shared hits", || async {
        tick();
        shared_hits().await > 10.0
    })
    .await;
    redis.kill();
    a.redis_is_down().await;
    b.redis_is_down().await;
    let at = asked.load(Ordering::Relaxed);
    eventually("service without Redis", || async {
        tick();
        asked.load(Ordering::Relaxed) > at + 500
    })
    .await;
    redis.restart().await;
    a.redis_is_up().await;
    b.redis_is_up().await;
    let before = shared_hits().await;
    eventually("shared hits again", || async {
        tick();
        shared_hits().await > before + 10.0
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", asked.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_route_serves_nothing_it_can_not_be_sure_of_and_a_bounded_one_does() {
    let mut redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let strict = "coherence = \"strict\"\n[[route]]\nname = \"bounded\"\nmatch = \"/b/{id}\"\n";
    let a = Instance::start(&origin, &config(&redis, strict)).with_redis_up().await;
    a.fill("/users/1").await;
    a.fill("/b/1").await;
    assert!(a.get("/users/1").await.is_hit("memory"));
    redis.kill();
    a.redis_is_down().await;
    a.clock.advance(Duration::from_secs(1));
    let refused = a.get("/users/1").await;
    assert!(refused.cache_status().contains("detail=untrusted"), "{}", refused.cache_status());
    assert!(a.get("/b/1").await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_entry_from_redis_stands_in_for_an_upstream_that_fails() {
    let redis = Redis::start().await;
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = broken.clone();
    let origin = Origin::start(move |_| {
        let broken = is_broken.load(Ordering::SeqCst);
        async move {
            if broken {
                crate::support::status(503)
            } else {
                with(ok("good"), &[("cache-control", "max-age=10, stale-while-revalidate=60")])
            }
        }
    })
    .await;
    let a = instance(&origin, &redis).await;
    fill_both(&a, &redis, "/users/1", "user:1").await;
    broken.store(true, Ordering::SeqCst);
    let b = instance(&origin, &redis).await;
    b.clock.advance(Duration::from_secs(20));
    let masked = b.get("/users/1").await;
    assert_eq!((masked.status, masked.body.as_str()), (200, "good"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_instance_logged_is_counted_by_its_source_and_no_gap_is_seen_where_there_is_none() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let (a, b) = (instance(&origin, &redis).await, instance(&origin, &redis).await);
    for n in 0..50 {
        let message = format!("t{n}");
        tokio::join!(a.purge(&message), b.purge(&message));
    }
    for proxy in [&a, &b] {
        let logged = || async { proxy.metric("invalidations_total{scope=\"tag\",source=\"log\"}").await };
        eventually("all heard", || async { logged().await == 50.0 }).await;
        assert_eq!(proxy.metric("invalidation_log_gaps_total").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_memory_goes_on_beyond_its_shorter_limit() {
    let mut redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let text = config(&redis, "").replace("[store]", "[store]\nmemory_ttl_max = \"5s\"");
    let a = Instance::start(&origin, &text).with_redis_up().await;
    fill_both(&a, &redis, "/users/1", "user:1").await;
    redis.kill();
    a.redis_is_down().await;
    a.clock.advance(Duration::from_secs(6));
    assert!(a.get("/users/1").await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_back_that_can_not_be_logged_at_first_is_logged_when_redis_takes_writes_again() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let (a, b) = (instance(&origin, &redis).await, instance(&origin, &redis).await);
    a.purge("something").await;
    b.fill("/users/1").await;
    // The stream's last id lies before what was applied, and nothing can be appended for now.
    redis.command(&["DEL", "{asidecar}:log"]).await.unwrap();
    let _: String = redis.ask(&["XADD", "{asidecar}:log", "1-1", "v", "1", "p", "0-0", "m", "x"]).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    a.redis_is_down().await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
    a.redis_is_up().await;
    b.redis_is_up().await;
    eventually("nothing is pending", || async { a.server.core.log.pending() == 0 }).await;
    assert!(a.metric("horizon_moves_total{reason=\"rolled_back\"}").await < 50.0, "it did not spin");
    assert_eq!(a.purge("anything").await.status, 200);
    assert!(!b.get("/users/1").await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_large_messages_is_caught_up_with() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let a = instance(&origin, &redis).await;
    let message = serde_json::json!({"tags": ["x".repeat(15_000), "y".repeat(15_000), "z".repeat(15_000)]}).to_string();
    for _ in 0..300 {
        let _: String = redis.ask(&["XADD", "{asidecar}:log", "*", "m", &message]).await;
    }
    assert_eq!(a.purge("user:1").await.status, 200);
    let late = instance(&origin, &redis).await;
    let position = |i: &Instance| i.server.core.log.position().id;
    eventually("both have read all of it", || async { position(&late) == position(&a) }).await;
    assert_eq!(late.metric("redis_commands_total{command=\"read\",result=\"timeout\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_logs_what_is_pending_and_the_write_of_a_client_that_has_gone() {
    use tokio::io::AsyncWriteExt;
    let redis = Redis::start().await;
    let gate = crate::support::Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |_| {
        let gate = held.clone();
        async move {
            gate.pass().await;
            crate::support::status(204)
        }
    })
    .await;
    let a = Instance::start(&origin, &config(&redis, "")).with_redis_up().await;
    let before: i64 = redis.ask(&["XLEN", "{asidecar}:log"]).await;
    let mut client = tokio::net::TcpStream::connect(a.server.proxy).await.unwrap();
    client.write_all(b"PUT /users/1 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    gate.wait_for(1).await;
    let open = a.server.core.metrics.connections.get();
    drop(client);
    eventually("it is gone", || async { a.server.core.metrics.connections.get() < open }).await;
    let Instance { server, .. } = a;
    server.drain();
    let end = tokio::task::spawn_blocking(move || server.stop());
    gate.open(1);
    end.await.unwrap();
    assert_eq!(redis.ask::<i64>(&["XLEN", "{asidecar}:log"]).await, before + 2, "announced, and over");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_nobody_reads_less_than_what_was_acknowledged_before_through_his_instance() {
    let redis = Redis::start().await;
    let versions: Arc<Vec<AtomicUsize>> = Arc::new((0..4).map(|_| AtomicUsize::new(0)).collect());
    let stored = versions.clone();
    let origin = Origin::start(move |seen| {
        let versions = stored.clone();
        async move {
            let key: usize = seen.target.rsplit('/').next().unwrap().parse().unwrap();
            if seen.method == Method::PUT {
                return ok((versions[key].fetch_add(1, Ordering::SeqCst) + 1).to_string());
            }
            // The value is read first and answered later, as a slow query does it.
            let snapshot = versions[key].load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(2)).await;
            with(ok(snapshot.to_string()), FRESH)
        }
    })
    .await;
    let instances = [Arc::new(instance(&origin, &redis).await), Arc::new(instance(&origin, &redis).await)];
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let proxy = instances[n % 2].clone();
        tasks.spawn(async move {
            for round in 0..60 {
                let path = format!("/users/{}", (n + round) % 4);
                let wrote: usize = proxy.send(Method::PUT, &path, &[], "").await.body.parse().unwrap();
                for _ in 0..3 {
                    let read: usize = proxy.get(&path).await.body.parse().unwrap();
                    assert!(read >= wrote, "{path}: read {read} after {wrote} was acknowledged");
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // Once all is heard, both agree with the origin.
    let newest = |i: &Instance| i.server.core.log.position().id;
    eventually("both have heard all", || async { newest(&instances[0]) == newest(&instances[1]) }).await;
    for (key, version) in versions.iter().enumerate() {
        for proxy in &instances {
            assert_eq!(proxy.get(&format!("/users/{key}")).await.body, version.load(Ordering::SeqCst).to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_route_is_served_while_redis_is_silent_and_says_so() {
    let mut redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let proxy = Instance::by_clock(standing_clock(), origin.address, &config(&redis, "")).with_redis_up().await;
    proxy.fill("/users/1").await;
    proxy.clock.advance(Duration::from_secs(1));
    eventually("heard since", || async { proxy.server.core.log.trusted(proxy.clock.now()) }).await;
    assert_eq!(proxy.get("/users/1").await.cache_status(), "asidecar; hit; ttl=599; detail=memory");
    redis.kill();
    proxy.redis_is_down().await;
    proxy.clock.advance(Duration::from_secs(2));
    assert_eq!(proxy.get("/users/1").await.cache_status(), "asidecar; hit; ttl=597; detail=memory_untrusted");
    assert_eq!(proxy.metric("untrusted_hits_total{route=\"user\"}").await, 1.0);
    redis.restart().await;
    proxy.redis_is_up().await;
    // What others could not log meanwhile has been logged by then.
    proxy.clock.advance(Duration::from_secs(60));
    eventually("sure again", || async { proxy.fill("/users/1").await.cache_status().ends_with("detail=memory") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_instance_dies_before_it_can_say_what_came_of_it_is_taken_for_made() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let (a, b) = (instance(&origin, &redis).await, instance(&origin, &redis).await);
    fill_both(&b, &redis, "/users/1", "user:1").await;
    let what = Invalidation { keys: vec!["user:1".into()], ..Invalidation::default() };
    let until = a.clock.now().plus(Duration::from_secs(100));
    a.server.core.log.announce(what, until).await.expect("it is in the log");
    eventually("announced everywhere", || async { b.server.core.log.position() == a.server.core.log.position() }).await;
    // It dies with the write on its way to upstream.
    drop(a);
    b.clock.advance(Duration::from_secs(90));
    assert!(b.get("/users/1").await.is_hit("memory"), "it may fail yet");
    b.clock.advance(Duration::from_secs(20));
    let taken = "invalidations_total{scope=\"key\",source=\"intent\"}";
    eventually("taken for made", || async { b.metric(taken).await == 1.0 }).await;
    assert!(!b.get("/users/1").await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_is_announced_and_over_and_invalidates_nothing() {
    let redis = Redis::start().await;
    let origin = Origin::start(|seen| async move {
        if seen.method == Method::PUT { crate::support::status(409) } else { with(ok("a"), FRESH) }
    })
    .await;
    let (a, b) = (instance(&origin, &redis).await, instance(&origin, &redis).await);
    fill_both(&b, &redis, "/users/1", "user:1").await;
    let before: i64 = redis.ask(&["XLEN", "{asidecar}:log"]).await;
    a.send(Method::PUT, "/users/1", &[], "").await;
    assert_eq!(redis.ask::<i64>(&["XLEN", "{asidecar}:log"]).await, before + 2, "its beginning and its end");
    eventually("heard", || async { b.server.core.log.position() == a.server.core.log.position() }).await;
    b.clock.advance(Duration::from_secs(300));
    let pings = "redis_commands_total{command=\"ping\",result=\"ok\"}";
    let beats = b.metric(pings).await;
    eventually("two heartbeats", || async { b.metric(pings).await >= beats + 2.0 }).await;
    assert!(b.get("/users/1").await.is_hit("memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_announces_or_ends_a_write() {
    let redis = Redis::start().await;
    let origin = Origin::counting("max-age=600").await;
    let proxy = instance(&origin, &redis).await;
    proxy.fill("/users/1").await;
    for message in [r#"{"done":"1-0"}"#, r#"{"tags":["users"],"intent":1}"#] {
        redis.publish(message).await;
        assert_eq!(proxy.purge(message).await.status, 400);
    }
    eventually("refused", || async { proxy.metric("malformed_total{what=\"message\"}").await >= 2.0 }).await;
    assert!(proxy.get("/users/1").await.is_hit("memory"));
}

/// Somebody's invalidation that is in the log and not known here yet stands between the POST's own and what is.
#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_post_is_kept_when_what_was_logged_meanwhile_is_known_and_named_something_else() {
    for (named, kept) in [("another", true), ("users", false)] {
        let redis = Redis::start().await;
        let gate = Gate::closed();
        let held = gate.clone();
        let origin = Origin::start(move |seen| {
            let held = held.clone();
            async move {
                if seen.method != Method::POST {
                    return with(ok("read"), FRESH);
                }
                held.pass().await;
                with(with(ok("answer"), FRESH), &[("content-location", "/users/1")])
            }
        })
        .await;
        let proxy = Arc::new(instance(&origin, &redis).await);
        let writer = {
            let proxy = proxy.clone();
            tokio::spawn(async move { proxy.send(Method::POST, "/users/1", &[], "").await })
        };
        gate.wait_for(1).await;
        let what = format!("{{\"tags\":[\"{named}\"]}}");
        let _: String = redis.ask(&["XADD", "{asidecar}:log", "*", "m", &what]).await;
        gate.open(1);
        assert_eq!(writer.await.unwrap().body, "answer");
        if kept {
            let asked = [("cache-control", "only-if-cached")];
            eventually("kept", || async { proxy.get_with("/users/1", &asked).await.body == "answer" }).await;
        } else {
            let refused = "not_stored_total{reason=\"invalidated\",route=\"user\"}";
            eventually("refused", || async { proxy.metric(refused).await == 1.0 }).await;
            assert_eq!(proxy.get("/users/1").await.body, "read");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_when_a_body_has_broken_off_gets_a_whole_one_though_redis_is_silent() {
    let mut redis = Redis::start().await;
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = RawOrigin::start(move |mut wire, n| {
        let held = held.clone();
        async move {
            wire.head().await;
            let begin = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n12345";
            wire.send(begin).await;
            if n == 1 {
                return held.pass().await;
            }
            wire.send("67890").await;
            wire.rest().await;
        }
    })
    .await;
    let config = config(&redis, "coalesce = \"fleet\"\n").replace("\"5s\"", "\"2s\"");
    let proxy = Instance::in_front_of(origin.address, &config).with_redis_up().await;
    let mut first = Wire::connect(proxy.server.proxy).await;
    first.send("GET /users/1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    first.until("12345").await;
    // The lease can't be given back now, and the fill waits for that.
    redis.signal("STOP");
    gate.open(1);
    let broken = "not_stored_total{reason=\"incomplete\",route=\"user\"}";
    eventually("it broke off", || async { proxy.metric(broken).await == 1.0 }).await;
    let mut second = Wire::connect(proxy.server.proxy).await;
    second.send("GET /users/1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = second.answer_or_broken().await.expect("it is whole");
    assert_eq!(answer.body, "1234567890");
    redis.kill();
}
