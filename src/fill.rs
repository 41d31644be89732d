//! One fetch on behalf of all who wait for a key: the way of a fill, one named step after the other.
//!
//! `look in Redis` → `ask upstream` (conditionally when something stale can be confirmed) → `decide` →
//! `stream` to whoever waits → `keep` in memory → tell Redis, after everybody has been answered.
//!
//! A fill outlives its leader: a client that goes away does not stop what others wait for. Its as-of was
//! taken before it began, so an invalidation that came meanwhile finds the entry dead on arrival.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use http::{Method, Response, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;

use crate::admission::Personal;
use crate::clock::{Timestamp, millis};
use crate::coalesce::{Lead, Origin, Progress};
use crate::conditional;
use crate::config::RoutePolicy;
use crate::entry::{Entry, Stored, Verdict, judge};
use crate::forward;
use crate::freshness::Fallback;
use crate::keep::Timing;
use crate::metrics::StatusClass;
use crate::order::{Order, asks_conditions, own_response};
use crate::problem::Problem;
use crate::proxy::Proxy;
use crate::redis_tier::lease::{Ended, Lease, Turn};
use crate::respond::{self, Why};
use crate::spool::Reader;
use crate::upstream::{Fetched, Outgoing};
use crate::words::NotStored;

/// So often a fill waits for another instance's before it fetches for itself.
const TURNS: usize = 3;
/// How long requests for a key whose last response was not storable do not wait for each other.
const PASS_FOR: Duration = Duration::from_secs(5);
/// The same for one that was too large: it will not shrink soon, and finding out again costs most.
const PASS_LARGE_FOR: Duration = Duration::from_secs(60);

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
    pub async fn fill(self: Arc<Self>, mut order: Box<Order>, lead: Lead, mut leader: Leader) {
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
        let timing = Timing {
            requested,
            responded: self.core.clock.now(),
            cost: u32::try_from(began.elapsed().as_millis()).unwrap_or(u32::MAX),
        };
        if let Some(rest) = self.conclude(order, (lead, lease), leader, outcome, timing) {
            rest.await;
        }
    }

    /// What comes of upstream's answer. What is left to do is returned, and has room for nothing more than that takes.
    fn conclude(
        self: Arc<Self>,
        order: Box<Order>,
        (mut lead, lease): (Lead, Option<Lease>),
        leader: Leader,
        outcome: Result<Response<Fetched>, Problem>,
        timing: Timing,
    ) -> Option<Work> {
        let released = |lease: Option<Lease>, ended| lease.map(|lease| Box::pin(lease.release(ended)) as Work);
        if let Some((stale, origin)) = order.stands_in(&outcome) {
            settle(&lead, leader, stale, origin);
            return released(lease, Ended::Failed(outcome.err().unwrap_or(Problem::Broken)));
        }
        let response = match outcome {
            Ok(response) => response,
            Err(problem) => {
                fail(&lead, leader, problem);
                return released(lease, Ended::Failed(problem));
            }
        };
        let (status, headers) = (response.status(), response.headers());
        if let Some((stale, _)) = &order.stale
            && status == StatusCode::NOT_MODIFIED
        {
            let stale = stale.clone();
            return Some(Box::pin(async move {
                self.renew(&order, &stale, response.headers(), timing, (lead, lease), leader).await;
            }));
        }
        match self.decide(&order, status, headers, headers, timing, lead.as_of()) {
            Err(reason) => {
                self.metrics(&order).not_stored(reason);
                let outdated = self.mark_pass(&order, status, reason, timing.responded);
                let tell = move || {
                    lead.leave();
                    lead.publish(Progress::NotStorable(reason));
                    answer(leader, Answer::Direct(response.into(), reason));
                };
                let Some(outdated) = outdated.filter(|_| self.core.shared.is_some()) else {
                    tell();
                    return released(lease, Ended::NotStorable);
                };
                Some(Box::pin(async move {
                    self.forget_in_redis(outdated.key()).await;
                    tell();
                    release(lease, Ended::NotStorable).await;
                }))
            }
            Ok(kept) => Some(Box::pin(self.stream(order, (lead, lease), leader, response, kept))),
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
    /// each other, and what was stored before is not the most recent any more (RFC 9111 section 4): it is returned, for
    /// Redis to forget it too. A server error says nothing of what was stored.
    fn mark_pass(&self, order: &Order, status: StatusCode, reason: NotStored, now: Timestamp) -> Option<Arc<Entry>> {
        if order.who.any()
            || order.own_response(status).is_some()
            || (order.stale.is_some() && status.is_server_error())
        {
            return None;
        }
        let outdated = order.stale.as_ref().map(|(stale, _)| stale.clone());
        if let Some(outdated) = &outdated {
            self.core.memory.remove(outdated.key());
        }
        self.core.memory.put(&order.key, Stored::Pass { until: self.pass_until(order.route, reason, now) });
        outdated
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
        make: impl Fn() -> Outgoing + Send + Sync,
        order: impl FnOnce() -> Box<Order>,
    ) -> Answer {
        let (as_of, requested) = (self.core.log.position(), self.core.clock.now());
        let mut conditions = false;
        let noting = || {
            let out = make();
            conditions = asks_conditions(&out.headers);
            Some(out)
        };
        let response = match self.fetch(route, noting).await {
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
                Ok(kept) => return Box::pin(self.clone().stream_apart(order, response, kept, as_of)).await,
                Err(reason) => {
                    // Nothing stale is known here that would have to be forgotten.
                    self.mark_pass(&order, status, reason, responded);
                    reason
                }
            }
        };
        self.core.metrics.routes[route].not_stored(reason);
        Answer::Direct(response.into(), reason)
    }

    /// Removes what stands under a key from both tiers.
    pub async fn forget(&self, key: &str) {
        self.core.memory.remove(key);
        self.forget_in_redis(key).await;
    }

    async fn forget_in_redis(&self, key: &str) {
        if let Some(shared) = &self.core.shared {
            Box::pin(shared.remove(key)).await;
        }
    }

    /// The metrics of an order's route.
    pub fn metrics(&self, order: &Order) -> &crate::metrics::RouteMetrics {
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
            let response = self.fetch(order.route, || Some(self.outgoing(order))).await?;
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

    /// What upstream is asked for an order: the whole, or a confirmation of what is stale.
    fn outgoing(&self, order: &mut Order) -> Outgoing {
        let headers = forward::to_upstream(
            &order.request,
            &order.host,
            &order.peer,
            self.upstream.settings(),
            self.policy(order.route),
            true,
            order.version,
        );
        let headers = order.conditional(headers);
        Outgoing::without_body(Method::GET, order.target.clone(), headers, order.interim.clone())
    }

    /// Sends a request upstream, made as often as [`Upstream::send`](crate::upstream::Upstream::send) asks for it, and
    /// counts it.
    pub async fn fetch(
        &self,
        route: usize,
        make: impl FnMut() -> Option<Outgoing> + Send,
    ) -> Result<Response<Fetched>, Problem> {
        let began = Instant::now();
        let outcome = self.upstream.send(make).await;
        let metrics = &self.core.metrics.routes[route];
        let answers = !matches!(outcome, Err(Problem::Unreachable | Problem::Timeout | Problem::Broken));
        self.core.upstream_answers.set(answers);
        metrics.upstream(outcome.as_ref().map_or(StatusClass::Failed, |response| StatusClass::of(response.status())));
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

/// Something to do, by whoever drives it.
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A fill on its way, driven by the request that leads it.
struct Driven(Option<Work>);

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
pub async fn driven(fill: Work, told: oneshot::Receiver<Answer>) -> Result<Answer, oneshot::error::RecvError> {
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
pub async fn release(lease: Option<Lease>, ended: Ended) {
    if let Some(lease) = lease {
        Box::pin(lease.release(ended)).await;
    }
}

/// Tells who leads, if he still waits.
pub fn answer(leader: Leader, answer: Answer) {
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
