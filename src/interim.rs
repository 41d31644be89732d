//! Interim responses of upstream (1xx, RFC 9110 section 15.2), such as 103 Early Hints (RFC 8297), on their way
//! to the client whose request went upstream. Nothing of them is stored or gets into the final response.
//!
//! The library's server sends none but 100 (Continue), which it makes itself. So they go past it: a [`Sink`] takes
//! them from the exchange with upstream, and they wait in the connection's [`Outlet`] until the guard, which
//! stands between the library and the socket, writes them ([`crate::server::guard`]).
//!
//! # Why the place is between two messages
//!
//! 1. Something waits in an outlet only while a request is being answered: a sink of any other request is
//!    deaf, and [`Outlet::last`] lets the final response go only when nothing waits any more. Until then the
//!    library has nothing of the final response.
//! 2. The library reads a request's head, and calls the service, only when all of the response before is in its
//!    write buffer (hyper 1.12, `proto/h1/conn.rs`: a head is read when reading and writing are both at `Init`,
//!    and writing is there only before the first message and after the end of one).
//! 3. It flushes the stream only when it has written all of its buffer (`proto/h1/io.rs`, `poll_flush`).
//!
//! So when the stream is flushed and something waits, all of the response before has been written, by 2 and 3,
//! and nothing of the one to come, by 1. That is where the guard begins to write. The one thing that the library
//! may still send before the final response is a 100 of its own: while an interim response is written in part,
//! the guard lets none of the library's bytes pass.
//!
//! The library flushes at the end of each turn of a connection's task, whatever came of the turn. A sink wakes
//! that task, and needs no more.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request, StatusCode, Version};

use crate::clock::Clock;
use crate::respond;

/// So many interim responses reach the client before one final response.
const MOST: usize = 32;
/// And so many bytes of them.
const MOST_BYTES: usize = 64 * 1024;

/// Where the interim responses for one HTTP/1.1 connection wait for their place.
pub struct Outlet {
    clock: Clock,
    /// Whether the request that is being answered has a sink: all that a hit looks at.
    used: AtomicBool,
    /// Whether anything is to be written: all that the guard looks at.
    waiting: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the request that is being answered.
    request: u64,
    queue: VecDeque<Bytes>,
    /// How many were taken for this request, and of how many bytes.
    taken: (usize, usize),
    /// How many were not.
    dropped: usize,
    /// The connection's task.
    task: Option<Waker>,
}

/// Takes the interim responses for one request.
#[derive(Clone)]
pub struct Sink {
    outlet: Arc<Outlet>,
    request: u64,
}

