//! A model of the world around the [`Table`], searched exhaustively: every interleaving of a bounded number of
//! fills, reads, writes, messages and failures, on two instances that share a Redis.
//!
//! Real are [`Table`], [`Position::of_foreign`] and [`on_chain`]. What is Lua or async is mirrored here in few lines,
//! each named after its original: [`Redis::append`] and [`Redis::read`] (`redis_tier/scripts.rs`), [`World::append`],
//! [`World::appended`], [`World::flush_one`] (`log.rs`), [`World::deliver`], [`World::begin`], [`World::read_apply`]
//! (`redis_tier/follow.rs`), [`World::look_end`] (`store/mod.rs`), [`World::answer_store`] (`keep.rs`).
//!
//! There is one key that is read, and "another" that is only invalidated. Upstream's state of the key is its version,
//! a number that each write raises. What an instance may not serve any more is the least version it owes,
//! [`Instance::owes`]; it is checked in every state against everything that the instance could answer from. The search
//! goes breadth first, so that a counterexample is a shortest one; visited states are remembered by a 64-bit hash.
//! See decision 17 for the argument, and for what is not in the model.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::LazyLock;
use std::time::Instant;

use super::Invalidation;
use super::TagId;
use super::position::{LogId, Position};
use super::table::{HorizonReason, Standing, Step, Table};
use crate::clock::Timestamp;
use crate::redis_tier::follow::{Chain, on_chain};
use crate::redis_tier::link::Chunk;

/// Versions that upstream may go through, 0 among them.
const VERSIONS: usize = 4;
/// Entries read from the log at a time: so few that things happen between two.
const CHUNK: usize = 2;
/// In ticks; the strict world's `max_lag` and `heartbeat`.
const MAX_LAG: u8 = 1;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// An entry stands whatever its as-of.
    AsOf,
    /// As-of is taken when the answer is stored, not before it is asked for.
    AsOfLate,
    /// An entry from Redis counts as of what its filler had seen.
    OfForeign,
    /// Redis is read while invalidations wait.
    PendingReads,
    /// An entry's predecessor is not looked at.
    Gap,
    /// The horizon does not move on a start.
    HorizonStart,
    /// Nor where the log was trimmed beyond the last id, or begun anew.
    HorizonTrimmed,
    /// Who notices that the log went back keeps it to himself.
    KeepsItToHimself,
    /// What can't be logged is queued and not applied.
    LocalAway,
    /// What was published is applied when it is in the log.
    LocalHeard,
    /// The horizon does not move when the table drops tags.
    Full,
    /// Each published message is logged, however many heard it.
    DedupNever,
    /// A published message is taken for an earlier one of the same text.
    DedupAlways,
    /// What was applied ahead of a gap need not be in what is read later.
    Newest,
    /// The answer to a POST is kept whatever was invalidated meanwhile.
    Only,
}

/// How often each thing may happen, in all.
#[derive(Clone, Copy, Debug, Default, Hash)]
struct Left {
    fills: u8,
    looks: u8,
    /// Writes through an instance.
    writes: u8,
    /// Whose answers may be kept.
    answers: u8,
    /// Writes by others, who `PUBLISH`.
    publishes: u8,
    /// Writes by others, who `XADD`: no predecessor, no ring.
    xadds: u8,
    /// Entries that name something else.
    others: u8,
    /// Appends whose reply does not come in time.
    timeouts: u8,
    /// Subscriptions lost.
    cuts: u8,
    /// Oldest entries trimmed.
    trims: u8,
    /// Streams deleted.
    deletes: u8,
    /// Failovers; each loses any number of newest entries.
    failovers: u8,
    restarts: u8,
    ticks: u8,
}

#[derive(Clone, Copy, Debug)]
struct Config {
    name: &'static str,
    broken: Broken,
    left: Left,
    /// Tags that a table holds.
    capacity: usize,
    /// Whether ids that Redis gives are newer than any before. Not so: a new primary's clock lies behind.
    clock_goes_on: bool,
    /// Whether both instances have started already.
    started: bool,
    /// Whether things happen between a read of Redis and the use of what was read.
    split: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Key,
    Other,
    All,
    Begin,
}

struct Named {
    key: Invalidation,
    other: Invalidation,
    all: Invalidation,
    none: Invalidation,
    tag: TagId,
}

static NAMED: LazyLock<Named> = LazyLock::new(|| {
    let key = Invalidation::tag("key");
    let tag = key.tag_ids().next().unwrap();
    let (other, all, none) = (Invalidation::tag("other"), Invalidation::all(), Invalidation::default());
    Named { key, other, all, none, tag }
});

impl What {
    fn named(self) -> &'static Invalidation {
        match self {
            What::Key => &NAMED.key,
            What::Other => &NAMED.other,
            What::All => &NAMED.all,
            What::Begin => &NAMED.none,
        }
    }
}

/// An entry of the log. It was appended after the write that made version `covers`.
#[derive(Clone, Copy, Debug, Hash)]
struct Logged {
    id: u64,
    previous: Option<u64>,
    what: What,
    covers: u8,
}

fn id(n: u64) -> LogId {
    LogId { ms: n, seq: 0 }
}

/// The stream, the de-duplication key of the one text that is published, and what is cached.
#[derive(Clone, Debug, Default, Hash)]
struct Redis {
    exists: bool,
    log: Vec<Logged>,
    last: u64,
    /// The newest id there ever was.
    clock: u64,
    heard: Option<(u64, u64)>,
    cached: Option<(u8, LogId)>,
}

