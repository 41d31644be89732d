//! A guard in front of the HTTP/1.1 parser: it follows the framing of what a client sends and says when that
//! is ambiguous, before any of it can go upstream.
//!
//! The library prefers Transfer-Encoding and drops a Content-Length that stands beside it, as RFC 9112 section
//! 6.3 allows; then nobody behind it can see that both were there, which is how requests are smuggled. Here
//! both, repeated ones, transfer codings other than `chunked`, and bare line feeds make a connection
//! *ambiguous*: its requests are answered with 400 and it is closed. The guard also bounds the time in which
//! a request's head that has begun must be complete, and that for which a connection may be idle. The library could
//! do the latter, with a timer that is made and removed at every request; here it is one that looks now and then
//! whether anything has happened.
//!
//! When it is in doubt about what it reads (which the parser will refuse) it stops following; it never
//! changes a byte of that. The other way it writes what the library can't send: interim responses.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::interim::Outlet;

/// Heads longer than this, in bytes, are not followed: the parser refuses them long before.
const MAX_HEAD: usize = 1024 * 1024;

/// A client's connection under guard.
pub struct Guarded {
    inner: TcpStream,
    follow: Follow,
    ambiguous: Arc<AtomicBool>,
    head_timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    write_timeout: Duration,
    write_deadline: Option<Pin<Box<Sleep>>>,
    outlet: Option<Arc<Outlet>>,
    /// Whether an interim response is written in part.
    begun: bool,
    idle: Option<Idle>,
}

/// Finds out that a connection is idle.
struct Idle {
    every: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Counts what was read and written.
    moves: u32,
    /// The count when the timer was set.
    seen: u32,
    /// So many times in a row nothing had happened.
    silent: u32,
    /// Clones of it are held by what goes on for the connection.
    in_use: Arc<()>,
}

/// A connection is looked at so often within the time for which it may be idle; so it may be idle for a part longer.
const LOOKS: u32 = 4;

impl Idle {
    /// Whether the connection has been idle for long enough. Else it will wake the task that asks.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match &self.timer {
                // A task has one waker all its life: what is registered stays so.
                Some(timer) if !timer.is_elapsed() => return false,
                Some(_) => {
                    // One is this, the other the connection's.
                    let idle = self.moves == self.seen && Arc::strong_count(&self.in_use) <= 2;
                    self.silent = if idle { self.silent + 1 } else { 0 };
                    if self.silent >= LOOKS {
                        return true;
                    }
                }
                None => {}
            }
            self.seen = self.moves;
            let timer = self.timer.insert(Box::pin(tokio::time::sleep(self.every)));
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
    }
}

impl Guarded {
    /// Guards a connection whose heads must be complete within `head_timeout` of their first byte. The flag
    /// is set when its framing is ambiguous. A client that takes none of what is sent within `write_timeout` is
    /// given up.
    pub fn new(inner: TcpStream, head_timeout: Duration, write_timeout: Duration) -> (Guarded, Arc<AtomicBool>) {
        let ambiguous = Arc::new(AtomicBool::new(false));
        let guarded = Guarded {
            inner,
            follow: Follow::default(),
            ambiguous: ambiguous.clone(),
            head_timeout,
            deadline: None,
            write_timeout,
            write_deadline: None,
            outlet: None,
            begun: false,
            idle: None,
        };
        (guarded, ambiguous)
    }
}

impl Guarded {
    /// The same for a connection whose protocol frames itself: only the writing is guarded.
    pub fn writes(inner: TcpStream, write_timeout: Duration) -> Guarded {
        let (mut guarded, _) = Guarded::new(inner, write_timeout, write_timeout);
        guarded.follow.lose();
        guarded
    }

    /// The same connection, which writes what waits in this outlet.
    pub fn with_outlet(mut self, outlet: Arc<Outlet>) -> Guarded {
        self.outlet = Some(outlet);
        self
    }

    /// The same connection, which ends when it is idle for so long: nothing moves on it, and of `in_use` there are no
    /// clones but the caller's.
    pub fn with_idle(mut self, limit: Duration, in_use: Arc<()>) -> Guarded {
        self.idle = Some(Idle { every: limit / LOOKS, timer: None, moves: 0, seen: 0, silent: 0, in_use });
        self
    }

