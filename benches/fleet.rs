//! The figures of `docs/fleet.md`: `make fleet`. Real processes on loopback, all ended with the program: a
//! `redis-server`, four instances, and an origin in here that counts.
//!
//!   fleet [--seconds 60] [--print]
//!
//! What must hold on any machine (nothing stale, one fetch, no failed request) decides the exit status; how fast it
//! was is printed, with a note where it misses its target.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a figure that can't be taken should say so loudly"
)]

#[path = "../tests/it/story.rs"]
mod story;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use asidecar::admission::Sharing;
use asidecar::clock::Clock;
use asidecar::config::{Config, Format};
use asidecar::content::{Content, Names};
use asidecar::entry::{Entry, Tags};
use asidecar::freshness::Lifetime;
use asidecar::invalidation::log::Stamp;
use asidecar::invalidation::{TagId, TagKind};
use asidecar::server::Server;
use story::{Client, Habit, Load, Story, serve};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::sleep;

const INSTANCES: usize = 4;
const KEYS: usize = 16;
const READS: usize = 1_000_000;
/// How old an answer of a strict route may be: `max_lag` and a heartbeat, as they are by default.
const OLDEST: Duration = Duration::from_secs(3);
/// Nothing here waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/fleet.md");
const BEGIN: &str = "<!-- written by `make fleet` -->";
const END: &str = "<!-- end -->";

/// A child process, killed with the value.
struct Process(Child);

