//! Bodies on their way: what goes to clients, and what clients send.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use crate::spool;

/// Why a body ended before it was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing came for longer than the idle timeout.
    Idle,
    /// The sender broke off.
    Broken,
    /// The client sent more than is allowed.
    TooLarge,
    /// The reader was too slow for the others.
    TooSlow,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cut::Idle => "nothing came for too long",
            Cut::Broken => "the sender broke off",
            Cut::TooLarge => "more than is allowed",
            Cut::TooSlow => "the reader was too slow",
        })
    }
}

impl std::error::Error for Cut {}

/// A body to a client.
pub struct Body {
    kind: Kind,
    /// Told how many bytes went, when the body is gone.
    account: Option<Account>,
}

enum Kind {
    Full(Option<Bytes>),
    Spool(spool::Reader, Option<u64>),
    Upstream(Box<Fetched>),
}

/// Called with the number of bytes that went, once.
pub type Settle = Box<dyn FnOnce(u64) + Send>;

struct Account {
    bytes: u64,
    settle: Option<Settle>,
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle(self.bytes);
        }
    }
}

impl Body {
    /// Nothing.
    pub fn empty() -> Body {
        Body { kind: Kind::Full(None), account: None }
    }

    /// All of it at once; no copy is made.
    pub fn full(bytes: Bytes) -> Body {
        Body { kind: Kind::Full(Some(bytes).filter(|b| !b.is_empty())), account: None }
    }

    /// What a fill reads from upstream, as it comes; of so many bytes when that is known.
    pub fn spool(reader: spool::Reader, length: Option<u64>) -> Body {
        Body { kind: Kind::Spool(reader, length), account: None }
    }

    /// What upstream sends, as it comes.
    pub fn upstream(fetched: Fetched) -> Body {
        Body { kind: Kind::Upstream(Box::new(fetched)), account: None }
    }

    /// Calls `settle` with the number of bytes that went, when the body is done or given up.
    pub fn settled(mut self, settle: impl FnOnce(u64) + Send + 'static) -> Body {
        self.account = Some(Account { bytes: 0, settle: Some(Box::new(settle)) });
        self
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        let frame = match &mut this.kind {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Kind::Spool(reader, _) => reader.poll_next(cx).map(|c| c.map(|c| c.map(Frame::data))),
            Kind::Upstream(fetched) => Pin::new(&mut **fetched).poll_frame(cx),
        };
        if let (Poll::Ready(Some(Ok(frame))), Some(account)) = (&frame, &mut this.account) {
            account.bytes += frame.data_ref().map_or(0, |d| d.len() as u64);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Spool(..) => false,
            Kind::Upstream(fetched) => fetched.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Spool(_, Some(length)) => SizeHint::with_exact(*length),
            Kind::Spool(_, None) => SizeHint::default(),
            Kind::Upstream(fetched) => fetched.size_hint(),
        }
    }
}

/// The body of an upstream response: an idle timeout between its chunks, and the connection's place among
/// those that may be open.
pub struct Fetched {
    inner: Incoming,
    idle: Idle,
    _permit: OwnedSemaphorePermit,
}

impl Fetched {
    /// Wraps a response's body.
    pub fn new(inner: Incoming, idle: Duration, permit: OwnedSemaphorePermit) -> Fetched {
        Fetched { inner, idle: Idle::new(idle), _permit: permit }
    }
}

impl HttpBody for Fetched {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.idle.rest();
                Poll::Ready(frame.map(|f| f.map_err(|_| Cut::Broken)))
            }
            Poll::Pending => this.idle.poll(cx).map(|()| Some(Err(Cut::Idle))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How far a client's body has come, for those who wait for what follows it.
#[derive(Clone, Debug)]
pub struct Upload {
    began: Instant,
    /// Milliseconds after `began` at which the last chunk came.
    last: Arc<AtomicU64>,
    too_large: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
}

impl Upload {
    fn new() -> Upload {
        Upload {
            began: Instant::now(),
            last: Arc::new(AtomicU64::new(0)),
            too_large: Arc::new(AtomicBool::new(false)),
            broken: Arc::new(AtomicBool::new(false)),
        }
    }
    /// When the last chunk came.
    pub fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
    /// Whether the client sent more than is allowed.
    pub fn too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }
    /// Whether the client broke off or stalled.
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

/// A body to upstream: none, or what the client sends, limited in size and in the time between its chunks.
pub enum RequestBody {
    /// No body.
    Empty,
    /// The client's.
    Client(Box<ClientBody>),
}

/// A client's body.
pub struct ClientBody {
    inner: Incoming,
    left: Option<u64>,
    idle: Idle,
    upload: Upload,
}

impl RequestBody {
    /// The client's body, of at most `limit` bytes (0: no limit), with at most `idle` between two chunks.
    pub fn client(inner: Incoming, limit: u64, idle: Duration) -> (RequestBody, Upload) {
        let upload = Upload::new();
        let left = (limit > 0).then_some(limit);
        let body = ClientBody { inner, left, idle: Idle::new(idle), upload: upload.clone() };
        (RequestBody::Client(Box::new(body)), upload)
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let RequestBody::Client(this) = &mut *self else { return Poll::Ready(None) };
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.idle.rest();
                let ms = u64::try_from(this.upload.began.elapsed().as_millis()).unwrap_or(u64::MAX);
                this.upload.last.store(ms, Ordering::Relaxed);
                let length = frame.data_ref().map_or(0, |d| d.len() as u64);
                if let Some(left) = &mut this.left {
                    let Some(rest) = left.checked_sub(length) else {
                        this.upload.too_large.store(true, Ordering::Relaxed);
                        return Poll::Ready(Some(Err(Cut::TooLarge)));
                    };
                    *left = rest;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => {
                this.upload.broken.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(Cut::Broken)))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => this.idle.poll(cx).map(|()| {
                this.upload.broken.store(true, Ordering::Relaxed);
                Some(Err(Cut::Idle))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Client(c) => c.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Client(c) => c.inner.size_hint(),
        }
    }
}

/// A timer that runs only while one waits.
struct Idle {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    fn new(limit: Duration) -> Idle {
        Idle { limit, sleep: None }
    }
    fn rest(&mut self) {
        self.sleep = None;
    }
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx)
    }
}
