//! The load of the benchmarks (`benches/run.py`) where wrk can't do it; it prints one line of JSON.
//!
//!   load run --to 127.0.0.1:PORT --path /b/1024/{} …    requests: one after the other on each connection, or at a
//!                                                      fixed rate; with --redis, GETs of a key of Redis
//!   load idle --to 127.0.0.1:PORT --path /b/64/1 …      opens connections, asks once on each, and keeps them open
//!                                                      until its input ends

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::{Args, Parser};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// What comes after the time is over is waited for so long, and then counted as failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a connection is tried, a fiftieth of a second apart.
const CONNECT_TRIES: u32 = 50;

#[derive(Parser)]
enum Mode {
    /// Makes requests and says how long they took.
    Run(Run),
    /// Opens connections and keeps them.
    Idle(Target),
}

#[derive(Args, Clone)]
struct Target {
    /// The server.
    #[arg(long)]
    to: SocketAddr,
    /// The path, or with --redis the key; `{}` is the number of the key. With several, keys take them in turn.
    #[arg(long, required = true)]
    path: Vec<String>,
    /// Connections, all opened before the first request.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Speak to Redis.
    #[arg(long)]
    redis: bool,
}

#[derive(Args, Clone)]
struct Run {
    #[command(flatten)]
    target: Target,
    /// Requests a second, whatever the answers do; without it, as fast as they come.
    #[arg(long)]
    rate: Option<f64>,
    /// For so long …
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// … and at most so many requests.
    #[arg(long, default_value_t = u64::MAX)]
    count: u64,
    /// The number of the first key.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many keys there are before the first comes again.
    #[arg(long, default_value_t = u64::MAX)]
    keys: u64,
    /// In no order.
    #[arg(long)]
    random: bool,
}

/// What all connections share.
struct Shared {
    run: Run,
    begin: Cell<Instant>,
    issued: Cell<u64>,
    seed: Cell<u64>,
    bytes: Cell<u64>,
    errors: Cell<u64>,
    status: RefCell<BTreeMap<u16, u64>>,
    /// Tenths of microseconds.
    latency: RefCell<Vec<u32>>,
    first_byte: RefCell<Vec<u32>>,
}

impl Shared {
    /// The next request's number, and its due time at a fixed rate.
    fn next(&self) -> Option<(u64, Option<Instant>)> {
        let (n, begin) = (self.issued.get(), self.begin.get());
        let due = self.run.rate.map(|rate| begin + Duration::from_secs_f64(n as f64 / rate));
        let over = due.unwrap_or_else(Instant::now) >= begin + Duration::from_secs_f64(self.run.seconds);
        if n >= self.run.count || over {
            return None;
        }
        self.issued.set(n + 1);
        Some((n, due))
    }

    fn key(&self, n: u64) -> u64 {
        if !self.run.random {
            return self.run.first + n % self.run.keys;
        }
        // xorshift: any sequence without a pattern will do.
        let mut x = self.seed.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.seed.set(x);
        self.run.first + x % self.run.keys
    }
}

/// The request for a key, as bytes.
fn request(target: &Target, key: u64, into: &mut Vec<u8>) {
    into.clear();
    let path = target.path[(key % target.path.len() as u64) as usize].replace("{}", &key.to_string());
    let _ = match target.redis {
        true => write!(into, "*2\r\n$3\r\nGET\r\n${}\r\n{path}\r\n", path.len()),
        false => write!(into, "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", target.to),
    };
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// How many bytes the response has that begins so, and its status; nothing until that can be said.
fn extent(redis: bool, read: &[u8]) -> io::Result<Option<(usize, u16)>> {
    let end: &[u8] = if redis { b"\r\n" } else { b"\r\n\r\n" };
    let Some(head) = read.windows(end.len()).position(|w| w == end) else { return Ok(None) };
    let text = std::str::from_utf8(&read[..head]).map_err(|_| broken("a head that is not text"))?;
    let whole = head + end.len();
    if redis {
        let length: usize = text.strip_prefix('$').and_then(|n| n.parse().ok()).ok_or_else(|| broken(text))?;
        return Ok(Some((whole + length + 2, 200)));
    }
    let status = text.get(9..12).and_then(|s| s.parse().ok()).ok_or_else(|| broken(text))?;
    let length =
        text.split("\r\n").filter_map(|l| l.split_once(':')).find(|(n, _)| n.eq_ignore_ascii_case("content-length"));
    let length: usize = length.and_then(|(_, v)| v.trim().parse().ok()).ok_or_else(|| broken("no content-length"))?;
    Ok(Some((whole + length, status)))
}

struct Answer {
    status: u16,
    bytes: usize,
    first: Instant,
}

async fn ask(stream: &mut TcpStream, redis: bool, request: &[u8], buffer: &mut [u8]) -> io::Result<Answer> {
    stream.write_all(request).await?;
    let (mut held, mut first) = (0, None);
    // The head is kept until it is whole; of the body only the length counts.
    let (whole, status) = loop {
        let n = stream.read(&mut buffer[held..]).await?;
        if n == 0 {
            return Err(broken("closed, or a head larger than the buffer"));
        }
        first.get_or_insert_with(Instant::now);
        held += n;
        if let Some(found) = extent(redis, &buffer[..held])? {
            break found;
        }
    };
    while held < whole {
        match stream.read(buffer).await? {
            0 => return Err(broken("closed within a body")),
            n => held += n,
        }
    }
    Ok(Answer { status, bytes: whole, first: first.unwrap_or_else(Instant::now) })
}

/// Tries again for a while: a queue of connections may be full for a moment when very many come.
async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let mut tries = 0;
    loop {
        match TcpStream::connect(to).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) if tries == CONNECT_TRIES => return Err(e),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
        tries += 1;
    }
}

