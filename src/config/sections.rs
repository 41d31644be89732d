//! Reading the sections that are there once, and the contradictions within them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use http::uri::Authority;
use ipnet::IpNet;

use super::error::{Problem, Report};
use super::node::{Node, Value};
use super::read::{Section, boolean, duration, integer, list, memory, one_of, parsed, size, size_in, text, timeout};
use super::settings::{
    Admin, HostHeader, InvalidationConfig, Listen, Log, LogFormat, LogLevel, Store, Upstream, UpstreamUrl,
};
use super::units::show_duration;
use crate::redis_tier::address::Address;
use crate::redis_tier::tls::{self, TlsFiles};
use crate::route::HostPattern;

/// The shortest admin token.
const MIN_TOKEN: usize = 16;

pub(super) fn listen(section: Section<'_, '_, '_>) -> Listen {
    let mut listen = Listen::default();
    let s = &section;
    s.set("proxy", address, &mut listen.proxy);
    s.set("admin", address, &mut listen.admin);
    s.set("workers", integer(0..=1024), &mut listen.workers);
    s.set("max_connections", integer(1..=1_000_000), &mut listen.max_connections);
    s.set("header_timeout", timeout, &mut listen.header_timeout);
    s.set("idle_timeout", timeout, &mut listen.idle_timeout);
    // The HTTP library reads heads into a buffer of at least 8 KiB.
    s.set("max_header", size_in(8 << 10..=16 << 20), &mut listen.max_header);
    // The longest that the type of a request's target can hold.
    if let Some(bytes) = s.read("max_uri", size_in(256..=65_534)) {
        listen.max_uri = usize::try_from(bytes).unwrap_or(usize::MAX);
    }
    s.set("max_body", size, &mut listen.max_body);
    s.set("drain_timeout", duration, &mut listen.drain_timeout);
    if s.is_sure(&["proxy", "admin"]) && listen.proxy == listen.admin && listen.proxy.port() != 0 {
        let message = format!("`proxy` and `admin` are both {}", listen.proxy);
        let at = s.get("admin").map_or_else(|| s.at("proxy"), |node| node.at.clone());
        let _: Option<()> = s.report.add(Problem::new(&at, message).help("give each a port of its own"));
    }
    if s.is_sure(&["max_uri", "max_header"]) && listen.max_uri as u64 > listen.max_header {
        let message = "`max_uri` is larger than `max_header`, of which it is a part";
        let at = s.get("max_uri").map_or_else(|| s.at("max_header"), |node| node.at.clone());
        let _: Option<()> = s.report.add(Problem::new(&at, message).help("make `max_header` larger than `max_uri`"));
    }
    section.finish();
    listen
}

/// `None`, reported, where the upstream is not known.
pub(super) fn upstream(section: Section<'_, '_, '_>) -> Option<Upstream> {
    let s = &section;
    let url = match s.get("url") {
        Some(node) => parsed(upstream_url, "an upstream is given as \"http://127.0.0.1:9000\", with a path if it has one")(node, s.report),
        None if !s.is_sure(&["url"]) => None,
        None => s.report.add(
            Problem::new(&s.at, "upstream.url is missing: where is the API?").help(
                "write url = \"http://127.0.0.1:9000\" under [upstream], set ASIDECAR_UPSTREAM__URL, or give --upstream URL",
            ),
        ),
    };
    // The rest is read even if the URL is missing, for its errors.
    let nowhere = UpstreamUrl::new(false, Authority::from_static("upstream"), String::new());
    let known = url.is_some();
    let mut upstream = Upstream::at(url.unwrap_or(nowhere));
    s.set("connect_timeout", timeout, &mut upstream.connect_timeout);
    s.set("timeout", timeout, &mut upstream.timeout);
    upstream.first_byte_timeout = upstream.timeout;
    s.set("first_byte_timeout", timeout, &mut upstream.first_byte_timeout);
    s.set("idle_timeout", timeout, &mut upstream.idle_timeout);
    s.set("max_connections", integer(1..=1_000_000), &mut upstream.max_connections);
    s.set("max_idle", integer(0..=1_000_000), &mut upstream.max_idle);
    s.set(
        "host",
        one_of(&[("upstream", HostHeader::Upstream), ("preserve", HostHeader::Preserve)]),
        &mut upstream.host,
    );
    s.set(
        "trusted_proxies",
        list(parsed(network, "a network is written as \"10.0.0.0/8\" or \"fd00::/8\", an address as \"10.0.0.1\"")),
        &mut upstream.trusted_proxies,
    );
    s.set(
        "targeted_control",
        list(parsed(targeted_field, "a targeted field is written as \"cdn-cache-control\"")),
        &mut upstream.targeted_control,
    );
    if s.is_sure(&["first_byte_timeout", "timeout"]) && upstream.first_byte_timeout > upstream.timeout {
        let message = format!(
            "`first_byte_timeout` is longer than `timeout`, {}, and would never be reached",
            show_duration(upstream.timeout)
        );
        let _: Option<()> = s.report.add(
            Problem::new(&s.at("first_byte_timeout"), message).help("leave it out, or make it shorter than `timeout`"),
        );
    }
    section.finish();
    known.then_some(upstream)
}

