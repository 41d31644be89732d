//! One fetch on behalf of all who wait for a key: the way of a fill, one named step after the other.
//!
//! `look in Redis` → `ask upstream` (conditionally when something stale can be confirmed) → `decide` →
//! `stream` to whoever waits → `keep` in memory → tell Redis, after everybody has been answered.
//!
//! A fill is a task of its own: a client that goes away does not stop what others wait for. Its as-of was
//! taken before it began, so an invalidation that came meanwhile finds the entry dead on arrival.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::admission::{self, Personal};
use crate::body::{Fetched, RequestBody};
use crate::clock::Timestamp;
use crate::coalesce::{Lead, Origin, Progress, Streaming};
use crate::conditional;
use crate::config::RoutePolicy;
use crate::control::CacheControl;
use crate::entry::{Entry, Stored, Tags, Verdict, judge, stored_fields};
use crate::freshness;
use crate::interim::Sink;
use crate::invalidation::log::Stamp;
use crate::invalidation::position::Position;
use crate::invalidation::table::Standing;
use crate::invalidation::{TagId, TagKind};
use crate::metrics::StatusClass;
use crate::problem::Problem;
use crate::proxy::Proxy;
use crate::respond;
use crate::spool::{self, Reader, Writer};
use crate::upstream::Outgoing;
use crate::vary::Variants;
use crate::words::{NotStored, Tier};

/// How long requests for a key whose last response was not storable do not wait for each other.
const PASS_FOR: Duration = Duration::from_secs(5);

/// What is to be fetched, and for whom.
pub struct Order {
    /// The key: of the variant when it is known which fields it varies by, else the primary one.
    pub key: Arc<str>,
    /// The key without the variant's part.
    pub primary: Arc<str>,
    /// The length of the primary key's base.
    pub base: usize,
    /// The route's index.
    pub route: usize,
    /// Path and query, as the client sent them or as the key holds them.
    pub target: PathAndQuery,
    /// The client's fields, which tell variants apart.
    pub request: HeaderMap,
    /// The fields as they go upstream.
    pub outgoing: HeaderMap,
    /// The tags that are known before the response is.
    pub tags: Tags,
    /// In which way the request is personal.
    pub who: Personal,
    /// What is stored and stale, and whether it may be served when upstream fails.
    pub stale: Option<(Arc<Entry>, bool)>,
    /// Whether Redis is not to be asked: the client wants validation, or entries are not trusted.
    pub past_redis: bool,
    /// The request's own directives.
    pub control: CacheControl,
    /// Where interim responses go: to the request that leads, and nowhere in a background refresh.
    pub interim: Option<Sink>,
}

/// What the request that leads a fill gets.
pub enum Answer {
    /// A whole entry.
    Found(Arc<Entry>, Origin),
    /// A response that is being stored.
    Streaming(Arc<Streaming>, Reader),
    /// A response that is not.
    Direct(Response<Fetched>, NotStored),
    /// Upstream failed.
    Failed(Problem),
}

/// When a response was asked for and came, and what that took.
#[derive(Clone, Copy)]
struct Timing {
    requested: Timestamp,
    responded: Timestamp,
    /// In milliseconds.
    cost: u32,
}

/// A response that is going to be kept.
struct Kept {
    /// The entry without its body.
    head: Entry,
    variants: Option<Arc<Variants>>,
    for_waiters: bool,
}

/// Where a fill tells its leading request; a background refresh has none.
pub type Leader = Option<oneshot::Sender<Answer>>;