async fn drive(shared: Rc<Shared>, ready: Rc<Barrier>) -> io::Result<()> {
    let target = &shared.run.target;
    let (mut words, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let connected = connect(target.to).await;
    if ready.wait().await.is_leader() {
        shared.begin.set(Instant::now());
    }
    let mut stream = connected?;
    while let Some((n, due)) = shared.next() {
        request(target, shared.key(n), &mut words);
        // At a fixed rate, what is late because all connections were busy counts from when it was due; what is late
        // because the timer was is none of the server's.
        let began = match due {
            Some(due) if due > Instant::now() => {
                sleep_until(due).await;
                Instant::now()
            }
            Some(due) => due,
            None => Instant::now(),
        };
        match ask(&mut stream, target.redis, &words, &mut buffer).await {
            Ok(answer) => {
                let tenths = |d: Duration| (d.as_nanos() / 100).min(u128::from(u32::MAX)) as u32;
                shared.latency.borrow_mut().push(tenths(began.elapsed()));
                shared.first_byte.borrow_mut().push(tenths(answer.first - began));
                shared.bytes.set(shared.bytes.get() + answer.bytes as u64);
                *shared.status.borrow_mut().entry(answer.status).or_default() += 1;
            }
            Err(_) => {
                shared.errors.set(shared.errors.get() + 1);
                stream = connect(target.to).await?;
            }
        }
    }
    Ok(())
}

/// Quantiles in microseconds.
fn quantiles(tenths: &mut [u32]) -> Value {
    tenths.sort_unstable();
    let at = |q: f64| {
        let index = ((tenths.len() as f64 * q).ceil() as usize).saturating_sub(1);
        tenths.get(index).map_or(0.0, |t| f64::from(*t) / 10.0)
    };
    json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0)})
}

async fn run(run: Run) -> Value {
    let (connections, seconds) = (run.target.connections, run.seconds);
    let now = Instant::now();
    let shared = Rc::new(Shared {
        run,
        begin: Cell::new(now),
        issued: Cell::default(),
        seed: Cell::new(0x9E37_79B9_7F4A_7C15),
        bytes: Cell::default(),
        errors: Cell::default(),
        status: RefCell::default(),
        latency: RefCell::default(),
        first_byte: RefCell::default(),
    });
    let ready = Rc::new(Barrier::new(connections));
    let tasks: Vec<_> =
        (0..connections).map(|_| tokio::task::spawn_local(drive(shared.clone(), ready.clone()))).collect();
    let all = async {
        for task in tasks {
            if !matches!(task.await, Ok(Ok(()))) {
                shared.errors.set(shared.errors.get() + 1);
            }
        }
    };
    let _ = timeout(Duration::from_secs_f64(seconds) + PATIENCE, all).await;
    let took = shared.begin.get().elapsed().as_secs_f64();
    let answered = shared.latency.borrow().len() as u64;
    json!({
        "requests": answered,
        // What was asked and never answered failed too.
        "errors": shared.errors.get().max(shared.issued.get() - answered),
        "status": *shared.status.borrow(),
        "bytes": shared.bytes.get(),
        "seconds": took,
        "rate": answered as f64 / took,
        "latency": quantiles(&mut shared.latency.borrow_mut()),
        "first_byte": quantiles(&mut shared.first_byte.borrow_mut()),
    })
}

async fn idle(target: &Target) -> (Vec<TcpStream>, Value) {
    let (mut open, mut errors) = (Vec::new(), 0);
    let (mut words, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    for key in 1..=target.connections as u64 {
        request(target, key, &mut words);
        let asked = async {
            let mut stream = connect(target.to).await?;
            ask(&mut stream, target.redis, &words, &mut buffer).await.map(|_| stream)
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(stream)) => open.push(stream),
            _ => errors += 1,
        }
        if errors > 10 {
            break;
        }
    }
    let said = json!({"open": open.len(), "errors": errors});
    (open, said)
}

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        match Mode::parse() {
            Mode::Run(arguments) => println!("{}", run(arguments).await),
            Mode::Idle(target) => {
                let (open, said) = idle(&target).await;
                println!("{said}");
                io::stdin().read_line(&mut String::new())?;
                drop(open);
            }
        }
        Ok(())
    })
}