/// The store, and the most that memory lets an entry have: 0 if that is not bounded, or not known.
pub(super) fn store(section: Section<'_, '_, '_>) -> (Store, u64) {
    let mut store = Store::default();
    let s = &section;
    s.set("memory", memory, &mut store.memory);
    store.memory_ttl_max = s.read("memory_ttl_max", timeout);
    store.redis = s.read("redis", redis_url);
    store.redis_tls = redis_tls(s, store.redis.as_ref());
    s.set("namespace", parsed(namespace, ""), &mut store.namespace);
    s.set("redis_timeout", timeout, &mut store.redis_timeout);
    s.set("compress", boolean, &mut store.compress);
    if s.is_sure(&["memory", "redis"]) && store.memory == 0 && store.redis.is_none() {
        let message = "without memory and without Redis there is nowhere to keep a response";
        let help = "give `memory` a size, or set `redis`";
        let _: Option<()> = s.report.add(Problem::new(&s.at("memory"), message).help(help));
    }
    let largest = if s.is_sure(&["memory"]) { store.memory } else { 0 };
    section.finish();
    (store, largest)
}

pub(super) fn invalidation(section: Section<'_, '_, '_>) -> InvalidationConfig {
    let mut invalidation = InvalidationConfig::default();
    let s = &section;
    s.set("channel", parsed(channel, ""), &mut invalidation.channel);
    s.set("max_lag", timeout, &mut invalidation.max_lag);
    s.set("heartbeat", timeout, &mut invalidation.heartbeat);
    s.set("table_size", integer(1_000..=1_000_000_000), &mut invalidation.table_size);
    invalidation.retain = s.read("retain", timeout);
    if s.is_sure(&["heartbeat", "max_lag"]) && invalidation.heartbeat >= invalidation.max_lag {
        let message = format!(
            "`heartbeat`, {}, must be shorter than `max_lag`, {}: one late heartbeat would end all trust",
            show_duration(invalidation.heartbeat),
            show_duration(invalidation.max_lag)
        );
        let at = s.get("heartbeat").map_or_else(|| s.at("max_lag"), |node| node.at.clone());
        let help = "half of `max_lag` is a good heartbeat";
        let _: Option<()> = s.report.add(Problem::new(&at, message).help(help));
    }
    section.finish();
    invalidation
}

pub(super) fn admin(section: Section<'_, '_, '_>) -> Admin {
    let s = &section;
    let hosts = list(parsed(host_name, "a name that the Host field may have, as in \"asidecar.internal\""));
    let admin = Admin { token: s.read("token", token), allow_hosts: s.read("allow_hosts", hosts).unwrap_or_default() };
    section.finish();
    admin
}

pub(super) fn log(section: Section<'_, '_, '_>) -> Log {
    const LEVELS: &[(&str, LogLevel)] = &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let mut log = Log::default();
    section.set("level", one_of(LEVELS), &mut log.level);
    section.set("format", one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)]), &mut log.format);
    section.set("access", boolean, &mut log.access);
    section.finish();
    log
}

const ADDRESS: &str =
    "an address is an IP address and a port, as in \"127.0.0.1:8080\", \"0.0.0.0:8080\", \"[::]:8080\"";

fn address(node: &Node, report: &Report<'_>) -> Option<SocketAddr> {
    let help = match &node.value {
        Value::Integer(port) if u16::try_from(*port).is_ok() => format!("write \"127.0.0.1:{port}\""),
        _ => ADDRESS.to_owned(),
    };
    let text = text(node, report, &help)?;
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric
        .parse()
        .ok()
        .or_else(|| report.add(Problem::new(&node.at, format!("`{text}` is no address to listen on")).help(ADDRESS)))
}

fn upstream_url(text: &str) -> Result<UpstreamUrl, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("`{text}` is no URL; does it lack \"http://\"?"));
    };
    let https = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => {
            return Err(format!("`{scheme}` is no scheme of an API; it can be \"http\" or \"https\""));
        }
    };
    if rest.contains(['?', '#']) {
        return Err("the upstream's URL can have no query and no fragment".to_owned());
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err("the upstream's URL can have no user or password".to_owned());
    }
    check_port(authority)?;
    let parsed: Authority =
        authority.parse().map_err(|_| format!("`{authority}` is no host, with or without a port"))?;
    if parsed.host().is_empty() {
        return Err("the upstream's URL has no host".to_owned());
    }
    if let Some(c) = path.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(format!("{c:?} can't be in a path; write it percent-encoded"));
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("the upstream's path can't have \".\" or \"..\" in it".to_owned());
    }
    Ok(UpstreamUrl::new(https, parsed, path.trim_end_matches('/').to_owned()))
}

