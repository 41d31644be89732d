//! The connection to Redis that commands go over: a deadline on each, and a circuit breaker.
//!
//! A [`Link`] is either *usable* (connected; the log may be written) or not, and when usable it is either
//! *trusted* (caught up with the log; entries may be read) or not. Only the follower ([`super::follow`]) makes
//! it usable and trusted; a lost connection or three failures in a row unmake both at once, and from then on
//! no request waits for Redis until the follower has probed it again.
//!
//! In a cluster a command goes to the node that has its key (`cluster.rs`), and is sent on to where the key has
//! moved, within the same deadline. A node that fails is left out alone, as long as it is not the one with the log.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::address::Host;
use super::cluster::Cluster;
use super::connect::Lanes;
use super::refusal::{self, Refusals};
use super::scripts::{self, Script};
use crate::invalidation::Invalidation;
use crate::invalidation::position::LogId;
use crate::metrics::{Command, CommandResult, Metrics};

/// So many failures in a row open the breaker.
const FAILURES_TO_OPEN: u32 = 3;
/// The most entries that the log keeps.
const MAX_LOG: usize = 1_000_000;
/// How often a request may be sent on: to where a key has moved, and once more with the whole script.
const MOST_HOPS: usize = 4;
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

/// A server that commands are sent to.
pub(crate) struct Node {
    name: String,
    lanes: Lanes,
    failures: AtomicU32,
    lost: AtomicBool,
}

