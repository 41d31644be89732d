//! A request's way, from its head to its response: one named call per step, and no policy of its own.
//!
//! `screen` → `route` → `plan` → `key` → `look up` → (`join or lead a fill`) → `respond`. What is decided at
//! each step is decided by the module of that name; this file only says what comes after what.

use std::borrow::Cow;
use std::cell::Cell;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::CONTENT_LENGTH;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::admission::{self, Personal, Plan};
use crate::body::{Body, RequestBody, Upload};
use crate::clock::Timestamp;
use crate::coalesce::{Lead, Origin, Progress, Ticket};
use crate::config::{ClientControl, Coalesce, Inputs, RoutePolicy};
use crate::control::CacheControl;
use crate::core::Core;
use crate::entry::{Entry, Refused, Stored, Tags, Verdict, judge};
use crate::fill::{self, Answer, InRedis, roll};
use crate::forward;
use crate::freshness::{self, Fallback};
use crate::invalidation::log::Logged;
use crate::invalidation::table::Standing;
use crate::invalidation::{Invalidation, Source};
use crate::key::{self, Keyed};
use crate::metrics::MalformedWhat;
use crate::noted::{Field, Noted};
use crate::order::{self, Order};
use crate::problem::Problem;
use crate::respond::{self, Asked, Confirmed, Served, Why};
use crate::route::{Match, MethodClass, Place};
use crate::screen::{host_as_it_is, screen};
use crate::server::Connection;
use crate::store::Shared;
use crate::tunnel::{self, Ends};
use crate::upstream::{Fetched, Outgoing, Upstream};
use crate::vary::Variants;
use crate::words::{Bypass, Forward, HitFrom, NotStored, Outcome};
use crate::write::{self, Fact, Written};

/// So often a request looks again when what it waited for turned out not to be for it, before it goes alone.
const ATTEMPTS: usize = 3;

/// How much longer than it should take an announced write may take before it is taken for made: its body may come
/// slowly.
const AMPLE: Duration = Duration::from_secs(60);

/// One worker's proxy: what is shared, and its own way upstream.
pub struct Proxy {
    /// What all workers share.
    pub core: Arc<Core>,
    /// This worker's pool of connections.
    pub upstream: Upstream,
}

/// A request as it came, and where from.
struct Received<B> {
    request: Request<B>,
    noted: Noted,
    from: Arc<Connection>,
    began: Instant,
}

impl<B> Received<B> {
    /// What is matched, keyed and judged is what goes upstream. Says whether the request asks for a tunnel.
    fn settle_connection(&mut self) -> bool {
        let tunnels = self.request.version() == Version::HTTP_11
            && self.noted.has(Field::Upgrade)
            && forward::asks_tunnel(self.request.method(), self.request.headers());
        forward::remove_nominated(self.request.headers_mut());
        self.noted = Noted::of(self.request.headers());
        tunnels
    }

    fn target(&self) -> &PathAndQuery {
        static ROOT: LazyLock<PathAndQuery> = LazyLock::new(|| PathAndQuery::from_static("/"));
        self.request.uri().path_and_query().unwrap_or_else(|| &ROOT)
    }

    /// The request without its body, which goes its own way.
    fn split(self) -> (Received<()>, B) {
        let (parts, body) = self.request.into_parts();
        let request = Request::from_parts(parts, ());
        (Received { request, noted: self.noted, from: self.from, began: self.began }, body)
    }
}

/// A request as the steps see it.
struct Ask<'r> {
    method: &'r Method,
    target: &'r PathAndQuery,
    headers: &'r HeaderMap,
    noted: Noted,
    version: Version,
    host: &'r str,
    from: &'r Connection,
    route: usize,
    params: &'r [&'r str],
}

impl<'r> Ask<'r> {
    fn new<B>(received: &'r Received<B>, host: &'r str, found: &'r Match<'r>) -> Ask<'r> {
        let Received { request, noted, from, .. } = received;
        Ask {
            method: request.method(),
            target: received.target(),
            headers: request.headers(),
            noted: *noted,
            version: request.version(),
            host,
            from,
            route: found.route,
            params: found.params.as_slice(),
        }
    }
}

/// What a request looks for in the cache.
struct Sought {
    /// In which way it is personal.
    who: Personal,
    /// Its own directives.
    control: CacheControl,
    /// The key: the variant's, when memory knows what the responses vary by.
    key: String,
    /// The length of the key's base.
    base: usize,
    /// What the responses are known to vary by.
    known: Option<Arc<Variants>>,
}

/// How a request ended, for the metrics.
struct Done {
    response: Response<Body>,
    outcome: Outcome,
}

/// What is to be done with a request that memory does not answer.
enum Next {
    /// It asks to become a tunnel.
    Tunnel,
    /// It is looked for beyond memory, which had that.
    Miss(Box<(Sought, Seen, Timestamp)>),
    /// It goes past the cache.
    Bypass(Bypass),
    /// It changes something.
    Write,
}

