//! A fleet of three with a real Redis, and what can befall it. While something happens, clients of all three write
//! and read, and no answer is older than it may be: through the same instance never older than what was
//! acknowledged there before the question, on strict routes never older than `max_lag` and a heartbeat, and when all
//! is well again the same for bounded ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::commands::{Running, file};
use crate::story::{Client, Habit, Load, Manner, Seen, Story, serve};
use crate::support::{Gate, Instance, Origin, Redis, eventually, ok, with};

const HEARTBEAT: Duration = Duration::from_millis(200);
const MAX_LAG: Duration = Duration::from_millis(600);
/// How old an answer of a strict route may be.
const OLDEST: Duration = HEARTBEAT.saturating_add(MAX_LAG);
const KEYS: usize = 6;
/// Two of the instances write, the third learns of everything from the others.
const WRITES: Habit = Habit { clients: 2, reads_a_write: 16, rest: Duration::ZERO };
const READS: Habit = Habit { clients: 2, reads_a_write: 0, rest: Duration::ZERO };

fn config(redis: &Redis, more: &str) -> String {
    format!(
        "[store]\nredis = \"{}\"\nredis_timeout = \"300ms\"\n\
         [invalidation]\nheartbeat = \"{}ms\"\nmax_lag = \"{}ms\"\n{more}\n\
         [[route]]\nname = \"bounded\"\nmatch = \"/b/{{id}}\"\nkey = \"b:{{id}}\"\n\
         [[route]]\nname = \"strict\"\nmatch = \"/s/{{id}}\"\nkey = \"s:{{id}}\"\ncoherence = \"strict\"\n",
        redis.url(),
        HEARTBEAT.as_millis(),
        MAX_LAG.as_millis(),
    )
}

/// Three instances in this process, and clients that write and read through them.
struct Fleet {
    redis: Redis,
    instances: Vec<Instance>,
    load: Load,
}

impl Fleet {
    async fn start() -> Fleet {
        Fleet::with("", KEYS, [WRITES, WRITES, READS]).await
    }
    async fn with(more: &str, keys: usize, habits: [Habit; 3]) -> Fleet {
        let redis = Redis::start().await;
        let story = Story::new(keys, 3);
        let origin = serve(story.clone()).await;
        let start = |_| async { Instance::in_front_of(origin, &config(&redis, more)).with_redis_up().await };
        let instances = join_all((0..3).map(start)).await;
        let clients = instances.iter().zip(habits).map(|(i, habit)| (i.server.proxy, vec![habit]));
        let load = Load::start(&story, &clients.collect::<Vec<_>>());
        let fleet = Fleet { redis, instances, load };
        fleet.reads(300).await;
        fleet
    }
    /// So many reads more.
    async fn reads(&self, n: usize) {
        let until = self.load.reads() + n;
        eventually("reads", || async { self.load.reads() >= until }).await;
    }
    /// Goes on for longer than a strict route may be behind.
    async fn lasts(&self) {
        let until = Instant::now() + 2 * OLDEST;
        eventually("it lasted", || async { Instant::now() > until }).await;
        self.reads(100).await;
    }
    async fn redis_is_down(&self) {
        join_all(self.instances.iter().map(Instance::redis_is_down)).await;
    }
    /// Everybody follows Redis, has logged what waited, and has heard of all that was in the log by then.
    async fn is_well(&self) {
        for instance in &self.instances {
            instance.redis_is_up().await;
            eventually("nothing waits", || async { instance.server.core.log.pending() == 0 }).await;
        }
        let positions = || self.instances.iter().map(|i| i.server.core.log.position().id);
        let newest = positions().max().unwrap();
        eventually("all have heard", || async { positions().all(|p| p >= newest) }).await;
    }
    /// All is well again: some reads more, all of them judged, and everybody says what the origin says.
    async fn recovers(self) -> Arc<Seen> {
        self.is_well().await;
        let seen = self.load.seen.clone();
        let strict = seen.oldest(true);
        assert!(strict <= OLDEST, "a strict route was {strict:?} behind");
        seen.oldest(false);
        self.reads(300).await;
        let story = self.load.story.clone();
        self.load.end().await;
        for (route, behind) in [("strict", seen.oldest(true)), ("bounded", seen.oldest(false))] {
            assert!(behind <= OLDEST, "all is well, and a {route} route was {behind:?} behind");
        }
        assert_eq!(seen.older.load(Ordering::SeqCst), 0, "{}", seen.said());
        for instance in &self.instances {
            for key in 0..story.len() {
                let now =
                    || async { instance.get(story.path(key)).await.body.trim().parse() == Ok(story.version(key)) };
                eventually("it says what the origin says", now).await;
            }
        }
        seen
    }
}

