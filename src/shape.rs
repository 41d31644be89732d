//! What the fields of stored responses have in common, kept once.
//!
//! A map of fields takes a hundred bytes for each, and sharing its values between threads counts references in one
//! cache line. But the responses of a route differ little: the same names in the same order, and values such as
//! `application/json`. That is a [`Shape`], of which a process needs few, as an engine needs few hidden classes for
//! many objects. What is a response's own, such as its Date or ETag, stands beside it ([`crate::content`]).
//!
//! Names and shared values are never freed, so that copying them counts nothing. How much that can become is
//! bounded: a name with many values is one whose values are a response's own.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::header::{
    AGE, CONTENT_LENGTH, CONTENT_LOCATION, DATE, ETAG, EXPIRES, HeaderName, LAST_MODIFIED, LOCATION, SET_COOKIE,
};
use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

use crate::respond::CACHE_STATUS;

/// So many names are known; a response with others has a shape to itself.
const MOST_NAMES: usize = 512;
/// A name with more values than this is one whose values are each response's own.
const MOST_VALUES: usize = 32;
/// Longer names and values, in bytes, are not shared.
const LONGEST: usize = 128;
/// When there are more shapes than this all are forgotten; those in use live on with their entries.
const MOST_SHAPES: usize = 2048;

/// Fields whose values differ from response to response.
const OWN: [HeaderName; 8] =
    [DATE, ETAG, LAST_MODIFIED, EXPIRES, SET_COOKIE, LOCATION, CONTENT_LOCATION, CONTENT_LENGTH];

/// A list of fields with the values that are shared, and places for those that are not.
#[derive(Debug)]
pub struct Shape {
    /// The fields as a response of the cache has them, with Age and Cache-Status; empty where a value is missing.
    map: HeaderMap,
    /// What stands at each place of the map, in its order.
    places: Box<[Place]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The value is here.
    Shared,
    /// Each response has its own.
    Own,
    /// Like `Own`, of a stored Age, which the computed one replaces.
    OwnAge,
    /// Not stored: computed for each answer.
    Age,
    /// The same.
    Status,
}

/// A field by its numbers: the name's, and the value's or [`NO_VALUE`].
type Part = (u16, u16);
const NO_VALUE: u16 = u16::MAX;

#[derive(Default)]
struct Shapes {
    names: HashMap<HeaderName, Known, RandomState>,
    shapes: HashMap<SmallVec<[Part; 12]>, Arc<Shape>, RandomState>,
}

/// What is known of a name.
struct Known {
    number: u16,
    /// It, in memory that is never freed.
    name: HeaderName,
    /// Its values; `None` when each response has its own.
    values: Option<Values>,
}

/// The shared values of a name, with their numbers.
type Values = HashMap<Box<[u8]>, (u16, HeaderValue), RandomState>;

static SHAPES: LazyLock<RwLock<Shapes>> = LazyLock::new(RwLock::default);

impl Shape {
    /// The shape of these fields.
    pub fn of(headers: &HeaderMap) -> Arc<Shape> {
        if let Some(shape) = SHAPES.read().unwrap_or_else(PoisonError::into_inner).find(headers) {
            return shape;
        }
        SHAPES.write().unwrap_or_else(PoisonError::into_inner).learn(headers)
    }

    /// The values of these fields, of which this is the shape, that are not in it.
    pub fn own<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = &'h HeaderValue> {
        let stored = self.places.iter().filter(|p| !matches!(p, Place::Age | Place::Status));
        let own = |(place, value)| matches!(place, &Place::Own | &Place::OwnAge).then_some(value);
        stored.zip(headers.values()).filter_map(own)
    }

    /// The fields with these own values, as they were stored.
    pub fn stored(&self, own: impl IntoIterator<Item = HeaderValue>) -> HeaderMap {
        let (mut own, mut fields) = (own.into_iter(), HeaderMap::with_capacity(self.places.len()));
        for (place, (name, shared)) in self.places.iter().zip(&self.map) {
            let value = match place {
                Place::Shared => Some(shared.clone()),
                Place::Own | Place::OwnAge => own.next(),
                Place::Age | Place::Status => None,
            };
            if let Some(value) = value {
                fields.append(name.clone(), value);
            }
        }
        fields
    }

    /// The fields with these own values, as an answer has them. This is a copy and no search: nothing is hashed.
    pub fn answer(
        &self,
        own: impl IntoIterator<Item = HeaderValue>,
        age: HeaderValue,
        status: HeaderValue,
    ) -> HeaderMap {
        let (mut own, mut age, mut status) = (own.into_iter(), Some(age), Some(status));
        let mut fields = self.map.clone();
        for (place, value) in self.places.iter().zip(fields.values_mut()) {
            let given = match place {
                Place::Shared => continue,
                Place::Own => own.next(),
                Place::OwnAge => own.next().and(age.take()),
                Place::Age => age.take(),
                Place::Status => status.take(),
            };
            if let Some(given) = given {
                *value = given;
            }
        }
        fields
    }

    /// Whether a field of this name is stored.
    pub fn has(&self, name: &HeaderName) -> bool {
        let stored = |place: &Place| !matches!(place, Place::Age | Place::Status);
        self.places.iter().zip(self.map.iter()).any(|(place, (known, _))| stored(place) && known == name)
    }

    fn new(parts: &[(HeaderName, Option<HeaderValue>)]) -> Shape {
        // A mark for each kind of place, since fields of one name stand together in the map, whatever their order was.
        let mark = |text| HeaderValue::from_static(text);
        let mut map = HeaderMap::with_capacity(parts.len() + 2);
        for (name, value) in parts {
            let own = if *name == AGE { "own age" } else { "own" };
            map.append(name.clone(), value.clone().unwrap_or_else(|| mark(own)));
        }
        // A shared value may read like a mark: places are found by position, marks only tell the kinds apart.
        let mut shared = HeaderMap::<bool>::with_capacity(parts.len() + 2);
        for (name, value) in parts {
            shared.append(name.clone(), value.is_some());
        }
        if !map.contains_key(AGE) {
            map.append(AGE, mark("age"));
            shared.append(AGE, false);
        }
        map.append(CACHE_STATUS, mark("status"));
        shared.append(CACHE_STATUS, false);
        let place = |(value, shared): (&HeaderValue, &bool)| match value.as_bytes() {
            _ if *shared => Place::Shared,
            b"own" => Place::Own,
            b"own age" => Place::OwnAge,
            b"age" => Place::Age,
            _ => Place::Status,
        };
        let places = map.values().zip(shared.values()).map(place).collect();
        Shape { map, places }
    }
}

