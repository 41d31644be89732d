//! The admin listener: metrics, health, the page and its API. On loopback unless configured otherwise.
//!
//! A page of somebody else's in an operator's browser must not be able to steer it: the Host must be an
//! address, `localhost` or a configured name, and what changes state wants a matching Origin, and the bearer
//! token (which it can't do without on any address but loopback).

mod stats;

pub(crate) use stats::reach as reaches;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::core::Core;
use crate::invalidation::log::Logged;
use crate::invalidation::{Invalidation, MAX_MESSAGE, Source};
use crate::metrics::MalformedWhat;
use crate::server::Phase;

const MAX_CONNECTIONS: usize = 64;
const DEADLINE: Duration = Duration::from_secs(10);
const PAGE: &str = include_str!("page.html");

/// What the handlers need.
struct Admin {
    core: Arc<Core>,
    address: SocketAddr,
    phase: watch::Receiver<Phase>,
    started: Instant,
    policy: HeaderValue,
}

type Answer = Response<Full<Bytes>>;

/// Serves the admin listener until the process ends.
pub async fn serve(core: Arc<Core>, listener: TcpListener, address: SocketAddr, phase: watch::Receiver<Phase>) {
    let admin = Arc::new(Admin { core, address, phase, started: Instant::now(), policy: content_security_policy() });
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let admin = admin.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let admin = admin.clone();
                        async move { Ok::<_, std::convert::Infallible>(admin.answer(request).await) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(DEADLINE)
                        .serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "an admin connection ended early");
                    }
                    drop(slot);
                });
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

impl Admin {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if !self.knows_host(request.headers()) {
            return problem(
                StatusCode::MISDIRECTED_REQUEST,
                "The Host is not this listener's. Use its address, or add the name to admin.allow_hosts.",
            );
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => self.page(),
            (&Method::GET, "/metrics") => self.metrics(),
            (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/readyz") => self.ready().await,
            (&Method::GET, "/api/stats") => {
                json(StatusCode::OK, &stats::stats(&self.core, self.started, self.ready_now()))
            }
            (&Method::GET, "/api/entries") => json(StatusCode::OK, &stats::entries(&self.core, request.uri().query())),
            (&Method::POST, "/api/invalidate") => match self.may_change(request.headers()) {
                Ok(()) => self.invalidate(request).await,
                Err((status, detail)) => problem(status, detail),
            },
            (_, "/api/invalidate") => not_served("POST"),
            (_, "/" | "/metrics" | "/healthz" | "/readyz" | "/api/stats" | "/api/entries") => not_served("GET"),
            _ => problem(
                StatusCode::NOT_FOUND,
                "There is /, /metrics, /healthz, /readyz, /api/stats, /api/entries and /api/invalidate.",
            ),
        }
    }

    fn ready_now(&self) -> bool {
        *self.phase.borrow() == Phase::Serving
    }