/// Requests may be slow when something happens; none of them fails.
fn none_failed(seen: &Seen) {
    assert_eq!(seen.failed.load(Ordering::SeqCst), 0, "{}", seen.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_less_than_he_may_be_when_redis_is_killed_and_comes_back_empty() {
    let mut fleet = Fleet::start().await;
    fleet.redis.kill();
    fleet.redis_is_down().await;
    fleet.lasts().await;
    fleet.redis.restart().await;
    none_failed(&*fleet.recovers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_less_than_he_may_be_when_redis_stands_still_and_goes_on() {
    let fleet = Fleet::start().await;
    fleet.redis.signal("STOP");
    fleet.redis_is_down().await;
    fleet.lasts().await;
    fleet.redis.signal("CONT");
    none_failed(&*fleet.recovers().await);
}

/// What is written while nobody can log it is known to the writer's instance only, which may find Redis again later
/// than the others do.
#[tokio::test(flavor = "multi_thread")]
async fn a_strict_route_does_not_trust_a_redis_that_is_back_before_the_others_can_have_logged_what_waited() {
    let redis = Redis::start().await;
    let story = Story::new(2, 3);
    let origin = serve(story.clone()).await;
    let start = |_| async { Instance::in_front_of(origin, &config(&redis, "")).with_redis_up().await };
    let fleet = join_all((0..3).map(start)).await;
    let path = story.path(1);
    assert!(story.is_strict(1));
    for round in 0..2 {
        for instance in &fleet {
            instance.fill(path).await;
        }
        redis.signal("STOP");
        join_all(fleet.iter().map(Instance::redis_is_down)).await;
        let mut writer = Client::new(fleet[round % 3].server.proxy);
        let version = writer.ask("PUT", path).await.unwrap().version().unwrap();
        let acknowledged = Instant::now();
        eventually("longer than a strict route may be behind", || async { acknowledged.elapsed() > OLDEST }).await;
        redis.signal("CONT");
        let all_know = || async {
            for instance in &fleet {
                let said: usize = instance.get(path).await.body.trim().parse().unwrap();
                assert!(said >= version, "{said} {:?} after {version} was acknowledged", acknowledged.elapsed());
            }
            fleet.iter().all(|i| i.server.core.metrics.redis_up.get() == 1 && i.server.core.log.pending() == 0)
        };
        eventually("all is well", all_know).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_less_than_he_may_be_when_subscriptions_are_cut_again_and_again() {
    let fleet = Fleet::start().await;
    for _ in 0..5 {
        fleet.redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
        fleet.reads(100).await;
    }
    none_failed(&*fleet.recovers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_less_than_he_may_be_when_redis_pauses_its_clients() {
    let fleet = Fleet::start().await;
    fleet.redis.command(&["CLIENT", "PAUSE", "1000", "ALL"]).await.unwrap();
    fleet.redis_is_down().await;
    fleet.reads(100).await;
    none_failed(&*fleet.recovers().await);
}

/// The log, or all of Redis, is lost under the fleet again and again.
async fn losing(command: &[&str]) {
    let fleet = Fleet::start().await;
    let lost = || async {
        let moves = |i: &'static str| format!("horizon_moves_total{{reason=\"{i}\"}}");
        let mut all = 0.0;
        for instance in &fleet.instances {
            all += instance.metric(&moves("broken")).await;
        }
        all
    };
    for _ in 0..4 {
        fleet.redis.command(command).await.unwrap();
        fleet.reads(100).await;
    }
    // Not each time: where the log is begun anew within the millisecond of its last entry, whoever had heard all of
    // it has nothing to notice.
    eventually("somebody noticed", || async { lost().await > 0.0 }).await;
    none_failed(&*fleet.recovers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_less_than_he_may_be_when_redis_is_flushed() {
    losing(&["FLUSHALL"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_less_than_he_may_be_when_the_log_is_deleted() {
    losing(&["DEL", "{asidecar}:log"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_less_than_he_may_be_when_the_log_is_trimmed_to_nothing() {
    let fleet = Fleet::start().await;
    for _ in 0..4 {
        // Together with the subscriptions: what was rung meanwhile is nowhere to be read.
        fleet.redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
        fleet.redis.command(&["XTRIM", "{asidecar}:log", "MAXLEN", "0"]).await.unwrap();
        fleet.reads(100).await;
    }
    none_failed(&*fleet.recovers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_reads_under_one_fault_after_the_other_and_none_older_than_acknowledged() {
    let mut fleet = Fleet::start().await;
    let each = 20_000 / 6;
    for command in [
        &["CLIENT", "KILL", "TYPE", "pubsub"][..],
        &["FLUSHALL"],
        &["XTRIM", "{asidecar}:log", "MAXLEN", "0"],
        &["DEL", "{asidecar}:log"],
    ] {
        fleet.redis.command(command).await.unwrap();
        fleet.reads(each).await;
    }
    fleet.redis.kill();
    fleet.redis_is_down().await;
    fleet.reads(each).await;
    fleet.redis.restart().await;
    fleet.reads(each).await;
    let seen = fleet.recovers().await;
    none_failed(&seen);
    assert!(seen.reads.load(Ordering::SeqCst) >= 20_000);
    assert!(seen.hits.load(Ordering::SeqCst) > 0, "the cache was of use");
}

/// Upstream behaves oddly every third time. Requests may fail, but who is answered is told the truth, and a write
/// that may have been done counts as one.
async fn upstream(manner: Manner, fails: bool) {
    // Many keys and many writes: what one of them should have done is seldom done by another.
    let often = Habit { reads_a_write: 4, ..WRITES };
    let fleet = Fleet::with("[upstream]\nfirst_byte_timeout = \"300ms\"", 40, [often, often, READS]).await;
    fleet.load.story.behave(manner);
    fleet.reads(400).await;
    fleet.load.story.behave(Manner::Well);
    let seen = fleet.recovers().await;
    let failed = seen.failed.load(Ordering::SeqCst);
    assert_eq!(failed > 0, fails, "{failed} failed: {}", seen.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_less_than_he_may_be_by_an_upstream_that_fails() {
    upstream(Manner::Fails, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_less_than_he_may_be_by_an_upstream_that_hangs() {
    upstream(Manner::Hangs, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_less_than_he_may_be_by_an_upstream_that_breaks_off() {
    upstream(Manner::Resets, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_less_than_he_may_be_by_an_upstream_that_answers_byte_by_byte() {
    upstream(Manner::Trickles, false).await;
}

/// Three instances as processes, which can be killed: each with its proxy's and its admin listener's address.
async fn processes(upstream: SocketAddr, redis: &Redis) -> (tempfile::TempDir, Vec<(Running, SocketAddr)>) {
    // A deadline that a busy machine keeps, too: what is cut off here is cut off by a kill.
    let text = config(redis, "").replace("redis_timeout = \"300ms\"", "redis_timeout = \"5s\"");
    let (folder, path) = file("asidecar.toml", &text);
    let start = |_| async {
        let (running, proxy, admin) = Running::proxy(upstream, &[("ASIDECAR_CONFIG", &path)]).await;
        eventually("Redis is up", || async {
            let ready = Client::new(admin).ask("GET", "/readyz").await.unwrap();
            String::from_utf8_lossy(&ready.body).contains("\"redis\":\"up\"")
        })
        .await;
        (running, proxy)
    };
    let all = join_all((0..3).map(start)).await;
    (folder, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_instance_that_fetches_for_the_fleet_is_killed_one_other_takes_over_within_the_lease() {
    let redis = Redis::start().await;
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::start(move |_| {
        let gate = held.clone();
        async move {
            gate.pass().await;
            with(ok("fetched"), &[("cache-control", "max-age=600")])
        }
    })
    .await;
    let (_folder, fleet) = processes(origin.address, &redis).await;
    let reading = |n: usize| {
        let mut client = Client::new(fleet[n].1);
        tokio::spawn(async move { client.ask("GET", "/b/1").await })
    };
    let leads = reading(0);
    gate.wait_for(1).await;
    let others = [reading(1), reading(2)];
    let waiting = || async { redis.ask::<(String, i64)>(&["PUBSUB", "NUMSUB", "asidecar:fill//b:1"]).await.1 };
    eventually("the other two wait", || async { waiting().await == 2 }).await;
    fleet[0].0.signal("KILL");
    let killed = Instant::now();
    assert!(leads.await.unwrap().is_err(), "its client is cut off");
    gate.wait_for(2).await;
    let took = killed.elapsed();
    assert!(took < asidecar::redis_tier::lease::LEASE + Duration::from_secs(3), "after {took:?}");
    gate.open(10);
    for other in others {
        assert_eq!(other.await.unwrap().unwrap().body, b"fetched");
    }
    assert_eq!(origin.calls(), 2, "one of the two fetched, for both");
}

/// An origin whose version each PUT counts up; a PUT with `?held` is answered when the gate opens.
async fn counting(gate: &Gate) -> Origin {
    let version = Arc::new(std::sync::atomic::AtomicUsize::new(1));
    let gate = gate.clone();
    Origin::start(move |seen| {
        let (version, gate) = (version.clone(), gate.clone());
        async move {
            if seen.method == http::Method::PUT {
                let made = version.fetch_add(1, Ordering::SeqCst) + 1;
                if seen.target.ends_with("?held") {
                    gate.pass().await;
                }
                return ok(made.to_string());
            }
            with(ok(version.load(Ordering::SeqCst).to_string()), &[("cache-control", "max-age=600")])
        }
    })
    .await
}

async fn read(client: &mut Client) -> usize {
    client.ask("GET", "/b/1").await.unwrap().version().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_an_instance_is_killed_in_the_middle_of_a_write_repeating_it_through_another_makes_it_good() {
    let redis = Redis::start().await;
    let gate = Gate::closed();
    let origin = counting(&gate).await;
    let (_folder, fleet) = processes(origin.address, &redis).await;
    let mut clients: Vec<_> = fleet.iter().map(|(_, at)| Client::new(*at)).collect();
    for client in &mut clients {
        assert_eq!(read(client).await, 1);
    }
    let mut writer = Client::new(fleet[0].1);
    let write = tokio::spawn(async move { writer.ask("PUT", "/b/1?held").await });
    gate.wait_for(1).await;
    fleet[0].0.signal("KILL");
    assert!(write.await.unwrap().is_err(), "nobody acknowledged it");
    // Who was cut off does not know whether it was done, and asks again elsewhere.
    let again = clients[1].ask("PUT", "/b/1").await.unwrap().version().unwrap();
    assert_eq!(again, 3, "it had been done");
    assert_eq!(read(&mut clients[1]).await, 3);
    let acknowledged = Instant::now();
    while read(&mut clients[2]).await != 3 {
        assert!(acknowledged.elapsed() < OLDEST);
    }
    // And one that starts anew finds the log, and what is in Redis, as they are now.
    let (_folder, path) = file("asidecar.toml", &config(&redis, ""));
    let (_anew, at, _) = Running::proxy(origin.address, &[("ASIDECAR_CONFIG", &path)]).await;
    assert_eq!(read(&mut Client::new(at)).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_an_instance_is_killed_while_it_logs_a_write_nobody_was_told_and_nothing_hangs() {
    let redis = Redis::start().await;
    let gate = Gate::closed();
    let origin = counting(&gate).await;
    let (_folder, fleet) = processes(origin.address, &redis).await;
    let mut clients: Vec<_> = fleet.iter().map(|(_, at)| Client::new(*at)).collect();
    for client in &mut clients {
        assert_eq!(read(client).await, 1);
    }
    // It is announced and done; then nothing can be appended, and everything else goes on.
    let mut writer = Client::new(fleet[0].1);
    let write = tokio::spawn(async move { writer.ask("PUT", "/b/1?held").await });
    gate.wait_for(1).await;
    redis.command(&["CLIENT", "PAUSE", "100000", "WRITE"]).await.unwrap();
    gate.open(1);
    fleet[0].0.signal("KILL");
    let unanswered = write.await.unwrap().is_err();
    redis.command(&["CLIENT", "UNPAUSE"]).await.unwrap();
    assert!(unanswered, "nobody acknowledged it");
    let again = clients[1].ask("PUT", "/b/1").await.unwrap().version().unwrap();
    assert_eq!(read(&mut clients[1]).await, again);
    // Redis took no writes for as long as a command waits for it, so that the others may have given it up meanwhile.
    let found_again = Duration::from_secs(5);
    let acknowledged = Instant::now();
    while read(&mut clients[2]).await != again {
        assert!(acknowledged.elapsed() < found_again + OLDEST);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stood_still_tells_nothing_on_strict_routes_that_it_should_have_heard_was_old() {
    let redis = Redis::start().await;
    let story = Story::new(100, 3);
    let origin = serve(story.clone()).await;
    let (_folder, fleet) = processes(origin, &redis).await;
    let strict: Vec<usize> = (0..story.len()).filter(|key| story.is_strict(*key)).collect();
    let (mut a, mut b) = (Client::new(fleet[0].1), Client::new(fleet[1].1));
    for key in &strict {
        b.ask("GET", story.path(*key)).await.unwrap();
    }
    fleet[1].0.signal("STOP");
    // It will have much to hear before it hears of the writes.
    let mut publisher = redis.connection().await;
    for n in 0..2000 {
        let publish = ::redis::cmd("PUBLISH").arg("asidecar:invalidate").arg(format!("x{n}")).to_owned();
        let _: i64 = publish.query_async(&mut publisher).await.unwrap();
    }
    for key in &strict {
        let version = a.ask("PUT", story.path(*key)).await.unwrap().version().unwrap();
        story.acknowledged(*key, 0, version);
    }
    let acknowledged = Instant::now();
    eventually("longer than a strict route may be behind", || async { acknowledged.elapsed() > OLDEST }).await;
    fleet[1].0.signal("CONT");
    for key in strict {
        let asked = story.ask(key, 1);
        let said = b.ask("GET", story.path(key)).await.unwrap();
        let told = story.judge(key, &asked, said.version().unwrap());
        assert!(told.age <= OLDEST, "{:?} behind: {}", told.age, said.head);
    }
}
