//! The process: threads, sockets, connections, and how it all ends.
//!
//! Each worker thread runs its own single-threaded runtime with its own connections and its own pool to the
//! upstream, so that a request stays on one thread; the workers share one listening socket. A control thread
//! runs what is not on the requests' way: the follower of the log, and the admin listener.
//!
//! Stopping is a drain: accepting ends at once, what is in flight is finished within `listen.drain_timeout`.

pub mod guard;

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{interval, sleep, timeout};

use crate::clock::Clock;
use crate::coalesce::Fills;
use crate::config::Config;
use crate::core::{Core, LastSeen};
use crate::forward::Peer;
use crate::freshness::LONGEST_LIFE;
use crate::interim::{Outlet, Sink};
use crate::invalidation::log::InvalidationLog;
use crate::metrics::{MalformedWhat, Metrics};
use crate::proxy::Proxy;
use crate::redis_tier::connect::{Connector, Lanes};
use crate::redis_tier::follow::Follower;
use crate::redis_tier::lease::{Leases, Waker};
use crate::redis_tier::link::{Link, Names};
use crate::route::Routes;
use crate::store::Shared;
use crate::store::memory::Memory;
use crate::upstream::{self, Upstream};
use guard::Guarded;

const BACKLOG: i32 = 4096;
/// After an error of accept (out of file descriptors, mostly) it is tried again so much later.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// How often what no living entry can be older than is dropped from the log's table.
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// What is not in the log yet gets so much time at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);
const MAX_STREAMS: u32 = 250;
/// How long the log is kept where `invalidation.retain` says nothing: an instance that was away for longer
/// starts cold.
const RETAIN: Duration = Duration::from_secs(24 * 3600);

/// Why the process can't start: one line for the user.
#[derive(Debug)]
pub struct StartError(pub String);

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// A running instance.
pub struct Server {
    /// Where clients connect.
    pub proxy: SocketAddr,
    /// Where the admin page, its API and the metrics are.
    pub admin: SocketAddr,
    /// What all threads share.
    pub core: Arc<Core>,
    state: watch::Sender<Phase>,
    workers: Vec<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
}

/// How far the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Serving.
    Serving,
    /// Finishing what is in flight.
    Draining,
    /// Over.
    Stopped,
}

impl Server {
    /// Opens the ports and starts the threads.
    ///
    /// # Errors
    /// One line that says what could not be opened or set up, and what to do.
    pub fn start(config: Config, clock: Clock) -> Result<Server, StartError> {
        let routes = Routes::build(&config.routes)
            .map_err(|_| StartError("the routes are ambiguous: run `asidecar check`".into()))?;
        let names: Vec<&str> = config.routes.iter().map(|r| r.name.as_str()).collect();
        let metrics = Metrics::new(&names).map_err(|e| StartError(format!("metrics can't be set up: {e}")))?;
        let metrics = Arc::new(metrics);
        let tls = upstream::tls(&config.upstream.url).map_err(StartError)?;
        let instance = instance_name();
        let (connector, link) = redis_link(&config, &instance, &metrics);

        let listener = listen(config.listen.proxy, "listen.proxy")?;
        let admin = listen(config.listen.admin, "listen.admin")?;
        let address = |l: &StdListener| l.local_addr().map_err(|e| StartError(e.to_string()));
        let (proxy_address, admin_address) = (address(&listener)?, address(&admin)?);

        let log = Arc::new(InvalidationLog::new(
            config.invalidation.table_size,
            config.invalidation.max_lag,
            link.clone(),
            clock.clone(),
            metrics.clone(),
        ));
        let largest = config.routes.iter().map(|r| r.max_object).max().unwrap_or(0);
        let leased = connector.clone().zip(link.clone());
        let (leases, waker) = leased.map(|(c, l)| Leases::new(l, c, config.store.redis_timeout)).unzip();
        let core = Arc::new(Core {
            instance,
            routes,
            memory: Memory::new(config.store.memory, largest, metrics.clone()),
            shared: link.clone().map(|link| Shared::new(link, log.clone(), metrics.clone(), config.store.compress)),
            link: link.clone(),
            log: log.clone(),
            fills: Fills::new(metrics.clone()),
            leases,
            metrics: metrics.clone(),
            clock,
            config,
            upstream_answers: LastSeen::default(),
            cookies_told: AtomicBool::new(false),
        });
        let follower = connector.zip(link).map(|(connector, link)| Follower {
            connector,
            link,
            log,
            heartbeat: core.config.invalidation.heartbeat,
            metrics,
        });
        let background = Background { follower, waker };

        let state = watch::Sender::new(Phase::Serving);
        let wanted = core.config.listen.workers;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let open = Arc::new(Semaphore::new(core.config.upstream.max_connections));
        let slots = Arc::new(Semaphore::new(core.config.listen.max_connections));
        let settings = Arc::new(core.config.upstream.clone());
        let (mut workers, mut handles) = (Vec::new(), Vec::new());
        for n in 0..if wanted == 0 { cores } else { wanted } {
            let listener = listener.try_clone().map_err(|e| StartError(format!("a socket can't be shared: {e}")))?;
            let proxy = Arc::new(Proxy {
                core: core.clone(),
                upstream: Upstream::new(settings.clone(), tls.clone(), open.clone()),
            });
            let (slots, phase) = (slots.clone(), state.subscribe());
            let (worker, handle) = spawn_thread(&format!("asidecar-{n}"), move |runtime| {
                Lanes::take(n);
                runtime.block_on(work(proxy, listener, slots, phase));
                runtime.shutdown_background();
            })?;
            workers.push(worker);
            handles.push(handle);
        }
        if let Some(follower) = &background.follower {
            follower.connector.for_workers(handles);
        }
        let (control, _) = {
            let (core, phase) = (core.clone(), state.subscribe());
            spawn_thread("asidecar-control", move |runtime| {
                runtime.block_on(control(core, admin, admin_address, background, phase));
            })?
        };
        Ok(Server { proxy: proxy_address, admin: admin_address, core, state, workers, control: Some(control) })
    }

