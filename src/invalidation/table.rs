//! The log's reader: a small, pure state machine that folds invalidations into tag → position and a horizon.
//!
//! Invariants:
//! * `last` moves only over a gapless chain: every entry with an id up to `last` has been applied.
//! * An entry is standing only if `as_of >= horizon` and no tag's position is after its `as_of`.
//! * Whatever is forgotten (a full table, a broken chain) moves the horizon: needless misses, never stale reads.
//!
//! It does no I/O and knows no clock; [`super::log`] shares it between threads.

use std::collections::{BTreeMap, HashMap};

use super::position::{LogId, Position};
use super::{Invalidation, TagId};
use crate::clock::Timestamp;
use crate::words::words;

/// More announced writes than this at a time are taken for made.
const MAX_INTENTS: usize = 10_000;

/// How many entries may be remembered ahead of a gap; more means the gap is caught up instead.
const MAX_AHEAD: usize = 4096;

words! {
    /// Why the horizon moved.
    HorizonReason {
        /// An invalidation named everything.
        All => "all",
        /// The table was full and dropped its oldest tags.
        Full => "full",
        /// This instance began to follow the log.
        Start => "start",
        /// The log was lost, trimmed or begun anew: what was missed is unknown.
        Broken => "broken",
        /// The log went back behind what had been applied (a failover that lost writes).
        RolledBack => "rolled_back",
        /// An entry of a newer format could not be read.
        Unreadable => "unreadable",
    }
}

/// What happened to a log entry that was handed to [`Table::entry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was the next one; `last` moved.
    Applied,
    /// It was known already.
    Known,
    /// It contradicts what was applied, be it along the chain or ahead of it: the log went back and grew another way.
    Forked,
    /// It is applied, but something between `from` and it is missing: read the log after `from`.
    Gap {
        /// The last contiguous id.
        from: LogId,
    },
}

/// Whether an entry still stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing named it since it was filled.
    Valid,
    /// A soft invalidation named it: it is stale.
    Soft,
    /// An invalidation named it, or the horizon passed it: it must not be used.
    Invalid,
}

#[derive(Clone, Copy, Default)]
struct Mark {
    hard: Position,
    soft: Position,
    /// The newest hard one but for `hard` itself.
    before: Position,
    /// When it was last touched, so that marks older than any entry's life can go.
    at: Timestamp,
}

/// The folded log. See the module's text for its invariants.
#[cfg_attr(test, derive(Clone))]
pub struct Table {
    marks: HashMap<TagId, Mark, foldhash::fast::FixedState>,
    horizon: Position,
    soft_horizon: Position,
    /// When everything was invalidated last.
    all_at: Timestamp,
    last: LogId,
    local: u64,
    /// Entries applied ahead of the chain: predecessor → id.
    ahead: BTreeMap<LogId, LogId>,
    /// Writes that were announced and are not known to be over: until when, and what they may have changed.
    intents: BTreeMap<LogId, (Timestamp, Invalidation)>,
    capacity: usize,
    moves: Vec<HorizonReason>,
}

impl Table {
    /// An empty table that holds at most `capacity` tags (at least 1).
    pub fn new(capacity: usize) -> Table {
        Table {
            marks: HashMap::default(),
            horizon: Position::default(),
            soft_horizon: Position::default(),
            all_at: Timestamp(0),
            last: LogId::ZERO,
            local: 0,
            ahead: BTreeMap::new(),
            intents: BTreeMap::new(),
            capacity: capacity.max(1),
            moves: Vec::new(),
        }
    }

    /// What a fill that begins now has seen: its as-of.
    pub fn position(&self) -> Position {
        Position { id: self.last, local: self.local }
    }

    /// The newest id of the log that is known, along the chain or ahead of it.
    pub fn newest(&self) -> LogId {
        self.ahead.values().copied().fold(self.last, LogId::max)
    }

    /// Everything as-of before it is invalid.
    pub fn horizon(&self) -> Position {
        self.horizon
    }

    /// How many tags are remembered.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether no tag is remembered.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Why the horizon moved since the last call, for the metric.
    pub fn take_moves(&mut self) -> Vec<HorizonReason> {
        std::mem::take(&mut self.moves)
    }

