//! Bodies on their way: what goes to clients, and what clients send.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep_until};

use crate::range::Part;
use crate::spool;
use crate::upstream::Fetched;

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

/// A body to a client. Hits have nothing but the first kind, so the rest does not make it larger.
pub struct Body(Kind);

enum Kind {
    Full(Option<Bytes>),
    Coming(Box<Coming>),
}

/// A body that comes piece by piece.
struct Coming {
    source: Source,
    /// Told how many bytes went, when the body is gone.
    account: Option<Account>,
    /// Kept until then.
    #[allow(dead_code, reason = "held, never used")]
    held: Option<Arc<()>>,
}

enum Source {
    Pieces(VecDeque<Bytes>),
    Spool(spool::Reader, Option<u64>),
    SpoolPart(SpoolPart),
    Upstream(Fetched),
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
        Body(Kind::Full(None))
    }

    /// All of it at once; no copy is made.
    pub fn full(bytes: Bytes) -> Body {
        Body(Kind::Full(Some(bytes).filter(|b| !b.is_empty())))
    }

    /// One piece after the other; no copy is made.
    pub fn pieces(pieces: impl IntoIterator<Item = Bytes>) -> Body {
        Body::coming(Source::Pieces(pieces.into_iter().filter(|p| !p.is_empty()).collect()))
    }

    /// What a fill reads from upstream, as it comes; of so many bytes when that is known.
    pub fn spool(reader: spool::Reader, length: Option<u64>) -> Body {
        Body::coming(Source::Spool(reader, length))
    }

    /// Of what a fill reads from upstream only this part, as it comes. The reader must be at the start.
    pub fn spool_part(reader: spool::Reader, part: Part) -> Body {
        Body::coming(Source::SpoolPart(SpoolPart { reader: Some(reader), skip: part.first, left: part.length() }))
    }

    /// What upstream sends, as it comes.
    pub fn upstream(fetched: Fetched) -> Body {
        Body::coming(Source::Upstream(fetched))
    }

    fn coming(source: Source) -> Body {
        Body(Kind::Coming(Box::new(Coming { source, account: None, held: None })))
    }

    /// Keeps a clone of it for as long as the body is still to come.
    pub fn holding(mut self, held: Arc<()>) -> Body {
        if let Kind::Coming(coming) = &mut self.0 {
            coming.held = Some(held);
        }
        self
    }

    /// Calls `settle` with the number of bytes that went, when the body is done or given up.
    pub fn settled(self, settle: impl FnOnce(u64) + Send + 'static) -> Body {
        let mut coming = match self.0 {
            Kind::Full(bytes) => return Body::pieces(bytes).settled(settle),
            Kind::Coming(coming) => coming,
        };
        coming.account = Some(Account { bytes: 0, settle: Some(Box::new(settle)) });
        Body(Kind::Coming(coming))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut self.0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Kind::Coming(coming) => coming.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Coming(coming) => coming.source.is_at_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Coming(coming) => coming.source.size_hint(),
        }
    }
}

impl Coming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let frame = match &mut self.source {
            Source::Pieces(pieces) => Poll::Ready(pieces.pop_front().map(|b| Ok(Frame::data(b)))),
            Source::SpoolPart(part) => part.poll_next(cx).map(|c| c.map(|c| c.map(Frame::data))),
            Source::Spool(reader, _) => reader.poll_next(cx).map(|c| c.map(|c| c.map(Frame::data))),
            Source::Upstream(fetched) => Pin::new(fetched).poll_frame(cx),
        };
        if let (Poll::Ready(Some(Ok(frame))), Some(account)) = (&frame, &mut self.account) {
            account.bytes += frame.data_ref().map_or(0, |d| d.len() as u64);
        }
        frame
    }
}

impl Source {
    fn is_at_end(&self) -> bool {
        match self {
            Source::Pieces(pieces) => pieces.is_empty(),
            Source::Spool(..) => false,
            Source::SpoolPart(part) => part.left == 0,
            Source::Upstream(fetched) => fetched.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Source::Pieces(pieces) => SizeHint::with_exact(pieces.iter().map(|p| p.len() as u64).sum()),
            Source::SpoolPart(part) => SizeHint::with_exact(part.left),
            Source::Spool(_, Some(length)) => SizeHint::with_exact(*length),
            Source::Spool(_, None) => SizeHint::default(),
            Source::Upstream(fetched) => fetched.size_hint(),
        }
    }
}

