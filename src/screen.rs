//! The first look at a request: what is malformed, ambiguous or too large gets no further, and nothing of it goes
//! upstream. Pure; what only the bytes on the wire show is found by [`crate::server::guard`].

use std::borrow::Cow;

use http::header::HOST;
use http::{HeaderMap, Method, Request, Uri, Version};

use crate::admission;
use crate::config::Listen;
use crate::forward;
use crate::noted::{Field, Noted};
use crate::problem::Problem;

/// Refuses what is malformed, ambiguous or too large, and returns the host that was asked for, in lower case.
pub fn screen<'p, B>(
    request: &'p Request<B>,
    noted: Noted,
    ambiguous: bool,
    limits: &Listen,
) -> Result<Cow<'p, str>, Problem> {
    if ambiguous {
        return Err(Problem::Malformed);
    }
    if *request.method() == Method::CONNECT {
        return Err(Problem::MethodNotServed);
    }
    // RFC 9112 section 3.2.3: a bare authority is CONNECT's alone.
    if request.uri().scheme().is_none() && request.uri().authority().is_some() {
        return Err(Problem::Malformed);
    }
    let length = request.uri().path_and_query().map_or(1, |t| t.as_str().len());
    if length > limits.max_uri {
        return Err(Problem::UriTooLong);
    }
    // The library's own limit is that of its buffer, which a head that comes in one piece may exceed.
    if (length + noted.bytes) as u64 > limits.max_header {
        return Err(Problem::HeadTooLarge);
    }
    // Before anything of it goes upstream; one that does not announce its length is cut when it grows too large.
    let announced = || admission::content_length(request.headers());
    if noted.has(Field::ContentLength) && limits.max_body > 0 && announced().is_some_and(|l| l > limits.max_body) {
        return Err(Problem::BodyTooLarge);
    }
    if noted.has(Field::Via) && forward::loops(request.headers()) {
        return Err(Problem::Malformed);
    }
    // RFC 9112 section 6.3: both lengths are an attempt at smuggling.
    if noted.has(Field::TransferEncoding) && noted.has(Field::ContentLength) {
        return Err(Problem::Malformed);
    }
    // RFC 9112 section 3.2: exactly one Host, and the target's authority wins over it.
    let field = match noted.hosts {
        0 => None,
        1 => host(request.headers()),
        _ => return Err(Problem::Malformed),
    };
    if field.is_some_and(|host| what_is_in(host) & OTHER_BYTE != 0) {
        return Err(Problem::Malformed);
    }
    let host = match named(request.uri(), field) {
        Some(host) => host,
        None if request.version() == Version::HTTP_10 => b"",
        None => return Err(Problem::Malformed),
    };
    let kinds = what_is_in(host);
    let host = std::str::from_utf8(host).map_err(|_| Problem::Malformed)?;
    if kinds & (ODD | OTHER_BYTE) != 0 || host.len() > 255 {
        return Err(Problem::Malformed);
    }
    Ok(if kinds & UPPER != 0 { host.to_ascii_lowercase().into() } else { host.into() })
}

/// Its Host, which is the first of the fields from all who heed RFC 9110 section 7.2: found there, nothing is hashed.
fn host(fields: &HeaderMap) -> Option<&[u8]> {
    let first = fields.iter().next().filter(|(name, _)| *name == HOST);
    first.map(|(_, host)| host).or_else(|| fields.get(HOST)).map(|host| host.as_bytes())
}

/// The host that a request names with its target and its Host, as it does.
fn named<'r>(target: &'r Uri, field: Option<&'r [u8]>) -> Option<&'r [u8]> {
    target.authority().map(|authority| authority.as_str().as_bytes()).or(field)
}

/// The host that a request which was screened names, if that is in lower case.
pub fn host_as_it_is<B>(request: &Request<B>) -> &str {
    let field = host(request.headers());
    std::str::from_utf8(named(request.uri(), field).unwrap_or_default()).unwrap_or_default()
}

/// What a byte of a host is, one bit each: a capital, a visible character that no host has, or none of ASCII's.
const KINDS: [u8; 256] = {
    let mut kinds = [OTHER_BYTE; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        kinds[byte as usize] = match byte {
            b'A'..=b'Z' => UPPER,
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'~' | b'%' => 0,
            _ => ODD,
        };
        byte += 1;
    }
    kinds
};
const UPPER: u8 = 1;
const ODD: u8 = 2;
const OTHER_BYTE: u8 = 4;

fn what_is_in(host: &[u8]) -> u8 {
    host.iter().fold(0, |kinds, byte| kinds | KINDS[usize::from(*byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screened(target: &str, version: Version, fields: &[(&'static str, &str)]) -> Result<String, Problem> {
        let mut request = Request::get(target).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let limits = Listen { max_uri: 100, max_header: 1000, max_body: 10, ..Listen::default() };
        screen(&request, Noted::of(request.headers()), false, &limits).map(Cow::into_owned)
    }

    #[test]
    fn the_host_is_the_one_that_was_asked_for_in_lower_case() {
        let host = [("host", "Api.Example:80")];
        assert_eq!(screened("/a", Version::HTTP_11, &host).as_deref(), Ok("api.example:80"));
        assert_eq!(screened("http://other/a", Version::HTTP_11, &host).as_deref(), Ok("other"));
        assert_eq!(screened("/a", Version::HTTP_10, &[]).as_deref(), Ok(""));
        assert_eq!(screened("http://[::1]:80/a", Version::HTTP_2, &[]).as_deref(), Ok("[::1]:80"));
    }

    #[test]
    fn malformed_ambiguous_and_oversized_requests_get_no_further() {
        let long = format!("/{}", "x".repeat(200));
        let wide = "x".repeat(2000);
        for (target, fields, want) in [
            ("/a", vec![], Problem::Malformed),
            ("/a", vec![("host", "a"), ("host", "a")], Problem::Malformed),
            ("/a", vec![("host", "a/b")], Problem::Malformed),
            ("/a", vec![("host", "u@a")], Problem::Malformed),
            ("/a", vec![("host", "a"), ("content-length", "1"), ("transfer-encoding", "chunked")], Problem::Malformed),
            ("/a", vec![("host", "a"), ("content-length", "11")], Problem::BodyTooLarge),
            (&long, vec![("host", "a")], Problem::UriTooLong),
            ("/a", vec![("host", "a"), ("x-wide", &wide)], Problem::HeadTooLarge),
        ] {
            assert_eq!(screened(target, Version::HTTP_11, &fields), Err(want), "{target} {fields:?}");
        }
    }
}
