//! One fetch for the whole fleet: who fetches a key holds a lease in Redis, the others wait to be woken.
//!
//! A lease is a key with a token in it that expires by itself and is renewed while the fill runs, so that a leader
//! that dies is followed within [`LEASE`]. Who does not get it listens on the key's channel, which only those who wait
//! subscribe to, and is told how the fill ended. Whatever goes wrong with Redis ends in [`Turn::Alone`]: a fetch too
//! many, never a request that hangs.
//!
//! Leases save fetches and decide nothing about freshness: what another instance stored is judged by the invalidation
//! log like everything else, and two leaders at once do no harm.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at, sleep, timeout};

use super::connect::Connector;
use super::link::{Link, Unavailable};
use super::scripts::Script;
use crate::clock::millis;
use crate::metrics::Command;
use crate::problem::Problem;

/// How long a lease lasts without renewal: so long a key waits for a leader that died.
pub const LEASE: Duration = Duration::from_secs(3);
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Subscriptions that may be asked for and not made yet.
const QUEUE: usize = 1024;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);

const RENEW: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0";
/// Gives a lease back and tells those who wait how the fill ended; a lease that was lost is another's to tell of.
const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
";

/// How another instance's fill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The response is in Redis.
    Stored,
    /// The response can't be stored: everybody goes on alone.
    NotStorable,
    /// Upstream failed.
    Failed(Problem),
    /// Nothing came of it: somebody else may try.
    Abandoned,
}

impl Ended {
    fn word(self) -> &'static str {
        match self {
            Ended::Stored => "stored",
            Ended::NotStorable => "not_storable",
            Ended::Failed(problem) => problem.as_str(),
            Ended::Abandoned => "abandoned",
        }
    }

    /// Reads what another instance published; what is not known counts as nothing.
    fn parse(word: &[u8]) -> Ended {
        match word {
            b"stored" => Ended::Stored,
            b"not_storable" => Ended::NotStorable,
            word => {
                let problem = Problem::ALL.iter().find(|p| p.as_str().as_bytes() == word);
                problem.map_or(Ended::Abandoned, |p| Ended::Failed(*p))
            }
        }
    }
}

/// Whose turn it is to fetch a key.
pub enum Turn {
    /// This instance's, to be given back when the fill has ended. Another one's may have ended since Redis was last
    /// looked into.
    Lead(Lease),
    /// Another instance's, and it has ended.
    Ended(Ended),
    /// Nobody can tell: this instance fetches for itself.
    Alone,
}

/// The leases of one instance.
pub struct Leases {
    link: Arc<Link>,
    wakes: Arc<Wakes>,
    tokens: AtomicU64,
    renew: Script,
    release: Script,
    deadline: Duration,
}

impl Leases {
    /// Leases over a link, and the task that hears how fills ended, which wants to be run.
    pub fn new(link: Arc<Link>, connector: Arc<Connector>, deadline: Duration) -> (Arc<Leases>, Waker) {
        let (ask, asked) = mpsc::channel(QUEUE);
        let wakes = Arc::new(Wakes { ask, waiting: Mutex::default(), numbered: AtomicU64::new(0) });
        let waker = Waker { connector, link: link.clone(), wakes: wakes.clone(), asked, deadline };
        let (renew, release) = (Script::new(RENEW), Script::new(RELEASE));
        (Arc::new(Leases { link, wakes, tokens: AtomicU64::new(0), renew, release, deadline }), waker)
    }

