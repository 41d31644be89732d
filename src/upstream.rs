//! The API behind the proxy: HTTP/1.1 over a bounded pool of kept-alive connections, with a deadline for each
//! step.
//!
//! Each worker has its own pool, so that a request and its connection live on one thread; the bound on open
//! connections is shared by all.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep_until, timeout};

use crate::body::{Fetched, RequestBody, Upload};
use crate::config::{Upstream as Settings, UpstreamUrl};
use crate::interim::Sink;
use crate::problem::Problem;

/// How long a kept connection may be idle before it is closed.
const POOL_IDLE: Duration = Duration::from_secs(60);
/// The largest response head that is read, in bytes.
const MAX_HEAD: usize = 256 * 1024;

/// A worker's way to the upstream.
pub struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, RequestBody>,
    open: Arc<Semaphore>,
    settings: Arc<Settings>,
    scheme: Scheme,
}

/// A request on its way to upstream.
pub struct Outgoing {
    /// Its method.
    pub method: Method,
    /// Path and query as the client sent them.
    pub target: PathAndQuery,
    /// Its fields, as they go out.
    pub headers: HeaderMap,
    /// Its body.
    pub body: RequestBody,
    /// How far the client's body has come; `None` without a body.
    pub upload: Option<Upload>,
    /// Where interim responses go; `None` when nobody is to get any.
    pub interim: Option<Sink>,
}

impl Outgoing {
    /// One without a body.
    pub fn without_body(method: Method, target: PathAndQuery, headers: HeaderMap, interim: Option<Sink>) -> Outgoing {
        Outgoing { method, target, headers, body: RequestBody::Empty, upload: None, interim }
    }
}

/// TLS settings for an https upstream, from the system's certificate store; no roots are loaded for http.
///
/// # Errors
/// A sentence for the user when the store can't be read or is empty.
pub fn tls(url: &UpstreamUrl) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    if url.https {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err("no root certificates were found to verify the https upstream with: install the system's \
                        package of them (on Debian: ca-certificates)"
                .into());
        }
    }
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|b| b.with_root_certificates(roots).with_no_client_auth())
        .map_err(|e| format!("TLS can't be set up: {e}"))
}

impl Upstream {
    /// A pool for one worker. `open` bounds the connections of all of them.
    pub fn new(settings: Arc<Settings>, tls: ClientConfig, open: Arc<Semaphore>) -> Upstream {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(settings.connect_timeout));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(settings.max_idle)
            .http1_max_buf_size(MAX_HEAD)
            .build(connector);
        let scheme = if settings.url.https { Scheme::HTTPS } else { Scheme::HTTP };
        Upstream { client, open, settings, scheme }
    }

    /// The settings it was made from.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(&self, out: Outgoing) -> Result<Response<Fetched>, Problem> {
        let (response, permit) = self.exchange(out).await?;
        let idle = self.settings.idle_timeout;
        Ok(response.map(|body| Fetched::new(body, idle, permit)))
    }

    /// The same for an exchange that may become a tunnel: the body and the connection's place come apart.
    pub async fn exchange(&self, out: Outgoing) -> Result<(Response<Incoming>, OwnedSemaphorePermit), Problem> {
        let permit = match timeout(self.settings.connect_timeout, self.open.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(Problem::Internal),
            Err(_) => return Err(Problem::Busy),
        };
        // A kept connection may be closed by the other side just as it is used again. A request that is safe
        // and has no body can be sent once more (RFC 9110 section 9.2.2).
        let again = (out.method.is_safe() && out.upload.is_none())
            .then(|| (out.method.clone(), out.target.clone(), out.headers.clone(), out.interim.clone()));
        match (self.once(out).await, again) {
            (Err(Failure { problem: Problem::Broken, retriable: true }), Some((method, target, headers, interim))) => {
                self.once(Outgoing::without_body(method, target, headers, interim)).await.map_err(|f| f.problem)
            }
            (outcome, _) => outcome.map_err(|f| f.problem),
        }
        .map(|response| (response, permit))
    }

    async fn once(&self, out: Outgoing) -> Result<Response<Incoming>, Failure> {
        let Some(uri) = self.uri(&out.target) else {
            return Err(Failure { problem: Problem::Malformed, retriable: false });
        };
        let mut request = Request::new(out.body);
        *request.method_mut() = out.method;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = out.headers;
        if let Some(sink) = out.interim {
            sink.listen(&mut request);
        }
        let mut answer = pin!(self.client.request(request));
        let patience = self.settings.first_byte_timeout;
        let mut limit = pin!(sleep_until((Instant::now() + patience).into()));
        poll_fn(|cx| {
            use std::task::Poll;
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(|e| Failure::of(&e, out.upload.as_ref())));
            }
            while limit.as_mut().poll(cx).is_ready() {
                // As long as the client is still sending, upstream can't be expected to answer.
                let until = out.upload.as_ref().map_or(limit.deadline().into_std(), |u| u.last() + patience);
                if until <= Instant::now() {
                    return Poll::Ready(Err(Failure { problem: Problem::Timeout, retriable: false }));
                }
                limit.as_mut().reset(until.into());
            }
            Poll::Pending
        })
        .await
    }

    fn uri(&self, target: &PathAndQuery) -> Option<Uri> {
        let url = &self.settings.url;
        let target = if url.base_path.is_empty() {
            target.clone()
        } else {
            PathAndQuery::try_from(format!("{}{target}", url.base_path)).ok()?
        };
        Uri::builder().scheme(self.scheme.clone()).authority(url.authority.clone()).path_and_query(target).build().ok()
    }
}

struct Failure {
    problem: Problem,
    retriable: bool,
}

impl Failure {
    fn of(error: &Error, upload: Option<&Upload>) -> Failure {
        tracing::debug!(error = %Causes(error), "upstream failed");
        let problem = if upload.is_some_and(Upload::too_large) {
            Problem::BodyTooLarge
        } else if upload.is_some_and(Upload::broken) {
            Problem::ClientGone
        } else if error.is_connect() {
            Problem::Unreachable
        } else {
            Problem::Broken
        };
        Failure { problem, retriable: problem == Problem::Broken && !is_garbage(error) }
    }
}

/// Whether upstream answered with something that is no HTTP: asking again would not help.
fn is_garbage(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if e.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return true;
        }
        cause = e.source();
    }
    false
}

/// An error with all its causes.
struct Causes<'e>(&'e dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(e) = cause {
            write!(f, ": {e}")?;
            cause = e.source();
        }
        Ok(())
    }
}
