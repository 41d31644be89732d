//! What becomes of a response: whether it is stored (`decide`), how its body gets to whoever waits and into the entry
//! (`stream`), and how that gets into both tiers (`keep`). Responses that only confirm what is stored (a 304, a HEAD's)
//! end here too.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AGE, SET_COOKIE};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::admission::{self, Admitted, Personal};
use crate::clock::{Timestamp, millis};
use crate::coalesce::{Lead, Origin, Progress, Streaming};
use crate::conditional;
use crate::content::{Content, Names};
use crate::control::CacheControl;
use crate::entry::{Entry, Stored, own_fields, stored_fields};
use crate::fill::{Answer, Leader, answer, release, roll};
use crate::freshness;
use crate::invalidation::log::Stamp;
use crate::invalidation::position::{LogId, Position};
use crate::invalidation::table::Standing;
use crate::invalidation::{TagId, TagKind};
use crate::metrics::Eviction;
use crate::order::Order;
use crate::problem::Problem;
use crate::proxy::Proxy;
use crate::redis_tier::lease::{Ended, Lease};
use crate::spool::{self, Writer};
use crate::store::CONFIRMABLE_FOR;
use crate::upstream::Fetched;
use crate::vary::Variants;
use crate::words::{NotStored, Tier};
use crate::write::{self, Written};

/// When a response was asked for and came, and what that took.
#[derive(Clone, Copy)]
pub struct Timing {
    /// When it was asked for.
    pub requested: Timestamp,
    /// When it came.
    pub responded: Timestamp,
    /// What that took, in milliseconds.
    pub cost: u32,
}

/// A response that is going to be kept.
pub struct Kept {
    /// The entry without its body.
    head: Entry,
    /// All fields of the response, where some are not stored and are for the request that asked for it.
    own: Option<HeaderMap>,
    variants: Option<Arc<Variants>>,
    for_waiters: bool,
}

impl Proxy {
    /// Whether a response may be stored at all, and for how long.
    pub fn admit(
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
    pub fn decide(
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
        // Where the route's keys are for all hosts, so are the cache groups.
        tags.add_response(headers, if policy.key.is_none() { &order.host } else { "" })?;
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
            content: Content::new(names, &stored, Bytes::new()),
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
    pub fn stream(
        self: Arc<Self>,
        order: Box<Order>,
        (mut lead, lease): (Lead, Option<Lease>),
        leader: Leader,
        response: Response<Fetched>,
        kept: Kept,
    ) -> impl Future<Output = ()> + Send {
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
        let mut body = response.into_body();
        async move {
            let patience = self.upstream.settings().timeout;
            let read = read_all(&mut body, writer, patience, |chunks| Arc::new(head.with_chunks(chunks))).await;
            drop(body);
            match read {
                Err(reason) => {
                    self.metrics(&order).not_stored(reason);
                    // Who comes from now on is not to get what is known to end early.
                    lead.leave();
                    let large = reason == NotStored::TooLarge;
                    release(lease, if large { Ended::NotStorable } else { Ended::Abandoned }).await;
                }
                Ok(entry) => self.keep(&order, (lead, lease), entry, variants).await,
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
        if !self.holds(order, &entry).await {
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

    /// Whether nothing has invalidated what is about to be kept. The answer to a write was invalidated by the write
    /// itself: it holds when nothing else named it from the write's beginning on, for then no other write can have come
    /// between the write and its answer. What others logged shortly before may still be on its way.
    async fn holds(&self, order: &Order, entry: &Entry) -> bool {
        let log = &self.core.log;
        match order.answers {
            Some((began, own)) => log.reached(own).await && log.only(own, began, entry.tag_ids()),
            None => entry.standing(log) != Standing::Invalid,
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

    /// Stores the answer to a POST for later reads, if it may be; it is handed on in any case. The POST began at
    /// `began` and has invalidated what it answers by the log's entry `own`, as of which the answer holds.
    pub async fn keep_answer(
        self: Arc<Self>,
        mut order: Box<Order>,
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
        order.answers = Some((began, own));
        match self.decide(&order, status, headers, headers, timing, as_of) {
            Err(reason) => Answer::Direct(response.into(), reason),
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
    pub async fn renew(
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

    /// Streams a response that is stored on the way, which nobody can join.
    pub async fn stream_apart(
        self: Arc<Self>,
        order: Box<Order>,
        response: Response<Fetched>,
        kept: Kept,
        as_of: Position,
    ) -> Answer {
        let (tell, told) = oneshot::channel();
        let lead = self.core.fills.alone(as_of);
        tokio::spawn(self.stream(order, (lead, None), Some(tell), response, kept));
        told.await.unwrap_or(Answer::Failed(Problem::Internal))
    }
}

/// Reads a body into the spool. While it may still be stored it must be complete within `patience`; one that
/// has grown too large is only passed on, at the pace of its readers. Returns what is made of all of it.
async fn read_all<T>(
    body: &mut Fetched,
    writer: Writer,
    patience: Duration,
    made: impl FnOnce(&VecDeque<Bytes>) -> T,
) -> Result<T, NotStored> {
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
    writer.finish(made).ok_or(NotStored::TooLarge)
}

/// An entry as the request that asked for it gets it.
fn with_own(entry: &Arc<Entry>, own: Option<HeaderMap>) -> Arc<Entry> {
    let Some(headers) = own else { return entry.clone() };
    Arc::new(entry.with(entry.content.with_headers(&headers)))
}
