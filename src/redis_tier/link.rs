//! The connection to Redis that commands go over: a deadline on each, and a circuit breaker.
//!
//! A [`Link`] is either *usable* (connected; the log may be written) or not, and when usable it is either
//! *trusted* (caught up with the log; entries may be read) or not. Only the follower ([`super::follow`]) makes
//! it usable and trusted; a lost connection or three failures in a row unmake both at once, and from then on
//! no request waits for Redis until the follower has probed it again.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError, Script};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::scripts;
use crate::invalidation::Invalidation;
use crate::invalidation::position::LogId;
use crate::metrics::{Command, CommandResult, Metrics};

/// So many failures in a row open the breaker.
const FAILURES_TO_OPEN: u32 = 3;
/// The most entries that the log keeps.
const MAX_LOG: usize = 1_000_000;
/// What reading a part of the log may take: it is on no request's way, and entries may be large.
const READ_DEADLINE: Duration = Duration::from_secs(1);

/// The names of everything this proxy has in Redis.
#[derive(Clone, Debug)]
pub struct Names {
    /// Before every entry's key: `asidecar:`.
    pub entries: String,
    /// The invalidation log, a stream: `{asidecar}:log`.
    pub log: String,
    /// The channel on which appends to the log are announced: `{asidecar}:bell`.
    pub bell: String,
    /// Before the de-duplication keys of published messages: `{asidecar}:heard:`.
    pub heard: String,
    /// The channel on which anybody may invalidate.
    pub channel: String,
}

impl Names {
    /// The names under a namespace. The braces put the log's keys on one slot of a cluster.
    pub fn new(namespace: &str, channel: &str) -> Names {
        Names {
            entries: format!("{namespace}:"),
            log: format!("{{{namespace}}}:log"),
            bell: format!("{{{namespace}}}:bell"),
            heard: format!("{{{namespace}}}:heard:"),
            channel: channel.to_string(),
        }
    }
}

/// Redis did not answer, or answered with an error: the caller goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// An invalidation that is in the log.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    /// Its id.
    pub id: LogId,
    /// The id of the entry before it.
    pub previous: LogId,
}

/// Two connections, so that reading the log, which may be large, never delays what is on a request's way.
#[derive(Clone)]
pub(crate) struct Connections {
    /// For entries, appends and signs of life.
    pub(crate) commands: MultiplexedConnection,
    /// For reading the log.
    pub(crate) log: MultiplexedConnection,
}

/// The connection for commands. Clone the `Arc` around it.
pub struct Link {
    connections: RwLock<Option<Connections>>,
    trusted: AtomicBool,
    failures: AtomicU32,
    wake: Notify,
    deadline: Duration,
    retain: Duration,
    names: Names,
    /// Who this instance is, in the log.
    origin: String,
    append: Script,
    read: Script,
    metrics: Arc<Metrics>,
}

impl Link {
    /// A link that is not connected yet.
    pub fn new(names: Names, origin: String, deadline: Duration, retain: Duration, metrics: Arc<Metrics>) -> Link {
        Link {
            connections: RwLock::new(None),
            trusted: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            wake: Notify::new(),
            deadline,
            retain,
            names,
            origin,
            append: Script::new(scripts::APPEND),
            read: Script::new(scripts::READ),
            metrics,
        }
    }