/// What memory does not answer, on its way.
struct Onward {
    /// The host in lower case, where it came with capitals.
    host: Option<Box<str>>,
    /// Its route.
    place: Place,
    next: Next,
}

/// The answer to a request: at once, as from memory, or when it is there.
pub enum Handled {
    /// At once.
    Ready(Option<Response<Body>>),
    /// When it is there.
    Coming(Pin<Box<dyn Future<Output = Response<Body>> + Send>>),
}

impl Future for Handled {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Handled::Ready(response) => response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
            Handled::Coming(response) => response.as_mut().poll(cx).map(Ok),
        }
    }
}

thread_local! {
    /// Where keys are built: only what memory does not answer takes its key along.
    static KEY: Cell<String> = const { Cell::new(String::new()) };
}

impl Proxy {
    /// Answers a request that came on a connection. What memory answers is answered at once: no future is made.
    pub fn handle(self: &Arc<Self>, request: Request<Incoming>, from: &Arc<Connection>) -> Handled {
        let began = Instant::now();
        let noted = Noted::of(request.headers());
        let mut received = Received { request, noted, from: from.clone(), began };
        let tunnels = noted.has(Field::Connection) && received.settle_connection();
        match self.at_once(&received, tunnels) {
            ControlFlow::Break(response) => Handled::Ready(Some(response)),
            ControlFlow::Continue(onward) => self.coming(received, onward),
        }
    }

    /// Apart from the way of a hit, of which every line counts: it has to stay in the processor's cache.
    #[cold]
    fn coming(self: &Arc<Self>, received: Received<Incoming>, onward: Onward) -> Handled {
        let (proxy, (received, body)) = (self.clone(), received.split());
        let received = Box::new(received);
        Handled::Coming(Box::pin(async move {
            let (outlet, in_use) = (received.from.outlet.clone(), received.from.in_use.clone());
            let answer = pin!(proxy.go_on(received, body, onward));
            let response = match outlet {
                Some(outlet) => outlet.last(answer).await,
                None => answer.await,
            };
            response.map(|body| body.holding(in_use))
        }))
    }

    /// The way to memory. What it does not answer goes on.
    fn at_once(self: &Arc<Self>, received: &Received<Incoming>, tunnels: bool) -> ControlFlow<Response<Body>, Onward> {
        use http_body::Body as _;
        let Received { request, noted, from, began } = received;
        let host = match screen(request, *noted, from.ambiguous.load(Ordering::Relaxed), &self.core.config.listen) {
            Ok(host) => host,
            Err(problem) => return ControlFlow::Break(self.refuse(problem)),
        };
        let Some(found) = self.core.routes.find(&host, request.method(), received.target().path()) else {
            return ControlFlow::Break(self.refuse(Problem::Internal));
        };
        let ask = Ask::new(received, &host, &found);
        let policy = self.policy(ask.route);
        let says = noted.has(Field::CacheControl) || noted.has(Field::Pragma);
        let control = if says && policy.client_cache_control == ClientControl::Honour {
            CacheControl::of_request(request.headers())
        } else {
            CacheControl::default()
        };
        let has_body = !request.body().is_end_stream();
        let next = match admission::plan(policy, request.method(), *noted, &control, has_body) {
            // A client may switch when it has sent all of its request (RFC 9110 section 7.8). With a body that may take
            // longer than upstream's answer: such a request is one like others.
            _ if tunnels && !has_body => Next::Tunnel,
            Plan::Lookup(who) => match self.look_up(&ask, who, control, self.core.clock.at(*began)) {
                ControlFlow::Break(done) => return ControlFlow::Break(self.account(&ask, done, *began)),
                ControlFlow::Continue(missed) => Next::Miss(missed),
            },
            Plan::Bypass(reason) => Next::Bypass(reason),
            Plan::Write => Next::Write,
        };
        let place = found.place(received.target().path());
        let host = match host {
            Cow::Borrowed(_) => None,
            Cow::Owned(host) => Some(host.into()),
        };
        ControlFlow::Continue(Onward { host, place, next })
    }

    /// The way of what memory does not answer.
    async fn go_on(
        self: Arc<Self>,
        received: Box<Received<()>>,
        body: Incoming,
        Onward { host, place, next }: Onward,
    ) -> Response<Body> {
        let found = place.on(received.target().path());
        let host = host.as_deref().unwrap_or_else(|| host_as_it_is(&received.request));
        let ask = Ask::new(&received, host, &found);
        // Each has a box of its own: one for all would be as large as the largest, and is copied for each.
        let done = match next {
            Next::Miss(missed) => Box::pin(self.miss(&ask, missed)).await,
            Next::Bypass(reason) => Box::pin(self.bypass(&ask, body, reason)).await,
            Next::Write => Box::pin(self.write(&ask, body)).await,
            Next::Tunnel => {
                self.count_bypass(&ask, Bypass::Upgrade);
                let upgrade = received.request.extensions().get::<hyper::upgrade::OnUpgrade>().cloned();
                Box::pin(self.tunnel(&ask, body, upgrade)).await
            }
        };
        self.account(&ask, done, received.began)
    }

