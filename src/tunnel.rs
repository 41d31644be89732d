//! Upgrades (WebSocket and others): two connections become one tunnel.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use crate::body::Body;
use crate::core::Core;
use crate::respond::{self, Why};
use crate::server::Lease;
use crate::upstream::Fetched;

/// A tunnel through which nothing went for so long is closed.
const IDLE: Duration = Duration::from_secs(600);

/// What a tunnel is opened between, and what it holds for as long as it is open.
pub struct Ends {
    /// The client's connection, when it can be upgraded.
    pub client: Option<OnUpgrade>,
    /// The place among the clients' connections.
    pub lease: Arc<Lease>,
    /// What keeps the client's connection from being idle.
    pub in_use: Arc<()>,
}

/// The response to a request for an upgrade. When upstream switched protocols, the tunnel is opened behind it.
pub fn open(mut response: Response<Fetched>, ends: Ends, core: &Arc<Core>, why: Why) -> Response<Body> {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response.headers().get(UPGRADE).cloned();
    let version = response.version();
    let upstream = switched.then(|| hyper::upgrade::on(&mut response));
    respond::receive(response.headers_mut(), version, &core.clock);
    match (upstream, ends.client, protocol) {
        (Some(upstream), Some(client), Some(protocol)) => {
            core.metrics.tunnels.inc();
            let (head, fetched) = response.into_parts();
            tokio::spawn(async move {
                carry(client, upstream).await;
                // Its place among the connections to upstream, and those of the client's.
                drop((fetched, ends.lease, ends.in_use));
            });
            let mut response = Response::from_parts(head, Body::empty());
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(UPGRADE, protocol);
            response
        }
        _ => respond::from_upstream(response, why, None, false),
    }
}

async fn carry(client: OnUpgrade, upstream: OnUpgrade) {
    let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else { return };
    let began = Instant::now();
    let last = Arc::new(AtomicU64::new(0));
    let mut client = Watched { inner: TokioIo::new(client), began, last: last.clone() };
    let mut upstream = TokioIo::new(upstream);
    let idle = async {
        loop {
            let since = began.elapsed().saturating_sub(Duration::from_millis(last.load(Ordering::Relaxed)));
            match IDLE.checked_sub(since) {
                Some(left) if !left.is_zero() => sleep(left).await,
                _ => return,
            }
        }
    };
    tokio::select! {
        done = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {
            if let Err(error) = done {
                tracing::debug!(%error, "a tunnel broke");
            }
        }
        () = idle => tracing::debug!("a tunnel was idle for too long"),
    }
}

/// Notes when bytes last went either way.
struct Watched<T> {
    inner: T,
    began: Instant,
    last: Arc<AtomicU64>,
}

impl<T> Watched<T> {
    fn note<R>(&self, poll: &Poll<R>) {
        if poll.is_ready() {
            let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.last.store(ms, Ordering::Relaxed);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.note(&poll);
        poll
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note(&poll);
        poll
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
