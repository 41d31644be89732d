//! One fetch on behalf of all who wait for a key: the way of a fill, one named step after the other.
//!
//! `look in Redis` → `ask upstream` (conditionally when something stale can be confirmed) → `decide` →
//! `stream` to whoever waits → `keep` in memory → tell Redis, after everybody has been answered.
//!
//! A fill outlives its leader: a client that goes away does not stop what others wait for. Its as-of was
//! taken before it began, so an invalidation that came meanwhile finds the entry dead on arrival.

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use http::header::{
    AGE, CONTENT_LENGTH, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, SET_COOKIE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;
use tokio::time::timeout_at;

use crate::admission::{self, Admitted, Personal};
use crate::clock::{Timestamp, millis};
use crate::coalesce::{Lead, Origin, Progress, Streaming};
use crate::conditional;
use crate::config::RoutePolicy;
use crate::content::{Content, Names};
use crate::control::CacheControl;
use crate::entry::{Entry, Stored, Tags, Verdict, judge, own_fields, stored_fields};
use crate::freshness::{self, Fallback};
use crate::interim::Sink;
use crate::invalidation::log::Stamp;
use crate::invalidation::position::{LogId, Position};
use crate::invalidation::table::Standing;
use crate::invalidation::{TagId, TagKind};
use crate::metrics::{Eviction, StatusClass};
use crate::problem::Problem;
use crate::proxy::Proxy;
use crate::redis_tier::lease::{Ended, Lease, Turn};
use crate::respond::{self, Why};
use crate::spool::{self, Reader, Writer};
use crate::store::CONFIRMABLE_FOR;
use crate::upstream::{Fetched, Outgoing};
use crate::vary::Variants;
use crate::words::{NotStored, Tier};
use crate::write::{self, Written};

/// So often a fill waits for another instance's before it fetches for itself.
const TURNS: usize = 3;
/// How long requests for a key whose last response was not storable do not wait for each other.
const PASS_FOR: Duration = Duration::from_secs(5);
/// The same for one that was too large: it will not shrink soon, and finding out again costs most.
const PASS_LARGE_FOR: Duration = Duration::from_secs(60);

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
    /// What is stored and stale, and when it may be served in upstream's place.
    pub stale: Option<(Arc<Entry>, Fallback)>,
    /// What the key's responses are known to vary by.
    pub known: Option<Arc<Variants>>,
    /// Whether one instance fetches for all of them.
    pub fleet: bool,
    /// What is stored is fresh still and to be refreshed: only something newer will do.
    pub newer_than: Option<Timestamp>,
    /// The origin that cache groups are of; empty where the route's keys are for all hosts.
    pub origin: Box<str>,
    /// Whether Redis is not to be asked: what it has is not trusted, or there is something to validate already.
    pub past_redis: bool,
    /// Whether Redis has just been asked, and did not answer for good.
    pub looked: bool,
    /// Whether upstream is asked with the client's own conditions and ranges where there is nothing to validate: its
    /// response will hardly be stored, so they are not for this cache to evaluate (RFC 9110 section 13.2.1).
    pub as_asked: bool,
    /// Whether there were such, and upstream has been asked with them.
    pub asks_conditions: bool,
    /// Why what Redis has did not answer, for who leads the fill.
    pub learned: Arc<Mutex<Option<Why>>>,
    /// The request's own directives.
    pub control: CacheControl,
    /// Where interim responses go: to the request that leads, and nowhere in a background refresh.
    pub interim: Option<Sink>,
}

