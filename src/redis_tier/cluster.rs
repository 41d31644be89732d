//! A cluster: which node has which slot, and a connection to each.
//!
//! Nothing on a request's way connects or asks where something is: a slot whose node is not connected is a miss at
//! once. One task ([`Cluster::keep`]) follows the nodes: every few seconds, at once when a node said that a slot had
//! moved or was lost, and again and again while a slot has no connected node.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::address::Host;
use super::connect::{CHECK_EVERY, CONNECT_DEADLINE, Dialer, Lost, Target, soon};
use super::link::Node;

/// How soon it is asked again while something is missing.
const AGAIN: Duration = Duration::from_millis(250);
/// How soon after one answer the next question goes out, however many ask for it.
const AT_MOST: Duration = Duration::from_millis(50);
/// How long the other nodes' answers are waited for after the first.
const OTHERS: Duration = Duration::from_millis(100);
/// PINGs in time before a node gets commands.
const PROBES: usize = 3;

/// The slot of a key: of what is in its first braces, if there is something in them.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let in_braces = || {
        let from = key.iter().position(|b| *b == b'{')? + 1;
        let rest = key.get(from..)?;
        let to = rest.iter().position(|b| *b == b'}')?;
        rest.get(..to).filter(|tag| !tag.is_empty())
    };
    // CRC16-CCITT (XMODEM), as Redis' cluster specification has it.
    let crc = in_braces().unwrap_or(key).iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % 16_384
}

/// Who has which slots.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slots(Vec<(u16, u16, Host)>);

impl Slots {
    /// Asks the nodes, all at once, and takes what most of those say that answer soon: one that was cut off from the
    /// others may still believe what was true before.
    pub(super) async fn ask_any(dialer: &Dialer, nodes: &[Host]) -> Result<Slots, Lost> {
        let mut asked: FuturesUnordered<_> = nodes
            .iter()
            .map(|node| async move {
                let mut connection = dialer.connect(&Target::Host(node.clone())).await?;
                let answer: Value = slots_command().query_async(&mut connection).await?;
                Ok::<_, redis::RedisError>((answer, node))
            })
            .collect();
        let mut votes = Votes::default();
        let mut lost = Lost::TooSlow("CLUSTER SLOTS");
        let mut until = Instant::now() + CONNECT_DEADLINE;
        while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
            match answer.map(|(answer, node)| Slots::parse(&answer, node).ok_or(node)) {
                Ok(Ok(slots)) => {
                    if votes.0.is_empty() {
                        until = Instant::now() + OTHERS;
                    }
                    votes.add(slots);
                }
                Ok(Err(node)) => lost = Lost::Unusable(format!("{node} answers CLUSTER SLOTS in an odd way")),
                Err(error) => lost = Lost::RefusedAt("CLUSTER SLOTS", error),
            }
        }
        votes.winner().ok_or(lost)
    }

    /// The masters.
    pub(super) fn masters(&self) -> Vec<Host> {
        let mut hosts: Vec<Host> = self.0.iter().map(|(.., host)| host.clone()).collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }

    async fn ask(node: &Node, host: &Host) -> Option<Slots> {
        let mut connection = node.connection();
        let answer: Value = soon(slots_command().query_async(&mut connection)).await?;
        Slots::parse(&answer, host)
    }

    /// The answer to CLUSTER SLOTS. A node that does not know its own address leaves it out.
    fn parse(answer: &Value, asked: &Host) -> Option<Slots> {
        let number = |value: &Value| match value {
            Value::Int(n) => u16::try_from(*n).ok(),
            _ => None,
        };
        let Value::Array(ranges) = answer else { return None };
        let mut slots = Vec::new();
        for range in ranges {
            let Value::Array(parts) = range else { return None };
            let [first, last, Value::Array(master), ..] = parts.as_slice() else { return None };
            let [name, port, ..] = master.as_slice() else { return None };
            let name = match name {
                Value::BulkString(name) if !name.is_empty() => String::from_utf8(name.clone()).ok()?,
                _ => asked.name.clone(),
            };
            // "?" is a name that the asked node does not know.
            if name != "?" {
                slots.push((number(first)?, number(last)?, Host { name, port: number(port)? }));
            }
        }
        slots.sort();
        Some(Slots(slots))
    }

    /// The master of a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Host> {
        let at = self.0.partition_point(|(_, last, _)| *last < slot);
        self.0.get(at).filter(|(first, ..)| *first <= slot).map(|(.., host)| host)
    }
}

/// What the nodes say, each with how many say so.
#[derive(Default)]
struct Votes(Vec<(usize, Slots)>);

impl Votes {
    fn add(&mut self, slots: Slots) {
        match self.0.iter_mut().find(|(_, known)| *known == slots) {
            Some((count, _)) => *count += 1,
            None => self.0.push((1, slots)),
        }
    }
    fn winner(self) -> Option<Slots> {
        self.0.into_iter().max_by_key(|(count, _)| *count).map(|(_, slots)| slots)
    }
}

fn slots_command() -> redis::Cmd {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    command
}

/// The nodes as they are known now.
struct Map {
    slots: Slots,
    /// By `host:port`.
    nodes: HashMap<String, Arc<Node>>,
}

/// The nodes of a cluster. Clone the `Arc` around it.
pub(crate) struct Cluster {
    map: RwLock<Arc<Map>>,
    changed: Notify,
    /// What a command may take.
    deadline: Duration,
}

