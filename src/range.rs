//! A client's request for parts of a representation, answered from a stored response: RFC 9110 section 14.
//!
//! A Range that is odd in any way is ignored, and the whole is served: section 14.2 allows that for all of them,
//! and every client copes with it. What counts as parts never overlaps, so that no request, however written,
//! makes a response much larger than the representation is.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};
use http::header::{DATE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use smallvec::SmallVec;

use crate::control::{digits, split_list};
use crate::freshness::http_date;

/// A request for more ranges than this is ignored (RFC 9110 section 17.15).
const MOST: usize = 16;

/// More small ranges than this are many, for which order matters (RFC 9110 section 14.2).
const FEW: usize = 4;

/// A range of fewer bytes is small: what surrounds a part is about as long (RFC 9110 section 15.3.7.2).
const OVERHEAD: u64 = 80;

/// What a request's Range field asks for: one range or several, of a representation of any length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges(SmallVec<[Spec; 4]>);

/// A range-spec of the unit `bytes` (RFC 9110 section 14.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    /// From `first` to `last`, both included; to the end, whatever that is, when `last` is the largest number.
    Span { first: u64, last: u64 },
    /// So many bytes at the end.
    Suffix(u64),
}

/// The bytes from `first` to `last` of a representation, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first byte's position.
    pub first: u64,
    /// The last byte's position; never before the first.
    pub last: u64,
}

/// The parts of a representation that were asked for. Each is within the representation; no two of them overlap
/// or adjoin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// None of the ranges is in the representation: a 416 (RFC 9110 section 15.5.17).
    Unsatisfiable,
    /// The end of a representation that has not a byte. That is satisfiable, but no Content-Range can say so: the
    /// Range is ignored, as section 14.2 allows.
    Whole,
    /// One part: a 206 with a Content-Range.
    One(Part),
    /// Several, in the order in which they were asked for: a 206 with a [`Multipart`].
    Many(SmallVec<[Part; 4]>),
}

/// What a request's Range asks for. `None` when there is no Range or it is to be ignored: another unit than
/// `bytes`, malformed, or a waste (RFC 9110 sections 14.2 and 17.15). Only a GET is to be asked for it.
pub fn asked(request: &HeaderMap) -> Option<Ranges> {
    let line = only(request, RANGE)?.as_bytes();
    let equals = line.iter().position(|b| *b == b'=')?;
    if !line[..equals].eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let mut specs = SmallVec::new();
    for member in split_list(&line[equals + 1..]) {
        if specs.len() == MOST {
            return None;
        }
        specs.push(Spec::parse(member)?);
    }
    (!specs.is_empty() && !is_waste(&specs)).then_some(Ranges(specs))
}

/// Whether the request's If-Range lets its Range apply to the stored response (RFC 9110 section 13.1.5). To be
/// asked only when there is a Range. A Range applies to a 200 only (section 14.2).
pub fn if_range_holds(request: &HeaderMap, status: StatusCode, stored: &HeaderMap) -> bool {
    if status != StatusCode::OK {
        return false;
    }
    if !request.contains_key(IF_RANGE) {
        return true;
    }
    let Some(condition) = only(request, IF_RANGE).map(HeaderValue::as_bytes) else { return false };
    if is_strong_tag(condition) {
        // A weak tag begins with `W/`, so that equal bytes are the strong comparison (section 8.8.3.2).
        return only(stored, ETAG).is_some_and(|tag| tag.as_bytes() == condition);
    }
    let date = |name| only(stored, name).and_then(|d| http_date(d.as_bytes()));
    match (http_date(condition), date(LAST_MODIFIED), date(DATE)) {
        // Had it been modified twice in a second, one of the responses would be of that second: only a date that
        // is past when the response is made identifies what is in it (section 8.8.2.2).
        (Some(condition), Some(modified), Some(date)) => condition == modified && date.since(modified) >= 1000,
        _ => false,
    }
}