    /// The cache's own way: memory, and what comes after it.
    fn look_up(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        who: Personal,
        control: CacheControl,
        now: Timestamp,
    ) -> ControlFlow<Done, Box<(Sought, Seen, Timestamp)>> {
        let mut sought = Sought { who, control, key: KEY.take(), base: 0, known: None };
        let seen = self.look_in_memory(ask, &mut sought, now);
        if let Seen::Entry(entry, verdict @ Verdict::Fresh { left }) = &seen {
            let hits = entry.hits.fetch_add(1, Ordering::Relaxed);
            let eagerness = self.policy(ask.route).early_refresh;
            let roll = || roll(entry.key(), now.plus(Duration::from_millis(hits.into())));
            if !who.any() && freshness::refreshes_early(*left, entry.cost, eagerness, roll) {
                self.refresh(ask, &sought, entry.clone());
            }
            KEY.set(sought.key);
            return ControlFlow::Break(self.hit(ask, entry, *verdict, false, now));
        }
        ControlFlow::Continue(Box::new((sought, seen, now)))
    }

    /// What memory knows, judged for this request. What is sought gets its key, the variant's where memory knows what
    /// the key's responses vary by.
    fn look_in_memory(&self, ask: &Ask<'_>, sought: &mut Sought, now: Timestamp) -> Seen {
        let policy = self.policy(ask.route);
        let Sought { who, control, key, base, known } = sought;
        *base = key::build(policy, &keyed(ask), key);
        *known = None;
        let mut stored = self.core.memory.get(key);
        if let Some(Stored::Variants(variants)) = stored {
            if variants.until() <= now {
                return Seen::Nothing;
            }
            variants.extend_key(ask.headers, key);
            stored = self.core.memory.get(key);
            *known = Some(variants);
        }
        match stored {
            None | Some(Stored::Variants(_)) if known.is_some() => Seen::NoVariant,
            None | Some(Stored::Variants(_)) => Seen::Nothing,
            Some(Stored::Pass { until }) if until > now => Seen::Pass(until),
            Some(Stored::Pass { .. }) => Seen::Nothing,
            // Keys of two routes can't meet; should they all the same, neither answers for the other.
            Some(Stored::Entry(entry)) if entry.route as usize != ask.route => Seen::Nothing,
            Some(Stored::Entry(entry)) if self.must_ask_redis_again(&entry, now) => Seen::Nothing,
            Some(Stored::Entry(entry)) => {
                let standing = entry.standing(&self.core.log);
                let trusted = self.core.log.trusted(now);
                let verdict = judge(&entry, policy, *who, control, standing, trusted, now);
                Seen::Entry(entry, verdict)
            }
        }
    }

    /// A hit in memory, fresh or stale as it was judged. While Redis is silent a bounded route is served all the same,
    /// and that is said and counted.
    fn hit(&self, ask: &Ask<'_>, entry: &Entry, verdict: Verdict, collapsed: bool, now: Timestamp) -> Done {
        let from = if self.core.log.trusted(now) {
            HitFrom::Memory
        } else {
            self.core.metrics.routes[ask.route].untrusted.inc();
            HitFrom::MemoryUntrusted
        };
        let outcome = if matches!(verdict, Verdict::Fresh { .. }) { Outcome::HitMemory } else { Outcome::Stale };
        let served = Served::Hit(verdict.left(), from);
        Done { response: respond::from_entry(asked(ask, collapsed), entry, served, now), outcome }
    }

    /// `memory_ttl_max`: how long memory may go without asking Redis.
    fn must_ask_redis_again(&self, entry: &Entry, now: Timestamp) -> bool {
        let limit = self.core.config.store.memory_ttl_max;
        limit.is_some_and(|l| now.since(entry.kept) >= crate::clock::millis(l))
            && self.core.shared.as_ref().is_some_and(Shared::is_up)
    }

