//! Redis that is more than one server by its port: sentinels, a cluster, TLS with certificates of one's own, a user
//! with no more rights than needed, and a socket. All of it real processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use asidecar::invalidation::Invalidation;
use asidecar::invalidation::position::LogId;
use asidecar::metrics::Metrics;
use asidecar::redis_tier::address::Address;
use asidecar::redis_tier::connect::Connector;
use asidecar::redis_tier::link::{Link, Names};
use asidecar::redis_tier::tls::TlsFiles;

use crate::support::{DEADLINE, Instance, Origin, Redis, eventually, quiet_port};

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn config(url: &str, more: &str) -> String {
    format!(
        "[store]\nredis = \"{url}\"\nredis_timeout = \"5s\"\n{more}\n[invalidation]\nheartbeat = \"200ms\"\nmax_lag = \"600ms\"\n\
         [[route]]\nname = \"user\"\nmatch = \"/users/{{id}}\"\nkey = \"user:{{id}}\"\ntags = [\"user:{{id}}\", \"users\"]\n"
    )
}

/// An instance that has no memory of its own: what it answers from is Redis.
async fn instance(origin: &Origin, url: &str) -> Instance {
    Instance::start(origin, &config(url, "memory = \"0\"")).with_redis_up().await
}

/// Reads until it comes from Redis.
async fn comes_from_redis(proxy: &Instance, path: &str) {
    eventually(&format!("{path} comes from Redis"), || async { proxy.fill(path).await.is_hit("redis") }).await;
}

