//! Time, passed in. Nothing in the caching core reads a clock: the proxy takes one reading per request
//! and hands it on, so that tests turn the clock instead of waiting.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A wall-clock instant in milliseconds since the Unix epoch. Wall time, because entries travel between
/// processes through Redis and HTTP's `Date` is wall time too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This instant moved forward; saturates.
    pub fn plus(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(millis(by)))
    }

    /// Milliseconds from `earlier` to this instant, 0 when `earlier` is later (clocks of two machines differ).
    pub fn since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant of an HTTP date (RFC 9110 section 5.6.7).
    pub fn from_system(at: SystemTime) -> Timestamp {
        Timestamp(at.duration_since(UNIX_EPOCH).map_or(0, millis))
    }

    /// This instant as the standard library's type, for printing HTTP dates.
    pub fn to_system(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }
}

/// A duration in whole milliseconds; saturates.
pub fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// A step of the wall clock is noticed within this.
const LATELY: Duration = Duration::from_millis(50);

/// The system's wall clock, with an offset that tests may turn. Clones share the offset.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset: Arc<AtomicI64>,
    stopped: Option<Timestamp>,
}

impl Clock {
    /// A clock that shows this instant until it is turned: where a test counts seconds.
    pub fn stopped(at: Timestamp) -> Clock {
        Clock { stopped: Some(at), ..Clock::default() }
    }

    /// The current instant.
    pub fn now(&self) -> Timestamp {
        self.turned(self.stopped.unwrap_or_else(|| Timestamp::from_system(SystemTime::now())))
    }

    /// What the clock shows at an instant that was just read, without another reading: by the wall clock as this thread
    /// has read it lately.
    pub fn at(&self, instant: Instant) -> Timestamp {
        thread_local! {
            static READ: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
        }
        if let Some(stopped) = self.stopped {
            return self.turned(stopped);
        }
        let lately = READ.get().filter(|(at, _)| instant.saturating_duration_since(*at) < LATELY);
        let (at, wall) = lately.unwrap_or_else(|| {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // Read after it: what is shown may be behind by what lies between, and is never ahead.
            let read = (Instant::now(), wall);
            READ.set(Some(read));
            read
        });
        self.turned(Timestamp(millis(wall + instant.saturating_duration_since(at))))
    }

    /// What a test has made of an instant.
    fn turned(&self, at: Timestamp) -> Timestamp {
        Timestamp(at.0.saturating_add_signed(self.offset.load(Ordering::Relaxed)))
    }

    /// Turns the clock forward: what a test does instead of waiting.
    pub fn advance(&self, by: Duration) {
        self.offset.fetch_add(i64::try_from(millis(by)).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_that_was_just_read_shows_the_same_as_the_clock() {
        let clock = Clock::default();
        let began = Instant::now();
        for _ in 0..1000 {
            let (before, at, after) = (clock.now(), clock.at(Instant::now()), clock.now());
            assert!(before.since(at) < 1000 && at <= after, "{before:?} {at:?} {after:?}");
        }
        clock.advance(Duration::from_secs(60));
        assert!(clock.at(Instant::now()).since(clock.at(began)) < 1000, "both are turned");
        assert!(clock.now().since(clock.at(Instant::now())) < 1000);
        let stopped = Clock::stopped(Timestamp(7));
        assert_eq!(stopped.at(Instant::now()), Timestamp(7));
    }
}