/// Content-Range of a part (RFC 9110 section 14.4).
pub fn content_range(part: Part, length: u64) -> HeaderValue {
    field(format!("bytes {}-{}/{length}", part.first, part.last))
}

/// Content-Range of a 416: the length that the ranges are not within (RFC 9110 section 14.4).
pub fn unsatisfied(length: u64) -> HeaderValue {
    field(format!("bytes */{length}"))
}

impl Ranges {
    /// The parts asked for of a representation of `length` bytes. Those that overlap or adjoin become one (RFC
    /// 9110 section 15.3.7.2), in the place of the first of them.
    pub fn of(&self, length: u64) -> Selected {
        let mut parts = SmallVec::new();
        for part in self.0.iter().filter_map(|spec| spec.within(length)) {
            add(&mut parts, part);
        }
        match parts.as_slice() {
            [] if length == 0 && self.0.iter().any(|s| matches!(s, Spec::Suffix(1..))) => Selected::Whole,
            [] => Selected::Unsatisfiable,
            [part] => Selected::One(*part),
            _ => Selected::Many(parts),
        }
    }
}

/// Adds a part to others that neither overlap nor adjoin each other.
fn add(parts: &mut SmallVec<[Part; 4]>, part: Part) {
    let Some(at) = parts.iter().position(|p| p.touches(part)) else {
        parts.push(part);
        return;
    };
    let joined = parts
        .iter()
        .filter(|p| p.touches(part))
        .fold(part, |all, p| Part { first: all.first.min(p.first), last: all.last.max(p.last) });
    parts.retain(|p| !p.touches(part));
    parts.insert(at, joined);
}

impl Part {
    /// How many bytes it has.
    pub fn length(self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    /// Its bytes of a body, without a copy; fewer when the body is shorter than it should be.
    pub fn slice(self, body: &Bytes) -> Bytes {
        let within = |at: u64| usize::try_from(at).map_or(body.len(), |at| at.min(body.len()));
        let end = within(self.last.saturating_add(1));
        body.slice(within(self.first).min(end)..end)
    }

    /// Whether the two overlap or adjoin.
    fn touches(self, other: Part) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }
}

impl Spec {
    fn parse(member: &[u8]) -> Option<Spec> {
        let dash = member.iter().position(|b| *b == b'-')?;
        let (first, last) = (&member[..dash], &member[dash + 1..]);
        if first.is_empty() {
            return digits(last).map(Spec::Suffix);
        }
        let first = digits(first)?;
        let last = if last.is_empty() { u64::MAX } else { digits(last)? };
        (first <= last).then_some(Spec::Span { first, last })
    }

    /// Its part of a representation of `length` bytes, if there is any (RFC 9110 section 14.1.2).
    fn within(self, length: u64) -> Option<Part> {
        let end = length.checked_sub(1)?;
        match self {
            Spec::Span { first, last } => (first <= end).then(|| Part { first, last: last.min(end) }),
            Spec::Suffix(n) => (n > 0).then(|| Part { first: length.saturating_sub(n), last: end }),
        }
    }

    /// Whether the two overlap in any representation that has both.
    fn overlaps(self, other: Spec) -> bool {
        match (self, other) {
            (Spec::Span { first: a, last: z }, Spec::Span { first, last }) => a <= last && first <= z,
            (Spec::Suffix(a), Spec::Suffix(b)) => a > 0 && b > 0,
            (Spec::Span { last, .. }, Spec::Suffix(n)) | (Spec::Suffix(n), Spec::Span { last, .. }) => {
                n > 0 && last == u64::MAX
            }
        }
    }

    fn is_small(self) -> bool {
        match self {
            Spec::Span { first, last } => last - first < OVERHEAD - 1,
            Spec::Suffix(n) => n < OVERHEAD,
        }
    }

    /// Where it begins, to tell the order: a suffix is near the end, wherever that is.
    fn start(self) -> u64 {
        match self {
            Spec::Span { first, .. } => first,
            Spec::Suffix(n) => u64::MAX - n,
        }
    }
}

