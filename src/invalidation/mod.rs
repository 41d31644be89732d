//! Invalidation: what a message says, and the log that makes it stick.
//!
//! The model, in five sentences. Every invalidation is an entry of one ordered log (a Redis stream, or a
//! counter in this process when there is no Redis). Every instance folds the log into a [`table::Table`]:
//! tag → position of the latest invalidation that named it, and a *horizon* before which nothing is valid. A
//! fill notes its *as-of*: the position this instance had applied before the request went out. An entry is
//! valid while its as-of is not before the horizon nor before any of its tags' positions. So invalidating is
//! O(1) whatever shares the tag, and a fill that began before an invalidation is dead on arrival.
//!
//! * [`Invalidation`] — one message, from whatever source.
//! * [`position`] — log ids and positions.
//! * [`table`] — the pure state machine.
//! * [`log`] — the shared handle the proxy uses; the only way to invalidate anything.

pub mod log;
#[cfg(test)]
mod model;
pub mod position;
pub mod table;

use std::fmt;
use std::hash::{BuildHasher, Hasher};

use serde::{Deserialize, Serialize};

use crate::invalidation::position::LogId;
use crate::words::words;

/// The largest message that is read, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The longest tag, key, path or prefix, in bytes.
pub const MAX_NAME: usize = 16 * 1024;
/// Path prefixes are tracked down to this many segments; a longer prefix purges what shares its first ones.
pub const MAX_PREFIX_SEGMENTS: usize = 16;

/// One invalidation: everything it names becomes invalid (or stale, when `soft`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Invalidation {
    /// Tags, as routes and responses give them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Cache keys; `user:1` covers its query and vary variants too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Exact paths, whatever their query.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Path prefixes, in whole segments: `/users` covers `/users` and `/users/1`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// Everything.
    #[serde(skip_serializing_if = "is_false")]
    pub all: bool,
    /// Makes stale instead of invalid, so that stale-while-revalidate still answers.
    #[serde(skip_serializing_if = "is_false")]
    pub soft: bool,
    /// It is the announcement of a write that is about to be made, and holds only if that has not been said to be
    /// over by then, in milliseconds since the Unix epoch. Instances write it into the log, nobody else may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intent: Option<u64>,
    /// The announced write, by the log id of its announcement, is over: the announcement holds no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<LogId>,
}

fn is_false(b: &bool) -> bool {
    !*b
}

/// Why a message was refused. A refused message changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Larger than [`MAX_MESSAGE`].
    TooLarge(usize),
    /// Not UTF-8.
    NotText,
    /// Begins like JSON and is not a message: the parser's own words.
    Json(String),
    /// Names nothing.
    Empty,
    /// A name is empty, longer than [`MAX_NAME`], or holds control characters.
    BadName(String),
    /// It speaks of a write's beginning or end, which is for instances to say.
    NotYours,
    /// A path or prefix does not begin with `/`, or a prefix ends inside a segment (`/us*`).
    BadPath(String),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::TooLarge(n) => write!(f, "the message has {n} bytes, at most {MAX_MESSAGE} are read"),
            Malformed::NotText => f.write_str("the message is not UTF-8 text"),
            Malformed::Json(e) => write!(f, "the message begins like JSON but is not an invalidation: {e}"),
            Malformed::Empty => {
                f.write_str("the message names nothing: give tags, keys, paths, prefixes or \"all\": true")
            }
            Malformed::BadName(n) => {
                write!(f, "{n:?} can't be a name: 1 to {MAX_NAME} bytes without control characters")
            }
            Malformed::NotYours => f.write_str("\"intent\" and \"done\" are for the instances themselves"),
            Malformed::BadPath(p) => {
                write!(f, "{p:?} is not a path: paths begin with '/', prefixes end at a whole segment")
            }
        }
    }
}

impl std::error::Error for Malformed {}

impl Invalidation {
    /// Everything.
    pub fn all() -> Invalidation {
        Invalidation { all: true, ..Invalidation::default() }
    }

    /// One tag.
    pub fn tag(tag: impl Into<String>) -> Invalidation {
        Invalidation { tags: vec![tag.into()], ..Invalidation::default() }
    }

    /// Reads a message: a JSON object, or any other text, which is one tag or key.
    pub fn parse(message: &[u8]) -> Result<Invalidation, Malformed> {
        let found = Invalidation::parse_logged(message)?;
        let own = found.intent.is_some() || found.done.is_some();
        if own { Err(Malformed::NotYours) } else { Ok(found) }
    }