    /// Takes the lease of a key, or waits until whoever has it is done, at most `patience`.
    pub async fn turn(self: &Arc<Self>, key: &str, patience: Duration) -> Turn {
        let until = Instant::now() + patience;
        match self.take(key).await {
            Ok(Some(lease)) => return Turn::Lead(lease),
            Ok(None) => {}
            Err(Unavailable) => return Turn::Alone,
        }
        let Some(mut waiting) = self.wakes.listen(self.channel(key), self.deadline).await else { return Turn::Alone };
        loop {
            // It may have been given back before anybody here listened, or its holder may have died.
            match self.take(key).await {
                Ok(Some(lease)) => return Turn::Lead(lease),
                Ok(None) => {}
                Err(Unavailable) => return Turn::Alone,
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Turn::Alone;
            }
            match timeout(left.min(LEASE), &mut waiting.told).await {
                // Whether the lease is still held is seen when it is asked for.
                Err(_) => {}
                Ok(Ok(Ended::Abandoned)) => {
                    let Some(again) = self.wakes.listen(self.channel(key), self.deadline).await else {
                        return Turn::Alone;
                    };
                    waiting = again;
                }
                Ok(Ok(ended)) => return Turn::Ended(ended),
                // The subscription was lost.
                Ok(Err(_)) => return Turn::Alone,
            }
        }
    }

    async fn take(self: &Arc<Self>, key: &str) -> Result<Option<Lease>, Unavailable> {
        if !self.link.is_trusted() {
            return Err(Unavailable);
        }
        let token = format!("{} {}", self.link.origin(), self.tokens.fetch_add(1, Ordering::Relaxed));
        let name = self.name(key);
        let mut command = redis::cmd("SET");
        command.arg(&name).arg(&token).arg("NX").arg("PX").arg(millis(LEASE));
        let taken: Option<String> = self.link.on_key(Command::Lease, &name, command).await?;
        Ok(taken.map(|_| Lease::held(self.clone(), key, name, token)))
    }

    fn name(&self, key: &str) -> String {
        // No entry's key begins like this: templates render no `//`, and keys without one begin with it.
        format!("{}lease//{key}", self.link.names().entries)
    }

    fn channel(&self, key: &str) -> String {
        format!("{}fill//{key}", self.link.names().entries)
    }
}

/// The right to fetch a key for the fleet. It is renewed as long as it is held; dropped, it counts as abandoned.
pub struct Lease {
    /// Taken out when it is given back.
    held: Option<Box<Held>>,
    renewal: JoinHandle<()>,
}

/// A lease in Redis, and whom to tell when it is given back.
struct Held {
    leases: Arc<Leases>,
    name: String,
    channel: String,
    token: String,
}

impl Lease {
    fn held(leases: Arc<Leases>, key: &str, name: String, token: String) -> Lease {
        let renewal = tokio::spawn({
            let (leases, name, token) = (leases.clone(), name.clone(), token.clone());
            async move {
                let mut beat = interval_at(Instant::now() + RENEW_EVERY, RENEW_EVERY);
                loop {
                    beat.tick().await;
                    let lease = millis(LEASE).to_string();
                    let args = [token.as_bytes(), lease.as_bytes()];
                    let kept = leases.link.script(Command::Lease, &leases.renew, &name, &args);
                    if let Ok(0) = kept.await {
                        // It was lost, to another leader or to an eviction: the fill goes on all the same.
                        return;
                    }
                }
            }
        });
        let channel = leases.channel(key);
        Lease { held: Some(Box::new(Held { leases, name, channel, token })), renewal }
    }

    /// Gives it back, and tells those who wait.
    pub async fn release(mut self, ended: Ended) {
        self.renewal.abort();
        if let Some(held) = self.held.take() {
            held.give_back(ended).await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
        if let (Some(held), Ok(runtime)) = (self.held.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(held.give_back(Ended::Abandoned));
        }
    }
}

impl Held {
    async fn give_back(self, ended: Ended) {
        let args = [self.token.as_bytes(), self.channel.as_bytes(), ended.word().as_bytes()];
        // Where Redis does not answer the lease ends by itself.
        let _: Result<i64, Unavailable> =
            self.leases.link.script(Command::Lease, &self.leases.release, &self.name, &args).await;
    }
}

/// By channel, who waits there, each with a number of his own.
type Waiters = HashMap<String, Vec<(u64, oneshot::Sender<Ended>)>>;

/// Who waits for fills of other instances.
struct Wakes {
    ask: mpsc::Sender<Ask>,
    waiting: Mutex<Waiters>,
    numbered: AtomicU64,
}

/// What is asked of the task that holds the subscription.
enum Ask {
    Listen { channel: String, listening: oneshot::Sender<()> },
    Leave { channel: String },
}

/// A place among those who wait; left when dropped.
struct Waiting {
    wakes: Arc<Wakes>,
    channel: String,
    number: u64,
    told: oneshot::Receiver<Ended>,
}

impl Wakes {
    /// Begins to wait on a channel; `None` when Redis can't be subscribed to.
    async fn listen(self: &Arc<Self>, channel: String, deadline: Duration) -> Option<Waiting> {
        let (tell, told) = oneshot::channel();
        let number = self.numbered.fetch_add(1, Ordering::Relaxed);
        self.lock().entry(channel.clone()).or_default().push((number, tell));
        let waiting = Waiting { wakes: self.clone(), channel: channel.clone(), number, told };
        let (listening, listens) = oneshot::channel();
        self.ask.try_send(Ask::Listen { channel, listening }).ok()?;
        timeout(deadline, listens).await.ok()?.ok()?;
        Some(waiting)
    }