impl Proxy {
    /// Makes a fill. See the module's text.
    pub async fn fill(self: Arc<Self>, order: Order, mut lead: Lead, mut leader: Leader) {
        let mut order = order;
        if let Some(found) = self.look_in_redis(&mut order).await {
            return settle(&lead, leader.take(), found, Origin::Redis);
        }
        let requested = self.core.clock.now();
        let began = Instant::now();
        let response = match self.ask_upstream(&order).await {
            Ok(response) => response,
            Err(problem) => {
                return match order.stale.take() {
                    Some((stale, true)) => settle(&lead, leader.take(), stale, Origin::StaleIfError),
                    _ => fail(&lead, leader.take(), problem),
                };
            }
        };
        let timing = Timing {
            requested,
            responded: self.core.clock.now(),
            cost: u32::try_from(began.elapsed().as_millis()).unwrap_or(u32::MAX),
        };
        if let Some((stale, if_error)) = order.stale.take() {
            if response.status() == StatusCode::NOT_MODIFIED {
                return self.renew(&order, &stale, response.headers(), timing, lead, leader).await;
            }
            if if_error && may_be_masked(response.status()) {
                return settle(&lead, leader.take(), stale, Origin::StaleIfError);
            }
            order.stale = Some((stale, false));
        }
        match self.decide(&order, response.status(), response.headers(), timing, lead.as_of()) {
            Err(reason) => {
                self.metrics(&order).not_stored(reason);
                if order.stale.is_none() && !order.who.any() {
                    let until = timing.responded.plus(PASS_FOR);
                    self.core.memory.put(order.key.clone(), Stored::Pass { until });
                }
                lead.leave();
                lead.publish(Progress::NotStorable(reason));
                answer(leader, Answer::Direct(response, reason));
            }
            Ok(kept) => self.stream(&order, lead, leader, response, kept).await,
        }
    }

    fn metrics(&self, order: &Order) -> &crate::metrics::RouteMetrics {
        &self.core.metrics.routes[order.route]
    }

    /// The second tier. What is fresh there goes into memory and answers; what is stale and can be confirmed
    /// replaces what this process knew.
    async fn look_in_redis(&self, order: &mut Order) -> Option<Arc<Entry>> {
        let shared = self.core.shared.as_ref().filter(|_| !order.past_redis)?;
        let mut stored = shared.get(&order.key, order.route, self.core.clock.now()).await?;
        if let Stored::Variants(variants) = &stored {
            self.core.memory.put(order.primary.clone(), stored.clone());
            let mut key = order.primary.to_string();
            variants.extend_key(&order.request, &mut key);
            order.key = key.into();
            stored = shared.get(&order.key, order.route, self.core.clock.now()).await?;
        }
        let Stored::Entry(entry) = stored else { return None };
        let now = self.core.clock.now();
        let standing = self.core.log.standing(&entry.stamp);
        let trusted = self.core.log.trusted(now);
        match judge(&entry, self.policy(order.route), order.who, &order.control, standing, trusted, now) {
            Verdict::Fresh { .. } => {
                self.core.memory.put(entry.key.clone(), Stored::Entry(entry.clone()));
                Some(entry)
            }
            Verdict::Unusable(_) => None,
            Verdict::WhileRevalidate { .. } => {
                order.stale = Some((entry, true));
                None
            }
            Verdict::Validate { if_error, .. } => {
                order.stale = Some((entry, if_error));
                None
            }
        }
    }