impl Process {
    fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args([format!("-{name}"), id]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Redis of its own.
struct Redis {
    port: u16,
    folder: tempfile::TempDir,
    process: Option<Process>,
}

impl Redis {
    async fn start() -> Redis {
        // Below those that the system gives to outgoing connections, so that it can be started on it again.
        let from = 12_000 + (std::process::id() % 19_000) as u16;
        let port = (from..32_000).find(|p| TcpListener::bind(("127.0.0.1", *p)).is_ok()).expect("a free port");
        let mut redis = Redis { port, folder: tempfile::tempdir().unwrap(), process: None };
        redis.restart().await;
        redis
    }
    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
    fn kill(&mut self) {
        self.process = None;
    }
    /// Starts it again, empty.
    async fn restart(&mut self) {
        self.kill();
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/redis-server");
        let child = Command::new(if own.exists() { own } else { "redis-server".into() })
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--dir", self.folder.path().to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed: `make test` does that");
        self.process = Some(Process(child));
        until("redis-server answers", || async { self.try_command(&["PING"]).await.is_ok() }).await;
    }
    fn process(&self) -> &Process {
        self.process.as_ref().expect("running")
    }
    async fn try_command(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection = redis::Client::open(self.url())?.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|w| {
            command.arg(*w);
        });
        command.query_async(&mut connection).await
    }
    async fn command(&self, words: &[&str]) {
        self.try_command(words).await.unwrap();
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let limit = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < limit, "never happened: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// An instance.
struct Instance {
    proxy: SocketAddr,
    admin: SocketAddr,
    _process: Process,
}

fn configuration(redis: &Redis, more: &str) -> String {
    format!(
        "[listen]\nproxy = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[store]\nredis = \"{}\"\n{more}\
         [[route]]\nname = \"bounded\"\nmatch = \"/b/{{id}}\"\nkey = \"b:{{id}}\"\n\
         [[route]]\nname = \"strict\"\nmatch = \"/s/{{id}}\"\nkey = \"s:{{id}}\"\ncoherence = \"strict\"\n",
        redis.url()
    )
}

impl Instance {
    async fn start(upstream: SocketAddr, redis: &Redis, more: &str) -> Instance {
        // `cargo build --release --bin asidecar --example fleet` puts the one beside the other.
        let program: PathBuf = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("asidecar");
        let config = redis.folder.path().join("asidecar.toml");
        std::fs::write(&config, configuration(redis, more)).unwrap();
        let mut child = Command::new(&program)
            .args(["run", "--upstream", &format!("http://{upstream}")])
            .env_clear()
            .env("ASIDECAR_CONFIG", &config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}; `make fleet` builds it", program.display()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let process = Process(child);
        let line = lines.by_ref().map_while(Result::ok).find(|l| l.contains(" admin=http://")).expect("it starts");
        std::thread::spawn(move || lines.for_each(drop));
        let address = |name: &str| line.split_once(&format!("{name}=http://")).unwrap().1.split(' ').next().unwrap();
        let (proxy, admin) = (address("proxy").parse().unwrap(), address("admin").trim().parse().unwrap());
        let instance = Instance { proxy, admin, _process: process };
        instance.is_well().await;
        instance
    }
    /// Follows Redis, and nothing waits to be logged.
    async fn is_well(&self) {
        until("an instance is well", || async {
            let ready = Client::new(self.admin).ask("GET", "/readyz").await;
            let ready = ready.map(|r| String::from_utf8_lossy(&r.body).into_owned()).unwrap_or_default();
            ready.contains("\"redis\":\"up\"") && ready.contains("\"invalidations_pending\":0")
        })
        .await;
    }
}

/// Redis, an origin, and instances.
struct Fleet {
    redis: Redis,
    instances: Vec<Instance>,
    story: Arc<Story>,
}

impl Fleet {
    async fn start(keys: usize, spare: usize, more: &str) -> Fleet {
        let redis = Redis::start().await;
        let story = Story::with_spare(keys, spare, INSTANCES);
        let origin = serve(story.clone()).await;
        let mut instances = Vec::new();
        for _ in 0..INSTANCES {
            instances.push(Instance::start(origin, &redis, more).await);
        }
        Fleet { redis, instances, story }
    }
    fn addresses(&self) -> Vec<SocketAddr> {
        self.instances.iter().map(|i| i.proxy).collect()
    }
    /// Clients of all instances, with the habits that each one's are to have.
    fn load(&self, habits: impl Fn(usize) -> Vec<Habit>) -> Load {
        let clients = self.addresses().into_iter().enumerate().map(|(n, at)| (at, habits(n)));
        Load::start(&self.story, &clients.collect::<Vec<_>>())
    }
    async fn is_well(&self) {
        for instance in &self.instances {
            instance.is_well().await;
        }
    }
}

/// A row of the table.
struct Row {
    figure: String,
    target: String,
    measured: String,
    met: bool,
    /// Whether the program fails when it is not met.
    must: bool,
}

#[derive(Default)]
struct Figures(Vec<Row>);

impl Figures {
    fn add(&mut self, figure: &str, target: &str, measured: String, met: bool, must: bool) {
        say(&format!("{} {figure}: {measured} (target: {target})", if met { "met   " } else { "MISSED" }));
        self.0.push(Row { figure: figure.into(), target: target.into(), measured, met, must });
    }
    fn table(&self) -> String {
        let mut out = String::from("| figure | target | measured | met |\n|---|---|---|---|\n");
        for row in &self.0 {
            let met = if row.met { "yes" } else { "**no**" };
            writeln!(out, "| {} | {} | {} | {met} |", row.figure, row.target, row.measured).unwrap();
        }
        out
    }
}

fn say(what: &str) {
    eprintln!("{what}");
}

fn ms(d: Duration) -> String {
    let ms = d.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.0} ms") }
}

/// The value that so large a part of them does not exceed.
fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

/// Figures 1 and 3: a million reads under one fault after the other.
async fn under_fire(figures: &mut Figures, seconds: u64) {
    say("== reads and writes under faults");
    let mut fleet = Fleet::start(KEYS, 2, "").await;
    let writers = Habit { clients: 0, reads_a_write: 16, rest: Duration::from_millis(5) };
    let readers = Habit { clients: 6, reads_a_write: 0, rest: Duration::ZERO };
    // Eight writers; the last instance learns of everything from the others.
    let load = fleet.load(|n| vec![Habit { clients: [3, 3, 2, 0][n], ..writers }, readers]);
    // The last key is strict, and asked for only where it says so.
    let quiet = KEYS + 1;
    assert!(fleet.story.is_strict(quiet));
    let (began, mut rounds) = (Instant::now(), 0);
    let mut oldest: Vec<(&str, Duration)> = Vec::new();
    let mut unread = Duration::ZERO;
    while load.reads() < READS || rounds < 2 {
        assert!(began.elapsed() < Duration::from_secs(10 * seconds.max(30)), "only {} reads", load.reads());
        for fault in [
            "subscriptions cut",
            "FLUSHALL",
            "log trimmed to nothing",
            "log deleted",
            "clients paused",
            "stopped for 5 s",
            "restarted",
        ] {
            for at in fleet.addresses() {
                Client::new(at).ask("GET", fleet.story.path(quiet)).await.unwrap();
            }
            load.seen.oldest(true);
            match fault {
                "subscriptions cut" => fleet.redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await,
                "FLUSHALL" => fleet.redis.command(&["FLUSHALL"]).await,
                "log trimmed to nothing" => fleet.redis.command(&["XTRIM", "{asidecar}:log", "MAXLEN", "0"]).await,
                "log deleted" => fleet.redis.command(&["DEL", "{asidecar}:log"]).await,
                "clients paused" => fleet.redis.command(&["CLIENT", "PAUSE", "1000", "ALL"]).await,
                "stopped for 5 s" => {
                    fleet.redis.process().signal("STOP");
                    // Written while nothing can be logged, and not read before Redis is back.
                    sleep(Duration::from_millis(500)).await;
                    let written = Client::new(fleet.instances[0].proxy).ask("PUT", fleet.story.path(quiet)).await;
                    fleet.story.acknowledged(quiet, 0, written.unwrap().version().unwrap());
                    sleep(Duration::from_millis(4500)).await;
                    fleet.redis.process().signal("CONT");
                    unread = unread.max(until_shown(&fleet, quiet).await);
                }
                _ => {
                    fleet.redis.kill();
                    sleep(Duration::from_secs(1)).await;
                    fleet.redis.restart().await;
                }
            }
            sleep(Duration::from_millis(500)).await;
            fleet.is_well().await;
            sleep(Duration::from_millis(1500)).await;
            let age = load.seen.oldest(true);
            say(&format!("   {fault}: {} reads so far, the oldest strict answer was {} behind", load.reads(), ms(age)));
            match oldest.iter_mut().find(|(name, _)| *name == fault) {
                Some((_, known)) => *known = age.max(*known),
                None => oldest.push((fault, age)),
            }
        }
        rounds += 1;
    }
    let took = began.elapsed();
    let seen = load.end().await;
    let (reads, writes) = (seen.reads.load(Ordering::SeqCst), seen.writes.load(Ordering::SeqCst));
    let (older, failed) = (seen.older.load(Ordering::SeqCst), seen.failed.load(Ordering::SeqCst));
    if !seen.said().is_empty() {
        say(&seen.said());
    }
    let hits = 100.0 * seen.hits.load(Ordering::SeqCst) as f64 / reads as f64;
    figures.add(
        "1. answers older than a write that the same instance had acknowledged, with faults",
        "0 of 1,000,000",
        format!(
            "{older} of {reads} reads ({hits:.0} % hits) beside {writes} writes, {rounds} rounds of 7 faults in {} s; {failed} requests failed",
            took.as_secs()
        ),
        older == 0 && failed == 0 && reads >= READS,
        true,
    );
    for (fault, age) in &oldest {
        let figure = format!("3. oldest answer of a strict route, Redis: {fault}");
        figures.add(&figure, "3 s (`max_lag` and a heartbeat)", ms(*age), *age <= OLDEST, true);
    }
    let figure = "3. the same of a key that nobody read while Redis was stopped, written meanwhile at another instance";
    figures.add(figure, "3 s", ms(unread), unread <= OLDEST, true);
}

/// Asks all instances but the first until each says what was written; how far behind the last answer was that did not.
async fn until_shown(fleet: &Fleet, key: usize) -> Duration {
    let mut asking = JoinSet::new();
    for (through, at) in fleet.addresses().into_iter().enumerate().skip(1) {
        let story = fleet.story.clone();
        asking.spawn(async move {
            let (mut client, mut oldest, began) = (Client::new(at), Duration::ZERO, Instant::now());
            // As long as anybody may need to find Redis again.
            while began.elapsed() < Duration::from_secs(5) {
                let asked = story.ask(key, through);
                let version = client.ask("GET", story.path(key)).await.unwrap().version().unwrap();
                oldest = oldest.max(story.judge(key, &asked, version).age);
                sleep(Duration::from_millis(1)).await;
            }
            oldest
        });
    }
    asking.join_all().await.into_iter().max().unwrap_or_default()
}

/// Figure 2: from a write's response at one instance to the first question at another that is answered with it.
async fn lag(figures: &mut Figures) {
    say("== the way of an invalidation");
    let fleet = Fleet::start(KEYS, 2, "").await;
    for (loaded, target) in [(false, Duration::from_millis(5)), (true, Duration::from_millis(25))] {
        let writers = Habit { clients: 1, reads_a_write: 16, rest: Duration::from_millis(10) };
        let readers = Habit { clients: 2, reads_a_write: 0, rest: Duration::ZERO };
        let load = loaded.then(|| fleet.load(|_| vec![writers, readers]));
        let (mut a, mut b) = (Client::new(fleet.instances[0].proxy), Client::new(fleet.instances[1].proxy));
        let (key, path) = (KEYS, fleet.story.path(KEYS));
        let (mut lags, mut at_once) = (Vec::new(), 0);
        for _ in 0..1000 {
            b.ask("GET", path).await.unwrap();
            let version = a.ask("PUT", path).await.unwrap().version().unwrap();
            let acknowledged = Instant::now();
            let mut asked = acknowledged;
            while b.ask("GET", path).await.unwrap().version().unwrap() < version {
                asked = Instant::now();
            }
            at_once += usize::from(asked == acknowledged);
            lags.push(asked - acknowledged);
            assert_eq!(fleet.story.version(key), version);
        }
        lags.sort();
        let reads = if let Some(load) = load {
            let rate = load.reads();
            let seen = load.end().await;
            format!(", beside {rate} reads; the oldest of them was {} behind", ms(seen.oldest(false)))
        } else {
            String::new()
        };
        let (p50, p99) = (quantile(&lags, 0.5), quantile(&lags, 0.99));
        let last = lags.last().copied().unwrap_or_default();
        figures.add(
            &format!("2. until another instance shows a write, {}", if loaded { "under load" } else { "idle" }),
            &format!("p99 at most {}", ms(target)),
            format!(
                "p50 {}, p99 {}, longest {}, {} % by the very first question{reads}",
                ms(p50),
                ms(p99),
                ms(last),
                at_once / 10
            ),
            p99 <= target,
            false,
        );
    }
}

/// Figure 4: a thousand clients of four instances want one cold key.
async fn stampede(figures: &mut Figures) {
    say("== one cold key");
    const CLIENTS: usize = 1000;
    let fleet = Fleet::start(KEYS, 1, "").await;
    let mut clients: Vec<Client> = (0..CLIENTS).map(|n| Client::new(fleet.instances[n % INSTANCES].proxy)).collect();
    // Connected before it begins.
    for client in &mut clients {
        client.ask("GET", fleet.story.path(KEYS)).await.unwrap();
    }
    fleet.story.delay.store(200_000, Ordering::SeqCst);
    let (mut fetches, mut slowest) = (Vec::new(), Vec::new());
    for key in (0..10).step_by(2) {
        let before = fleet.story.fetches.load(Ordering::SeqCst);
        let start = Arc::new(Barrier::new(CLIENTS));
        let mut asking = JoinSet::new();
        for mut client in clients.drain(..) {
            let (start, path) = (start.clone(), fleet.story.path(key).to_string());
            asking.spawn(async move {
                start.wait().await;
                let began = Instant::now();
                let reply = client.ask("GET", &path).await.unwrap();
                assert_eq!(reply.status, 200);
                (client, began.elapsed())
            });
        }
        let answered = asking.join_all().await;
        slowest.push(answered.iter().map(|(_, took)| *took).max().unwrap_or_default());
        clients.extend(answered.into_iter().map(|(client, _)| client));
        fetches.push(fleet.story.fetches.load(Ordering::SeqCst) - before);
    }
    slowest.sort();
    let most = fetches.iter().copied().max().unwrap_or_default();
    figures.add(
        "4. fetches of upstream, 1,000 clients of 4 instances, one cold key, upstream takes 200 ms",
        "1",
        format!("{most}, in each of {} rounds", fetches.len()),
        fetches.iter().all(|n| *n == 1),
        true,
    );
    let (middle, last) = (slowest[slowest.len() / 2], slowest[slowest.len() - 1]);
    figures.add(
        "4. the slowest of these clients",
        "300 ms",
        format!("{} in the middle of the rounds, {} in the worst", ms(middle), ms(last)),
        middle <= Duration::from_millis(300),
        false,
    );
}

/// Figure 5: a tag of a million entries, and a tag of one.
async fn purge(figures: &mut Figures) {
    say("== a tag of a million entries");
    const ENTRIES: usize = 1_000_000;
    let redis = Redis::start().await;
    let story = Story::with_spare(KEYS, 0, 1);
    let origin = serve(story).await;
    let text = format!(
        "{}[upstream]\nurl = \"http://{origin}\"\n",
        configuration(&redis, "memory = \"4GiB\"\n").replace("/b/{id}", "/m/{id}").replace("b:{id}", "m:{id}")
    );
    let config = Config::parse("fleet.toml", &text, Format::Toml).unwrap_or_else(|e| panic!("{e}"));
    let clock = Clock::default();
    let server = Server::start(config, clock.clone()).unwrap_or_else(|e| panic!("{e}"));
    until("Redis is up", || async { server.core.metrics.redis_up.get() == 1 }).await;
    let (policy, now) = (&server.core.config.routes[0], clock.now());
    for n in 0..ENTRIES {
        let (key, path) = (format!("m:{n}"), format!("/m/{n}"));
        let mut tags = Tags::of_request(policy, &key, key.len(), &path, &[]);
        tags.ids.push(TagId::of(TagKind::Tag, if n == 0 { b"alone" } else { b"shared" }));
        let names = Names { key: &key, path: &path, tags: &tags.names };
        let entry = Entry {
            base: u32::try_from(key.len()).unwrap_or(u32::MAX),
            route: 0,
            status: http::StatusCode::OK,
            content: Content::new(names, &http::HeaderMap::new(), bytes::Bytes::from_static(b"small")),
            birth: now,
            kept: now,
            spans: Lifetime { fresh: 3_600_000, ..Lifetime::default() }.into(),
            sharing: Sharing::default(),
            stamp: Stamp::new(server.core.log.position()),
            cost: 1,
            hits: AtomicU32::new(0),
        };
        server.core.memory.put_entry(Arc::new(entry));
    }
    let (_, held) = server.core.memory.list(0, 0, |_| false);
    let (mut admin, mut proxy) = (Client::new(server.admin), Client::new(server.proxy));
    let mut hit = async |n: usize| proxy.ask("GET", &format!("/m/{n}")).await.unwrap().head.contains("; hit");
    assert!(hit(0).await && hit(1).await && hit(ENTRIES / 2).await, "they answer before");
    let mut took: [Vec<Duration>; 2] = Default::default();
    let mut gone = true;
    for n in 0..300 {
        for (which, tag) in ["alone", "shared"].iter().enumerate() {
            let began = Instant::now();
            let purged = admin.send("POST", "/api/invalidate", &format!("{{\"tags\":[\"{tag}\"]}}")).await.unwrap();
            took[which].push(began.elapsed());
            assert_eq!(purged.status, 200);
            if n == 0 {
                gone &=
                    if which == 0 { !hit(0).await && hit(2).await } else { !hit(1).await && !hit(ENTRIES - 1).await };
            }
        }
    }
    took.iter_mut().for_each(|t| t.sort());
    let [alone, shared] = took.map(|t| (quantile(&t, 0.5), quantile(&t, 0.99)));
    figures.add(
        "5. purging a tag of 1,000,000 entries (put into memory by the library, asked of the admin API, logged in Redis)",
        "as a tag of one, at most 2 ms",
        format!(
            "p50 {}, p99 {}; a tag of one: p50 {}, p99 {}; {held} entries were held",
            ms(shared.0),
            ms(shared.1),
            ms(alone.0),
            ms(alone.1)
        ),
        shared.0 <= Duration::from_millis(2) && shared.0 <= alone.0.mul_f64(1.5) && gone && held >= ENTRIES,
        false,
    );
    tokio::task::spawn_blocking(move || server.stop()).await.unwrap();
}

/// An answer of figure 6.
struct Answered {
    at: Instant,
    took: Duration,
    fine: bool,
    shared: bool,
}

/// Figure 6: Redis goes away under load, and comes back.
async fn away(figures: &mut Figures) {
    say("== Redis goes away under load");
    // Memory asks Redis again all the time, so that Redis is on the requests' way.
    let mut fleet = Fleet::start(200, 0, "memory_ttl_max = \"1s\"\n").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for n in 0..2 * INSTANCES {
        let (at, story, stop) = (fleet.instances[n % INSTANCES].proxy, fleet.story.clone(), stop.clone());
        clients.spawn(async move {
            let (mut client, mut answers, mut key) = (Client::new(at), Vec::with_capacity(1 << 16), n * 7);
            while !stop.load(Ordering::Relaxed) {
                key = (key + 1) % story.len();
                let began = Instant::now();
                let reply = client.ask("GET", story.path(key)).await;
                let fine = reply.as_ref().is_ok_and(|r| r.status == 200);
                let shared = reply.is_ok_and(|r| r.head.contains("; hit") && r.head.contains("detail=redis"));
                answers.push(Answered { at: began, took: began.elapsed(), fine, shared });
            }
            (n % INSTANCES, answers)
        });
    }
    let phase = async |seconds: u64| {
        let from = Instant::now();
        sleep(Duration::from_secs(seconds)).await;
        (from, Instant::now())
    };
    phase(2).await;
    let normal = phase(5).await;
    fleet.redis.process().signal("STOP");
    let stopped = phase(5).await;
    fleet.redis.process().signal("CONT");
    let (resumed, _) = phase(8).await;
    let calm = phase(3).await;
    fleet.redis.kill();
    let killed = phase(5).await;
    fleet.redis.restart().await;
    let (restarted, end) = phase(8).await;
    stop.store(true, Ordering::Relaxed);
    let all = clients.join_all().await;
    let p99 = |(from, to): (Instant, Instant)| {
        let within = all.iter().flat_map(|(_, a)| a).filter(|a| a.at >= from && a.at < to);
        let mut took: Vec<Duration> = within.map(|a| a.took).collect();
        took.sort();
        (quantile(&took, 0.99), took.last().copied().unwrap_or_default(), took.len())
    };
    // Until the last instance has answered from Redis again.
    let back = |since: Instant, to: Instant| {
        let first = |n| {
            let own = all.iter().filter(|(i, _)| *i == n).flat_map(|(_, a)| a);
            own.filter(|a| a.shared && a.at >= since && a.at < to).map(|a| a.at - since).min().unwrap_or(Duration::MAX)
        };
        (0..INSTANCES).map(first).max().unwrap_or_default()
    };
    let failed = all.iter().flat_map(|(_, a)| a).filter(|a| !a.fine).count();
    let asked: usize = all.iter().map(|(_, a)| a.len()).sum();
    figures.add(
        "6. failed requests, Redis stopped and killed under load",
        "0",
        format!("{failed} of {asked}"),
        failed == 0,
        true,
    );
    let deadline = Duration::from_millis(50);
    for (name, before, during, since, to) in
        [("stopped", normal, stopped, resumed, calm.0), ("killed", calm, killed, restarted, end)]
    {
        let (was, (p99, longest, n)) = (p99(before).0, p99(during));
        figures.add(
            &format!("6. p99 while Redis is {name}"),
            "at most 50 ms above normal",
            format!("{} (normally {}), longest {}, of {n}", ms(p99), ms(was), ms(longest)),
            p99 <= was + deadline,
            false,
        );
        let took = back(since, to);
        let measured = if took == Duration::MAX { "not in 8 s".to_string() } else { ms(took) };
        figures.add(
            &format!("6. until all instances answer from Redis again, {name}"),
            "5 s",
            measured,
            took <= Duration::from_secs(5),
            false,
        );
    }
}

/// What is written into the document, and its place there.
fn written(figures: &Figures, took: Duration, document: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let missed = figures.0.iter().filter(|r| !r.met).count();
    let summary = if missed == 0 { "All targets are met.".into() } else { format!("{missed} targets are missed.") };
    let minutes = took.as_secs().div_ceil(60);
    Some(format!(
        "{before}{BEGIN}\n`make fleet`, on a machine with {cores} processors that also ran the clients, the origin and Redis, in {minutes} minutes. {summary}\n\n{}{END}{after}",
        figures.table()
    ))
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut seconds, mut print, mut only) = (60, false, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => seconds = args.next().and_then(|s| s.parse().ok()).expect("--seconds N"),
            "--print" => print = true,
            "--only" => only = args.next(),
            other => panic!("{other}? fleet [--seconds 60] [--print] [--only fire|lag|stampede|purge|away]"),
        }
    }
    let mut figures = Figures::default();
    let began = Instant::now();
    let wanted = |name: &str| only.as_deref().is_none_or(|o| o == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if wanted("lag") {
            lag(&mut figures).await;
        }
        if wanted("stampede") {
            stampede(&mut figures).await;
        }
        if wanted("purge") {
            purge(&mut figures).await;
        }
        if wanted("away") {
            away(&mut figures).await;
        }
        if wanted("fire") {
            under_fire(&mut figures, seconds).await;
        }
    });
    figures.0.sort_by(|a, b| a.figure[..1].cmp(&b.figure[..1]));
    if print || only.is_some() {
        println!("{}", figures.table());
    } else {
        let document = std::fs::read_to_string(DOCUMENT).unwrap();
        let document = written(&figures, began.elapsed(), &document).expect("docs/fleet.md has a place for the table");
        std::fs::write(DOCUMENT, document).unwrap();
        say("docs/fleet.md is written");
    }
    let wrong: Vec<&Row> = figures.0.iter().filter(|r| r.must && !r.met).collect();
    for row in &wrong {
        say(&format!("WRONG: {}: {}", row.figure, row.measured));
    }
    std::process::exit(i32::from(!wrong.is_empty()));
}
