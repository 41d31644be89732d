//! A connection to upstream, and those that are kept for the next request.
//!
//! A [`Link`] has no task of its own: whoever uses it drives it, first the request that waits for the head of its
//! response, then the [`Fetched`] body. So an exchange is made of two turns of one task, without a channel to wake
//! anybody at the other end of. What the library's two halves say to each other is heard in the same turn, so that
//! the half that is asked gets a waker that does nothing. The connection's own is that of who used it last, whom the next
//! request wakes once for nothing: a waker of its own between them cost as much as it saved.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::coop::unconstrained;
use tokio::time::sleep;

use crate::body::{Cut, Idle, RequestBody, Upload, standstill};

/// How long a kept connection may be idle before it is closed.
const IDLE: Duration = Duration::from_secs(60);
/// How often the kept ones are looked after.
const TEND: Duration = Duration::from_secs(1);
/// The largest response head that is read, in bytes.
const MAX_HEAD: usize = 256 * 1024;

/// What connections are made of.
type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Why an exchange failed, with the request when nothing of it was sent.
pub(super) type Unanswered = TrySendError<Request<RequestBody>>;

/// A connection, driven by whoever uses it.
pub struct Link {
    sender: SendRequest<RequestBody>,
    /// The library's other half, until it is closed.
    connection: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    /// Since when nobody has used it.
    since: Instant,
}

impl Link {
    /// A new connection that has nothing on it yet.
    ///
    /// # Errors
    /// The library's.
    pub async fn open(stream: Stream) -> hyper::Result<Link> {
        let (sender, connection) = Builder::new().max_buf_size(MAX_HEAD).handshake(stream).await?;
        Ok(Link { sender, connection: Some(Box::pin(connection.with_upgrades())), since: Instant::now() })
    }

    /// Gets on with whatever there is to write and to read; the task is woken when the socket lets it go on.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if self.connection.as_mut().is_some_and(|connection| connection.as_mut().poll(cx).is_ready()) {
            self.connection = None;
        }
    }

    /// Whether it may take a request: the one before is over on both sides, upstream has not closed it, and has sent
    /// nothing that nobody asked for.
    fn is_free(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.is_closed() && self.sender.is_ready()
    }

    /// The same, and waits for it; `false` when it is closed.
    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.drive(cx);
        if self.is_closed() { Poll::Ready(false) } else { self.sender.poll_ready(cx).map(|ready| ready.is_ok()) }
    }

    /// Closes it; TLS says good-bye first.
    fn close(self) {
        let Link { sender, connection, .. } = self;
        drop(sender);
        if let Some(mut connection) = connection {
            let _ = connection.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
    }

    fn is_closed(&self) -> bool {
        self.connection.is_none()
    }

    /// Sends a request, as far as that goes without driving. What comes of it is the head of its response.
    ///
    /// # Errors
    /// The library's, with the request when nothing of it was sent.
    pub fn ask(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Unanswered>> + use<> {
        // Its budget is not asked, which would call a waker that does nothing.
        unconstrained(self.sender.try_send_request(request))
    }

    /// Drives it until there is what was asked for, or until `limit` is over: then nothing came. Both are the caller's,
    /// pinned: a future that takes another in has room for it twice.
    pub fn driven<T>(
        &mut self,
        mut answer: Pin<&mut impl Future<Output = T>>,
        mut limit: Pin<&mut impl Future<Output = ()>>,
    ) -> impl Future<Output = Option<T>> {
        poll_fn(move |cx| {
            self.drive(cx);
            match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
            }
        })
    }
}

/// The connections that one worker keeps for the next request.
pub struct Kept {
    state: Mutex<State>,
    most: usize,
}

#[derive(Default)]
struct State {
    /// The one that was used last is the last.
    links: Vec<Link>,
    /// Whether somebody looks after them.
    tended: bool,
}

impl Kept {
    /// Room for so many.
    pub fn new(most: usize) -> Arc<Kept> {
        Arc::new(Kept { state: Mutex::default(), most })
    }

    /// The one that was used last. Should upstream have closed it, its first turn shows that before anything is sent.
    pub fn take(&self) -> Option<Link> {
        self.lock().links.pop()
    }

