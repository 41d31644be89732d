//! Where something stands in the invalidation log.
//!
//! A [`LogId`] is the id of a stream entry. A [`Position`] adds a sequence that only this process counts, so
//! that an invalidation that is not in the log yet still has its place: after everything filled before it and
//! before everything filled after it. Positions are compared first by id, then by the local sequence.

use std::fmt;
use std::str::FromStr;

/// The id of an entry of the log: a Redis stream id, `milliseconds-sequence`. `0-0` is before every entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Milliseconds since the Unix epoch, by the clock of whoever appended.
    pub ms: u64,
    /// Distinguishes entries of one millisecond.
    pub seq: u64,
}

impl LogId {
    /// Before every entry.
    pub const ZERO: LogId = LogId { ms: 0, seq: 0 };
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// The text is not `digits-digits`.
#[derive(Debug, PartialEq, Eq)]
pub struct NotALogId;

impl FromStr for LogId {
    type Err = NotALogId;

    fn from_str(s: &str) -> Result<LogId, NotALogId> {
        let (ms, seq) = s.split_once('-').ok_or(NotALogId)?;
        Ok(LogId { ms: ms.parse().map_err(|_| NotALogId)?, seq: seq.parse().map_err(|_| NotALogId)? })
    }
}

impl serde::Serialize for LogId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for LogId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<LogId, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        text.parse().map_err(|NotALogId| serde::de::Error::custom("a log id is milliseconds-sequence"))
    }
}

/// A place in the log as this process sees it: the last contiguous id applied, and the local sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The last log id that was applied with nothing missing before it.
    pub id: LogId,
    /// How many invalidations this process has applied that were not in the log at that time.
    pub local: u64,
}

impl Position {
    /// The position of a log entry itself. What another process filled carries only this much: its local
    /// sequence means nothing here.
    pub const fn at(id: LogId) -> Position {
        Position { id, local: 0 }
    }

    /// What an entry of another process counts as here, at the time it is taken in. Its filler may be ahead of
    /// this process in the log; if it counted as such, an invalidation that this process applies before it can
    /// log it (at its own last id, with the next local sequence) would seem older than the entry.
    pub fn of_foreign(filled: LogId, here: Position) -> Position {
        Position::at(filled.min(here.id))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.id, self.local)
    }
}