    /// Nothing fresh in memory: stale, joined, or fetched.
    async fn miss(self: &Arc<Self>, ask: &Ask<'_>, mut missed: Box<(Sought, Seen, Timestamp)>) -> Done {
        let (sought, seen, now) = &mut *missed;
        let who = sought.who;
        if let Seen::Entry(entry, verdict @ Verdict::Accepted { .. }) = &seen {
            return self.hit(ask, entry, *verdict, false, *now);
        }
        if who.any() {
            self.count_bypass(ask, who.reason());
        }
        if let Seen::Entry(entry, verdict @ Verdict::WhileRevalidate { .. }) = &seen {
            self.refresh(ask, sought, entry.clone());
            return self.hit(ask, entry, *verdict, false, *now);
        }
        if sought.control.only_if_cached {
            return Box::pin(self.only_if_cached(ask, sought, *now)).await;
        }
        if *ask.method == Method::HEAD {
            // A HEAD's response has no body to store; it is answered by a GET's entry or by upstream.
            return Box::pin(self.head(ask, sought, seen, *now)).await;
        }
        let ranged = *ask.method == Method::GET && ask.noted.has(Field::Range);
        for attempt in 0.. {
            if let Seen::Pass(until) = *seen
                && !who.any()
            {
                return Box::pin(self.pass(ask, sought, until)).await;
            }
            let why = seen.why(who);
            let mut order = self.order(ask, sought, seen.stale());
            let (lookup, primary) = (order.key.clone(), order.primary.clone());
            order.as_asked = who.any();
            let (as_asked, learned) = (order.as_asked, order.learned.clone());
            let policy = self.policy(ask.route);
            // Who wants validation may not be answered by what another found in Redis.
            let shares = policy.coalesce != Coalesce::Off && !who.any() && !sought.control.no_cache;
            let joins = shares && attempt < ATTEMPTS;
            order.fleet = joins && policy.coalesce == Coalesce::Fleet;
            let as_of = self.core.log.position();
            let ticket = if joins {
                let tags = &order.tags.ids;
                let good = |began| self.core.log.standing_of(began, tags.iter().copied()) == Standing::Valid;
                self.core.fills.join(&lookup, as_of, good)
            } else {
                Ticket::Lead(self.core.fills.alone(as_of))
            };
            let done = match ticket {
                Ticket::Lead(lead) => {
                    let told = self.lead(ask, order, lead).await;
                    let why = seen.why_with(who, order::learned(&learned));
                    match told {
                        // The whole was asked for and is not stored: the client gets no more of it than it wants.
                        Ok(Answer::Direct(whole, reason))
                            if ranged && !as_asked && whole.status() == StatusCode::OK =>
                        {
                            drop(whole);
                            let why = Why { detail: Some(reason.as_str()), ..why };
                            Some(Box::pin(self.pass_range(ask, why)).await)
                        }
                        Ok(answer) => Some(self.led(ask, answer, why)),
                        Err(_) => None,
                    }
                }
                Ticket::Wait(waiting) => match timeout(self.patience(), waiting.outcome()).await {
                    Ok(progress) => self.waited(ask, sought, &primary, progress, why),
                    Err(_) => Some(self.problem(Problem::Timeout, Some(why))),
                },
            };
            if let Some(done) = done {
                return done;
            }
            if attempt > ATTEMPTS {
                return self.problem(Problem::Internal, Some(why));
            }
            // What was waited for is not for this request: look again, as if it came now.
            *now = self.core.clock.now();
            *seen = self.look_in_memory(ask, sought, *now);
            if let Seen::Entry(entry, verdict @ Verdict::Fresh { .. }) = &seen {
                return self.hit(ask, entry, *verdict, true, *now);
            }
        }
        self.problem(Problem::Internal, None)
    }

    /// Hit-for-miss.
    async fn pass(self: &Arc<Self>, ask: &Ask<'_>, sought: &Sought, until: Timestamp) -> Done {
        let make = || {
            let mut headers = self.fields(ask, true);
            if ask.noted.has(Field::ContentLength) {
                headers.remove(CONTENT_LENGTH);
            }
            Outgoing::without_body(Method::GET, self.target(ask), headers, ask.from.sink(ask.version))
        };
        let answer = self.pass_on((ask.route, &sought.key, until), make, || self.order(ask, sought, None)).await;
        self.led(ask, answer, Why::PASS)
    }

    /// The response of a request that led a fill: its fetch began after the request came, so it is for it
    /// whatever was invalidated meanwhile.
    fn led(&self, ask: &Ask<'_>, answer: Answer, why: Why) -> Done {
        let now = self.core.clock.now();
        match answer {
            Answer::Found(entry, origin) => self.found(ask, &entry, origin, why, false, now),
            Answer::Streaming(head, coming) => {
                let response = respond::from_stream(asked(ask, false), &head, coming, why, now);
                Done { response, outcome: Outcome::Miss }
            }
            Answer::Direct(response, reason) => {
                let outcome = if why.forward == Forward::Bypass { Outcome::Bypass } else { Outcome::Miss };
                Done { response: respond::from_upstream(*response, why, Some(reason), false), outcome }
            }
            Answer::Failed(problem) => self.problem(problem, Some(why)),
        }
    }

    /// The response of a request that waited for another's fill; `None` when that is not for it: it was
    /// invalidated before this request came, it is another variant, or it can't be shared.
    fn waited(&self, ask: &Ask<'_>, sought: &Sought, primary: &str, progress: Progress, why: Why) -> Option<Done> {
        let now = self.core.clock.now();
        let mine = |entry: &Entry, variants: Option<&Variants>| {
            let own = match variants {
                Some(variants) => entry.content.is_of(&variants.key_of(primary, ask.headers)),
                None => entry.content.is_of(&sought.key),
            };
            own && entry.standing(&self.core.log) != Standing::Invalid
        };
        match progress {
            Progress::Found(entry, origin) if mine(&entry, None) => {
                let verdict = self.verdict(ask.route, sought, &entry, now);
                let serves = match origin {
                    Origin::Redis(_) | Origin::Revalidated | Origin::Confirmed => {
                        matches!(verdict, Verdict::Fresh { .. })
                    }
                    Origin::StaleIfError(_) => verdict.stands_in(Fallback::AnyError),
                    Origin::Unreachable => verdict.stands_in(Fallback::Unreachable),
                };
                serves.then(|| self.found(ask, &entry, origin, why, true, now))
            }
            Progress::Streaming(streaming) if mine(&streaming.head, streaming.variants.as_deref()) => {
                if !matches!(self.verdict(ask.route, sought, &streaming.head, now), Verdict::Fresh { .. }) {
                    return None;
                }
                let reader = streaming.spool.reader()?;
                let coming = (reader, streaming.length);
                let response = respond::from_stream(asked(ask, true), &streaming.head, coming, why, now);
                Some(Done { response, outcome: Outcome::Coalesced })
            }
            Progress::Failed(problem) => Some(self.problem(problem, Some(why))),
            _ => None,
        }
    }

