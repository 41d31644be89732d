//! The shared tier: everything that talks to Redis, and nothing else does.
//!
//! * [`link`] — the connection for commands: deadline, breaker.
//! * [`follow`] — the task that connects, subscribes and follows the log.
//! * [`lease`] — who fetches a key for the whole fleet, and how the others are told.
//! * `scripts` — what runs inside Redis.
//!
//! Every failure here is the caller's miss: a Redis that is slow, gone or strange never fails a request.

pub mod follow;
pub mod lease;
pub mod link;
mod scripts;