    async fn ask_upstream(&self, order: &Order) -> Result<Response<Fetched>, Problem> {
        let mut headers = order.outgoing.clone();
        for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE, CONTENT_LENGTH] {
            headers.remove(name);
        }
        if let Some((stale, _)) = &order.stale {
            if let Some(tag) = stale.headers.get(ETAG) {
                headers.insert(IF_NONE_MATCH, tag.clone());
            }
            if let Some(date) = stale.headers.get(LAST_MODIFIED) {
                headers.insert(IF_MODIFIED_SINCE, date.clone());
            }
        }
        let out = Outgoing {
            method: Method::GET,
            target: order.target.clone(),
            headers,
            body: RequestBody::Empty,
            upload: None,
            interim: order.interim.clone(),
        };
        self.fetch(order.route, out).await
    }

    /// Sends a request upstream and counts it.
    pub async fn fetch(&self, route: usize, out: Outgoing) -> Result<Response<Fetched>, Problem> {
        let metrics = &self.core.metrics.routes[route];
        let began = Instant::now();
        let outcome = self.upstream.send(out).await;
        self.core
            .upstream_answers
            .set(!matches!(outcome, Err(Problem::Unreachable | Problem::Timeout | Problem::Broken)));
        match &outcome {
            Ok(response) => {
                metrics.upstream(StatusClass::of(response.status()));
                metrics.upstream_duration.observe(began.elapsed().as_secs_f64());
            }
            Err(_) => metrics.upstream(StatusClass::Failed),
        }
        let mut response = outcome?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked for that.
            return Err(Problem::Broken);
        }
        let version = response.version();
        respond::receive(response.headers_mut(), version, &self.core.clock);
        Ok(response)
    }

    /// Decides whether a response is stored, and makes the entry without its body.
    fn decide(
        &self,
        order: &Order,
        status: StatusCode,
        headers: &HeaderMap,
        Timing { requested, responded, cost }: Timing,
        as_of: Position,
    ) -> Result<Kept, NotStored> {
        let policy = self.policy(order.route);
        let control = CacheControl::of(headers);
        let roll = roll(&order.key, responded);
        let lifetime = freshness::lifetime(policy, status, headers, &control, responded, roll);
        let admitted = admission::admit(policy, order.who, status, headers, &control, lifetime)?;
        let variants = Variants::of(policy, headers)?.map(Arc::new);
        let mut tags = order.tags.clone();
        tags.add_response(headers)?;
        let key: Arc<str> = match &variants {
            None => order.primary.clone(),
            Some(variants) => {
                let mut key = order.primary.to_string();
                variants.extend_key(&order.request, &mut key);
                key.into()
            }
        };
        if variants.is_some() {
            tags.ids.push(TagId::of(TagKind::Key, key.as_bytes()));
        }
        let head = Entry {
            key,
            base: order.base,
            path: order.target.path().into(),
            route: order.route,
            status,
            headers: stored_fields(headers),
            body: bytes::Bytes::new(),
            birth: freshness::birth(headers, requested, responded),
            kept: responded,
            lifetime,
            sharing: admitted.sharing,
            tags: tags.names.into(),
            stamp: Stamp::new(as_of, &tags.ids),
            cost,
            hits: AtomicU32::new(0),
        };
        Ok(Kept { head, variants, for_waiters: admitted.for_waiters })
    }

    /// Streams the body to whoever waits, and keeps the entry when it is complete.
    async fn stream(&self, order: &Order, mut lead: Lead, leader: Leader, response: Response<Fetched>, kept: Kept) {
        let Kept { head, variants, for_waiters } = kept;
        let policy = self.policy(order.route);
        if let Some(variants) = &variants {
            self.core.memory.put(order.primary.clone(), Stored::Variants(variants.clone()));
        }
        let length = admission::content_length(response.headers());
        let (writer, spool) = spool::spool(policy.max_object, self.upstream.settings().idle_timeout);
        let reader = spool.reader();
        let head = Arc::new(head);
        let streaming = Arc::new(Streaming { head: head.clone(), variants: variants.clone(), spool, length });
        if let Some(reader) = reader {
            answer(leader, Answer::Streaming(streaming.clone(), reader));
        }
        if for_waiters {
            lead.publish(Progress::Streaming(streaming));
        } else {
            lead.leave();
            lead.publish(Progress::NotStorable(NotStored::NoFreshness));
            drop(streaming);
        }
        match read_all(response.into_body(), writer, self.upstream.settings().timeout).await {
            Err(reason) => self.metrics(order).not_stored(reason),
            Ok(body) => {
                let entry = Arc::new(Entry { body, ..shell(&head) });
                self.keep(order, lead, entry, variants).await;
            }
        }
    }

    /// Keeps a complete entry: in memory at once, in Redis when everybody has been told.
    async fn keep(&self, order: &Order, lead: Lead, entry: Arc<Entry>, variants: Option<Arc<Variants>>) {
        let metrics = self.metrics(order);
        if self.core.log.standing(&entry.stamp) == Standing::Invalid {
            return metrics.not_stored(NotStored::Invalidated);
        }
        if self.core.memory.put(entry.key.clone(), Stored::Entry(entry.clone())) {
            metrics.stored(Tier::Memory);
        }
        drop(lead);
        if let Some(shared) = &self.core.shared {
            let variants = variants.as_deref().map(|v| (&*order.primary, v));
            if shared.put(&entry, variants, self.core.clock.now()).await {
                metrics.stored(Tier::Redis);
            }
        }
    }

    /// The stored response after a 304 (RFC 9111 section 4.3.4), as-of the start of the conditional request:
    /// what was invalidated while it was on its way stays invalid. It is admitted anew: the 304 may say that
    /// the response is private now, varies by more, or carries other tags.
    async fn renew(
        &self,
        order: &Order,
        stale: &Entry,
        fresh: &HeaderMap,
        timing: Timing,
        mut lead: Lead,
        leader: Leader,
    ) {
        let merged = conditional::updated(&stale.headers, fresh);
        let body = stale.body.clone();
        match self.decide(order, stale.status, &merged, timing, lead.as_of()) {
            Ok(Kept { head, variants, for_waiters }) => {
                let entry = Arc::new(Entry { body, ..head });
                if for_waiters {
                    settle(&lead, leader, entry.clone(), Origin::Revalidated);
                } else {
                    lead.leave();
                    lead.publish(Progress::NotStorable(NotStored::NoFreshness));
                    answer(leader, Answer::Found(entry.clone(), Origin::Revalidated));
                }
                self.keep(order, lead, entry, variants).await;
            }
            Err(reason) => {
                self.metrics(order).not_stored(reason);
                self.core.memory.remove(&stale.key);
                if let Some(shared) = &self.core.shared {
                    shared.remove(&stale.key).await;
                }
                lead.leave();
                lead.publish(Progress::NotStorable(reason));
                let once = Entry { headers: merged, body, birth: timing.responded, ..shell(stale) };
                answer(leader, Answer::Found(Arc::new(once), Origin::Revalidated));
            }
        }
    }
}

