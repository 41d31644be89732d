//! The follower: the one task that connects to Redis, subscribes, reads the log, and says when Redis may be
//! trusted.
//!
//! Its order on every (re)connection is what makes an instance that was away safe: subscribe, append what is
//! pending, catch up with the stream, and only then trust Redis's entries again. While connected it hears the
//! bell, reads the log on every gap and at every heartbeat (which also finds what others appended without
//! ringing), and logs what third parties publish.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Msg, RedisError};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::connect::{Connector, Lost, Opened, within};
use super::link::{Chunk, Link, Unavailable};
use crate::invalidation::log::{InvalidationLog, Logged};
use crate::invalidation::position::LogId;
use crate::invalidation::table::{HorizonReason, Step};
use crate::invalidation::{Invalidation, Source};
use crate::metrics::{Command, CommandResult, MalformedWhat, Metrics};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// So long an instance may need to find a Redis that is back: it had just begun to connect in vain, sleeps for the
/// longest time (`LAST_RETRY` and half of it), and connects.
const ALL_ARE_BACK: Duration = Duration::from_secs(5);
/// Entries read from the log at a time: at first, and at most. Entries may be large; so reading speeds up while
/// it is quick and slows down when it is not, and neither Redis nor this thread is busy with it for long.
const FIRST_CHUNK: usize = 16;
const LARGEST_CHUNK: usize = 512;
const QUICK: Duration = Duration::from_millis(5);
/// Answers within the commands' deadline before a Redis is trusted (again).
const PROBES: usize = 3;
/// Malformed messages are logged at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

impl From<Unavailable> for Lost {
    fn from(_: Unavailable) -> Lost {
        Lost::Commands
    }
}

/// Follows the log for as long as the process lives; never returns.
pub struct Follower {
    /// What connects.
    pub connector: Arc<Connector>,
    /// What the rest of the proxy uses of the connection.
    pub link: Arc<Link>,
    /// What is read goes here.
    pub log: Arc<InvalidationLog>,
    /// How often the subscription is checked.
    pub heartbeat: Duration,
    /// Where malformed messages are counted.
    pub metrics: Arc<Metrics>,
}

