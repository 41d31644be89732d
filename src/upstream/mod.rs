//! The API behind the proxy: HTTP/1.1 over a bounded pool of kept-alive connections, with a deadline for each
//! step.
//!
//! Each worker has its own pool, so that a request and its connection live on one thread; the bound on open
//! connections is shared by all.

mod link;

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower_service::Service;

pub use self::link::Fetched;
use self::link::{Kept, Link, Rest, Unanswered};
use crate::body::{RequestBody, Upload, standstill};
use crate::config::{Upstream as Settings, UpstreamUrl};
use crate::interim::Sink;
use crate::problem::Problem;

/// A worker's way to the upstream.
pub struct Upstream {
    connector: HttpsConnector<HttpConnector>,
    kept: Arc<Kept>,
    open: Arc<Semaphore>,
    settings: Arc<Settings>,
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

    /// Of a request that can't be made again: it is there once.
    pub fn once(self) -> impl FnMut() -> Option<Outgoing> + Send {
        let mut out = Some(Box::new(self));
        move || out.take().map(|out| *out)
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
        Upstream { connector, kept: Kept::new(settings.max_idle), open, settings }
    }

    /// The settings it was made from.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Sends a request and waits for the head of its response. One that asks for an upgrade is answered by a 101, and
    /// then the response is what becomes the other end of the tunnel.
    ///
    /// A kept connection may be closed by the other side just as it is used again. A request of which nothing was sent
    /// is sent on a new one. One that is safe and has no body (RFC 9110 section 9.2.2) is made again: that is rare, and
    /// cheaper than a copy of each.
    ///
    /// # Errors
    /// What came in place of a response.
    pub async fn send(&self, mut make: impl FnMut() -> Option<Outgoing> + Send) -> Result<Response<Fetched>, Problem> {
        let permit = self.place().await?;
        let mut kept = self.kept.take();
        let mut unsent: Option<Box<Asked>> = None;
        loop {
            let is_kept = kept.is_some();
            let mut link = match kept.take() {
                Some(link) => link,
                None => Box::pin(self.connect()).await?,
            };
            let Asked { request, upload, again } = match unsent.take() {
                Some(unsent) => *unsent,
                None => self.asked(make().ok_or(Problem::Broken)?)?,
            };
            let answer = {
                // As long as the client is still sending, upstream can't be expected to answer.
                let (answer, limit) =
                    (pin!(link.ask(request)), pin!(standstill(upload.as_ref(), self.settings.first_byte_timeout)));
                link.driven(answer, limit).await
            };
            let failure = match answer {
                Some(Ok(response)) => {
                    let rest = Rest { place: Some(permit), upload, patience: self.settings.idle_timeout };
                    return Ok(response.map(|body| Fetched::new(body, link, self.kept.clone(), rest)));
                }
                Some(Err(unanswered)) => Failure::of(unanswered, upload.as_ref()),
                None => return Err(Problem::Timeout),
            };
            match failure.unsent {
                Some(request) if is_kept => unsent = Some(Box::new(Asked { request, upload, again })),
                None if is_kept && again && failure.problem == Problem::Broken && !failure.garbage => {}
                _ => return Err(failure.problem),
            }
        }
    }

    fn asked(&self, out: Outgoing) -> Result<Asked, Problem> {
        let Outgoing { method, target, headers, body, upload, interim } = out;
        let again = method.is_safe() && upload.is_none();
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.target(target).ok_or(Problem::Malformed)?;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = headers;
        if let Some(sink) = interim {
            sink.listen(&mut request);
        }
        Ok(Asked { request, upload, again })
    }

    /// A place among the connections that may be open.
    async fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        if let Ok(permit) = self.open.clone().try_acquire_owned() {
            return Ok(permit);
        }
        match timeout(self.settings.connect_timeout, self.open.clone().acquire_owned()).await {
            Ok(permit) => permit.map_err(|_| Problem::Internal),
            Err(_) => Err(Problem::Busy),
        }
    }

    async fn connect(&self) -> Result<Link, Problem> {
        let url = &self.settings.url;
        let connecting = async {
            let origin =
                Uri::builder().scheme(url.scheme()).authority(url.authority.clone()).path_and_query("/").build()?;
            let mut connector = self.connector.clone();
            poll_fn(|cx| connector.poll_ready(cx)).await?;
            Ok(Link::open(connector.call(origin).await?).await?)
        };
        let outcome: Result<_, Box<dyn Error + Send + Sync>> =
            timeout(self.settings.connect_timeout, connecting).await.unwrap_or_else(|late| Err(late.into()));
        outcome.map_err(|error| {
            tracing::debug!(error = %Causes(&*error), "upstream can't be reached");
            Problem::Unreachable
        })
    }

    fn target(&self, target: PathAndQuery) -> Option<Uri> {
        let base = &self.settings.url.base_path;
        if base.is_empty() {
            return Some(target.into());
        }
        PathAndQuery::try_from(format!("{base}{target}")).ok().map(Uri::from)
    }
}

/// A request as the library takes it.
struct Asked {
    request: Request<RequestBody>,
    upload: Option<Upload>,
    /// Whether it may be asked again when it is lost on its way.
    again: bool,
}

struct Failure {
    problem: Problem,
    /// Whether upstream answered with something that is no HTTP: asking again would not help.
    garbage: bool,
    /// The request, when nothing of it was sent.
    unsent: Option<Request<RequestBody>>,
}

impl Failure {
    fn of(mut unanswered: Unanswered, upload: Option<&Upload>) -> Failure {
        let unsent = unanswered.take_message();
        let error = unanswered.into_error();
        tracing::debug!(error = %Causes(&error), "upstream failed");
        let problem = if upload.is_some_and(Upload::too_large) {
            Problem::BodyTooLarge
        } else if upload.is_some_and(Upload::broken) {
            Problem::ClientGone
        } else {
            Problem::Broken
        };
        Failure { problem, garbage: error.is_parse(), unsent }
    }
}

/// An error with all its causes.
struct Causes<'e>(&'e (dyn Error + 'static));

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
