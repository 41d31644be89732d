//! One body, read from upstream once and streamed to many readers as it arrives.
//!
//! While the body is within `keep` bytes all of it is kept, so that it can be stored and late readers begin at
//! its start. When it grows beyond, it will not be stored: from then on only what some reader still needs is
//! held, the writer waits for the slowest reader, and one that makes the others wait for longer than `patience`
//! is cut off. So memory is bounded by `keep` and one chunk, and nobody can hold the others for ever.
//!
//! No lock is held across an await.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::body::Cut;

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Complete,
    Broken,
}

struct State {
    chunks: VecDeque<Bytes>,
    /// The number of the first chunk held.
    first: u64,
    /// Bytes held.
    held: u64,
    /// Whether all of the body is still held.
    whole: bool,
    end: End,
    readers: Vec<Option<Slot>>,
    writer: Option<Waker>,
}

struct Slot {
    next: u64,
    waker: Option<Waker>,
    cut: bool,
}

struct Shared {
    state: Mutex<State>,
    keep: u64,
}

/// The writing end. Dropped before [`Writer::finish`], it breaks off all readers.
pub struct Writer {
    shared: Arc<Shared>,
    patience: Duration,
}

/// Where readers come from.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
}

/// One reader's place in the body.
pub struct Reader {
    shared: Arc<Shared>,
    slot: usize,
}

/// A spool that keeps up to `keep` bytes and gives slow readers so much time.
pub fn spool(keep: u64, patience: Duration) -> (Writer, Spool) {
    let state = State {
        chunks: VecDeque::new(),
        first: 0,
        held: 0,
        whole: true,
        end: End::Open,
        readers: Vec::new(),
        writer: None,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), keep });
    (Writer { shared: shared.clone(), patience }, Spool { shared })
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets go of what no reader needs any more.
    fn trim(&mut self) {
        if self.whole {
            return;
        }
        let end = self.first + self.chunks.len() as u64;
        let needed = self.readers.iter().flatten().filter(|s| !s.cut).map(|s| s.next).min().unwrap_or(end);
        while self.first < needed {
            let Some(gone) = self.chunks.pop_front() else { break };
            self.held -= gone.len() as u64;
            self.first += 1;
        }
    }

    fn wake_readers(&mut self) -> Vec<Waker> {
        self.readers.iter_mut().flatten().filter_map(|s| s.waker.take()).collect()
    }
}

impl Writer {
    /// Adds a chunk; waits while slow readers hold too much. Returns false when nobody reads what can't be
    /// stored either, so that the fetch may end.
    pub async fn push(&self, chunk: Bytes) -> bool {
        if chunk.is_empty() {
            return true;
        }
        let wakers = {
            let mut state = self.shared.lock();
            state.held += chunk.len() as u64;
            state.chunks.push_back(chunk);
            state.whole &= state.held <= self.shared.keep;
            state.trim();
            state.wake_readers()
        };
        wakers.into_iter().for_each(Waker::wake);
        while !timeout(self.patience, self.room()).await.unwrap_or(false) {
            self.cut_slowest();
        }
        let state = self.shared.lock();
        state.whole || state.readers.iter().flatten().any(|s| !s.cut)
    }

    /// Whether all of the body so far is kept.
    pub fn is_whole(&self) -> bool {
        self.shared.lock().whole
    }