    fn page(&self) -> Answer {
        let mut page = Response::new(Full::new(Bytes::from_static(PAGE.as_bytes())));
        let headers = page.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(http::header::CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(http::header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        page
    }

    fn metrics(&self) -> Answer {
        self.core.memory.measure();
        match self.core.metrics.render() {
            Ok(rendered) => {
                let mut answer = Response::new(Full::new(Bytes::from(rendered)));
                let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                answer.headers_mut().insert(CONTENT_TYPE, format);
                answer
            }
            Err(error) => {
                tracing::error!(%error, "metrics can't be rendered");
                problem(StatusCode::INTERNAL_SERVER_ERROR, "The metrics can't be rendered.")
            }
        }
    }

    /// Ready is whoever can answer; what is missing behind is said, and does not take an instance out of
    /// service: it still answers from memory or from upstream.
    async fn ready(&self) -> Answer {
        let ready = self.ready_now();
        let upstream = stats::reach(&self.core.config.upstream).await;
        let mut report = serde_json::json!({
            "ready": ready,
            "state": if ready { "serving" } else { "draining" },
            "upstream": if upstream { "up" } else { "down" },
            "redis": stats::redis_state(&self.core),
            "invalidations_pending": self.core.log.pending(),
            "degraded": !upstream || stats::redis_state(&self.core) == "down" || self.core.log.pending() > 0,
        });
        if let (Some(refused), Some(report)) = (stats::redis_refuses(&self.core), report.as_object_mut()) {
            report.insert("redis_refuses".into(), refused.into());
        }
        json(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &report)
    }

    async fn invalidate(&self, request: Request<Incoming>) -> Answer {
        let body = timeout(DEADLINE, Limited::new(request.into_body(), MAX_MESSAGE).collect()).await;
        let body = match body {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => {
                self.core.metrics.malformed(MalformedWhat::Message);
                return problem(StatusCode::PAYLOAD_TOO_LARGE, "The message is larger than 64 KiB.");
            }
            Err(_) => return problem(StatusCode::REQUEST_TIMEOUT, "The message did not arrive in time."),
        };
        let what = match Invalidation::parse(&body.to_bytes()) {
            Ok(what) => what,
            Err(malformed) => {
                self.core.metrics.malformed(MalformedWhat::Message);
                return problem(StatusCode::BAD_REQUEST, &malformed.to_string());
            }
        };
        match self.core.log.invalidate(what, Source::Api).await {
            Logged::At(id) => json(StatusCode::OK, &serde_json::json!({"logged": true, "position": id.to_string()})),
            Logged::Pending => json(
                StatusCode::ACCEPTED,
                &serde_json::json!({"logged": false, "detail": "Applied by this instance; Redis is away, and other instances learn of it when it is back."}),
            ),
        }
    }

    /// DNS rebinding: a page on any name that resolves to this address would else be same-origin with us.
    fn knows_host(&self, headers: &HeaderMap) -> bool {
        let Some(host) = headers.get(HOST).and_then(|h| h.to_str().ok()) else { return false };
        let name = match host.rfind(':') {
            Some(at) if !host[at..].contains(']') => &host[..at],
            _ => host,
        };
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.core.config.admin.allow_hosts.iter().any(|a| a.eq_ignore_ascii_case(name))
    }

    fn may_change(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        if let Some(origin) = headers.get(ORIGIN) {
            let host = headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
            let own = origin.as_bytes().strip_prefix(b"http://").or(origin.as_bytes().strip_prefix(b"https://"));
            if own != Some(host) {
                return Err((StatusCode::FORBIDDEN, "The request comes from a page of another origin."));
            }
        }
        match &self.core.config.admin.token {
            None if self.address.ip().is_loopback() => Ok(()),
            None => Err((
                StatusCode::FORBIDDEN,
                "This listener is not on loopback: set admin.token, and send it as a bearer token.",
            )),
            Some(token) => {
                let given = headers.get(AUTHORIZATION).and_then(|a| a.as_bytes().strip_prefix(b"Bearer "));
                // Hashes are compared, so that the time does not tell how much of the token was right.
                if given.is_some_and(|g| blake3::hash(g) == blake3::hash(token.as_bytes())) {
                    Ok(())
                } else {
                    Err((StatusCode::UNAUTHORIZED, "Send the bearer token of admin.token."))
                }
            }
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn not_served(allowed: &'static str) -> Answer {
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "This method is not served here.");
    answer.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn problem(status: StatusCode, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or("Error");
    let document =
        serde_json::json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    let mut answer = json(status, &document);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// Only the page's own style and script, by their hashes.
fn content_security_policy() -> HeaderValue {
    let between = |open: &str, close: &str| {
        let start = PAGE.find(open).map_or(0, |at| at + open.len());
        let end = PAGE[start..].find(close).map_or(PAGE.len(), |at| start + at);
        base64(&sha256(&PAGE.as_bytes()[start..end]))
    };
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        between("<style>", "</style>"),
        between("<script>", "</script>"),
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

fn sha256(data: &[u8]) -> Vec<u8> {
    // The TLS library's provider brings the hash; nothing else here needs one.
    rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .map(|s| s.common.hash_provider.hash(data).as_ref().to_vec())
        .unwrap_or_default()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let n = group.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let digit = char::from(DIGITS[(n >> (18 - 6 * at) & 63) as usize]);
            out.push(if at <= group.len() { digit } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_and_its_encoding_are_the_ones_browsers_compute() {
        assert_eq!(base64(&sha256(b"abc")), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(base64(b"a"), "YQ==");
    }
}