    /// Whether an entry with that as-of and those tags still stands.
    pub fn standing(&self, as_of: Position, tags: impl IntoIterator<Item = TagId>) -> Standing {
        if as_of < self.horizon {
            return Standing::Invalid;
        }
        let mut soft = as_of < self.soft_horizon;
        for tag in tags {
            if let Some(mark) = self.marks.get(&tag) {
                if mark.hard > as_of {
                    return Standing::Invalid;
                }
                soft |= mark.soft > as_of;
            }
        }
        if soft { Standing::Soft } else { Standing::Valid }
    }

    /// Whether nothing but the entry `own` itself has named any of these tags since `after`, and nothing is missing
    /// up to it.
    pub fn only(&self, own: LogId, after: Position, tags: impl IntoIterator<Item = TagId>) -> bool {
        let untouched = |mark: &Mark| {
            let others = if mark.hard == Position::at(own) { mark.before } else { mark.hard };
            others <= after && mark.soft <= after
        };
        self.last >= own
            && self.horizon <= after
            && self.soft_horizon <= after
            && tags.into_iter().all(|tag| self.marks.get(&tag).is_none_or(untouched))
    }

    /// Whether nothing has named any of these tags, nor everything been invalidated, at `since` or later.
    pub fn quiet(&self, since: Timestamp, tags: impl IntoIterator<Item = TagId>) -> bool {
        self.all_at < since && tags.into_iter().all(|tag| self.marks.get(&tag).is_none_or(|mark| mark.at < since))
    }

    /// Applies an entry of the log. `previous` is the id of the entry before it, as its appender recorded it.
    pub fn entry(&mut self, id: LogId, previous: LogId, what: &Invalidation, now: Timestamp) -> Step {
        let passed = id <= self.last;
        // An announced write leaves no mark to tell by, and holds nothing yet.
        if passed && (what.intent.is_some() || self.shows(Position::at(id), what)) {
            return Step::Known;
        }
        if let Some(over) = what.done {
            self.intents.remove(&over);
        }
        match what.intent {
            Some(until) if self.intents.len() < MAX_INTENTS => {
                let named = Invalidation { intent: None, ..what.clone() };
                self.intents.insert(id, (Timestamp(until), named));
            }
            // One that can't be remembered holds at once.
            _ => self.mark(Position::at(id), what, now),
        }
        // What was passed and never applied is not on the chain, nor is what was applied ahead and is passed now.
        let skips = |(&after, &next): (&LogId, &LogId)| after < id && next != id;
        if passed || previous < self.last || (previous == self.last && self.ahead.first_key_value().is_some_and(skips))
        {
            return Step::Forked;
        }
        if previous > self.last {
            self.ahead.insert(previous, id);
            if self.ahead.len() > MAX_AHEAD {
                self.ahead.pop_first();
            }
            return Step::Gap { from: self.last };
        }
        self.advance(id);
        Step::Applied
    }

    /// Applies an entry that was read from the log in order, right after `last`: it needs no predecessor.
    pub fn next(&mut self, id: LogId, what: &Invalidation, now: Timestamp) -> Step {
        self.entry(id, self.last, what, now)
    }

    /// Passes an entry that can't be read: it may have named anything.
    pub fn unreadable(&mut self, id: LogId, now: Timestamp) -> Step {
        self.raise(Position::at(id), HorizonReason::Unreadable);
        self.next(id, &Invalidation::default(), now)
    }

    /// Applies an invalidation that is not in the log yet; it beats everything filled before this call and
    /// nothing after.
    pub fn local(&mut self, what: &Invalidation, now: Timestamp) -> Position {
        self.local += 1;
        let at = self.position();
        self.mark(at, what, now);
        at
    }

    /// Invalidates what announced writes may have changed that are overdue by now: nobody will say any more that they
    /// are over. Returns what was invalidated.
    pub fn overdue(&mut self, now: Timestamp) -> Vec<Invalidation> {
        let overdue: Vec<LogId> =
            self.intents.iter().filter(|(_, (until, _))| *until < now).map(|(id, _)| *id).collect();
        let named: Vec<Invalidation> = overdue.iter().filter_map(|id| Some(self.intents.remove(id)?.1)).collect();
        for what in &named {
            self.local(what, now);
        }
        named
    }