    fn found(&self, ask: &Ask<'_>, entry: &Entry, origin: Origin, why: Why, collapsed: bool, now: Timestamp) -> Done {
        let (served, outcome) = match origin {
            Origin::Redis(left) => {
                let outcome = if left > 0 { Outcome::HitRedis } else { Outcome::Stale };
                (Served::Hit(left, HitFrom::Redis), outcome)
            }
            Origin::Revalidated if collapsed => (Served::Forwarded(why, Confirmed::Renewed), Outcome::Coalesced),
            Origin::Revalidated => (Served::Forwarded(why, Confirmed::Renewed), Outcome::Revalidated),
            Origin::Confirmed => (Served::Forwarded(why, Confirmed::Once), Outcome::Revalidated),
            Origin::StaleIfError(status) => (Served::Forwarded(why, Confirmed::Failed(status)), Outcome::Stale),
            Origin::Unreachable => (Served::Forwarded(why, Confirmed::Unreachable), Outcome::Stale),
        };
        Done { response: respond::from_entry(asked(ask, collapsed), entry, served, now), outcome }
    }

    /// Leads a fill, until there is an answer. Should the client go while Redis is asked, others are told that the fill
    /// is abandoned, and nothing is lost. From where upstream is asked the fill goes on by itself then.
    async fn lead(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        mut order: Box<Order>,
        lead: Lead,
    ) -> Result<Answer, oneshot::error::RecvError> {
        let (tell, told) = oneshot::channel();
        let mut leader = Some(tell);
        if self.core.shared.is_some()
            && let Some((entry, left)) = Box::pin(self.redis_answers(&mut order, &mut leader)).await
        {
            fill::settle(&lead, leader, entry, Origin::Redis(left));
        } else {
            // Who was answered already gets no interim responses.
            order.interim = leader.as_ref().and_then(|_| ask.from.sink(ask.version));
            return fill::driven(Box::pin(self.clone().fill(order, lead, leader)), told).await;
        }
        told.await
    }

    /// RFC 9111 section 5.2.1.7: a stored response or a 504.
    async fn only_if_cached(&self, ask: &Ask<'_>, sought: &Sought, now: Timestamp) -> Done {
        let mut order = self.order(ask, sought, None);
        if let Some(found) = self.look_in_redis(&mut order).await {
            return self.found(ask, &found.entry, Origin::Redis(found.left), Why::NOTHING, false, now);
        }
        self.problem(Problem::OnlyIfCached, None)
    }

    /// Fetches a stale entry anew behind the client's back, unless somebody does already.
    fn refresh(self: &Arc<Self>, ask: &Ask<'_>, sought: &Sought, stale: Arc<Entry>) {
        let as_of = self.core.log.position();
        if let Some(lead) = self.core.fills.try_lead(&sought.key.as_str().into(), as_of) {
            let mut order = self.order(ask, sought, Some((stale, Fallback::AnyError)));
            order.fleet = self.policy(ask.route).coalesce == Coalesce::Fleet;
            order.newer_than = order.stale.as_ref().map(|(known, _)| known.birth);
            tokio::spawn(Box::pin(self.clone().fill(order, lead, None)));
        }
    }

    fn verdict(&self, route: usize, sought: &Sought, entry: &Entry, now: Timestamp) -> Verdict {
        let (standing, trusted) = (entry.standing(&self.core.log), self.core.log.trusted(now));
        judge(entry, self.policy(route), sought.who, &sought.control, standing, trusted, now)
    }

    /// What is to be fetched.
    fn order(&self, ask: &Ask<'_>, sought: &Sought, stale: Option<(Arc<Entry>, Fallback)>) -> Box<Order> {
        let Sought { who, control, key, base, known } = sought;
        let whole: Arc<str> = key.as_str().into();
        let primary = key::without_variant(key);
        let primary = if primary.len() == key.len() { whole.clone() } else { primary.into() };
        let policy = self.policy(ask.route);
        let trusted = self.core.log.trusted(self.core.clock.now());
        Box::new(Order {
            past_redis: (control.no_cache && stale.is_some())
                || (policy.coherence == crate::config::Coherence::Strict && !trusted),
            key: whole,
            tags: Tags::of_request(policy, &primary, *base, ask.target.path(), ask.params),
            primary,
            base: *base,
            route: ask.route,
            target: self.target(ask),
            request: ask.headers.clone(),
            host: ask.host.into(),
            version: ask.version,
            peer: ask.from.peer.clone(),
            looked: false,
            who: *who,
            stale,
            known: known.clone(),
            fleet: false,
            newer_than: None,
            answers: None,
            control: control.clone(),
            interim: None,
            as_asked: false,
            asks_conditions: false,
            learned: Arc::default(),
        })
    }

