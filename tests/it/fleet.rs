//! One fetch for a whole fleet: several instances, one Redis, one upstream that counts.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Gate, Instance, Origin, Redis, eventually, ok, with};
use futures_util::future::join_all;

fn config(redis: &Redis, route: &str) -> String {
    format!(
        "[store]\nredis = \"{}\"\nredis_timeout = \"5s\"\n[[route]]\nname = \"all\"\nkey = \"a\"\n{route}",
        redis.url()
    )
}

async fn fleet(n: usize, origin: &Origin, redis: &Redis, route: &str) -> Vec<Arc<Instance>> {
    let start = |_| async { Arc::new(Instance::start(origin, &config(redis, route)).with_redis_up().await) };
    join_all((0..n).map(start)).await
}

/// An origin whose GETs wait at a gate.
async fn held(gate: &Gate, cache_control: &'static str) -> Origin {
    let gate = gate.clone();
    Origin::start(move |_| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            let n = gate.came();
            with(ok(format!("call {n}")), &[("cache-control", cache_control)])
        }
    })
    .await
}

fn reading(proxy: &Arc<Instance>, path: &'static str) -> tokio::task::JoinHandle<crate::support::Answer> {
    let proxy = proxy.clone();
    tokio::spawn(async move { proxy.get(path).await })
}

