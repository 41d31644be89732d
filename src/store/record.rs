//! An entry as it stands in Redis: a versioned, checksummed binary frame.
//!
//! ```text
//! "ASDC"  version u8  kind u8  crc32 u32 of all that follows
//! entry:    key  base u32  path  status u16  as-of (ms u64, seq u64)  birth u64  fresh u64
//!           while-revalidate u64  if-error u64  if-unreachable u64  flags u8  cost u32  tags
//!           number of fields u16, each: name value
//!           body, to the end; its length u32 before it if it is compressed (LZ4)
//! variants: key  text (see `Variants::to_record`)
//! ```
//!
//! Integers are little-endian; keys, paths, tags, names and values carry their length (u32) before them. The
//! body comes last, so that reading it is a slice of what was received. The whole key stands inside and is
//! compared: a reply that belongs to another request is a miss. What is foreign, damaged or of another version
//! is an error here and a miss for the caller.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::admission::Sharing;
use crate::clock::Timestamp;
use crate::content::{Content, Names};
use crate::entry::{Entry, Stored};
use crate::freshness::Lifetime;
use crate::invalidation::log::Stamp;
use crate::invalidation::position::{LogId, Position};
use crate::vary::Variants;

const MAGIC: &[u8; 4] = b"ASDC";
const VERSION: u8 = 2;
const ENTRY: u8 = 1;
const VARIANTS: u8 = 2;
const PREAMBLE: usize = 10;
/// More fields than this no response has that was stored.
const MAX_FIELDS: u16 = 1000;

const MUST_REVALIDATE: u8 = 1;
const SHARED_COOKIE: u8 = 2;
const SHARED_AUTHORIZATION: u8 = 4;
const COMPRESSED: u8 = 8;

/// Bodies below this, in bytes, are not worth compressing.
const WORTH_COMPRESSING: usize = 4096;
/// LZ4 makes nothing smaller than by this factor: what claims more is no body of ours.
const MOST_COMPRESSED: usize = 255;

/// Why a record can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is not ours.
    Foreign,
    /// It is of another version of the format.
    Version(u8),
    /// Its checksum does not fit.
    Damaged,
    /// It ends too early, or a part of it is not what it must be.
    Malformed,
    /// It belongs to another key.
    OtherKey,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Foreign => f.write_str("it is no record of asidecar"),
            Unusable::Version(v) => write!(f, "it is of format version {v}, this program reads {VERSION}"),
            Unusable::Damaged => f.write_str("its checksum does not fit"),
            Unusable::Malformed => f.write_str("it is malformed"),
            Unusable::OtherKey => f.write_str("it belongs to another key"),
        }
    }
}

/// Writes an entry; with `compress` its body is compressed where that pays.
pub fn encode(entry: &Entry, compress: bool) -> Bytes {
    let (content, headers, whole) = (&entry.content, entry.content.headers(), entry.content.body());
    let compressed = if compress && may_shrink(&headers, &whole) { compressed(&whole) } else { None };
    let body = compressed.as_deref().unwrap_or(&whole);
    let fields: usize = headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 8).sum();
    let room =
        PREAMBLE + 96 + content.key().len() + content.path().len() + content.tags().len() + fields + body.len() + 4;
    let mut out = begin(ENTRY, room);
    put(&mut out, content.key().as_bytes());
    out.put_u32_le(entry.base);
    put(&mut out, content.path().as_bytes());
    out.put_u16_le(entry.status.as_u16());
    out.put_u64_le(entry.stamp.as_of.id.ms);
    out.put_u64_le(entry.stamp.as_of.id.seq);
    out.put_u64_le(entry.birth.0);
    let lifetime = entry.lifetime();
    out.put_u64_le(lifetime.fresh);
    out.put_u64_le(lifetime.while_revalidate);
    out.put_u64_le(lifetime.if_error);
    out.put_u64_le(lifetime.if_unreachable);
    let mut flags = 0;
    for (set, flag) in [
        (lifetime.must_revalidate, MUST_REVALIDATE),
        (entry.sharing.cookie, SHARED_COOKIE),
        (entry.sharing.authorization, SHARED_AUTHORIZATION),
        (compressed.is_some(), COMPRESSED),
    ] {
        flags |= if set { flag } else { 0 };
    }
    out.put_u8(flags);
    out.put_u32_le(entry.cost);
    put(&mut out, content.tags().as_bytes());
    out.put_u16_le(u16::try_from(headers.len()).unwrap_or(u16::MAX));
    for (name, value) in &headers {
        put(&mut out, name.as_str().as_bytes());
        put(&mut out, value.as_bytes());
    }
    if compressed.is_some() {
        out.put_u32_le(u32::try_from(whole.len()).unwrap_or(u32::MAX));
    }
    out.put_slice(body);
    seal(out)
}