    /// What upstream is asked for.
    fn target(&self, ask: &Ask<'_>) -> PathAndQuery {
        match self.policy(ask.route) {
            policy if policy.inputs == Inputs::Keyed => keyed_target(policy, ask.target),
            _ => ask.target.clone(),
        }
    }

    /// The fields of a request as they go upstream.
    fn fields(&self, ask: &Ask<'_>, stored: bool) -> HeaderMap {
        let (settings, policy) = (self.upstream.settings(), self.policy(ask.route));
        forward::to_upstream(ask.headers, ask.host, &ask.from.peer, settings, policy, stored, ask.version)
    }

    /// A HEAD that memory does not answer: Redis does, or upstream, whose 200 says something of what is stored
    /// (RFC 9111 section 4.3.5). It has no body to store.
    async fn head(self: &Arc<Self>, ask: &Ask<'_>, sought: &Sought, seen: &Seen, now: Timestamp) -> Done {
        let mut order = self.order(ask, sought, seen.stale());
        let in_redis = self.look_in_redis(&mut order).await;
        let why = seen.why_with(sought.who, order::learned(&order.learned));
        if let Some(InRedis { entry, left, renew }) = in_redis {
            if renew {
                self.refresh(ask, sought, entry.clone());
            }
            return self.found(ask, &entry, Origin::Redis(left), why, false, now);
        }
        let lead = self.core.fills.alone(self.core.log.position());
        let requested = self.core.clock.now();
        let make = || {
            let (headers, interim) = (self.fields(ask, true), ask.from.sink(ask.version));
            Some(Outgoing::without_body(Method::HEAD, self.target(ask), headers, interim))
        };
        let outcome = self.fetch(ask.route, make).await;
        if let Some((stale, origin)) = order.stands_in(&outcome) {
            return self.found(ask, &stale, origin, why, false, now);
        }
        let response = match outcome {
            Ok(response) => response,
            Err(problem) => return self.problem(problem, Some(why)),
        };
        if let Some((stored, _)) = order.stale.take()
            && !sought.who.any()
            && response.status() == StatusCode::OK
        {
            let (proxy, head) = (self.clone(), response.headers().clone());
            tokio::spawn(async move { proxy.learn_from_head(&order, &stored, &head, requested, lead).await });
        }
        Done { response: respond::from_upstream(response, why, None, false), outcome: Outcome::Miss }
    }

    /// A range of what is not stored: upstream answers it.
    async fn pass_range(&self, ask: &Ask<'_>, why: Why) -> Done {
        self.count_bypass(ask, Bypass::Range);
        let why = Why { detail: why.detail.or(Some(Bypass::Range.as_str())), ..why };
        let make = || {
            let (headers, interim) = (self.fields(ask, false), ask.from.sink(ask.version));
            Some(Outgoing::without_body(Method::GET, ask.target.clone(), headers, interim))
        };
        self.passed(self.fetch(ask.route, make).await, why)
    }

    /// Past the cache: what comes in goes out.
    async fn bypass(&self, ask: &Ask<'_>, body: Incoming, reason: Bypass) -> Done {
        self.count_bypass(ask, reason);
        let forward = if reason == Bypass::Method { Forward::Method } else { Forward::Bypass };
        let why = Why::bypass(forward, reason.as_str());
        let mut body = self.body(ask.headers, body);
        let make = || Some(self.pass_through(ask, std::mem::take(&mut body)));
        self.passed(self.fetch(ask.route, make).await, why)
    }

    /// What came of a request that was passed on.
    fn passed(&self, outcome: Result<Response<Fetched>, Problem>, why: Why) -> Done {
        match outcome {
            Ok(response) => {
                Done { response: respond::from_upstream(response, why, None, false), outcome: Outcome::Bypass }
            }
            Err(problem) => self.problem(problem, Some(why)),
        }
    }