impl Redis {
    fn next_id(&mut self, after: u64, config: &Config) -> u64 {
        let next = if config.clock_goes_on { self.clock.max(after) + 1 } else { after + 1 };
        self.clock = self.clock.max(next);
        next
    }

    fn exist(&mut self, after: u64, config: &Config) {
        if !self.exists {
            let id = self.next_id(after, config);
            self.exists = true;
            self.log = vec![Logged { id, previous: Some(0), what: What::Begin, covers: 0 }];
            self.last = id;
        }
    }

    /// The script APPEND, but for the announcement.
    fn append(&mut self, what: What, covers: u8, floor: u64, heard_up_to: Option<u64>, config: &Config) -> Logged {
        if let (Some(heard_up_to), Some((id, previous))) = (heard_up_to, self.heard)
            && (id > heard_up_to || config.broken == Broken::DedupAlways)
            && config.broken != Broken::DedupNever
        {
            return Logged { id, previous: Some(previous), what, covers: 0 };
        }
        self.exist(floor, config);
        let previous = self.last;
        let id = self.next_id(floor.max(previous), config);
        let entry = Logged { id, previous: Some(previous), what, covers };
        self.log.push(entry);
        self.last = id;
        if heard_up_to.is_some() {
            self.heard = Some((id, previous));
        }
        entry
    }

    /// The script READ.
    fn read(&mut self, from: u64, count: usize, config: &Config) -> Read {
        self.exist(from, config);
        let found = self.log.iter().any(|e| e.id == from);
        let entries = self.log.iter().filter(|e| e.id > from).take(count).copied().collect();
        Read { from, newest: 0, last: self.last, found, entries, known: 0, witness: false, at: 0 }
    }
}

/// What was read of the log and is on its way.
#[derive(Clone, Debug, Hash)]
struct Read {
    from: u64,
    newest: u64,
    last: u64,
    found: bool,
    entries: Vec<Logged>,
    /// What everybody owes who has read so far.
    known: u8,
    /// Whether the reader had applied something by then that the log has lost since.
    witness: bool,
    at: u8,
}

impl Read {
    /// As [`on_chain`] wants it.
    fn chunk(&self) -> Chunk {
        let fields = |e: &Logged| {
            let mut fields = vec![("m".to_string(), e.what.named().to_json().into_bytes())];
            fields.extend(e.previous.map(|p| ("p".to_string(), id(p).to_string().into_bytes())));
            fields.extend((e.what == What::Begin).then(|| ("k".to_string(), b"begin".to_vec())));
            (id(e.id), fields)
        };
        Chunk { last: id(self.last), found: self.found, entries: self.entries.iter().take(1).map(fields).collect() }
    }
}

/// What comes over a subscription.
#[derive(Clone, Copy, Debug, Hash)]
enum Message {
    Ring(Logged),
    /// What somebody published after a write that made this version.
    Published(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Down,
    /// Connected and subscribed; commands may be sent.
    Subscribed,
    CatchingUp,
    /// Redis is trusted.
    Ready,
}

/// A write through an instance.
#[derive(Clone, Copy, Debug, Hash)]
struct Write {
    version: u8,
    began: Position,
    appended: Option<Logged>,
}

#[derive(Clone, Hash)]
struct Instance {
    table: Table,
    memory: Option<(u8, Position)>,
    /// A fill under way: its as-of, and what upstream answered.
    fill: Option<(Position, Option<u8>)>,
    /// An answer on its way to Redis.
    put: Option<(u8, LogId)>,
    /// The answer to a write on its way into memory: its version, where the write began, and its entry in the log.
    answer: Option<(u8, Position, u64)>,
    /// A look into Redis under way, by what had been applied when it began.
    look: Option<Position>,
    write: Option<Write>,
    phase: Phase,
    started: bool,
    /// Whether Redis sends to it. Where not, what had been sent before may still arrive.
    subscribed: bool,
    queue: VecDeque<Message>,
    heard_up_to: u64,
    /// A catching up within a session, on a gap or at a heartbeat.
    catching: bool,
    read: Option<Read>,
    /// A published message that is applied here and not in the log yet.
    hearing: Option<u8>,
    pending: VecDeque<(What, u8)>,
    /// When it was sure to know all that was logged, in ticks.
    heard_at: u8,
    /// The least version that it may serve.
    owes: u8,
    /// It has applied something that the log has lost.
    witness: bool,
}

impl Instance {
    fn new(config: &Config) -> Instance {
        let capacity = if config.broken == Broken::Full { 1000 } else { config.capacity };
        Instance {
            table: Table::new(capacity),
            memory: None,
            fill: None,
            put: None,
            answer: None,
            look: None,
            write: None,
            phase: Phase::Down,
            started: false,
            subscribed: false,
            queue: VecDeque::new(),
            heard_up_to: 0,
            catching: false,
            read: None,
            hearing: None,
            pending: VecDeque::new(),
            heard_at: 0,
            owes: 0,
            witness: false,
        }
    }

    fn last(&self) -> u64 {
        self.table.position().id.ms
    }

    fn stands(&self, as_of: Position, config: &Config) -> bool {
        config.broken == Broken::AsOf || self.table.standing(as_of, [NAMED.tag]) == Standing::Valid
    }