/// A part of what a spool's reader reads. It holds nothing back; what precedes the part is dropped as it comes.
struct SpoolPart {
    /// Gone when the part is complete, so that nobody waits for a reader who wants no more.
    reader: Option<spool::Reader>,
    /// Bytes that are still to come before the part.
    skip: u64,
    /// Bytes of the part that are still to come.
    left: u64,
}

impl SpoolPart {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        while let Some(reader) = &mut self.reader {
            let mut chunk = match ready!(reader.poll_next(cx)) {
                Some(Ok(chunk)) => chunk,
                end => {
                    self.reader = None;
                    // A part's length is announced: a body that ends before it, however well, is cut.
                    return Poll::Ready(Some(Err(end.and_then(Result::err).unwrap_or(Cut::Broken))));
                }
            };
            let before = clamped(self.skip, chunk.len());
            chunk.advance(before);
            self.skip -= before as u64;
            if chunk.is_empty() {
                continue;
            }
            chunk.truncate(clamped(self.left, chunk.len()));
            self.left -= chunk.len() as u64;
            if self.left == 0 {
                self.reader = None;
            }
            return Poll::Ready(Some(Ok(chunk)));
        }
        Poll::Ready(None)
    }
}

/// `n`, at most `most`.
fn clamped(n: u64, most: usize) -> usize {
    usize::try_from(n).map_or(most, |n| n.min(most))
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

/// Over when `patience` is, counted from now and anew from each chunk of the client's body that came meanwhile.
pub async fn standstill(upload: Option<&Upload>, patience: Duration) {
    let mut until = Instant::now() + patience;
    loop {
        sleep_until(until.into()).await;
        until = upload.map_or(until, |upload| upload.last() + patience);
        if until <= Instant::now() {
            return;
        }
    }
}

/// A body to upstream: none, or what the client sends, limited in size and in the time between its chunks.
#[derive(Default)]
pub enum RequestBody {
    /// No body.
    #[default]
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
pub struct Idle {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    /// One that has not begun.
    pub fn new(limit: Duration) -> Idle {
        Idle { limit, sleep: None }
    }
    /// Stops it.
    pub fn rest(&mut self) {
        self.sleep = None;
    }
    /// Begins, unless it runs; ready when the limit is over.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;

    use super::*;
    use crate::spool::{Reader, Writer, spool};

    const LONG: Duration = Duration::from_secs(3600);

    /// All that comes, and why it ended early; looks at each step whether the body knows what is left of it.
    async fn drained(mut body: Body) -> (Vec<u8>, Option<Cut>) {
        let mut all = Vec::new();
        loop {
            let left = body.size_hint().exact().unwrap();
            assert_eq!(body.is_end_stream(), left == 0);
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap();
                    assert!(!data.is_empty());
                    assert_eq!(body.size_hint().exact(), Some(left - data.len() as u64));
                    all.extend_from_slice(&data);
                }
                end => {
                    assert!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_none(), "it stays ended");
                    return (all, end.and_then(Result::err));
                }
            }
        }
    }
    /// A body that tells how many bytes went.
    fn counted(body: Body) -> (Body, Arc<AtomicU64>) {
        let went = Arc::new(AtomicU64::new(u64::MAX));
        let told = went.clone();
        (body.settled(move |n| told.store(n, Ordering::Relaxed)), went)
    }
    /// Writes until nobody wants more; then the body is complete, or breaks off.
    async fn write(writer: Writer, chunks: Vec<Bytes>, complete: bool) {
        for chunk in chunks {
            if !writer.push(chunk).await {
                return;
            }
        }
        if complete {
            writer.finish(|_| ());
        }
    }
    /// A body's bytes, cut at these places.
    fn chunked(bytes: &Bytes, cuts: &[prop::sample::Index]) -> Vec<Bytes> {
        let mut cuts: Vec<_> = cuts.iter().map(|c| c.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        cuts.windows(2).map(|w| bytes.slice(w[0]..w[1])).collect()
    }
    /// What is read of a part while these chunks are written, how it ended, and how many bytes were counted.
    fn read_part(keep: u64, chunks: Vec<Bytes>, complete: bool, part: Part) -> (Vec<u8>, Option<Cut>, u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (writer, spool) = spool(keep, LONG);
            let (body, went) = counted(Body::spool_part(spool.reader().unwrap(), part));
            let ((got, cut), ()) = tokio::join!(drained(body), write(writer, chunks, complete));
            (got, cut, went.load(Ordering::Relaxed))
        })
    }
    async fn next(reader: &mut Reader) -> Option<Result<Bytes, Cut>> {
        poll_fn(|cx| reader.poll_next(cx)).await
    }

    #[tokio::test]
    async fn pieces_go_one_by_one_and_are_counted() {
        let pieces = ["ab", "", "cde", ""].map(|p| Bytes::from_static(p.as_bytes()));
        let (body, went) = counted(Body::pieces(pieces));
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(drained(body).await, (b"abcde".to_vec(), None));
        assert_eq!(went.load(Ordering::Relaxed), 5);
        assert!(Body::pieces([Bytes::new()]).is_end_stream());
    }

    #[tokio::test]
    async fn a_part_is_the_same_wherever_the_chunks_end() {
        let whole = Bytes::from_static(b"abcdef");
        for (first, last) in (0..6).flat_map(|first| (first..6).map(move |last| (first, last))) {
            let part = Part { first, last };
            for cuts in 0..1u32 << 5 {
                let (writer, spool) = spool(100, LONG);
                let body = Body::spool_part(spool.reader().unwrap(), part);
                let ends: Vec<_> = (1..6).filter(|n| cuts & (1 << (n - 1)) != 0).chain([6]).collect();
                let mut at = 0;
                for end in ends {
                    writer.push(whole.slice(at..end)).await;
                    at = end;
                }
                writer.finish(|_| ());
                assert_eq!(drained(body).await, (part.slice(&whole).to_vec(), None), "{part:?} {cuts:b}");
            }
        }
    }

    #[tokio::test]
    async fn a_part_that_is_complete_lets_go_of_the_spool() {
        let (writer, spool) = spool(4, LONG);
        let mut body = Body::spool_part(spool.reader().unwrap(), Part { first: 1, last: 2 });
        writer.push(Bytes::from_static(b"abcd")).await;
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "bc");
        assert!(body.is_end_stream());
        assert!(!writer.push(Bytes::from_static(b"efgh")).await, "nobody reads any more");
        drop(writer);
        assert_eq!(drained(body).await, (vec![], None), "what broke off later does not matter");
    }

    #[tokio::test]
    async fn a_part_does_not_disturb_other_readers() {
        let (writer, spool) = spool(100, LONG);
        let mut other = spool.reader().unwrap();
        let body = Body::spool_part(spool.reader().unwrap(), Part { first: 3, last: 4 });
        writer.push(Bytes::from_static(b"abcdef")).await;
        writer.finish(|_| ());
        assert_eq!(drained(body).await, (b"de".to_vec(), None));
        assert_eq!(next(&mut other).await, Some(Ok(Bytes::from_static(b"abcdef"))));
        assert_eq!(next(&mut other).await, None);
    }

    #[tokio::test]
    async fn a_part_given_up_counts_what_went() {
        let (writer, spool) = spool(100, LONG);
        let part = Part { first: 1, last: 9 };
        let (mut body, went) = counted(Body::spool_part(spool.reader().unwrap(), part));
        writer.push(Bytes::from_static(b"abc")).await;
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "bc");
        drop(body);
        assert_eq!(went.load(Ordering::Relaxed), 2);
    }

    proptest! {
        #[test]
        fn any_part_of_a_body_in_any_chunks_is_its_slice_or_is_cut(
            body in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            ends in (0u64..250, 0u64..250),
            keep in prop_oneof![Just(0u64), 0u64..250],
            complete in any::<bool>(),
        ) {
            let body = Bytes::from(body);
            let part = Part { first: ends.0.min(ends.1), last: ends.0.max(ends.1) };
            let (got, cut, went) = read_part(keep, chunked(&body, &cuts), complete, part);
            prop_assert_eq!(&got[..], &part.slice(&body)[..]);
            prop_assert_eq!(cut, (part.last >= body.len() as u64).then_some(Cut::Broken));
            prop_assert_eq!(went, got.len() as u64);
        }
    }
}
