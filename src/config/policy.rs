//! What a route says about its requests and responses. Reading it is `routes.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::route::{HostPattern, MethodMask};
use crate::template::{Pattern, Template};

/// The name of the route that matches what no other does.
pub const DEFAULT_ROUTE: &str = "default";

/// The largest body that is stored where a route says nothing, in bytes.
pub const DEFAULT_MAX_OBJECT: u64 = 2 << 20;

/// How long a stale response may stand in for an upstream that can't be reached where a route says nothing.
pub(super) const DEFAULT_STALE_IF_UNREACHABLE: Duration = Duration::from_secs(60);

/// How many variants of one key are kept where a route says nothing.
pub(super) const DEFAULT_MAX_VARIANTS: usize = 64;

/// A route: which requests it is for, and the policy that holds for them.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutePolicy {
    /// Its name, a metric label: unique, letters, digits, `_` and `-`.
    pub name: String,
    /// Where it is written.
    pub source: Source,
    /// The paths it is for.
    pub pattern: Pattern,
    /// The hosts it is for; `None`: any.
    pub host: Option<HostPattern>,
    /// The methods it is for; `None`: any.
    pub methods: Option<MethodMask>,
    /// The first part of the cache key; `None`: host, path and query.
    pub key: Option<Template>,
    /// Which query parameters are in the key.
    pub query: QueryRule,
    /// Whether query parameters are sorted for the key, so that their order does not matter.
    pub sort: bool,
    /// Request fields that are in the key.
    pub vary: Vec<HeaderName>,
    /// What a `Cookie` field means.
    pub cookies: CookieRule,
    /// What an `Authorization` field means.
    pub authorization: AuthorizationRule,
    /// What of a request upstream sees when a response is fetched for the cache.
    pub inputs: Inputs,
    /// How long a response is fresh; `origin` says when it counts.
    pub ttl: Option<Duration>,
    /// The same for single status codes and, as 1 to 5, for classes of them. See [`RoutePolicy::ttl_for`].
    pub ttl_by_status: Vec<(u16, Duration)>,
    /// By which part of itself a lifetime is shortened at random, 0 to 1.
    pub ttl_jitter: f64,
    /// What counts more, the route's lifetime or the origin's.
    pub origin: OriginRule,
    /// How long a stale response may be served while it is fetched anew; `None`: what the origin says.
    pub stale_while_revalidate: Option<Duration>,
    /// How long a stale response may be served where fetching it anew fails; `None`: what the origin says.
    pub stale_if_error: Option<Duration>,
    /// How long a stale response may be served while upstream can't be reached (RFC 9111 section 4.2.4).
    pub stale_if_unreachable: Duration,
    /// How eagerly fresh responses are refreshed before their end ([`crate::freshness::refreshes_early`]); 0: never.
    pub early_refresh: f64,
    /// How long after an invalidation nothing that it named is stored: an upstream may answer reads from replicas
    /// that lag behind its writes.
    pub settle: Duration,
    /// Whether the directives of requests are heard.
    pub client_cache_control: ClientControl,
    /// How many variants of one key are kept, at most.
    pub max_variants: usize,
    /// Tags of every response.
    pub tags: Vec<Template>,
    /// Tags that a successful POST, PUT, PATCH or DELETE invalidates.
    pub invalidates: Vec<Template>,
    /// What holds while invalidations may be late.
    pub coherence: Coherence,
    /// The largest body that is stored, in bytes.
    pub max_object: u64,
    /// Whether responses are stored at all.
    pub cache: bool,
    /// Who waits for one fetch of a key.
    pub coalesce: Coalesce,
}

impl RoutePolicy {
    /// The route that holds where no other does: the origin's Cache-Control decides.
    pub fn default_route() -> Self {
        let plain = RoutePolicy::new(DEFAULT_ROUTE, Pattern::everything(), Source::built_in());
        RoutePolicy { cookies: CookieRule::Origin, ..plain }
    }

    /// A route that has nothing but its name and its pattern.
    pub fn new(name: impl Into<String>, pattern: Pattern, source: Source) -> Self {
        RoutePolicy {
            name: name.into(),
            source,
            pattern,
            host: None,
            methods: None,
            key: None,
            query: QueryRule::All,
            sort: false,
            vary: Vec::new(),
            cookies: CookieRule::Bypass,
            authorization: AuthorizationRule::Bypass,
            inputs: Inputs::All,
            ttl: None,
            ttl_by_status: Vec::new(),
            ttl_jitter: 0.0,
            origin: OriginRule::Respect,
            stale_while_revalidate: None,
            stale_if_error: None,
            stale_if_unreachable: DEFAULT_STALE_IF_UNREACHABLE,
            early_refresh: 1.0,
            settle: Duration::ZERO,
            client_cache_control: ClientControl::Honour,
            max_variants: DEFAULT_MAX_VARIANTS,
            tags: Vec::new(),
            invalidates: Vec::new(),
            coherence: Coherence::Bounded,
            max_object: DEFAULT_MAX_OBJECT,
            cache: true,
            coalesce: Coalesce::Fleet,
        }
    }

    /// The route's lifetime for a status: `ttl_by_status` by the code, then by its class; `None` where it says nothing
    /// of it, and `ttl` may hold.
    pub fn ttl_for(&self, status: u16) -> Option<Duration> {
        let entry = |wanted: u16| self.ttl_by_status.iter().find(|(key, _)| *key == wanted).map(|(_, ttl)| *ttl);
        entry(status).or_else(|| entry(status / 100))
    }