impl Node {
    /// What is connected to there; `name` is its address.
    pub(super) fn new(name: String, lanes: impl Into<Lanes>) -> Node {
        Node { name, lanes: lanes.into(), failures: AtomicU32::new(0), lost: AtomicBool::new(false) }
    }
    pub(super) fn name(&self) -> &str {
        &self.name
    }
    /// This thread's connection.
    pub(super) fn connection(&self) -> MultiplexedConnection {
        self.lanes.own()
    }
    /// Whether it gets no commands any more.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

/// What commands go over. Reading the log, which may be large, has a connection of its own, so that it never delays
/// what is on a request's way.
#[derive(Clone)]
pub(crate) struct Connections {
    /// The server that has the log.
    pub(super) home: Arc<Node>,
    /// For reading the log.
    pub(super) log: MultiplexedConnection,
    /// Where entries are elsewhere too.
    pub(super) cluster: Option<Arc<Cluster>>,
}

/// Which server a command is for.
#[derive(Clone, Copy)]
enum For<'k> {
    /// The one that has the log, and is subscribed to; wherever else the log may have gone.
    Home,
    /// The one that has the key, wherever it has gone.
    Key(&'k str),
}

/// Something that can be sent more than once.
enum Request<'r> {
    Command(redis::Cmd),
    Script { script: &'r Script, keys: &'r [&'r str], args: &'r [&'r [u8]] },
}

impl Request<'_> {
    /// The command; with the script's `whole` text if Redis does not know it yet.
    fn command(&self, whole: bool) -> redis::Cmd {
        match self {
            Request::Command(command) => command.clone(),
            Request::Script { script, keys, args } => {
                let mut command = redis::cmd(if whole { "EVAL" } else { "EVALSHA" });
                command.arg(if whole { script.text } else { script.hash.as_str() });
                command.arg(keys.len()).arg(*keys).arg(*args);
                command
            }
        }
    }

    /// Sends it, by way of `node`, to whoever has the key. `last` becomes the node that was asked last.
    async fn send<T: FromRedisValue>(&self, last: &mut Arc<Node>, cluster: Option<&Cluster>) -> Result<T, RedisError> {
        let (mut whole, mut asking, mut hops) = (false, false, 0);
        loop {
            let mut connection = last.connection();
            let command = self.command(whole);
            let answer = if asking {
                let mut both = redis::pipe();
                both.cmd("ASKING").ignore().add_command(command);
                both.query_async::<(T,)>(&mut connection).await.map(|(answer,)| answer)
            } else {
                command.query_async(&mut connection).await
            };
            let Err(error) = answer else { return answer };
            hops += 1;
            if hops > MOST_HOPS {
                return Err(error);
            }
            match (code(&error), cluster) {
                ("NOSCRIPT", _) => whole = true,
                (word @ ("MOVED" | "ASK"), Some(cluster)) => {
                    cluster.changed();
                    let next = redirected(&error, last.name()).and_then(|to| cluster.node_at(&to.to_string()));
                    let Some(next) = next else { return Err(error) };
                    asking = word == "ASK";
                    *last = next;
                }
                _ => return Err(error),
            }
        }
    }
}

/// The word that an error begins with; one in a pipeline has it further behind.
fn code(error: &RedisError) -> &str {
    error.code().unwrap_or_default()
}

/// Where MOVED and ASK of the node `asked` point to. Without a name it is another port of the same host.
fn redirected(error: &RedisError, asked: &str) -> Option<Host> {
    let (name, port) = error.redirect_node()?.0.rsplit_once(':')?;
    let name = if name.is_empty() { asked.rsplit_once(':')?.0 } else { name };
    Some(Host { name: name.trim_matches(['[', ']']).to_owned(), port: port.parse().ok()? })
}

/// The connection for commands. Clone the `Arc` around it.
pub struct Link {
    connections: RwLock<Option<Connections>>,
    trusted: AtomicBool,
    refusals: Refusals,
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
            refusals: Refusals::default(),
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

    /// What a command may take.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
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
        let key = format!("{}{key}", self.names.entries);
        let mut command = redis::cmd("GET");
        command.arg(&key);
        let found: Option<Vec<u8>> = self.run(Command::Get, For::Key(&key), Request::Command(command)).await?;
        Ok(found.map(Bytes::from))
    }

    /// Stores an entry's record for so long.
    pub async fn set(&self, key: &str, record: Bytes, life: Duration) -> Result<(), Unavailable> {
        let key = format!("{}{key}", self.names.entries);
        let mut command = redis::cmd("SET");
        command.arg(&key).arg(&record[..]).arg("PX").arg(crate::clock::millis(life).max(1));
        self.run(Command::Set, For::Key(&key), Request::Command(command)).await
    }

    /// Removes what stands under a key.
    pub async fn remove(&self, key: &str) -> Result<(), Unavailable> {
        let key = format!("{}{key}", self.names.entries);
        let mut command = redis::cmd("UNLINK");
        command.arg(&key);
        self.run(Command::Remove, For::Key(&key), Request::Command(command)).await
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
        let (floor, retain, most) =
            (floor.to_string(), crate::clock::millis(self.retain).to_string(), MAX_LOG.to_string());
        let args = |heard_up_to: &str| -> [Vec<u8>; 7] {
            [&message, &self.origin, &floor, &retain, &self.names.bell, heard_up_to, &most]
                .map(|a| a.as_bytes().to_vec())
        };
        if let Some(heard_up_to) = heard_up_to {
            let heard_key = format!("{}{}", self.names.heard, blake3::hash(message.as_bytes()).to_hex());
            let args = args(&heard_up_to.to_string());
            let args = args.each_ref().map(Vec::as_slice);
            let keys = [self.names.log.as_str(), &heard_key];
            let request = Request::Script { script: &self.append, keys: &keys, args: &args };
            // What was heard before the message can only be compared with what is appended at the same server: where
            // the log has gone elsewhere, the message is logged without de-duplication, twice perhaps.
            match self.run_within(self.deadline, Command::Append, For::Home, request).await {
                Ok(appended) => return Appended::read(appended),
                Err(Failed::Elsewhere) => {}
                Err(Failed::Unavailable) => return Err(Unavailable),
            }
        }
        let args = args("");
        let args = args.each_ref().map(Vec::as_slice);
        let keys = [self.names.log.as_str()];
        let request = Request::Script { script: &self.append, keys: &keys, args: &args };
        Appended::read(self.run(Command::Append, For::Key(&self.names.log), request).await?)
    }

    /// Reads the log after `from`.
    pub(super) async fn read(&self, from: LogId, count: usize) -> Result<Chunk, Unavailable> {
        let (from, count) = (from.to_string(), count.to_string());
        let args = [from.as_bytes(), count.as_bytes(), self.origin.as_bytes()];
        let keys = [self.names.log.as_str()];
        let request = Request::Script { script: &self.read, keys: &keys, args: &args };
        let raw: (String, i64, Vec<(String, Fields)>) =
            self.run_within(READ_DEADLINE, Command::Read, For::Home, request).await.map_err(|_| Unavailable)?;
        let last = raw.0.parse().map_err(|_| Unavailable)?;
        let entries = raw.2.into_iter().filter_map(|(id, fields)| Some((id.parse().ok()?, fields))).collect();
        Ok(Chunk { last, found: raw.1 > 0, entries })
    }

    /// Runs a command on one key, wherever that is.
    pub(super) async fn on_key<T: FromRedisValue>(
        &self,
        command: Command,
        key: &str,
        what: redis::Cmd,
    ) -> Result<T, Unavailable> {
        self.run(command, For::Key(key), Request::Command(what)).await
    }

    /// Runs a script on one key, wherever that is.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        command: Command,
        script: &Script,
        key: &str,
        args: &[&[u8]],
    ) -> Result<T, Unavailable> {
        self.run(command, For::Key(key), Request::Script { script, keys: &[key], args }).await
    }