fn answer(leader: Leader, answer: Answer) {
    if let Some(leader) = leader {
        // A leader that is gone wants no answer.
        let _ = leader.send(answer);
    }
}

/// Tells everybody of a whole entry.
fn settle(lead: &Lead, leader: Leader, entry: Arc<Entry>, origin: Origin) {
    answer(leader, Answer::Found(entry.clone(), origin));
    lead.publish(Progress::Found(entry, origin));
}

/// Tells everybody of a failure.
fn fail(lead: &Lead, leader: Leader, problem: Problem) {
    answer(leader, Answer::Failed(problem));
    lead.publish(Progress::Failed(problem));
}

/// Reads a body into the spool. While it may still be stored it must be complete within `patience`; one that
/// has grown too large is only passed on, at the pace of its readers.
async fn read_all(mut body: Fetched, writer: Writer, patience: Duration) -> Result<bytes::Bytes, NotStored> {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let next = body.frame();
        let frame = if writer.is_whole() {
            timeout_at(deadline, next).await.map_err(|_| NotStored::Incomplete)?
        } else {
            next.await
        };
        let Some(frame) = frame else { break };
        let Ok(chunk) = frame.map_err(|_| NotStored::Incomplete)?.into_data() else { continue };
        if !writer.push(chunk).await {
            return Err(NotStored::TooLarge);
        }
    }
    writer.finish().ok_or(NotStored::TooLarge)
}

/// Errors that a stale response may stand in for (RFC 5861 section 4).
fn may_be_masked(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// A copy without the body, for building another entry from.
fn shell(of: &Entry) -> Entry {
    crate::store::record::with_as_of(of, of.stamp.as_of)
}

/// A number in [0, 1) for the jitter, different for each key and time.
fn roll(key: &str, at: Timestamp) -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let mut h = foldhash::fast::FixedState::default().build_hasher();
    h.write(key.as_bytes());
    h.write_u64(at.0);
    (h.finish() >> 11) as f64 / (1u64 << 53) as f64
}

/// The route's policy, by its index.
impl Proxy {
    pub(crate) fn policy(&self, route: usize) -> &RoutePolicy {
        &self.core.config.routes[route]
    }
}
