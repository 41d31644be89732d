//! Who wrote what when, and whether a reader was told less: what the chaos tests and `benches/fleet.rs` judge by.
//!
//! [`Story`] keeps a version for each key; its origin ([`serve`]) counts it up with each PUT and answers a GET with
//! it. [`Client`] is a connection that costs as little as it can. [`Load`] writes and reads through several
//! instances at once and holds each answer against what had been acknowledged before it was asked for.

#![allow(dead_code, reason = "tests and figures use a part each")]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The longest that a request may take; what takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// So many versions of a key are told apart.
const VERSIONS: usize = 1 << 16;
/// The length of the origin's answers: a part of one is told from the whole.
const LENGTH: usize = 20;

/// What the origin does with every third request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Nothing odd.
    Well,
    /// It answers 503 and does nothing.
    Fails,
    /// It does what it was asked for and never answers.
    Hangs,
    /// It does it, sends half of the answer and breaks off.
    Resets,
    /// It sends the answer byte by byte.
    Trickles,
}

/// The keys, and what was acknowledged of them.
pub struct Story {
    began: Instant,
    keys: Vec<Key>,
    /// So many of them are for loads; the rest are for whoever asks for them.
    loaded: usize,
    manner: AtomicU8,
    asked: AtomicUsize,
    /// Fetches that the origin saw.
    pub fetches: AtomicUsize,
    /// What a read takes at the origin, in microseconds.
    pub delay: AtomicU64,
    /// By a write's number, the version that it made.
    made: Mutex<HashMap<usize, usize>>,
    numbered: AtomicUsize,
}

struct Key {
    path: String,
    strict: bool,
    version: AtomicUsize,
    /// By instance, the newest version that was acknowledged through it.
    told: Vec<AtomicUsize>,
    /// The newest that was acknowledged at all.
    newest: AtomicUsize,
    /// By version, when it was first acknowledged, in nanoseconds since the beginning; 0: it was not.
    when: Box<[AtomicU64]>,
}

/// A question, and what its answer must at least say.
pub struct Asked {
    floor: usize,
    at: u64,
}

/// What an answer was worth.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// It is older than what had been acknowledged through the same instance.
    pub older: bool,
    /// For how long something newer had been acknowledged through whatever instance when it was asked for.
    pub age: Duration,
}

impl Story {
    /// So many keys, every second on the strict route, for so many instances.
    pub fn new(keys: usize, instances: usize) -> Arc<Story> {
        Story::with_spare(keys, 0, instances)
    }
    /// The same, and some more that no [`Load`] touches.
    pub fn with_spare(keys: usize, spare: usize, instances: usize) -> Arc<Story> {
        let key = |n| Key {
            path: if n % 2 == 0 { format!("/b/{n}") } else { format!("/s/{n}") },
            strict: n % 2 == 1,
            version: AtomicUsize::new(1),
            told: (0..instances).map(|_| AtomicUsize::new(0)).collect(),
            newest: AtomicUsize::new(0),
            when: (0..VERSIONS).map(|_| AtomicU64::new(0)).collect(),
        };
        Arc::new(Story {
            began: Instant::now(),
            keys: (0..keys + spare).map(key).collect(),
            loaded: keys,
            manner: AtomicU8::new(0),
            asked: AtomicUsize::new(0),
            fetches: AtomicUsize::new(0),
            delay: AtomicU64::new(1000),
            made: Mutex::default(),
            numbered: AtomicUsize::new(0),
        })
    }

    /// How many keys there are for loads.
    pub fn len(&self) -> usize {
        self.loaded
    }
    /// Where a key is read and written.
    pub fn path(&self, key: usize) -> &str {
        &self.keys[key].path
    }
    /// Whether it is on the strict route.
    pub fn is_strict(&self, key: usize) -> bool {
        self.keys[key].strict
    }
    /// The version that the origin has.
    pub fn version(&self, key: usize) -> usize {
        self.keys[key].version.load(Ordering::SeqCst)
    }
    /// From now on the origin behaves like this.
    pub fn behave(&self, manner: Manner) {
        self.manner.store(manner as u8, Ordering::SeqCst);
    }
    fn manner(&self) -> Manner {
        let odd = self.asked.fetch_add(1, Ordering::SeqCst) % 3 == 2;
        let all = [Manner::Well, Manner::Fails, Manner::Hangs, Manner::Resets, Manner::Trickles];
        if odd { all[usize::from(self.manner.load(Ordering::SeqCst))] } else { Manner::Well }
    }
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    /// A write that came back through this instance.
    pub fn acknowledged(&self, key: usize, through: usize, version: usize) {
        let key = &self.keys[key];
        // The time first: whoever sees the version finds it.
        if let Some(when) = key.when.get(version) {
            let _ = when.compare_exchange(0, self.now(), Ordering::SeqCst, Ordering::SeqCst);
        }
        key.newest.fetch_max(version, Ordering::SeqCst);
        key.told[through].fetch_max(version, Ordering::SeqCst);
    }
    /// Before a question is sent.
    pub fn ask(&self, key: usize, through: usize) -> Asked {
        Asked { floor: self.keys[key].told[through].load(Ordering::SeqCst), at: self.now() }
    }
    /// What its answer is worth.
    pub fn judge(&self, key: usize, asked: &Asked, version: usize) -> Told {
        let newest = self.keys[key].newest.load(Ordering::SeqCst);
        let newer = self.keys[key].when.iter().take(newest + 1).skip(version + 1);
        let first = newer.map(|w| w.load(Ordering::SeqCst)).filter(|w| *w > 0).min().unwrap_or(u64::MAX);
        Told { older: version < asked.floor, age: Duration::from_nanos(asked.at.saturating_sub(first)) }
    }
}

