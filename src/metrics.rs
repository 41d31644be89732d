//! Every metric, declared once, with its sentence. Label values come from the configuration and from the
//! vocabulary ([`crate::words`]) only, never from a request, and every series is resolved when the
//! configuration is loaded: counting on the request's way is one atomic addition.

use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use crate::invalidation::table::HorizonReason;
use crate::invalidation::{Scope, Source};
use crate::tally::{Exposition, Sum, Tally};
use crate::words::{Bypass, NotStored, Outcome, Tier, words};

words! {
    /// A status class of an upstream response, or no response at all.
    StatusClass {
        /// 1xx, which only tunnels end with.
        Informational => "1xx",
        /// 2xx.
        Success => "2xx",
        /// 3xx.
        Redirection => "3xx",
        /// 4xx.
        ClientError => "4xx",
        /// 5xx.
        ServerError => "5xx",
        /// No response: refused, reset, timed out.
        Failed => "failed",
    }
}

impl StatusClass {
    /// The class of a status code.
    pub fn of(status: http::StatusCode) -> StatusClass {
        match status.as_u16() / 100 {
            1 => StatusClass::Informational,
            2 => StatusClass::Success,
            3 => StatusClass::Redirection,
            4 => StatusClass::ClientError,
            _ => StatusClass::ServerError,
        }
    }
}

words! {
    /// A command to Redis, by what it is for.
    Command {
        /// Reading an entry.
        Get => "get",
        /// Storing an entry.
        Set => "set",
        /// Removing an entry.
        Remove => "remove",
        /// Taking, renewing or giving back the right to fetch for the fleet.
        Lease => "lease",
        /// Appending to the invalidation log.
        Append => "append",
        /// Reading the invalidation log.
        Read => "read",
        /// Connecting, with everything that belongs to it.
        Connect => "connect",
        /// The heartbeat.
        Ping => "ping",
    }
}

words! {
    /// How a command to Redis ended.
    CommandResult {
        /// It was answered.
        Ok => "ok",
        /// Redis answered with an error.
        Error => "error",
        /// No answer within the deadline.
        Timeout => "timeout",
        /// Not sent: the connection is down or the breaker open.
        Unavailable => "unavailable",
    }
}

words! {
    /// Why memory let go of an entry.
    Eviction {
        /// Others needed the room.
        Size => "size",
        /// It was too heavy to be let in.
        Refused => "refused",
        /// Its key had too many variants (`max_variants`).
        Variants => "variants",
    }
}

words! {
    /// What was malformed.
    MalformedWhat {
        /// A client's request.
        Request => "request",
        /// An invalidation message.
        Message => "message",
        /// A record in Redis.
        Record => "record",
        /// An entry of the invalidation log.
        LogEntry => "log_entry",
    }
}

/// What the names of all metrics begin with.
pub(crate) const PREFIX: &str = "asidecar_";

/// Latency buckets in seconds: fine where hits are, wide where slow APIs are.
pub(crate) const SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// The series of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    /// Its answers.
    pub tally: Arc<Tally>,
    upstream: Vec<IntCounter>,
    /// The time from sending a request upstream to the head of its response.
    pub upstream_duration: Histogram,
    stored: Vec<IntCounter>,
    not_stored: Vec<IntCounter>,
    /// Hits while Redis was silent for longer than `max_lag`.
    pub untrusted: IntCounter,
    bypass: Vec<IntCounter>,
}

impl RouteMetrics {
    /// Counts a request to upstream.
    pub fn upstream(&self, class: StatusClass) {
        self.upstream[class as usize].inc();
    }
    /// Counts a response that was stored.
    pub fn stored(&self, tier: Tier) {
        self.stored[tier as usize].inc();
    }
    /// Counts a response that was not stored.
    pub fn not_stored(&self, reason: NotStored) {
        self.not_stored[reason as usize].inc();
    }
    /// Counts a request that went past the cache.
    pub fn bypass(&self, reason: Bypass) {
        self.bypass[reason as usize].inc();
    }
    /// Requests so far with that outcome, over all methods.
    pub fn requests_with(&self, outcome: Outcome) -> u64 {
        self.tally.sum(outcome, None).count()
    }
    /// Requests to upstream so far.
    pub fn upstream_requests(&self) -> u64 {
        self.upstream.iter().map(IntCounter::get).sum()
    }
    /// The median of the durations of these outcomes in seconds, from the histograms' buckets; `None` without
    /// any.
    pub fn median_seconds(&self, outcomes: &[Outcome]) -> Option<f64> {
        median(outcomes.iter().map(|o| self.tally.sum(*o, None)))
    }
    /// The sum of the durations and the count of requests of an outcome.
    pub fn time_spent(&self, outcome: Outcome) -> (f64, u64) {
        let sum = self.tally.sum(outcome, None);
        (sum.nanos as f64 / 1e9, sum.count())
    }
}