/// Whether a body is likely to shrink, by its size and type: text that is not coded already.
fn may_shrink(headers: &HeaderMap, body: &[u8]) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let texts = ["json", "xml", "javascript", "x-ndjson", "csv", "graphql"];
    (WORTH_COMPRESSING..=u32::MAX as usize).contains(&body.len())
        && !headers.contains_key(CONTENT_ENCODING)
        && (kind.starts_with("text/") || texts.iter().any(|t| kind.ends_with(t)))
}

/// A body compressed, if that saves an eighth of it at least.
fn compressed(body: &[u8]) -> Option<Vec<u8>> {
    let smaller = lz4_flex::block::compress(body);
    (smaller.len() <= body.len() - body.len() / 8).then_some(smaller)
}

/// Writes what the responses of a key vary by.
pub fn encode_variants(key: &str, variants: &Variants) -> Bytes {
    let mut out = begin(VARIANTS, PREAMBLE + key.len() + 64);
    put(&mut out, key.as_bytes());
    put(&mut out, variants.to_record().as_bytes());
    seal(out)
}

/// Reads what stands under `key`, for the route with that index, at `now`.
pub fn decode(record: Bytes, key: &str, route: usize, now: Timestamp) -> Result<Stored, Unusable> {
    let head = record.get(..PREAMBLE).ok_or(Unusable::Foreign)?;
    if &head[..4] != MAGIC {
        return Err(Unusable::Foreign);
    }
    if head[4] != VERSION {
        return Err(Unusable::Version(head[4]));
    }
    let kind = head[5];
    let sum = u32::from_le_bytes([head[6], head[7], head[8], head[9]]);
    if crc32fast::hash(&record[PREAMBLE..]) != sum {
        return Err(Unusable::Damaged);
    }
    let mut r = Reader { record: &record, at: PREAMBLE };
    if r.text()? != key {
        return Err(Unusable::OtherKey);
    }
    match kind {
        ENTRY => entry(r, key, route, now).map(|e| Stored::Entry(Arc::new(e))),
        VARIANTS => {
            let variants = Variants::from_record(r.text()?).ok_or(Unusable::Malformed)?;
            Ok(Stored::Variants(Arc::new(variants)))
        }
        _ => Err(Unusable::Malformed),
    }
}

fn entry(mut r: Reader<'_>, key: &str, route: usize, now: Timestamp) -> Result<Entry, Unusable> {
    let base = r.u32()?;
    if !key.is_char_boundary(base as usize) {
        return Err(Unusable::Malformed);
    }
    let path = r.text()?;
    let status = StatusCode::from_u16(r.u16()?).map_err(|_| Unusable::Malformed)?;
    let as_of = Position::at(LogId { ms: r.u64()?, seq: r.u64()? });
    let birth = Timestamp(r.u64()?);
    let (fresh, while_revalidate, if_error, if_unreachable) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
    let flags = r.u8()?;
    let must_revalidate = flags & MUST_REVALIDATE != 0;
    let cost = r.u32()?;
    let tags = r.text()?;
    let fields = r.u16()?;
    if fields > MAX_FIELDS {
        return Err(Unusable::Malformed);
    }
    let mut headers = HeaderMap::with_capacity(usize::from(fields));
    for _ in 0..fields {
        let name = HeaderName::from_bytes(r.bytes()?).map_err(|_| Unusable::Malformed)?;
        let value = HeaderValue::from_maybe_shared(r.shared()?).map_err(|_| Unusable::Malformed)?;
        headers.append(name, value);
    }
    let body = if flags & COMPRESSED == 0 { r.record.slice(r.at..) } else { decompressed(&mut r)? };
    Ok(Entry {
        base,
        route: u32::try_from(route).unwrap_or(u32::MAX),
        status,
        content: Content::new(Names { key, path, tags }, &headers, body),
        birth,
        kept: now,
        spans: Lifetime { fresh, while_revalidate, if_error, if_unreachable, must_revalidate }.into(),
        sharing: Sharing { cookie: flags & SHARED_COOKIE != 0, authorization: flags & SHARED_AUTHORIZATION != 0 },
        stamp: Stamp::new(as_of),
        cost,
        hits: AtomicU32::new(0),
    })
}