    /// A write: its response goes back when what it may have changed is invalidated. It is a task of its own,
    /// so that a client that goes away can't part the write from its invalidation.
    async fn write(self: &Arc<Self>, ask: &Ask<'_>, body: Incoming) -> Done {
        self.count_bypass(ask, Bypass::Write);
        let why = Why::bypass(Forward::Method, Bypass::Write.as_str());
        let (proxy, route) = (self.clone(), ask.route);
        let (written, out) = (self.written(ask), self.pass_through(ask, self.body(ask.headers, body)));
        let order = if *ask.method == Method::POST { self.order_of_read(ask) } else { None };
        let unfinished = ask.from.lease.unfinished();
        let task = tokio::spawn(async move {
            let _until_it_is_done = unfinished;
            let log = &proxy.core.log;
            let announced = match write::invalidates(&written, &Fact::Unknown) {
                Some(what) => log.announce(what, proxy.core.clock.now().plus(proxy.patience() + AMPLE)).await,
                None => None,
            };
            let (before, requested) = (log.position(), proxy.core.clock.now());
            let outcome = proxy.fetch(route, out.once()).await;
            let fact = match &outcome {
                Ok(response) => Fact::Answered(response.status(), response.headers()),
                Err(problem) => Fact::Failed(*problem),
            };
            let changed = write::invalidates(&written, &fact);
            let what = Invalidation { done: announced, ..changed.clone().unwrap_or_default() };
            let logged = match (changed, announced) {
                (None, None) => None,
                (changed, _) => {
                    let logged = log.invalidate(what, Source::Write).await;
                    changed.map(|_| logged)
                }
            };
            match (outcome, order, logged) {
                (Ok(response), Some(order), Some(Logged::At(own))) => {
                    proxy.keep_answer(order, &written, response, requested, (before, own)).await
                }
                (Ok(response), ..) => Answer::Direct(response.into(), NotStored::Method),
                (Err(problem), ..) => Answer::Failed(problem),
            }
        });
        match task.await {
            Ok(Answer::Direct(response, _)) => self.passed(Ok(*response), why),
            Ok(Answer::Failed(problem)) => self.passed(Err(problem), why),
            Ok(Answer::Streaming(head, coming)) => {
                let now = self.core.clock.now();
                let response = respond::from_stream(asked(ask, false), &head, coming, why, now);
                Done { response, outcome: Outcome::Bypass }
            }
            Ok(Answer::Found(..)) | Err(_) => self.problem(Problem::Internal, Some(why)),
        }
    }

    /// What a GET of the same target would fetch, if the cache could answer it.
    fn order_of_read(&self, ask: &Ask<'_>) -> Option<Box<Order>> {
        let read = self.core.routes.find(ask.host, &Method::GET, ask.target.path())?;
        let params = read.params.as_slice();
        let ask = Ask { method: &Method::GET, route: read.route, params, ..*ask };
        let control = CacheControl::of_request(ask.headers);
        let plan = admission::plan(self.policy(ask.route), ask.method, ask.noted, &control, false);
        let Plan::Lookup(who) = plan else { return None };
        let mut key = String::new();
        let base = key::build(self.policy(ask.route), &keyed(&ask), &mut key);
        (!who.any()).then(|| self.order(&ask, &Sought { who, control, key, base, known: None }, None))
    }

    fn written(&self, ask: &Ask<'_>) -> Written {
        let path = ask.target.path();
        // What a GET of this path is stored under may be another route's key.
        let read = self.core.routes.find(ask.host, &Method::GET, path);
        let mut keys = Vec::new();
        let of_read = read.as_ref().map(|r| (r.route, r.params.as_slice()));
        for (route, params) in [Some((ask.route, ask.params)), of_read].into_iter().flatten() {
            let mut base = String::new();
            key::base(self.policy(route), ask.host, path, params, &mut base);
            if !keys.contains(&base) {
                keys.push(base);
            }
        }
        let mut tags = Vec::new();
        for template in &self.policy(ask.route).invalidates {
            let mut tag = String::new();
            template.render(ask.params, &mut tag);
            tags.push(tag);
        }
        let upstream = self.upstream.settings().url.clone();
        let query = ask.target.query().map(str::to_owned);
        Written { host: ask.host.into(), path: path.into(), query, keys, tags, upstream }
    }

    fn pass_through(&self, ask: &Ask<'_>, (body, upload): (RequestBody, Option<Upload>)) -> Outgoing {
        let mut headers = self.fields(ask, false);
        if upload.is_none() {
            headers.remove(CONTENT_LENGTH);
        }
        let interim = ask.from.sink(ask.version);
        Outgoing { method: ask.method.clone(), target: ask.target.clone(), headers, body, upload, interim }
    }

    fn body(&self, headers: &HeaderMap, body: Incoming) -> (RequestBody, Option<Upload>) {
        use http_body::Body as _;
        let empty = body.is_end_stream() && headers.get(CONTENT_LENGTH).is_none();
        if empty {
            return (RequestBody::Empty, None);
        }
        let settings = self.upstream.settings();
        let (body, upload) = RequestBody::client(body, self.core.config.listen.max_body, settings.idle_timeout);
        (body, Some(upload))
    }