impl Order {
    fn learn(&self, why: Why) {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Why a response of this status is for nobody but the client, if it answers the client's own conditions.
    fn own_response(&self, status: StatusCode) -> Option<NotStored> {
        own_response(self.asks_conditions && self.stale.is_none(), status)
    }

    /// The fields of the next request to upstream: with the conditions that a stale response can be confirmed by.
    /// Without one there is no second request, and no copy is kept for it.
    fn fields_for_upstream(&mut self) -> HeaderMap {
        let kept = self.stale.is_some().then(|| self.outgoing.clone());
        let mut headers = std::mem::replace(&mut self.outgoing, kept.unwrap_or_default());
        headers.remove(CONTENT_LENGTH);
        self.asks_conditions = self.as_asked && asks_conditions(&headers);
        if self.stale.is_some() || !self.as_asked {
            for name in CONDITIONS {
                headers.remove(name);
            }
        }
        if let Some((stale, _)) = &self.stale {
            let validators = stale.content.headers();
            for (known, condition) in [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)] {
                if let Some(value) = validators.get(known) {
                    headers.insert(condition, value.clone());
                }
            }
        }
        headers
    }

    /// What is stored and stale, where it may answer in place of this outcome.
    pub fn stands_in(&self, outcome: &Result<Response<Fetched>, Problem>) -> Option<(Arc<Entry>, Origin)> {
        let (stale, fallback) = self.stale.as_ref()?;
        let origin = match (outcome, fallback) {
            (Ok(response), Fallback::AnyError) if may_be_masked(response.status()) => {
                Origin::StaleIfError(Some(response.status()))
            }
            (Err(_), Fallback::AnyError) => Origin::StaleIfError(None),
            (Err(problem), Fallback::Unreachable) if problem.is_disconnected() => Origin::Unreachable,
            _ => return None,
        };
        Some((stale.clone(), origin))
    }
}

/// The fields that ask for less than the whole.
const CONDITIONS: [HeaderName; 4] = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE];

fn asks_conditions(headers: &HeaderMap) -> bool {
    CONDITIONS.iter().any(|name| headers.contains_key(name))
}

/// Why a response is for nobody but the client whose own conditions and ranges it answers; a 200 answers none.
fn own_response(asked_conditions: bool, status: StatusCode) -> Option<NotStored> {
    (asked_conditions && status != StatusCode::OK)
        .then_some(if status == StatusCode::PARTIAL_CONTENT { NotStored::Partial } else { NotStored::Status })
}