impl Shapes {
    /// The shape of these fields, when all of it is known.
    fn find(&self, headers: &HeaderMap) -> Option<Arc<Shape>> {
        let mut parts = SmallVec::new();
        for (name, value) in headers {
            let known = self.names.get(name)?;
            let number = match &known.values {
                Some(values) if value.len() <= LONGEST => values.get(value.as_bytes())?.0,
                _ => NO_VALUE,
            };
            parts.push((known.number, number));
        }
        self.shapes.get(&parts).cloned()
    }

    fn learn(&mut self, headers: &HeaderMap) -> Arc<Shape> {
        let mut parts: SmallVec<[Part; 12]> = SmallVec::new();
        let mut fields = Vec::with_capacity(headers.len());
        let mut whole = true;
        for (name, value) in headers {
            let Some(known) = self.know(name) else {
                whole = false;
                fields.push((name.clone(), None));
                continue;
            };
            let shared = known.share(value);
            parts.push((known.number, shared.as_ref().map_or(NO_VALUE, |(number, _)| *number)));
            fields.push((known.name.clone(), shared.map(|(_, value)| value)));
        }
        if !whole {
            return Arc::new(Shape::new(&fields));
        }
        if self.shapes.len() >= MOST_SHAPES {
            self.shapes.clear();
        }
        self.shapes.entry(parts).or_insert_with(|| Arc::new(Shape::new(&fields))).clone()
    }

    fn know(&mut self, name: &HeaderName) -> Option<&mut Known> {
        if !self.names.contains_key(name) {
            let number = u16::try_from(self.names.len()).ok()?;
            if self.names.len() >= MOST_NAMES || name.as_str().len() > LONGEST {
                return None;
            }
            let kept = HeaderName::from_static(String::leak(name.as_str().to_owned()));
            let own = OWN.contains(name) || *name == AGE;
            let known = Known { number, name: kept, values: (!own).then(Values::default) };
            self.names.insert(name.clone(), known);
        }
        self.names.get_mut(name)
    }
}