    /// Whether an announced write is overdue by now.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.intents.values().any(|(until, _)| *until < now)
    }

    /// How many writes are announced and not over.
    pub fn intents(&self) -> usize {
        self.intents.len()
    }

    /// Without Redis the log is a counter in this process: appends, applies, and returns the new id.
    pub fn append(&mut self, what: &Invalidation, now: Timestamp) -> LogId {
        let id = if now.0 > self.last.ms {
            LogId { ms: now.0, seq: 0 }
        } else {
            LogId { ms: self.last.ms, seq: self.last.seq + 1 }
        };
        self.next(id, what, now);
        id
    }

    /// Begins to follow a log: what is as-of before `horizon` can't be checked against it, so it is invalid.
    pub fn start(&mut self, horizon: LogId) {
        self.last = self.last.max(horizon);
        self.ahead.clear();
        self.raise(Position::at(horizon), HorizonReason::Start);
    }

    /// The chain is broken: nothing filled up to now is valid any more, and the chain goes on at `newest`
    /// (which may lie before what had been applied).
    pub fn broken(&mut self, newest: LogId, reason: HorizonReason) {
        self.local += 1;
        let beyond =
            if newest > self.last { Position::at(newest) } else { Position { id: self.last, local: self.local } };
        self.last = beyond.id;
        self.ahead.clear();
        self.raise(beyond, reason);
    }

    /// Drops marks that were last touched before `oldest`: no entry that old is alive.
    pub fn forget(&mut self, oldest: Timestamp) {
        self.marks.retain(|_, m| m.at >= oldest);
    }

    fn advance(&mut self, id: LogId) {
        self.last = id;
        while let Some((&previous, &next)) = self.ahead.first_key_value() {
            if previous > self.last {
                break;
            }
            self.ahead.pop_first();
            self.last = self.last.max(next);
        }
    }

    /// Whether the table has what applying this there does to it.
    fn shows(&self, at: Position, what: &Invalidation) -> bool {
        let reached = |hard: Position, soft: Position| hard >= at || (what.soft && soft >= at);
        reached(self.horizon, self.soft_horizon)
            || (!what.all
                && what.tag_ids().all(|tag| self.marks.get(&tag).is_some_and(|mark| reached(mark.hard, mark.soft))))
    }

    fn mark(&mut self, at: Position, what: &Invalidation, now: Timestamp) {
        if what.all {
            self.all_at = self.all_at.max(now);
            if what.soft {
                self.soft_horizon = self.soft_horizon.max(at);
            } else {
                self.raise(at, HorizonReason::All);
            }
        }
        for tag in what.tag_ids() {
            if self.marks.len() >= self.capacity && !self.marks.contains_key(&tag) {
                self.drop_oldest();
            }
            let mark = self.marks.entry(tag).or_default();
            if what.soft {
                mark.soft = mark.soft.max(at);
            } else if at > mark.hard {
                (mark.before, mark.hard) = (mark.hard, at);
            } else if at < mark.hard {
                mark.before = mark.before.max(at);
            }
            mark.at = mark.at.max(now);
        }
    }

    fn raise(&mut self, to: Position, reason: HorizonReason) {
        if to > self.horizon {
            self.horizon = to;
            self.moves.push(reason);
        }
    }

    /// Makes room for a tenth of the table by dropping the oldest marks; the horizon moves to the newest
    /// position dropped, which covers all of them.
    fn drop_oldest(&mut self) {
        let newest_of = |m: &Mark| m.hard.max(m.soft);
        let mut positions: Vec<Position> = self.marks.values().map(newest_of).collect();
        let nth = (positions.len() / 10).min(positions.len().saturating_sub(1));
        let (_, cut, _) = positions.select_nth_unstable(nth);
        let cut = *cut;
        self.marks.retain(|_, m| newest_of(m) > cut);
        self.raise(cut, HorizonReason::Full);
    }
}

/// Two tables with one hash behave alike from then on: what a search remembers of the states it has visited.
#[cfg(test)]
impl std::hash::Hash for Table {
    fn hash<H: std::hash::Hasher>(&self, h: &mut H) {
        let mut marks: Vec<_> = self.marks.iter().map(|(t, m)| (t, m.hard, m.soft, m.before, m.at.0)).collect();
        marks.sort_unstable();
        (marks, self.horizon, self.soft_horizon, self.last, self.local, &self.ahead).hash(h);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1);

