//! The vocabulary: every outcome and every reason is an enum with one word, and the `Cache-Status` detail, the
//! metric label, the log and the tests use that same word.

/// Declares an enum of unit variants, each with its word.
macro_rules! words {
    ($(#[$m:meta])* $name:ident { $($(#[$vm:meta])* $variant:ident => $word:literal,)* }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vm])* $variant,)* }
        impl $name {
            /// All of them, in the order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// The one word that header, log, metric and test use.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
    };
}
pub(crate) use words;

words! {
    /// How a request was answered: the `outcome` label.
    Outcome {
        /// From memory, fresh.
        HitMemory => "hit_memory",
        /// From Redis, fresh.
        HitRedis => "hit_redis",
        /// From the cache, stale, because that was allowed.
        Stale => "stale",
        /// From the cache after upstream confirmed it with a 304.
        Revalidated => "revalidated",
        /// From a fetch that another request had begun.
        Coalesced => "coalesced",
        /// From upstream.
        Miss => "miss",
        /// From upstream, past the cache.
        Bypass => "bypass",
        /// An error of upstream's or ours.
        Error => "error",
    }
}

words! {
    /// Why a request went past the cache.
    Bypass {
        /// The route says `cache = false`.
        Route => "route",
        /// A safe method that is not cacheable (OPTIONS, TRACE); what is not known to be safe is a write.
        Method => "method",
        /// A write.
        Write => "write",
        /// A GET or HEAD with a body: a body is an input that no key holds.
        Body => "body",
        /// A range of a representation that can't be stored.
        Range => "range",
        /// A request with cookies where the route does not say what they mean.
        Cookie => "cookie",
        /// A request with credentials where the route does not say what they mean.
        Authorization => "authorization",
        /// A precondition that only upstream can judge (If-Match, If-Unmodified-Since).
        Precondition => "precondition",
        /// The client said no-store.
        NoStore => "no_store",
        /// An upgrade: a tunnel.
        Upgrade => "upgrade",
    }
}

words! {
    /// Why a response was not stored.
    NotStored {
        /// Its status is not cacheable without explicit freshness.
        Status => "status",
        /// It says no-store.
        NoStore => "no_store",
        /// It says private.
        Private => "private",
        /// It sets a cookie and does not say that it may be shared.
        SetCookie => "set_cookie",
        /// The request had cookies and the response does not say that it may be shared.
        Cookie => "cookie",
        /// The request had credentials and the response does not permit sharing (RFC 9111 section 3.5).
        Authorization => "authorization",
        /// `Vary: *`.
        VaryStar => "vary_star",
        /// It varies by more fields than are followed.
        VaryTooMany => "vary_too_many",
        /// It is not fresh for any time and has no validator.
        NoFreshness => "no_freshness",
        /// It is part of a representation.
        Partial => "partial",
        /// Its body is larger than the route's `max_object`.
        TooLarge => "too_large",
        /// It carries more tags than are followed.
        TooManyTags => "too_many_tags",
        /// It ended before it was complete.
        Incomplete => "incomplete",
        /// An invalidation named it while it was on its way.
        Invalidated => "invalidated",
        /// It says must-understand and has a status that this cache does not know (RFC 9111 section 5.2.2.3).
        NotUnderstood => "must_understand",
        /// What it holds was invalidated a moment ago, and the route waits for upstream's replicas (`settle`).
        Settling => "settling",
        /// It answers a method whose responses are not stored.
        Method => "method",
        /// It announces trailers, which are passed on and not kept.
        Trailers => "trailers",
    }
}

words! {
    /// Where responses are kept.
    Tier {
        /// In this process.
        Memory => "memory",
        /// In Redis.
        Redis => "redis",
    }
}

words! {
    /// From where a stored response answers, and how sure it is: the detail of a hit.
    HitFrom {
        /// From memory.
        Memory => "memory",
        /// From memory, while Redis is silent: an invalidation may be missing (a bounded route).
        MemoryUntrusted => "memory_untrusted",
        /// From Redis.
        Redis => "redis",
    }
}

words! {
    /// Why a stored response did not answer: the `fwd` parameter of Cache-Status (RFC 9211 section 2.2).
    Forward {
        /// The cache was configured not to handle this request.
        Bypass => "bypass",
        /// The method's semantics require it.
        Method => "method",
        /// No stored response for the URI.
        UriMiss => "uri-miss",
        /// A stored response for the URI, but none for these request fields.
        VaryMiss => "vary-miss",
        /// No usable stored response, for another reason.
        Miss => "miss",
        /// The request's own directives.
        Request => "request",
        /// A stored response was stale.
        Stale => "stale",
    }
}