    /// Asks for a sign of life over the command connection.
    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        self.run(Command::Ping, For::Home, Request::Command(redis::cmd("PING"))).await
    }

    /// Connected: commands may be sent.
    pub(crate) fn connected(&self, connections: Connections) {
        *self.connections.write().unwrap_or_else(PoisonError::into_inner) = Some(connections);
    }

    /// Caught up: entries may be read.
    pub(super) fn trust(&self) {
        self.refusals.clear();
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

    /// What Redis refused within the last minute because of who we are, in words.
    pub fn refused(&self) -> Option<String> {
        self.refusals.last()
    }

    /// Notes what Redis refused to the follower, if it is because of who we are.
    pub(super) fn note_refusal(&self, error: &RedisError, what: &str) {
        if refusal::is_one(error) {
            self.refusals.note(error, what);
        }
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

    async fn run<T: FromRedisValue>(
        &self,
        command: Command,
        to: For<'_>,
        request: Request<'_>,
    ) -> Result<T, Unavailable> {
        self.run_within(self.deadline, command, to, request).await.map_err(|_| Unavailable)
    }

    async fn run_within<T: FromRedisValue>(
        &self,
        deadline: Duration,
        command: Command,
        to: For<'_>,
        request: Request<'_>,
    ) -> Result<T, Failed> {
        let unavailable = || {
            self.metrics.command(command, CommandResult::Unavailable, Duration::ZERO);
            Err(Failed::Unavailable)
        };
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Connections { home, log, cluster }) = connections else { return unavailable() };
        let mut node = match (to, &cluster) {
            (For::Key(key), Some(cluster)) => match cluster.node_of(key.as_bytes()) {
                Some(node) => node,
                None => return unavailable(),
            },
            // Whatever is for the log goes to its own connection when it is a reader's.
            _ if command == Command::Read => Arc::new(Node::new(home.name.clone(), log)),
            _ => home.clone(),
        };
        let began = Instant::now();
        let follow = cluster.as_deref().filter(|_| matches!(to, For::Key(_)));
        let sent = timeout(deadline, request.send(&mut node, follow)).await;
        let (result, answer) = match sent {
            Ok(Ok(answer)) => {
                let counted = if node.name == home.name { &home } else { &node };
                counted.failures.store(0, Ordering::Relaxed);
                (CommandResult::Ok, Ok(answer))
            }
            Ok(Err(error)) => {
                tracing::debug!(command = command.as_str(), node = node.name(), %error, "Redis refused a command");
                (CommandResult::Error, Err(self.refused_by(&node, &home, cluster.as_deref(), command, to, &error)))
            }
            Err(_) => {
                self.failed(&node, &home, cluster.as_deref(), false);
                (CommandResult::Timeout, Err(Failed::Unavailable))
            }
        };
        self.metrics.command(command, result, began.elapsed());
        answer
    }

    /// Draws the conclusions from an error.
    fn refused_by(
        &self,
        node: &Arc<Node>,
        home: &Arc<Node>,
        cluster: Option<&Cluster>,
        command: Command,
        to: For<'_>,
        error: &RedisError,
    ) -> Failed {
        if refusal::is_one(error) {
            self.refusals.note(error, &self.needs(command));
            // It is a sound server that says so: what else we may do there goes on. One that has forgotten who we are
            // is told again.
            self.failed_if(code(error) == "NOAUTH", node, home, cluster);
            return Failed::Unavailable;
        }
        let elsewhere = matches!(code(error), "MOVED" | "ASK" | "TRYAGAIN");
        match (to, cluster) {
            (For::Home, Some(cluster)) if elsewhere => {
                cluster.changed();
                // The log is read where it is, or not at all.
                self.failed_if(command == Command::Read, home, home, Some(cluster));
                Failed::Elsewhere
            }
            // On its way from one node to another, which takes as long as it takes: a miss, and no fault of the node.
            (_, Some(_)) if elsewhere => Failed::Unavailable,
            _ => {
                if elsewhere {
                    self.refusals.note(error, "the URL, which has to be redis+cluster:// for a cluster");
                }
                let for_good = error.is_unrecoverable_error() || error.is_io_error() || lost_its_master(error);
                self.failed(node, home, cluster, for_good);
                Failed::Unavailable
            }
        }
    }

    /// What the user must have to do this, in the words of Redis' ACLs.
    fn needs(&self, command: Command) -> String {
        let Names { entries, log, bell, heard, .. } = &self.names;
        match command {
            Command::Get => format!("GET of {entries}*"),
            Command::Set => format!("SET of {entries}*"),
            Command::Remove => format!("UNLINK of {entries}*"),
            Command::Append => format!(
                "the script that appends (XADD, XINFO, XTRIM, EXISTS and TIME at {log}; HMGET, HSET and PEXPIRE at \
                 {heard}*; PUBLISH on {bell})"
            ),
            Command::Read => format!("the script that reads (XRANGE, XINFO, XADD, EXISTS and TIME at {log})"),
            Command::Lease => format!("a lease (SET, GET, PEXPIRE and DEL of {entries}*, PUBLISH on {entries}*)"),
            Command::Connect => "connecting".to_owned(),
            Command::Ping => "PING".to_owned(),
        }
    }

    fn failed_if(&self, for_good: bool, node: &Arc<Node>, home: &Arc<Node>, cluster: Option<&Cluster>) {
        if for_good {
            self.failed(node, home, cluster, true);
        }
    }

    /// Counts a failure. A node of a cluster is lost alone, and the rest goes on; with home all is.
    fn failed(&self, node: &Arc<Node>, home: &Arc<Node>, cluster: Option<&Cluster>, for_good: bool) {
        // Reading has a node of its own beside home, for its connection: it is home all the same.
        let at_home = node.name == home.name;
        let counted = if at_home { home } else { node };
        let failures = counted.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if !for_good && failures < FAILURES_TO_OPEN {
            return;
        }
        match cluster {
            Some(cluster) if !at_home => {
                if !node.lost.swap(true, Ordering::Relaxed) {
                    tracing::warn!(node = node.name(), "a node of the Redis cluster is away: its entries are missed");
                }
                cluster.changed();
            }
            _ => {
                self.down();
                self.wake();
            }
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    Unavailable,
    /// The key is not, or not as a whole, at the server that was asked, and only that one would do.
    Elsewhere,
}

impl From<Failed> for Unavailable {
    fn from(_: Failed) -> Unavailable {
        Unavailable
    }
}

impl Appended {
    fn read((id, previous): (String, String)) -> Result<Appended, Unavailable> {
        match (id.parse(), previous.parse()) {
            (Ok(id), Ok(previous)) => Ok(Appended { id, previous }),
            _ => Err(Unavailable),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_key_has_moved_is_read_in_each_form_that_redis_writes() {
        for (line, wanted) in [
            ("MOVED 7 10.0.0.1:6379", "10.0.0.1:6379"),
            ("ASK 7 node.example:6379", "node.example:6379"),
            ("MOVED 7 ::1:6379", "[::1]:6379"),
            ("MOVED 7 :6379", "asked:6379"),
        ] {
            let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
            let error = answer.extract_error().unwrap_err();
            assert_eq!(redirected(&error, "asked:1").map(|to| to.to_string()).as_deref(), Some(wanted), "{line}");
        }
    }
}