    fn id(n: u64) -> LogId {
        LogId { ms: n, seq: 0 }
    }
    fn tags(names: &[&str]) -> Vec<TagId> {
        names.iter().flat_map(|n| Invalidation::tag(*n).tag_ids().collect::<Vec<_>>()).collect()
    }
    fn tag(name: &str) -> Invalidation {
        Invalidation::tag(name)
    }
    fn following(last: u64) -> Table {
        let mut t = Table::new(1000);
        t.start(id(last));
        t
    }

    #[test]
    fn rule_1_a_local_invalidation_beats_what_was_filled_before_it_and_nothing_after() {
        let mut t = following(5);
        let before = t.position();
        t.local(&tag("a"), NOW);
        let after = t.position();
        assert_eq!(t.standing(before, tags(&["a"])), Standing::Invalid);
        assert_eq!(t.standing(after, tags(&["a"])), Standing::Valid);
        assert_eq!(after.id, id(5), "the log itself did not move");
    }

    #[test]
    fn rule_1_what_another_process_filled_does_not_profit_from_this_ones_local_sequence() {
        let mut t = following(5);
        t.local(&tag("a"), NOW);
        assert_eq!(t.standing(Position::at(id(5)), tags(&["a"])), Standing::Invalid);
    }

    #[test]
    fn rule_1_a_local_invalidation_beats_what_another_process_filled_further_ahead_in_the_log() {
        let mut t = following(5);
        let ahead = id(9);
        let as_of = Position::of_foreign(ahead, t.position());
        assert_eq!(t.standing(as_of, tags(&["a"])), Standing::Valid);
        t.local(&tag("a"), NOW);
        assert_eq!(t.standing(as_of, tags(&["a"])), Standing::Invalid);
    }

    #[test]
    fn an_announced_write_holds_when_it_is_overdue_and_not_when_it_is_over() {
        let mut t = following(5);
        let announced = Invalidation { intent: Some(100), ..tag("a") };
        t.entry(id(6), id(5), &announced, NOW);
        let filled = t.position();
        let standing = |t: &Table| t.standing(filled, tags(&["a"]));
        assert_eq!((t.position().id, standing(&t)), (id(6), Standing::Valid), "it may fail yet");
        assert!(t.overdue(Timestamp(100)).is_empty());
        assert_eq!(t.overdue(Timestamp(101)), [tag("a")]);
        assert_eq!((standing(&t), t.intents()), (Standing::Invalid, 0));

        t.entry(id(7), id(6), &announced, NOW);
        t.entry(id(8), id(7), &Invalidation { done: Some(id(7)), ..Invalidation::default() }, NOW);
        let filled = t.position();
        assert!(t.overdue(Timestamp(500)).is_empty(), "it failed, and changed nothing");
        assert_eq!(t.standing(filled, tags(&["a"])), Standing::Valid);
        t.entry(id(9), id(8), &announced, NOW);
        t.entry(id(10), id(9), &Invalidation { done: Some(id(9)), ..tag("a") }, NOW);
        assert_eq!(t.standing(filled, tags(&["a"])), Standing::Invalid, "its end names what it changed");
    }

    #[test]
    fn what_was_named_lately_is_known() {
        let mut t = following(5);
        assert!(t.quiet(Timestamp(1), tags(&["a"])));
        t.entry(id(6), id(5), &tag("a"), Timestamp(100));
        assert!(!t.quiet(Timestamp(100), tags(&["b", "a"])) && t.quiet(Timestamp(101), tags(&["a"])));
        t.entry(id(7), id(6), &Invalidation::all(), Timestamp(200));
        assert!(!t.quiet(Timestamp(200), tags(&["b"])) && t.quiet(Timestamp(201), tags(&["b"])));
    }

