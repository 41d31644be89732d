//! What a stored response says — fields, body — with its key, path and tags, in as few allocations as can be.
//!
//! ```text
//! block:  key │ path, unless it is in the key │ tag names │ own values, each: length u32, bytes │ body, if small
//! ```
//!
//! Small bodies are copied into the block when they are complete; large ones stay as they came. The fields' names
//! and common values stand in the [`Shape`]. What is handed out are slices: nothing of it is copied for an answer.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::key;
use crate::shape::Shape;

/// Bodies up to this, in bytes, are copied into the block.
const SMALL: usize = 16 * 1024;

/// What a stored response says, its key, its path and its tags.
#[derive(Debug)]
pub struct Content {
    shape: Arc<Shape>,
    block: Bytes,
    key_end: u32,
    /// Where the path begins and ends.
    path: (u32, u32),
    tags_end: u32,
    own_end: u32,
    /// The body, unless it is the end of the block.
    apart: Option<Box<Bytes>>,
}

/// By what a stored response is found and invalidated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'n> {
    /// The whole key, with the variant's part.
    pub key: &'n str,
    /// The path it was fetched from.
    pub path: &'n str,
    /// The names of its tags, each followed by a line feed; they hold no control characters.
    pub tags: &'n str,
}

impl Content {
    /// The content of a response with these fields. The body is not copied.
    pub fn new(names: Names<'_>, headers: &HeaderMap, body: Bytes) -> Content {
        let Names { key, path, tags } = names;
        let shape = Shape::of(headers);
        let own: usize = shape.own(headers).map(|value| 4 + value.len()).sum();
        let mut block = BytesMut::with_capacity(key.len() + path.len() + tags.len() + own);
        block.put_slice(key.as_bytes());
        let key_end = at(&block);
        let path_from = key::path_in(key).filter(|at| key[*at..].starts_with(path)).unwrap_or_else(|| {
            block.put_slice(path.as_bytes());
            key.len()
        });
        let path = (clamped(path_from), clamped(path_from + path.len()));
        block.put_slice(tags.as_bytes());
        let tags_end = at(&block);
        for value in shape.own(headers) {
            block.put_u32_le(clamped(value.len()));
            block.put_slice(value.as_bytes());
        }
        let own_end = at(&block);
        let apart = (!body.is_empty()).then(|| Box::new(body));
        Content { shape, block: block.freeze(), key_end, path, tags_end, own_end, apart }
    }

    /// The same with this body, which is copied if it is small.
    pub fn with_body(&self, body: Bytes) -> Content {
        if body.len() <= SMALL { self.with_copy([&body], body.len()) } else { self.with_apart(body) }
    }

    /// The same with the body that came in these chunks. They are copied, once: a chunk is a slice of a connection's read
    /// buffer, which may be far larger than the chunk.
    pub fn with_chunks(&self, chunks: &VecDeque<Bytes>) -> Content {
        let length = chunks.iter().map(Bytes::len).sum();
        if length <= SMALL {
            return self.with_copy(chunks, length);
        }
        let mut body = BytesMut::with_capacity(length);
        chunks.iter().for_each(|chunk| body.put_slice(chunk));
        self.with_apart(body.freeze())
    }

    fn with_copy<'c>(&self, body: impl IntoIterator<Item = &'c Bytes>, length: usize) -> Content {
        let head = self.part(0, self.own_end);
        let mut block = BytesMut::with_capacity(head.len() + length);
        block.put_slice(head);
        body.into_iter().for_each(|chunk| block.put_slice(chunk));
        let block = block.freeze();
        // The count of its references is made with the first one: now, so that it lies beside the block.
        drop(block.clone());
        Content { shape: self.shape.clone(), block, apart: None, ..*self }
    }

    fn with_apart(&self, body: Bytes) -> Content {
        let block = self.block.slice(..self.own_end as usize);
        Content { shape: self.shape.clone(), block, apart: Some(Box::new(body)), ..*self }
    }

    /// The same with other fields.
    pub fn with_headers(&self, headers: &HeaderMap) -> Content {
        let names = Names { key: self.key(), path: self.path(), tags: self.tags() };
        Content::new(names, headers, self.body())
    }

    /// The same as memory should keep it: without what a small body is a slice of.
    pub fn packed(&self) -> Content {
        self.with_body(self.body())
    }

    /// Whether this is its key.
    pub fn is_of(&self, key: &str) -> bool {
        self.part(0, self.key_end) == key.as_bytes()
    }

    /// The whole key, with the variant's part.
    pub fn key(&self) -> &str {
        text(self.part(0, self.key_end))
    }

    /// The path it was fetched from.
    pub fn path(&self) -> &str {
        text(self.part(self.path.0, self.path.1))
    }

    /// The names of its tags, each followed by a line feed.
    pub fn tags(&self) -> &str {
        text(self.part(self.key_end.max(self.path.1), self.tags_end))
    }

    /// Its fields as they were stored: end-to-end, without Age and Cache-Status of ours.
    pub fn headers(&self) -> HeaderMap {
        self.shape.stored(self.own())
    }

    /// Its fields in an answer.
    pub fn answer(&self, age: HeaderValue, status: HeaderValue) -> HeaderMap {
        self.shape.answer(self.own(), age, status)
    }

    /// Whether a field of this name is stored.
    pub fn has(&self, name: &HeaderName) -> bool {
        self.shape.has(name)
    }

    /// Its body.
    pub fn body(&self) -> Bytes {
        match &self.apart {
            Some(body) => (**body).clone(),
            None => self.block.slice(self.own_end as usize..),
        }
    }

    /// How long its body is, in bytes.
    pub fn body_len(&self) -> usize {
        self.apart.as_ref().map_or(self.block.len() - self.own_end as usize, |body| body.len())
    }

    /// How many bytes it takes beside itself.
    pub fn weight(&self) -> usize {
        self.block.len() + self.apart.as_ref().map_or(0, |body| body.len() + APART)
    }

    fn part(&self, from: u32, to: u32) -> &[u8] {
        &self.block[from as usize..to as usize]
    }

    fn own(&self) -> impl Iterator<Item = HeaderValue> + '_ {
        let (mut at, end) = (self.tags_end as usize, self.own_end as usize);
        std::iter::from_fn(move || {
            let (length, _) = self.block[..end].get(at..)?.split_first_chunk()?;
            let from = at + 4;
            at = from + u32::from_le_bytes(*length) as usize;
            HeaderValue::from_maybe_shared(self.block.slice(from..at)).ok()
        })
    }
}