    /// Begins to drain: no new connections, what is in flight is finished.
    pub fn drain(&self) {
        self.state.send_if_modified(|p| {
            let serving = *p == Phase::Serving;
            if serving {
                *p = Phase::Draining;
            }
            serving
        });
    }

    /// Drains and waits for the end, which comes within the drain timeout. Blocks the thread.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.drain();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        self.state.send_replace(Phase::Stopped);
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn redis_link(config: &Config, instance: &str, metrics: &Arc<Metrics>) -> (Option<Arc<Connector>>, Option<Arc<Link>>) {
    let Some(address) = &config.store.redis else { return (None, None) };
    let connector = Connector::new(address.clone(), config.store.redis_tls.clone());
    let names = Names::new(&config.store.namespace, &config.invalidation.channel);
    let retain = config.invalidation.retain.unwrap_or(RETAIN).min(LONGEST_LIFE);
    let link = Link::new(names, instance.into(), config.store.redis_timeout, retain, metrics.clone());
    (Some(Arc::new(connector)), Some(Arc::new(link)))
}

/// What runs beside the requests when there is a Redis.
struct Background {
    follower: Option<Follower>,
    waker: Option<Waker>,
}

/// A new name for an instance, in the log and on the admin page.
pub fn instance_name() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:08x}", RandomState::new().hash_one(std::process::id()) >> 32)
}

fn listen(address: SocketAddr, what: &str) -> Result<StdListener, StartError> {
    let open = || -> io::Result<StdListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|e| {
        let advice = match e.kind() {
            io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port",
            io::ErrorKind::PermissionDenied => "ports below 1024 want privileges: choose another port",
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address: choose one of its own",
            _ => "choose another address",
        };
        StartError(format!("{what} = \"{address}\" can't be opened: {advice}"))
    })
}

fn spawn_thread(
    name: &str,
    run: impl FnOnce(Runtime) + Send + 'static,
) -> Result<(JoinHandle<()>, Handle), StartError> {
    let failed = |e: io::Error| StartError(format!("a thread can't be started: {e}"));
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let handle = runtime.handle().clone();
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(runtime)).map_err(failed)?;
    Ok((thread, handle))
}