    #[test]
    fn an_own_entry_is_told_from_what_others_invalidated_meanwhile() {
        let own = |t: &Table, after| t.only(id(8), after, tags(&["a"]));
        let mut t = following(5);
        let after = t.position();
        t.entry(id(6), id(5), &tag("b"), NOW);
        assert!(!own(&t, after), "it is not there yet");
        t.entry(id(8), id(6), &tag("a"), NOW);
        assert!(own(&t, after));
        t.entry(id(9), id(8), &tag("b"), NOW);
        assert!(own(&t, after), "others may be named at any time");
        t.entry(id(10), id(9), &tag("a"), NOW);
        assert!(!own(&t, after));

        let mut t = following(5);
        t.entry(id(6), id(5), &tag("a"), NOW);
        t.entry(id(8), id(6), &tag("a"), NOW);
        assert!(!own(&t, after) && own(&t, Position::at(id(6))));

        let mut t = following(5);
        t.entry(id(8), id(6), &tag("a"), NOW);
        assert!(!own(&t, after), "something is missing before it");
        t.entry(id(6), id(5), &tag("a"), NOW);
        assert!(!own(&t, after), "and it named the same");

        let mut t = following(5);
        t.local(&tag("a"), NOW);
        t.entry(id(8), id(5), &tag("a"), NOW);
        assert!(!own(&t, after), "what is not in the log yet counts too");

        for (all, soft) in [(true, false), (true, true), (false, true)] {
            let mut t = following(5);
            let other =
                if all { Invalidation { soft, ..Invalidation::all() } } else { Invalidation { soft, ..tag("a") } };
            t.entry(id(6), id(5), &other, NOW);
            t.entry(id(8), id(6), &tag("a"), NOW);
            assert!(!own(&t, after), "all {all} soft {soft}");
        }
    }

    #[test]
    fn rule_2_an_own_entry_applies_at_once_but_the_last_id_waits_for_the_gap_to_close() {
        let mut t = following(5);
        assert_eq!(t.entry(id(8), id(7), &tag("a"), NOW), Step::Gap { from: id(5) });
        assert_eq!(t.standing(Position::at(id(5)), tags(&["a"])), Standing::Invalid, "applied at once");
        assert_eq!(t.position().id, id(5), "but not contiguous");
        t.entry(id(6), id(5), &tag("b"), NOW);
        assert_eq!(t.position().id, id(6));
        t.entry(id(7), id(6), &tag("c"), NOW);
        assert_eq!(t.position().id, id(8), "the chain runs through what was applied ahead");
    }

    #[test]
    fn rule_2_a_fill_that_began_during_a_gap_is_checked_against_what_the_gap_held() {
        let mut t = following(5);
        t.entry(id(8), id(7), &tag("x"), NOW);
        let as_of = t.position();
        t.entry(id(7), id(5), &tag("a"), NOW);
        assert_eq!(t.standing(as_of, tags(&["a"])), Standing::Invalid);
    }

    #[test]
    fn rule_3_after_a_start_nothing_from_before_the_oldest_retained_entry_is_trusted() {
        let mut t = Table::new(10);
        let before_redis = t.position();
        t.start(id(4));
        t.next(id(5), &tag("a"), NOW);
        assert_eq!(t.standing(before_redis, tags(&["zzz"])), Standing::Invalid);
        assert_eq!(t.standing(Position::at(id(3)), tags(&["zzz"])), Standing::Invalid);
        assert_eq!(t.standing(Position::at(id(4)), tags(&["zzz"])), Standing::Valid);
        assert_eq!(t.standing(Position::at(id(4)), tags(&["a"])), Standing::Invalid);
    }

    #[test]
    fn rule_4_a_broken_chain_invalidates_all_that_was_filled_before_it_was_noticed() {
        for (newest, reason) in [(id(9), HorizonReason::Broken), (id(2), HorizonReason::RolledBack)] {
            let mut t = following(5);
            let before = t.position();
            t.broken(newest, reason);
            assert_eq!(t.standing(before, tags(&[])), Standing::Invalid);
            let theirs = t.standing(Position::at(newest), tags(&[]));
            let want = if newest > id(5) { Standing::Valid } else { Standing::Invalid };
            assert_eq!(theirs, want, "who has seen all up to the newest id is good, who is behind us is not");
            assert_eq!(t.standing(t.position(), tags(&[])), Standing::Valid, "new fills are good");
            assert!(t.position().id >= id(5), "the position never goes back");
            assert_eq!(t.take_moves().last(), Some(&reason));
        }
    }

    #[test]
    fn rule_4_an_entry_whose_predecessor_lies_before_the_last_one_applied_shows_a_fork() {
        let mut t = following(5);
        assert_eq!(t.entry(id(9), id(3), &tag("a"), NOW), Step::Forked);
        assert_eq!(t.position().id, id(5), "it is not followed");
        assert_eq!(t.standing(Position::at(id(5)), tags(&["a"])), Standing::Invalid, "but applied");
    }