impl Follower {
    /// Connects, follows, and begins again with backoff and jitter whenever the connection is lost.
    pub async fn run(self) {
        let mut retry = FIRST_RETRY;
        let mut started = false;
        let mut told = false;
        loop {
            let lost = match self.session(&mut started, &mut told).await {
                Ok(never) => match never {},
                Err(lost) => lost,
            };
            self.link.down();
            self.log.overdue();
            if let Lost::Refused(error) | Lost::RefusedAt(_, error) = &lost {
                self.link.note_refusal(error, &format!("connecting to {}", self.connector.address()));
            }
            // A session that came to be trusted begins anew; others may be waiting for what this one has to log.
            if !told {
                retry = FIRST_RETRY;
            }
            if !told {
                tracing::warn!(cause = %lost, "Redis is away: serving from memory and upstream until it is back");
                told = true;
            }
            sleep(retry.mul_f64(0.5 + fraction())).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    async fn session(&self, started: &mut bool, told: &mut bool) -> Result<std::convert::Infallible, Lost> {
        let (opened, mut sink, mut stream) = self.connect().await?;
        for _ in 0..PROBES {
            self.link.ping().await?;
        }
        if !self.log.flush_pending(&self.link).await {
            return Err(Lost::Commands);
        }
        if !*started {
            self.begin().await?;
            *started = true;
        }
        let asked = self.log.now();
        self.catch_up().await?;
        if *told {
            self.log.back(ALL_ARE_BACK);
        }
        self.log.heard(asked);
        self.link.trust();
        if *told {
            tracing::info!("Redis is back");
        }
        *told = false;

        let (connector, names) = (self.connector.clone(), self.link.names().clone());
        let watch = tokio::spawn(async move { connector.watch(&opened, &names).await });
        let _ends_with_the_session = Ends(watch.abort_handle());
        tokio::pin!(watch);
        let mut heard_up_to = self.log.position().id;
        let mut complaints = Complaints::default();
        let mut beat = interval(self.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.next() => {
                    let message = message.ok_or(Lost::Closed)?;
                    // No sign of being up to date: others may wait behind it, when this process stood still.
                    self.message(&message, &mut heard_up_to, &mut complaints).await?;
                }
                _ = beat.tick() => {
                    sink = self.beat(sink, &mut stream, &mut heard_up_to, &mut complaints).await?;
                }
                moved = &mut watch => return Err(moved.unwrap_or(Lost::Closed)),
                () = self.link.woken() => {
                    if !self.link.is_usable() || !self.log.flush_pending(&self.link).await {
                        return Err(Lost::Commands);
                    }
                }
            }
        }
    }

    /// Connects and subscribes at home: announcements and messages come in the order in which they are made there,
    /// which de-duplication builds upon.
    async fn connect(&self) -> Result<(Opened, PubSubSink, PubSubStream), Lost> {
        let began = Instant::now();
        let names = self.link.names();
        let connected = async {
            let opened = self.connector.open(names, self.link.deadline()).await?;
            let (mut sink, stream) = within("connecting", opened.dialer.subscriber(&opened.home)).await?.split();
            within("SUBSCRIBE", sink.subscribe(&[names.bell.as_str(), names.channel.as_str()])).await?;
            Ok((opened, sink, stream))
        };
        let connected = connected.await;
        let result = match &connected {
            Ok((opened, ..)) => {
                self.link.connected(opened.connections.clone());
                CommandResult::Ok
            }
            Err(Lost::TooSlow(_)) => CommandResult::Timeout,
            Err(_) => CommandResult::Error,
        };
        self.link.count(Command::Connect, result, began.elapsed());
        connected
    }

    /// A PING over the subscription, whose messages go on being read meanwhile; then the log, for what came
    /// without a ring of the bell.
    async fn beat(
        &self,
        mut sink: PubSubSink,
        stream: &mut PubSubStream,
        heard_up_to: &mut LogId,
        complaints: &mut Complaints,
    ) -> Result<PubSubSink, Lost> {
        let (began, asked) = (Instant::now(), self.log.now());
        let ping = timeout(self.heartbeat, async {
            let answer: Result<redis::Value, RedisError> = sink.ping().await;
            (sink, answer)
        });
        tokio::pin!(ping);
        let sink = loop {
            tokio::select! {
                answer = &mut ping => match answer {
                    Ok((sink, Ok(_))) => break sink,
                    Ok((_, Err(e))) => return Err(Lost::Refused(e)),
                    Err(_) => return Err(Lost::TooSlow("the heartbeat")),
                },
                message = stream.next() => {
                    let message = message.ok_or(Lost::Closed)?;
                    self.message(&message, heard_up_to, complaints).await?;
                }
            }
        };
        self.link.count(Command::Ping, CommandResult::Ok, began.elapsed());
        if !self.log.flush_pending(&self.link).await {
            return Err(Lost::Commands);
        }
        self.catch_up().await?;
        self.log.overdue();
        self.log.heard(asked);
        Ok(sink)
    }

    async fn message(&self, message: &Msg, heard_up_to: &mut LogId, complaints: &mut Complaints) -> Result<(), Lost> {
        let payload = message.get_payload_bytes();
        if message.get_channel_name() == self.link.names().bell {
            let Some(ring) = Ring::parse(payload) else {
                self.metrics.malformed(MalformedWhat::LogEntry);
                return self.catch_up().await;
            };
            *heard_up_to = (*heard_up_to).max(ring.id);
            let step = self.log.applied(ring.id, ring.previous, &ring.what);
            if step != Step::Known && ring.origin != self.link.origin() && names(&ring.what) {
                self.metrics.invalidation(Source::Log, ring.what.scope());
            }
            match step {
                Step::Applied | Step::Known => {}
                Step::Gap { .. } => {
                    self.metrics.log_gaps.inc();
                    self.catch_up().await?;
                }
                Step::Forked => {
                    self.log.invalidate(Invalidation::all(), Source::Log).await;
                }
            }
            return Ok(());
        }
        match Invalidation::parse(payload) {
            Ok(what) => {
                self.log.invalidate_heard(what, *heard_up_to).await;
            }
            Err(malformed) => {
                self.metrics.malformed(MalformedWhat::Message);
                complaints.tell(&malformed, &self.link.names().channel);
            }
        }
        Ok(())
    }

    /// The first reading: the horizon is the oldest entry's predecessor; a marker begins a stream anew, and is
    /// the horizon itself.
    async fn begin(&self) -> Result<(), Lost> {
        let chunk = self.link.read(LogId::ZERO, 1).await?;
        let Some((id, fields)) = chunk.entries.first() else {
            self.log.start(chunk.last);
            return Ok(());
        };
        let entry = LogEntry::read(fields);
        let horizon = match (entry.begins, entry.previous) {
            (false, Some(previous)) => previous,
            _ => *id,
        };
        self.log.start(horizon);
        Ok(())
    }

    /// Reads the log from the last id applied to its end, making sure of each chunk that this id is on the chain:
    /// the stream may be trimmed between two.
    async fn catch_up(&self) -> Result<(), Lost> {
        let mut count = FIRST_CHUNK;
        loop {
            // Before it is read: what is applied meanwhile need not be in what was read.
            let (last, newest) = (self.log.position().id, self.log.newest());
            let began = Instant::now();
            let chunk = self.link.read(last, count).await?;
            let quick = began.elapsed() < QUICK;
            match on_chain(last, newest, &chunk) {
                Chain::Whole => {}
                Chain::Broken => {
                    self.log.broken(chunk.last, HorizonReason::Broken);
                    continue;
                }
                Chain::RolledBack => {
                    self.log.broken(chunk.last, HorizonReason::RolledBack);
                    self.tell_everybody().await?;
                    continue;
                }
            }
            let read = chunk.entries.len();
            for (id, fields) in chunk.entries {
                if self.apply(id, &fields) == Step::Forked {
                    self.tell_everybody().await?;
                }
            }
            if read < count {
                return Ok(());
            }
            count = if quick { (2 * count).min(LARGEST_CHUNK) } else { (count / 2).max(1) };
        }
    }

    /// The log went back: others may not know what was lost, so everything goes, for everybody. Where that can't be
    /// logged, the next session does it before it trusts anything.
    async fn tell_everybody(&self) -> Result<(), Lost> {
        match self.log.invalidate(Invalidation::all(), Source::Log).await {
            Logged::At(_) => Ok(()),
            Logged::Pending => Err(Lost::Commands),
        }
    }

    fn apply(&self, id: LogId, fields: &[(String, Vec<u8>)]) -> Step {
        let entry = LogEntry::read(fields);
        if entry.what.is_none() {
            self.metrics.malformed(MalformedWhat::LogEntry);
            tracing::warn!(%id, "an entry of the invalidation log can't be read: everything is invalidated");
        }
        let step = self.log.applied_next(id, entry.what.as_ref());
        let new = step == Step::Applied;
        if let Some(what) = entry
            .what
            .filter(|what| new && names(what) && !entry.begins && entry.origin != self.link.origin().as_bytes())
        {
            self.metrics.invalidation(Source::Log, what.scope());
        }
        step
    }
}

/// Whether an entry invalidates something, and is no announcement of a write or its end alone.
fn names(what: &Invalidation) -> bool {
    what.intent.is_none() && !what.is_empty()
}

/// How the last id applied lies to what was read after it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chain {
    /// Nothing is missing between the two.
    Whole,
    /// What came after it is not there any more, or the stream was begun anew.
    Broken,
    /// The stream ends before it, or went on from before it.
    RolledBack,
}