/// The median of what was counted, in seconds, by linear interpolation within the bucket; `None` of nothing.
fn median(sums: impl Iterator<Item = Sum>) -> Option<f64> {
    let mut answers = [0u64; SECONDS.len() + 1];
    for sum in sums {
        answers.iter_mut().zip(sum.answers).for_each(|(all, count)| *all += count);
    }
    let half = answers.iter().sum::<u64>() as f64 / 2.0;
    let mut below = 0.0;
    for (at, count) in answers.iter().enumerate().filter(|(_, count)| **count > 0) {
        if below + *count as f64 >= half {
            let Some(upper) = SECONDS.get(at) else { return SECONDS.last().copied() };
            let lower = if at == 0 { 0.0 } else { SECONDS[at - 1] };
            return Some(lower + (upper - lower) * (half - below) / *count as f64);
        }
        below += *count as f64;
    }
    None
}

/// All metrics of an instance.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// One for each route, by its index.
    pub routes: Vec<RouteMetrics>,
    redis_commands: Vec<IntCounter>,
    redis_duration: Vec<Histogram>,
    /// Whether Redis is connected and trusted.
    pub redis_up: IntGauge,
    /// Whether the breaker holds commands back.
    pub redis_breaker_open: IntGauge,
    invalidations: Vec<IntCounter>,
    /// Seconds between an entry's place in the log and its being applied here.
    pub invalidation_lag: Histogram,
    /// Gaps in the log that had to be read up.
    pub log_gaps: IntCounter,
    horizon_moves: Vec<IntCounter>,
    /// Invalidations that are applied here and not in the log yet.
    pub invalidations_pending: IntGauge,
    /// Entries in memory.
    pub memory_entries: IntGauge,
    /// Bytes they take, with their keys and fields.
    pub memory_bytes: IntGauge,
    /// Bytes they may take.
    pub memory_limit: IntGauge,
    evictions: Vec<IntCounter>,
    /// Fetches under way on behalf of the cache.
    pub fills_in_flight: IntGauge,
    /// Client connections open.
    pub connections: IntGauge,
    /// Tunnels opened by an upgrade.
    pub tunnels: IntCounter,
    malformed: Vec<IntCounter>,
}

