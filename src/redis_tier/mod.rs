//! The shared tier: everything that talks to Redis, and nothing else does.
//!
//! * [`address`] — where Redis is: a server, a socket, sentinels, a cluster.
//! * [`connect`] — opening connections; the sentinels. [`tls`] has the certificates.
//! * `cluster` — which node has which slot, and a connection to each.
//! * [`link`] — the connections for commands: deadline, breaker.
//! * [`follow`] — the task that connects, subscribes and follows the log.
//! * [`lease`] — who fetches a key for the whole fleet, and how the others are told.
//! * `scripts` — what runs inside Redis.
//! * `refusal` — what Redis refuses because of who we are.
//!
//! Every failure here is the caller's miss: a Redis that is slow, gone or strange never fails a request.

pub mod address;
mod cluster;
pub mod connect;
pub mod follow;
pub mod lease;
pub mod link;
mod refusal;
mod scripts;
pub mod tls;