impl Cluster {
    pub(super) async fn new(dialer: &Dialer, slots: &Slots, home: &Arc<Node>, deadline: Duration) -> Cluster {
        let map = Map { slots: Slots(slots.0.clone()), nodes: HashMap::from([(home.name().to_owned(), home.clone())]) };
        let cluster = Cluster { map: RwLock::new(Arc::new(map)), changed: Notify::new(), deadline };
        cluster.update(dialer, Slots(slots.0.clone()), home).await;
        cluster
    }

    fn map(&self) -> Arc<Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node that has a key, if it is connected.
    pub(super) fn node_of(&self, key: &[u8]) -> Option<Arc<Node>> {
        let map = self.map();
        self.node_at(&map.slots.owner(slot_of(key))?.to_string())
    }

    /// The node at an address, if it is connected.
    pub(super) fn node_at(&self, address: &str) -> Option<Arc<Node>> {
        self.map().nodes.get(address).filter(|node| !node.is_lost()).cloned()
    }

    /// Something is elsewhere, or gone: the nodes are asked soon.
    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }

    /// Keeps the nodes connected and the slots known, until the slot is another node's than `home`.
    pub(super) async fn keep(&self, dialer: &Dialer, home: &Arc<Node>, slot: u16) -> Lost {
        loop {
            let wait = if self.is_complete() { CHECK_EVERY } else { AGAIN };
            let _ = timeout(wait, self.changed.notified()).await;
            if let Some(slots) = self.ask(home).await {
                match slots.owner(slot) {
                    Some(owner) if owner.to_string() != home.name() => {
                        return Lost::Moved(format!("the log's slot is at {owner} now"));
                    }
                    _ => self.update(dialer, slots, home).await,
                }
            }
            sleep(AT_MOST).await;
        }
    }

    /// Asks home first, which others' commands have just shown to be there, then the rest.
    async fn ask(&self, home: &Arc<Node>) -> Option<Slots> {
        let map = self.map();
        let others = map.nodes.values().filter(|node| !Arc::ptr_eq(node, home) && !node.is_lost());
        for node in std::iter::once(home).chain(others) {
            let host = map.slots.0.iter().map(|(.., host)| host).find(|host| host.to_string() == node.name());
            if let Some(host) = host
                && let Some(slots) = Slots::ask(node, host).await
            {
                return Some(slots);
            }
        }
        None
    }

    fn is_complete(&self) -> bool {
        let map = self.map();
        let mut next = 0;
        for (first, last, host) in &map.slots.0 {
            let there = map.nodes.get(&host.to_string()).is_some_and(|node| !node.is_lost());
            if *first != next || !there {
                return false;
            }
            next = last + 1;
        }
        next == 16_384
    }

    /// Connects to the masters that are not connected, and leaves those that are none any more.
    async fn update(&self, dialer: &Dialer, slots: Slots, home: &Arc<Node>) {
        let known = self.map();
        let masters = slots.masters();
        let connected = join_all(masters.iter().map(|host| async {
            let name = host.to_string();
            if name == home.name() {
                return Some((name, home.clone()));
            }
            if let Some(node) = known.nodes.get(&name).filter(|node| !node.is_lost()) {
                return Some((name, node.clone()));
            }
            let lanes = soon(dialer.lanes(&Target::Host(host.clone()))).await?;
            for _ in 0..PROBES {
                self.probe(lanes.own()).await?;
            }
            tracing::info!(node = name, "connected to a node of the Redis cluster");
            Some((name.clone(), Arc::new(Node::new(name, lanes))))
        }));
        let nodes = connected.await.into_iter().flatten().collect();
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Map { slots, nodes });
    }

    async fn probe(&self, mut connection: MultiplexedConnection) -> Option<()> {
        let ping = redis::cmd("PING");
        timeout(self.deadline, ping.query_async(&mut connection)).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // As CLUSTER KEYSLOT has them.
        for (key, slot) in [("123456789", 12739), ("", 0), ("foo", 12182), ("{foo}x", 12182)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(slot_of(b"{asidecar}:log"), slot_of(b"{asidecar}:heard:x"));
        assert_eq!(slot_of(b"{asidecar}:log"), slot_of(b"asidecar"));
        assert_ne!(slot_of(b"a{}b"), slot_of(b""), "nothing between the braces: the whole key counts");
        assert_eq!(slot_of(b"x{a}{b}"), slot_of(b"a"), "the first braces");
    }

    #[test]
    fn the_owner_of_a_slot_is_found_and_a_gap_has_none() {
        let node = |name: &str, port| {
            Value::Array(vec![Value::BulkString(name.as_bytes().to_vec()), Value::Int(port), Value::Nil])
        };
        let range = |first, last, node| Value::Array(vec![Value::Int(first), Value::Int(last), node]);
        let answer = Value::Array(vec![
            range(101, 200, node("b", 2)),
            range(0, 99, node("a", 1)),
            range(300, 16_383, node("", 3)),
            range(201, 250, node("?", 4)),
        ]);
        let slots = Slots::parse(&answer, &Host { name: "asked".into(), port: 9 }).unwrap();
        let owner = |slot| slots.owner(slot).map(Host::to_string);
        assert_eq!([owner(0), owner(99), owner(100)], [Some("a:1".into()), Some("a:1".into()), None]);
        assert_eq!([owner(101), owner(201), owner(16_383)], [Some("b:2".into()), None, Some("asked:3".into())]);
    }

    #[test]
    fn one_node_that_was_cut_off_is_outvoted_however_quick_it_is() {
        let map = |port| Slots(vec![(0, 16_383, Host { name: "h".into(), port })]);
        let mut votes = Votes::default();
        for port in [1, 2, 2] {
            votes.add(map(port));
        }
        assert_eq!(votes.winner(), Some(map(2)));
        assert_eq!(Votes::default().winner(), None);
    }
}
