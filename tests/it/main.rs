//! Behaviours of the whole proxy: each test is one behaviour, against the real library, a scripted origin on a
//! free port, and, where it matters, a real `redis-server`. No test sleeps for luck: it waits for a condition
//! with a deadline, turns the clock, or holds a race open.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so loudly"
)]

mod story;
mod support;

mod admin;
mod caching;
mod chaos;
mod commands;
mod dashboards;
mod eviction;
mod fleet;
mod interim;
mod invalidation;
mod keys_and_routes;
mod proxying;
mod redis;
mod stories;
mod topologies;
mod wire;