    #[test]
    fn rule_4_an_entry_that_was_passed_and_never_applied_shows_a_fork() {
        let mut t = following(5);
        t.next(id(7), &tag("b"), NOW);
        // The log lost 6 while the reply to who appended it was on its way, and has gone on with 7.
        assert_eq!(t.entry(id(6), id(5), &tag("a"), NOW), Step::Forked);
        assert_eq!(t.standing(Position::at(id(5)), tags(&["a"])), Standing::Invalid, "but it is applied");
        assert_eq!(t.position().id, id(7), "and the position does not go back");
        assert_eq!(t.entry(id(6), id(5), &tag("a"), NOW), Step::Known);
    }

    #[test]
    fn rule_4_an_entry_that_leaves_out_what_was_applied_ahead_shows_a_fork() {
        let mut t = following(5);
        t.entry(id(8), id(7), &tag("a"), NOW);
        assert_eq!(t.newest(), id(8));
        assert_eq!(t.entry(id(9), id(5), &tag("b"), NOW), Step::Forked);
        assert_eq!(t.position().id, id(5));
    }

    #[test]
    fn rule_7_a_soft_invalidation_makes_stale_what_a_hard_one_makes_invalid() {
        let mut t = following(5);
        let as_of = t.position();
        t.next(id(6), &Invalidation { soft: true, ..tag("a") }, NOW);
        assert_eq!(t.standing(as_of, tags(&["a"])), Standing::Soft);
        t.next(id(7), &tag("a"), NOW);
        assert_eq!(t.standing(as_of, tags(&["a"])), Standing::Invalid);
        let as_of = t.position();
        t.next(id(8), &Invalidation { soft: true, ..Invalidation::all() }, NOW);
        assert_eq!(t.standing(as_of, tags(&[])), Standing::Soft);
    }

    #[test]
    fn rule_7_a_soft_invalidation_does_not_heal_a_hard_one() {
        let mut t = following(5);
        let as_of = t.position();
        t.next(id(6), &tag("a"), NOW);
        t.next(id(7), &Invalidation { soft: true, ..tag("a") }, NOW);
        assert_eq!(t.standing(as_of, tags(&["a"])), Standing::Invalid);
    }

    #[test]
    fn rule_8_all_moves_the_horizon() {
        let mut t = following(5);
        let as_of = t.position();
        t.next(id(6), &Invalidation::all(), NOW);
        assert_eq!(t.horizon(), Position::at(id(6)));
        assert_eq!(t.standing(as_of, tags(&["whatever"])), Standing::Invalid);
        assert_eq!(t.standing(t.position(), tags(&["whatever"])), Standing::Valid);
    }

    #[test]
    fn rule_8_a_full_table_drops_its_oldest_and_moves_the_horizon_to_the_newest_dropped() {
        let mut t = Table::new(10);
        t.start(id(1));
        let old = t.position();
        for n in 2..=12 {
            t.next(id(n), &tag(&format!("t{n}")), NOW);
        }
        assert!(t.len() <= 10);
        assert_eq!(t.standing(old, tags(&["t2"])), Standing::Invalid, "its mark went, the horizon took over");
        assert!(t.horizon() >= Position::at(id(2)) && t.horizon() < Position::at(id(12)));
        assert_eq!(t.standing(Position::at(id(11)), tags(&["t12"])), Standing::Invalid);
        assert_eq!(t.take_moves(), [HorizonReason::Start, HorizonReason::Full]);
    }

    #[test]
    fn rule_9_marks_older_than_any_entry_can_go() {
        let mut t = following(5);
        t.next(id(6), &tag("old"), Timestamp(100));
        t.next(id(7), &tag("new"), Timestamp(200));
        t.forget(Timestamp(150));
        assert_eq!(t.len(), 1);
        assert_eq!(t.standing(Position::at(id(5)), tags(&["new"])), Standing::Invalid);
    }

    #[test]
    fn an_entry_heard_twice_changes_nothing() {
        let mut t = following(5);
        assert_eq!(t.entry(id(6), id(5), &tag("a"), NOW), Step::Applied);
        let after = t.position();
        assert_eq!(t.entry(id(6), id(5), &tag("a"), NOW), Step::Known);
        assert_eq!(t.standing(after, tags(&["a"])), Standing::Valid);
    }