/// Why what Redis has did not answer, if it has anything.
pub fn learned(learned: &Mutex<Option<Why>>) -> Option<Why> {
    *learned.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the request that leads a fill gets.
pub enum Answer {
    /// A whole entry.
    Found(Arc<Entry>, Origin),
    /// A response that is being stored: its head, with the fields that are for this request alone, and its body,
    /// with the length that upstream announced.
    Streaming(Arc<Entry>, (Reader, Option<u64>)),
    /// A response that is not.
    Direct(Box<Response<Fetched>>, NotStored),
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
    /// All fields of the response, where some are not stored and are for the request that asked for it.
    own: Option<HeaderMap>,
    variants: Option<Arc<Variants>>,
    for_waiters: bool,
}

/// Whether a fill is to fetch.
enum Mine {
    /// It is stored already, and fresh for so many more milliseconds (0 or less: stale).
    Found((Arc<Entry>, i64)),
    /// Another instance asked upstream in vain.
    Failed(Problem),
    /// It is, for the whole fleet if there is a lease.
    Fetch(Option<Lease>),
}

/// A response in Redis that may answer.
pub struct InRedis {
    /// The response.
    pub entry: Arc<Entry>,
    /// Milliseconds of freshness left; 0 or less when it is stale.
    pub left: i64,
    /// Whether it is to be fetched anew behind the client's back.
    pub renew: bool,
}

/// Where a fill tells its leading request; a background refresh has none.
pub type Leader = Option<oneshot::Sender<Answer>>;

impl Proxy {
    /// Makes a fill. See the module's text.
    pub async fn fill(self: Arc<Self>, mut order: Box<Order>, mut lead: Lead, mut leader: Leader) {
        let mine = match &self.core.shared {
            None => Mine::Fetch(None),
            // Futures of Redis are large, and most deployments of one instance have none.
            Some(_) => Box::pin(self.take_turn(&mut order, &mut leader)).await,
        };
        let lease = match mine {
            Mine::Found((found, left)) => return settle(&lead, leader.take(), found, Origin::Redis(left)),
            Mine::Failed(problem) => {
                return match order.stands_in(&Err(problem)) {
                    Some((stale, origin)) => settle(&lead, leader.take(), stale, origin),
                    None => fail(&lead, leader.take(), problem),
                };
            }
            Mine::Fetch(lease) => lease,
        };
        let requested = self.core.clock.now();
        let began = Instant::now();
        let outcome = self.ask_upstream(&mut order).await;
        if let Some((stale, origin)) = order.stands_in(&outcome) {
            settle(&lead, leader.take(), stale, origin);
            return release(lease, Ended::Failed(outcome.err().unwrap_or(Problem::Broken))).await;
        }
        let response = match outcome {
            Ok(response) => response,
            Err(problem) => {
                fail(&lead, leader.take(), problem);
                return release(lease, Ended::Failed(problem)).await;
            }
        };
        let timing = Timing {
            requested,
            responded: self.core.clock.now(),
            cost: u32::try_from(began.elapsed().as_millis()).unwrap_or(u32::MAX),
        };
        if let Some((stale, _)) = &order.stale
            && response.status() == StatusCode::NOT_MODIFIED
        {
            let stale = stale.clone();
            return Box::pin(self.renew(&order, &stale, response.headers(), timing, (lead, lease), leader)).await;
        }
        match self.decide(&order, response.status(), response.headers(), response.headers(), timing, lead.as_of()) {
            Err(reason) => {
                self.metrics(&order).not_stored(reason);
                self.mark_pass(&order, response.status(), reason, timing.responded).await;
                lead.leave();
                lead.publish(Progress::NotStorable(reason));
                answer(leader, Answer::Direct(response.into(), reason));
                release(lease, Ended::NotStorable).await;
            }
            Ok(kept) => self.stream(&order, (lead, lease), leader, response, kept).await,
        }
    }

    /// Redis, and then the fleet's leave to fetch; where another instance has it, what comes of its fill.
    async fn take_turn(&self, order: &mut Order, leader: &mut Leader) -> Mine {
        if !order.looked
            && let Some(found) = self.redis_answers(order, leader).await
        {
            return Mine::Found(found);
        }
        let Some(leases) = self.core.leases.as_ref().filter(|_| order.fleet && !order.past_redis) else {
            return Mine::Fetch(None);
        };
        let settings = self.upstream.settings();
        for _ in 0..TURNS {
            match leases.turn(&order.key, settings.connect_timeout + settings.first_byte_timeout).await {
                // Another may have stored it between the look and the lease.
                Turn::Lead(lease) => {
                    let Some(found) = self.redis_answers(order, leader).await else {
                        return Mine::Fetch(Some(lease));
                    };
                    lease.release(Ended::Stored).await;
                    return Mine::Found(found);
                }
                Turn::Ended(Ended::Failed(problem)) => return Mine::Failed(problem),
                Turn::Ended(Ended::Stored) => {
                    if let Some(found) = self.redis_answers(order, leader).await {
                        return Mine::Found(found);
                    }
                }
                Turn::Ended(Ended::NotStorable | Ended::Abandoned) | Turn::Alone => break,
            }
        }
        Mine::Fetch(None)
    }

    /// What Redis has, where nothing is left to do then. What may answer although it is stale goes to who leads at
    /// once, and the fill goes on behind his back.
    pub async fn redis_answers(&self, order: &mut Order, leader: &mut Leader) -> Option<(Arc<Entry>, i64)> {
        let InRedis { entry, left, renew } = self.look_in_redis(order).await?;
        if !renew {
            return Some((entry, left));
        }
        if leader.is_some() {
            order.interim = None;
            self.core.memory.put_from_record(&entry);
            answer(leader.take(), Answer::Found(entry, Origin::Redis(left)));
        }
        None
    }

    /// A response that is not stored, to a request of nobody in particular: those who come next need not wait for
    /// each other, and what was stored before is not the most recent any more (RFC 9111 section 4). A server error
    /// says nothing of what was stored.
    async fn mark_pass(&self, order: &Order, status: StatusCode, reason: NotStored, now: Timestamp) {
        if order.who.any() || order.own_response(status).is_some() || (order.stale.is_some() && status.is_server_error()) {
            return;
        }
        if let Some((stale, _)) = &order.stale {
            self.forget(stale.key()).await;
        }
        self.core.memory.put(&order.key, Stored::Pass { until: self.pass_until(order.route, reason, now) });
    }

    /// Until when requests for a key whose response was not stored for this reason go on without waiting.
    fn pass_until(&self, route: usize, reason: NotStored, now: Timestamp) -> Timestamp {
        now.plus(match reason {
            NotStored::TooLarge => PASS_LARGE_FOR,
            NotStored::Settling => self.policy(route).settle,
            _ => PASS_FOR,
        })
    }

    /// A request for a key whose last response was not storable (hit-for-miss), until the given time. Nobody waits for
    /// anybody, Redis is not asked, and nothing is made ready for storing before a response turns out to be storable
    /// after all: only then is there an order. Upstream answers the client's own conditions and ranges.
    pub async fn pass_on(
        self: &Arc<Self>,
        (route, key, until): (usize, &str, Timestamp),
        out: Outgoing,
        order: impl FnOnce() -> Box<Order>,
    ) -> Answer {
        let (as_of, requested) = (self.core.log.position(), self.core.clock.now());
        let conditions = asks_conditions(&out.headers);
        let response = match self.fetch(route, out).await {
            Ok(response) => response,
            Err(problem) => return Answer::Failed(problem),
        };
        let (status, headers) = (response.status(), response.headers());
        let responded = self.core.clock.now();
        let reason = if let Some(reason) = own_response(conditions, status) {
            reason
        } else if let Err(reason) = self.admit(route, key, Personal::default(), (status, headers), responded) {
            // Written anew before it ends, not for each of them.
            if until.since(responded) < millis(PASS_FOR) / 2 {
                let until = self.pass_until(route, reason, responded);
                self.core.memory.put(key, Stored::Pass { until });
            }
            reason
        } else {
            let cost = u32::try_from(responded.since(requested)).unwrap_or(u32::MAX);
            let (order, timing) = (order(), Timing { requested, responded, cost });
            match self.decide(&order, status, headers, headers, timing, as_of) {
                Ok(kept) => return self.clone().stream_apart(order, response, kept, as_of).await,
                Err(reason) => {
                    self.mark_pass(&order, status, reason, responded).await;
                    reason
                }
            }
        };
        self.core.metrics.routes[route].not_stored(reason);
        Answer::Direct(response.into(), reason)
    }

    /// Streams a response that is stored on the way, which nobody can join.
    async fn stream_apart(
        self: Arc<Self>,
        order: Box<Order>,
        response: Response<Fetched>,
        kept: Kept,
        as_of: Position,
    ) -> Answer {
        let (tell, told) = oneshot::channel();
        let lead = self.core.fills.alone(as_of);
        tokio::spawn(async move { self.stream(&order, (lead, None), Some(tell), response, kept).await });
        told.await.unwrap_or(Answer::Failed(Problem::Internal))
    }

    /// Removes what stands under a key from both tiers.
    pub async fn forget(&self, key: &str) {
        self.core.memory.remove(key);
        if let Some(shared) = &self.core.shared {
            Box::pin(shared.remove(key)).await;
        }
    }

    fn metrics(&self, order: &Order) -> &crate::metrics::RouteMetrics {
        &self.core.metrics.routes[order.route]
    }

    /// The second tier. What is fresh there goes into memory and answers; what is stale and can be confirmed
    /// replaces what this process knew.
    pub async fn look_in_redis(&self, order: &mut Order) -> Option<InRedis> {
        let shared = self.core.shared.as_ref().filter(|_| !order.past_redis)?;
        let again = std::mem::replace(&mut order.looked, true);
        let mut stored = shared.get(&order.key, order.route, self.core.clock.now(), again).await?;
        if let Stored::Variants(variants) = &stored {
            self.core.memory.put(&order.primary, stored.clone());
            order.known = Some(variants.clone());
            order.key = variants.key_of(&order.primary, &order.request).into();
            let variant = shared.get(&order.key, order.route, self.core.clock.now(), again).await;
            if variant.is_none() {
                order.learn(Why::VARIANT);
            }
            stored = variant?;
        }
        let Stored::Entry(entry) = stored else { return None };
        let now = self.core.clock.now();
        let standing = entry.standing(&self.core.log);
        let trusted = self.core.log.trusted(now);
        match judge(&entry, self.policy(order.route), order.who, &order.control, standing, trusted, now) {
            Verdict::Fresh { .. } if order.newer_than.is_some_and(|known| entry.birth <= known) => None,
            verdict @ (Verdict::Fresh { .. } | Verdict::Accepted { .. }) => {
                self.core.memory.put_from_record(&entry);
                Some(InRedis { entry, left: verdict.left(), renew: false })
            }
            verdict @ Verdict::WhileRevalidate { .. } => {
                order.stale = Some((entry.clone(), Fallback::AnyError));
                Some(InRedis { entry, left: verdict.left(), renew: true })
            }
            Verdict::Unusable(why) => {
                order.learn(Why::refused(why));
                None
            }
            Verdict::Validate { why, fallback } => {
                order.learn(Why::refused(why));
                order.stale = Some((entry, fallback));
                None
            }
        }
    }

    /// Asks upstream, for nothing more than a confirmation if that will do. A 304 that speaks of something else than
    /// what is stored must not be used (RFC 9111 section 4.3.4): then the whole is asked for.
    async fn ask_upstream(&self, order: &mut Order) -> Result<Response<Fetched>, Problem> {
        loop {
            let out = Outgoing::without_body(
                Method::GET,
                order.target.clone(),
                order.fields_for_upstream(),
                order.interim.clone(),
            );
            let response = self.fetch(order.route, out).await?;
            match &order.stale {
                Some((stale, _))
                    if response.status() == StatusCode::NOT_MODIFIED
                        && !conditional::confirms(&stale.content.headers(), response.headers()) =>
                {
                    order.stale = None;
                }
                _ => return Ok(response),
            }
        }
    }

    /// Sends a request upstream and counts it.
    pub fn fetch(
        &self,
        route: usize,
        out: Outgoing,
    ) -> impl Future<Output = Result<Response<Fetched>, Problem>> + Send {
        let metrics = &self.core.metrics.routes[route];
        let began = Instant::now();
        let sent = self.upstream.send(out);
        async move {
            let outcome = sent.await;
            self.core
                .upstream_answers
                .set(!matches!(outcome, Err(Problem::Unreachable | Problem::Timeout | Problem::Broken)));
            metrics
                .upstream(outcome.as_ref().map_or(StatusClass::Failed, |response| StatusClass::of(response.status())));
            let mut response = outcome?;
            metrics.upstream_duration.observe(began.elapsed().as_secs_f64());
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                // Nobody asked for that.
                return Err(Problem::Broken);
            }
            let version = response.version();
            respond::receive(response.headers_mut(), version, &self.core.clock);
            Ok(response)
        }
    }

    /// Whether a response may be stored at all, and for how long.
    fn admit(
        &self,
        route: usize,
        key: &str,
        who: Personal,
        (status, headers): (StatusCode, &HeaderMap),
        responded: Timestamp,
    ) -> Result<(CacheControl, Admitted), NotStored> {
        let policy = self.policy(route);
        let control = CacheControl::of_response(headers, &self.upstream.settings().targeted_control);
        let lifetime = freshness::lifetime(policy, status, headers, &control, responded, roll(key, responded));
        let admitted = admission::admit(policy, who, status, headers, &control, lifetime)?;
        Ok((control, admitted))
    }

    /// Decides whether a response is stored, and makes the entry without its body. Its age is told by the fields of
    /// the message that came last, `latest`, which may be a mere confirmation.
    fn decide(
        &self,
        order: &Order,
        status: StatusCode,
        headers: &HeaderMap,
        latest: &HeaderMap,
        Timing { requested, responded, cost }: Timing,
        as_of: Position,
    ) -> Result<Kept, NotStored> {
        if let Some(reason) = order.own_response(status) {
            return Err(reason);
        }
        let policy = self.policy(order.route);
        let (control, admitted) = self.admit(order.route, &order.key, order.who, (status, headers), responded)?;
        let lifetime = admitted.lifetime;
        let until = responded.plus(Duration::from_millis(lifetime.whole()) + CONFIRMABLE_FOR);
        let known = order.known.as_deref();
        let variants = Variants::of(policy, headers, known, &order.request, until)?.map(Arc::new);
        let mut tags = order.tags.clone();
        tags.add_response(headers, &order.origin)?;
        let key = match &variants {
            None => Cow::Borrowed(&*order.primary),
            Some(variants) => Cow::Owned(variants.key_of(&order.primary, &order.request)),
        };
        if variants.is_some() {
            tags.ids.push(TagId::of(TagKind::Key, key.as_bytes()));
        }
        let settled = Timestamp(requested.0.saturating_sub(millis(policy.settle)));
        if !policy.settle.is_zero() && !self.core.log.quiet(settled, tags.ids.iter().copied()) {
            return Err(NotStored::Settling);
        }
        let stored = stored_fields(headers, &control, &policy.cookies);
        let own = own_fields(&stored, headers, latest, &control, &policy.cookies);
        let names = Names { key: &key, path: order.target.path(), tags: &tags.names };
        let head = Entry {
            base: u32::try_from(order.base).unwrap_or(u32::MAX),
            route: u32::try_from(order.route).unwrap_or(u32::MAX),
            status,
            content: Content::new(names, &stored, bytes::Bytes::new()),
            birth: freshness::birth(latest, requested, responded),
            kept: responded,
            spans: lifetime.into(),
            sharing: admitted.sharing,
            stamp: Stamp::new(as_of),
            cost,
            hits: AtomicU32::new(0),
        };
        Ok(Kept { head, own, variants, for_waiters: admitted.for_waiters })
    }

    /// Streams the body to whoever waits, and keeps the entry when it is complete.
    async fn stream(
        &self,
        order: &Order,
        (mut lead, lease): (Lead, Option<Lease>),
        leader: Leader,
        response: Response<Fetched>,
        kept: Kept,
    ) {
        let Kept { head, own, variants, for_waiters } = kept;
        let policy = self.policy(order.route);
        if let Some(variants) = &variants {
            self.core.memory.put(&order.primary, Stored::Variants(variants.clone()));
        }
        let length = admission::content_length(response.headers());
        let (writer, spool) = spool::spool(policy.max_object, self.upstream.settings().idle_timeout);
        let reader = spool.reader();
        let head = Arc::new(head);
        let streaming = Arc::new(Streaming { head: head.clone(), variants: variants.clone(), spool, length });
        if let Some(reader) = reader {
            answer(leader, Answer::Streaming(with_own(&head, own), (reader, length)));
        }
        if for_waiters {
            lead.publish(Progress::Streaming(streaming));
        } else {
            lead.leave();
            lead.publish(Progress::NotStorable(NotStored::NoFreshness));
            drop(streaming);
        }
        match read_all(response.into_body(), writer, self.upstream.settings().timeout).await {
            Err(reason) => {
                self.metrics(order).not_stored(reason);
                let large = reason == NotStored::TooLarge;
                release(lease, if large { Ended::NotStorable } else { Ended::Abandoned }).await;
            }
            Ok(body) => {
                let entry = Arc::new(head.with_body(body));
                self.keep(order, (lead, lease), entry, variants).await;
            }
        }
    }

    /// Says once that a response is shared with its Set-Cookie: right by HTTP, and seldom meant.
    fn tell_of_cookies(&self, entry: &Entry) {
        if !self.core.cookies_told.load(Ordering::Relaxed)
            && entry.content.has(&SET_COOKIE)
            && !self.core.cookies_told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                path = entry.content.path(),
                route = self.policy(entry.route as usize).name,
                "a response is shared with the cookies it sets, because it has explicit freshness (RFC 9111 section 7.3); \
                 if they are meant for one client, write cookies = \"bypass\" in a [[route]] for this path"
            );
        }
    }

    /// Keeps a complete entry: in memory at once, in Redis when everybody has been told.
    async fn keep(
        &self,
        order: &Order,
        (mut lead, lease): (Lead, Option<Lease>),
        entry: Arc<Entry>,
        variants: Option<Arc<Variants>>,
    ) {
        let metrics = self.metrics(order);
        if entry.standing(&self.core.log) == Standing::Invalid {
            metrics.not_stored(NotStored::Invalidated);
            return release(lease, Ended::Abandoned).await;
        }
        self.tell_of_cookies(&entry);
        if self.core.memory.put_entry(entry.clone()) {
            metrics.stored(Tier::Memory);
        }
        let (variants, dropped) = self.list_variant(order, &entry, variants);
        lead.leave();
        for end in dropped {
            self.core.metrics.evicted(Eviction::Variants);
            self.forget(&format!("{}{end}", order.primary)).await;
        }
        if let Some(shared) = &self.core.shared {
            let variants = variants.as_deref().map(|v| (&*order.primary, v));
            let stored = Box::pin(shared.put(&entry, variants, self.core.clock.now())).await;
            if stored {
                metrics.stored(Tier::Redis);
            }
            release(lease, if stored { Ended::Stored } else { Ended::Abandoned }).await;
        }
    }

    /// Lists an entry under its primary key, and says which variants are too many now.
    fn list_variant(
        &self,
        order: &Order,
        entry: &Entry,
        variants: Option<Arc<Variants>>,
    ) -> (Option<Arc<Variants>>, Vec<Box<str>>) {
        let Some(mut variants) = variants else { return (None, Vec::new()) };
        // Another fill may have listed one meanwhile.
        if let Some(Stored::Variants(listed)) = self.core.memory.get(&order.primary) {
            variants = Arc::new(variants.joined(&listed));
        }
        let end = entry.key().get(order.primary.len()..).unwrap_or_default();
        let (variants, dropped) = variants.keeping(end, self.policy(order.route).max_variants);
        let variants = Arc::new(variants);
        self.core.memory.put(&order.primary, Stored::Variants(variants.clone()));
        (Some(variants), dropped)
    }

    /// Stores the answer to a POST for later reads, if it may be; it is handed on in any case. The POST has
    /// invalidated what it answers, by the log's entry `own`. When no other entry named that since the POST began,
    /// no other write can have come between it and its answer, which then holds as of `own`.
    pub async fn keep_answer(
        self: Arc<Self>,
        order: Box<Order>,
        written: &Written,
        response: Response<Fetched>,
        requested: Timestamp,
        (began, own): (Position, LogId),
    ) -> Answer {
        let (status, headers) = (response.status(), response.headers());
        let control = CacheControl::of_response(headers, &self.upstream.settings().targeted_control);
        if !write::answers_reads(written, status, headers, &control) {
            return Answer::Direct(response.into(), NotStored::Method);
        }
        let timing = Timing { requested, responded: self.core.clock.now(), cost: 0 };
        let as_of = Position::at(own);
        match self.decide(&order, status, headers, headers, timing, as_of) {
            Err(reason) => Answer::Direct(response.into(), reason),
            Ok(kept) if !self.core.log.only(own, began, kept.head.tag_ids()) => {
                Answer::Direct(response.into(), NotStored::Invalidated)
            }
            Ok(kept) => self.stream_apart(order, response, kept, as_of).await,
        }
    }

    /// What a HEAD's 200 says of the stored response that could have answered it (RFC 9111 section 4.3.5): it is
    /// renewed, or not the most recent any more.
    pub async fn learn_from_head(
        &self,
        order: &Order,
        stored: &Entry,
        head: &HeaderMap,
        requested: Timestamp,
        lead: Lead,
    ) {
        let timing = Timing { requested, responded: self.core.clock.now(), cost: stored.cost };
        let (length, headers) = (stored.content.body_len() as u64, stored.content.headers());
        if conditional::describes(&headers, length, head) {
            let merged = conditional::updated(&headers, head);
            if let Ok(kept) = self.decide(order, stored.status, &merged, head, timing, lead.as_of()) {
                let entry = Arc::new(kept.head.with_body(stored.content.body()));
                return self.keep(order, (lead, None), entry, kept.variants).await;
            }
        }
        self.forget(stored.key()).await;
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
        (mut lead, lease): (Lead, Option<Lease>),
        leader: Leader,
    ) {
        let merged = conditional::updated(&stale.content.headers(), fresh);
        match self.decide(order, stale.status, &merged, fresh, timing, lead.as_of()) {
            Ok(Kept { head, own, variants, for_waiters }) => {
                let entry = Arc::new(head.with_body(stale.content.body()));
                if !for_waiters {
                    lead.leave();
                }
                answer(leader, Answer::Found(with_own(&entry, own), Origin::Revalidated));
                lead.publish(if for_waiters {
                    Progress::Found(entry.clone(), Origin::Revalidated)
                } else {
                    Progress::NotStorable(NotStored::NoFreshness)
                });
                self.keep(order, (lead, lease), entry, variants).await;
            }
            Err(reason) => {
                self.metrics(order).not_stored(reason);
                self.forget(stale.key()).await;
                lead.leave();
                lead.publish(Progress::NotStorable(reason));
                let mut headers = merged;
                if let Some(age) = fresh.get(AGE) {
                    headers.insert(AGE, age.clone());
                }
                let birth = freshness::birth(fresh, timing.requested, timing.responded);
                let once = Entry { birth, ..stale.with(stale.content.with_headers(&headers)) };
                answer(leader, Answer::Found(Arc::new(once), Origin::Confirmed));
                release(lease, Ended::NotStorable).await;
            }
        }
    }
}