    /// An upgrade: the request goes through, and when upstream agrees both sides become one tunnel.
    async fn tunnel(&self, ask: &Ask<'_>, body: Incoming, client: Option<hyper::upgrade::OnUpgrade>) -> Done {
        let why = Why::bypass(Forward::Bypass, Bypass::Upgrade.as_str());
        let mut out = self.pass_through(ask, self.body(ask.headers, body));
        for (name, value) in [
            (http::header::UPGRADE, ask.headers.get(http::header::UPGRADE).cloned()),
            (http::header::CONNECTION, Some(http::HeaderValue::from_static("upgrade"))),
        ] {
            if let Some(value) = value {
                out.headers.insert(name, value);
            }
        }
        let metrics = &self.core.metrics.routes[ask.route];
        let response = match self.upstream.send(out.once()).await {
            Ok(response) => response,
            Err(problem) => {
                metrics.upstream(crate::metrics::StatusClass::Failed);
                return self.problem(problem, Some(why));
            }
        };
        metrics.upstream(crate::metrics::StatusClass::of(response.status()));
        let ends = Ends { client, lease: ask.from.lease.clone(), in_use: ask.from.in_use.clone() };
        let response = tunnel::open(response, ends, &self.core, why);
        Done { response, outcome: Outcome::Bypass }
    }

    fn count_bypass(&self, ask: &Ask<'_>, reason: Bypass) {
        self.core.metrics.routes[ask.route].bypass(reason);
    }

    fn problem(&self, problem: Problem, why: Option<Why>) -> Done {
        let mut response = problem.response();
        respond::explain_problem(&mut response, why, problem.as_str());
        Done { response, outcome: Outcome::Error }
    }

    #[cold]
    fn refuse(&self, problem: Problem) -> Response<Body> {
        self.core.metrics.malformed(MalformedWhat::Request);
        self.problem(problem, None).response
    }

    /// How long a request waits for another's fill: as long as that may take.
    fn patience(&self) -> Duration {
        let s = self.upstream.settings();
        s.first_byte_timeout + 2 * s.connect_timeout + 4 * self.core.config.store.redis_timeout
    }

    #[cold]
    fn tell_of_access(&self, ask: &Ask<'_>, status: StatusCode, outcome: Outcome, took: Duration) {
        tracing::info!(
            target: "access",
            peer = %ask.from.peer.ip,
            method = %ask.method,
            path = ask.target.path(),
            route = self.core.config.routes[ask.route].name,
            status = status.as_u16(),
            outcome = outcome.as_str(),
            ms = took.as_secs_f64() * 1000.0,
        );
    }

    fn account(&self, ask: &Ask<'_>, done: Done, began: Instant) -> Response<Body> {
        use http_body::Body as _;
        let Done { response, outcome } = done;
        let took = began.elapsed();
        let core = &self.core;
        let (tally, method) = (&core.metrics.routes[ask.route].tally, MethodClass::of(ask.method));
        tally.answered(method, outcome, took);
        if core.config.log.access {
            self.tell_of_access(ask, response.status(), outcome, took);
        }
        if let Some(bytes) = response.body().size_hint().exact() {
            tally.sent(method, outcome, bytes);
            return response;
        }
        let tally = tally.clone();
        response.map(|b| b.settled(move |bytes| tally.sent(method, outcome, bytes)))
    }
}

/// What memory knew.
enum Seen {
    Nothing,
    /// There are variants, not this one.
    NoVariant,
    /// The last response was not storable: until then nobody waits for anybody.
    Pass(Timestamp),
    Entry(Arc<Entry>, Verdict),
}

impl Seen {
    fn why(&self, who: Personal) -> Why {
        match self {
            _ if who.any() => Why::bypass(Forward::Bypass, who.reason().as_str()),
            Seen::Nothing => Why::NOTHING,
            Seen::NoVariant => Why::VARIANT,
            Seen::Pass(_) => Why::PASS,
            Seen::Entry(_, Verdict::Validate { why, .. } | Verdict::Unusable(why)) => Why::refused(*why),
            Seen::Entry(..) => Why::refused(Refused::Stale),
        }
    }

    /// The same, with what was learned of Redis, where memory knew nothing.
    fn why_with(&self, who: Personal, learned: Option<Why>) -> Why {
        match (self, learned) {
            (Seen::Nothing | Seen::NoVariant, Some(learned)) if !who.any() => learned,
            _ => self.why(who),
        }
    }

    /// What a conditional request can be made of, and when it may be served in upstream's place.
    fn stale(&self) -> Option<(Arc<Entry>, Fallback)> {
        match self {
            Seen::Entry(entry, Verdict::Validate { fallback, .. }) => Some((entry.clone(), *fallback)),
            _ => None,
        }
    }
}

fn asked<'r>(ask: &Ask<'r>, collapsed: bool) -> Asked<'r> {
    Asked { method: ask.method, headers: ask.headers, noted: ask.noted, collapsed }
}

fn keyed<'r>(ask: &Ask<'r>) -> Keyed<'r> {
    Keyed {
        host: ask.host,
        path: ask.target.path(),
        query: ask.target.query(),
        headers: ask.headers,
        params: ask.params,
        https: forward::spoke_https(ask.headers, &ask.from.peer),
    }
}

/// The target with no more of the query than the key holds.
fn keyed_target(policy: &RoutePolicy, target: &PathAndQuery) -> PathAndQuery {
    let made = match key::keyed_query(policy, target.query()) {
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", target.path())),
        None => PathAndQuery::try_from(target.path()),
    };
    made.unwrap_or_else(|_| target.clone())
}
