//! The names of all keys. What is not here is unknown, and what is here is read: a test sees to the second.

/// The keys at the top.
pub(super) const TOP: &[&str] = &["listen", "upstream", "store", "invalidation", "admin", "log", "route"];

const LISTEN: &[&str] = &[
    "proxy",
    "admin",
    "workers",
    "max_connections",
    "header_timeout",
    "idle_timeout",
    "max_header",
    "max_uri",
    "max_body",
    "drain_timeout",
];

const UPSTREAM: &[&str] = &[
    "url",
    "connect_timeout",
    "first_byte_timeout",
    "idle_timeout",
    "timeout",
    "max_connections",
    "max_idle",
    "host",
    "trusted_proxies",
    "targeted_control",
];

const STORE: &[&str] = &[
    "memory",
    "memory_ttl_max",
    "redis",
    "redis_ca",
    "redis_cert",
    "redis_key",
    "namespace",
    "redis_timeout",
    "compress",
];

/// The sections that are there once: name, title, keys.
const SECTIONS: [(&str, &str, &[&str]); 6] = [
    ("listen", "[listen]", LISTEN),
    ("upstream", "[upstream]", UPSTREAM),
    ("store", "[store]", STORE),
    ("invalidation", "[invalidation]", &["channel", "max_lag", "heartbeat", "table_size", "retain"]),
    ("admin", "[admin]", &["token", "allow_hosts"]),
    ("log", "[log]", &["level", "format", "access"]),
];

/// The keys of a route.
pub(super) const ROUTE: &[&str] = &[
    "name",
    "match",
    "host",
    "methods",
    "key",
    "query",
    "vary",
    "cookies",
    "authorization",
    "inputs",
    "ttl",
    "ttl_by_status",
    "ttl_jitter",
    "origin",
    "stale_while_revalidate",
    "stale_if_error",
    "stale_if_unreachable",
    "early_refresh",
    "settle",
    "client_cache_control",
    "max_variants",
    "tags",
    "invalidates",
    "coherence",
    "max_object",
    "cache",
    "coalesce",
];

/// Title and keys of a section.
pub(super) fn section(name: &str) -> (&'static str, &'static [&'static str]) {
    SECTIONS.into_iter().find(|(known, ..)| *known == name).map_or(("", &[]), |(_, title, keys)| (title, keys))
}

/// Every section with every key of it, routes left out.
pub(super) fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    SECTIONS.into_iter().flat_map(|(section, _, keys)| keys.iter().map(move |key| (section, *key)))
}

/// The section, as it is written, of a key that stands in another one.
pub(super) fn home_of(key: &str) -> Option<String> {
    if ROUTE.contains(&key) {
        return Some("[[route]]".to_owned());
    }
    let mut homes = sections().filter(|(_, candidate)| *candidate == key);
    match (homes.next(), homes.next()) {
        (Some((section, _)), None) => Some(format!("[{section}]")),
        _ => None,
    }
}