    /// Keeps one whose response is complete; where its request is still on the way, once that is gone too: until then it
    /// takes its place among the connections that may be open along. Where that stands still for `patience`, be it
    /// that the client sends nothing or that upstream reads no more of what it has answered, it is closed.
    fn put(self: &Arc<Self>, mut link: Link, rest: &mut Rest) {
        // The turn that read the end of the response has mostly seen the end of the request, too.
        if (link.sender.is_ready() && !link.is_closed()) || link.is_free() {
            self.keep(link);
        } else if !link.is_closed() {
            let (kept, Rest { place, upload, patience }) = (self.clone(), rest.take());
            tokio::spawn(async move {
                tokio::select! {
                    free = poll_fn(|cx| link.poll_free(cx)) => if free {
                        kept.keep(link);
                    },
                    () = standstill(upload.as_ref(), patience) => link.close(),
                }
                drop(place);
            });
        }
    }

    fn keep(self: &Arc<Self>, mut link: Link) {
        link.since = Instant::now();
        let mut state = self.lock();
        if state.links.len() >= self.most {
            drop(state);
            return link.close();
        }
        state.links.push(link);
        if !std::mem::replace(&mut state.tended, true) {
            tokio::spawn(tend(Arc::downgrade(self)));
        }
    }

    /// Closes those that have been idle for too long now, or that upstream has closed. Says whether any is left to be
    /// looked after.
    fn sweep(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let stay = |link: &mut Link| link.is_free() && now.saturating_duration_since(link.since) < IDLE;
        let gone: Vec<Link> = state.links.extract_if(.., |link| !stay(link)).collect();
        state.tended = !state.links.is_empty();
        let left = state.tended;
        drop(state);
        gone.into_iter().for_each(|link| link.close());
        left
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after the kept connections for as long as there are any.
async fn tend(kept: Weak<Kept>) {
    loop {
        sleep(TEND).await;
        if !kept.upgrade().is_some_and(|kept| kept.sweep(Instant::now())) {
            return;
        }
    }
}

/// What a response leaves to whoever sees to the rest of its request.
pub struct Rest {
    /// Its place among the connections that may be open.
    pub place: Option<OwnedSemaphorePermit>,
    /// What is known of the client's body.
    pub upload: Option<Upload>,
    /// How long that may stand still.
    pub patience: Duration,
}

impl Rest {
    fn take(&mut self) -> Rest {
        Rest { place: self.place.take(), upload: self.upload.take(), patience: self.patience }
    }
}

/// The body of an upstream response, with an idle timeout between its chunks. It drives its connection, which is
/// kept for the next request as soon as the body is complete, and closed if it is given up before.
pub struct Fetched {
    inner: Incoming,
    idle: Idle,
    link: Option<Link>,
    kept: Arc<Kept>,
    rest: Rest,
}

impl Fetched {
    /// The body that comes on a connection, and what else is known of the exchange.
    pub fn new(inner: Incoming, link: Link, kept: Arc<Kept>, rest: Rest) -> Self {
        let mut fetched = Fetched { inner, idle: Idle::new(rest.patience), link: Some(link), kept, rest };
        fetched.release_at_end();
        fetched
    }

    fn release_at_end(&mut self) {
        if self.inner.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(link) = self.link.take() {
            self.kept.put(link, &mut self.rest);
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut quiet = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.inner).poll_frame(&mut quiet);
        match &mut self.link {
            Some(link) if read.is_pending() => {
                link.drive(cx);
                Pin::new(&mut self.inner).poll_frame(&mut quiet)
            }
            _ => read,
        }
    }
}

impl Body for Fetched {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.poll_inner(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.rest();
                self.release_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(Cut::Broken))),
            // Nothing comes any more on a closed connection.
            Poll::Pending if self.link.as_ref().is_none_or(|link| link.is_closed()) => {
                Poll::Ready(Some(Err(Cut::Broken)))
            }
            Poll::Pending => self.idle.poll(cx).map(|()| Some(Err(Cut::Idle))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_nobody_uses_for_a_minute_is_closed_and_so_is_one_too_many() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pair = async || {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let link = Link::open(MaybeHttpsStream::Http(TokioIo::new(stream))).await.unwrap();
            (link, listener.accept().await.unwrap().0)
        };
        let closed = async |mut end: TcpStream| {
            timeout(Duration::from_secs(15), end.read(&mut [0])).await.expect("it is closed").unwrap() == 0
        };
        let kept = Kept::new(1);
        let ((first, stays), (second, goes)) = (pair().await, pair().await);
        let begin = Instant::now();
        let nothing = || Rest { place: None, upload: None, patience: IDLE };
        kept.put(first, &mut nothing());
        kept.put(second, &mut nothing());
        assert!(closed(goes).await, "there is room for one");
        assert!(kept.sweep(begin + IDLE - Duration::from_secs(1)));
        assert!(stays.try_read(&mut [0]).is_err(), "it is open");
        assert!(!kept.sweep(Instant::now() + IDLE));
        assert!(closed(stays).await);
        assert!(kept.take().is_none());
    }
}