    /// Reads what stands in the log, which instances write.
    pub fn parse_logged(message: &[u8]) -> Result<Invalidation, Malformed> {
        if message.len() > MAX_MESSAGE {
            return Err(Malformed::TooLarge(message.len()));
        }
        let text = std::str::from_utf8(message).map_err(|_| Malformed::NotText)?.trim();
        let mut found = if text.starts_with('{') {
            serde_json::from_str::<Invalidation>(text).map_err(|e| Malformed::Json(e.to_string()))?
        } else {
            if text.is_empty() {
                return Err(Malformed::Empty);
            }
            Invalidation { tags: vec![text.into()], keys: vec![text.into()], ..Invalidation::default() }
        };
        found.check()?;
        Ok(found)
    }

    /// Refuses what names nothing or names it badly, and normalises prefixes to whole segments.
    pub fn check(&mut self) -> Result<(), Malformed> {
        if self.is_empty() && self.done.is_none() {
            return Err(Malformed::Empty);
        }
        let bad = |n: &&String| n.is_empty() || n.len() > MAX_NAME || n.bytes().any(|b| b < 0x20 || b == 0x7f);
        let names = || self.tags.iter().chain(&self.keys).chain(&self.paths).chain(&self.prefixes);
        if let Some(name) = names().find(bad) {
            return Err(Malformed::BadName(name.chars().take(64).collect()));
        }
        if let Some(path) = self.paths.iter().chain(&self.prefixes).find(|p| !p.starts_with('/')) {
            return Err(Malformed::BadPath(path.clone()));
        }
        for prefix in &mut self.prefixes {
            let whole = prefix.strip_suffix('*').unwrap_or(prefix);
            if whole.len() != prefix.len() && !whole.ends_with('/') {
                return Err(Malformed::BadPath(prefix.clone()));
            }
            let whole = whole.trim_end_matches('/');
            *prefix = if whole.is_empty() { "/".into() } else { whole.into() };
        }
        Ok(())
    }

    /// Whether it names nothing at all.
    pub fn is_empty(&self) -> bool {
        !self.all && self.tags.is_empty() && self.keys.is_empty() && self.paths.is_empty() && self.prefixes.is_empty()
    }

    /// The message as it travels: compact JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{\"all\":true}".into())
    }

    /// The widest scope it has, as the metric's label says it.
    pub fn scope(&self) -> Scope {
        if self.all {
            Scope::All
        } else if !self.prefixes.is_empty() {
            Scope::Prefix
        } else if !self.tags.is_empty() {
            Scope::Tag
        } else if !self.keys.is_empty() {
            Scope::Key
        } else {
            Scope::Path
        }
    }

    /// The ids of everything it names, but for `all`.
    pub fn tag_ids(&self) -> impl Iterator<Item = TagId> + '_ {
        let of = |kind| move |n: &String| TagId::of(kind, n.as_bytes());
        self.tags
            .iter()
            .map(of(TagKind::Tag))
            .chain(self.keys.iter().map(of(TagKind::Key)))
            .chain(self.paths.iter().map(of(TagKind::Path)))
            .chain(self.prefixes.iter().map(|p| prefix_id(p)))
    }
}

words! {
    /// The widest thing an invalidation names.
    Scope {
        /// Everything.
        All => "all",
        /// A path prefix.
        Prefix => "prefix",
        /// A tag.
        Tag => "tag",
        /// A key.
        Key => "key",
        /// A path.
        Path => "path",
    }
}

words! {
    /// Who asked for an invalidation.
    Source {
        /// An unsafe method that went through this proxy.
        Write => "write",
        /// `POST /api/invalidate`.
        Api => "api",
        /// A message on the Pub/Sub channel.
        Channel => "channel",
        /// A write that was announced and never said to be over: its instance died, or was cut off.
        Intent => "intent",
        /// The log: another instance, or somebody who appended to the stream.
        Log => "log",
    }
}

/// What kind of name a tag id stands for, so that the tag `a` and the key `a` differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagKind {
    /// A route's or response's tag.
    Tag = 1,
    /// A cache key.
    Key = 2,
    /// A whole path.
    Path = 3,
    /// A path's leading segments.
    Prefix = 4,
}

/// A tag as the table knows it: 64 bits of a hash. Two names that share an id are invalidated together, which
/// costs a miss and never a stale answer; so no comparison of names is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TagId(pub u64);