/// What a body that stands apart takes beyond its bytes: the box, the allocation's own and its count.
const APART: usize = 96;

fn at(block: &BytesMut) -> u32 {
    clamped(block.len())
}

/// No key, path, field or list of tags is nearly as long.
fn clamped(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// What was put in as text.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn a_small_body_is_in_the_block_and_a_large_one_is_not_copied() {
        let fields = headers(&[("etag", "\"1\""), ("content-type", "text/plain"), ("date", "")]);
        let head = Content::new(Names { key: "k", path: "/a/b", tags: "one\ntwo\n" }, &fields, Bytes::new());
        let small = head.with_body(Bytes::from_static(b"body"));
        let whole = Bytes::from(vec![b'x'; SMALL + 1]);
        let large = head.with_body(whole.clone());
        let chunks = |chunks: &[&[u8]]| chunks.iter().map(|chunk| Bytes::copy_from_slice(chunk)).collect();
        let in_chunks = head.with_chunks(&chunks(&[b"bo", b"d", b"y"]));
        let large_in_chunks = head.with_chunks(&chunks(&[&whole[..9], &whole[9..]]));
        let bodies =
            [(&head, &b""[..]), (&small, b"body"), (&large, &whole), (&in_chunks, b"body"), (&large_in_chunks, &whole)];
        for (content, body) in bodies {
            assert_eq!((content.key(), content.path(), content.tags()), ("k", "/a/b", "one\ntwo\n"));
            assert!(content.is_of("k") && !content.is_of("K"));
            assert_eq!(content.headers(), fields);
            assert_eq!((&content.body()[..], content.body_len()), (body, body.len()));
        }
        assert_eq!(large.body().as_ptr(), whole.as_ptr());
        assert!(in_chunks.apart.is_none() && large_in_chunks.block.len() == head.block.len());
        assert!(small.apart.is_none() && small.body().as_ptr() == small.block[small.own_end as usize..].as_ptr());
        let other = headers(&[("etag", "\"2\"")]);
        let changed = small.with_headers(&other);
        assert_eq!((changed.headers(), &changed.body()[..], changed.tags()), (other, &b"body"[..], "one\ntwo\n"));
        assert!(changed.packed().apart.is_none() && changed.packed().body() == "body");
    }

    #[test]
    fn a_path_that_is_in_the_key_takes_no_room() {
        let of = |key| Content::new(Names { key, path: "/a", tags: "t\n" }, &HeaderMap::new(), Bytes::new());
        for (key, length) in [("//host/a?b", 10), ("//host/", 9), ("user:1", 8), ("/a", 4)] {
            let content = of(key);
            assert_eq!((content.key(), content.path(), content.tags()), (key, "/a", "t\n"));
            assert_eq!(content.weight(), length + 2);
        }
    }

    proptest! {
        #[test]
        fn whatever_goes_in_comes_out(
            etag in "[ -~]{0,40}", key in "\\PC{0,9}(/a)?", path in "/[a/]{0,5}", tags in "([a-z]{1,5}\n){0,3}",
            body in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let fields = headers(&[("etag", etag.trim()), ("vary", "accept"), ("set-cookie", "a=b"), ("set-cookie", "c=d")]);
            let names = Names { key: &key, path: &path, tags: &tags };
            let content = Content::new(names, &fields, Bytes::from(body.clone()));
            for content in [&content, &content.packed()] {
                prop_assert_eq!((content.key(), content.path(), content.tags()), (&*key, &*path, &*tags));
                prop_assert_eq!(content.headers(), fields.clone());
                prop_assert_eq!(&content.body()[..], &body[..]);
            }
        }
    }
}