    /// Whether it matches every request: any host, any method, any path.
    pub fn matches_everything(&self) -> bool {
        self.host.is_none() && self.methods.is_none() && self.pattern.matches_everything()
    }
}

/// Where in a file something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's name as it was given, or `built in`.
    pub file: Arc<str>,
    /// The line, from 1; 0 where there is none.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
}

impl Source {
    /// For what is in no file.
    pub fn built_in() -> Self {
        Source { file: "built in".into(), line: 0, column: 0 }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

/// Which query parameters are in the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryRule {
    /// All of them.
    All,
    /// None.
    Ignore,
    /// Those that match one of these.
    Only(Vec<NamePattern>),
    /// Those that match none of these.
    Except(Vec<NamePattern>),
}

impl QueryRule {
    /// Whether a parameter of this name, as it stands in the query, is in the key.
    pub fn keeps(&self, name: &str) -> bool {
        match self {
            QueryRule::All => true,
            QueryRule::Ignore => false,
            QueryRule::Only(names) => names.iter().any(|pattern| pattern.matches(name)),
            QueryRule::Except(names) => !names.iter().any(|pattern| pattern.matches(name)),
        }
    }
}

/// The name of a query parameter, or, with a `*` at its end, the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    text: String,
    prefix: bool,
}

impl NamePattern {
    /// Parses `page` or `utm_*`; says in the error what is wrong.
    pub fn parse(text: &str) -> Result<NamePattern, String> {
        let (name, prefix) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        if name.contains('*') {
            return Err("a '*' can only stand at the end of a name, as in \"utm_*\"".to_owned());
        }
        if name.is_empty() && !prefix {
            return Err("a name can't be empty".to_owned());
        }
        match name.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '&' | '=' | '#')) {
            Some(c) => {
                Err(format!("{c:?} can't be in a query parameter's name; write it percent-encoded, as it is sent"))
            }
            None => Ok(NamePattern { text: name.to_owned(), prefix }),
        }
    }

    /// Whether it matches a name.
    pub fn matches(&self, name: &str) -> bool {
        if self.prefix { name.starts_with(&self.text) } else { name == self.text }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.prefix { "*" } else { "" })
    }
}

/// What a request's `Cookie` field means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CookieRule {
    /// The origin decides, as RFC 9111 section 7.3 has it: a response with explicit freshness that was fetched without
    /// cookies is shared, with the cookies it sets; all else is as under `Bypass`.
    Origin,
    /// A request with cookies is answered past the cache, unless the stored response says that it may be shared.
    Bypass,
    /// Cookies play no part in the response.
    Ignore,
    /// The values of these cookies are in the key; others play no part.
    Key(Vec<String>),
}

/// What a request's `Authorization` field means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationRule {
    /// A request with credentials is answered past the cache, unless RFC 9111 section 3.5 permits otherwise.
    Bypass,
    /// The credentials, hashed, are in the key.
    Key,
}

/// What of a request upstream sees when a response is fetched for the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// The request as the client sent it.
    All,
    /// Nothing but what is in the key.
    Keyed,
}

/// What counts more, the route's lifetime or the origin's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginRule {
    /// The origin's; the route's where the origin is silent.
    Respect,
    /// The route's.
    Override,
    /// The smaller one.
    Cap,
}

/// Whether the directives of requests are heard (RFC 9111 section 5.2.1: they are advisory).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientControl {
    /// A client can ask for validation, for younger or older responses, for none to be stored.
    Honour,
    /// What it asks for plays no part.
    Ignore,
}

/// Who waits for one fetch of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coalesce {
    /// All instances that share a Redis.
    Fleet,
    /// The requests of one instance.
    Instance,
    /// Nobody: each request fetches for itself.
    Off,
}

/// What holds while invalidations may be late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coherence {
    /// Entries are served within their lifetime.
    Bounded,
    /// Entries are not served.
    Strict,
}

macro_rules! words {
    ($type:ident { $($variant:pat => $word:literal),* $(,)? }) => {
        impl $type {
            /// The word for it in the configuration.
            pub fn as_str(&self) -> &'static str {
                match self { $($variant => $word),* }
            }
        }
    };
}
words!(QueryRule { QueryRule::All => "all", QueryRule::Ignore => "ignore", QueryRule::Only(_) => "only", QueryRule::Except(_) => "except" });
words!(Coalesce { Coalesce::Fleet => "fleet", Coalesce::Instance => "instance", Coalesce::Off => "off" });
words!(ClientControl { ClientControl::Honour => "honour", ClientControl::Ignore => "ignore" });
words!(CookieRule { CookieRule::Origin => "origin", CookieRule::Bypass => "bypass", CookieRule::Ignore => "ignore", CookieRule::Key(_) => "key" });
words!(AuthorizationRule { AuthorizationRule::Bypass => "bypass", AuthorizationRule::Key => "key" });
words!(Inputs { Inputs::All => "all", Inputs::Keyed => "keyed" });
words!(OriginRule { OriginRule::Respect => "respect", OriginRule::Override => "override", OriginRule::Cap => "cap" });
words!(Coherence { Coherence::Bounded => "bounded", Coherence::Strict => "strict" });