/// The origin of a story, for as long as the process or the runtime lives.
pub async fn serve(story: Arc<Story>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let story = story.clone();
            tokio::spawn(async move {
                let _ = converse(stream, &story).await;
            });
        }
    });
    address
}

/// One connection to the origin, request by request.
async fn converse(mut stream: TcpStream, story: &Story) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let end = loop {
            if let Some(at) = find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end);
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, number) = target.split_once("?w=").unwrap_or((target, ""));
        let Some(key) = path.rsplit('/').next().and_then(|n| n.parse::<usize>().ok()).and_then(|n| story.keys.get(n))
        else {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
            continue;
        };
        let manner = story.manner();
        if manner == Manner::Fails {
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await?;
            continue;
        }
        let version = if method == "PUT" {
            let version = key.version.fetch_add(1, Ordering::SeqCst) + 1;
            if let Ok(number) = number.parse() {
                story.made.lock().unwrap().insert(number, version);
            }
            version
        } else {
            story.fetches.fetch_add(1, Ordering::SeqCst);
            // The value is read first and answered later, as a slow query does it.
            let version = key.version.load(Ordering::SeqCst);
            let delay = story.delay.load(Ordering::Relaxed);
            if delay > 0 {
                sleep(Duration::from_micros(delay)).await;
            }
            version
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {LENGTH}\r\n\r\n{version:>LENGTH$}"
        );
        match manner {
            Manner::Well | Manner::Fails => stream.write_all(answer.as_bytes()).await?,
            Manner::Hangs => {
                // Until whoever asked gives up.
                while stream.read_buf(&mut buffer).await? > 0 {}
                return Ok(());
            }
            Manner::Resets => {
                stream.write_all(&answer.as_bytes()[..answer.len() - LENGTH / 2]).await?;
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                return Ok(());
            }
            Manner::Trickles => {
                for byte in answer.as_bytes() {
                    stream.write_all(&[*byte]).await?;
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// The version that it tells of.
    pub fn version(&self) -> Option<usize> {
        std::str::from_utf8(&self.body).ok()?.trim().parse().ok()
    }
}

/// A connection to an instance that is kept, and made again when it is lost.
pub struct Client {
    to: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    pub fn new(to: SocketAddr) -> Client {
        Client { to, stream: None, buffer: Vec::with_capacity(4096) }
    }
    /// Sends a request without a body and reads the answer.
    pub async fn ask(&mut self, method: &str, path: &str) -> io::Result<Reply> {
        self.send(method, path, "").await
    }
    pub async fn send(&mut self, method: &str, path: &str, body: &str) -> io::Result<Reply> {
        let asked = timeout(PATIENCE, self.exchange(method, path, body)).await;
        let asked = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if asked.is_err() {
            self.stream = None;
        }
        asked
    }
    async fn exchange(&mut self, method: &str, path: &str, body: &str) -> io::Result<Reply> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.to).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
            self.buffer.clear();
        }
        let length = if method == "GET" { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n{body}");
        self.stream.as_mut().unwrap().write_all(request.as_bytes()).await?;
        let head = self.until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let field = |name: &str| head.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        let body = if let Some(length) = field("content-length:") {
            self.exactly(length.parse().map_err(|_| io::ErrorKind::InvalidData)?).await?
        } else if field("transfer-encoding:").is_some() {
            let mut body = Vec::new();
            loop {
                let size = self.until(b"\r\n").await?;
                let size = String::from_utf8_lossy(&size);
                let size = usize::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
                let chunk = self.exactly(size + 2).await?;
                if size == 0 {
                    break body;
                }
                body.extend_from_slice(&chunk[..size]);
            }
        } else {
            Vec::new()
        };
        Ok(Reply { status, head, body })
    }
    async fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.buffer, end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            self.more().await?;
        }
    }
    async fn exactly(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < n {
            self.more().await?;
        }
        Ok(self.buffer.drain(..n).collect())
    }
    async fn more(&mut self) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        if stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// What clients saw.
#[derive(Default)]
pub struct Seen {
    pub reads: AtomicUsize,
    pub writes: AtomicUsize,
    /// Reads that the cache answered.
    pub hits: AtomicUsize,
    /// Answers older than what the same instance had acknowledged.
    pub older: AtomicUsize,
    /// The oldest answer, in nanoseconds of [`Told::age`], by route: bounded, strict.
    oldest: [AtomicU64; 2],
    /// Requests that failed.
    pub failed: AtomicUsize,
    /// The first of what went wrong, in words.
    said: Mutex<Vec<String>>,
}