/// That what follows a host's last colon, if there is one, is a port.
fn check_port(authority: &str) -> Result<(), String> {
    let after_brackets = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    match after_brackets.rsplit_once(':') {
        Some((_, port)) if !port.parse::<u16>().is_ok_and(|port| port != 0) => {
            Err(format!("`{port}` is no port; a port is a number from 1 to 65535"))
        }
        _ => Ok(()),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<std::net::IpAddr>() {
        Ok(address) => Ok(IpNet::from(address)),
        Err(_) => text.parse::<IpNet>().map(|network| network.trunc()),
    };
    network.map_err(|_| format!("`{text}` is no network and no IP address"))
}

/// Secret: the URL may hold a password, so neither it nor its line is repeated.
fn redis_url(node: &Node, report: &Report<'_>) -> Option<Address> {
    let url = text(node, report, "write \"redis://127.0.0.1:6379/0\"")?;
    Address::parse(url).map_or_else(|e| report.add(Problem::new(&node.at, e.message).help(e.help).secret()), Some)
}

/// The path of a file that holds what it should.
fn pem<T>(check: impl Fn(&Path) -> Result<T, String>) -> impl Fn(&str) -> Result<PathBuf, String> {
    move |path| check(Path::new(path)).map(|_| PathBuf::from(path))
}

/// The certificates for Redis, and what contradicts itself among them.
fn redis_tls(s: &Section<'_, '_, '_>, redis: Option<&Address>) -> TlsFiles {
    const PEM: &str = "the path of a file of PEM, relative to the working directory";
    let ca = s.read("redis_ca", parsed(pem(tls::authorities), PEM));
    let cert = s.read("redis_cert", parsed(pem(tls::certificates), PEM));
    let key = s.read("redis_key", parsed(pem(tls::private_key), PEM));
    for (there, missing) in [("redis_cert", "redis_key"), ("redis_key", "redis_cert")] {
        if s.is_sure(&["redis_cert", "redis_key"]) && s.get(there).is_some() && s.get(missing).is_none() {
            let help =
                format!("give `{missing}` too: Redis is shown a certificate, and its key proves that it is ours");
            let message = format!("`{there}` is of no use without `{missing}`");
            let _: Option<()> = s.report.add(Problem::new(&s.at(there), message).help(help));
        }
    }
    for given in ["redis_ca", "redis_cert", "redis_key"] {
        let Some(node) = s.get(given).filter(|_| s.is_sure(&["redis"]) && redis.is_none_or(|r| !r.tls)) else {
            continue;
        };
        let message = format!("`{given}` has no meaning: `redis` is spoken to without TLS, or not at all");
        let help = "with TLS, the scheme of `redis` is \"rediss\", \"rediss+sentinel\" or \"rediss+cluster\"";
        let _: Option<()> = s.report.add(Problem::new(&node.at, message).help(help));
        break;
    }
    let identity = cert.zip(key);
    if let Some((cert, key)) = &identity
        && let Err(message) = tls::fit(cert, key)
    {
        let help = "`redis_cert` and `redis_key` are a certificate and its own private key";
        let _: Option<()> = s.report.add(Problem::new(&s.at("redis_key"), message).help(help));
    }
    TlsFiles { ca, identity }
}

fn namespace(text: &str) -> Result<String, String> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=64).contains(&text.len()) && text.bytes().all(fine) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is no namespace: it is 1 to 64 letters, digits, '.', '_' and '-'"))
}

fn channel(text: &str) -> Result<String, String> {
    if (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is no channel: it is 1 to 256 printable ASCII characters without spaces"))
}

fn host_name(text: &str) -> Result<String, String> {
    match HostPattern::parse(text)? {
        HostPattern::Exact(name) => Ok(name),
        HostPattern::Suffix(_) => Err("there can be no wildcard here".to_owned()),
    }
}

fn token(node: &Node, report: &Report<'_>) -> Option<String> {
    let help = "`openssl rand -hex 32` makes a good one";
    // The kind of a value that is no string is said without its text, which may be the secret itself.
    if !matches!(node.value, Value::String(_) | Value::Untyped(_)) {
        return report.add(Problem::new(&node.at, "the token must be a string").help(help).secret());
    }
    let token = text(node, report, help)?;
    let problem = if token.chars().count() < MIN_TOKEN {
        format!("the token is shorter than {MIN_TOKEN} characters")
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        "the token has characters that cannot be sent in a header: only printable ASCII without spaces can".to_owned()
    } else {
        return Some(token.to_owned());
    };
    report.add(Problem::new(&node.at, problem).help(help).secret())
}

/// The name of a response field that speaks in Cache-Control's place.
fn targeted_field(text: &str) -> Result<http::HeaderName, String> {
    match http::HeaderName::try_from(text) {
        Ok(name) if name == http::header::CACHE_CONTROL => {
            Err("cache-control itself always comes last; leave it out".to_owned())
        }
        Ok(name) => Ok(name),
        Err(_) => Err(format!("`{text}` is no name of a response field")),
    }
}