impl Metrics {
    /// Declares all metrics for routes of these names.
    ///
    /// # Errors
    /// When two routes share a name, which the configuration refuses before.
    pub fn new(routes: &[&str]) -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let d = Declare { registry: &registry };
        let build = d.counters("build_info", "The version that runs; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).inc();

        let upstream = d.counters("upstream_requests_total", "Requests sent upstream.", &["route", "status_class"])?;
        let upstream_duration = d.histograms(
            "upstream_duration_seconds",
            "From sending a request upstream to the head of its response.",
            &["route"],
        )?;
        let stored = d.counters("stored_total", "Responses that were stored.", &["route", "tier"])?;
        let untrusted = d.counters(
            "untrusted_hits_total",
            "Hits in memory while Redis was silent for longer than max_lag.",
            &["route"],
        )?;
        let not_stored =
            d.counters("not_stored_total", "Responses that were not stored, by why.", &["route", "reason"])?;
        let bypass = d.counters("bypass_total", "Requests that went past the cache, by why.", &["route", "reason"])?;

        let tallies: Vec<_> = routes.iter().map(|route| ((*route).to_owned(), Tally::new())).collect();
        registry.register(Box::new(Exposition::new(tallies.clone())?))?;

        let routes = routes
            .iter()
            .zip(tallies)
            .map(|(route, (_, tally))| RouteMetrics {
                tally,
                upstream: StatusClass::ALL.iter().map(|c| upstream.with_label_values(&[*route, c.as_str()])).collect(),
                upstream_duration: upstream_duration.with_label_values(&[route]),
                stored: Tier::ALL.iter().map(|t| stored.with_label_values(&[*route, t.as_str()])).collect(),
                untrusted: untrusted.with_label_values(&[*route]),
                not_stored: NotStored::ALL
                    .iter()
                    .map(|r| not_stored.with_label_values(&[*route, r.as_str()]))
                    .collect(),
                bypass: Bypass::ALL.iter().map(|r| bypass.with_label_values(&[*route, r.as_str()])).collect(),
            })
            .collect();

        let commands = d.counters("redis_commands_total", "Commands to Redis.", &["command", "result"])?;
        let command_duration = d.histograms("redis_duration_seconds", "What commands to Redis took.", &["command"])?;
        let invalidations = d.counters("invalidations_total", "Invalidations applied.", &["source", "scope"])?;
        let moves = d.counters(
            "horizon_moves_total",
            "Times everything stored before had to be given up, by why.",
            &["reason"],
        )?;
        let evictions = d.counters("memory_evictions_total", "Entries that memory let go of, by why.", &["reason"])?;
        let malformed = d.counters("malformed_total", "Input that was refused.", &["what"])?;

        let metrics = Metrics {
            routes,
            redis_commands: Command::ALL
                .iter()
                .flat_map(|c| CommandResult::ALL.iter().map(move |r| [c.as_str(), r.as_str()]))
                .map(|labels| commands.with_label_values(&labels))
                .collect(),
            redis_duration: Command::ALL.iter().map(|c| command_duration.with_label_values(&[c.as_str()])).collect(),
            redis_up: d.gauge("redis_up", "Whether Redis is connected and caught up with.")?,
            redis_breaker_open: d.gauge("redis_breaker_open", "Whether commands to Redis are held back.")?,
            invalidations: Source::ALL
                .iter()
                .flat_map(|s| Scope::ALL.iter().map(move |c| [s.as_str(), c.as_str()]))
                .map(|labels| invalidations.with_label_values(&labels))
                .collect(),
            invalidation_lag: d.histogram(
                "invalidation_lag_seconds",
                "From an invalidation's entry into the log to its being applied here.",
            )?,
            log_gaps: d.counter("invalidation_log_gaps_total", "Gaps in the log that had to be read up.")?,
            horizon_moves: HorizonReason::ALL.iter().map(|r| moves.with_label_values(&[r.as_str()])).collect(),
            invalidations_pending: d
                .gauge("invalidations_pending", "Invalidations that are applied here and wait to be logged.")?,
            memory_entries: d.gauge("memory_entries", "Entries in memory.")?,
            memory_bytes: d.gauge("memory_bytes", "Bytes they take, with keys and fields.")?,
            memory_limit: d.gauge("memory_limit_bytes", "Bytes they may take.")?,
            evictions: Eviction::ALL.iter().map(|r| evictions.with_label_values(&[r.as_str()])).collect(),
            fills_in_flight: d.gauge("fills_in_flight", "Fetches under way on behalf of the cache.")?,
            connections: d.gauge("connections", "Client connections open.")?,
            tunnels: d.counter("tunnels_total", "Tunnels opened by an upgrade.")?,
            malformed: MalformedWhat::ALL.iter().map(|w| malformed.with_label_values(&[w.as_str()])).collect(),
            registry: registry.clone(),
        };
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Counts a command to Redis.
    pub fn command(&self, command: Command, result: CommandResult, took: Duration) {
        self.redis_commands[command as usize * CommandResult::ALL.len() + result as usize].inc();
        if result != CommandResult::Unavailable {
            self.redis_duration[command as usize].observe(took.as_secs_f64());
        }
    }
    /// Counts an invalidation.
    pub fn invalidation(&self, source: Source, scope: Scope) {
        self.invalidations[source as usize * Scope::ALL.len() + scope as usize].inc();
    }
    /// Counts a move of the horizon.
    pub fn horizon_moved(&self, reason: HorizonReason) {
        self.horizon_moves[reason as usize].inc();
    }
    /// Moves of the horizon so far.
    pub fn horizon_moves(&self) -> u64 {
        self.horizon_moves.iter().map(IntCounter::get).sum()
    }
    /// Counts an entry that memory let go of.
    pub fn evicted(&self, why: Eviction) {
        self.evictions[why as usize].inc();
    }
    /// Entries that memory let go of so far.
    pub fn evictions(&self) -> u64 {
        self.evictions.iter().map(IntCounter::get).sum()
    }
    /// Counts input that was refused.
    pub fn malformed(&self, what: MalformedWhat) {
        self.malformed[what as usize].inc();
    }
    /// Input of that kind refused so far.
    pub fn malformed_count(&self, what: MalformedWhat) -> u64 {
        self.malformed[what as usize].get()
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// When the encoder refuses a metric, which its declaration would have shown.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut out = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(out)
    }
}

/// Declares and registers under the common prefix.
struct Declare<'r> {
    registry: &'r Registry,
}