/// Clients that go on reading, and count what failed.
struct Readers {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Readers {
    fn of(proxies: &[&Arc<Instance>]) -> Readers {
        let (stop, asked, failed) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let tasks = proxies
            .iter()
            .map(|proxy| {
                let (proxy, stop, asked, failed) = ((*proxy).clone(), stop.clone(), asked.clone(), failed.clone());
                tokio::spawn(async move {
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let answer = proxy.get(&format!("/users/r{}", n % 20)).await;
                        asked.fetch_add(1, Ordering::Relaxed);
                        failed.fetch_add(usize::from(answer.status != 200), Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                })
            })
            .collect();
        Readers { stop, asked, failed, tasks }
    }

    async fn none_failed(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let asked = self.asked.load(Ordering::Relaxed);
        assert!(asked > 100, "only {asked}");
        assert_eq!(self.failed.load(Ordering::Relaxed), 0, "of {asked}");
    }
}

/// Two instances share an answer, and an invalidation at each of them goes for both.
async fn they_share_and_invalidate(a: &Instance, b: &Instance, id: &str) {
    let path = format!("/users/{id}");
    for (here, there) in [(a, b), (b, a)] {
        comes_from_redis(here, &path).await;
        let before = here.get(&path).await.body;
        assert_eq!(there.get(&path).await.body, before);
        assert_eq!(here.purge(&format!("user:{id}")).await.status, 200);
        assert_ne!(here.get(&path).await.body, before, "at the instance that was told");
        let position = here.server.core.log.position().id;
        eventually("the other has applied it", || async { there.server.core.log.position().id >= position }).await;
        assert_ne!(there.get(&path).await.body, before, "at the other one");
    }
}

/// A master, its replica, and three sentinels.
struct Sentinels {
    servers: [Redis; 2],
    sentinels: Vec<Redis>,
}

impl Sentinels {
    async fn start() -> Sentinels {
        let quick = "--repl-diskless-sync-delay 0 --repl-ping-replica-period 1";
        let master = Redis::start_with(|_| words(quick)).await;
        let replica = format!("{quick} --replicaof 127.0.0.1 {}", master.port);
        let replica = Redis::start_with(|_| words(&replica)).await;
        eventually("the replica is one", || async {
            master.ask::<String>(&["INFO", "replication"]).await.contains("state=online")
        })
        .await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let text = format!(
                "sentinel monitor mymaster 127.0.0.1 {} 2\nsentinel down-after-milliseconds mymaster 400\n\
                 sentinel failover-timeout mymaster 3000",
                master.port
            );
            sentinels.push(Redis::sentinel(&text).await);
        }
        let set = Sentinels { servers: [master, replica], sentinels };
        for sentinel in &set.sentinels {
            eventually("they know each other", || async {
                let known: Vec<String> = sentinel.ask(&["SENTINEL", "MASTER", "mymaster"]).await;
                let field = |name: &str| known.windows(2).find(|w| w[0] == name).map(|w| w[1].clone());
                field("num-slaves").as_deref() == Some("1") && field("num-other-sentinels").as_deref() == Some("2")
            })
            .await;
        }
        set
    }
    fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|s| format!("127.0.0.1:{}", s.port)).collect();
        format!("redis+sentinel://{}/mymaster/0", hosts.join(","))
    }
    /// The port of the master, as all sentinels have it.
    async fn master(&self) -> Option<u16> {
        let mut ports = Vec::new();
        for sentinel in &self.sentinels {
            let (_, port): (String, u16) = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"]).await;
            ports.push(port);
        }
        ports.dedup();
        (ports.len() == 1).then(|| ports[0])
    }
    async fn becomes_master(&self, n: usize) {
        let port = self.servers[n].port;
        eventually("the failover", || async { self.master().await == Some(port) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_sentinels_reads_go_on_and_invalidations_hold_across_a_failover_and_the_death_of_the_master() {
    let mut set = Sentinels::start().await;
    let origin = Origin::counting("max-age=600").await;
    let (a, b) = (Arc::new(instance(&origin, &set.url()).await), Arc::new(instance(&origin, &set.url()).await));
    they_share_and_invalidate(&a, &b, "1").await;
    let readers = Readers::of(&[&a, &b]);
    comes_from_redis(&a, "/users/before").await;
    let old = b.get("/users/before").await.body;
    assert_eq!(a.purge("user:before").await.status, 200);

    let done: String = set.sentinels[0].ask(&["SENTINEL", "FAILOVER", "mymaster"]).await;
    assert_eq!(done, "OK");
    set.becomes_master(1).await;
    both_are_subscribed_at(&set.servers[1]).await;
    assert_ne!(b.get("/users/before").await.body, old, "invalidated before the failover");
    they_share_and_invalidate(&a, &b, "2").await;

    eventually("the old master is a replica", || async {
        set.servers[1].ask::<String>(&["INFO", "replication"]).await.contains("state=online")
    })
    .await;
    set.servers[1].kill();
    set.becomes_master(0).await;
    both_are_subscribed_at(&set.servers[0]).await;
    they_share_and_invalidate(&a, &b, "3").await;
    readers.none_failed().await;
}

async fn both_are_subscribed_at(server: &Redis) {
    eventually("both are subscribed there", || async {
        let (_, subscribers): (String, i64) = server.ask(&["PUBSUB", "NUMSUB", "{asidecar}:bell"]).await;
        subscribers == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failover_loses_of_the_log_is_noticed_and_nothing_from_before_is_served_by_anybody() {
    let mut set = Sentinels::start().await;
    let origin = Origin::counting("max-age=600").await;
    let (a, b) = (instance(&origin, &set.url()).await, instance(&origin, &set.url()).await);
    let mut old = Vec::new();
    for id in ["1", "2"] {
        comes_from_redis(&a, &format!("/users/{id}")).await;
        old.push(b.get(&format!("/users/{id}")).await.body);
        let key = format!("asidecar:user:{id}");
        eventually("the replica has it", || async { set.servers[1].ask::<i64>(&["EXISTS", &key]).await == 1 }).await;
    }
    // The replica is cut off, and an invalidation acknowledged that it never hears of.
    set.servers[0].command(&["CONFIG", "SET", "requirepass", "x"]).await.unwrap();
    let killed: i64 = {
        let client = redis::Client::open(format!("redis://:x@127.0.0.1:{}", set.servers[0].port)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd("CLIENT").arg(&["KILL", "TYPE", "replica"]).query_async(&mut connection).await.unwrap()
    };
    assert_eq!(killed, 1);
    let acknowledged = a.purge("users").await;
    assert_eq!(acknowledged.status, 200, "{}", acknowledged.body);
    let lost = a.server.core.log.position();
    set.servers[0].kill();
    set.becomes_master(1).await;
    let id = lost.id.to_string();
    let there: Vec<redis::Value> = set.servers[1].ask(&["XRANGE", "{asidecar}:log", &id, &id]).await;
    assert!(there.is_empty(), "the failover lost it, or this test shows nothing");
    let noticed = "horizon_moves_total{reason=\"rolled_back\"}";
    eventually("one noticed", || async { a.metric(noticed).await + b.metric(noticed).await >= 1.0 }).await;
    for proxy in [&a, &b] {
        eventually("it starts cold", || async { proxy.server.core.log.horizon() > lost }).await;
        assert_ne!(proxy.get("/users/1").await.body, old[0]);
    }
    // One that never knew of it finds the old entry where the failover left it.
    assert_eq!(set.servers[1].ask::<i64>(&["EXISTS", "asidecar:user:2"]).await, 1);
    let late = instance(&origin, &set.url()).await;
    assert_ne!(late.get("/users/2").await.body, old[1]);
    they_share_and_invalidate(&a, &late, "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_master_that_was_demoted_counts_as_lost_though_it_stays_open() {
    let set = Sentinels::start().await;
    let origin = Origin::counting("max-age=600").await;
    let a = instance(&origin, &set.url()).await;
    // Without the sentinels nobody closes connections, and nobody tells.
    for sentinel in &set.sentinels {
        sentinel.signal("STOP");
    }
    set.servers[1].command(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    let port = set.servers[1].port.to_string();
    set.servers[0].command(&["REPLICAOF", "127.0.0.1", &port]).await.unwrap();
    a.redis_is_down().await;
    assert_eq!(a.get("/users/1").await.status, 200);
}

/// A link that nobody follows, and so stays where it is.
async fn unled(url: &str) -> Link {
    let metrics = Arc::new(Metrics::new(&[]).unwrap());
    let names = Names::new("asidecar", "asidecar:invalidate");
    let link = Link::new(names, "test".to_owned(), DEADLINE, Duration::from_secs(3600), metrics);
    Connector::new(Address::parse(url).unwrap(), TlsFiles::default()).connect(&link, DEADLINE).await.unwrap();
    link
}

/// Three masters and a replica for each.
struct Nodes(Vec<Redis>);

impl Nodes {
    async fn start() -> Nodes {
        Nodes::start_with("").await
    }
    async fn start_with(more: &str) -> Nodes {
        let mut buses = Vec::new();
        let mut nodes = Vec::new();
        for _ in 0..6 {
            let bus = quiet_port();
            buses.push(bus);
            let arguments = format!(
                "--cluster-enabled yes --cluster-port {bus} --cluster-node-timeout 1000 --repl-diskless-sync-delay 0 {more}"
            );
            nodes.push(Redis::start_with(|_| words(&arguments)).await);
        }
        for (n, node) in nodes.iter().enumerate() {
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]).await.unwrap();
        }
        for (n, (first, last)) in [("0", "5460"), ("5461", "10922"), ("10923", "16383")].into_iter().enumerate() {
            nodes[n].command(&["CLUSTER", "ADDSLOTSRANGE", first, last]).await.unwrap();
        }
        for (node, bus) in nodes.iter().zip(&buses).skip(1) {
            let (port, bus) = (node.port.to_string(), bus.to_string());
            nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await.unwrap();
        }
        for node in &nodes {
            eventually("the nodes know each other", || async {
                let known: String = node.ask(&["CLUSTER", "NODES"]).await;
                known.lines().count() == 6 && !known.contains("handshake")
            })
            .await;
        }
        for n in 0..3 {
            let id: String = nodes[n].ask(&["CLUSTER", "MYID"]).await;
            nodes[n + 3].command(&["CLUSTER", "REPLICATE", &id]).await.unwrap();
        }
        for node in &nodes {
            eventually("the cluster stands", || async {
                let known: String = node.ask(&["CLUSTER", "NODES"]).await;
                let info: String = node.ask(&["CLUSTER", "INFO"]).await;
                known.matches(" slave ").count() + known.matches("myself,slave").count() == 3
                    && info.contains("cluster_state:ok")
            })
            .await;
        }
        for node in &nodes[..3] {
            eventually("its replica is in step", || async {
                node.ask::<String>(&["INFO", "replication"]).await.contains("state=online")
            })
            .await;
        }
        Nodes(nodes)
    }
    /// Two of the nodes are enough to find the others.
    fn url(&self) -> String {
        format!("redis+cluster://127.0.0.1:{},127.0.0.1:{}", self.0[4].port, self.0[2].port)
    }
    async fn slot(&self, key: &str) -> u16 {
        self.0[0].ask(&["CLUSTER", "KEYSLOT", key]).await
    }
    /// Which of the first three has a key, as they were started.
    async fn owner(&self, key: &str) -> usize {
        usize::from(self.slot(key).await) / 5461
    }
    async fn id(&self, n: usize) -> String {
        self.0[n].ask(&["CLUSTER", "MYID"]).await
    }
    /// Announces that a slot moves, and moves its keys; what asks for them is sent on from one to the other.
    async fn begin_to_move(&self, key: &str, from: usize, to: usize) {
        let (slot, from_id, to_id) = (self.slot(key).await.to_string(), self.id(from).await, self.id(to).await);
        self.0[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await.unwrap();
        self.0[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await.unwrap();
        let keys: Vec<String> = self.0[from].ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).await;
        let port = self.0[to].port.to_string();
        for key in keys {
            self.0[from].command(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]).await.unwrap();
        }
    }
    async fn end_to_move(&self, key: &str, from: usize, to: usize) {
        let (slot, to_id) = (self.slot(key).await.to_string(), self.id(to).await);
        for n in [to, from] {
            self.0[n].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_entries_are_spread_and_shared_and_slots_move_under_reads_even_the_one_of_the_log() {
    let nodes = Nodes::start().await;
    let origin = Origin::counting("max-age=600").await;
    let (a, b) = (Arc::new(instance(&origin, &nodes.url()).await), Arc::new(instance(&origin, &nodes.url()).await));
    they_share_and_invalidate(&a, &b, "1").await;
    for n in 0..20 {
        comes_from_redis(&a, &format!("/users/r{n}")).await;
        assert!(b.get(&format!("/users/r{n}")).await.is_hit("redis"));
    }
    for node in &nodes.0[..3] {
        assert!(node.ask::<i64>(&["DBSIZE"]).await > 1, "entries are on every node");
    }
    let home = nodes.owner("{asidecar}:log").await;
    let wrong = format!("redis://127.0.0.1:{}", nodes.0[(home + 1) % 3].port);
    let lost = Instance::start(&origin, &config(&wrong, ""));
    eventually("told what the URL should be", || async {
        lost.get("/users/1").await;
        lost.admin(http::Method::GET, "/readyz", &[], "").await.body.contains("has to be redis+cluster://")
    })
    .await;
    drop(lost);
    let readers = Readers::of(&[&a, &b]);

    // A message to any node reaches both, and is logged once.
    let logged = |at: usize| {
        let node = &nodes.0[at];
        async move { node.ask::<i64>(&["XLEN", "{asidecar}:log"]).await }
    };
    let heard = || async {
        let series = "invalidations_total{scope=\"tag\",source=\"channel\"}";
        (a.metric(series).await, b.metric(series).await)
    };
    let before = logged(home).await;
    nodes.0[(home + 1) % 3].publish("users").await;
    eventually("both heard it", || async { heard().await == (1.0, 1.0) }).await;
    eventually("logged", || async { logged(home).await > before }).await;
    assert_eq!(logged(home).await, before + 1, "two heard it, one entry");

    // An entry's slot moves: it is found where it was, on its way, and where it is then.
    let from = nodes.owner("asidecar:user:1").await;
    let to = (from + 1) % 3;
    comes_from_redis(&a, "/users/1").await;
    let hit = || async {
        for proxy in [&a, &b] {
            let answer = proxy.get("/users/1").await;
            assert!(answer.is_hit("redis"), "{}", answer.cache_status());
        }
    };
    hit().await;
    nodes.begin_to_move("asidecar:user:1", from, to).await;
    hit().await;
    nodes.end_to_move("asidecar:user:1", from, to).await;
    hit().await;
    they_share_and_invalidate(&a, &b, "1").await;

    // The log's slot moves: it can be written on its way, and then both are subscribed where it is.
    let to = (home + 1) % 3;
    let (link, message) = (unled(&nodes.url()).await, Invalidation::tag("x"));
    let append = || async { link.append(&message, LogId::ZERO, Some(LogId::ZERO)).await.unwrap().id };
    assert_eq!(append().await, append().await, "what was not heard of before is the same message");
    nodes.begin_to_move("{asidecar}:log", home, to).await;
    assert_ne!(append().await, append().await, "on its way nobody can tell what was before what");
    let purged = a.purge("users").await;
    assert_eq!(purged.status, 200, "{}", purged.body);
    nodes.end_to_move("{asidecar}:log", home, to).await;
    assert_ne!(append().await, append().await, "nor where the subscription is not");
    both_are_subscribed_at(&nodes.0[to]).await;
    for proxy in [&a, &b] {
        proxy.redis_is_up().await;
    }
    they_share_and_invalidate(&a, &b, "2").await;
    let before = (heard().await, logged(to).await);
    nodes.0[home].publish("users").await;
    eventually("both heard it", || async { heard().await == (before.0.0 + 1.0, before.0.1 + 1.0) }).await;
    eventually("logged", || async { logged(to).await > before.1 }).await;
    assert_eq!(logged(to).await, before.1 + 1, "two heard it, one entry");
    for proxy in [&a, &b] {
        assert_eq!(proxy.metric("horizon_moves_total{reason=\"rolled_back\"}").await, 0.0);
        assert_eq!(proxy.metric("horizon_moves_total{reason=\"broken\"}").await, 0.0);
    }
    readers.none_failed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_a_master_that_dies_costs_misses_until_its_replica_stands_in_and_no_request() {
    let mut nodes = Nodes::start_with("--cluster-require-full-coverage no").await;
    let origin = Origin::counting("max-age=600").await;
    let (a, b) = (Arc::new(instance(&origin, &nodes.url()).await), Arc::new(instance(&origin, &nodes.url()).await));
    let home = nodes.owner("{asidecar}:log").await;
    let mut elsewhere = String::new();
    for n in 0.. {
        elsewhere = format!("e{n}");
        if nodes.owner(&format!("asidecar:user:{elsewhere}")).await != home {
            break;
        }
    }
    they_share_and_invalidate(&a, &b, &elsewhere).await;
    let readers = Readers::of(&[&a, &b]);

    // One without the log.
    let victim = nodes.owner(&format!("asidecar:user:{elsewhere}")).await;
    nodes.0[victim].kill();
    let node = format!("/users/{elsewhere}");
    assert_eq!(a.get(&node).await.status, 200);
    comes_from_redis(&a, &node).await;
    comes_from_redis(&b, &node).await;
    for proxy in [&a, &b] {
        let connected = proxy.metric("redis_commands_total{command=\"connect\",result=\"ok\"}").await;
        assert_eq!(connected, 1.0, "what is not of that node went on");
    }
    they_share_and_invalidate(&a, &b, &elsewhere).await;

    // The one with the log, and so with the subscription.
    let before = a.server.core.log.position().id;
    nodes.0[home].kill();
    both_are_subscribed_at(&nodes.0[home + 3]).await;
    for proxy in [&a, &b] {
        proxy.redis_is_up().await;
    }
    they_share_and_invalidate(&a, &b, &elsewhere).await;
    assert!(a.server.core.log.position().id > before);
    readers.none_failed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_does_as_well_as_a_port() {
    let redis = Redis::start_with(|folder| words(&format!("--unixsocket {}/redis.sock", folder.display()))).await;
    let origin = Origin::counting("max-age=600").await;
    let path = redis.folder.path().display();
    let a = instance(&origin, &format!("redis+unix://{path}/redis.sock?db=0")).await;
    let b = instance(&origin, &format!("unix://{path}/redis.sock")).await;
    they_share_and_invalidate(&a, &b, "1").await;
    assert_eq!(redis.ask::<i64>(&["EXISTS", "{asidecar}:log"]).await, 1);
}

/// What the recommended configuration of Redis has between two words, `#   user asidecar on` and the like.
fn documented(beginning: &str) -> Vec<String> {
    let text = include_str!("../../config/redis.conf");
    let line = text.lines().find(|l| l.trim_start_matches(['#', ' ']).starts_with(beginning));
    words(line.unwrap_or_else(|| panic!("{beginning}")).trim_start_matches(['#', ' ']))
}

/// Sets up the documented user on a server.
async fn add_user(redis: &Redis, more: &str) {
    let mut rule = documented("user asidecar on >a-long-random-password resetkeys");
    rule.splice(..1, ["ACL".to_owned(), "SETUSER".to_owned()]);
    if !more.is_empty() {
        rule.extend(documented(more));
    }
    redis.command(&rule.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
}

const USER: &str = "asidecar:a-long-random-password@";

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_enough_and_one_less_is_told() {
    let redis = Redis::start().await;
    add_user(&redis, "").await;
    let origin = Origin::counting("max-age=600").await;
    let url = redis.url().replace("redis://", &format!("redis://{USER}"));
    let (a, b) = (instance(&origin, &url).await, instance(&origin, &url).await);
    they_share_and_invalidate(&a, &b, "1").await;
    redis.publish("user:1").await;
    eventually("heard", || async { a.metric("invalidations_total{scope=\"tag\",source=\"channel\"}").await == 1.0 })
        .await;
    let refused: Vec<redis::Value> = redis.ask(&["ACL", "LOG"]).await;
    assert!(refused.is_empty(), "{refused:?}");

    let told = |wanted: &'static str| {
        let a = &a;
        async move {
            eventually(wanted, || async {
                a.get("/users/1").await;
                a.purge("user:1").await;
                let ready = a.admin(http::Method::GET, "/readyz", &[], "").await;
                assert_eq!(ready.status, 200);
                let ready: serde_json::Value = serde_json::from_str(&ready.body).unwrap();
                ready["redis_refuses"]
                    .as_str()
                    .is_some_and(|text| text.contains(wanted) && !text.contains("a-long-random"))
            })
            .await;
        }
    };
    redis.command(&["ACL", "SETUSER", "asidecar", "-get"]).await.unwrap();
    told("'get' command").await;
    redis.command(&["ACL", "SETUSER", "asidecar", "+get", "-xadd"]).await.unwrap();
    told("the script that appends (XADD, XINFO").await;
    redis.command(&["ACL", "SETUSER", "asidecar", "+xadd", "resetkeys", "~{asidecar}:*"]).await.unwrap();
    told("GET of asidecar:*").await;
    redis.command(&["ACL", "SETUSER", "asidecar", "resetpass", ">another"]).await.unwrap();
    redis.command(&["CLIENT", "KILL", "USER", "asidecar"]).await.unwrap();
    told("WRONGPASS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_enough_behind_sentinels_and_in_a_cluster() {
    let (set, nodes) = tokio::join!(Sentinels::start(), Nodes::start());
    for server in &set.servers {
        add_user(server, "+role").await;
    }
    for node in &nodes.0 {
        add_user(node, "+cluster|slots").await;
    }
    for sentinel in &set.sentinels {
        let mut rule = documented("user asidecar on >a-long-random-password resetchannels");
        rule.splice(..1, ["ACL".to_owned(), "SETUSER".to_owned()]);
        sentinel.command(&rule.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    }
    let origin = Origin::counting("max-age=600").await;
    let sentinels = set.url().replace("://", &format!("://{USER}"))
        + "?sentinel_user=asidecar&sentinel_password=a-long-random-password";
    let cluster = nodes.url().replace("://", &format!("://{USER}"));
    for url in [sentinels, cluster] {
        let (a, b) = (instance(&origin, &url).await, instance(&origin, &url).await);
        for id in ["1", "2", "3", "4"] {
            they_share_and_invalidate(&a, &b, id).await;
        }
    }
    // A slot on its way needs ASKING.
    let from = nodes.owner("asidecar:user:1").await;
    let a = instance(&origin, &nodes.url().replace("://", &format!("://{USER}"))).await;
    comes_from_redis(&a, "/users/1").await;
    nodes.begin_to_move("asidecar:user:1", from, (from + 1) % 3).await;
    assert!(a.get("/users/1").await.is_hit("redis"));
    for server in set.servers.iter().chain(&set.sentinels).chain(&nodes.0) {
        let refused: Vec<redis::Value> = server.ask(&["ACL", "LOG"]).await;
        assert!(refused.is_empty(), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_believes_the_given_authority_alone_and_shows_the_given_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    let named = |addresses: Vec<String>, name: &str| {
        let mut about = rcgen::CertificateParams::new(addresses).unwrap();
        about.distinguished_name = rcgen::DistinguishedName::new();
        about.distinguished_name.push(rcgen::DnType::CommonName, name);
        about
    };
    let authority = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut about = named(Vec::new(), "authority");
        about.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = about.self_signed(&key).unwrap().pem();
        (rcgen::Issuer::new(about, key), certificate)
    };
    let ((issuer, certificate), (_, stranger)) = (authority(), authority());
    write("ca.crt", certificate);
    write("stranger.crt", stranger);
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let about = named(vec!["127.0.0.1".to_owned()], name);
        write(&format!("{name}.crt"), about.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
    let port = quiet_port();
    let arguments = format!(
        "--tls-port {port} --tls-cert-file {} --tls-key-file {} --tls-ca-cert-file {} --tls-auth-clients yes",
        file("server.crt"),
        file("server.key"),
        file("ca.crt")
    );
    let redis = Redis::start_with(|_| words(&arguments)).await;
    let origin = Origin::counting("max-age=600").await;
    let url = format!("rediss://127.0.0.1:{port}/0");
    let with = |ca: &str, identity: bool| {
        let mut more = format!("memory = \"0\"\nredis_ca = \"{}\"", file(ca));
        if identity {
            more += &format!("\nredis_cert = \"{}\"\nredis_key = \"{}\"", file("client.crt"), file("client.key"));
        }
        Instance::start(&origin, &config(&url, &more))
    };
    let (a, b) = (with("ca.crt", true).with_redis_up().await, with("ca.crt", true).with_redis_up().await);
    they_share_and_invalidate(&a, &b, "1").await;
    for (ca, identity) in [("stranger.crt", true), ("ca.crt", false)] {
        let refused = with(ca, identity);
        let tried = "redis_commands_total{command=\"connect\",result=\"error\"}";
        eventually("it tried twice", || async { refused.metric(tried).await >= 2.0 }).await;
        assert_eq!(refused.server.core.metrics.redis_up.get(), 0, "{ca} {identity}");
        assert_eq!(refused.get("/users/1").await.status, 200);
    }
    assert_eq!(redis.ask::<i64>(&["EXISTS", "{asidecar}:log"]).await, 1);
}