/// `newest` is the newest id that was known before the chunk was read, `last` or beyond it.
pub(crate) fn on_chain(last: LogId, newest: LogId, chunk: &Chunk) -> Chain {
    let next = chunk.entries.first().map(|(_, fields)| LogEntry::read(fields));
    match next {
        _ if chunk.last < newest => Chain::RolledBack,
        _ if chunk.found => Chain::Whole,
        None if chunk.last == last => Chain::Whole,
        Some(next) if !next.begins && next.previous == Some(last) => Chain::Whole,
        // It went back and has grown another way since.
        Some(next) if !next.begins && next.previous.is_some_and(|p| p < last) => Chain::RolledBack,
        _ => Chain::Broken,
    }
}

/// An entry of the stream.
struct LogEntry<'f> {
    /// Who appended it.
    origin: &'f [u8],
    previous: Option<LogId>,
    /// It is the marker that begins a stream.
    begins: bool,
    /// `None`: of a newer format, or malformed.
    what: Option<Invalidation>,
}

impl LogEntry<'_> {
    fn read(fields: &[(String, Vec<u8>)]) -> LogEntry<'_> {
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_slice());
        let previous = field("p").and_then(|p| std::str::from_utf8(p).ok()?.parse().ok());
        let begins = field("k") == Some(b"begin");
        let known = field("v").is_none_or(|v| v == b"1");
        let what = match field("m") {
            _ if !known => None,
            _ if begins => Some(Invalidation::default()),
            Some(message) => Invalidation::parse_logged(message).ok(),
            None => None,
        };
        LogEntry { origin: field("o").unwrap_or_default(), previous, begins, what }
    }
}

/// An announcement: `id previous origin message`.
struct Ring<'p> {
    id: LogId,
    previous: LogId,
    origin: &'p str,
    what: Invalidation,
}

