//! asidecar, a reverse caching proxy that runs beside a slow HTTP API: it answers from memory, then from Redis,
//! then from the API, and one ordered invalidation log keeps an answer that was fetched before an invalidation
//! from being served after it.
//!
//! # From step to file
//!
//! | step | file | decides |
//! |---|---|---|
//! | the request's way, all of it | [`proxy`] | nothing: what comes after what |
//! | accept, drain; ambiguous framing | [`server`], [`server::guard`] | who gets in |
//! | the first look: malformed, too large | [`screen`](mod@screen), [`noted`] | what gets no further |
//! | find the route | [`route`], [`template`] | the most specific match, and its parameters |
//! | look up, bypass or write? | [`admission::plan`] | what is done with a request |
//! | build the key | [`key`], [`vary`] | what identifies a response |
//! | may this stored response answer? | [`entry::judge`] | by log, sharing, age and the request |
//! | one fetch for all who ask | [`coalesce`] | who leads, who joins |
//! | **a fill is made** | [`fill`] | Redis, upstream, decide, stream, keep |
//! | **a TTL is decided** | [`freshness::lifetime`] | the route's, the origin's, the stale windows |
//! | is the response stored? | [`admission::admit`] | for whom, or why not; all reasons meet in [`fill`] |
//! | **a message is applied** | [`invalidation::table`], through [`invalidation::log`] | what stands from now on |
//! | messages and the log in Redis | [`redis_tier::follow`], [`redis_tier::link`] | gaps, broken chains, trust |
//! | what a write invalidates | [`write`](mod@write) | its path, key, tags, `Location` |
//! | memory; Redis; the record | [`store::memory`], [`store`], [`store::record`] | what is kept where |
//! | an entry's fields, body, key, tags | [`content`], [`shape`] | what is its own, and what many share |
//! | fields on their way upstream | [`forward`] | what may steer what is stored for all |
//! | interim responses (1xx) | [`interim`] | where they may stand, and how many |
//! | the API's side; bodies | [`upstream`], [`spool`], [`body`], [`tunnel`] | deadlines, bounds |
//! | render the answer | [`respond`], [`conditional`], [`problem`] | `Cache-Status`, 304, errors |
//! | which bytes of it were asked for? | [`range`] | parts, none (416), or the whole |
//! | the words for all of it | [`words`] | one word per outcome and reason |
//! | configuration; metrics; admin; commands | [`config`], [`metrics`], [`tally`], [`admin`], [`cli`] | |
//!
//! # What always holds
//!
//! (As-of, horizon and what it means that an entry stands: [`invalidation`] says it in five sentences.)
//!
//! * A fill takes its as-of before its request goes out. What was invalidated since then does not stand.
//! * Whatever the log's table forgets or can't know moves the horizon: needless misses, never stale answers.
//! * Every source of invalidation calls [`invalidation::log::InvalidationLog::invalidate`] or, for
//!   what was published, `invalidate_heard`; a write's response comes after it.
//! * Decisions are pure functions of their arguments, `now` among them; [`clock`] is read outside of them.
//! * No request waits for Redis longer than its deadline, nor for anything without one. Every buffer has a bound.
//! * Cache trouble fails open, doubt about a request's framing fails closed.
//! * Metric labels never come from a request.
//!
//! The same at length: `docs/architecture.md`, `docs/invalidation.md`; the reasons: `docs/decisions/`.

pub mod admin;
pub mod admission;
pub mod body;
pub mod cli;
pub mod clock;
pub mod coalesce;
pub mod conditional;
pub mod config;
pub mod content;
pub mod control;
pub mod core;
pub mod entry;
pub mod fill;
pub mod forward;
pub mod freshness;
pub mod interim;
pub mod invalidation;
pub mod keep;
pub mod key;
pub mod metrics;
pub mod noted;
pub mod order;
pub mod problem;
pub mod proxy;
pub mod range;
pub mod redis_tier;
pub mod respond;
pub mod route;
pub mod screen;
pub mod server;
pub mod shape;
pub mod spool;
pub mod store;
pub mod tally;
pub mod template;
pub mod tunnel;
pub mod upstream;
pub mod vary;
pub mod words;
pub mod write;