    fn told(&self, channel: &str, ended: Ended) {
        for (_, waiting) in self.lock().remove(channel).into_iter().flatten() {
            let _ = waiting.send(ended);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.wakes.lock();
        if let Some(here) = waiting.get_mut(&self.channel) {
            here.retain(|(number, _)| *number != self.number);
            if here.is_empty() {
                waiting.remove(&self.channel);
                let channel = std::mem::take(&mut self.channel);
                // Where the queue is full the subscription stays until the fill ends or the connection does.
                let _ = self.wakes.ask.try_send(Ask::Leave { channel });
            }
        }
    }
}

/// The task that holds the subscription to the channels of fills. Connects when it is first asked, and again with
/// backoff when the connection is lost; meanwhile nobody waits.
pub struct Waker {
    connector: Arc<Connector>,
    link: Arc<Link>,
    wakes: Arc<Wakes>,
    asked: mpsc::Receiver<Ask>,
    deadline: Duration,
}

impl Waker {
    /// Runs for as long as the process lives.
    pub async fn run(mut self) {
        let mut retry = FIRST_RETRY;
        // Not before somebody waits: most instances on their own never do.
        while let Some(first) = self.asked.recv().await {
            if let Ok(connection) = self.connector.subscriber(self.link.names()).await {
                let (sink, stream) = connection.split();
                retry = FIRST_RETRY;
                self.session(first, sink, stream).await;
            } else {
                drop(first);
                sleep(retry).await;
                retry = (retry * 2).min(LAST_RETRY);
            }
            // Whoever waits goes on alone.
            self.wakes.lock().clear();
            while self.asked.try_recv().is_ok() {}
        }
    }

    async fn session(&mut self, first: Ask, mut sink: PubSubSink, mut stream: PubSubStream) {
        let mut next = Some(first);
        loop {
            match next.take() {
                Some(Ask::Listen { channel, listening }) => {
                    match timeout(self.deadline, sink.subscribe(&channel)).await {
                        Ok(Ok(())) => {
                            let _ = listening.send(());
                        }
                        _ => return,
                    }
                }
                Some(Ask::Leave { channel }) => {
                    // Somebody may have come since.
                    let left = !self.wakes.lock().contains_key(&channel);
                    if left && !matches!(timeout(self.deadline, sink.unsubscribe(&channel)).await, Ok(Ok(()))) {
                        return;
                    }
                }
                None => {}
            }
            tokio::select! {
                message = stream.next() => {
                    let Some(message) = message else { return };
                    let channel = message.get_channel_name().to_owned();
                    self.wakes.told(&channel, Ended::parse(message.get_payload_bytes()));
                    next = Some(Ask::Leave { channel });
                }
                asked = self.asked.recv() => {
                    let Some(asked) = asked else { return };
                    next = Some(asked);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_fill_ended_is_one_word() {
        for ended in [Ended::Stored, Ended::NotStorable, Ended::Failed(Problem::Timeout), Ended::Abandoned] {
            assert_eq!(Ended::parse(ended.word().as_bytes()), ended);
        }
        assert_eq!(Ended::parse(b"of a newer version"), Ended::Abandoned);
    }
}
