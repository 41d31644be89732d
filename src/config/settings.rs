//! What can be configured outside the routes, with the defaults. Reading it is `sections.rs`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::control::{ASIDECAR_CACHE_CONTROL, CDN_CACHE_CONTROL, SURROGATE_CONTROL};
use crate::redis_tier::address::Address;
use crate::redis_tier::tls::TlsFiles;

/// The sockets that are listened on, and the bounds on what clients send.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// Where clients connect.
    pub proxy: SocketAddr,
    /// Where metrics, health, the admin page and its API are served.
    pub admin: SocketAddr,
    /// Worker threads; 0 is one for each available processor.
    pub workers: usize,
    /// Client connections open at a time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Until a request's head is complete.
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// The size of a request's head, in bytes.
    pub max_header: u64,
    /// The length of a request's target, in bytes.
    pub max_uri: usize,
    /// The size of a request's body, in bytes; 0 is no limit.
    pub max_body: u64,
    /// How long open requests may take to end after the signal to stop.
    pub drain_timeout: Duration,
}

impl Default for Listen {
    fn default() -> Self {
        Listen {
            proxy: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 9901)),
            workers: 0,
            max_connections: 10_000,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            max_header: 32 << 10,
            max_uri: 8 << 10,
            max_body: 64 << 20,
            drain_timeout: Duration::from_secs(25),
        }
    }
}

/// The API that is cached, and how it is talked to.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Where it is.
    pub url: UpstreamUrl,
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// Until the first byte of the response; `timeout` unless given.
    pub first_byte_timeout: Duration,
    /// Between two chunks of the response's body.
    pub idle_timeout: Duration,
    /// The default of `first_byte_timeout`, and the bound on reading the whole of a response that is to be stored.
    pub timeout: Duration,
    /// Connections open at a time.
    pub max_connections: usize,
    /// Idle connections kept for the next request, by each worker.
    pub max_idle: usize,
    /// What `Host` upstream sees.
    pub host: HostHeader,
    /// Networks whose `X-Forwarded-*` fields are believed and extended; those of others are replaced.
    pub trusted_proxies: Vec<IpNet>,
    /// The response fields that speak to this cache in Cache-Control's place, the most applicable first (RFC 9213
    /// section 2.2).
    pub targeted_control: Vec<HeaderName>,
}

impl Upstream {
    /// The defaults for an upstream at `url`.
    pub fn at(url: UpstreamUrl) -> Self {
        Upstream {
            url,
            connect_timeout: Duration::from_secs(1),
            first_byte_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            max_connections: 256,
            max_idle: 64,
            host: HostHeader::Upstream,
            trusted_proxies: Vec::new(),
            targeted_control: vec![ASIDECAR_CACHE_CONTROL, CDN_CACHE_CONTROL, SURROGATE_CONTROL],
        }
    }
}

/// Where the upstream is: `http://127.0.0.1:9000/base`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    /// Whether TLS is spoken.
    pub https: bool,
    /// Host and, where given, port.
    pub authority: Authority,
    /// What every path is appended to: empty, or it begins with a slash and does not end with one.
    pub base_path: String,
    /// The authority as a field's value.
    host: HeaderValue,
}

impl UpstreamUrl {
    /// The upstream at an authority, below a path.
    pub fn new(https: bool, authority: Authority, base_path: String) -> UpstreamUrl {
        // An authority has visible ASCII characters only.
        let host = HeaderValue::from_str(authority.as_str()).unwrap_or(HeaderValue::from_static("upstream"));
        UpstreamUrl { https, authority, base_path, host }
    }

    /// The `Host` of its own.
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// The port, the scheme's own where none is given.
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.https { 443 } else { 80 })
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority, self.base_path)
    }
}

/// Which `Host` goes upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// The upstream's own, from its URL.
    Upstream,
    /// The client's.
    Preserve,
}

impl HostHeader {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            HostHeader::Upstream => "upstream",
            HostHeader::Preserve => "preserve",
        }
    }
}

/// Where responses are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// Bytes for entries in memory; 0 is no memory tier.
    pub memory: u64,
    /// How long memory may serve an entry before it asks Redis again.
    pub memory_ttl_max: Option<Duration>,
    /// Where the shared tier is.
    pub redis: Option<Address>,
    /// The certificates for it.
    pub redis_tls: TlsFiles,
    /// What the names of all keys in Redis begin with.
    pub namespace: String,
    /// For each command to Redis.
    pub redis_timeout: Duration,
    /// Whether bodies are compressed in Redis, by their size and type.
    pub compress: bool,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            memory: 256 << 20,
            memory_ttl_max: None,
            redis: None,
            redis_tls: TlsFiles::default(),
            namespace: "asidecar".to_owned(),
            redis_timeout: Duration::from_millis(50),
            compress: true,
        }
    }
}

/// How invalidations travel.
#[derive(Clone, Debug, PartialEq)]
pub struct InvalidationConfig {
    /// The Pub/Sub channel.
    pub channel: String,
    /// How long Redis may be silent before strict routes stop trusting their entries.
    pub max_lag: Duration,
    /// How often the subscription is checked; less than `max_lag`.
    pub heartbeat: Duration,
    /// The most tags whose last invalidation is remembered.
    pub table_size: usize,
    /// How long the log is kept; `None`: a day.
    pub retain: Option<Duration>,
}

impl Default for InvalidationConfig {
    fn default() -> Self {
        InvalidationConfig {
            channel: "asidecar:invalidate".to_owned(),
            max_lag: Duration::from_secs(2),
            heartbeat: Duration::from_secs(1),
            table_size: 1_000_000,
            retain: None,
        }
    }
}

/// The admin listener.
#[derive(Clone, Default, PartialEq)]
pub struct Admin {
    /// The bearer token for what changes state.
    pub token: Option<String>,
    /// Names that the `Host` field may have, beside the listener's address and `localhost`.
    pub allow_hosts: Vec<String>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("allow_hosts", &self.allow_hosts)
            .finish()
    }
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Text or JSON.
    pub format: LogFormat,
    /// Whether there is a line for each request.
    pub access: bool,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: LogLevel::Info, format: LogFormat::Text, access: false }
    }
}

/// How severe a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something does not work.
    Error,
    /// Something works, but not as it should.
    Warn,
    /// What happens now and then and is good to know.
    Info,
    /// What helps to find out why.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word for it in the configuration, which `tracing` understands too.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines, one object a line.
    Json,
}

impl LogFormat {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}