impl Outlet {
    /// The outlet of a new connection.
    pub fn new(clock: Clock) -> Arc<Outlet> {
        Arc::new(Outlet {
            clock,
            used: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    /// A sink for the request that is being answered; a client of HTTP/1.0 is sent none (RFC 9110 section 15.2).
    pub fn sink(self: &Arc<Self>, version: Version) -> Option<Sink> {
        (version >= Version::HTTP_11).then(|| {
            self.used.store(true, Ordering::Relaxed);
            Sink { outlet: self.clone(), request: self.lock().request }
        })
    }

    /// Waits for the final response, and for the interim ones to be gone: it comes last. What upstream still
    /// sends for this request is dropped. The wait is bounded by the guard: a client that takes nothing is given up.
    pub async fn last<F: Future>(&self, mut answer: Pin<&mut F>) -> F::Output {
        let answer = poll_fn(|cx| {
            let polled = answer.as_mut().poll(cx);
            if polled.is_pending() && self.used.load(Ordering::Relaxed) {
                self.lock().watch(cx);
            }
            polled
        })
        .await;
        if self.used.load(Ordering::Relaxed) {
            poll_fn(|cx| self.poll_end(cx)).await;
        }
        answer
    }

    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if !state.queue.is_empty() {
            state.watch(cx);
            return Poll::Pending;
        }
        let dropped = std::mem::take(&mut state.dropped);
        state.request += 1;
        state.taken = (0, 0);
        self.used.store(false, Ordering::Relaxed);
        drop(state);
        if dropped > 0 {
            tracing::debug!(dropped, "upstream sent more interim responses than are passed on");
        }
        Poll::Ready(())
    }

    /// What is to be written next.
    pub fn next(&self) -> Option<Bytes> {
        if !self.waiting.load(Ordering::Acquire) {
            return None;
        }
        self.lock().queue.front().cloned()
    }

    /// Notes that so much of it was. Says whether a part of it is left.
    pub fn wrote(&self, n: usize) -> bool {
        let mut state = self.lock();
        if let Some(first) = state.queue.front_mut() {
            first.advance(n.min(first.len()));
            if first.has_remaining() {
                return true;
            }
            state.queue.pop_front();
        }
        if state.queue.is_empty() {
            self.waiting.store(false, Ordering::Release);
            state.wake();
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn watch(&mut self, cx: &Context<'_>) {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
    }

    fn wake(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// Whether one more of this length is within the bounds; notes it either way.
    fn admits(&mut self, length: usize) -> bool {
        let (count, bytes) = (self.taken.0 + 1, self.taken.1 + length);
        let fits = count <= MOST && bytes <= MOST_BYTES;
        if fits {
            self.taken = (count, bytes);
        } else {
            self.dropped += 1;
        }
        fits
    }
}

impl Sink {
    /// Takes what comes in answer to this request before its final response.
    pub fn listen<B>(self, request: &mut Request<B>) {
        hyper::ext::on_informational(request, move |interim| {
            self.take(interim.status(), interim.version(), interim.headers());
        });
    }

    fn take(&self, status: StatusCode, version: Version, headers: &HeaderMap) {
        // A 100 says that upstream wants the body, which is on its way: the client has had its own from us.
        // A 101 is a tunnel's final response.
        if !matches!(status.as_u16(), 102..200) {
            return;
        }
        let mut headers = headers.clone();
        respond::receive(&mut headers, version, &self.outlet.clock);
        // RFC 9110 section 8.6: there is none in a 1xx.
        headers.remove(CONTENT_LENGTH);
        let head = head(status, &headers);
        let mut state = self.outlet.lock();
        if state.request == self.request && state.admits(head.len()) {
            state.queue.push_back(head);
            self.outlet.waiting.store(true, Ordering::Release);
            state.wake();
        }
    }
}

/// An interim response as it is written (RFC 9112 section 4).
fn head(status: StatusCode, headers: &HeaderMap) -> Bytes {
    let mut line = String::with_capacity(64);
    let _ = write!(line, "HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let mut head = line.into_bytes();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use http::Response;
    use http_body_util::{BodyExt, Empty};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::*;
    use crate::server::guard::Guarded;

    fn hint(sink: &Sink, link: &str) {
        let headers = HeaderMap::from_iter([(http::header::LINK, link.parse().unwrap())]);
        sink.take(StatusCode::EARLY_HINTS, Version::HTTP_11, &headers);
    }

    #[tokio::test]
    async fn what_comes_when_the_request_is_answered_is_dropped() {
        let outlet = Outlet::new(Clock::default());
        let late = outlet.last(pin!(async { outlet.sink(Version::HTTP_11).unwrap() })).await;
        let next = outlet.sink(Version::HTTP_11).unwrap();
        hint(&late, "</late>");
        assert!(outlet.next().is_none());
        hint(&next, "</next>");
        assert!(String::from_utf8(outlet.next().unwrap().to_vec()).unwrap().contains("</next>"));
    }

    #[tokio::test]
    async fn the_final_response_waits_until_the_interim_ones_are_written() {
        let outlet = Outlet::new(Clock::default());
        let mut last =
            pin!(async { outlet.last(pin!(async { hint(&outlet.sink(Version::HTTP_11).unwrap(), "</a>") })).await });
        let waits = poll_fn(|cx| Poll::Ready(last.as_mut().poll(cx).is_pending()));
        assert!(waits.await);
        let length = outlet.next().unwrap().len();
        assert!(outlet.wrote(1), "a part is left");
        assert!(!outlet.wrote(length - 1));
        last.await;
    }

    #[test]
    fn there_are_at_most_so_many_bytes_of_them() {
        let outlet = Outlet::new(Clock::default());
        let sink = outlet.sink(Version::HTTP_11).unwrap();
        for length in [MOST_BYTES / 2, MOST_BYTES / 2, 1000] {
            hint(&sink, &"x".repeat(length));
        }
        let lengths: Vec<usize> = outlet.lock().queue.iter().map(Bytes::len).collect();
        assert_eq!(lengths.len(), 2, "{lengths:?}");
        assert!(lengths[1] < 2000 && outlet.lock().dropped == 1);
    }

    /// Two ends of a connection that hold little on their way.
    async fn narrow() -> (TcpStream, TcpStream) {
        let socket = || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_send_buffer_size(4096).unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            socket
        };
        let server = socket();
        server.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let server = server.listen(1).unwrap();
        let address = server.local_addr().unwrap();
        let (client, accepted) = tokio::join!(socket().connect(address), server.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn one_that_is_written_in_part_is_finished_before_anything_else_is_written() {
        const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        let (mut client, stream) = narrow().await;
        let outlet = Outlet::new(Clock::default());
        let patience = Duration::from_secs(15);
        let mut guarded = Guarded::new(stream, patience, patience).0.with_outlet(outlet.clone());
        hint(&outlet.sink(Version::HTTP_11).unwrap(), &"x".repeat(MOST_BYTES - 1000));
        let whole = outlet.next().unwrap();
        poll_fn(|cx| {
            assert!(Pin::new(&mut guarded).poll_flush(cx).is_pending(), "more than fits");
            assert!(outlet.next().unwrap().len() < whole.len(), "a part is written");
            assert!(Pin::new(&mut guarded).poll_write(cx, CONTINUE).is_pending());
            assert!(Pin::new(&mut guarded).poll_write_vectored(cx, &[std::io::IoSlice::new(CONTINUE)]).is_pending());
            Poll::Ready(())
        })
        .await;
        let mut got = vec![0; whole.len() + CONTINUE.len()];
        let both = async { tokio::join!(guarded.write_all(CONTINUE), client.read_exact(&mut got)) };
        let (written, read) = timeout(patience, both).await.expect("all of it");
        written.unwrap();
        read.unwrap();
        assert!(got == [&whole[..], CONTINUE].concat());
    }

    #[tokio::test]
    async fn one_that_comes_while_the_response_before_is_still_being_written_waits_for_its_end() {
        // The first request is answered before its body is there, with a head that does not fit into the sockets.
        // Its end, and the second request, come before that is written.
        let (mut client, stream) = narrow().await;
        let outlet = Outlet::new(Clock::default());
        let patience = Duration::from_secs(15);
        let guarded = Guarded::new(stream, patience, patience).0.with_outlet(outlet.clone());
        let (asked, gate) = (Notify::new(), Notify::new());
        let service = service_fn(async |request: Request<Incoming>| {
            let answer = async {
                let mut response = Response::new(Empty::<Bytes>::new());
                if request.uri() == "/large" {
                    tokio::spawn(request.into_body().collect());
                    response.headers_mut().insert("x-large", "x".repeat(MOST_BYTES).parse().unwrap());
                } else {
                    hint(&outlet.sink(request.version()).unwrap(), "</a>");
                    asked.notify_one();
                    gate.notified().await;
                }
                Ok::<_, std::convert::Infallible>(response)
            };
            outlet.last(pin!(answer)).await
        });
        let talk = async {
            client.write_all(b"POST /large HTTP/1.1\r\nContent-Length: 4\r\n\r\nbo").await.unwrap();
            client.peek(&mut [0]).await.unwrap();
            client.write_all(b"dyGET /hinted HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
            asked.notified().await;
            let mut got = Vec::new();
            while !got.ends_with(b"1.1 asidecar\r\n\r\n") {
                assert!(client.read_buf(&mut got).await.unwrap() > 0);
            }
            gate.notify_one();
            client.read_to_end(&mut got).await.unwrap();
            String::from_utf8(got).unwrap()
        };
        let serve = http1::Builder::new().serve_connection(TokioIo::new(guarded), service);
        let (served, got) = timeout(patience, async { tokio::join!(serve, talk) }).await.expect("an end");
        served.unwrap();
        let heads: Vec<&str> = got.split_terminator("\r\n\r\n").collect();
        assert_eq!(heads.len(), 3, "{heads:?}");
        assert!(heads[0].starts_with("HTTP/1.1 200 OK") && heads[0].contains(&"x".repeat(MOST_BYTES)));
        assert!(heads[1].starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a>"));
        assert!(heads[2].starts_with("HTTP/1.1 200 OK"));
    }
}