/// More than two overlapping ranges, or many small ones that are out of order: "either a broken client or a
/// deliberate denial-of-service attack" (RFC 9110 section 14.2).
fn is_waste(specs: &[Spec]) -> bool {
    let overlaps = |(at, spec): &(usize, &Spec)| specs.iter().enumerate().any(|(i, s)| i != *at && s.overlaps(**spec));
    let small = || specs.iter().filter(|s| s.is_small()).map(|s| s.start());
    specs.iter().enumerate().filter(overlaps).count() > 2 || (small().count() > FEW && !small().is_sorted())
}

/// Whether this is an entity tag, and not a weak one (RFC 9110 section 8.8.3).
fn is_strong_tag(text: &[u8]) -> bool {
    let opaque = text.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\""));
    opaque.is_some_and(|o| o.iter().all(|b| matches!(b, 0x21 | 0x23..=0x7e | 0x80..)))
}

/// The field's value, if it is there once: of several nobody knows which counts.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(name).into_iter();
    let line = lines.next()?;
    lines.next().is_none().then_some(line)
}

/// A value that is made of printable characters here, and so is always legal.
fn field(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// The content of a 206 with several parts: `multipart/byteranges` (RFC 9110 section 14.6). Such a response has
/// no Content-Range but in its parts (section 15.3.7.2).
#[derive(Clone, Debug)]
pub struct Multipart {
    seed: u64,
    /// Each part with what precedes it.
    parts: SmallVec<[(Bytes, Part); 4]>,
    close: Bytes,
}

impl Multipart {
    /// Plans the content for these parts of a representation of `length` bytes and of this Content-Type. The
    /// boundary is made of `seed`, which nobody who writes bodies should be able to guess: a body with the
    /// boundary in it would be read as other parts than it has.
    pub fn new(parts: &[Part], length: u64, content_type: Option<&HeaderValue>, seed: u64) -> Multipart {
        let each = content_type.map_or(0, HeaderValue::len) + 160;
        let mut text = BytesMut::with_capacity(each * parts.len() + 64);
        let mut heads = SmallVec::with_capacity(parts.len());
        for (at, part) in parts.iter().enumerate() {
            // The line end before a delimiter is part of it, not of the data (RFC 2046 section 5.1.1).
            let before = if at == 0 { "" } else { "\r\n" };
            let _ = write!(text, "{before}--{}\r\n", Boundary(seed));
            if let Some(content_type) = content_type {
                text.extend_from_slice(b"Content-Type: ");
                text.extend_from_slice(content_type.as_bytes());
                text.extend_from_slice(b"\r\n");
            }
            let _ = write!(text, "Content-Range: bytes {}-{}/{length}\r\n\r\n", part.first, part.last);
            heads.push((text.split().freeze(), *part));
        }
        let _ = write!(text, "\r\n--{}--\r\n", Boundary(seed));
        Multipart { seed, parts: heads, close: text.freeze() }
    }

    /// Content-Type of the response.
    pub fn content_type(&self) -> HeaderValue {
        // Not quoted: some clients read that wrongly (section 14.6).
        field(format!("multipart/byteranges; boundary={}", Boundary(self.seed)))
    }

    /// Content-Length of the response.
    pub fn content_length(&self) -> u64 {
        let parts = self.parts.iter().map(|(head, part)| (head.len() as u64).saturating_add(part.length()));
        parts.fold(self.close.len() as u64, u64::saturating_add)
    }

    /// The content, piece by piece, out of the whole representation's, of which nothing is copied.
    pub fn pieces(&self, body: &Bytes) -> impl Iterator<Item = Bytes> {
        let parts = self.parts.iter().flat_map(move |(head, part)| [head.clone(), part.slice(body)]);
        parts.chain(std::iter::once(self.close.clone()))
    }
}

/// A boundary of characters that need no quotes (RFC 2046 section 5.1.1).
struct Boundary(u64);

impl std::fmt::Display for Boundary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "asidecar-{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
    }
    fn ranges(value: &str) -> Option<Ranges> {
        asked(&headers(&[("range", value)]))
    }
    fn span(first: u64, last: u64) -> Spec {
        Spec::Span { first, last }
    }
    /// The parts selected, as text.
    fn selected(value: &str, length: u64) -> String {
        let text = |p: &Part| format!("{}-{}", p.first, p.last);
        match ranges(value).unwrap().of(length) {
            Selected::Unsatisfiable => "416".to_owned(),
            Selected::Whole => "whole".to_owned(),
            Selected::One(part) => text(&part),
            Selected::Many(parts) => parts.iter().map(text).collect::<Vec<_>>().join(","),
        }
    }

    #[test]
    fn ranges_are_read_with_white_space_and_empty_members() {
        for (value, specs) in [
            ("bytes=0-499", &[span(0, 499)][..]),
            ("BYTES=0-0,-1", &[span(0, 0), Spec::Suffix(1)]),
            ("bytes= 0-999, 4500-5499, -1000", &[span(0, 999), span(4500, 5499), Spec::Suffix(1000)]),
            ("bytes=,\t, 7- ,,", &[span(7, u64::MAX)]),
            ("bytes=007-0008", &[span(7, 8)]),
            ("bytes=0-99999999999999999999999", &[span(0, u64::MAX)]),
            ("bytes=99999999999999999999999-", &[span(u64::MAX, u64::MAX)]),
        ] {
            assert_eq!(ranges(value).as_ref().map(|r| &r.0[..]), Some(specs), "{value}");
        }
    }

    #[test]
    fn a_range_that_is_malformed_or_of_another_unit_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=, ,",
            "bytes=-",
            "bytes=0",
            "bytes=a-b",
            "bytes=0-x",
            "bytes=--1",
            "bytes=1-2-3",
            "bytes=0 - 1",
            "bytes=+0-1",
            "bytes=0-1;",
            "bytes=0x0-1",
            "bytes=\"0-1\"",
            "bytes=2-1",
            "bytes=0-1,2-1",
            "bytes=0-1,x",
            "bytes =0-1",
            "bytes:0-1",
            "items=0-1",
            "byte=0-1",
            "=0-1",
            "none",
        ] {
            assert_eq!(ranges(value), None, "{value}");
        }
        assert_eq!(asked(&headers(&[])), None);
        let mut two = headers(&[("range", "bytes=0-1")]);
        two.append(RANGE, "bytes=2-3".parse().unwrap());
        assert_eq!(asked(&two), None);
    }

    #[test]
    fn a_set_that_wastes_is_ignored() {
        let set = |specs: &[String]| ranges(&format!("bytes={}", specs.join(",")));
        let apart: Vec<_> = (0..17).map(|n| format!("{}-{}", n * 100, n * 100 + 9)).collect();
        assert!(set(&apart[..16]).is_some());
        assert!(set(&apart).is_none(), "more than sixteen");

        let mut reversed = apart[..5].to_vec();
        reversed.reverse();
        assert!(set(&reversed).is_none(), "many small ones out of order");
        assert!(set(&reversed[..4]).is_some(), "few");
        let large: Vec<_> = (0..8).rev().map(|n| format!("{}-{}", n * 100, n * 100 + 79)).collect();
        assert!(set(&large).is_some(), "not small");

        for (value, kept) in [
            ("bytes=0-10,5-15", true),
            ("bytes=0-10,5-15,100-", true),
            ("bytes=0-10,5-15,15-20", false),
            ("bytes=0-10,5-15,100-110,105-115", false),
            ("bytes=0-,0-,0-", false),
            ("bytes=0-,5-,-5", false),
            ("bytes=-1,-2,-3", false),
            ("bytes=-0,-0,-0", true),
            ("bytes=0-1,2-3,4-5", true),
        ] {
            assert_eq!(ranges(value).is_some(), kept, "{value}");
        }
    }

    #[test]
    fn parts_are_those_within_the_representation() {
        for (value, length, parts) in [
            ("bytes=0-4", 11, "0-4"),
            ("bytes=5-", 11, "5-10"),
            ("bytes=5-99999999999999999999", 11, "5-10"),
            ("bytes=10-10", 11, "10-10"),
            ("bytes=11-", 11, "416"),
            ("bytes=99999999999999999999-", u64::MAX, "416"),
            ("bytes=-3", 11, "8-10"),
            ("bytes=-11", 11, "0-10"),
            ("bytes=-99999999999999999999", 11, "0-10"),
            ("bytes=-0", 11, "416"),
            ("bytes=20-30,-0", 11, "416"),
            ("bytes=20-30,-0,1-2", 11, "1-2"),
            ("bytes=0-0,-1", 11, "0-0,10-10"),
            ("bytes=0-", 0, "416"),
            ("bytes=0-0", 0, "416"),
            ("bytes=-0", 0, "416"),
            ("bytes=-5", 0, "whole"),
        ] {
            assert_eq!(selected(value, length), parts, "{value} of {length}");
        }
    }

    #[test]
    fn parts_that_overlap_or_adjoin_become_one_in_the_place_of_the_first() {
        for (value, parts) in [
            ("bytes=500-600,601-999", "500-999"),
            ("bytes=500-700,601-999", "500-999"),
            ("bytes=500-600,602-999", "500-600,602-999"),
            ("bytes=0-9,500-509,10-19", "0-19,500-509"),
            ("bytes=700-,0-9,-100", "700-999,0-9"),
            ("bytes=20-29,0-9,10-19", "0-29"),
            ("bytes=900-999,200-299,500-599,0-99,100-199", "900-999,0-299,500-599"),
        ] {
            assert_eq!(selected(value, 1000), parts, "{value}");
        }
    }

    #[test]
    fn if_range_holds_for_the_same_strong_validator_only() {
        let (at, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
        let tagged = [("etag", "\"a\""), ("last-modified", at), ("date", later)];
        let weak = [("etag", "W/\"a\"")];
        let dated = [("last-modified", at), ("date", later)];
        for (condition, stored, holds) in [
            ("\"a\"", &tagged[..], true),
            ("\"A\"", &tagged, false),
            ("\"\"", &[("etag", "\"\"")], true),
            ("\"a\"", &dated, false),
            ("W/\"a\"", &tagged, false),
            ("W/\"a\"", &weak, false),
            ("\"a\"", &weak, false),
            ("\"a\", \"b\"", &tagged, false),
            ("*", &tagged, false),
            ("\"", &[("etag", "\"")], false),
            ("a", &[("etag", "a")], false),
            ("\"a b\"", &[("etag", "\"a b\"")], false),
            ("", &[("etag", "")], false),
            (at, &dated, true),
            ("Sunday, 06-Nov-94 08:49:37 GMT", &dated, true),
            (at, &tagged, true),
            (later, &dated, false),
            ("Sun, 06 Nov 1994 08:49:36 GMT", &dated, false),
            ("nonsense", &[("last-modified", "nonsense"), ("date", later)], false),
            (at, &[("last-modified", at), ("date", at)], false),
            (at, &[("last-modified", at), ("date", "Sun, 06 Nov 1994 08:49:36 GMT")], false),
            (at, &[("last-modified", at)], false),
            (at, &[("date", later)], false),
        ] {
            let request = headers(&[("if-range", condition)]);
            assert_eq!(if_range_holds(&request, StatusCode::OK, &headers(stored)), holds, "{condition} {stored:?}");
        }
    }

    #[test]
    fn without_if_range_a_range_applies_to_a_200_and_to_nothing_else() {
        let none = HeaderMap::new();
        assert!(if_range_holds(&none, StatusCode::OK, &none));
        assert!(!if_range_holds(&none, StatusCode::NOT_FOUND, &none));
        let mut two = headers(&[("if-range", "\"a\"")]);
        two.append(IF_RANGE, "\"a\"".parse().unwrap());
        assert!(!if_range_holds(&two, StatusCode::OK, &headers(&[("etag", "\"a\"")])));
    }

    #[test]
    fn the_fields_say_what_is_enclosed_and_of_how_much() {
        assert_eq!(content_range(Part { first: 0, last: 1 }, 11), "bytes 0-1/11");
        assert_eq!(content_range(Part { first: 0, last: u64::MAX - 1 }, u64::MAX).len(), 49);
        assert_eq!(unsatisfied(11), "bytes */11");
    }

    #[test]
    fn several_parts_are_written_as_the_media_type_wants_them() {
        let body = Bytes::from_static(b"hello world");
        let parts = [Part { first: 6, last: 10 }, Part { first: 0, last: 1 }];
        let plan = Multipart::new(&parts, 11, Some(&HeaderValue::from_static("text/plain")), 0xabc);
        let boundary = "asidecar-0000000000000abc";
        assert_eq!(plan.content_type(), format!("multipart/byteranges; boundary={boundary}"));
        let content = plan.pieces(&body).collect::<Vec<_>>().concat();
        let want = format!(
            "--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 6-10/11\r\n\r\nworld\r\n\
             --{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/11\r\n\r\nhe\r\n--{boundary}--\r\n"
        );
        assert_eq!(String::from_utf8(content).unwrap(), want);
        assert_eq!(plan.content_length(), want.len() as u64);
    }

    #[test]
    fn the_bytes_of_a_body_are_not_copied() {
        let body = Bytes::from(vec![b'x'; 1000]);
        let parts = [Part { first: 10, last: 19 }, Part { first: 500, last: 999 }];
        let pieces: Vec<_> = Multipart::new(&parts, 1000, None, 1).pieces(&body).collect();
        assert_eq!(pieces.len(), 5);
        for (piece, part) in [(&pieces[1], parts[0]), (&pieces[3], parts[1])] {
            assert_eq!(piece.as_ptr(), body[usize::try_from(part.first).unwrap()..].as_ptr());
            assert_eq!(piece.len() as u64, part.length());
        }
    }

    #[test]
    fn a_body_shorter_than_it_should_be_gives_what_it_has() {
        let body = Bytes::from_static(b"abc");
        assert_eq!(Part { first: 1, last: 9 }.slice(&body), "bc");
        assert_eq!(Part { first: 5, last: u64::MAX }.slice(&body), "");
    }

    /// Reads `multipart/byteranges` as a client does: by the boundary.
    fn parsed(content_type: &HeaderValue, content: &[u8]) -> Vec<(Option<String>, String, Vec<u8>)> {
        let (_, boundary) = content_type.to_str().unwrap().split_once("boundary=").unwrap();
        assert!((1..=70).contains(&boundary.len()));
        assert!(boundary.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "no quotes are needed");
        let content = [b"\r\n", content].concat();
        let delimiter = format!("\r\n--{boundary}");
        let mut at: Vec<_> = memchr::memmem::find_iter(&content, delimiter.as_bytes()).collect();
        assert_eq!(at.first(), Some(&0));
        let close = at.pop().unwrap();
        assert_eq!(&content[close + delimiter.len()..], b"--\r\n");
        let ends = at.iter().skip(1).copied().chain([close]);
        at.iter()
            .zip(ends)
            .map(|(at, end)| {
                let part = content[at + delimiter.len()..end].strip_prefix(b"\r\n").unwrap();
                let head = memchr::memmem::find(part, b"\r\n\r\n").unwrap();
                let fields: Vec<_> = std::str::from_utf8(&part[..head]).unwrap().split("\r\n").collect();
                let field = |name: &str| fields.iter().find_map(|f| f.strip_prefix(name)).map(str::to_owned);
                let range = field("Content-Range: ").unwrap();
                (field("Content-Type: "), range, part[head + 4..].to_vec())
            })
            .collect()
    }

    fn specs() -> impl Strategy<Value = Vec<Spec>> {
        let position = || prop_oneof![9 => 0u64..120, 1 => Just(u64::MAX)];
        let spec = prop_oneof![
            6 => (0u64..120, 0u64..6).prop_map(|(first, more)| span(first, first + more)),
            2 => (position(), position()).prop_map(|(a, b)| span(a.min(b), a.max(b))),
            1 => position().prop_map(Spec::Suffix),
        ];
        prop::collection::vec(spec, 1..=MOST)
    }
    fn written(specs: &[Spec]) -> String {
        let members = specs.iter().map(|s| match s {
            Spec::Span { first, last: u64::MAX } => format!("{first}-"),
            Spec::Span { first, last } => format!("{first}-{last}"),
            Spec::Suffix(n) => format!("-{n}"),
        });
        format!("bytes={}", members.collect::<Vec<_>>().join(", "))
    }
    fn parts_of(selected: Selected) -> Vec<Part> {
        match selected {
            Selected::Unsatisfiable | Selected::Whole => vec![],
            Selected::One(part) => vec![part],
            Selected::Many(parts) => parts.to_vec(),
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(
            unit in prop_oneof![Just("bytes="), Just("")],
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                "[0-9, \t-]{0,60}".prop_map(String::into_bytes),
            ],
            length in prop_oneof![0u64..200, any::<u64>()],
        ) {
            if let Ok(value) = HeaderValue::from_bytes(&[unit.as_bytes(), &bytes].concat()) {
                let request: HeaderMap = [(RANGE, value.clone()), (IF_RANGE, value)].into_iter().collect();
                if let Some(ranges) = asked(&request) {
                    ranges.of(length);
                }
                if_range_holds(&request, StatusCode::OK, &request);
            }
        }

        #[test]
        fn what_is_written_is_what_is_read_unless_it_is_a_waste(specs in specs()) {
            let got = ranges(&written(&specs));
            let want = (!is_waste(&specs)).then(|| Ranges(SmallVec::from_slice(&specs)));
            prop_assert_eq!(got, want);
        }

        #[test]
        fn parts_are_in_bounds_apart_and_all_that_was_asked_for(specs in specs(), length in 0u64..150) {
            let parts = parts_of(Ranges(SmallVec::from_slice(&specs)).of(length));
            for (at, part) in parts.iter().enumerate() {
                prop_assert!(part.first <= part.last && part.last < length);
                prop_assert!(parts[at + 1..].iter().all(|p| !p.touches(*part)));
            }
            for byte in 0..length {
                let asked = specs.iter().any(|s| match *s {
                    Spec::Span { first, last } => (first..=last).contains(&byte),
                    Spec::Suffix(n) => length - byte <= n,
                });
                prop_assert_eq!(parts.iter().any(|p| (p.first..=p.last).contains(&byte)), asked, "byte {}", byte);
            }
        }

        #[test]
        fn a_multipart_has_the_announced_length_and_its_parts_can_be_read_back(
            specs in specs(),
            body in prop::collection::vec(any::<u8>(), 1..150),
            content_type in prop::option::of("[a-z]{1,8}/[a-z]{1,8}"),
            seed in any::<u64>(),
        ) {
            let (length, body) = (body.len() as u64, Bytes::from(body));
            let parts = parts_of(Ranges(SmallVec::from_slice(&specs)).of(length));
            prop_assume!(!parts.is_empty());
            let value = content_type.as_ref().map(|t| t.parse().unwrap());
            let plan = Multipart::new(&parts, length, value.as_ref(), seed);
            let content = plan.pieces(&body).collect::<Vec<_>>().concat();
            prop_assert_eq!(plan.content_length(), content.len() as u64);
            let want: Vec<_> = parts
                .iter()
                .map(|p| {
                    let range = content_range(*p, length).to_str().unwrap().to_owned();
                    (content_type.clone(), range, p.slice(&body).to_vec())
                })
                .collect();
            prop_assert_eq!(parsed(&plan.content_type(), &content), want);
        }
    }
}
