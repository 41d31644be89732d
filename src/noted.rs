//! Which of the fields that matter a request has, found in one pass over it. Most requests have few of them, and
//! asking the map for each would hash a name and search for nothing a dozen times.

use http::HeaderMap;

/// A set of fields, and the size of all fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    fields: u32,
    /// How many times Host is there.
    pub hosts: u32,
    /// What all fields take in a head, with their `: ` and line ends, in bytes.
    pub bytes: usize,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A field that decides something about a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each is the field of its name")]
        pub enum Field { $($variant),* }

        impl Field {
            fn named(name: &str) -> Option<Field> {
                match name {
                    $($name => Some(Field::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

fields! {
    Authorization => "authorization",
    CacheControl => "cache-control",
    Connection => "connection",
    ContentLength => "content-length",
    Cookie => "cookie",
    IfMatch => "if-match",
    IfModifiedSince => "if-modified-since",
    IfNoneMatch => "if-none-match",
    IfUnmodifiedSince => "if-unmodified-since",
    Pragma => "pragma",
    Range => "range",
    TransferEncoding => "transfer-encoding",
    Upgrade => "upgrade",
    Via => "via",
}

impl Noted {
    /// What these fields are.
    pub fn of(headers: &HeaderMap) -> Noted {
        let mut noted = Noted::default();
        for (name, value) in headers {
            let name = name.as_str();
            noted.bytes += name.len() + value.len() + 4;
            match Field::named(name) {
                Some(field) => noted.fields |= 1 << field as u8,
                None => noted.hosts += u32::from(name == "host"),
            }
        }
        noted
    }

    /// Whether this field is there.
    pub fn has(self, field: Field) -> bool {
        self.fields & 1 << field as u8 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_noted_and_all_is_measured() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("host", "a"), ("cookie", "a"), ("cookie", "b"), ("host", "b"), ("x-a", "long"), ("via", "")]
        {
            headers.append(name, value.parse().unwrap());
        }
        let noted = Noted::of(&headers);
        assert!(noted.has(Field::Cookie) && noted.has(Field::Via));
        assert!(!noted.has(Field::Range) && !noted.has(Field::Authorization));
        assert_eq!(noted.hosts, 2);
        let head: usize = headers.iter().map(|(n, v)| format!("{n}: {}\r\n", v.to_str().unwrap()).len()).sum();
        assert_eq!(noted.bytes, head);
    }
}