/// A fill on its way, driven by the request that leads it.
struct Driven(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Drop for Driven {
    /// The request is answered, or gone: what is left of the fill goes on without it.
    fn drop(&mut self) {
        if let (Some(rest), false, Ok(runtime)) = (self.0.take(), std::thread::panicking(), Handle::try_current()) {
            runtime.spawn(rest);
        }
    }
}

/// Makes a fill on behalf of the request that leads it, until it tells an answer. Most are over by then. What is left of
/// the others (a long body, Redis), and what a client that goes away leaves behind, becomes a task of its own: nobody
/// who waits for a fill depends on its leader's pace.
///
/// # Errors
/// The fill ended without an answer.
pub async fn driven(
    fill: Pin<Box<dyn Future<Output = ()> + Send>>,
    told: oneshot::Receiver<Answer>,
) -> Result<Answer, oneshot::error::RecvError> {
    let mut fill = Driven(Some(fill));
    // The fill tells within its own turn: there is nobody to be woken, nor a budget to be asked.
    let mut told = pin!(unconstrained(told));
    poll_fn(|cx| {
        if fill.0.as_mut().is_some_and(|fill| fill.as_mut().poll(cx).is_ready()) {
            fill.0 = None;
        }
        told.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    })
    .await
}

/// Gives the fleet's leave back.
async fn release(lease: Option<Lease>, ended: Ended) {
    if let Some(lease) = lease {
        Box::pin(lease.release(ended)).await;
    }
}

fn answer(leader: Leader, answer: Answer) {
    if let Some(leader) = leader {
        // A leader that is gone wants no answer.
        let _ = leader.send(answer);
    }
}

/// Tells everybody of a whole entry.
pub fn settle(lead: &Lead, leader: Leader, entry: Arc<Entry>, origin: Origin) {
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

/// An entry as the request that asked for it gets it.
fn with_own(entry: &Arc<Entry>, own: Option<HeaderMap>) -> Arc<Entry> {
    let Some(headers) = own else { return entry.clone() };
    Arc::new(entry.with(entry.content.with_headers(&headers)))
}

/// A number in [0, 1) for the jitter, different for each key and time.
pub fn roll(key: &str, at: Timestamp) -> f64 {
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