fn decompressed(r: &mut Reader<'_>) -> Result<Bytes, Unusable> {
    let length = r.u32()? as usize;
    let body = &r.record[r.at..];
    // Checked before room is made for it.
    if length > body.len().saturating_mul(MOST_COMPRESSED) {
        return Err(Unusable::Malformed);
    }
    let whole = lz4_flex::block::decompress(body, length).map_err(|_| Unusable::Malformed)?;
    if whole.len() == length { Ok(whole.into()) } else { Err(Unusable::Malformed) }
}

fn begin(kind: u8, room: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(room);
    out.put_slice(MAGIC);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_u32_le(0);
    out
}

fn seal(mut out: BytesMut) -> Bytes {
    let sum = crc32fast::hash(&out[PREAMBLE..]);
    out[6..PREAMBLE].copy_from_slice(&sum.to_le_bytes());
    out.freeze()
}

fn put(out: &mut BytesMut, part: &[u8]) {
    out.put_u32_le(u32::try_from(part.len()).unwrap_or(u32::MAX));
    out.put_slice(part);
}

struct Reader<'b> {
    record: &'b Bytes,
    at: usize,
}

impl<'b> Reader<'b> {
    fn take(&mut self, n: usize) -> Result<&'b [u8], Unusable> {
        let end = self.at.checked_add(n).ok_or(Unusable::Malformed)?;
        let part = self.record.get(self.at..end).ok_or(Unusable::Malformed)?;
        self.at = end;
        Ok(part)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unusable> {
        self.take(N)?.try_into().map_err(|_| Unusable::Malformed)
    }
    fn u8(&mut self) -> Result<u8, Unusable> {
        Ok(self.array::<1>()?[0])
    }
    fn u16(&mut self) -> Result<u16, Unusable> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Result<u32, Unusable> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, Unusable> {
        self.array().map(u64::from_le_bytes)
    }
    fn bytes(&mut self) -> Result<&'b [u8], Unusable> {
        let n = self.u32()? as usize;
        self.take(n)
    }
    /// Bytes that are not copied.
    fn shared(&mut self) -> Result<Bytes, Unusable> {
        self.bytes().map(|part| self.record.slice_ref(part))
    }
    fn text(&mut self) -> Result<&'b str, Unusable> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Unusable::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invalidation::{TagId, TagKind};
    use proptest::prelude::*;

    fn sample(body: &[u8]) -> Entry {
        let mut headers = HeaderMap::new();
        headers.append("content-type", "text/plain".parse().unwrap());
        headers.append("x-a", "1".parse().unwrap());
        headers.append("x-a", HeaderValue::from_bytes(b"\xe4").unwrap());
        with(&headers, body)
    }
    fn with(headers: &HeaderMap, body: &[u8]) -> Entry {
        let names = Names { key: "user:1?a=b", path: "/users/1", tags: "users\nuser:1\n" };
        Entry {
            base: 6,
            route: 3,
            status: StatusCode::NOT_FOUND,
            content: Content::new(names, headers, Bytes::copy_from_slice(body)),
            birth: Timestamp(1234),
            kept: Timestamp(1),
            spans: Lifetime { fresh: 1, while_revalidate: 2, if_error: 3, if_unreachable: 4, must_revalidate: true }
                .into(),
            sharing: Sharing { cookie: false, authorization: true },
            stamp: Stamp::new(Position { id: LogId { ms: 9, seq: 2 }, local: 7 }),
            cost: 300,
            hits: AtomicU32::new(5),
        }
    }
    fn read(record: &[u8]) -> Result<Stored, Unusable> {
        decode(Bytes::copy_from_slice(record), "user:1?a=b", 3, Timestamp(2000))
    }

    #[test]
    fn what_is_written_is_read_back() {
        let was = sample(b"hello");
        let Ok(Stored::Entry(got)) = read(&encode(&was, false)) else { panic!("must decode") };
        assert_eq!(got.stamp.as_of, Position::at(was.stamp.as_of.id), "the local sequence is this process's own");
        assert_eq!((got.key(), got.base, got.route, got.status), (was.key(), was.base, was.route, was.status));
        assert_eq!((got.content.path(), got.content.tags()), (was.content.path(), was.content.tags()));
        assert_eq!((got.content.headers(), got.content.body()), (was.content.headers(), was.content.body()));
        assert_eq!((got.birth, got.spans, got.sharing), (was.birth, was.spans, was.sharing));
        assert_eq!(got.cost, was.cost);
        let ids: Vec<TagId> = got.tag_ids().collect();
        for (kind, name) in [
            (TagKind::Tag, "users"),
            (TagKind::Key, "user:1"),
            (TagKind::Key, "user:1?a=b"),
            (TagKind::Prefix, "/users"),
        ] {
            assert!(ids.contains(&TagId::of(kind, name.as_bytes())), "{name}");
        }
    }

    #[test]
    fn variants_are_read_back() {
        let variants = Variants::from_record("7\naccept,x-b\n\n###accept=a#x-b").unwrap();
        let Ok(Stored::Variants(got)) = decode(encode_variants("k", &variants), "k", 0, Timestamp(0)) else {
            panic!("must decode")
        };
        assert_eq!(*got, variants);
    }

    #[test]
    fn a_body_is_compressed_by_size_and_type_and_read_back() {
        let of = |body: &[u8], kind: &str, coding: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, kind.parse().unwrap());
            if let Some(coding) = coding {
                headers.insert(CONTENT_ENCODING, coding.parse().unwrap());
            }
            let entry = with(&headers, body);
            let record = encode(&entry, true);
            let Stored::Entry(got) = read(&record).unwrap() else { panic!() };
            assert_eq!(got.content.body(), entry.content.body());
            record.len() < encode(&entry, false).len()
        };
        let text = b"{\"name\":\"somebody\",\"age\":42},".repeat(200);
        for kind in ["application/json", "text/html; charset=utf-8", "application/problem+json", "image/svg+xml"] {
            assert!(of(&text, kind, None), "{kind}");
        }
        assert!(!of(&text, "image/png", None) && !of(&text, "application/json", Some("gzip")));
        assert!(!of(&text[..1000], "application/json", None), "too small to pay");
        let noise: Vec<u8> = (0..250u32).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
        assert!(!of(&noise, "text/plain", None), "it does not shrink");
    }

    #[test]
    fn a_record_that_claims_to_grow_beyond_reason_is_refused_before_room_is_made_for_it() {
        let entry = sample(&b"abcdefgh".repeat(1000));
        let good = encode(&entry, true);
        let at = good.windows(4).rposition(|w| w == 8000u32.to_le_bytes()).unwrap();
        for length in [u32::MAX, 7999, 8001, 0] {
            let mut bad = BytesMut::from(&good[..]);
            bad[at..at + 4].copy_from_slice(&length.to_le_bytes());
            assert_eq!(read(&seal(bad)).unwrap_err(), Unusable::Malformed, "{length}");
        }
    }

    #[test]
    fn damaged_foreign_and_misplaced_records_are_told_apart() {
        let good = encode(&sample(b"hello"), false);
        assert_eq!(read(b"").unwrap_err(), Unusable::Foreign);
        assert_eq!(read(b"some other program's value").unwrap_err(), Unusable::Foreign);
        assert_eq!(decode(good.clone(), "user:2", 0, Timestamp(0)).unwrap_err(), Unusable::OtherKey);
        let mut newer = good.to_vec();
        newer[4] = VERSION + 1;
        assert_eq!(read(&newer).unwrap_err(), Unusable::Version(VERSION + 1));
        for at in PREAMBLE..good.len() {
            let mut damaged = good.to_vec();
            damaged[at] ^= 0x40;
            assert_eq!(read(&damaged).unwrap_err(), Unusable::Damaged, "byte {at}");
        }
        for end in PREAMBLE..good.len() {
            assert!(read(&good[..end]).is_err(), "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics_even_under_a_right_checksum(kind in 0u8..4, tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut out = begin(kind, 300);
            put(&mut out, b"user:1?a=b");
            out.put_slice(&tail);
            let _ = read(&seal(out));
        }

        #[test]
        fn any_body_survives(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let Ok(Stored::Entry(got)) = read(&encode(&sample(&body), false)) else { panic!("must decode") };
            prop_assert_eq!(&got.content.body()[..], &body[..]);
        }
    }
}