    fn moved(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.moves = idle.moves.wrapping_add(1);
        }
    }

    /// Writes what waits in the outlet. It is begun only at a flush, which is between two messages (see
    /// [`crate::interim`]).
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(outlet) = &self.outlet
            && let Some(bytes) = outlet.next()
        {
            let written = Pin::new(&mut self.inner).poll_write(cx, &bytes);
            match ready!(self.in_time(cx, written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.begun = self.outlet.as_ref().is_some_and(|outlet| outlet.wrote(n)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// A client that takes nothing for too long is given up: what it holds is wanted by others.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_deadline = None;
            self.moved();
            return written;
        }
        let limit = self.write_timeout;
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        deadline.as_mut().poll(cx).map(|()| Err(io::Error::from(io::ErrorKind::TimedOut)))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                this.moved();
                if this.follow.read(&buf.filled()[before..]) == Framing::Ambiguous {
                    this.ambiguous.store(true, Ordering::Relaxed);
                }
                if !this.follow.inside_head() {
                    this.deadline = None;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending if this.follow.inside_head() => {
                let limit = this.head_timeout;
                let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                deadline.as_mut().poll(cx).map(|()| Err(io::Error::from(io::ErrorKind::TimedOut)))
            }
            // As if the client had closed it, which is what the library expects between two requests.
            Poll::Pending if this.idle.as_mut().is_some_and(|idle| idle.is_over(cx)) => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.begun {
            ready!(self.poll_interim(cx))?;
        }
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.in_time(cx, written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.begun {
            ready!(self.poll_interim(cx))?;
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.in_time(cx, written)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What is known of the framing so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Clear,
    Ambiguous,
}

/// Where in a message the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Head,
    Body(u64),
    ChunkSize {
        size: u64,
        digits: u32,
        extension: bool,
    },
    ChunkData(u64),
    ChunkEnd(u8),
    Trailer {
        empty: bool,
    },
    /// Not followed any more.
    Lost,
}

/// Follows the framing of the messages on a connection.
#[derive(Debug)]
struct Follow {
    at: At,
    /// The beginning of a head whose end has not come yet.
    partial: Vec<u8>,
}

impl Default for Follow {
    fn default() -> Follow {
        Follow { at: At::Head, partial: Vec::new() }
    }
}

impl Follow {
    fn inside_head(&self) -> bool {
        self.at == At::Head && !self.partial.is_empty()
    }

    fn read(&mut self, mut data: &[u8]) -> Framing {
        while !data.is_empty() {
            match self.at {
                At::Lost => return Framing::Clear,
                At::Head => match self.head(data) {
                    Ok(used) => data = &data[used..],
                    Err(framing) => {
                        self.lose();
                        return framing;
                    }
                },
                At::Body(left) | At::ChunkData(left) => {
                    let used = usize::try_from(left).map_or(data.len(), |l| l.min(data.len()));
                    data = &data[used..];
                    let left = left - used as u64;
                    self.at = match (self.at, left) {
                        (At::Body(_), 0) => At::Head,
                        (At::Body(_), left) => At::Body(left),
                        (_, 0) => At::ChunkEnd(0),
                        (_, left) => At::ChunkData(left),
                    };
                }
                _ => {
                    self.at = self.chunk_byte(data[0]);
                    data = &data[1..];
                }
            }
        }
        Framing::Clear
    }

    fn lose(&mut self) {
        self.at = At::Lost;
        self.partial = Vec::new();
    }

    /// Reads a head, or as much of it as is there. Returns how much of `data` it took.
    fn head(&mut self, data: &[u8]) -> Result<usize, Framing> {
        if self.partial.is_empty() {
            return match message_length(data)? {
                Some((used, at)) => {
                    self.at = at;
                    Ok(used)
                }
                None => {
                    self.partial.extend_from_slice(data);
                    Ok(data.len())
                }
            };
        }
        let before = self.partial.len();
        self.partial.extend_from_slice(data);
        match message_length(&self.partial)? {
            Some((used, at)) => {
                self.at = at;
                self.partial.clear();
                Ok(used - before)
            }
            None if self.partial.len() > MAX_HEAD => Err(Framing::Clear),
            None => Ok(data.len()),
        }
    }

    fn chunk_byte(&self, b: u8) -> At {
        match (self.at, b) {
            (At::ChunkSize { size, digits, .. }, b'\n') if digits > 0 => {
                if size == 0 {
                    At::Trailer { empty: true }
                } else {
                    At::ChunkData(size)
                }
            }
            (At::ChunkSize { size, digits, extension: false }, b) if b.is_ascii_hexdigit() && digits < 16 => {
                let digit = char::from(b).to_digit(16).unwrap_or(0);
                // Leading zeros do not count.
                let digits = if size == 0 { 1 } else { digits + 1 };
                At::ChunkSize { size: size << 4 | u64::from(digit), digits, extension: false }
            }
            (At::ChunkSize { size, digits, .. }, b';' | b' ' | b'\t' | b'\r') => {
                At::ChunkSize { size, digits, extension: true }
            }
            (at @ At::ChunkSize { extension: true, .. }, _) => at,
            (At::ChunkEnd(0), b'\r') => At::ChunkEnd(1),
            (At::ChunkEnd(1), b'\n') => At::ChunkSize { size: 0, digits: 0, extension: false },
            (At::Trailer { empty: true }, b'\n') => At::Head,
            (At::Trailer { .. }, b'\n') => At::Trailer { empty: true },
            (at @ At::Trailer { .. }, b'\r') => at,
            (At::Trailer { .. }, _) => At::Trailer { empty: false },
            _ => At::Lost,
        }
    }
}

/// The length of the head that `data` begins with and what follows it; `None` when it is not complete.
fn message_length(data: &[u8]) -> Result<Option<(usize, At)>, Framing> {
    let (mut start, mut line_number) = (0, 0);
    let (mut length, mut chunked) = (None, false);
    for end in memchr::memchr_iter(b'\n', data) {
        let Some(line) = data[start..end].strip_suffix(b"\r") else { return Err(Framing::Ambiguous) };
        start = end + 1;
        if line.is_empty() && line_number == 0 {
            // Empty lines before a request are skipped (RFC 9112 section 2.2).
            continue;
        }
        if line.is_empty() {
            return match (chunked, length) {
                (true, Some(_)) => Err(Framing::Ambiguous),
                (true, None) => Ok(Some((start, At::ChunkSize { size: 0, digits: 0, extension: false }))),
                (false, None | Some(0)) => Ok(Some((start, At::Head))),
                (false, Some(length)) => Ok(Some((start, At::Body(length)))),
            };
        }
        line_number += 1;
        match line[0] {
            b't' | b'T' => {
                if let Some(value) = value_of(line, b"transfer-encoding") {
                    if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Framing::Ambiguous);
                    }
                    chunked = true;
                }
            }
            b'c' | b'C' => {
                if let Some(value) = value_of(line, b"content-length") {
                    let number = std::str::from_utf8(value).ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit()));
                    match (length, number.and_then(|n| n.parse::<u64>().ok())) {
                        (None, Some(n)) => length = Some(n),
                        _ => return Err(Framing::Ambiguous),
                    }
                }
            }
            _ => {}
        }
    }
    Ok(None)
}

fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    if !found.eq_ignore_ascii_case(name) {
        return None;
    }
    rest.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds the bytes in pieces of every size: the verdict must not depend on how they arrive.
    fn verdict(bytes: &str) -> (Framing, At) {
        let whole = fed(bytes.as_bytes(), bytes.len().max(1));
        for piece in 1..bytes.len() {
            assert_eq!(fed(bytes.as_bytes(), piece), whole, "in pieces of {piece}");
        }
        whole
    }
    fn fed(bytes: &[u8], piece: usize) -> (Framing, At) {
        let mut follow = Follow::default();
        let mut framing = Framing::Clear;
        for part in bytes.chunks(piece) {
            if follow.read(part) == Framing::Ambiguous {
                framing = Framing::Ambiguous;
            }
        }
        (framing, follow.at)
    }

    #[test]
    fn plain_requests_are_followed_to_the_next_head() {
        for ok in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0A\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000000003\r\nabc\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        ] {
            assert_eq!(verdict(ok), (Framing::Clear, At::Head), "{ok:?}");
        }
    }

    #[test]
    fn ambiguous_framing_is_noticed_in_any_order_and_however_it_arrives() {
        for bad in [
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(verdict(bad).0, Framing::Ambiguous, "{bad:?}");
        }
    }

    #[test]
    fn the_content_of_a_body_is_not_taken_for_a_head() {
        let inner = "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n\n\n";
        let with_length = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
        assert_eq!(verdict(&with_length), (Framing::Clear, At::Head));
        let chunk =
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
        assert_eq!(verdict(&chunk), (Framing::Clear, At::Head));
    }

    proptest! {
        #[test]
        fn it_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
            fed(&bytes, piece);
            let framed = [b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", &bytes[..]].concat();
            fed(&framed, piece);
        }
    }
}