impl Seen {
    fn say(&self, what: String) {
        let mut said = self.said.lock().unwrap();
        if said.len() < 20 {
            said.push(what);
        }
    }
    /// What went wrong, in words.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }
    /// The oldest answer since this was last asked.
    pub fn oldest(&self, strict: bool) -> Duration {
        Duration::from_nanos(self.oldest[usize::from(strict)].swap(0, Ordering::SeqCst))
    }
}

/// Clients that write and read until they are told to end.
pub struct Load {
    pub story: Arc<Story>,
    pub seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

/// What clients of a load do.
#[derive(Clone, Copy)]
pub struct Habit {
    /// How many of them there are at each instance.
    pub clients: usize,
    /// After how many reads each of them writes; 0: never.
    pub reads_a_write: usize,
    /// A rest after each write.
    pub rest: Duration,
}

impl Load {
    /// Clients of these instances, each with its own habits.
    pub fn start(story: &Arc<Story>, instances: &[(SocketAddr, Vec<Habit>)]) -> Load {
        let (seen, stop) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
        let mut clients = JoinSet::new();
        for (through, (at, habits)) in instances.iter().enumerate() {
            for habit in habits {
                for _ in 0..habit.clients {
                    let one = One {
                        story: story.clone(),
                        seen: seen.clone(),
                        stop: stop.clone(),
                        client: Client::new(*at),
                        through,
                        turn: clients.len() as u64,
                    };
                    clients.spawn(one.live(*habit));
                }
            }
        }
        Load { story: story.clone(), seen, stop, clients }
    }
    /// How many reads there were so far.
    pub fn reads(&self) -> usize {
        self.seen.reads.load(Ordering::SeqCst)
    }
    /// Ends it, and waits for what is under way.
    pub async fn end(mut self) -> Arc<Seen> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        self.seen.clone()
    }
}

/// One client of a load.
struct One {
    story: Arc<Story>,
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    client: Client,
    through: usize,
    turn: u64,
}

impl One {
    async fn live(mut self, habit: Habit) {
        while !self.stop.load(Ordering::SeqCst) {
            let key = self.any();
            if habit.reads_a_write > 0 {
                self.write(key).await;
                // Its own write first.
                self.read(key).await;
                sleep(habit.rest).await;
            }
            for _ in 1..habit.reads_a_write.max(16) {
                let key = self.any();
                self.read(key).await;
            }
        }
    }
    fn any(&mut self) -> usize {
        // A step of splitmix64: spread well enough, and the same in every run.
        self.turn = self.turn.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.turn ^ (self.turn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((mixed ^ (mixed >> 27)) % self.story.len() as u64).unwrap()
    }
    async fn write(&mut self, key: usize) {
        let number = self.story.numbered.fetch_add(1, Ordering::SeqCst);
        let path = format!("{}?w={number}", self.story.path(key));
        let written = self.client.ask("PUT", &path).await;
        // Where nobody knows whether it was done, an answer counts as if it was.
        let made = self.story.made.lock().unwrap().remove(&number);
        match written {
            Ok(reply) => {
                if let Some(version) = made {
                    self.story.acknowledged(key, self.through, version);
                }
                self.seen.writes.fetch_add(1, Ordering::SeqCst);
                if reply.status != 200 {
                    self.fail(&path, &reply.status.to_string());
                }
            }
            Err(error) => self.fail(&path, &error.to_string()),
        }
    }
    async fn read(&mut self, key: usize) {
        let asked = self.story.ask(key, self.through);
        match self.client.ask("GET", self.story.path(key)).await {
            Ok(reply) if reply.status == 200 => {
                self.seen.reads.fetch_add(1, Ordering::SeqCst);
                if reply.head.contains("; hit") {
                    self.seen.hits.fetch_add(1, Ordering::Relaxed);
                }
                let Some(version) = reply.version() else {
                    return self.fail(self.story.path(key), &format!("{reply:?}"));
                };
                let told = self.story.judge(key, &asked, version);
                let strict = self.story.is_strict(key);
                let age = u64::try_from(told.age.as_nanos()).unwrap();
                self.seen.oldest[usize::from(strict)].fetch_max(age, Ordering::SeqCst);
                if told.older {
                    self.seen.older.fetch_add(1, Ordering::SeqCst);
                    self.seen.say(format!(
                        "instance {} said {version} of {} although {} was acknowledged through it ({})",
                        self.through,
                        self.story.path(key),
                        asked.floor,
                        reply.head.lines().find(|l| l.starts_with("cache-status")).unwrap_or_default(),
                    ));
                }
            }
            Ok(reply) => self.fail(self.story.path(key), &reply.status.to_string()),
            Err(error) => self.fail(self.story.path(key), &error.to_string()),
        }
    }
    fn fail(&self, path: &str, how: &str) {
        self.seen.failed.fetch_add(1, Ordering::SeqCst);
        self.seen.say(format!("instance {}: {path} failed: {how}", self.through));
    }
}