impl TagId {
    /// The id of a name of that kind.
    pub fn of(kind: TagKind, name: &[u8]) -> TagId {
        let mut h = foldhash::quality::FixedState::with_seed(0x61_73_69_64_65).build_hasher();
        h.write_u8(kind as u8);
        h.write(name);
        TagId(h.finish())
    }
}

/// The tag id of a normalised prefix; one deeper than [`MAX_PREFIX_SEGMENTS`] is cut to that depth.
fn prefix_id(prefix: &str) -> TagId {
    let end = prefix.match_indices('/').nth(MAX_PREFIX_SEGMENTS).map_or(prefix.len(), |(at, _)| at);
    let cut = &prefix[..end];
    TagId::of(TagKind::Prefix, if cut.is_empty() { b"/" } else { cut.as_bytes() })
}

/// The ids that every entry under `path` carries: the path itself, and each of its leading runs of segments.
pub fn path_ids(path: &str) -> impl Iterator<Item = TagId> + '_ {
    let cuts = memchr::memchr_iter(b'/', path.as_bytes()).skip(1).chain([path.len()]);
    let prefixes = cuts.take(MAX_PREFIX_SEGMENTS).map(|end| &path[..end]);
    [TagId::of(TagKind::Path, path.as_bytes()), TagId::of(TagKind::Prefix, b"/")]
        .into_iter()
        .chain(prefixes.filter(|p| p.len() > 1).map(|p| TagId::of(TagKind::Prefix, p.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(text: &str) -> Invalidation {
        Invalidation::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn plain_text_is_one_tag_or_key() {
        let got = reads(" user:1\n");
        assert_eq!((got.tags, got.keys), (vec!["user:1".to_string()], vec!["user:1".to_string()]));
    }

    #[test]
    fn json_names_each_kind_and_prints_back() {
        let text = r#"{"tags":["a"],"keys":["b"],"paths":["/c"],"prefixes":["/d"],"all":true,"soft":true}"#;
        assert_eq!(reads(text).to_json(), text);
    }

    #[test]
    fn a_prefix_is_normalised_to_whole_segments() {
        assert_eq!(reads(r#"{"prefixes":["/users/*","/a/","/"]}"#).prefixes, ["/users", "/a", "/"]);
        assert!(matches!(Invalidation::parse(br#"{"prefixes":["/us*"]}"#), Err(Malformed::BadPath(_))));
    }

    #[test]
    fn malformed_messages_are_refused_with_a_reason() {
        let long = vec![b'x'; MAX_MESSAGE + 1];
        let name = vec![b'x'; MAX_NAME + 1];
        for (message, want) in [
            (&b""[..], "names nothing"),
            (b"{}", "names nothing"),
            (b"{\"tag\":[\"a\"]}", "unknown field `tag`"),
            (b"{\"tags\":\"a\"}", "invalid type"),
            (b"{\"tags\":[\"a\"]", "EOF"),
            (b"{\"tags\":[\"\"]}", "can't be a name"),
            (b"a\x01b", "can't be a name"),
            (b"\xff\xfe", "not UTF-8"),
            (b"{\"paths\":[\"users\"]}", "not a path"),
            (&long, "at most 65536"),
            (&name, "can't be a name"),
        ] {
            let said = Invalidation::parse(message).unwrap_err().to_string();
            assert!(said.contains(want), "{said:?} should say {want:?}");
        }
    }

    #[test]
    fn a_path_carries_the_ids_of_all_its_prefixes() {
        let ids: Vec<TagId> = path_ids("/users/1/posts").collect();
        for prefix in ["/", "/users", "/users/1", "/users/1/posts"] {
            let named: Vec<TagId> = reads(&format!(r#"{{"prefixes":["{prefix}"]}}"#)).tag_ids().collect();
            assert!(ids.contains(&named[0]), "{prefix}");
        }
        let other: Vec<TagId> = reads(r#"{"prefixes":["/user"]}"#).tag_ids().collect();
        assert!(!ids.contains(&other[0]), "a prefix ends at a segment");
        let path: Vec<TagId> = reads(r#"{"paths":["/users/1/posts"]}"#).tag_ids().collect();
        assert!(ids.contains(&path[0]));
    }

    #[test]
    fn a_prefix_deeper_than_is_tracked_purges_more_never_less() {
        let deep = "/s".repeat(MAX_PREFIX_SEGMENTS + 5);
        let ids: Vec<TagId> = path_ids(&format!("{deep}/leaf")).collect();
        let named: Vec<TagId> = reads(&format!(r#"{{"prefixes":["{deep}"]}}"#)).tag_ids().collect();
        assert!(ids.contains(&named[0]));
    }
}