async fn subscribers(redis: &Redis, channel: &str) -> i64 {
    let (_, count): (String, i64) = redis.ask(&["PUBSUB", "NUMSUB", channel]).await;
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_is_asked_once_however_many_clients_of_however_many_instances_want_a_cold_key() {
    let redis = Redis::start().await;
    let gate = Gate::closed();
    let origin = held(&gate, "max-age=60").await;
    let fleet = fleet(4, &origin, &redis, "").await;
    let clients: Vec<_> = (0..40).map(|n| reading(&fleet[n % 4], "/a")).collect();
    gate.wait_for(1).await;
    eventually("the other three listen", || async { subscribers(&redis, "asidecar:fill//a").await == 3 }).await;
    for proxy in &fleet {
        eventually("all of its clients wait", || async { proxy.server.core.fills.waiting() >= 9 }).await;
    }
    gate.open(100);
    for client in clients {
        assert_eq!(client.await.unwrap().body, "call 1");
    }
    assert_eq!(origin.calls(), 1);
    let leases: Vec<String> = redis.keys().await.into_iter().filter(|k| k.contains("lease//")).collect();
    assert!(leases.is_empty(), "given back: {leases:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_coalesce_instance_each_instance_asks_once_and_with_off_each_request() {
    let redis = Redis::start().await;
    for (rule, path, calls) in [("instance", "/i", 2), ("off", "/o", 4)] {
        redis.command(&["FLUSHALL"]).await.unwrap();
        let gate = Gate::closed();
        let origin = held(&gate, "max-age=60").await;
        let fleet = fleet(2, &origin, &redis, &format!("coalesce = \"{rule}\"")).await;
        let clients: Vec<_> = (0..4).map(|n| reading(&fleet[n % 2], path)).collect();
        gate.wait_for(calls).await;
        for proxy in &fleet {
            eventually("its clients are here", || async { proxy.server.core.fills.waiting() + gate.came() >= 2 }).await;
        }
        gate.open(100);
        for client in clients {
            client.await.unwrap();
        }
        assert_eq!(origin.calls(), calls, "{rule}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_stored_is_fetched_by_each_for_itself_without_queueing() {
    let redis = Redis::start().await;
    let gate = Gate::closed();
    let origin = held(&gate, "no-store").await;
    let fleet = fleet(2, &origin, &redis, "").await;
    let first = reading(&fleet[0], "/a");
    gate.wait_for(1).await;
    let second = reading(&fleet[1], "/a");
    eventually("it waits", || async { fleet[1].server.core.fills.len() == 1 }).await;
    gate.open(1);
    assert_eq!(first.await.unwrap().status, 200);
    gate.wait_for(2).await;
    gate.open(1);
    assert_eq!(second.await.unwrap().status, 200);
    // Now both know: nobody waits for anybody.
    let both = [reading(&fleet[0], "/a"), reading(&fleet[1], "/a")];
    gate.wait_for(4).await;
    gate.open(2);
    for answer in both {
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_upstream_is_asked_once_and_all_are_told() {
    let redis = Redis::start().await;
    let gate = Gate::closed();
    let raw = crate::support::RawOrigin::start({
        let gate = gate.clone();
        move |mut wire, _| {
            let gate = gate.clone();
            async move {
                wire.head().await;
                gate.pass().await;
                drop(wire);
            }
        }
    })
    .await;
    let start = || async { Arc::new(Instance::in_front_of(raw.address, &config(&redis, "")).with_redis_up().await) };
    let (a, b) = (start().await, start().await);
    let first = reading(&a, "/a");
    gate.wait_for(1).await;
    let second = reading(&b, "/a");
    eventually("it waits for the other", || async {
        b.metric("redis_commands_total{command=\"lease\",result=\"ok\"}").await >= 2.0
    })
    .await;
    // A kept connection that breaks is tried once more; this one was new each time.
    gate.open(10);
    assert_eq!(first.await.unwrap().status, 502);
    assert_eq!(second.await.unwrap().status, 502);
    let asked = a.metric("upstream_requests_total{route=\"all\",status_class=\"failed\"}").await
        + b.metric("upstream_requests_total{route=\"all\",status_class=\"failed\"}").await;
    assert_eq!(asked, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_goes_on_where_the_one_that_fetched_is_gone() {
    let redis = Redis::start().await;
    let gate = Gate::closed();
    let origin = held(&gate, "max-age=60").await;
    let fleet = fleet(2, &origin, &redis, "").await;
    // Somebody who died with the lease in his hand.
    redis.command(&["SET", "asidecar:lease//a", "nobody", "PX", "1500"]).await.unwrap();
    let reader = reading(&fleet[1], "/a");
    eventually("it waits", || async {
        fleet[1].metric("redis_commands_total{command=\"lease\",result=\"ok\"}").await >= 2.0
    })
    .await;
    assert_eq!(origin.calls(), 0, "the lease is another's");
    gate.open(10);
    assert_eq!(reader.await.unwrap().body, "call 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_another_instance_goes_on_alone_when_redis_dies() {
    let mut redis = Redis::start().await;
    let gate = Gate::closed();
    let origin = held(&gate, "max-age=60").await;
    let fleet = fleet(2, &origin, &redis, "").await;
    let first = reading(&fleet[0], "/a");
    gate.wait_for(1).await;
    let second = reading(&fleet[1], "/a");
    eventually("it listens", || async { subscribers(&redis, "asidecar:fill//a").await == 1 }).await;
    redis.kill();
    gate.wait_for(2).await;
    gate.open(10);
    assert_eq!((first.await.unwrap().status, second.await.unwrap().status), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_began_before_an_invalidation_is_not_for_who_asks_after_it_on_another_instance() {
    let redis = Redis::start().await;
    let gate = Gate::closed();
    let origin = held(&gate, "max-age=60").await;
    let fleet = fleet(2, &origin, &redis, "").await;
    let before = reading(&fleet[0], "/a");
    gate.wait_for(1).await;
    fleet[1].purge(r#"{"keys":["a"]}"#).await;
    let after = reading(&fleet[1], "/a");
    eventually("it listens", || async { subscribers(&redis, "asidecar:fill//a").await == 1 }).await;
    gate.open(1);
    assert_eq!(before.await.unwrap().body, "call 1");
    gate.wait_for(2).await;
    gate.open(1);
    assert_eq!(after.await.unwrap().body, "call 2", "what the first fetched is older than the invalidation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_as_long_as_its_fill_runs() {
    let redis = Redis::start().await;
    let gate = Gate::closed();
    let origin = held(&gate, "max-age=60").await;
    let fleet = fleet(1, &origin, &redis, "").await;
    let reader = reading(&fleet[0], "/a");
    gate.wait_for(1).await;
    redis.command(&["PEXPIRE", "asidecar:lease//a", "1900"]).await.unwrap();
    eventually("renewed", || async { redis.ask::<i64>(&["PTTL", "asidecar:lease//a"]).await > 2000 }).await;
    gate.open(1);
    assert_eq!(reader.await.unwrap().body, "call 1");
    eventually("given back", || async { redis.ask::<i64>(&["EXISTS", "asidecar:lease//a"]).await == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_entry_is_refreshed_once_for_the_whole_fleet() {
    let redis = Redis::start().await;
    let gate = Gate::closed();
    let origin = held(&gate, "max-age=10, stale-while-revalidate=600").await;
    let fleet = fleet(3, &origin, &redis, "").await;
    gate.open(1);
    for proxy in &fleet {
        proxy.fill("/a").await;
        eventually("shared", || async { redis.ask::<i64>(&["EXISTS", "asidecar:a"]).await == 1 }).await;
    }
    for proxy in &fleet {
        proxy.clock.advance(Duration::from_secs(20));
        assert_eq!(proxy.get("/a").await.body, "call 1");
    }
    gate.wait_for(2).await;
    gate.open(10);
    for proxy in &fleet {
        eventually("fresh everywhere", || async { proxy.get("/a").await.body == "call 2" }).await;
    }
    assert_eq!(origin.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_popular_is_refreshed_once_for_the_fleet_before_it_ends_for_anybody() {
    let redis = Redis::start().await;
    let gate = Gate::closed();
    let origin = held(&gate, "max-age=60").await;
    let fleet = fleet(2, &origin, &redis, "early_refresh = 10").await;
    // A fetch that took a while: what it costs is how long before its end it is worth a refresh.
    let first = reading(&fleet[0], "/a");
    gate.wait_for(1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.open(1);
    first.await.unwrap();
    eventually("shared", || async { redis.ask::<i64>(&["EXISTS", "asidecar:a"]).await == 1 }).await;
    assert_eq!(fleet[1].get("/a").await.body, "call 1");
    for proxy in &fleet {
        proxy.clock.advance(Duration::from_millis(59_500));
    }
    eventually("a hit begins the refresh", || async {
        let answer = fleet[1].get("/a").await;
        assert!(answer.cache_status().contains("hit"), "nobody waits: {}", answer.cache_status());
        gate.came() == 2
    })
    .await;
    for _ in 0..50 {
        assert_eq!(fleet[0].get("/a").await.body, "call 1", "still fresh");
    }
    gate.open(10);
    for proxy in &fleet {
        eventually("newer everywhere", || async { proxy.get("/a").await.body == "call 2" }).await;
    }
    assert_eq!(origin.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn within_settle_after_an_invalidation_nothing_that_it_named_is_stored() {
    let origin = Origin::counting("max-age=60").await;
    let proxy = Instance::start(&origin, "[[route]]\nname = \"all\"\nsettle = \"500ms\"\n");
    proxy.fill("/a").await;
    proxy.send(http::Method::PUT, "/a", &[], "").await;
    let unsettled = proxy.get("/a").await;
    assert!(unsettled.cache_status().contains("detail=settling"), "{}", unsettled.cache_status());
    assert!(!proxy.get("/a").await.is_hit("memory"));
    proxy.clock.advance(Duration::from_millis(600));
    proxy.fill("/a").await;
    assert!(proxy.get("/a").await.is_hit("memory"));
    proxy.purge(r#"{"all":true}"#).await;
    assert!(proxy.get("/a").await.cache_status().contains("detail=settling"), "everything was named");
}