impl Known {
    /// The shared value that is the same as this one, with its number; `None` when it is a response's own.
    fn share(&mut self, value: &HeaderValue) -> Option<(u16, HeaderValue)> {
        if value.len() > LONGEST {
            return None;
        }
        let values = self.values.as_mut()?;
        if let Some(known) = values.get(value.as_bytes()) {
            return Some(known.clone());
        }
        if values.len() >= MOST_VALUES {
            self.values = None;
            return None;
        }
        let kept: &'static [u8] = Vec::leak(value.as_bytes().to_vec());
        let shared = HeaderValue::from_maybe_shared(Bytes::from_static(kept)).ok()?;
        let known = (u16::try_from(values.len()).ok()?, shared);
        values.insert(kept.into(), known.clone());
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::VARY;
    use proptest::prelude::*;

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }
    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), value(v))).fold(
            HeaderMap::new(),
            |mut map, (name, value)| {
                map.append(name, value);
                map
            },
        )
    }
    /// What a map makes of the fields when it goes through a table's shape and back; and as an answer.
    fn through(shapes: &mut Shapes, headers: &HeaderMap) -> (HeaderMap, HeaderMap, Arc<Shape>) {
        let shape = shapes.find(headers).unwrap_or_else(|| shapes.learn(headers));
        let own: Vec<HeaderValue> = shape.own(headers).cloned().collect();
        (shape.stored(own.clone()), shape.answer(own, value("7"), value("asidecar; hit")), shape)
    }
    fn lines(map: &HeaderMap) -> Vec<(String, String)> {
        map.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
    }

    #[test]
    fn responses_that_differ_in_what_is_their_own_share_a_shape() {
        let mut shapes = Shapes::default();
        let of = |etag: &str, date: &str| map(&[("content-type", "text/html"), ("etag", etag), ("date", date)]);
        let (a, answer, first) = through(&mut shapes, &of("\"1\"", "yesterday"));
        let (b, _, second) = through(&mut shapes, &of("\"2\"", "today"));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!((a, b), (of("\"1\"", "yesterday"), of("\"2\"", "today")));
        assert_eq!(
            lines(&answer),
            lines(&map(&[
                ("content-type", "text/html"),
                ("etag", "\"1\""),
                ("date", "yesterday"),
                ("age", "7"),
                ("cache-status", "asidecar; hit"),
            ]))
        );
        let (_, _, other) = through(&mut shapes, &map(&[("content-type", "text/css")]));
        assert!(!Arc::ptr_eq(&first, &other));
    }

    #[test]
    fn a_stored_age_is_replaced_and_another_caches_status_stays_first() {
        let fields = map(&[("age", "3"), ("cache-status", "other; hit"), ("vary", "accept")]);
        let (stored, answer, _) = through(&mut Shapes::default(), &fields);
        assert_eq!(stored, fields);
        let all: Vec<_> = answer.get_all(CACHE_STATUS).iter().collect();
        assert_eq!(all, ["other; hit", "asidecar; hit"]);
        assert_eq!(answer.get_all(AGE).iter().collect::<Vec<_>>(), ["7"]);
    }

    #[test]
    fn what_is_only_in_the_answer_is_not_stored() {
        let of = |fields: &[(&str, &str)]| Shapes::default().learn(&map(fields));
        let plain = of(&[("vary", "accept")]);
        assert!(plain.has(&VARY) && !plain.has(&AGE) && !plain.has(&CACHE_STATUS));
        let aged = of(&[("age", "3"), ("cache-status", "other; hit")]);
        assert!(!aged.has(&VARY) && aged.has(&AGE) && aged.has(&CACHE_STATUS));
    }

    #[test]
    fn a_name_with_many_values_has_no_shared_ones() {
        let mut shapes = Shapes::default();
        for n in 0..1000 {
            let fields = map(&[("x-request-id", &n.to_string()), ("server", "a")]);
            assert_eq!(through(&mut shapes, &fields).0, fields);
        }
        assert!(shapes.shapes.len() <= MOST_VALUES + 1);
        assert!(shapes.names[&HeaderName::from_static("x-request-id")].values.is_none());
        assert_eq!(shapes.names[&HeaderName::from_static("server")].values.as_ref().unwrap().len(), 1);
    }

    #[test]
    fn names_and_shapes_without_end_are_bounded() {
        let mut shapes = Shapes::default();
        for n in 0..2000 {
            let fields = map(&[(&format!("x-{n}"), "1")]);
            assert_eq!(through(&mut shapes, &fields).0, fields);
        }
        assert_eq!(shapes.names.len(), MOST_NAMES);
        for n in 0..3 * MOST_SHAPES {
            let names: Vec<String> = (0..12).filter(|bit| n >> bit & 1 == 1).map(|bit| format!("x-{bit}")).collect();
            let fields = map(&names.iter().map(|name| (name.as_str(), "1")).collect::<Vec<_>>());
            assert_eq!(through(&mut shapes, &fields).0, fields);
            assert!(shapes.shapes.len() <= MOST_SHAPES);
        }
        let long = "v".repeat(1000);
        let fields = map(&[("x-0", &long)]);
        assert_eq!(through(&mut shapes, &fields).0, fields);
    }

    proptest! {
        #[test]
        fn any_fields_come_back_as_they_were(
            fields in prop::collection::vec((0usize..8, prop_oneof![Just("own"), Just("age"), Just("1"), Just("2")]), 0..20),
        ) {
            const NAMES: [&str; 8] = ["date", "etag", "age", "cache-status", "vary", "x-a", "x-b", "set-cookie"];
            let fields: Vec<_> = fields.iter().map(|(n, v)| (NAMES[*n], *v)).collect();
            // Whoever stores it keeps one Age.
            let fields = map(&fields.iter().enumerate()
                .filter(|(at, (n, _))| *n != "age" || fields[..*at].iter().all(|(n, _)| *n != "age"))
                .map(|(_, f)| *f).collect::<Vec<_>>());
            let mut shapes = Shapes::default();
            let (stored, answer, _) = through(&mut shapes, &fields);
            prop_assert_eq!(lines(&stored), lines(&fields));
            let mut expected = fields.clone();
            expected.insert(AGE, value("7"));
            expected.append(CACHE_STATUS, value("asidecar; hit"));
            prop_assert_eq!(&answer, &expected);
            prop_assert_eq!(lines(&through(&mut shapes, &fields).0), lines(&fields), "known by now");
        }
    }
}