    async fn room(&self) -> bool {
        std::future::poll_fn(|cx| {
            let mut state = self.shared.lock();
            state.trim();
            if state.whole || state.held <= self.shared.keep {
                return Poll::Ready(true);
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn cut_slowest(&self) {
        let wakers = {
            let mut state = self.shared.lock();
            let first = state.first;
            for slot in state.readers.iter_mut().flatten() {
                slot.cut |= slot.next == first;
            }
            state.wake_readers()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The body is complete: returns what is made of all of its chunks when it was kept whole.
    pub fn finish<T>(self, made: impl FnOnce(&VecDeque<Bytes>) -> T) -> Option<T> {
        let (wakers, whole) = {
            let mut state = self.shared.lock();
            state.end = End::Complete;
            let whole = state.whole.then(|| made(&state.chunks));
            (state.wake_readers(), whole)
        };
        wakers.into_iter().for_each(Waker::wake);
        whole
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let wakers = {
            let mut state = self.shared.lock();
            if state.end == End::Open {
                state.end = End::Broken;
            }
            state.wake_readers()
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Spool {
    /// A reader from the body's start; `None` when the start is gone, or the body is known to end early.
    pub fn reader(&self) -> Option<Reader> {
        let mut state = self.shared.lock();
        if state.first > 0 || state.end == End::Broken || (!state.whole && state.end != End::Open) {
            return None;
        }
        let slot = Slot { next: 0, waker: None, cut: false };
        let free = state.readers.iter().position(Option::is_none);
        let at = free.unwrap_or(state.readers.len());
        match free {
            Some(at) => state.readers[at] = Some(slot),
            None => state.readers.push(Some(slot)),
        }
        Some(Reader { shared: self.shared.clone(), slot: at })
    }
}

impl Reader {
    /// The next chunk, the end, or that the body was cut.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        let mut state = self.shared.lock();
        let State { chunks, first, end, readers, .. } = &mut *state;
        let Some(slot) = readers.get_mut(self.slot).and_then(Option::as_mut) else {
            return Poll::Ready(None);
        };
        if slot.cut {
            return Poll::Ready(Some(Err(Cut::TooSlow)));
        }
        let at = usize::try_from(slot.next - *first).unwrap_or(usize::MAX);
        if let Some(chunk) = chunks.get(at) {
            let chunk = chunk.clone();
            slot.next += 1;
            state.trim();
            let writer = state.writer.take();
            drop(state);
            if let Some(writer) = writer {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(chunk)));
        }
        match end {
            End::Complete => Poll::Ready(None),
            End::Broken => Poll::Ready(Some(Err(Cut::Broken))),
            End::Open => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let writer = {
            let mut state = self.shared.lock();
            if let Some(slot) = state.readers.get_mut(self.slot) {
                *slot = None;
            }
            state.trim();
            state.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    async fn next(r: &mut Reader) -> Option<Result<Bytes, Cut>> {
        std::future::poll_fn(|cx| r.poll_next(cx)).await
    }
    fn chunk(n: usize) -> Bytes {
        Bytes::from(vec![b'x'; n])
    }
    async fn read_all(mut r: Reader) -> Result<usize, Cut> {
        let mut total = 0;
        while let Some(c) = next(&mut r).await {
            total += c?.len();
        }
        Ok(total)
    }

    #[tokio::test]
    async fn readers_get_the_whole_body_whenever_they_come() {
        let (writer, spool) = spool(100, LONG);
        let early = tokio::spawn(read_all(spool.reader().unwrap()));
        assert!(writer.push(chunk(30)).await);
        let late = tokio::spawn(read_all(spool.reader().unwrap()));
        assert!(writer.push(chunk(40)).await);
        assert_eq!(writer.finish(|chunks| chunks.iter().map(Bytes::len).sum::<usize>()).unwrap(), 70);
        let after = spool.reader().unwrap();
        assert_eq!(early.await.unwrap(), Ok(70));
        assert_eq!(late.await.unwrap(), Ok(70));
        assert_eq!(read_all(after).await, Ok(70));
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_still_reaches_its_readers_but_is_not_kept() {
        let (writer, spool) = spool(100, LONG);
        let reader = tokio::spawn(read_all(spool.reader().unwrap()));
        for _ in 0..50 {
            assert!(writer.push(chunk(30)).await);
            assert!(writer.shared.lock().held <= 130, "bounded");
        }
        assert!(spool.reader().is_none(), "its start is gone");
        assert!(writer.finish(|_| ()).is_none());
        assert_eq!(reader.await.unwrap(), Ok(1500));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stands_still_is_cut_off_and_the_others_go_on() {
        let (writer, spool) = spool(100, Duration::from_secs(5));
        let mut stuck = spool.reader().unwrap();
        let reader = tokio::spawn(read_all(spool.reader().unwrap()));
        for _ in 0..10 {
            assert!(writer.push(chunk(60)).await);
        }
        assert_eq!(next(&mut stuck).await, Some(Err(Cut::TooSlow)));
        writer.finish(|_| ());
        assert_eq!(reader.await.unwrap(), Ok(600));
    }

    #[tokio::test]
    async fn a_fetch_that_breaks_off_breaks_off_its_readers() {
        let (writer, spool) = spool(100, LONG);
        let mut reader = spool.reader().unwrap();
        writer.push(chunk(3)).await;
        drop(writer);
        assert_eq!(next(&mut reader).await, Some(Ok(chunk(3))));
        assert_eq!(next(&mut reader).await, Some(Err(Cut::Broken)));
        assert!(spool.reader().is_none(), "nobody begins to read what is known to end early");
    }

    #[tokio::test]
    async fn a_body_that_nobody_reads_and_nobody_can_store_is_given_up() {
        let (writer, spool) = spool(100, LONG);
        drop(spool.reader());
        assert!(writer.push(chunk(90)).await, "it may still be stored");
        assert!(!writer.push(chunk(90)).await);
    }
}