impl Declare<'_> {
    fn keep<C: Collector + Clone + 'static>(&self, made: Result<C, prometheus::Error>) -> Result<C, prometheus::Error> {
        let made = made?;
        self.registry.register(Box::new(made.clone()))?;
        Ok(made)
    }
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.keep(IntCounterVec::new(opts(name, help), labels))
    }
    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.keep(IntCounter::with_opts(opts(name, help)))
    }
    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.keep(IntGauge::with_opts(opts(name, help)))
    }
    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        self.keep(HistogramVec::new(HistogramOpts::from(opts(name, help)).buckets(SECONDS.to_vec()), labels))
    }
    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        self.keep(Histogram::with_opts(HistogramOpts::from(opts(name, help)).buckets(SECONDS.to_vec())))
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("{PREFIX}{name}"), help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::MethodClass;

    #[test]
    fn every_series_is_there_before_anything_happened() {
        let m = Metrics::new(&["user", "default"]).unwrap();
        let text = String::from_utf8(m.render().unwrap()).unwrap();
        for series in [
            r#"asidecar_requests_total{method="GET",outcome="hit_memory",route="user"} 0"#,
            r#"asidecar_redis_commands_total{command="get",result="timeout"} 0"#,
            r#"asidecar_horizon_moves_total{reason="rolled_back"} 0"#,
            "asidecar_memory_limit_bytes 0",
            "process_resident_memory_bytes",
        ] {
            assert!(text.contains(series), "{series}");
        }
    }

    #[test]
    fn each_label_reaches_its_own_series() {
        let m = Metrics::new(&["a"]).unwrap();
        for (n, outcome) in Outcome::ALL.iter().enumerate() {
            for method in MethodClass::ALL {
                for _ in 0..=n {
                    m.routes[0].tally.answered(method, *outcome, Duration::ZERO);
                }
            }
            assert_eq!(m.routes[0].requests_with(*outcome), (n as u64 + 1) * MethodClass::ALL.len() as u64);
        }
        m.command(Command::Set, CommandResult::Timeout, Duration::ZERO);
        m.invalidation(Source::Api, Scope::Tag);
        let text = String::from_utf8(m.render().unwrap()).unwrap();
        assert!(text.contains(r#"asidecar_redis_commands_total{command="set",result="timeout"} 1"#));
        assert!(text.contains(r#"asidecar_invalidations_total{scope="tag",source="api"} 1"#));
    }

    #[test]
    fn the_median_is_read_from_the_buckets() {
        let m = Metrics::new(&["a"]).unwrap();
        assert_eq!(m.routes[0].median_seconds(&[Outcome::Miss]), None);
        for ms in [30, 30, 30, 200] {
            m.routes[0].tally.answered(MethodClass::ALL[0], Outcome::Miss, Duration::from_millis(ms));
        }
        let got = m.routes[0].median_seconds(&[Outcome::Miss, Outcome::Stale]).unwrap();
        assert!((0.025..=0.05).contains(&got), "{got}");
    }
}