    /// What the full table of [`Broken::Full`] does: it forgets, and that is that.
    fn make_room(&mut self, what: What, config: &Config) {
        if config.broken == Broken::Full
            && matches!(what, What::Key | What::Other)
            && self.table.len() >= config.capacity
        {
            self.table.forget(Timestamp(1));
        }
    }

    fn local(&mut self, what: What, config: &Config) {
        self.make_room(what, config);
        self.table.local(what.named(), Timestamp(0));
    }

    /// `applied` of log.rs, but for a fork.
    fn entry(&mut self, e: &Logged, config: &Config) -> Step {
        self.owes = self.owes.max(e.covers);
        self.make_room(e.what, config);
        match e.previous {
            Some(previous) if config.broken != Broken::Gap => {
                self.table.entry(id(e.id), id(previous), e.what.named(), Timestamp(0))
            }
            _ => self.table.next(id(e.id), e.what.named(), Timestamp(0)),
        }
    }

    fn broken(&mut self, newest: u64, reason: HorizonReason, config: &Config) {
        if reason == HorizonReason::Broken && config.broken == Broken::HorizonTrimmed {
            self.table.next(id(newest), &NAMED.none, Timestamp(0));
        } else {
            self.table.broken(id(newest), reason);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    FillBegin(usize),
    FillFetch(usize),
    FillStore(usize),
    FillPut(usize),
    LookBegin(usize),
    LookEnd(usize),
    WriteUpstream(usize),
    WriteAppend(usize),
    WriteAck(usize),
    WriteAckAndKeep(usize),
    AnswerStore(usize),
    WriteWithoutRedis(usize),
    Deliver(usize),
    LogHeard(usize),
    Cut(usize),
    Notice(usize),
    Subscribe(usize),
    FlushOne(usize),
    Begin(usize),
    Beat(usize),
    ReadSend(usize),
    ReadApply(usize),
    Restart(usize),
    Publish,
    Xadd,
    Other,
    Trim,
    Delete,
    Failover(usize),
    Tick,
}

static ACTS: LazyLock<Vec<Act>> = LazyLock::new(|| {
    let of_instance = [
        Act::FillBegin,
        Act::FillFetch,
        Act::FillStore,
        Act::FillPut,
        Act::LookBegin,
        Act::LookEnd,
        Act::WriteUpstream,
        Act::WriteAppend,
        Act::WriteAck,
        Act::WriteAckAndKeep,
        Act::AnswerStore,
        Act::WriteWithoutRedis,
        Act::Deliver,
        Act::LogHeard,
        Act::Cut,
        Act::Notice,
        Act::Subscribe,
        Act::FlushOne,
        Act::Begin,
        Act::Beat,
        Act::ReadSend,
        Act::ReadApply,
        Act::Restart,
    ];
    let mut acts: Vec<Act> = of_instance.iter().flat_map(|act| [act(0), act(1)]).collect();
    acts.extend([Act::Publish, Act::Xadd, Act::Other, Act::Trim, Act::Delete, Act::Tick]);
    acts.extend([Act::Failover(1), Act::Failover(2), Act::Failover(3)]);
    acts
});

#[derive(Clone)]
struct World {
    upstream: u8,
    redis: Redis,
    both: [Instance; 2],
    left: Left,
    /// The newest version whose invalidation is in the log, or was and was trimmed or deleted.
    logged: u8,
    /// When each version's invalidation was logged, in ticks.
    logged_at: [u8; VERSIONS],
    /// The ids, and the newest version, that a failover lost.
    lost: Option<(u64, u64, u8)>,
    tick: u8,
}

impl World {
    fn new(config: &Config) -> World {
        let mut world = World {
            upstream: 0,
            redis: Redis::default(),
            both: [Instance::new(config), Instance::new(config)],
            left: config.left,
            logged: 0,
            logged_at: [0; VERSIONS],
            lost: None,
            tick: 0,
        };
        if config.started {
            for i in 0..2 {
                for act in [Act::Subscribe(i), Act::Begin(i), Act::ReadSend(i), Act::ReadApply(i)] {
                    if world.can(act) {
                        world.act(act, config);
                    }
                }
                assert!(world.both[i].phase == Phase::Ready);
            }
        }
        world
    }

    /// Instances are alike, so that two worlds which differ in their names only are one.
    fn fingerprint(&self, hasher: &foldhash::quality::FixedState) -> u64 {
        let [a, b] = [hasher.hash_one(&self.both[0]), hasher.hash_one(&self.both[1])];
        let mut h = hasher.build_hasher();
        (a.min(b), a.max(b), self.upstream, &self.redis, self.left).hash(&mut h);
        (self.logged, self.logged_at, self.lost, self.tick).hash(&mut h);
        h.finish()
    }

    /// Everything that an instance could answer from now: memory, and a fill that others wait for. What is in Redis
    /// comes into memory first.
    fn stale(&self, config: &Config) -> Option<String> {
        self.both.iter().enumerate().find_map(|(name, i)| {
            let answers = [i.memory, i.fill.and_then(|(as_of, version)| Some((version?, as_of)))];
            let strict = if self.tick.saturating_sub(i.heard_at) <= MAX_LAG {
                let sure = |v: &usize| self.logged_at[*v] > 0 && self.logged_at[*v] + 2 * MAX_LAG < self.tick + 1;
                (1..VERSIONS).rev().find(sure).map_or(0, |v| v as u8)
            } else {
                0
            };
            let least = i.owes.max(if config.left.ticks > 0 { strict } else { 0 });
            let (version, as_of) =
                answers.into_iter().flatten().find(|(version, as_of)| *version < least && i.stands(*as_of, config))?;
            Some(format!("instance {name} serves version {version} as of {as_of}, and owes {least}"))
        })
    }

    /// Whether no more can go wrong: nothing old is held anywhere, and nothing that is fetched from now on will grow old.
    fn settled(&self) -> bool {
        let more = self.left.writes + self.left.publishes + self.left.xadds;
        let old = |version: u8| version < self.upstream;
        let held = |i: &Instance| {
            let fill = i.fill.and_then(|(_, version)| version);
            let answer = i.write.filter(|_| self.left.answers > 0).map(|w| w.version);
            [i.memory.map(|m| m.0), fill, i.put.map(|p| p.0), answer, i.answer.map(|a| a.0)]
                .into_iter()
                .flatten()
                .any(old)
        };
        more == 0 && !self.redis.cached.is_some_and(|c| old(c.0)) && !self.both.iter().any(held)
    }

    fn can(&self, act: Act) -> bool {
        let (i, left) = (|n: usize| &self.both[n], &self.left);
        let idle = |n: usize| !i(n).catching && i(n).hearing.is_none();
        match act {
            Act::FillBegin(n) => left.fills > 0 && i(n).fill.is_none(),
            Act::FillFetch(n) => matches!(i(n).fill, Some((_, None))),
            Act::FillStore(n) => matches!(i(n).fill, Some((_, Some(_)))),
            Act::FillPut(n) => i(n).put.is_some() && i(n).phase != Phase::Down,
            Act::LookBegin(n) => {
                left.looks > 0 && i(n).look.is_none() && i(n).phase == Phase::Ready && self.redis.cached.is_some()
            }
            Act::LookEnd(n) => i(n).look.is_some(),
            Act::WriteUpstream(n) => left.writes > 0 && i(n).write.is_none(),
            Act::WriteAppend(n) => {
                i(n).write.is_some_and(|w| w.appended.is_none()) && i(n).phase != Phase::Down && i(n).pending.is_empty()
            }
            Act::WriteAck(n) => i(n).write.is_some_and(|w| w.appended.is_some()),
            Act::WriteAckAndKeep(n) => left.answers > 0 && i(n).answer.is_none() && self.can(Act::WriteAck(n)),
            Act::AnswerStore(n) => i(n).answer.is_some(),
            Act::WriteWithoutRedis(n) => {
                i(n).write.is_some()
                    && (left.timeouts > 0
                        || (i(n).write.is_some_and(|w| w.appended.is_none())
                            && (i(n).phase == Phase::Down || !i(n).pending.is_empty())))
            }
            Act::Deliver(n) => i(n).phase == Phase::Ready && idle(n) && !i(n).queue.is_empty(),
            Act::LogHeard(n) => i(n).hearing.is_some(),
            Act::Cut(n) => left.cuts > 0 && i(n).subscribed,
            Act::Notice(n) => i(n).phase != Phase::Down && !i(n).subscribed && i(n).hearing.is_none(),
            Act::Subscribe(n) => i(n).phase == Phase::Down,
            Act::FlushOne(n) => {
                !i(n).pending.is_empty() && i(n).phase != Phase::Down && i(n).hearing.is_none() && i(n).read.is_none()
            }
            Act::Begin(n) => i(n).phase == Phase::Subscribed && i(n).pending.is_empty(),
            Act::Beat(n) => {
                // One that finds nothing new changes nothing, but where time counts.
                let news = i(n).owes < self.logged
                    || i(n).witness
                    || !self.redis.exists
                    || self.redis.last != i(n).last()
                    || self.tick > 0;
                news && i(n).phase == Phase::Ready && idle(n) && i(n).pending.is_empty()
            }
            Act::ReadSend(n) => (i(n).catching || i(n).phase == Phase::CatchingUp) && i(n).read.is_none(),
            Act::ReadApply(n) => i(n).read.is_some(),
            Act::Restart(_) => left.restarts > 0,
            Act::Publish => left.publishes > 0,
            Act::Xadd => left.xadds > 0,
            Act::Other => left.others > 0,
            Act::Trim => left.trims > 0 && self.redis.log.len() > 1,
            Act::Delete => left.deletes > 0 && self.redis.exists,
            Act::Failover(n) => left.failovers > 0 && self.redis.log.len() > n,
            Act::Tick => left.ticks > 0,
        }
    }

    fn act(&mut self, act: Act, config: &Config) {
        match act {
            Act::FillBegin(n) => {
                self.left.fills -= 1;
                self.both[n].fill = Some((self.both[n].table.position(), None));
            }
            Act::FillFetch(n) => {
                let version = self.upstream;
                if let Some(fill) = &mut self.both[n].fill {
                    fill.1 = Some(version);
                }
            }
            Act::FillStore(n) => {
                let i = &mut self.both[n];
                if let Some((as_of, Some(version))) = i.fill.take() {
                    let as_of = if config.broken == Broken::AsOfLate { i.table.position() } else { as_of };
                    if i.stands(as_of, config) {
                        i.memory = Some((version, as_of));
                        i.put = Some((version, as_of.id));
                    }
                }
            }
            Act::FillPut(n) => self.redis.cached = self.both[n].put.take(),
            Act::LookBegin(n) => {
                self.left.looks -= 1;
                let i = &mut self.both[n];
                if i.pending.is_empty() || config.broken == Broken::PendingReads {
                    i.look = Some(i.table.position());
                    if !config.split {
                        self.look_end(n, config);
                    }
                }
            }
            Act::LookEnd(n) => self.look_end(n, config),
            Act::WriteUpstream(n) => {
                self.left.writes -= 1;
                self.upstream += 1;
                let began = self.both[n].table.position();
                self.both[n].write = Some(Write { version: self.upstream, began, appended: None });
            }
            Act::WriteAppend(n) => {
                let Some(version) = self.both[n].write.map(|w| w.version) else { return };
                let entry = self.append(n, What::Key, version, None, config);
                if let Some(write) = &mut self.both[n].write {
                    write.appended = Some(entry);
                }
            }
            Act::WriteAck(n) => self.ack(n, false, config),
            Act::WriteAckAndKeep(n) => {
                self.left.answers -= 1;
                self.ack(n, true, config);
            }
            Act::AnswerStore(n) => self.answer_store(n, config),
            Act::WriteWithoutRedis(n) => {
                let i = &mut self.both[n];
                let Some(write) = i.write.take() else { return };
                if write.appended.is_some() || (i.phase != Phase::Down && i.pending.is_empty()) {
                    self.left.timeouts -= 1;
                }
                if config.broken != Broken::LocalAway {
                    i.local(What::Key, config);
                }
                i.pending.push_back((What::Key, write.version));
                i.owes = i.owes.max(write.version);
            }
            Act::Deliver(n) => self.deliver(n, config),
            Act::LogHeard(n) => self.log_heard(n, config),
            Act::Cut(n) => {
                self.left.cuts -= 1;
                self.both[n].subscribed = false;
            }
            Act::Notice(n) => {
                let i = &mut self.both[n];
                (i.phase, i.catching, i.read) = (Phase::Down, false, None);
                i.queue.clear();
            }
            Act::Subscribe(n) => {
                let i = &mut self.both[n];
                (i.phase, i.subscribed) = (Phase::Subscribed, true);
            }
            Act::FlushOne(n) => self.flush_one(n, config),
            Act::Begin(n) => self.begin(n, config),
            Act::Beat(n) => self.both[n].catching = true,
            Act::ReadSend(n) => {
                let (from, newest) = (self.both[n].last(), self.both[n].table.newest().ms);
                let read = self.redis.read(from, CHUNK, config);
                let (known, witness, at) = (self.logged, self.both[n].witness, self.tick);
                self.both[n].read = Some(Read { newest, known, witness, at, ..read });
                if !config.split {
                    self.read_apply(n, config);
                }
            }
            Act::ReadApply(n) => self.read_apply(n, config),
            Act::Restart(n) => {
                self.left.restarts -= 1;
                // What waited is lost with the process.
                self.both[n] = Instance { owes: self.logged, heard_at: 0, ..Instance::new(config) };
            }
            Act::Publish => {
                self.left.publishes -= 1;
                self.upstream += 1;
                let version = self.upstream;
                for i in self.both.iter_mut().filter(|i| i.subscribed) {
                    i.queue.push_back(Message::Published(version));
                }
            }
            Act::Xadd => {
                self.left.xadds -= 1;
                self.upstream += 1;
                let (id, covers) = (self.redis.next_id(self.redis.last, config), self.upstream);
                self.redis.exists = true;
                self.redis.log.push(Logged { id, previous: None, what: What::Key, covers });
                self.redis.last = id;
                self.note(What::Key, covers);
            }
            Act::Other => {
                self.left.others -= 1;
                let entry = self.redis.append(What::Other, 0, 0, None, config);
                self.ring(entry);
            }
            Act::Trim => {
                self.left.trims -= 1;
                self.redis.log.remove(0);
            }
            Act::Delete => {
                self.left.deletes -= 1;
                (self.redis.exists, self.redis.last) = (false, 0);
                self.redis.log.clear();
            }
            Act::Failover(n) => self.failover(n),
            Act::Tick => {
                self.left.ticks -= 1;
                self.tick += 1;
            }
        }
    }

    fn ring(&mut self, entry: Logged) {
        for i in self.both.iter_mut().filter(|i| i.subscribed) {
            i.queue.push_back(Message::Ring(entry));
        }
    }

    /// The invalidation for that version has got into the log.
    fn note(&mut self, what: What, covers: u8) {
        if what == What::Key {
            self.logged = self.logged.max(covers);
            let at = &mut self.logged_at[usize::from(covers)];
            *at = if *at == 0 { self.tick + 1 } else { *at };
        }
    }

    /// The script, and its ring of the bell.
    fn append(&mut self, n: usize, what: What, covers: u8, heard: Option<u64>, config: &Config) -> Logged {
        let newest = self.redis.last;
        let entry = self.redis.append(what, covers, self.both[n].table.newest().ms, heard, config);
        if entry.id > newest && self.redis.last == entry.id {
            self.ring(entry);
        }
        self.note(what, covers);
        entry
    }

    fn applied(&mut self, n: usize, entry: &Logged, config: &Config) -> Step {
        if self.lost.is_some_and(|(from, to, _)| (from..=to).contains(&entry.id))
            && !self.redis.log.iter().any(|e| e.id == entry.id)
        {
            self.both[n].witness = true;
        }
        let step = self.both[n].entry(entry, config);
        if step == Step::Forked {
            self.both[n].broken(entry.id, HorizonReason::RolledBack, config);
        }
        step
    }

    fn appended(&mut self, n: usize, entry: &Logged, config: &Config) {
        if self.applied(n, entry, config) == Step::Forked && config.broken != Broken::KeepsItToHimself {
            let all = self.append(n, What::All, 0, None, config);
            self.applied(n, &all, config);
        }
    }

    fn ack(&mut self, n: usize, keep: bool, config: &Config) {
        let Some(Write { version, began, appended: Some(entry) }) = self.both[n].write.take() else { return };
        self.appended(n, &entry, config);
        let i = &mut self.both[n];
        i.owes = i.owes.max(version);
        if keep {
            i.answer = Some((version, began, entry.id));
        }
    }

    /// When its body has come, and what was missing in the log or is not waited for any more.
    fn answer_store(&mut self, n: usize, config: &Config) {
        let i = &mut self.both[n];
        let Some((version, began, own)) = i.answer.take() else { return };
        if i.table.only(id(own), began, [NAMED.tag]) || config.broken == Broken::Only {
            i.memory = Some((version, Position::at(id(own))));
            i.put = Some((version, id(own)));
        }
    }

    fn flush_one(&mut self, n: usize, config: &Config) {
        let Some((what, covers)) = self.both[n].pending.front().copied() else { return };
        let entry = self.append(n, what, covers, None, config);
        self.appended(n, &entry, config);
        self.both[n].pending.pop_front();
    }

    fn look_end(&mut self, n: usize, config: &Config) {
        let i = &mut self.both[n];
        let (Some(here), Some((version, filled))) = (i.look.take(), self.redis.cached) else { return };
        let as_of = match config.broken {
            Broken::OfForeign => Position::at(filled),
            _ => Position::of_foreign(filled, here),
        };
        if i.stands(as_of, config) {
            i.memory = Some((version, as_of));
        }
    }

    /// `invalidate(all)`: for everybody, where the log can be written.
    fn tell_everybody(&mut self, n: usize, config: &Config) {
        if config.broken == Broken::KeepsItToHimself {
            return;
        }
        if self.both[n].pending.is_empty() {
            let all = self.append(n, What::All, 0, None, config);
            self.appended(n, &all, config);
        } else {
            self.both[n].local(What::All, config);
            self.both[n].pending.push_back((What::All, 0));
        }
    }

    fn deliver(&mut self, n: usize, config: &Config) {
        match self.both[n].queue.pop_front() {
            Some(Message::Ring(entry)) => {
                let i = &mut self.both[n];
                i.heard_up_to = i.heard_up_to.max(entry.id);
                match self.applied(n, &entry, config) {
                    Step::Applied | Step::Known => {}
                    Step::Gap { .. } => self.both[n].catching = true,
                    Step::Forked => self.tell_everybody(n, config),
                }
            }
            Some(Message::Published(version)) => {
                let i = &mut self.both[n];
                if config.broken != Broken::LocalHeard {
                    i.local(What::Key, config);
                }
                i.owes = i.owes.max(version);
                i.hearing = Some(version);
            }
            None => {}
        }
    }

    fn log_heard(&mut self, n: usize, config: &Config) {
        let i = &mut self.both[n];
        let Some(version) = i.hearing.take() else { return };
        i.owes = i.owes.max(version);
        if i.phase == Phase::Down || !i.pending.is_empty() {
            i.local(What::Key, config);
            i.pending.push_back((What::Key, version));
            return;
        }
        let heard_up_to = i.heard_up_to;
        let entry = self.append(n, What::Key, version, Some(heard_up_to), config);
        self.appended(n, &entry, config);
    }

    fn begin(&mut self, n: usize, config: &Config) {
        if !self.both[n].started {
            let read = self.redis.read(0, 1, config);
            let horizon = match read.entries.first() {
                None => read.last,
                Some(Logged { previous: Some(previous), what, .. }) if *what != What::Begin => *previous,
                Some(oldest) => oldest.id,
            };
            let i = &mut self.both[n];
            if config.broken == Broken::HorizonStart {
                i.table.next(id(horizon), &NAMED.none, Timestamp(0));
            } else {
                i.table.start(id(horizon));
            }
            i.started = true;
        }
        self.both[n].phase = Phase::CatchingUp;
    }

    fn read_apply(&mut self, n: usize, config: &Config) {
        let Some(read) = self.both[n].read.take() else { return };
        let newest = if config.broken == Broken::Newest { read.from } else { read.newest };
        match on_chain(id(read.from), id(newest), &read.chunk()) {
            Chain::Whole => {}
            Chain::Broken => return self.both[n].broken(read.last, HorizonReason::Broken, config),
            Chain::RolledBack => {
                self.both[n].broken(read.last, HorizonReason::RolledBack, config);
                if config.broken == Broken::KeepsItToHimself {
                    self.caught_up(n, &read);
                }
                return self.tell_everybody(n, config);
            }
        }
        for entry in &read.entries {
            let i = &mut self.both[n];
            i.owes = i.owes.max(entry.covers);
            i.make_room(entry.what, config);
            if i.table.next(id(entry.id), entry.what.named(), Timestamp(0)) == Step::Forked {
                i.broken(entry.id, HorizonReason::RolledBack, config);
                self.tell_everybody(n, config);
            }
        }
        if read.entries.len() < CHUNK {
            self.caught_up(n, &read);
        }
    }

    /// The log has been read to its end: from now on the instance owes all that was in it when that was asked for.
    fn caught_up(&mut self, n: usize, read: &Read) {
        if let Some((.., lost)) = self.lost
            && read.witness
        {
            // It has applied what was lost, so it must have noticed, and have told everybody.
            self.logged = self.logged.max(lost);
            self.both[n].owes = self.both[n].owes.max(lost);
            self.both[n].witness = false;
        }
        let i = &mut self.both[n];
        i.owes = i.owes.max(read.known);
        i.catching = false;
        i.heard_at = i.heard_at.max(read.at);
        if i.phase == Phase::CatchingUp {
            i.phase = Phase::Ready;
            i.heard_up_to = i.last();
        }
    }

    fn failover(&mut self, loses: usize) {
        self.left.failovers -= 1;
        let kept = self.redis.log.len() - loses;
        let lost = self.redis.log.split_off(kept);
        let (from, to) = (lost[0].id, self.redis.last);
        let newest = lost.iter().map(|e| e.covers).max().unwrap_or(0);
        self.redis.last = self.redis.log[kept - 1].id;
        self.redis.heard = self.redis.heard.filter(|(id, _)| *id < from);
        self.lost = Some((from, to, newest));
        self.logged = self.redis.log.iter().map(|e| e.covers).max().unwrap_or(0);
        self.logged_at.iter_mut().skip(1 + usize::from(self.logged)).for_each(|at| *at = 0);
        for i in &mut self.both {
            i.witness |= i.table.newest().ms >= from;
        }
    }
}

struct Found {
    states: usize,
    depth: usize,
    seconds: f64,
    /// The shortest way to a stale answer.
    counterexample: Option<(Vec<Act>, String)>,
}

/// Visits every state that can be reached, nearest first, until one serves what it owes not to.
fn search(config: &Config) -> Found {
    let began = Instant::now();
    let hasher = foldhash::quality::FixedState::default();
    let mut seen = HashSet::with_hasher(foldhash::fast::FixedState::default());
    let first = World::new(config);
    seen.insert(first.fingerprint(&hasher));
    // Which state each state was reached from, and how.
    let mut trail: Vec<(u32, Act)> = vec![(0, Act::Tick)];
    let mut now = vec![(0u32, first)];
    let mut depth = 0;
    let done =
        |states, depth, counterexample| Found { states, depth, seconds: began.elapsed().as_secs_f64(), counterexample };
    while !now.is_empty() {
        let mut next = Vec::new();
        for (at, world) in now {
            for act in ACTS.iter().filter(|act| world.can(**act)) {
                let mut after = world.clone();
                after.act(*act, config);
                if !seen.insert(after.fingerprint(&hasher)) {
                    continue;
                }
                trail.push((at, *act));
                let here = trail.len() - 1;
                if let Some(stale) = after.stale(config) {
                    let mut acts = Vec::new();
                    let mut back = here;
                    while back > 0 {
                        let (before, act) = trail[back];
                        acts.push(act);
                        back = before as usize;
                    }
                    acts.reverse();
                    return done(trail.len(), depth + 1, Some((acts, stale)));
                }
                if !after.settled() {
                    next.push((u32::try_from(here).unwrap(), after));
                }
            }
        }
        depth += 1;
        now = next;
    }
    done(trail.len(), depth, None)
}

const NONE: Left = Left {
    fills: 0,
    looks: 0,
    writes: 0,
    answers: 0,
    publishes: 0,
    xadds: 0,
    others: 0,
    timeouts: 0,
    cuts: 0,
    trims: 0,
    deletes: 0,
    failovers: 0,
    restarts: 0,
    ticks: 0,
};
const WORLD: Config = Config {
    name: "",
    broken: Broken::Nothing,
    left: NONE,
    capacity: 1000,
    clock_goes_on: true,
    started: true,
    split: false,
};

/// The worlds that every test run searches. Each bounds other things; together they have everything.
const WORLDS: [Config; 13] = [
    Config {
        name: "Redis away",
        left: Left { fills: 1, looks: 1, writes: 1, timeouts: 1, others: 1, ..NONE },
        ..WORLD
    },
    Config { name: "races", left: Left { fills: 1, looks: 1, writes: 2, ..NONE }, ..WORLD },
    Config { name: "races within reads", left: Left { fills: 1, looks: 1, writes: 1, ..NONE }, split: true, ..WORLD },
    Config { name: "answers of writes", left: Left { looks: 1, writes: 2, answers: 1, ..NONE }, ..WORLD },
    Config { name: "published", left: Left { fills: 1, looks: 1, publishes: 2, ..NONE }, ..WORLD },
    Config { name: "appended by others", left: Left { fills: 1, looks: 1, xadds: 1, others: 1, ..NONE }, ..WORLD },
    Config { name: "subscription lost", left: Left { fills: 1, writes: 1, others: 1, cuts: 1, ..NONE }, ..WORLD },
    Config { name: "trimmed", left: Left { fills: 1, writes: 1, others: 1, trims: 2, ..NONE }, ..WORLD },
    Config { name: "deleted", left: Left { fills: 1, looks: 1, writes: 1, deletes: 1, ..NONE }, ..WORLD },
    Config { name: "failover", left: Left { fills: 1, looks: 1, writes: 1, failovers: 1, ..NONE }, ..WORLD },
    Config { name: "restart", left: Left { fills: 1, looks: 1, writes: 1, restarts: 1, ..NONE }, ..WORLD },
    Config { name: "full", left: Left { fills: 1, looks: 1, writes: 1, others: 1, ..NONE }, capacity: 1, ..WORLD },
    Config { name: "strict", left: Left { fills: 1, writes: 1, ticks: 4, ..NONE }, ..WORLD },
];

/// Larger ones, for an afternoon.
const LARGE: [Config; 9] = [
    Config {
        name: "failover, subscription lost",
        left: Left { fills: 1, writes: 1, cuts: 1, failovers: 1, ..NONE },
        ..WORLD
    },
    Config { name: "strict", left: Left { fills: 1, writes: 1, cuts: 1, ticks: 4, ..NONE }, ..WORLD },
    Config { name: "answers of writes", left: Left { fills: 1, writes: 2, answers: 1, ..NONE }, ..WORLD },
    Config {
        name: "subscription lost, trimmed",
        left: Left { fills: 1, looks: 1, writes: 1, others: 1, cuts: 1, trims: 1, ..NONE },
        ..WORLD
    },
    Config { name: "deleted", left: Left { fills: 1, looks: 1, writes: 1, cuts: 1, deletes: 1, ..NONE }, ..WORLD },
    Config {
        name: "restart",
        left: Left { fills: 1, looks: 1, writes: 1, others: 1, restarts: 1, trims: 2, ..NONE },
        ..WORLD
    },
    Config {
        name: "failover ahead of a gap",
        left: Left { fills: 1, writes: 1, others: 1, failovers: 1, ..NONE },
        ..WORLD
    },
    Config { name: "failover", left: Left { fills: 1, looks: 1, writes: 1, others: 1, failovers: 1, ..NONE }, ..WORLD },
    Config { name: "two fills", left: Left { fills: 2, looks: 2, writes: 2, ..NONE }, ..WORLD },
];

fn tell(name: &str, found: &Found) {
    let Found { states, depth, seconds, .. } = found;
    println!("{name}: {states} states, {depth} deep, {seconds:.1} s");
    if let Some((acts, stale)) = &found.counterexample {
        println!("  {} steps: {acts:?}\n  {stale}", acts.len());
    }
}

fn none_is_stale(worlds: &[Config]) {
    let only = std::env::var("ASIDECAR_MODEL").ok();
    for world in worlds.iter().filter(|w| only.as_deref().is_none_or(|o| o == w.name)) {
        let found = search(world);
        tell(world.name, &found);
        assert!(found.counterexample.is_none(), "{}: {:?}", world.name, found.counterexample);
    }
}

#[test]
fn nothing_is_served_stale_in_any_interleaving() {
    none_is_stale(&WORLDS);
}

#[test]
#[ignore = "takes minutes; ASIDECAR_MODEL names one world of it"]
fn nothing_is_served_stale_in_larger_worlds() {
    none_is_stale(&LARGE);
}

/// Each rule, left out, and a small world in which that shows.
const LEFT_OUT: [(Broken, Left); 14] = [
    (Broken::AsOf, Left { fills: 1, writes: 1, ..NONE }),
    (Broken::AsOfLate, Left { fills: 1, writes: 1, ..NONE }),
    (Broken::OfForeign, Left { fills: 1, looks: 1, others: 1, writes: 1, timeouts: 1, ..NONE }),
    (Broken::PendingReads, Left { fills: 1, looks: 1, writes: 1, timeouts: 1, others: 1, ..NONE }),
    (Broken::Gap, Left { fills: 1, xadds: 1, others: 1, ..NONE }),
    (Broken::HorizonStart, Left { fills: 1, looks: 1, writes: 1, others: 1, restarts: 1, trims: 2, ..NONE }),
    (Broken::HorizonTrimmed, Left { fills: 1, writes: 1, others: 1, cuts: 1, trims: 2, ..NONE }),
    (Broken::KeepsItToHimself, Left { fills: 1, writes: 1, cuts: 1, failovers: 1, ..NONE }),
    (Broken::Newest, Left { fills: 1, writes: 1, others: 1, cuts: 1, failovers: 1, ..NONE }),
    (Broken::LocalAway, Left { fills: 1, writes: 1, timeouts: 1, ..NONE }),
    (Broken::LocalHeard, Left { fills: 1, publishes: 1, ..NONE }),
    (Broken::Full, Left { fills: 1, writes: 1, others: 1, ..NONE }),
    (Broken::DedupAlways, Left { fills: 1, looks: 1, publishes: 2, ..NONE }),
    (Broken::Only, Left { writes: 2, answers: 1, ..NONE }),
];

#[test]
fn without_a_rule_there_is_a_counterexample() {
    for (broken, left) in LEFT_OUT {
        let capacity = if broken == Broken::Full { 1 } else { 1000 };
        let found = search(&Config { broken, left, capacity, ..WORLD });
        tell(&format!("{broken:?}"), &found);
        assert!(found.counterexample.is_some(), "{broken:?} is not needed");
    }
}

#[test]
fn logging_a_published_message_for_each_who_heard_it_costs_misses_only() {
    let left = Left { fills: 1, publishes: 1, ..NONE };
    assert!(search(&Config { broken: Broken::DedupNever, left, ..WORLD }).counterexample.is_none());
}

/// The one thing that is assumed of clocks: after a failover that lost entries, their ids are not given again.
#[test]
fn ids_that_are_given_again_after_a_failover_hide_it() {
    let left = Left { fills: 1, writes: 1, others: 1, failovers: 1, ..NONE };
    let found = search(&Config { left, clock_goes_on: false, ..WORLD });
    tell("ids given again", &found);
    assert!(found.counterexample.is_some());
}
