//! The yardstick and the origin of the benchmarks (`benches/run.py`).
//!
//!   bare 127.0.0.1:PORT           the yardstick: a bare hyper server on one thread that answers `GET /b/SIZE/KEY`
//!                                 with SIZE bytes, cacheable for an hour, and does nothing else
//!   bare 127.0.0.1:PORT each      the same with a body of its own for each KEY, as a cache has: what memory costs that
//!                                 is not in the processor's caches
//!   bare 127.0.0.1:PORT proxy TO  what a proxy of this library costs at least: each request goes to that address as it is,
//!                                 on kept connections, and what comes back goes back
//!   bare 127.0.0.1:PORT origin    the same with all that an origin needs, and a count of what it was asked:
//!                                 /u/SIZE/KEY         not to be stored
//!                                 /s/SIZE/KEY         not to be stored, and streamed: 64 KiB each millisecond
//!                                 /slow/MS/SIZE/KEY   as /b/, after so many milliseconds
//!                                 /count              how many requests came, this path aside

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

const LARGEST: usize = 16 << 20;
const PIECE: usize = 64 << 10;

type Bodies = RefCell<HashMap<usize, Bytes>>;
type Each = RefCell<HashMap<String, Bytes>>;

fn body(size: usize, bodies: &Bodies) -> Bytes {
    bodies.borrow_mut().entry(size).or_insert_with(|| Bytes::from(vec![b'x'; size])).clone()
}

fn body_of_its_own(path: &str, size: usize, bodies: &Each) -> Bytes {
    if let Some(body) = bodies.borrow().get(path) {
        return body.clone();
    }
    bodies.borrow_mut().entry(path.into()).or_insert_with(|| Bytes::from(vec![b'x'; size])).clone()
}

fn cacheable(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    for (name, value) in [("content-type", "application/json"), ("cache-control", "max-age=3600"), ("etag", "\"v1\"")] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn not_found() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// The yardstick: as little as the library lets anybody do.
fn answer(request: &Request<Incoming>, body: impl FnOnce(usize) -> Bytes) -> Response<Full<Bytes>> {
    let mut parts = request.uri().path().split('/').skip(1);
    match (parts.next(), parts.next().map(str::parse::<usize>)) {
        (Some("b"), Some(Ok(size))) if size <= LARGEST => cacheable(body(size)),
        _ => not_found(),
    }
}

/// What the proxies are put in front of.
async fn origin(
    request: Request<Incoming>,
    bodies: Rc<Bodies>,
    asked: Rc<Cell<u64>>,
) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let path = request.uri().path();
    if path == "/count" {
        return Response::new(Full::new(Bytes::from(asked.get().to_string()))).map(BodyExt::boxed_unsync);
    }
    asked.set(asked.get() + 1);
    let mut parts = path.split('/').skip(1);
    let kind = parts.next().unwrap_or_default();
    let mut number = || parts.next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(usize::MAX);
    let wait = if kind == "slow" { number() } else { 0 };
    let size = number();
    if !matches!(kind, "b" | "u" | "s" | "slow") || size > LARGEST || wait > 60_000 {
        return not_found().map(BodyExt::boxed_unsync);
    }
    if wait > 0 {
        sleep(Duration::from_millis(wait as u64)).await;
    }
    let body = body(size, &bodies);
    let mut response = cacheable(body.clone()).map(BodyExt::boxed_unsync);
    if matches!(kind, "u" | "s") {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if kind == "s" {
        let pieces = stream::unfold(0, move |at| {
            let piece = body.slice(at.min(size)..size.min(at + PIECE));
            async move {
                if at > 0 && !piece.is_empty() {
                    sleep(Duration::from_millis(1)).await;
                }
                (!piece.is_empty()).then(|| (Ok(Frame::data(piece)), at + PIECE))
            }
        });
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
        response = response.map(|_| StreamBody::new(pieces).boxed_unsync());
    }
    response
}

/// A connection of the proxy's, driven by whoever uses it.
struct Link {
    sender: client::conn::http1::SendRequest<Incoming>,
    connection: Pin<Box<client::conn::http1::Connection<TokioIo<TcpStream>, Incoming>>>,
}

type Links = RefCell<Vec<Link>>;

/// The body of an answer, which gives its connection back.
struct Relayed {
    body: Incoming,
    link: Option<Link>,
    links: Rc<Links>,
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut quiet = Context::from_waker(Waker::noop());
        let mut read = Pin::new(&mut self.body).poll_frame(&mut quiet);
        if let (Poll::Pending, Some(link)) = (&read, &mut self.link) {
            let _ = link.connection.as_mut().poll(cx);
            read = Pin::new(&mut self.body).poll_frame(&mut quiet);
        }
        if matches!(read, Poll::Ready(None)) || self.body.is_end_stream() {
            let link = self.link.take();
            self.links.borrow_mut().extend(link);
        }
        read
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn relay(request: Request<Incoming>, to: &str, links: Rc<Links>) -> std::io::Result<Response<Relayed>> {
    let kept = links.borrow_mut().pop();
    let mut link = match kept {
        Some(link) => link,
        None => {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            let shaken = client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (sender, connection) = shaken.map_err(std::io::Error::other)?;
            Link { sender, connection: Box::pin(connection) }
        }
    };
    let mut answer = pin!(link.sender.send_request(request));
    let response = poll_fn(|cx| {
        let _ = link.connection.as_mut().poll(cx);
        answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    });
    let response = response.await.map_err(std::io::Error::other)?;
    Ok(response.map(|body| Relayed { body, link: Some(link), links }))
}

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9000".into());
    let what = std::env::args().nth(2).unwrap_or_default();
    let (is_origin, each) = (what == "origin", what == "each");
    let to: Option<Rc<str>> = std::env::args().nth(3).filter(|_| what == "proxy").map(Rc::from);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(address).await?;
        let (bodies, asked) = (Rc::<Bodies>::default(), Rc::<Cell<u64>>::default());
        let (own, links) = (Rc::<Each>::default(), Rc::<Links>::default());
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (bodies, own, asked) = (bodies.clone(), own.clone(), asked.clone());
            let (to, links) = (to.clone(), links.clone());
            tokio::task::spawn_local(async move {
                let (mut http, io) = (http1::Builder::new(), TokioIo::new(stream));
                http.timer(TokioTimer::new());
                let _ = if let Some(to) = to {
                    http.serve_connection(io, service_fn(|request| relay(request, &to, links.clone()))).await
                } else if is_origin {
                    let service = service_fn(|request| {
                        let response = origin(request, bodies.clone(), asked.clone());
                        async { Ok::<_, Infallible>(response.await) }
                    });
                    http.serve_connection(io, service).await
                } else if each {
                    let service = service_fn(|request: Request<Incoming>| {
                        let path = request.uri().path();
                        ready(Ok::<_, Infallible>(answer(&request, |size| body_of_its_own(path, size, &own))))
                    });
                    http.serve_connection(io, service).await
                } else {
                    let service =
                        service_fn(|request| ready(Ok::<_, Infallible>(answer(&request, |size| body(size, &bodies)))));
                    http.serve_connection(io, service).await
                };
            });
        }
    })
}