impl Ring<'_> {
    fn parse(payload: &[u8]) -> Option<Ring<'_>> {
        let mut parts = payload.splitn(4, |b| *b == b' ');
        let mut id = || std::str::from_utf8(parts.next()?).ok()?.parse().ok();
        let (id, previous) = (id()?, id()?);
        let origin = std::str::from_utf8(parts.next()?).ok()?;
        Some(Ring { id, previous, origin, what: Invalidation::parse_logged(parts.next()?).ok()? })
    }
}

/// Tells of malformed messages, once a minute with how many there were.
#[derive(Default)]
struct Complaints {
    told: Option<Instant>,
    since: u64,
}

impl Complaints {
    fn tell(&mut self, what: &crate::invalidation::Malformed, channel: &str) {
        self.since += 1;
        if self.told.is_none_or(|t| t.elapsed() >= COMPLAIN_EVERY) {
            tracing::warn!(cause = %what, count = self.since, channel, "malformed invalidation messages were ignored");
            self.told = Some(Instant::now());
            self.since = 0;
        }
    }
}

/// Ends a task with the scope that has started it.
struct Ends(AbortHandle);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A number in [0, 1) that differs between instances and calls: the jitter of the backoff.
fn fraction() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(Instant::now()) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::super::link::Fields;
    use super::*;

    fn id(n: u64) -> LogId {
        LogId { ms: n, seq: 0 }
    }
    fn entry(n: u64, fields: &[(&str, &str)]) -> (LogId, Fields) {
        (id(n), fields.iter().map(|(k, v)| (k.to_string(), v.as_bytes().to_vec())).collect())
    }
    fn chunk(last: u64, found: bool, entries: Vec<(LogId, Fields)>) -> Chunk {
        Chunk { last: id(last), found, entries }
    }

    #[test]
    fn rule_4_the_last_id_applied_must_be_on_the_chain() {
        let next = |p: &str| vec![entry(9, &[("v", "1"), ("p", p), ("m", "a")])];
        let marker = vec![entry(9, &[("v", "1"), ("k", "begin"), ("p", "0-0"), ("m", "{}")])];
        assert_eq!(on_chain(id(5), id(5), &chunk(5, true, vec![])), Chain::Whole);
        assert_eq!(on_chain(id(5), id(5), &chunk(5, false, vec![])), Chain::Whole, "trimmed, but nothing came after");
        assert_eq!(on_chain(id(5), id(5), &chunk(9, true, next("7-0"))), Chain::Whole);
        assert_eq!(on_chain(id(5), id(5), &chunk(9, false, next("5-0"))), Chain::Whole, "trimmed right behind it");
        assert_eq!(on_chain(id(5), id(5), &chunk(9, false, next("7-0"))), Chain::Broken, "trimmed beyond it");
        assert_eq!(on_chain(id(5), id(5), &chunk(9, false, next("3-0"))), Chain::RolledBack, "grown another way");
        assert_eq!(on_chain(id(5), id(5), &chunk(9, false, marker)), Chain::Broken, "begun anew");
        assert_eq!(on_chain(id(5), id(5), &chunk(9, false, vec![])), Chain::Broken, "trimmed to nothing");
        assert_eq!(on_chain(id(5), id(5), &chunk(4, false, vec![])), Chain::RolledBack);
        let ahead = on_chain(id(5), id(8), &chunk(5, true, vec![]));
        assert_eq!(ahead, Chain::RolledBack, "what was applied ahead of a gap is gone");
    }

    #[test]
    fn entries_of_the_log_are_read_leniently_where_safe_and_refused_where_not() {
        let what = |fields: &[(&str, &str)]| LogEntry::read(&entry(1, fields).1).what;
        assert_eq!(what(&[("m", "user:1")]), Invalidation::parse(b"user:1").ok(), "somebody's own XADD");
        assert!(what(&[("v", "2"), ("m", "user:1")]).is_none(), "a newer format");
        assert!(what(&[("v", "1"), ("m", "{")]).is_none());
        assert!(what(&[("v", "1")]).is_none());
        assert!(what(&[("v", "1"), ("k", "begin"), ("m", "{}")]).is_some_and(|w| w.is_empty()));
    }

    #[test]
    fn a_ring_of_the_bell_carries_the_entry() {
        let ring = Ring::parse(b"7-0 6-1 me {\"tags\":[\"a b\"]}").unwrap();
        assert_eq!((ring.id, ring.previous), (id(7), LogId { ms: 6, seq: 1 }));
        assert_eq!(ring.what.tags, ["a b"]);
        assert!(Ring::parse(b"7-0 6-1 me").is_none());
        assert!(Ring::parse(b"x 6-1 me a").is_none());
    }
}