    /// The names in Redis.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Who this instance is, in the log.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether entries may be read.
    pub fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Acquire)
    }

    /// Reads an entry's record.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, Unavailable> {
        if !self.is_trusted() {
            self.metrics.command(Command::Get, CommandResult::Unavailable, Duration::ZERO);
            return Err(Unavailable);
        }
        let mut command = redis::cmd("GET");
        command.arg(format!("{}{key}", self.names.entries));
        let found: Option<Vec<u8>> =
            self.run(Command::Get, |mut c| async move { command.query_async(&mut c).await }).await?;
        Ok(found.map(Bytes::from))
    }

    /// Stores an entry's record for so long.
    pub async fn set(&self, key: &str, record: Bytes, life: Duration) -> Result<(), Unavailable> {
        let mut command = redis::cmd("SET");
        command.arg(format!("{}{key}", self.names.entries)).arg(&record[..]);
        command.arg("PX").arg(crate::clock::millis(life).max(1));
        self.run(Command::Set, |mut c| async move { command.query_async(&mut c).await }).await
    }

    /// Removes what stands under a key.
    pub async fn remove(&self, key: &str) -> Result<(), Unavailable> {
        let mut command = redis::cmd("UNLINK");
        command.arg(format!("{}{key}", self.names.entries));
        self.run(Command::Remove, |mut c| async move { command.query_async(&mut c).await }).await
    }

    /// Appends to the log. `floor` is the newest id that this instance has seen; `heard_up_to` asks for
    /// de-duplication, see `scripts.rs`.
    pub async fn append(
        &self,
        what: &Invalidation,
        floor: LogId,
        heard_up_to: Option<LogId>,
    ) -> Result<Appended, Unavailable> {
        let message = what.to_json();
        let heard_key = format!("{}{}", self.names.heard, blake3::hash(message.as_bytes()).to_hex());
        let mut call = self.append.prepare_invoke();
        call.key(&self.names.log).key(heard_key);
        call.arg(message).arg(&self.origin).arg(floor.to_string()).arg(crate::clock::millis(self.retain));
        call.arg(&self.names.bell).arg(heard_up_to.map(|h| h.to_string()).unwrap_or_default()).arg(MAX_LOG);
        let (id, previous): (String, String) =
            self.run(Command::Append, |mut c| async move { call.invoke_async(&mut c).await }).await?;
        match (id.parse(), previous.parse()) {
            (Ok(id), Ok(previous)) => Ok(Appended { id, previous }),
            _ => Err(Unavailable),
        }
    }

    /// Reads the log after `from`.
    pub(super) async fn read(&self, from: LogId, count: usize) -> Result<Chunk, Unavailable> {
        let mut call = self.read.prepare_invoke();
        call.key(&self.names.log).arg(from.to_string()).arg(count).arg(&self.origin);
        let raw: (String, i64, Vec<(String, Fields)>) = self
            .run_within(READ_DEADLINE, Command::Read, |mut c| async move { call.invoke_async(&mut c).await })
            .await?;
        let last = raw.0.parse().map_err(|_| Unavailable)?;
        let entries = raw.2.into_iter().filter_map(|(id, fields)| Some((id.parse().ok()?, fields))).collect();
        Ok(Chunk { last, found: raw.1 > 0, entries })
    }

    /// Asks for a sign of life over the command connection.
    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        self.run(Command::Ping, |mut c| async move { redis::cmd("PING").query_async(&mut c).await }).await
    }

    /// Connected: commands may be sent.
    pub(crate) fn connected(&self, connections: Connections) {
        self.failures.store(0, Ordering::Relaxed);
        *self.connections.write().unwrap_or_else(PoisonError::into_inner) = Some(connections);
    }

    /// Caught up: entries may be read.
    pub(super) fn trust(&self) {
        self.trusted.store(true, Ordering::Release);
        self.metrics.redis_up.set(1);
        self.metrics.redis_breaker_open.set(0);
    }

    /// Not usable any more.
    pub(super) fn down(&self) {
        self.trusted.store(false, Ordering::Release);
        *self.connections.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.metrics.redis_up.set(0);
        self.metrics.redis_breaker_open.set(1);
    }

    /// Whether there is a connection.
    pub(super) fn is_usable(&self) -> bool {
        self.connections.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Asks the follower to look after the connection now.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until somebody asked for it.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Counts a command of the follower's own connections.
    pub(super) fn count(&self, command: Command, result: CommandResult, took: Duration) {
        self.metrics.command(command, result, took);
    }

    pub(super) async fn run<T, F>(
        &self,
        command: Command,
        send: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, Unavailable>
    where
        T: FromRedisValue,
        F: Future<Output = Result<T, RedisError>>,
    {
        self.run_within(self.deadline, command, send).await
    }

    async fn run_within<T, F>(
        &self,
        deadline: Duration,
        command: Command,
        send: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, Unavailable>
    where
        T: FromRedisValue,
        F: Future<Output = Result<T, RedisError>>,
    {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner).clone();
        let connection = connections.map(|c| if command == Command::Read { c.log } else { c.commands });
        let Some(connection) = connection else {
            self.metrics.command(command, CommandResult::Unavailable, Duration::ZERO);
            return Err(Unavailable);
        };
        let began = Instant::now();
        let (result, answer) = match timeout(deadline, send(connection)).await {
            Ok(Ok(answer)) => {
                self.failures.store(0, Ordering::Relaxed);
                (CommandResult::Ok, Ok(answer))
            }
            Ok(Err(error)) => {
                tracing::debug!(command = command.as_str(), %error, "Redis refused a command");
                self.failed(error.is_unrecoverable_error() || error.is_io_error() || lost_its_master(&error));
                (CommandResult::Error, Err(Unavailable))
            }
            Err(_) => {
                self.failed(false);
                (CommandResult::Timeout, Err(Unavailable))
            }
        };
        self.metrics.command(command, result, began.elapsed());
        answer
    }

    fn failed(&self, for_good: bool) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if for_good || failures >= FAILURES_TO_OPEN {
            self.down();
            self.wake();
        }
    }
}

/// Answers of a server that is up but of no use: a replica after a failover, or one that is still loading.
fn lost_its_master(error: &RedisError) -> bool {
    matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN"))
}

/// An entry's fields, as the stream holds them.
pub(crate) type Fields = Vec<(String, Vec<u8>)>;

/// A part of the log, as it was read.
pub(crate) struct Chunk {
    /// The stream's last generated id.
    pub last: LogId,
    /// Whether the id that was read from is still in the stream.
    pub found: bool,
    /// The entries after it, with their fields.
    pub entries: Vec<(LogId, Fields)>,
}