async fn control(
    core: Arc<Core>,
    listener: StdListener,
    address: SocketAddr,
    background: Background,
    mut phase: watch::Receiver<Phase>,
) {
    let log = core.log.clone();
    if let Some(waker) = background.waker {
        tokio::spawn(waker.run());
    }
    if let Some(follower) = background.follower {
        tokio::spawn(follower.run());
    }
    match TcpListener::from_std(listener) {
        Ok(listener) => {
            tokio::spawn(crate::admin::serve(core, listener, address, phase.clone()));
        }
        Err(error) => tracing::error!(%error, "the admin listener can't be used"),
    }
    let mut hourly = interval(FORGET_EVERY);
    loop {
        tokio::select! {
            _ = hourly.tick() => log.forget(LONGEST_LIFE),
            _ = phase.wait_for(|p| *p == Phase::Stopped) => break,
        }
    }
    let lost = log.finish(LAST_WORDS).await;
    if lost > 0 {
        tracing::warn!(invalidations = lost, "Redis is away: what it was not told, other instances never learn");
    }
}

async fn work(proxy: Arc<Proxy>, listener: StdListener, slots: Arc<Semaphore>, mut phase: watch::Receiver<Phase>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener can't be used"),
    };
    // Each connection holds a sender; when all are gone the channel ends.
    let (alive, mut gone) = mpsc::channel::<()>(1);
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot,
            _ = phase.wait_for(|p| *p != Phase::Serving) => break,
        };
        let Ok(slot) = slot else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|p| *p != Phase::Serving) => break,
        };
        match accepted {
            Ok((stream, from)) => {
                let (proxy, phase) = (proxy.clone(), phase.clone());
                let lease = Lease::new(slot, alive.clone(), &proxy.core.metrics);
                tokio::spawn(async move { connection(&proxy, stream, from, lease, phase).await });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    drop(alive);
    if timeout(proxy.core.config.listen.drain_timeout, gone.recv()).await.is_err() {
        tracing::warn!("some requests did not end within the drain timeout: they are cut off");
    }
}

/// A connection's place among those that may be open, held for as long as it is: a tunnel outlives its
/// connection's HTTP. A drain waits for it.
pub struct Lease {
    metrics: Arc<Metrics>,
    _slot: OwnedSemaphorePermit,
    alive: mpsc::Sender<()>,
}

/// What a drain waits for.
pub struct Unfinished(#[allow(dead_code, reason = "held, never used")] mpsc::Sender<()>);

impl Lease {
    fn new(slot: OwnedSemaphorePermit, alive: mpsc::Sender<()>, metrics: &Arc<Metrics>) -> Lease {
        metrics.connections.inc();
        Lease { metrics: metrics.clone(), _slot: slot, alive }
    }

    /// For work that may outlive the connection: a drain waits for it too.
    pub fn unfinished(&self) -> Unfinished {
        Unfinished(self.alive.clone())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// What is known of the connection that a request comes on.
pub struct Connection {
    /// Who is at its other end.
    pub peer: Arc<Peer>,
    /// Set when its framing is in doubt (see [`guard`]).
    pub ambiguous: Arc<AtomicBool>,
    /// Where interim responses for it wait; `None` with HTTP/2, where the library can send none.
    pub outlet: Option<Arc<Outlet>>,
    /// Held as long as anything goes on for it.
    pub lease: Arc<Lease>,
    /// Cloned by whatever goes on for a request beyond its being answered at once: as long as it does, the connection
    /// is not idle.
    pub in_use: Arc<()>,
}

impl Connection {
    /// Where interim responses to its request of that version go; `None` when it can be sent none.
    pub fn sink(&self, version: Version) -> Option<Sink> {
        self.outlet.as_ref()?.sink(version)
    }
}

async fn connection(
    proxy: &Arc<Proxy>,
    stream: TcpStream,
    from: SocketAddr,
    lease: Lease,
    mut phase: watch::Receiver<Phase>,
) {
    let _ = stream.set_nodelay(true);
    let listen = &proxy.core.config.listen;
    let peer = Arc::new(Peer::new(from.ip(), proxy.upstream.settings()));
    let lease = Arc::new(lease);
    let spoken = tokio::select! {
        biased;
        spoken = timeout(listen.idle_timeout, protocol(&stream)) => spoken,
        // A connection on which nothing was said yet does not hold up the end.
        _ = phase.wait_for(|p| *p != Phase::Serving) => return,
    };
    match spoken {
        Ok(Some(Spoken::Http1)) => serve_http1(proxy, stream, peer, lease, phase).await,
        Ok(Some(Spoken::Http2)) => Box::pin(serve_http2(proxy, stream, peer, lease, phase)).await,
        Ok(None) | Err(_) => {}
    }
}

enum Spoken {
    Http1,
    Http2,
}

/// Which protocol a client begins with: HTTP/2 with prior knowledge has a preface (RFC 9113 section 3.4).
async fn protocol(stream: &TcpStream) -> Option<Spoken> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut first = [0; PREFACE.len()];
    loop {
        let n = stream.peek(&mut first).await.ok()?;
        if n == 0 {
            return None;
        }
        if first[..n] != PREFACE[..n] {
            return Some(Spoken::Http1);
        }
        if n == PREFACE.len() {
            return Some(Spoken::Http2);
        }
        // So far it could be either; peeking again returns at once, so give the rest a moment to arrive.
        sleep(Duration::from_millis(5)).await;
    }
}

async fn serve_http1(
    proxy: &Arc<Proxy>,
    stream: TcpStream,
    peer: Arc<Peer>,
    lease: Arc<Lease>,
    phase: watch::Receiver<Phase>,
) {
    let listen = &proxy.core.config.listen;
    let (stream, ambiguous) = Guarded::new(stream, listen.header_timeout, proxy.upstream.settings().idle_timeout);
    let outlet = Outlet::new(proxy.core.clock.clone());
    let in_use = Arc::new(());
    let stream = stream.with_outlet(outlet.clone()).with_idle(listen.idle_timeout, in_use.clone());
    let from = Arc::new(Connection { peer, ambiguous, outlet: Some(outlet), lease, in_use });
    let service = service_fn(|request: Request<Incoming>| proxy.handle(request, &from));
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(usize::try_from(listen.max_header).unwrap_or(usize::MAX).max(8192))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    told(proxy, serve(pin!(connection), phase, |connection| connection.graceful_shutdown()).await);
}

/// Serves a connection to its end, which it is told to come to when the process begins to drain. A select would look at
/// both at each turn of the connection's task, which is at each request: the phase is looked at only when it has changed.
async fn serve<C: Future>(
    mut connection: Pin<&mut C>,
    mut phase: watch::Receiver<Phase>,
    shut_down: impl FnOnce(Pin<&mut C>),
) -> C::Output {
    let changes = phase.clone();
    let mut draining = pin!(phase.wait_for(|p| *p != Phase::Serving));
    // A task has one waker all its life, so that what is registered once stays so until it is woken.
    let mut registered = false;
    let done = poll_fn(|cx| {
        if let Poll::Ready(done) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        if registered && !changes.has_changed().unwrap_or(true) {
            return Poll::Pending;
        }
        registered = true;
        draining.as_mut().poll(cx).map(|_| None)
    })
    .await;
    match done {
        Some(done) => done,
        None => {
            shut_down(connection.as_mut());
            connection.await
        }
    }
}

async fn serve_http2(
    proxy: &Arc<Proxy>,
    stream: TcpStream,
    peer: Arc<Peer>,
    lease: Arc<Lease>,
    phase: watch::Receiver<Phase>,
) {
    let listen = &proxy.core.config.listen;
    let from = Arc::new(Connection { peer, ambiguous: Arc::default(), outlet: None, lease, in_use: Arc::default() });
    let service = service_fn(|request: Request<Incoming>| proxy.handle(request, &from));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(listen.max_header).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(listen.idle_timeout))
        .keep_alive_timeout(listen.header_timeout)
        .serve_connection(TokioIo::new(Guarded::writes(stream, proxy.upstream.settings().idle_timeout)), service);
    told(proxy, serve(pin!(connection), phase, |connection| connection.graceful_shutdown()).await);
}

fn told(proxy: &Proxy, done: hyper::Result<()>) {
    if let Err(error) = done {
        // The parser has answered with 400, 414 or 431 and closed the connection.
        if error.is_parse() {
            proxy.core.metrics.malformed(MalformedWhat::Request);
        }
        tracing::debug!(%error, "a connection ended early");
    }
}