    #[test]
    fn without_redis_ids_still_rise_when_the_clock_stands_still_or_goes_back() {
        let mut t = Table::new(10);
        let a = t.append(&tag("a"), Timestamp(50));
        let b = t.append(&tag("a"), Timestamp(50));
        let c = t.append(&tag("a"), Timestamp(40));
        assert!(a < b && b < c);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Fill(u8),
        Local(u8),
        /// An entry is appended to the true log; it arrives later.
        Append(u8),
        /// The nth outstanding entry arrives (out of order allowed).
        Arrive(u8),
    }

    #[derive(Clone, Debug)]
    enum AnyOp {
        Fill,
        /// A fill of another process, which is so far ahead.
        Foreign(u8),
        Local(Invalidation),
        /// Appended and applied at once.
        Alone(Invalidation),
        /// An entry is appended to the true log; it arrives later.
        Append(Invalidation),
        Arrive(u8),
        Broken,
        Start,
        Forget(u8),
    }

    fn any_op() -> impl Strategy<Value = AnyOp> {
        let what = || {
            (prop::sample::select(vec!["a", "b", "c", "d", "e", "f", "*"]), prop::bool::weighted(0.3)).prop_map(
                |(name, soft)| match name {
                    "*" => Invalidation { soft, ..Invalidation::all() },
                    name => Invalidation { soft, ..tag(name) },
                },
            )
        };
        prop_oneof![
            6 => Just(AnyOp::Fill),
            2 => (0u8..4).prop_map(AnyOp::Foreign),
            4 => what().prop_map(AnyOp::Local),
            4 => what().prop_map(AnyOp::Alone),
            6 => what().prop_map(AnyOp::Append),
            6 => (0u8..8).prop_map(AnyOp::Arrive),
            1 => Just(AnyOp::Broken),
            1 => Just(AnyOp::Start),
            1 => (0u8..40).prop_map(AnyOp::Forget),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u8..3).prop_map(Op::Fill),
            (0u8..3).prop_map(Op::Local),
            (0u8..3).prop_map(Op::Append),
            (0u8..4).prop_map(Op::Arrive),
        ]
    }

    proptest! {
        /// Against a naive oracle that remembers every event: an entry stands only if no invalidation of its
        /// tag that this instance knows of came after its as-of, and once all has arrived none that is in the
        /// log after the prefix the fill had seen.
        #[test]
        fn no_entry_outlives_an_invalidation_it_had_not_seen(ops in prop::collection::vec(op(), 1..60)) {
            let names = ["a", "b", "c"];
            let mut t = Table::new(1000);
            t.start(id(0));
            let mut log: Vec<(LogId, LogId, u8)> = Vec::new();
            let mut waiting: Vec<usize> = Vec::new();
            let mut contiguous: usize;
            let mut arrived: Vec<bool> = Vec::new();
            // (tag, as_of, how many log entries it had seen without a gap, how many local events of the tag)
            let mut fills: Vec<(u8, Position, usize, usize)> = Vec::new();
            let mut locals = [0usize; 3];
            let prefix = |arrived: &[bool]| arrived.iter().take_while(|a| **a).count();
            for op in ops {
                contiguous = prefix(&arrived);
                match op {
                    Op::Fill(x) => fills.push((x, t.position(), contiguous, locals[x as usize])),
                    Op::Local(x) => { t.local(&tag(names[x as usize]), NOW); locals[x as usize] += 1; }
                    Op::Append(x) => {
                        let previous = log.last().map_or(id(0), |e| e.0);
                        log.push((id(log.len() as u64 + 1), previous, x));
                        waiting.push(log.len() - 1);
                        arrived.push(false);
                    }
                    Op::Arrive(n) if !waiting.is_empty() => {
                        let at = waiting.remove(n as usize % waiting.len());
                        let (i, p, x) = log[at];
                        t.entry(i, p, &tag(names[x as usize]), NOW);
                        arrived[at] = true;
                    }
                    Op::Arrive(_) => {}
                }
                prop_assert_eq!(t.position().id, id(prefix(&arrived) as u64), "last is the gapless prefix");
                for &(x, as_of, seen, local_seen) in &fills {
                    let named = log.iter().enumerate()
                        .any(|(at, e)| at >= seen && arrived[at] && e.2 == x);
                    let stands = t.standing(as_of, tags(&[names[x as usize]])) == Standing::Valid;
                    if named || locals[x as usize] > local_seen {
                        prop_assert!(!stands, "served after an invalidation it had not seen");
                    } else {
                        prop_assert!(stands, "killed for nothing");
                    }
                }
            }
        }

        /// Small tables, and everything that can happen to one, against an oracle that forgets nothing.
        #[test]
        fn a_table_is_never_laxer_than_an_oracle_that_forgets_nothing(
            capacity in 1usize..6,
            ops in prop::collection::vec(any_op(), 1..80),
        ) {
            let mut t = Table::new(capacity);
            t.start(id(1));
            // What was named when: after an as-of before that position it does not stand.
            let mut named: Vec<(Position, Invalidation, Timestamp)> = Vec::new();
            // Everything up to these is given up, and whether that includes the position itself.
            let mut given_up: Vec<(Position, bool)> = vec![(Position::at(id(1)), false)];
            let mut fills = vec![(t.position(), Timestamp(0))];
            let (mut newest, mut waiting) = (1u64, Vec::new());
            let mut forgotten = Timestamp(0);
            for (at, op) in ops.into_iter().enumerate() {
                let now = Timestamp(at as u64);
                match op {
                    AnyOp::Fill => fills.push((t.position(), now)),
                    AnyOp::Foreign(ahead) => {
                        let filled = id(t.position().id.ms + u64::from(ahead));
                        // It may have been filled long ago, and then it is not used any more.
                        if forgotten > Timestamp(0) {
                            continue;
                        }
                        fills.push((Position::of_foreign(filled, t.position()), Timestamp(0)));
                    }
                    AnyOp::Local(what) => named.push((t.local(&what, now), what, now)),
                    AnyOp::Alone(what) => {
                        // Without Redis there are no gaps, and nothing else that appends.
                        if waiting.is_empty() {
                            newest += 1;
                            t.next(id(newest), &what, now);
                            named.push((Position::at(id(newest)), what, now));
                        }
                    }
                    AnyOp::Append(what) => {
                        waiting.push((newest + 1, newest, what));
                        newest += 1;
                    }
                    AnyOp::Arrive(n) if !waiting.is_empty() => {
                        let (i, previous, what) = waiting.remove(usize::from(n) % waiting.len());
                        let step = t.entry(id(i), id(previous), &what, now);
                        prop_assert!(step != Step::Forked, "the log did not go back");
                        named.push((Position::at(id(i)), what, now));
                    }
                    AnyOp::Arrive(_) => {}
                    AnyOp::Broken => {
                        given_up.push((t.position(), true));
                        t.broken(id(newest), HorizonReason::Broken);
                    }
                    AnyOp::Start => {
                        given_up.push((Position::at(id(newest)), false));
                        t.start(id(newest));
                    }
                    AnyOp::Forget(back) => {
                        let oldest = Timestamp(now.0.saturating_sub(u64::from(back)));
                        t.forget(oldest);
                        forgotten = forgotten.max(oldest);
                        fills.retain(|(_, filled)| *filled >= oldest);
                    }
                }
                prop_assert!(t.len() <= capacity);
                for &(as_of, _) in &fills {
                    for names in [&["a"][..], &["b", "c"], &["d"], &[]] {
                        let hit = |what: &Invalidation| {
                            what.all || what.tags.iter().any(|n| names.contains(&n.as_str()))
                        };
                        let after = |soft, since| {
                            named.iter().any(|(p, w, at)| *p > as_of && w.soft == soft && hit(w) && *at >= since)
                        };
                        let lost = given_up.iter().any(|(p, too)| as_of < *p || (*too && as_of == *p));
                        let got = t.standing(as_of, tags(names));
                        let strictness = |s| match s { Standing::Valid => 0, Standing::Soft => 1, Standing::Invalid => 2 };
                        let want = |since| {
                            if lost || after(false, since) {
                                Standing::Invalid
                            } else if after(true, since) {
                                Standing::Soft
                            } else {
                                Standing::Valid
                            }
                        };
                        // What was filled since then was filled after what is forgotten, whatever its as-of says.
                        let (least, most) = (want(forgotten), want(Timestamp(0)));
                        prop_assert!(strictness(got) >= strictness(least), "{as_of} {names:?}: {got:?}, not {least:?}");
                        let explained = strictness(got) <= strictness(most) || as_of < t.horizon();
                        prop_assert!(explained, "{as_of} {names:?}: {got:?} for nothing");
                    }
                }
            }
        }
    }
}
