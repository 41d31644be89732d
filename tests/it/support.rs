//! What the tests are made with: [`Origin`], a scripted upstream; [`RawOrigin`], one that plays bytes; [`Redis`],
//! a real server of its own; [`Instance`], a running proxy; [`Wire`], a connection to either, byte by byte;
//! [`eventually`], the only way to wait.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::HashMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use asidecar::clock::{Clock, Timestamp};
use asidecar::config::{Config, Format};
use asidecar::server::Server;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The longest that anything may take.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Waits until the condition holds; panics with `what` when it does not within [`DEADLINE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let until = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < until, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A request as the origin saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

type Handler = dyn Fn(Seen) -> Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>> + Send + Sync;

/// A scripted upstream on a free port.
pub struct Origin {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    /// An origin that answers by this function.
    pub async fn start<F, R>(handler: F) -> Origin
    where
        F: Fn(Seen) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Origin::start_on(listener, handler)
    }

    /// The same on a listener that is there already.
    pub fn start_on<F, R>(listener: TcpListener, handler: F) -> Origin
    where
        F: Fn(Seen) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let handler: Arc<Handler> = Arc::new(move |s| Box::pin(handler(s)));
        let log = seen.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, log) = (handler.clone(), log.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (handler, log) = (handler.clone(), log.clone());
                        async move {
                            let (parts, body) = request.into_parts();
                            let seen = Seen {
                                method: parts.method,
                                target: parts.uri.path_and_query().unwrap().to_string(),
                                headers: parts.headers,
                                body: body.collect().await.map(|b| b.to_bytes()).unwrap_or_default(),
                            };
                            log.lock().unwrap().push(seen.clone());
                            let response = handler(seen).await;
                            match response.extensions().get::<HangUp>() {
                                None => Ok(response),
                                Some(HangUp) => Err(std::io::Error::other("hung up")),
                            }
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        // Tests turn the proxy's clock; a Date by the real one would contradict it.
                        .auto_date_header(false)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Origin { address, seen, task }
    }

    /// An origin that answers every GET with a body that counts its calls (`call 1`, `call 2`, …) and this
    /// Cache-Control, and everything else with 204.
    pub async fn counting(cache_control: &'static str) -> Origin {
        let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        Origin::start(move |seen| {
            let calls = calls.clone();
            async move {
                if seen.method != Method::GET && seen.method != Method::HEAD {
                    return status(204);
                }
                let n = calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                let mut response = ok(format!("call {n}"));
                if !cache_control.is_empty() {
                    response.headers_mut().insert("cache-control", cache_control.parse().unwrap());
                }
                response
            }
        })
        .await
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
    /// How many requests so far.
    pub fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// 200 with this body.
pub fn ok(body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::new(Full::new(body.into()))
}

/// In a response's extensions: the origin closes the connection instead of sending it.
#[derive(Clone)]
pub struct HangUp;

/// An empty response with this status.
pub fn status(code: u16) -> Response<Full<Bytes>> {
    let mut response = ok("");
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

/// Adds fields to a response.
pub fn with(mut response: Response<Full<Bytes>>, fields: &[(&'static str, &str)]) -> Response<Full<Bytes>> {
    for (name, value) in fields {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    response
}

/// One connection, byte by byte, from either side. Every wait has a deadline.
pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).unwrap();
        Wire { stream, buffer: Vec::new() }
    }
    pub async fn connect(to: SocketAddr) -> Wire {
        Wire::new(TcpStream::connect(to).await.unwrap())
    }
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(DEADLINE, self.stream.write_all(bytes.as_ref())).await.expect("room to write").unwrap();
    }
    /// Reads more; false at the end, however the other side brought that about.
    async fn more(&mut self) -> bool {
        let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await;
        matches!(read.unwrap_or_else(|_| panic!("nothing came after {:?}", self.so_far())), Ok(1..))
    }
    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
    /// All up to and with this text.
    pub async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.buffer.windows(text.len()).position(|w| w == text.as_bytes()) {
                let rest = self.buffer.split_off(at + text.len());
                return String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
            }
            assert!(self.more().await, "{text:?} never came, only {:?}", self.so_far());
        }
    }
    /// So many bytes.
    pub async fn exactly(&mut self, n: usize) -> String {
        while self.buffer.len() < n {
            assert!(self.more().await, "only {:?} came", self.so_far());
        }
        let rest = self.buffer.split_off(n);
        String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap()
    }
    /// The next head, in lower case.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await.to_ascii_lowercase()
    }
    /// All that comes until the connection is closed.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8(std::mem::take(&mut self.buffer)).unwrap()
    }
    /// The next response to a request that was no HEAD; `None` when its body broke off.
    pub async fn answer_or_broken(&mut self) -> Option<Answer> {
        let head = self.until("\r\n\r\n").await;
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            headers.append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        let mut body = Vec::new();
        if let Some(length) = headers.get("content-length") {
            let length: usize = length.to_str().unwrap().parse().unwrap();
            while self.buffer.len() < length {
                if !self.more().await {
                    return None;
                }
            }
            let rest = self.buffer.split_off(length);
            body = std::mem::replace(&mut self.buffer, rest);
        } else if headers.contains_key("transfer-encoding") {
            loop {
                while !self.buffer.windows(2).any(|w| w == b"\r\n") {
                    if !self.more().await {
                        return None;
                    }
                }
                let size = usize::from_str_radix(self.until("\r\n").await.trim(), 16).unwrap();
                if size == 0 {
                    let trailers = self.until("\r\n").await;
                    if trailers != "\r\n" {
                        let (name, value) = trailers.trim().split_once(": ").unwrap();
                        headers.append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
                        assert_eq!(self.until("\r\n").await, "\r\n", "tests send one trailer");
                    }
                    break;
                }
                while self.buffer.len() < size + 2 {
                    if !self.more().await {
                        return None;
                    }
                }
                let rest = self.buffer.split_off(size + 2);
                body.extend_from_slice(&std::mem::replace(&mut self.buffer, rest)[..size]);
            }
        } else if !matches!(status, 100..200 | 204 | 304) {
            while self.more().await {}
            body = std::mem::take(&mut self.buffer);
        }
        Some(Answer { status, headers, body: String::from_utf8(body).unwrap() })
    }
    /// The next whole response.
    pub async fn answer(&mut self) -> Answer {
        self.answer_or_broken().await.expect("a whole response")
    }
    /// Sends a request without a body and reads its response.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        self.answer().await
    }
    /// Says that nothing more comes from here.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }
    /// Breaks the connection off, as a crash would.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// An upstream that plays bytes: each connection is given to a function, with its number from 1.
pub struct RawOrigin {
    pub address: SocketAddr,
    connections: Arc<std::sync::atomic::AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for RawOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RawOrigin {
    pub async fn start<F, R>(play: F) -> RawOrigin
    where
        F: Fn(Wire, usize) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<std::sync::atomic::AtomicUsize>::default();
        let count = connections.clone();
        let task = tokio::spawn(async move {
            let mut playing = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                playing.spawn(play(Wire::new(stream), n));
            }
        });
        RawOrigin { address, connections, task }
    }
    /// How many connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// An address that is taken and on which nobody listens: connections are refused.
pub struct Nobody {
    pub address: SocketAddr,
    _socket: socket2::Socket,
}

impl Nobody {
    pub fn new() -> Nobody {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Nobody { address: socket.local_addr().unwrap().as_socket().unwrap(), _socket: socket }
    }
}

/// Holds whoever passes until it is opened: how a race is held open.
#[derive(Clone)]
pub struct Gate {
    passes: Arc<Semaphore>,
    waiting: Arc<std::sync::atomic::AtomicUsize>,
}

impl Gate {
    pub fn closed() -> Gate {
        Gate { passes: Arc::new(Semaphore::new(0)), waiting: Arc::default() }
    }
    /// Waits until the gate lets one through.
    pub async fn pass(&self) {
        self.waiting.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        timeout(DEADLINE, self.passes.acquire()).await.expect("the gate was never opened").unwrap().forget();
    }
    /// Lets so many through.
    pub fn open(&self, n: usize) {
        self.passes.add_permits(n);
    }
    /// How many have come to the gate so far.
    pub fn came(&self) -> usize {
        self.waiting.load(std::sync::atomic::Ordering::SeqCst)
    }
    /// Waits until so many have come.
    pub async fn wait_for(&self, n: usize) {
        eventually("somebody at the gate", || async { self.came() >= n }).await;
    }
}

/// A `redis-server` of this test's own, on a free port, in a folder of its own; gone with the value. With
/// `ASIDECAR_REDIS_SERVER` in the environment it is that program, such as `valkey-server`.
pub struct Redis {
    pub port: u16,
    pub folder: tempfile::TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    pub async fn start() -> Redis {
        Redis::start_with(|_| Vec::new()).await
    }
    /// One with more arguments, which may name files in its folder.
    pub async fn start_with(arguments: impl FnOnce(&std::path::Path) -> Vec<String>) -> Redis {
        let folder = tempfile::tempdir().unwrap();
        let port = quiet_port();
        let mut own = vec!["--port".to_owned(), port.to_string()];
        own.extend(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"].map(str::to_owned));
        own.extend(arguments(folder.path()));
        Redis::run(folder, port, own).await
    }
    /// A sentinel, with this in its configuration.
    pub async fn sentinel(configuration: &str) -> Redis {
        let (folder, port) = (tempfile::tempdir().unwrap(), quiet_port());
        let file = folder.path().join("sentinel.conf");
        std::fs::write(&file, format!("port {port}\nbind 127.0.0.1\n{configuration}\n")).unwrap();
        let own = vec![file.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
        Redis::run(folder, port, own).await
    }
    async fn run(folder: tempfile::TempDir, port: u16, arguments: Vec<String>) -> Redis {
        let mut redis = Redis { port, folder, arguments, child: None };
        redis.restart().await;
        redis
    }
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
    /// Starts it (again), empty, on the same port.
    pub async fn restart(&mut self) {
        self.kill();
        let server = std::env::var_os("ASIDECAR_REDIS_SERVER").map_or_else(|| program("redis-server"), PathBuf::from);
        let child = Command::new(server)
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed: `make test` does that");
        self.child = Some(child);
        eventually("redis-server answers", || async { self.command(&["PING"]).await.is_ok() }).await;
    }
    /// Kills it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }
    /// Sends it a signal (`STOP`, `CONT`, …).
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(sent.success());
    }
    /// A connection for many commands.
    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }
    /// Runs one command over a connection of its own.
    pub async fn command(&self, words: &[&str]) -> Result<redis::Value, redis::RedisError> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut connection).await
    }
    /// The same, with its answer as a type.
    pub async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let value = self.command(words).await.unwrap();
        redis::from_redis_value(value).unwrap_or_else(|_| panic!("an odd answer to {words:?}"))
    }
    pub async fn publish(&self, message: &str) {
        let _: i64 = self.ask(&["PUBLISH", "asidecar:invalidate", message]).await;
    }
    /// All keys, sorted.
    pub async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(&["KEYS", "*"]).await;
        keys.sort();
        keys
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A free port below those that the system gives to outgoing connections, so that a server can be stopped and
/// started on it again.
pub fn quiet_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    loop {
        let port = 12_000 + (RandomState::new().hash_one(std::process::id()) % 20_000) as u16;
        if StdListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A program that the project's scripts install.
pub fn program(name: &str) -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin").join(name);
    if own.exists() { own } else { name.into() }
}

/// A running proxy.
pub struct Instance {
    pub server: Server,
    pub clock: Clock,
    client: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
    /// The last member of Cache-Status, which is ours.
    pub fn cache_status(&self) -> &str {
        self.headers.get_all("cache-status").iter().next_back().map_or("", |v| v.to_str().unwrap())
    }
    /// Whether the cache answered, from this tier.
    pub fn is_hit(&self, tier: &str) -> bool {
        let status = self.cache_status();
        status.contains("; hit") && status.contains(&format!("detail={tier}"))
    }
}

/// A clock that stands until it is turned, at a whole second: HTTP's dates have no parts of one.
pub fn standing_clock() -> Clock {
    Clock::stopped(Timestamp(Clock::default().now().0 / 1000 * 1000))
}

impl Instance {
    /// A proxy in front of `origin`, with this configuration added (`[store]`, `[[route]]`, …).
    pub fn start(origin: &Origin, config: &str) -> Instance {
        Instance::in_front_of(origin.address, config)
    }

    pub fn in_front_of(upstream: SocketAddr, config: &str) -> Instance {
        Instance::configured(upstream, config, |_| {})
    }

    /// The same, with what the fixed part of the configuration says changed.
    pub fn configured(upstream: SocketAddr, config: &str, change: impl FnOnce(&mut Config)) -> Instance {
        let mut config = Instance::config(upstream, config);
        change(&mut config);
        Instance::with_config(config)
    }

    fn config(upstream: SocketAddr, config: &str) -> Config {
        let mut text = config.to_string();
        for (section, lines) in [
            ("listen", "proxy = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nworkers = 2\ndrain_timeout = \"2s\""),
            ("upstream", &format!("url = \"http://{upstream}\"")),
        ] {
            let header = format!("[{section}]");
            if text.contains(&header) {
                text = text.replacen(&header, &format!("{header}\n{lines}"), 1);
            } else {
                text = format!("{header}\n{lines}\n{text}");
            }
        }
        Config::parse("test.toml", &text, Format::Toml).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    pub fn with_config(config: Config) -> Instance {
        Instance::with_clock(config, Clock::default())
    }

    /// A proxy that goes by this clock, as by one of [`standing_clock`] where seconds are compared.
    pub fn by_clock(clock: Clock, upstream: SocketAddr, config: &str) -> Instance {
        Instance::with_clock(Instance::config(upstream, config), clock)
    }

    fn with_clock(config: Config, clock: Clock) -> Instance {
        let server = Server::start(config, clock.clone()).unwrap_or_else(|e| panic!("{e}"));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Instance { server, clock, client }
    }

    /// Waits until Redis is connected and trusted.
    pub async fn with_redis_up(self) -> Instance {
        self.redis_is_up().await;
        self
    }
    pub async fn redis_is_up(&self) {
        eventually("Redis is up", || async { self.server.core.metrics.redis_up.get() == 1 }).await;
    }
    pub async fn redis_is_down(&self) {
        eventually("Redis is down", || async { self.server.core.metrics.redis_up.get() == 0 }).await;
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }
    /// A GET, and then waits until what it filled is stored.
    pub async fn fill(&self, path: &str) -> Answer {
        let answer = self.get(path).await;
        eventually("the fill is over", || async { self.server.core.metrics.fills_in_flight.get() == 0 }).await;
        answer
    }
    pub async fn get_with(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, path, fields, "").await
    }
    pub async fn send(&self, method: Method, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        self.send_to(self.server.proxy, method, path, fields, body).await
    }
    /// A request to the admin listener.
    pub async fn admin(&self, method: Method, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        self.send_to(self.server.admin, method, path, fields, body).await
    }
    async fn send_to(&self, to: SocketAddr, method: Method, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{to}{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        let exchange = async {
            let (head, body) = self.client.request(request).await.expect("an answer").into_parts();
            let body = body.collect().await.expect("the whole body").to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            Answer { status: head.status.as_u16(), headers: head.headers, body }
        };
        timeout(DEADLINE, exchange).await.expect("an answer in time")
    }

    /// Invalidates through the admin API.
    pub async fn purge(&self, message: &str) -> Answer {
        self.admin(Method::POST, "/api/invalidate", &[], message).await
    }

    /// Sends these bytes on a connection of its own and reads until it is closed, or for as long as something
    /// complete may take to come.
    pub async fn raw(&self, bytes: &str) -> String {
        let mut stream = TcpStream::connect(self.server.proxy).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut got)).await.expect("the connection should be closed");
        String::from_utf8_lossy(&got).into_owned()
    }

    /// The value of a series in `/metrics`, 0 when it is not there. `series` is `name{label="v",…}` without
    /// the prefix, labels in alphabetical order.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.admin(Method::GET, "/metrics", &[], "").await.body;
        let lines: HashMap<&str, &str> = text.lines().filter_map(|l| l.rsplit_once(' ')).collect();
        lines.get(format!("asidecar_{series}").as_str()).map_or(0.0, |v| v.parse().unwrap())
    }
}

/// An origin that announces a storable chunked response, sends one chunk, and the rest when the gate opens.
pub async fn trickling(gate: Gate) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let gate = gate.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let head =
                    "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
                gate.pass().await;
                let _ = stream.write_all(b"0\r\n\r\n").await;
            });
        }
    });
    address
}
