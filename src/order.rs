//! What is to be fetched, and for whom.

use std::sync::{Arc, Mutex, PoisonError};

use http::header::{CONTENT_LENGTH, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Response, StatusCode, Version};

use crate::admission::Personal;
use crate::clock::Timestamp;
use crate::coalesce::Origin;
use crate::control::CacheControl;
use crate::entry::{Entry, Tags};
use crate::forward::Peer;
use crate::freshness::Fallback;
use crate::interim::Sink;
use crate::invalidation::position::{LogId, Position};
use crate::problem::Problem;
use crate::respond::Why;
use crate::upstream::Fetched;
use crate::vary::Variants;
use crate::words::NotStored;

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
    /// The client's host.
    pub host: Box<str>,
    /// The client's version of HTTP.
    pub version: Version,
    /// The client.
    pub peer: Arc<Peer>,
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
    /// Where the response is that of a write: where the write began, and its entry in the log.
    pub answers: Option<(Position, LogId)>,
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
    /// Notes why what Redis has did not answer.
    pub fn learn(&self, why: Why) {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Why a response of this status is for nobody but the client, if it answers the client's own conditions.
    pub fn own_response(&self, status: StatusCode) -> Option<NotStored> {
        own_response(self.asks_conditions && self.stale.is_none(), status)
    }

    /// The fields of a request to upstream, with the conditions that a stale response can be confirmed by.
    pub fn conditional(&mut self, mut headers: HeaderMap) -> HeaderMap {
        headers.remove(CONTENT_LENGTH);
        self.asks_conditions = self.as_asked && asks_conditions(&headers);
        if self.stale.is_some() || !self.as_asked {
            for name in &CONDITIONS {
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
static CONDITIONS: [HeaderName; 4] = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE];

/// Whether there are any.
pub fn asks_conditions(headers: &HeaderMap) -> bool {
    CONDITIONS.iter().any(|name| headers.contains_key(name))
}

/// Why a response is for nobody but the client whose own conditions and ranges it answers; a 200 answers none.
pub fn own_response(asked_conditions: bool, status: StatusCode) -> Option<NotStored> {
    (asked_conditions && status != StatusCode::OK).then_some(if status == StatusCode::PARTIAL_CONTENT {
        NotStored::Partial
    } else {
        NotStored::Status
    })
}

/// Why what Redis has did not answer, if it has anything.
pub fn learned(learned: &Mutex<Option<Why>>) -> Option<Why> {
    *learned.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Errors that a stale response may stand in for (RFC 5861 section 4).
fn may_be_masked(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
